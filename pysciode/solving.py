"""From a problem to its solution."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, overload

from .algorithm_fit import check_fit, warn_of_coarse_output
from .algorithms import OWN_FORM, Algorithm, check_algorithm, is_coarse
from .engines import get_engine
from .engines.base import Engine, SolveOptions, SolveRequest
from .errors import SolveFailed
from .latest_call import recall, remember
from .options import ProgressBar, solve_options
from .problems import ODEProblem
from .sensitivity import ForwardDiffSensitivity, ForwardSensitivity, SensitivityAlgorithm, check_sensealg, default_sensealg
from .solution import SUCCESS, Solution
from .torch_compile import opaque

if TYPE_CHECKING:
    from .ensemble_algorithms import EnsembleAlgorithm
    from .ensemble_solution import EnsembleSolution
    from .ensembles import EnsembleProblem
    from .initialization import Initialization

ADVICE = {
    "MaxIters": "raise maxiters, loosen rtol and atol, or if the problem is stiff use a stiff algorithm such as Rodas5P() or FBDF()",
    "DtLessThanMin": "the step became too small: the solution may have a singularity there, or be too stiff for this algorithm "
    "(try Rodas5P() or FBDF())",
    "DtNaN": "the error estimate is not a number: look for a division by zero, a logarithm or a root of something negative in "
    "the model near that time",
    "Unstable": "the states left the range of finite numbers: check the model and its parameters there, or use a stiff algorithm "
    "such as Rodas5P(), or a smaller step",
    "ConvergenceFailure": "Newton's iterations did not converge: try another stiff algorithm (Rodas5P() needs none), a smaller dtmax "
    "or tighter tolerances",
    "InitialFailure": "no consistent initial state was found for the algebraic equations: check u0, or let initializealg=BrownFullBasicInit() "
    "or ShampineCollocationInit() find one",
}
"""What to do about each return code."""


@overload
def solve(
    problem: ODEProblem,
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
def solve(problem: EnsembleProblem, algorithm: Algorithm | str | None = None, **options: Any) -> EnsembleSolution: ...
@opaque
def solve(
    problem: ODEProblem | EnsembleProblem,
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
        What to solve.
    algorithm
        With what: ``Tsit5()``, ``Rodas5P()``, …; None or ``"auto"`` is the engine's default (SciML's, which detects
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
        Steps at most.
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
        How to differentiate; by default chosen from the sizes, see :func:`pysciode.sensitivity.default_sensealg`.
    callback
        Events: a :class:`~pysciode.callbacks.ContinuousCallback`, a
        :class:`~pysciode.callbacks.FunctionCallingCallback` or a list of these. Where a gradient is wanted, events that
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
        For an argument that can't be right; it is named.
    CaptureError
        If the model can't be captured.
    SolveFailed
        If the solver gave up; holds the partial solution.
    EngineUnavailable
        If the engine lacks what was asked for.
    """
    if not isinstance(problem, ODEProblem):
        from .ensembles import EnsembleProblem

        if not isinstance(problem, EnsembleProblem):
            raise TypeError(f"problem must be an ODEProblem or an EnsembleProblem, not {type(problem).__name__}")
        from .ensemble_solving import solve_ensemble

        options = {
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
            "engine": engine,
            **solver_options,
        }
        return solve_ensemble(problem, algorithm, ensemblealg=ensemblealg, throw=throw, progress=progress, options=options)
    if ensemblealg is not None:
        raise TypeError("ensemblealg is for an EnsembleProblem, and problem is none")
    given = (algorithm, sensealg, tstops, rtol, atol, dt, dtmin, dtmax, maxiters, adaptive, save_idxs, dense)
    plain = progress is False and not solver_options and callback is None and internalnorm is None and initializealg is None
    plain = plain and problem.mass_matrix is None
    backend = get_engine(engine)
    known = recall(problem, given, saveat) if plain else None
    bar = None
    if known is not None:
        algorithm, options = known
    else:
        algorithm = check_algorithm(algorithm)
        if algorithm is not None and algorithm.family is not None:
            check_fit(problem, algorithm, dt, adaptive is not False)
        check_sensealg(sensealg)
        bar = ProgressBar(*problem.tspan) if progress is True else progress
        if bar is not False and not callable(bar):
            raise TypeError(f"progress must be True, False or a function of the time, not {progress!r}")
        options = solve_options(
            problem,
            saveat=saveat,
            tstops=tstops,
            rtol=rtol,
            atol=atol,
            dt=dt,
            dtmin=dtmin,
            dtmax=dtmax,
            maxiters=maxiters,
            adaptive=False if algorithm is not None and algorithm.fixed_step else adaptive,
            save_idxs=save_idxs,
            dense=dense,
            progress=bar or None,
            callback=callback,
            internalnorm=internalnorm,
            initializealg=initializealg,
            extra=solver_options,
        )
        if algorithm is not None and is_coarse(algorithm) and options.events and backend.name != "embedded":
            warn_of_coarse_output(problem, algorithm.name, "the search for events reads")
        if plain:
            remember(problem, given, saveat, algorithm, options)
    try:
        solver = _torch_solver() if problem.is_torch else _solve_numpy
        solution = solver(problem, algorithm, options, sensealg, backend, saveat)
    finally:
        if isinstance(bar, ProgressBar):
            bar.close()
    if throw and solution.retcode not in SUCCESS:
        _raise_index_error(problem, solution)
        raise SolveFailed(solution.retcode, solution.t_reached, solution, ADVICE.get(solution.retcode, ""))
    return solution


