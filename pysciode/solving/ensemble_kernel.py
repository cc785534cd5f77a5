"""Ensembles in one kernel, by the steppers of DiffEqGPU.jl."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.parameters import is_tensor
from ..engines import get_engine
from ..engines.base import SolveOptions, SolveRequest
from ..engines.julia.devices import device_arguments
from ..engines.julia.installation import require_extra
from ..errors import EngineUnavailable
from ..graphs.captured_model import ArrayModel, CapturedModel, ScalarModel
from ..lowering.scalars.static_vectors import depends_on_time, lower_static, operations
from ..methods.algorithms import Algorithm, check_algorithm
from ..methods.ensemble_algorithms import EnsembleGPUKernel
from ..problems.ensemble import EnsembleProblem
from .ensemble_solution import EnsembleSolution
from .options import solve_options
from .work_sharing import processors, share

if TYPE_CHECKING:
    from ..engines.julia.engine import JuliaEngine
    from ..problems.base import Problem

EXPLICIT = ("Tsit5", "Vern7", "Vern9")
IMPLICIT = ("Rosenbrock23", "Rodas4", "Rodas5P", "Kvaerno3", "Kvaerno5")
"""The algorithms that DiffEqGPU has."""

# Their second stage belongs to t + 2γ dt, and is evaluated at t + γ dt (3.15.3): Kvaerno3 was found off by 10⁴ tolerances.
_WRONG_STAGE = ("Kvaerno3", "Kvaerno5")
_MOST_STATES = 20
_MOST_OPERATIONS = 4000
_WAY_OUT = "take EnsembleThreads(), or put all members into one state with a leading axis"
_RETCODES = np.array(["Failure", "Success", "MaxIters", "DtLessThanMin", "Unstable"])
"""By the numbers of julia/ext/PySciODEDiffEqGPUExt.jl."""
_FIRST = 32
"""Members of the first part on the CPU."""

_KEPT = 64
"""Of compiled models, at most."""
_sources: dict[str, int] = {}
"""Handles of what was compiled, by its source, the one used last at the end."""
_lock = threading.Lock()


def solve_in_kernel(
    ensemble: EnsembleProblem,
    algorithm: Any,
    ensemblealg: EnsembleGPUKernel,
    options: dict[str, Any],
    report: Callable[[int], object],
) -> EnsembleSolution:
    """Solve all members in kernels.

    Raises
    ------
    TypeError, ValueError
        For options that the kernels don't support, with an alternative.
    EngineUnavailable
        If DiffEqGPU, or Julia itself, is not installed.
    """
    problem = ensemble.problem
    chosen = _check_algorithm(check_algorithm(algorithm))
    engine = get_engine(options.pop("engine"))
    checked, times = _check_options(problem, options)
    _check_gradients(ensemble, options["saveat"])
    model = _scalar_model(problem)
    if chosen in _WRONG_STAGE and depends_on_time(model):
        raise ValueError(
            f"DiffEqGPU's {chosen} takes one of its stages at a wrong time, and is not accurate where the model depends on the "
            "time, as this one does: take Rodas4() or Rodas5P()"
        )
    from ..engines.julia.engine import JuliaEngine

    if not isinstance(engine, JuliaEngine):
        raise EngineUnavailable("EnsembleGPUKernel")
    require_extra("ensembles", "EnsembleGPUKernel")
    engine.start()
    handle = _handle(engine, lower_static(model, problem.dtype, derivatives=chosen in IMPLICIT), problem.n)
    states, outcomes, reached = _run(engine, handle, ensemble, chosen, checked, times, report)
    reached = np.where(outcomes == 1, problem.tspan[1], reached.astype(np.float64))
    shaped = states.reshape(*states.shape[:2], *problem.shape)
    if checked.save_idxs is not None:
        shaped = states[:, :, checked.save_idxs]
    return EnsembleSolution(ensemble, times, shaped, _RETCODES[outcomes], reached, chosen, ensemblealg, engine.name, checked.save_idxs)


def _check_algorithm(algorithm: Algorithm | None) -> str:
    names = (*EXPLICIT, *IMPLICIT)
    if algorithm is None or algorithm.name not in names:
        given = "default algorithm" if algorithm is None else algorithm.name
        raise ValueError(f"EnsembleGPUKernel has no {given}: it has {', '.join(names)}; EnsembleThreads() takes any algorithm")
    if algorithm.arguments or algorithm.options:
        raise ValueError(f"{algorithm!r}: in EnsembleGPUKernel algorithms have no options")
    return algorithm.name


def _check_options(problem: Problem, given: dict[str, Any]) -> tuple[SolveOptions, np.ndarray]:
    """The options, of which the kernels know a few, and the times to save at."""
    sensealg = given.pop("sensealg")
    known = ("saveat", "rtol", "atol", "dt", "dtmax", "maxiters", "save_idxs")
    absent = {"adaptive": True, "dense": None, "tstops": None, "dtmin": None, "callback": None, "internalnorm": None}
    for name, value in {**given, "sensealg": sensealg}.items():
        if name not in known and value is not absent.get(name) and not (name == "dense" and value is False):
            raise ValueError(f"{name} can't be given with EnsembleGPUKernel: take EnsembleThreads()")
    options = solve_options(problem, **{name: given[name] for name in known}, dense=False)
    if options.saveat is None:
        raise ValueError("saveat must be given with EnsembleGPUKernel")
    if not isinstance(options.atol, float):
        raise ValueError("atol must be one number with EnsembleGPUKernel")
    if problem.mass_matrix is not None:
        raise ValueError("mass_matrix: EnsembleGPUKernel solves explicit equations only; take EnsembleThreads()")
    return options, options.saveat


def _check_gradients(ensemble: EnsembleProblem, saveat: Any) -> None:
    if not ensemble.is_torch:
        return
    import torch

    problem = ensemble.problem
    inputs = (*ensemble.rows(), saveat, problem.span.start_tensor, problem.span.end_tensor)
    if torch.is_grad_enabled() and any(is_tensor(x) and x.requires_grad for x in inputs):
        raise ValueError(
            "no gradient passes through EnsembleGPUKernel, but u0, p, a module's parameters or the times require one: take "
            "EnsembleThreads(), or solve under torch.no_grad()"
        )


def _scalar_model(problem: Problem) -> ScalarModel:
    if problem.n > _MOST_STATES:
        raise ValueError(
            f"EnsembleGPUKernel holds a member's state in the registers of one thread: {_MOST_STATES} entries at most, not "
            f"{problem.n}; {_WAY_OUT}"
        )
    model: CapturedModel | None = problem.model
    if isinstance(model, ArrayModel):
        from ..lowering.scalars.unroll import unroll

        model = unroll(model, _MOST_OPERATIONS)
        if model is None:
            raise ValueError(
                f"EnsembleGPUKernel needs a model of at most {_MOST_OPERATIONS} scalar operations whose indices don't depend on "
                f"the state, which this one is not; {_WAY_OUT}"
            )
    if not isinstance(model, ScalarModel):
        raise ValueError(
            "EnsembleGPUKernel needs a model whose formulas are known: written for NumPy, torch or SymPy, not Julia source or "
            "capture='callback'; take EnsembleThreads()"
        )
    found = operations(model.graph, model.rhs)
    if found > _MOST_OPERATIONS:
        raise ValueError(f"EnsembleGPUKernel needs a model of at most {_MOST_OPERATIONS} scalar operations, not {found}; {_WAY_OUT}")
    return model


def _handle(engine: JuliaEngine, source: str, n: int) -> int:
    with _lock:
        handle = _sources.pop(source, None)
        if handle is None:
            handle = engine.command("static_model", {"n": n}, source)
        _sources[source] = handle
        while len(_sources) > _KEPT:
            engine.release_model(_sources.pop(next(iter(_sources))))
    return handle


def _run(
    engine: JuliaEngine,
    handle: int,
    ensemble: EnsembleProblem,
    algorithm: str,
    options: SolveOptions,
    times: np.ndarray,
    report: Callable[[int], object],
) -> tuple[Any, np.ndarray, np.ndarray]:
    """States ``(N, k, n)``, and for each member the number of its outcome and the time that it reached."""
    problem, count = ensemble.problem, len(ensemble)
    u0, p = ensemble.rows()
    arguments = {
        "model": handle,
        "dtype": problem.dtype.name,
        "algorithm": algorithm,
        "tspan": list(map(float, problem.tspan)),
        "saveat": times,
        "reltol": options.rtol,
        "abstol": options.atol,
        "dt": options.dt,
        "dtmax": options.dtmax,
        "maxiters": options.maxiters,
        "np": problem.layout.size,
    }
    shape = (count, len(times), problem.n)
    device = problem.device
    if device is not None:
        return _on_device(engine, device, arguments, ensemble, options, shape, report)
    in_torch = is_tensor(u0)
    u0, p = (np.ascontiguousarray(x.numpy(force=True) if in_torch else x, problem.dtype) for x in (u0, p))
    u = np.full(shape, np.nan, problem.dtype)
    outcomes, reached = np.zeros(count, np.int32), np.zeros(count, problem.dtype)

    def run(start: int, stop: int) -> None:
        part = slice(start, stop)
        one = slice(0, 1)
        arrays = {
            "u0": u0[part if len(u0) > 1 else one],
            "p": p[part if len(p) > 1 else one],
            "u": u[part],
            "outcomes": outcomes[part],
            "reached": reached[part],
        }
        rows = {"count": stop - start, "u0_rows": len(arrays["u0"]), "p_rows": len(arrays["p"])}
        addresses = {name: x.__array_interface__["data"][0] for name, x in arrays.items()}
        engine.command("solve_members", arguments | rows | addresses)

    share(count, run, nullcontext, processors(), report, first=_FIRST)
    if in_torch:
        import torch

        return torch.from_numpy(u), outcomes, reached
    return u, outcomes, reached


def _on_device(
    engine: JuliaEngine,
    device: str,
    arguments: dict[str, Any],
    ensemble: EnsembleProblem,
    options: SolveOptions,
    shape: tuple[int, ...],
    report: Callable[[int], object],
) -> tuple[Any, np.ndarray, np.ndarray]:
    """One kernel for all members, over torch's own memory."""
    import torch

    problem = ensemble.problem
    u0, p = (x.detach().contiguous() for x in ensemble.rows())
    u = u0.new_full(shape, math.nan)
    outcomes, reached = u0.new_zeros(shape[0], dtype=torch.int32), u0.new_zeros(shape[0])
    arrays = {"u0": u0, "p": p, "u": u, "outcomes": outcomes, "reached": reached}
    rows = {"count": shape[0], "u0_rows": len(u0), "p_rows": len(p)}
    request = SolveRequest(problem, problem.flat_values(), problem.tspan, None, options)
    engine.devices.prepare(request, device)  # waits for torch's part too
    addresses = {name: x.data_ptr() for name, x in arrays.items()}
    engine.command("solve_members", arguments | rows | addresses | device_arguments(device))
    report(shape[0])
    return u, outcomes.numpy(force=True), reached.numpy(force=True)
