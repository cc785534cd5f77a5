"""Maximum likelihood in Julia: Optimization.jl searches, and no iteration returns to Python.

For small problems, where a solve takes less than the way through Python's optimiser and torch's graph. Needs the Julia package
OptimizationOptimJL: ``python -m pysciode install optimization``.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from ..arrays.real_values import whole_number
from ..engines import get_engine
from ..engines.base import SolveRequest
from ..engines.julia.calls_from_julia import callable_from_julia
from ..engines.julia.commands import array, where
from ..engines.julia.installation import require_extra
from ..errors import GradientFailed
from ..solving.prepare import choose_sensealg

Likelihood = Literal["normal", "lognormal", "poisson", "negative_binomial"]
"""How an observation scatters around the state ``u``, with a noise parameter ``s``: mean ``u`` and standard deviation ``s``; median
``u`` and standard deviation ``s`` of the logarithm; mean ``u``; mean ``u`` and variance ``u + u**2 / s``."""

Method = Literal["LBFGS", "BFGS", "NelderMead", "NewtonTrustRegion"]
"""Methods of Optim.jl. `NewtonTrustRegion` takes its Hessian by differences of gradients, two solves for each unknown."""


@dataclass(frozen=True, eq=False)
class FittedExperiment:
    """One run of a system and what was observed of it, as flat arrays.

    Attributes
    ----------
    request
        What to solve: the fixed values of `u0` and `p`, the time span, the algorithm, and checked options that name
        ``saveat``. Its `sensealg` is the method of the gradient (None: the default); its `wants` are not used.
    observed
        Shape ``(r, m)``; NaN where nothing was observed.
    columns
        For each of the `m` series the flat index of the state that it observes, from 0.
    u0_index, p_index
        Of each entry of flat ``u0`` and ``p``: 0 where it is fixed, otherwise the number of the unknown, from 1, that takes
        its place.
    noise_index, noise_value
        For each series the number of the unknown, from 1, that is its noise parameter, or 0 and the value. Not used by
        Poisson's likelihood.
    rows
        For each row of `observed` the place of its time in ``saveat``, from 0; None where they are the same times.
    weights
        Factors of the log densities, broadcast to ``(r, m)``; None is 1.
    """

    request: SolveRequest
    observed: np.ndarray
    columns: np.ndarray
    u0_index: np.ndarray
    p_index: np.ndarray
    noise_index: np.ndarray
    noise_value: np.ndarray
    rows: np.ndarray | None = None
    weights: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class OptimizationResult:
    """Where the search ended.

    Attributes
    ----------
    z
        The estimate, without bounds, shape ``(q,)``.
    value
        The negative log likelihood there.
    iterations, evaluations
        Iterations of the optimiser, and evaluations of the objective, each with one solve of every experiment.
    converged
        Whether a tolerance was met.
    retcode
        SciML's: ``"Success"``, ``"MaxIters"``, ``"Failure"`` (the line search found nothing better), ``"Terminated"``.
    trace
        The value at the start and after each iteration.
    """

    z: np.ndarray
    value: float
    iterations: int
    evaluations: int
    converged: bool
    retcode: str
    trace: np.ndarray


def minimize(
    experiments: Sequence[FittedExperiment],
    bounds: Sequence[tuple[float | None, float | None]],
    likelihood: Likelihood,
    start: np.ndarray,
    method: Method = "LBFGS",
    *,
    maxiters: int = 1000,
    gradient_tolerance: float = 1e-5,
    value_tolerance: float = 2.2e-9,
    progress: Callable[[int, float], None] | None = None,
) -> OptimizationResult:
    """Minimise the negative log likelihood, normalisation included, over unknowns without bounds.

    Where a solve fails the objective is infinite, and the search steps back.

    Parameters
    ----------
    experiments
        The data; their sum of log likelihoods is maximised.
    bounds
        For each unknown, lower and upper, None for no bound. As ``torch.distributions.biject_to`` has it, ``x`` is ``z``,
        ``lower + exp(z)``, ``upper - exp(z)`` or ``lower + (upper - lower) / (1 + exp(-z))``.
    likelihood
        The distribution of all observations.
    start
        Where to begin, without bounds: ``z``, shape ``(q,)``.
    method
        The optimiser.
    maxiters
        Iterations at most.
    gradient_tolerance
        Converged when no derivative to ``z`` is larger; for `NelderMead`, when the values at the simplex's corners differ less.
    value_tolerance
        Converged when the value changes relatively less than this, twice in a row.
    progress
        Called with the iteration and the value, at most twenty times a second. What it raises ends the search.

    Raises
    ------
    TypeError, ValueError
        For bad arguments, before Julia is called.
    GradientFailed
        If there is no gradient at the start.
    EngineUnavailable
        If OptimizationOptimJL, or Julia itself, is not installed.
    KeyboardInterrupt
        After Ctrl-C.
    """
    if likelihood not in get_args(Likelihood):
        raise ValueError(f"likelihood must be one of {', '.join(map(repr, get_args(Likelihood)))}, not {likelihood!r}")
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(map(repr, get_args(Method)))}, not {method!r}")
    maxiters = whole_number(maxiters, "maxiters", 1)
    for name, value in (("gradient_tolerance", gradient_tolerance), ("value_tolerance", value_tolerance)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, not {value!r}")
    start = np.array(start, dtype=np.float64)
    if start.ndim != 1 or not start.size or not np.isfinite(start).all():
        raise ValueError(f"start must be a vector of finite numbers, not {start!r}")
    lower, upper = _bounds(bounds, start.size)
    if not experiments:
        raise ValueError("experiments must hold at least one")
    flat = [_Arrays(x, likelihood, start.size) for x in experiments]
    require_extra("optimization", "a fit in Julia")
    engine = get_engine("julia")
    derivatives = method != "NelderMead"
    requests = [_request(x, engine, derivatives) for x in experiments]
    plans = [engine.plan(request) for request in requests]
    z, trace, numbers = np.empty_like(start), np.empty(maxiters + 2), np.empty(4)
    retcode = ctypes.create_string_buffer(32)
    watch = None if progress is None else callable_from_julia(_PROGRESS, progress)
    arguments = {
        "experiments": [{"plan": plan.id, **x.arguments} for plan, x in zip(plans, flat, strict=True)],
        "likelihood": likelihood,
        "lower": array(lower),
        "upper": array(upper),
        "start": array(start),
        "method": method,
        "maxiters": maxiters,
        "gradient_tolerance": float(gradient_tolerance),
        "value_tolerance": float(value_tolerance),
        "progress": 0 if watch is None else ctypes.cast(watch, ctypes.c_void_p).value,
        "out": {
            "z": where(z),
            "trace": where(trace),
            "trace_length": trace.size,
            "numbers": where(numbers),
            "retcode": ctypes.addressof(retcode),
        },
    }
    try:
        count = engine.command("minimize", arguments)
    except GradientFailed as error:
        raise GradientFailed(type(requests[0].sensealg).__name__, error.reason) from error
    value, iterations, evaluations, converged = numbers.tolist()
    return OptimizationResult(z, value, int(iterations), int(evaluations), bool(converged), retcode.value.decode(), trace[:count].copy())


def _bounds(bounds: Sequence[tuple[float | None, float | None]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds, infinite where there is none."""
    if len(bounds) != count:
        raise ValueError(f"bounds must hold a pair for each of the {count} unknowns, not {len(bounds)}")
    lower = np.array([-math.inf if low is None else low for low, _ in bounds], dtype=np.float64)
    upper = np.array([math.inf if high is None else high for _, high in bounds], dtype=np.float64)
    if not (lower < upper).all():
        raise ValueError(f"bounds must be pairs of a lower and a higher number, not {bounds[int(np.argmin(lower < upper))]}")
    return lower, upper