def _raise_index_error(problem: ODEProblem, solution: Solution) -> None:
    """Where a model reads outside of an array, its right-hand side is NaN, and the solver gives up: say why.

    Raises
    ------
    IndexOutOfRange
        If the model does so where the solver stopped, or just behind.
    """
    from .capture.model import ArrayModel

    if isinstance(problem.model, ArrayModel):
        from .engines.torch_rhs import look_for_index_errors

        t, u = solution.to_numpy()
        look_for_index_errors(problem, t, u)


@cache
def _torch_solver() -> Callable[..., Solution]:
    from .torch_bridge import solve_torch

    return solve_torch


def _solve_numpy(
    problem: ODEProblem,
    algorithm: Algorithm | None,
    options: SolveOptions,
    sensealg: SensitivityAlgorithm | None,
    engine: Engine,
    saveat: Any,
) -> Solution:
    request = SolveRequest(problem, problem.flat_u0(), problem.flat_p(), problem.tspan, algorithm, options)
    raw = engine.solve(request)
    u = raw.u if options.save_idxs is not None else raw.u.reshape(-1, *problem.shape)
    return Solution(problem, raw, u, None, engine.name, algorithm_name(algorithm, raw), None, options.save_idxs)


def algorithm_name(algorithm: Algorithm | None, raw: Any) -> str:
    """The name of what ran."""
    return raw.algorithm or (algorithm.name if algorithm is not None else "auto")


def choose_sensealg(
    sensealg: SensitivityAlgorithm | None, problem: ODEProblem, algorithm: Algorithm | None, engine: Engine
) -> SensitivityAlgorithm:
    """The user's method, or the default.

    Raises
    ------
    ValueError
        If the method can't see the whole model: one that stays in Python, or that the solver takes in parts.
    """
    from .capture.model import CallbackModel

    embedded, in_python = engine.name == "embedded", isinstance(problem.model, CallbackModel)
    in_parts = not embedded and algorithm is not None and algorithm.family in OWN_FORM[problem.kind]
    if sensealg is None:
        if in_parts:
            return ForwardDiffSensitivity()
        on_device = problem.device is not None
        return default_sensealg(problem.n, problem.layout.size, embedded=embedded, in_python=in_python, on_device=on_device)
    if in_parts and not isinstance(sensealg, ForwardDiffSensitivity):
        raise ValueError(
            f"{sensealg.name} needs the first-order system, but {algorithm.name} solves a {type(problem).__name__} in parts: "
            "take ForwardDiffSensitivity(), or an algorithm for first-order systems"
        )
    if problem.mass_matrix is not None and not (sensealg.continuous or isinstance(sensealg, (ForwardDiffSensitivity, ForwardSensitivity))):
        raise ValueError(
            f"{sensealg.name} does not differentiate equations with a mass_matrix: take GaussAdjoint(), InterpolatingAdjoint(), "
            "QuadratureAdjoint() or ForwardDiffSensitivity()"
        )
    if in_python and not embedded and not (sensealg.continuous and sensealg.autojacvec == "generated"):
        # Its numbers carry derivatives, which a call into Python would drop without a word.
        raise ValueError(
            f"{sensealg} can't differentiate a model that stays in Python (capture='callback'): take GaussAdjoint(), "
            "InterpolatingAdjoint(), QuadratureAdjoint() or BacksolveAdjoint(), which use torch's vector-Jacobian products"
        )
    return sensealg
