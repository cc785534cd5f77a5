"""Sensitivity methods side by side on one's own model and loss."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..arrays.real_values import positive, whole_number
from ..engines import get_engine, julia_is_installed
from ..engines.base import Engine, SolveOptions, SolveRequest
from ..errors import INSTALL_COMMAND
from ..methods.adjoints import SENSITIVITY_ALGORITHMS, SensitivityAlgorithm
from ..problems.base import Problem, check_problem
from ..solving.options import DEFAULT_TOLERANCES, save_times
from .measure import grid
from .measure.blocks import Blocks, differentiable
from .measure.contestants import Contestant, EngineRun, Task
from .measure.losses import Loss, LossFunction, LossNotFinite, sum_of_squares
from .measure.measurement import Effort, Target, measure, one_line, unmeasured
from .measure.process import OutOfTime, machine
from .measure.process import time_limit as limited
from .measure.reference import NoReference, TightSolver, exponential_growth, find_reference, given_reference, reference_solver
from .measure.rows import GradientRow, Reference
from .peers.peer_contestants import diffrax_contestants, embedded_contestants

if TYPE_CHECKING:
    from .report.reports import AdjointReport

TOLERANCES = {"float64": ((1e-4, 1e-6), (1e-6, 1e-8), (1e-8, 1e-10)), "float32": ((1e-3, 1e-5), (1e-4, 1e-6))}
"""Relative and absolute, by the problem's dtype, where the user names none."""


class ComparisonInterrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C; `report` holds the rows measured until then."""

    def __init__(self, report: AdjointReport) -> None:
        self.report = report
        super().__init__("the comparison was interrupted; its rows so far are in .report")


def compare_adjoints(
    problem: Problem,
    loss: Loss | None = None,
    *,
    algorithms: Any = None,
    sensealgs: Any = None,
    vjps: Any = None,
    tolerances: Iterable[float | tuple[float, float]] | None = None,
    saveat: Any = None,
    reference: Any = None,
    peers: bool | Sequence[Contestant] = True,
    repeats: int = 10,
    time_limit: float | None = 60.0,
    maxiters: int = 100_000,
    memory: bool = True,
    progress: bool = True,
    seed: int = 0,
) -> AdjointReport:
    """Gradients of one loss by many methods: their errors, times, evaluations and memory.

    Each method solves the problem, is given the derivative of the loss with respect to the saved states, and pulls it back to
    what requires grad in the problem: `u0`, tensors in `p`, module parameters. Where nothing does, that is `p` (without
    parameters, `u0`). A method that fails gets a row that says so.

    Parameters
    ----------
    problem
        Any problem that `solve` takes, NumPy or torch.
    loss
        ``loss(solution) -> scalar tensor``; ``solution.t`` and ``solution.u`` are tensors, of shapes ``(k,)`` and
        ``(k, *shape of u0)`` (``solution.v`` holds the velocities of a second-order problem). Its direct dependence on
        the parameters is not seen. By default the sum of squares of the saved states.
    algorithms
        Solvers, objects or names. By default one: Tsit5, or where SciML's default solver takes an implicit method Rodas5P, for
        more than 200 states FBDF.
    sensealgs
        Methods, objects or text such as ``"GaussAdjoint"``; by default all of them. Those that can't work here, or by default are
        too expensive for the size of the problem, have a row with the reason. `QuadratureAdjoint` takes the tolerances of the row
        where it names none of its own.
    vjps
        Choices of VJP for the methods that have one: names, or ``"all"``. By default as the methods say: ``"generated"``.
    tolerances
        Pairs ``(rtol, atol)``, or numbers ``rtol`` with ``atol = rtol / 100``. By default 1e-4, 1e-6 and 1e-8, in float32 1e-3
        and 1e-4.
    saveat
        As for `solve`; by default 51 times, equally spaced.
    reference
        A method that makes the reference at a tight tolerance, or the gradient itself, as an array or by block. By default
        `ForwardDiffSensitivity` up to 100 scalars, `GaussAdjoint` above, checked against each other or against extrapolated
        differences of the loss along random directions.
    peers
        Whether torchdiffeq and diffrax, where they are installed, take part; or further contestants.
    repeats, maxiters
        Timed runs after a warm-up, and steps of a solve at most.
    time_limit
        Seconds for a method's first call, and again for its repetitions; None for no limit. A compiler can't be interrupted, so
        a call may take longer, but then counts as over the limit. In other threads than the main one there is no limit.
    memory, progress
        Whether to measure memory, which takes some tenths of a second for each row, and whether to show a bar.
    seed
        Seed of random directions.

    Returns
    -------
    AdjointReport
        Times of first calls are those in this process: what the reference or an earlier row has loaded or compiled is not part
        of them.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.
    CaptureError
        If the model can't be captured.
    ComparisonInterrupted
        A `KeyboardInterrupt` that holds the report so far.
    """
    check_problem(problem)
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be a function of the solution, not {loss!r}")
    effort = Effort(whole_number(repeats, "repeats", 1), positive(time_limit, "time_limit"), memory)
    maxiters = whole_number(maxiters, "maxiters", 1)
    pairs = grid.check_tolerances(tolerances, TOLERANCES[problem.dtype.name])
    times = np.linspace(*problem.tspan, 51) if saveat is None else save_times(saveat, *problem.tspan)
    named, vjps, solvers = grid.check_sensealgs(sensealgs), grid.check_vjps(vjps), grid.check_algorithms(algorithms)

    description, problem = _describe(problem), differentiable(problem)
    function = LossFunction(loss or sum_of_squares, times, problem.velocity is not None)
    blocks = Blocks.of(problem)
    if reference is not None and not isinstance(reference, SensitivityAlgorithm):
        given_reference(blocks, reference)
    if julia_is_installed():
        engine: Engine = get_engine("julia")
        engine.start()  # not part of what the time limit is for
    else:
        engine = get_engine("embedded")
    stiff, warnings = _look(engine, problem, function, maxiters, effort.time_limit)
    solvers = solvers or (grid.default_algorithm(problem, stiff),)
    who = grid.entries(problem, blocks.size, solvers, named, vjps)
    if engine.name != "julia":
        who = [replace(x, skipped=f"Julia is not installed: {INSTALL_COMMAND}") for x in who]
    who += embedded_contestants(problem, solvers) + diffrax_contestants(problem, solvers) if peers is True else peers or []
    called = "sum of squares of the saved states" if loss is None else getattr(loss, "__name__", type(loss).__name__)
    settings = {"loss": called, "states": problem.n, "parameters": problem.layout.size, "differentiated": blocks.size}
    settings |= {"saved_times": len(times), "dtype": problem.dtype.name}
    settings |= {"repeats": repeats, "time_limit": time_limit, "maxiters": maxiters, "seed": seed}
    tight = reference_solver(engine, problem, blocks, function, stiff)
    tightest = min(rtol for rtol, _ in pairs)
    rows: list[GradientRow] = []
    known = growth = None

    def report() -> AdjointReport:
        from .report.reports import AdjointReport

        return AdjointReport(tuple(rows), known, tuple(warnings), description, settings | machine(), stiff, growth)

    try:
        with tqdm(total=len(who) * len(pairs) + 1, disable=not progress, unit="row", leave=False) as bar:
            bar.set_description("reference")
            known, target = _find_reference(tight, reference, tightest, seed, effort.time_limit, warnings)
            with suppress(OutOfTime), limited(effort.time_limit):
                growth, told = exponential_growth(tight, seed)
                warnings += told
            bar.update()
            for row in _measured(who, [Task(problem, times, *x, maxiters) for x in pairs], function, target, effort, bar):
                rows.append(row)
                bar.update()
    except KeyboardInterrupt:
        interrupted = ComparisonInterrupted(report())
        print(interrupted.report, file=sys.stderr)
        raise interrupted from None
    backwards = [name for name, x in SENSITIVITY_ALGORITHMS.items() if x.solves_states_backwards]
    failed = [row for row in rows if row.status == "failed" and row.method in backwards]
    if stiff and failed:
        warnings.append(
            f"the problem is stiff (SciML's default solver takes an implicit method), and {failed[0].method}, which solves the states "
            f"backwards in time, fails on it: {failed[0].reason}"
        )
    return report()


def _find_reference(
    tight: TightSolver, given: Any, tightest: float, seed: int, limit: float | None, warnings: list[str]
) -> tuple[Reference | None, Target | None]:
    """Return the reference, where there is one; its problems are added to `warnings`."""
    try:
        # It is solved a few dozen times, at a tolerance that takes many steps.
        with limited(limit and 5 * limit):
            known, target = find_reference(tight, given, seed)
    except (NoReference, OutOfTime) as error:
        warnings.append(f"there is no reference, so rows have no error: {error}")
        return None, None
    if known.norm == 0:
        warnings.append("the gradient is 0: relative errors mean nothing")
    elif not known.estimated_error <= tightest:
        warnings.append(
            f"the reference itself has an estimated error of {known.estimated_error:.1e}, which is more than the tightest tolerance: "
            "methods whose errors are below it can't be told apart"
        )
    return known, target


def _measured(
    who: Sequence[Contestant], tasks: Sequence[Task], loss: LossFunction, target: Target | None, effort: Effort, bar: tqdm
) -> Iterator[GradientRow]:
    """Yield all rows; a contestant that is unavailable or too slow at one tolerance is not tried at the next."""
    for contestant in who:
        hopeless: GradientRow | None = None
        for task in tasks:
            row = unmeasured(contestant, task)
            bar.set_description(f"{row.solver}, {row.label}, rtol {row.rtol:.0e}")
            if hopeless is not None:
                row = replace(hopeless, rtol=row.rtol, atol=row.atol)
            elif contestant.skipped is not None:
                row = replace(row, status="unavailable", reason=contestant.skipped)
            else:
                row = measure(contestant, task, loss, target, effort)
            if row.status == "unavailable" or (row.reason or "").startswith("over the time limit"):
                hopeless = row
            yield row


def _look(engine: Engine, problem: Problem, loss: LossFunction, maxiters: int, limit: float | None) -> tuple[bool, list[str]]:
    """Whether the problem is stiff, and warnings: a plain solve by the engine's default takes Jacobians only where it finds it stiff.

    In double precision, for which SciML's default solver is compiled ahead of time. A loss that is written wrongly is an error here;
    one that is not finite is the methods' matter.
    """
    rtol, atol = DEFAULT_TOLERANCES[problem.dtype]
    options = SolveOptions(saveat=loss.times, rtol=rtol, atol=atol, maxiters=maxiters)
    problem.model  # captured here, so that an error of the capture comes before anything runs
    values = {name: x.astype(np.float64) for name, x in problem.flat_values().items()}
    run = EngineRun(engine, SolveRequest(problem, values, problem.tspan, None, options))
    warnings = []
    try:
        # Whether the problem is stiff decides about all that follows, so the solver gets time to be compiled.
        with limited(limit and 5 * limit):
            states = run.forward()
    except Exception as error:
        warnings.append(f"a plain solve by the default solver failed: {one_line(error)}")
    else:
        with suppress(LossNotFinite):
            loss(states.to(problem.u0.dtype))
    return bool(run.forward_counts.jacobian), warnings


def _describe(problem: Problem) -> str:
    f, (start, end) = next(iter(problem.functions.values())), problem.tspan
    name = problem.name or (getattr(f, "__name__", type(f).__name__) if callable(f) else "a model")
    return f"{name}: state {tuple(problem.u0.shape)}, {problem.layout.size} parameters, t from {start:g} to {end:g}, {problem.dtype}"
