"""The solution that solvers are held against, with an estimate of its own error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import PysciodeError
from ..methods.algorithms import Algorithm
from ..problems.base import Problem
from ..solving.solution import Solution
from .peers.solver_contestants import EngineSolver, ScipySolver, SolverContestant, SolverTask

MAX_STEPS = 1_000_000

_EXPLICIT = ("Vern9", "TsitPap8", "DP8")
# Newton iterations keep methods from the last digits, so Rosenbrock methods, which need none, come first.
_STIFF = ("Rodas5P", "Rodas5", "FBDF")
_EXPLICIT_SCIPY = ("DOP853", "LSODA")
_STIFF_SCIPY = ("Radau", "LSODA", "BDF")


@dataclass(frozen=True)
class SolutionReference:
    """States of shape ``(k, n)``, how they were made, and their relative error as :func:`solution_error` has it."""

    states: np.ndarray
    words: str
    estimated_error: float | None


def solution_error(states: np.ndarray, reference: np.ndarray) -> float:
    """Largest deviation over times and entries, relative to the largest magnitude of each entry.

    Parameters
    ----------
    states, reference
        Shape ``(k, n)``.
    """
    scale = np.abs(reference).max(0)
    scale[scale == 0] = 1.0
    return float((np.abs(states - reference) / scale).max())


def given_reference(problem: Problem, times: np.ndarray, reference: Any) -> SolutionReference:
    """A user's reference, checked.

    Raises
    ------
    ValueError
        If it has another shape or other times, or is not finite.
    """
    if isinstance(reference, Solution):
        t, u = reference.to_numpy()
        if len(t) != len(times) or not np.allclose(t, times, rtol=1e-12, atol=0):
            raise ValueError("reference was saved at other times than saveat")
    else:
        u = np.asarray(reference.detach() if hasattr(reference, "detach") else reference, np.float64)
    expected = (len(times), *problem.u0.shape)
    if u.shape != expected:
        raise ValueError(f"reference has shape {u.shape}; at these times it must be {expected}")
    if not np.isfinite(u).all():
        raise ValueError("reference must be finite")
    return SolutionReference(np.array(u, np.float64).reshape(len(times), -1), "given", None)


def solve_reference(problem: Problem, times: np.ndarray, engine: str, stiff: bool) -> SolutionReference:
    """Two solvers of high order at a tight tolerance; their difference estimates the error.

    The tolerance is loosened twice where no two of them come to the end.

    Parameters
    ----------
    stiff
        Whether to try stiff solvers first.

    Raises
    ------
    PysciodeError
        If fewer than two solvers came to the end.
    """
    tightest = 1e-13 if problem.dtype == np.float64 else 1e-6
    last: Exception | None = None
    for rtol in (tightest, 10 * tightest, 1000 * tightest):
        for pool in _pools(engine, stiff):
            found: list[tuple[str, np.ndarray]] = []
            for contestant in pool:
                # A thousandth, so that states which stay small are resolved, too.
                task = SolverTask(problem, times, rtol, 1e-3 * rtol, MAX_STEPS, step_on_times=True)
                try:
                    states = np.array(contestant.prepare(task)().states, np.float64)
                except Exception as error:  # SciML's own, Julia's or SciPy's: the next may do
                    last = error
                    if pool[0] is contestant:
                        break  # the first is the one that is trusted
                    continue
                if np.isfinite(states).all():
                    found.append((contestant.solver, states))
                if len(found) == 2:
                    return _checked(found, rtol, pool[0].engine)
    raise PysciodeError(
        "no two solvers of high order came to the end at a tight tolerance, so there is nothing to hold errors against; pass "
        f"reference=… (the last one said: {str(last).splitlines()[0][:120] if last else 'nothing finite'})"
    )


def _pools(engine: str, stiff: bool) -> list[list[SolverContestant]]:
    if engine == "julia":
        pools = [[EngineSolver.of(Algorithm(name), engine) for name in names] for names in (_EXPLICIT, _STIFF)]
    else:
        pools = [[ScipySolver(name, "scipy") for name in names] for names in (_EXPLICIT_SCIPY, _STIFF_SCIPY)]
    return pools[::-1] if stiff else pools


def _checked(found: list[tuple[str, np.ndarray]], rtol: float, engine: str) -> SolutionReference:
    (name, states), (other, check) = found
    error = max(solution_error(check, states), float(np.finfo(np.float64).eps))
    peer = "SciPy's " if engine == "scipy" else ""
    words = f"{peer}{name} at rtol = {rtol:g}; {peer}{other} is off by {error:.1g}"
    return SolutionReference(states, words, error)
