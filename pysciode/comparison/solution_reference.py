"""The solution that solvers are held against, with an estimate of its own error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import PysciodeError
from ..methods.algorithms import Algorithm
from ..problems.ode import ODEProblem
from ..solving.solution import Solution
from .measure.contestants import Contestant, EngineContestant, Task
from .measure.measurement import one_line
from .peers.scipy_solvers import scipy_solver

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
    """Largest deviation over times and entries, relative to the largest magnitude of each entry; shapes are ``(k, n)``."""
    scale = np.abs(reference).max(0)
    scale[scale == 0] = 1.0
    return float((np.abs(states - reference) / scale).max())


def given_reference(problem: ODEProblem, times: np.ndarray, reference: Any) -> SolutionReference:
    """A user's reference; raises ValueError if it has another shape or other times, or is not finite."""
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


def solve_reference(problem: ODEProblem, times: np.ndarray, engine: str, stiff: bool) -> SolutionReference:
    """Two solvers of high order at a tight tolerance; their difference estimates the error.

    The tolerance is loosened twice where no two of them come to the end; stiff solvers are tried first where `stiff`.

    Raises
    ------
    PysciodeError
        If fewer than two solvers came to the end.
    """
    tightest = 1e-13 if problem.dtype == np.float64 else 1e-6
    said = "nothing finite"
    for rtol in (tightest, 10 * tightest, 1000 * tightest):
        for pool in _pools(engine, stiff):
            found: list[tuple[str, np.ndarray]] = []
            for contestant in pool:
                # A thousandth, so that states which stay small are resolved, too.
                task = Task(problem, times, rtol, 1e-3 * rtol, MAX_STEPS, step_on_times=True)
                try:
                    states = contestant.prepare(task).forward().numpy().astype(np.float64).reshape(len(times), -1)
                except Exception as error:  # SciML's own, Julia's or SciPy's: the next may do
                    said = one_line(error)[:120]
                    if pool[0] is contestant:
                        break  # the first is the one that is trusted
                    continue
                if np.isfinite(states).all():
                    peer = "SciPy's " if contestant.engine == "scipy" else ""
                    found.append((f"{peer}{contestant.solver}", states))
                if len(found) == 2:
                    (name, states), (other, check) = found
                    error = max(solution_error(check, states), float(np.finfo(np.float64).eps))
                    return SolutionReference(states, f"{name} at rtol = {rtol:g}; {other} is off by {error:.1g}", error)
    raise PysciodeError(
        "no two solvers of high order came to the end at a tight tolerance, so there is nothing to hold errors against; pass "
        f"reference=… (the last one said: {said})"
    )


def _pools(engine: str, stiff: bool) -> list[list[Contestant]]:
    if engine == "julia":
        pools = [[EngineContestant.of(Algorithm(name)) for name in names] for names in (_EXPLICIT, _STIFF)]
    else:
        pools = [[scipy_solver(name) for name in names] for names in (_EXPLICIT_SCIPY, _STIFF_SCIPY)]
    return pools[::-1] if stiff else pools
