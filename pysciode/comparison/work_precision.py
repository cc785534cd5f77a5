"""Solvers side by side on one problem: error against time, without derivatives."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..arrays.real_values import positive
from ..engines import get_engine
from ..errors import PysciodeError
from ..methods.algorithms import Algorithm, check_algorithm
from ..problems.base import Problem, check_problem
from ..solving.options import save_times
from ..solving.solution import Solution
from .measure.contestants import Contestant, EngineContestant, Run, Task
from .measure.grid import check_tolerances
from .measure.measurement import last_row, one_line, repeated
from .measure.process import machine
from .measure.process import time_limit as limited
from .measure.rows import SolveRow, Timing
from .peers.peer_contestants import scipy_solver, solver_peers

if TYPE_CHECKING:
    from .report.reports import SolverReport

_SWITCHING = Algorithm("AutoTsit5", Algorithm("Rosenbrock23"))
JULIA_ALGORITHMS = [*map(Algorithm, ("Tsit5", "Vern7", "Vern9", "Rodas5P", "FBDF")), _SWITCHING]
EMBEDDED_ALGORITHMS = [*map(Algorithm, ("Tsit5", "DP5", "BS3"))]
TOLERANCES = ((1e-3, 1e-6), (1e-5, 1e-8), (1e-7, 1e-10), (1e-9, 1e-12))

_BUDGET = 5.0
"""Seconds after which a solve is not repeated any more, and a failure not tried again."""

_REFERENCE_STEPS = 1_000_000
# Explicit and stiff. Newton iterations keep methods from the last digits, so Rosenbrock methods, which need none, come first.
_OF_SCIML = (("Vern9", "TsitPap8", "DP8"), ("Rodas5P", "Rodas5", "FBDF"))
_OF_SCIPY = (("DOP853", "LSODA"), ("Radau", "LSODA", "BDF"))


def work_precision(
    problem: Problem,
    algorithms: Sequence[Algorithm | str | None] | None = None,
    tolerances: Iterable[float | tuple[float, float]] | None = None,
    *,
    saveat: Any = None,
    reference: Any = None,
    peers: bool = True,
    repeats: int = 10,
    time_limit: float | None = 60.0,
    maxiters: int = 100_000,
    engine: str | None = None,
    progress: bool = True,
) -> SolverReport:
    """Compare solvers on one problem.

    Parameters
    ----------
    problem
        The problem; no gradients are computed.
    algorithms
        The solvers: ``[Tsit5(), Rodas5P()]``; None in the list is SciML's default. By default a few of each kind.
    tolerances
        Pairs ``(rtol, atol)``; a number alone is `rtol`, with ``atol = rtol / 100``. By default (1e-3, 1e-6) to (1e-9, 1e-12).
    saveat
        Times at which solutions are compared, or the step between them; by default 50 evenly spaced.
    reference
        The solution that errors refer to: a :class:`~pysciode.Solution` or an array of shape ``(k, *shape of u0)`` at
        `saveat`. By default two solvers of high order at a tight tolerance, whose difference is the reference's own error.
    peers
        Whether SciPy's methods on the same model in Python, torchdiffeq's solvers and, where it is installed, diffrax's
        take part.
    repeats
        Solves that are timed, after a first one that is timed apart; fewer where these take longer than five seconds.
    time_limit
        Seconds for one solve; None for no limit. A solver that fails after more than five seconds is not tried at tighter
        tolerances.
    maxiters
        The largest number of steps.
    engine
        ``"julia"`` or ``"embedded"``; None is what :func:`pysciode.set_engine` set.
    progress
        Whether to show a bar.

    Returns
    -------
    SolverReport
        A row for each solver and tolerance; one that fails has a row that says how.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.
    PysciodeError
        If no reference solves.
    """
    from .report.reports import SolverReport

    check_problem(problem)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats!r}")
    limit = positive(time_limit, "time_limit")
    engine = get_engine(engine).name
    chosen = _algorithms(algorithms, engine)
    grid = sorted(check_tolerances(tolerances, TOLERANCES), reverse=True)
    times = np.linspace(*problem.tspan, 51)[1:] if saveat is None else save_times(saveat, *problem.tspan)
    if reference is not None:
        known = given_reference(problem, times, reference)
    else:
        known = solve_reference(problem, times, engine, stiff=all(x is not None and x.is_stiff for x in chosen))
    field = [EngineContestant.of(x, engine=engine) for x in chosen] + (solver_peers(chosen) if peers else [])
    rows: list[SolveRow] = []
    with tqdm(total=len(field) * len(grid), disable=not progress, desc="solvers", leave=False, mininterval=0.5) as bar:
        for rtol, atol in grid:
            for i, contestant in enumerate(field):
                bar.set_postfix_str(f"{contestant.engine} {contestant.solver} rtol={rtol:g}")
                row = SolveRow(contestant.solver, contestant.engine, rtol, atol)
                if contestant.skipped:
                    row = replace(row, status="failed", reason=contestant.skipped)
                else:
                    start = time.perf_counter()
                    row = _measure(row, contestant, Task(problem, times, rtol, atol, maxiters), known, repeats, limit)
                    took = time.perf_counter() - start
                    if row.status == "failed" and took > _BUDGET:
                        field[i] = replace(contestant, skipped=f"not tried: failed at rtol = {rtol:g}, after {took:.0f} s")
                rows.append(row)
                bar.update()
    settings = {"saved_times": len(times), "repeats": repeats, "maxiters": maxiters, "reference_error": known.estimated_error}
    return SolverReport(tuple(rows), known.words, repr(problem)[1:-1], settings | machine())


def _algorithms(algorithms: Sequence[Algorithm | str | None] | None, engine: str) -> Sequence[Algorithm | None]:
    if algorithms is None:
        return JULIA_ALGORITHMS if engine == "julia" else EMBEDDED_ALGORITHMS
    if isinstance(algorithms, (str, Algorithm)):
        raise TypeError(f"algorithms must be a list such as [Tsit5(), Rodas5P()], not {algorithms!r}")
    found = [check_algorithm(x) for x in algorithms]
    if not found:
        raise ValueError("algorithms is empty")
    for algorithm in found:
        if algorithm is not None and algorithm.fixed_step:
            raise ValueError(f"algorithms: {algorithm.name} has no step size control, so tolerances mean nothing to it")
    return found


def _measure(row: SolveRow, contestant: Contestant, task: Task, known: Known, repeats: int, limit: float | None) -> SolveRow:
    """Return the row with the contestant's figures, or the reason of its failure."""

    def stages(row: SolveRow) -> Iterator[SolveRow]:
        with limited(limit):
            run = contestant.prepare(task)
            start = time.perf_counter()
            states = run.forward()
            first_call = time.perf_counter() - start
        flat = states.reshape(len(states), -1).numpy()
        if flat.shape != known.states.shape or not np.isfinite(flat).all():
            yield replace(row, status="failed", reason="the solution is not finite", first_call=first_call)
            return
        row = replace(row, error=solution_error(flat, known.states), first_call=first_call)
        row = replace(row, counts=run.forward_counts, steps=run.steps, rejected=run.rejected)
        yield row
        yield replace(row, time=Timing(tuple(repeated(lambda: lap(run), repeats, _BUDGET))))

    def lap(run: Run) -> float:
        start = time.perf_counter()
        run.forward()
        return time.perf_counter() - start

    return last_row(row, stages)


