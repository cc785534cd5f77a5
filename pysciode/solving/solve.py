"""From a problem to its solution: gather the options, prepare, run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, overload

from ..arrays.torch_compile import opaque
from ..engines import get_engine
from ..engines.base import Engine
from ..errors import SolveFailed
from ..methods.adjoints import SensitivityAlgorithm
from ..methods.algorithms import Algorithm
from ..problems.base import Problem
from .options import ProgressBar
from .prepare import prepare
from .run import run_numpy
from .solution import ADVICE, SUCCESS, Solution

if TYPE_CHECKING:
    from ..methods.ensemble_algorithms import EnsembleAlgorithm
    from ..methods.initialization import Initialization
    from ..problems.ensemble import EnsembleProblem
    from .ensemble_solution import EnsembleSolution


@overload
def solve(
    problem: Problem,
    algorithm: Algorithm | str | None = None,
    *,
    saveat: Any = None,
    tstops: Any = None,
    rtol: float | None = None,
    atol: Any = None,
    dt: float | None = None,
    dtmin: float | None = None,
    dtmax: float | None = None,
    maxiters: int = 100_000,
    adaptive: bool = True,
    save_idxs: Any = None,
    dense: bool | None = None,
    progress: bool | Callable[[float], None] = False,
    sensealg: SensitivityAlgorithm | None = None,
    callback: Any = None,
    internalnorm: Callable[[Any], float] | None = None,
    initializealg: Initialization | None = None,
    throw: bool = True,
    engine: str | Engine | None = None,
    **solver_options: Any,
) -> Solution: ...
@overload
def solve(
    problem: EnsembleProblem,
    algorithm: Algorithm | str | None = None,
    *,
    ensemblealg: EnsembleAlgorithm | None = None,
    **options: Any,
) -> EnsembleSolution: ...
@opaque
def solve(
    problem: Problem | EnsembleProblem,
    algorithm: Algorithm | str | None = None,
    *,
    ensemblealg: EnsembleAlgorithm | None = None,
    saveat: Any = None,
    tstops: Any = None,
    rtol: float | None = None,
    atol: Any = None,
    dt: float | None = None,
    dtmin: float | None = None,
    dtmax: float | None = None,
    maxiters: int = 100_000,
    adaptive: bool = True,
    save_idxs: Any = None,
    dense: bool | None = None,
    progress: bool | Callable[[float], None] = False,
    sensealg: SensitivityAlgorithm | None = None,
    callback: Any = None,
    internalnorm: Callable[[Any], float] | None = None,
    initializealg: Initialization | None = None,
    throw: bool = True,
    engine: str | Engine | None = None,
    **solver_options: Any,
) -> Solution | EnsembleSolution:
    """Solve a problem, or all members of an ensemble.

    With torch problems the states are differentiable with respect to `u0`, the tensors in `p`, module parameters, and the
    times: ``tspan`` or `saveat` as tensors that require grad. Moving a saved time gives ``⟨∂L/∂uᵢ, f(uᵢ, p, tᵢ)⟩``; moving
    the start, with the saved times fixed, ``-⟨λ(t₀), f(u0, p, t₀)⟩``; moving the end moves a state saved there.

    Parameters
    ----------
    problem
        The problem, or an :class:`~pysciode.EnsembleProblem`.
    algorithm
        The solver: ``Tsit5()``, ``Rodas5P()``, …; None or ``"auto"`` is the engine's default (SciML's, which detects
        stiffness).
    ensemblealg
        How the members of an ensemble are solved: :class:`~pysciode.EnsembleThreads` (the default),
        :class:`~pysciode.EnsembleSerial` or :class:`~pysciode.EnsembleGPUKernel`.
    saveat
        Times to save at, strictly monotone inside the time span, or one number, the step between them; None saves every
        step of the solver, of an ensemble the end alone.
    tstops
        Times that the solver must step on (discontinuities).
    rtol, atol
        Relative and absolute tolerance; `atol` may be an array of the state's shape. By default 1e-6 and 1e-8, in float32
        1e-4 and 1e-6.
    dt
        First step, or with ``adaptive=False`` and for methods without step size control the step; positive.
    dtmin, dtmax
        Limits of the step.
    maxiters
        The largest number of steps.
    adaptive
        Whether the step size is controlled.
    save_idxs
        Entries of the state to save: an index into the flat state, a list of them, or a mask of the state's shape.
    dense
        Whether to keep what ``sol(t)`` needs; by default where `saveat` is None.
    progress
        True shows a bar on stderr; a function is called with the time reached about ten times a second, for an ensemble with
        the number of members solved.
    sensealg
        The sensitivity method; by default chosen from the sizes, see :func:`pysciode.methods.adjoints.default_sensealg`.
    callback
        Events: a :class:`~pysciode.solving.callbacks.ContinuousCallback`, a
        :class:`~pysciode.solving.callbacks.FunctionCallingCallback` or a list of these. Where a gradient is wanted, events that
        end the solve may be given; the time at which they do is a constant to it.
    internalnorm
        ``internalnorm(x)``, a number, of the scaled error in the state's shape, by which a step is accepted where it is
        below 1; by default the root mean square. It stays in Python.
    initializealg
        How the initial values of algebraic equations (a singular `mass_matrix`) are made consistent:
        :class:`~pysciode.BrownFullBasicInit` (the default), :class:`~pysciode.ShampineCollocationInit`,
        :class:`~pysciode.CheckInit` or :class:`~pysciode.NoInit`. The solution starts from the values found.
    throw
        Whether a solve that gives up raises; otherwise its partial solution is returned.
    engine
        ``"auto"``, ``"julia"`` or ``"embedded"``; None is what :func:`pysciode.set_engine` set.
    solver_options
        Further keywords of SciML's ``solve``, passed on.

    Raises
    ------
    TypeError, ValueError
        For an invalid argument; the message names it.
    CaptureError
        If the model can't be captured.
    SolveFailed
        If the solver gave up; holds the partial solution.
    EngineUnavailable
        If the engine does not support what was asked for.
    """
    asked = {
        "saveat": saveat,
        "tstops": tstops,
        "rtol": rtol,
        "atol": atol,
        "dt": dt,
        "dtmin": dtmin,
        "dtmax": dtmax,
        "maxiters": maxiters,
        "adaptive": adaptive,
        "save_idxs": save_idxs,
        "dense": dense,
        "sensealg": sensealg,
        "callback": callback,
        "internalnorm": internalnorm,
        "initializealg": initializealg,
    }
    if not hasattr(problem, "ensemble"):
        raise TypeError(f"problem must be an ODEProblem or an EnsembleProblem, not {type(problem).__name__}")
    if problem.ensemble is True:
        from .ensemble import solve_ensemble

        options = asked | {"engine": engine} | solver_options
        return solve_ensemble(solve, problem, algorithm, ensemblealg=ensemblealg, throw=throw, progress=progress, options=options)
    if ensemblealg is not None:
        raise TypeError("ensemblealg is for an EnsembleProblem, and problem is a single one")
    backend = get_engine(engine)
    bar = ProgressBar(*problem.tspan) if progress is True else progress
    try:
        prepared = prepare(problem, algorithm, backend, bar, asked, solver_options)
        run = _run_with_autograd() if problem.is_torch else run_numpy
        solution = run(problem, *prepared, sensealg, backend, saveat)
    finally:
        if isinstance(bar, ProgressBar):
            bar.close()
    if throw and solution.retcode not in SUCCESS:
        _raise_index_error(problem, solution)
        raise SolveFailed(solution.retcode, solution.t_reached, solution, ADVICE.get(solution.retcode, ""))
    return solution


def _raise_index_error(problem: Problem, solution: Solution) -> None:
    """Raise `IndexOutOfRange` if the solver gave up because the model reads outside of an array, where its right-hand side is NaN.

    Raises
    ------
    IndexOutOfRange
        If the model does so where the solver stopped, or just behind.
    """
    from ..graphs.captured_model import ArrayModel

    if isinstance(problem.model, ArrayModel):
        from ..engines.torch_rhs import look_for_index_errors

        t, u = solution.to_numpy()
        look_for_index_errors(problem, t, u)


@cache
def _run_with_autograd() -> Callable[..., Solution]:
    from .autograd import run_with_autograd  # imports torch

    return run_with_autograd
