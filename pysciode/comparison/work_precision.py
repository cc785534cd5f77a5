"""Solvers side by side on one problem: error against time, without derivatives."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..engines import get_engine
from ..methods.algorithms import Algorithm, check_algorithm
from ..problems.ode import ODEProblem
from ..solving.options import save_times
from .measure.contestants import Contestant, EngineContestant, Run, Task
from .measure.grid import check_time_limit, check_tolerances
from .measure.measurement import last_row, repeated
from .measure.process import machine
from .measure.process import time_limit as limited
from .measure.rows import SolveRow, Timing
from .peers.scipy_solvers import peer_contestants
from .solution_reference import SolutionReference, given_reference, solution_error, solve_reference

if TYPE_CHECKING:
    from .report.reports import SolverReport

JULIA_ALGORITHMS = tuple(map(Algorithm, ("Tsit5", "Vern7", "Vern9", "Rodas5P", "FBDF"))) + (
    Algorithm("AutoTsit5", Algorithm("Rosenbrock23")),
)
EMBEDDED_ALGORITHMS = tuple(map(Algorithm, ("Tsit5", "DP5", "BS3")))
TOLERANCES = ((1e-3, 1e-6), (1e-5, 1e-8), (1e-7, 1e-10), (1e-9, 1e-12))

_BUDGET = 5.0
"""Seconds after which a solve is not repeated any more, and a failure not tried again."""


def work_precision(
    problem: ODEProblem,
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
        What to solve; gradients that its tensors ask for are left out.
    algorithms
        With what: ``[Tsit5(), Rodas5P()]``; None in the list is SciML's default. By default a few of each kind.
    tolerances
        Pairs ``(rtol, atol)``; a number alone is `rtol`, with ``atol = rtol / 100``. By default (1e-3, 1e-6) to (1e-9, 1e-12).
    saveat
        Times at which solutions are compared, or the step between them; by default 50 evenly spaced.
    reference
        A solution to hold errors against: a :class:`~pysciode.Solution` or an array of shape ``(k, *shape of u0)`` at
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
        Steps at most.
    engine
        ``"julia"`` or ``"embedded"``; None is what :func:`pysciode.set_engine` set.
    progress
        Whether to show a bar on stderr.

    Returns
    -------
    SolverReport
        A row for each solver and tolerance; one that fails has a row that says how.

    Raises
    ------
    TypeError, ValueError
        For an argument that can't be right.
    PysciodeError
        If no reference can be had.
    """
    from .report.reports import SolverReport

    if not isinstance(problem, ODEProblem):
        raise TypeError(f"problem must be an ODEProblem, not {type(problem).__name__}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats!r}")
    limit = check_time_limit(time_limit)
    engine = get_engine(engine).name
    chosen = _algorithms(algorithms, engine)
    grid = sorted(check_tolerances(tolerances, TOLERANCES), reverse=True)
    times = np.linspace(*problem.tspan, 51)[1:] if saveat is None else save_times(saveat, *problem.tspan)
    if reference is not None:
        known = given_reference(problem, times, reference)
    else:
        known = solve_reference(problem, times, engine, stiff=all(x is not None and x.is_stiff for x in chosen))
    field = [EngineContestant.of(x, engine=engine) for x in chosen] + (peer_contestants(chosen) if peers else [])
    rows: list[SolveRow] = []
    given_up: dict[int, str] = {}
    with tqdm(total=len(field) * len(grid), disable=not progress, desc="solvers", leave=False, mininterval=0.5) as bar:
        for rtol, atol in grid:
            for i, contestant in enumerate(field):
                bar.set_postfix_str(f"{contestant.engine} {contestant.solver} rtol={rtol:g}")
                row = SolveRow(contestant.solver, contestant.engine, rtol, atol)
                if i in given_up:
                    rows.append(replace(row, status="failed", reason=given_up[i]))
                else:
                    start = time.perf_counter()
                    rows.append(_measure(row, contestant, Task(problem, times, rtol, atol, maxiters), known, repeats, limit))
                    took = time.perf_counter() - start
                    if rows[-1].status == "failed" and took > _BUDGET:
                        given_up[i] = f"not tried: failed at rtol = {rtol:g}, after {took:.0f} s"
                bar.update()
    settings = {"saved_times": len(times), "repeats": repeats, "maxiters": maxiters, "reference_error": known.estimated_error}
    return SolverReport(tuple(rows), known.words, repr(problem)[1:-1], settings | machine())


def _algorithms(algorithms: Sequence[Algorithm | str | None] | None, engine: str) -> list[Algorithm | None]:
    if algorithms is None:
        return list(JULIA_ALGORITHMS if engine == "julia" else EMBEDDED_ALGORITHMS)
    if isinstance(algorithms, (str, Algorithm)):
        raise TypeError(f"algorithms must be a list such as [Tsit5(), Rodas5P()], not {algorithms!r}")
    found = [check_algorithm(x) for x in algorithms]
    if not found:
        raise ValueError("algorithms is empty")
    for algorithm in found:
        if algorithm is not None and algorithm.fixed_step:
            raise ValueError(f"algorithms: {algorithm.name} has no step size control, so tolerances mean nothing to it")
    return found


def _measure(row: SolveRow, contestant: Contestant, task: Task, known: SolutionReference, repeats: int, limit: float | None) -> SolveRow:
    """The row, with what the contestant's solve took or how it failed."""

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
        yield replace(row, time=Timing(tuple(repeated(lambda: _lap(run), repeats, _BUDGET))))

    return last_row(row, stages)


def _lap(run: Run) -> float:
    start = time.perf_counter()
    run.forward()
    return time.perf_counter() - start
