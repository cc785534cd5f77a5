"""Plain Python and NumPy functions as scalar graphs: the function runs once, on symbols."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from ..errors import CaptureError
from ..graphs.captured_model import ScalarModel
from ..graphs.numpy_protocol import ScalarArray
from ..graphs.scalar_graph import Scalar, ScalarGraph
from ..graphs.user_code import user_line, user_line_of
from .rebind import rebind

NODE_LIMIT = 200_000


_TIME = ("t", "time")


def argument_roles(f: Callable[..., Any]) -> tuple[str, ...]:
    """Which of ``"u"``, ``"p"``, ``"t"`` and ``"du"`` the arguments of `f` are, in order.

    ``(u, p, t)``, or ``(du, u, p, t)`` in place. A function whose first argument is called ``t`` takes ``(t, u)`` or
    ``(t, u, p)``, as SciPy's do; one with a single argument takes the state.

    Raises
    ------
    TypeError
        If there are more arguments than that.
    """
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return ("u", "p", "t")
    required = [x.name for x in parameters if x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD) and x.default is x.empty]
    if any(x.kind == x.VAR_POSITIONAL for x in parameters):
        return ("u", "p", "t")
    match required:
        case [_]:
            return ("u",)
        case [first, second] if first in _TIME or second in _TIME:
            return ("t", "u") if first in _TIME else ("u", "t")
        case [first, _, _]:
            return ("t", "u", "p") if first in _TIME else ("u", "p", "t")
        case [_, _, _, _]:
            return ("du", "u", "p", "t")
    raise TypeError(f"the model takes {len(required)} arguments ({', '.join(required)}); it must be f(u, p, t), or f(du, u, p, t) in place")


def call_model(f: Callable[..., Any], roles: tuple[str, ...], u: Any, p: Any, t: Any, du: Any) -> Any:
    """What `f` returns, or `du` where it fills that instead."""
    given = {"u": u, "p": p, "t": t, "du": du}
    result = f(*(given[role] for role in roles))
    return du if "du" in roles else result


def trace_function(
    f: Callable[..., Any],
    u_shape: tuple[int, ...],
    n_params: int,
    unflatten: Callable[[Any], Any] | None = None,
    *,
    output: tuple[int, ...] | None = None,
    limit: int | None = NODE_LIMIT,
) -> ScalarModel:
    """Run ``f(u, p, t)`` (or ``f(du, u, p, t)``) once on symbols.

    Parameters
    ----------
    u_shape
        The state's own shape; `f` gets `u` in it, and returns (or fills) the derivative in it.
    n_params
        Length of the flat parameter vector.
    unflatten
        Makes the `p` that `f` expects from the flat vector; None passes the vector itself.
    output
        Shape of what `f` returns; None is the state's.
    limit
        Number of operations above which capture gives up; None for none.

    Raises
    ------
    CaptureError
        Where the model needs a value that is not known before it is solved.
    ValueError
        If the result has another shape.
    """
    return trace_roles(rebind(f), argument_roles(f), u_shape, n_params, unflatten, output=output, limit=limit)


def trace_roles(
    f: Callable[..., Any],
    roles: tuple[str, ...],
    u_shape: tuple[int, ...],
    n_params: int,
    unflatten: Callable[[Any], Any] | None = None,
    *,
    output: tuple[int, ...] | None = None,
    limit: int | None = NODE_LIMIT,
) -> ScalarModel:
    """`trace_function` of an `f` that is called as it stands, with arguments of these roles."""
    graph = ScalarGraph(limit)
    graph.where = user_line
    n = prod(u_shape)
    u = [graph.symbol(f"u[{i}]") for i in range(1, n + 1)]
    p = [graph.symbol(f"p[{i}]") for i in range(1, n_params + 1)]
    t = graph.symbol("t")
    state = u[0] if u_shape == () else _array(u).reshape(u_shape)
    flat_p = _array(p)
    parameters = flat_p if unflatten is None else unflatten(flat_p)
    output = u_shape if output is None else output
    du = _array([None] * prod(output)).reshape(output)
    try:
        result = call_model(f, roles, state, parameters, t, du)
    except CaptureError:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise CaptureError(reason, where=user_line_of(error.__traceback__)) from error
    rhs = _entries(graph, result, u_shape, output, in_place="du" in roles)
    graph.limit = graph.where = None
    return ScalarModel(graph, tuple(u), tuple(p), t, rhs)


def _array(entries: Sequence[Any]) -> ScalarArray:
    out = np.empty(len(entries), object)
    out[:] = entries
    return out.view(ScalarArray)


def _reason(error: Exception) -> str | None:
    """Why capture failed, if an exception of the user's code is about our Scalars; None if it isn't."""
    message = str(error)
    if isinstance(error, (TypeError, AttributeError)) and "Scalar" in message:
        return f"{type(error).__name__}: {message}"
    if isinstance(error, (TypeError, ValueError)) and "dtype('O')" in message:
        return f"{type(error).__name__}: {message} (the state is an array of symbols while the model is captured)"
    return None


def _entries(graph: ScalarGraph, result: Any, u_shape: tuple[int, ...], output: tuple[int, ...], in_place: bool) -> tuple[Scalar, ...]:
    """What `f` returned, flat and all of it nodes of `graph`."""
    if result is None:
        raise ValueError("the model returned None: it must return du (or take du as its first argument and fill it)")
    if isinstance(result, dict):
        raise TypeError("the model returned a dict; it must return du, of the state's shape")
    try:
        array = np.array(result, object)
    except ValueError as error:
        raise ValueError(f"the model returned rows of different lengths; the state has shape {u_shape}") from error
    if array.shape != output:
        # (1,) for a scalar state and its like: the same entries in a shape that broadcasts to the same.
        if array.size == prod(output) and tuple(k for k in array.shape if k != 1) == tuple(k for k in output if k != 1):
            array = array.reshape(output)
        elif output != u_shape:
            raise ValueError(f"the function returned {array.size} values; it must return {prod(output)}")
        else:
            raise ValueError(f"the model returned du of shape {array.shape}, but the state has shape {u_shape}")
    out = []
    for index, x in zip(np.ndindex(array.shape), array.flat, strict=True):
        if x is None:
            entry = f"du{list(index)}"
            raise ValueError(f"the model leaves {entry} unset" if in_place else f"the model returned {entry} = None")
        node = graph.lift(x)
        if node is NotImplemented:
            raise TypeError(f"du{list(index)} is a {type(x).__name__}, not a number")
        out.append(graph.as_number(node))
    return tuple(out)
