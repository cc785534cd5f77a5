"""The contestants: every solver with every sensitivity method and every valid choice of VJP."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_args

from ...engines.julia.installation import require_packages
from ...errors import PysciodeError
from ...methods.adjoints import SENSITIVITY_ALGORITHMS, AutoJacVec, InterpolatingAdjoint, SensitivityAlgorithm, check_sensealg
from ...methods.algorithms import STIFF, Algorithm, check_algorithm
from ...problems.base import Problem
from .contestants import Contestant, EngineContestant
from .measurement import one_line

DEFAULT_SENSEALGS = (*(kind() for kind in SENSITIVITY_ALGORITHMS.values()), InterpolatingAdjoint(checkpointing=True))
"""What is compared where the user names no methods."""

FORWARD_LIMIT = 2_000
"""Differentiated scalars above which forward methods are left out, unless they are named."""

DENSE_LIMIT = 500
"""Equations of ForwardSensitivity's system above which an implicit solver, with its dense Jacobian of all of them, takes minutes."""

ROSENBROCK_LIMIT = 200
"""States up to which a Rosenbrock method, which factorises a dense Jacobian in each step, is taken for stiff problems."""

T = TypeVar("T")


def default_algorithm(problem: Problem, stiff: bool) -> Algorithm:
    """The solver where the user names none."""
    return Algorithm("Tsit5" if not stiff else "Rodas5P" if problem.n <= ROSENBROCK_LIMIT else "FBDF")


def check_algorithms(algorithms: Any) -> tuple[Algorithm, ...] | None:
    """The solvers to compare with, objects or names; None for the default."""

    def check(x: object) -> Algorithm:
        found = check_algorithm(x)
        if found is None:
            raise ValueError("algorithms can't hold 'auto' or None: name the solvers, so that the rows can be told apart")
        return found

    found = _each(algorithms, "algorithms", check)
    if found == ():
        raise ValueError("algorithms is empty; there is nothing to compare")
    return found


def check_sensealgs(sensealgs: Any) -> tuple[SensitivityAlgorithm, ...] | None:
    """The methods to compare, objects or text such as ``"InterpolatingAdjoint(checkpointing=True)"``; None for the default."""

    def check(x: object) -> SensitivityAlgorithm:
        if isinstance(x, str):
            return _sensealg(x)
        if not isinstance(x, SensitivityAlgorithm):
            check_sensealg(x)
            raise TypeError("sensealgs holds None; leave it out for the default")
        return x

    return _each(sensealgs, "sensealgs", check)


def _sensealg(text: str) -> SensitivityAlgorithm:
    name, bracket, _ = text.partition("(")
    if name.strip() not in SENSITIVITY_ALGORITHMS:
        raise ValueError(f"sensealgs: {text!r} is no sensitivity method; there are {', '.join(SENSITIVITY_ALGORITHMS)}")
    try:
        call = ast.parse(text if bracket else f"{text}()", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise TypeError("its options have names")
        return SENSITIVITY_ALGORITHMS[name.strip()](**{str(x.arg): ast.literal_eval(x.value) for x in call.keywords})
    except (TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"sensealgs: {text!r}: {error}") from None


def check_vjps(vjps: Any) -> tuple[str, ...] | None:
    """Choices of VJP by name; ``"all"`` is all of them, None leaves each method as it is given."""
    known = get_args(AutoJacVec)

    def check(x: object) -> str:
        if x not in known:
            raise ValueError(f"vjps: there is no {x!r}; there are {', '.join(known)}, or 'all' for all of them")
        return str(x)

    return known if vjps == "all" else _each(vjps, "vjps", check)


def _each(given: Any, name: str, check: Callable[[object], T]) -> tuple[T, ...] | None:
    """Check each of what was given, one or several, and drop repetitions; raise TypeError or ValueError for an invalid one."""
    if given is None:
        return None
    if isinstance(given, (str, Algorithm, SensitivityAlgorithm)):
        given = [given]
    if not isinstance(given, Sequence):
        raise TypeError(f"{name} must be a list, not {given!r}")
    return tuple(dict.fromkeys(map(check, given)))


def check_tolerances(tolerances: Any, default: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Pairs ``(rtol, atol)``; a number is `rtol`, and a hundredth of it `atol`; None is `default`."""
    if tolerances is None:
        return default
    if isinstance(tolerances, (int, float)):
        tolerances = [tolerances]
    try:
        pairs = [x if isinstance(x, (tuple, list)) else (x, x / 100) for x in tolerances]
        found = tuple(dict.fromkeys((float(rtol), float(atol)) for rtol, atol in pairs))
    except (TypeError, ValueError):
        raise TypeError(f"tolerances must be pairs (rtol, atol) or numbers rtol, not {tolerances!r}") from None
    if not found:
        raise ValueError("tolerances is empty; there is nothing to compare")
    for rtol, atol in found:
        if not (0 < rtol < math.inf and 0 <= atol < math.inf):
            raise ValueError(f"tolerances must be positive and finite, not ({rtol:g}, {atol:g})")
    return found


def entries(
    problem: Problem,
    differentiated: int,
    algorithms: Iterable[Algorithm],
    sensealgs: Sequence[SensitivityAlgorithm] | None,
    vjps: Sequence[str] | None,
) -> list[Contestant]:
    """All combinations, those that can't work, or by default are too expensive for so many differentiated scalars, with the reason."""
    found: dict[tuple[object, ...], Contestant] = {}
    for algorithm in algorithms:
        for sensealg in DEFAULT_SENSEALGS if sensealgs is None else sensealgs:
            own = sensealg.options.get("autojacvec")
            for vjp in vjps if vjps and own is not None else (own,):
                contestant = replace(EngineContestant.of(algorithm, sensealg), vjp=vjp)
                try:
                    chosen = sensealg if vjp is None else replace(sensealg, autojacvec=vjp)
                    check_sensealg(chosen)
                    require_packages(chosen.name, chosen.packages)
                    skipped = _too_expensive(problem, differentiated, algorithm, chosen) if sensealgs is None else None
                    contestant = replace(contestant, sensealg=chosen, skipped=skipped)
                except (ValueError, PysciodeError) as error:  # a choice that the method does not have, or what can't work here
                    contestant = replace(contestant, skipped=one_line(error))
                found.setdefault((algorithm, contestant.method, vjp, repr(contestant.options)), contestant)
    return list(found.values())


def _too_expensive(problem: Problem, differentiated: int, algorithm: Algorithm, sensealg: SensitivityAlgorithm) -> str | None:
    scalars = problem.n + problem.layout.size
    equations = problem.n * (1 + differentiated)
    if sensealg.forward and differentiated > FORWARD_LIMIT:
        return f"skipped: {differentiated} derivatives, which forward mode carries one by one"
    if sensealg.forward and not sensealg.through_solver and algorithm.family in STIFF and equations > DENSE_LIMIT:
        return f"skipped: an implicit solver's Jacobian of {equations} equations"
    if sensealg.tape_limit is not None and scalars > sensealg.tape_limit:
        return f"skipped: a tape of the operations of a model with {scalars} states and parameters"
    return None