def _request(x: FittedExperiment, engine: Any, derivatives: bool) -> SolveRequest:
    """The request with the derivatives that the search needs."""
    request = x.request
    options = replace(request.options, dense=False, progress=None)
    if not derivatives:
        return replace(request, options=options, sensealg=None, wants=frozenset())
    wants = frozenset(name for name, index in (("u0", x.u0_index), ("p", x.p_index)) if np.any(np.asarray(index) > 0))
    sensealg = choose_sensealg(request.sensealg, request.problem, request.algorithm, engine)
    # Where the noise alone is unknown here, a gradient is asked for all the same: the pullback must be there.
    return replace(request, options=options, sensealg=sensealg, wants=wants or frozenset(("u0",)))


class _Arrays:
    """An experiment's arrays, checked and kept while Julia reads them."""

    def __init__(self, x: FittedExperiment, likelihood: str, unknowns: int) -> None:
        request = x.request
        saveat, dtype = request.options.saveat, request.u0.dtype
        if saveat is None or request.options.save_idxs is not None:
            raise ValueError("the options of a request must name saveat, and not save_idxs")
        observed = np.ascontiguousarray(x.observed, dtype=np.float64)
        if observed.ndim != 2:
            raise ValueError(f"observed must have shape (r, m), not {observed.shape}")
        r, m = observed.shape
        _check_observed(observed, likelihood)
        weights = np.ones((r, m)) if x.weights is None else np.array(np.broadcast_to(x.weights, (r, m)), dtype=np.float64, order="C")
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise ValueError("weights must be finite and not negative")
        rows = np.arange(r) if x.rows is None else x.rows
        if x.rows is None and r != len(saveat):
            raise ValueError(f"observed has {r} rows for {len(saveat)} saved times: name their places in rows")
        noise = np.array(x.noise_value, dtype=np.float64)
        noise_index = _indices(x.noise_index, "noise_index", m, 0, unknowns)
        if noise.shape != (m,) or (likelihood != "poisson" and not (noise[noise_index == 0] > 0).all()):
            raise ValueError(f"noise_value must hold a positive number for each of the {m} series")
        self._kept = {
            "u0": np.ascontiguousarray(request.u0, dtype),
            "p": np.ascontiguousarray(request.p, dtype),
            "u0_index": _indices(x.u0_index, "u0_index", request.u0.size, 0, unknowns),
            "p_index": _indices(x.p_index, "p_index", request.p.size, 0, unknowns),
            "saveat": np.ascontiguousarray(saveat, dtype=np.float64),
            "observed": observed,
            "weights": weights,
            "columns": _indices(x.columns, "columns", m, 0, request.u0.size - 1) + 1,
            "rows": _indices(rows, "rows", r, 0, len(saveat) - 1) + 1,
            "noise_index": noise_index,
            "noise_value": noise,
        }
        self.arguments = {name: array(value) for name, value in self._kept.items()}
        self.arguments |= {"t0": float(request.tspan[0]), "t1": float(request.tspan[1])}


def _indices(given: Any, name: str, length: int, low: int, high: int) -> np.ndarray:
    found = np.asarray(given)
    if found.shape != (length,) or (length and found.dtype.kind not in "iu"):
        raise ValueError(f"{name} must hold {length} integers")
    found = found.astype(np.int64)
    if length and not (low <= found.min() and found.max() <= high):
        raise ValueError(f"{name} must lie between {low} and {high}")
    return found


def _check_observed(observed: np.ndarray, likelihood: str) -> None:
    seen = observed[~np.isnan(observed)]
    if not np.isfinite(seen).all():
        raise ValueError("observed must hold finite numbers, NaN where there is none")
    if likelihood == "lognormal" and not (seen > 0).all():
        raise ValueError("observed must be positive for a log-normal likelihood")
    if likelihood in ("poisson", "negative_binomial") and not ((seen >= 0) & (seen == np.round(seen))).all():
        raise ValueError("observed must be counts, 0, 1, 2, …, for this likelihood")


_PROGRESS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64, ctypes.c_double)
"""Of the iteration and the value; unless it returns 0, the search ends."""