@dataclass(frozen=True)
class Known:
    """The reference solution: states of shape ``(k, n)``, their origin in words, and their own :func:`solution_error`."""

    states: np.ndarray
    words: str
    estimated_error: float | None


def solution_error(states: np.ndarray, reference: np.ndarray) -> float:
    """Largest deviation over times and entries, relative to the largest magnitude of each entry; shapes are ``(k, n)``."""
    scale = np.abs(reference).max(0)
    scale[scale == 0] = 1.0
    return float((np.abs(states - reference) / scale).max())


def given_reference(problem: Problem, times: np.ndarray, reference: Any) -> Known:
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
    return Known(np.array(u, np.float64).reshape(len(times), -1), "given", None)


def solve_reference(problem: Problem, times: np.ndarray, engine: str, stiff: bool) -> Known:
    """Two solvers of high order at a tight tolerance; their difference estimates the error.

    The tolerance is loosened twice where no two of them come to the end, and then a PysciodeError says so; stiff solvers are tried
    first where `stiff`.
    """
    tightest = 1e-13 if problem.dtype == np.float64 else 1e-6
    if engine == "julia":
        pools = [[EngineContestant.of(Algorithm(name)) for name in names] for names in _OF_SCIML]
    else:
        pools = [[scipy_solver(name) for name in names] for names in _OF_SCIPY]
    said = "nothing finite"
    for rtol in (tightest, 10 * tightest, 1000 * tightest):
        for pool in pools[::-1] if stiff else pools:
            found: list[tuple[str, np.ndarray]] = []
            for contestant in pool:
                # A thousandth, so that states which stay small are resolved, too.
                task = Task(problem, times, rtol, 1e-3 * rtol, _REFERENCE_STEPS, step_on_times=True)
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
                    return Known(states, f"{name} at rtol = {rtol:g}; {other} is off by {error:.1g}", error)
    raise PysciodeError(
        "no two solvers of high order came to the end at a tight tolerance, so there is nothing to hold errors against; pass "
        f"reference=… (the last one said: {said})"
    )
