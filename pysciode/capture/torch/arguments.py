"""Which argument of a torch model is the state, which the time, which the parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ...graphs.node_source import name_of

_TIME_NAMES = frozenset({"t", "time", "s", "tau", "ts"})

_SURELY_TIME = frozenset({"t", "time"})

_STATE_NAMES = frozenset({"u", "y", "x", "h", "z", "q", "w", "state", "states", "hidden", "input", "inputs", "u0", "y0", "x0"})

_PARAMETER_NAMES = frozenset({"p", "ps", "params", "parameters", "theta", "args", "k"})


def infer_signature(f: Callable[..., Any]) -> tuple[str, ...]:
    """Which of ``"u"``, ``"p"``, ``"t"`` and ``"du"`` the positional arguments of `f` are, in order.

    Names decide (``t``, ``time``; ``u``, ``y``, ``x``, ``h``, ``z``, ``state``; ``p``, ``params``, ``theta``, ``args``); three arguments
    of other names are SciML's ``(u, p, t)``, four are ``(du, u, p, t)``, one is the state.

    Raises
    ------
    TypeError
        If names and number leave more than one reading.
    """
    target = f.forward if isinstance(f, torch.nn.Module) else f
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError) as error:
        schema = getattr(target, "schema", None)  # of what torch.jit.trace made
        if schema is None:
            raise TypeError(f"can't read the arguments of {name_of(f)}: {error}; wrap it in a function of u, p and t") from error
        parameters = [inspect.Parameter(x.name, inspect.Parameter.POSITIONAL_ONLY) for x in schema.arguments[1:]]
    positional = [q for q in parameters if q.kind in (q.POSITIONAL_ONLY, q.POSITIONAL_OR_KEYWORD) and q.default is q.empty]
    given = [q.name for q in positional]
    names = [name.lower() for name in given]
    if not names and any(q.kind is q.VAR_POSITIONAL for q in parameters):
        return ("u",) if isinstance(f, torch.nn.Module) else ("u", "p", "t")
    roles = [_role(name) for name in names]
    if roles.count("t") > 1 and "u" not in roles and sum(name in _SURELY_TIME for name in given) == 1:
        # Beside `t`, an `S`, `s` or `T` is something else.
        roles = ["t" if name in _SURELY_TIME else None if role == "t" else role for name, role in zip(given, roles, strict=True)]
    if len(names) == 1:
        return ("u",)
    if len(set(roles)) == len(roles) and None not in roles and "u" in roles:
        return tuple(roles)  # type: ignore[arg-type]
    if len(names) == 2 and roles.count(None) == 1 and "t" in roles:
        return tuple(role or "u" for role in roles)
    if len(names) == 3:
        if roles.count(None) == 1:
            missing = ({"u", "p", "t"} - set(roles)).pop() if len(set(roles)) == 3 else None
            if missing:
                return tuple(role or missing for role in roles)
        if roles[0] != "t":
            return ("u", "p", "t")
    if len(names) == 4:
        return ("du", "u", "p", "t")
    raise TypeError(
        f"{name_of(f)}({', '.join(given)}): can't tell the state from the time and the parameters; "
        "name them u, p and t, or wrap it in a function of these"
    )


def _role(name: str) -> str | None:
    if name in _TIME_NAMES:
        return "t"
    if name in _PARAMETER_NAMES:
        return "p"
    if name in ("du", "dy", "dx", "out"):
        return "du"
    return "u" if name in _STATE_NAMES else None
