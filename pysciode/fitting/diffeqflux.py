"""DiffEqFlux's collocation and multiple shooting, called in Julia: a reference for this package's own, and for those who use them there.

Both need the Julia package DiffEqFlux: ``python -m pysciode install diffeqflux``.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np

from ..arrays.real_values import whole_number
from ..engines import get_engine
from ..engines.base import SolveRequest
from ..engines.julia.commands import array, where
from ..engines.julia.installation import require_extra
from ..errors import JuliaError
from ..methods.algorithms import Algorithm, check_algorithm
from ..problems.base import Problem, check_problem
from ..problems.declarations import FIRST_ORDER
from ..solving.options import solve_options

Kernel = Literal[
    "EpanechnikovKernel",
    "UniformKernel",
    "TriangularKernel",
    "QuarticKernel",
    "TriweightKernel",
    "TricubeKernel",
    "CosineKernel",
    "GaussianKernel",
    "LogisticKernel",
    "SigmoidKernel",
    "SilvermanKernel",
]
"""DiffEqFlux's smoothing kernels: weights of neighbouring data."""

KERNELS: tuple[Kernel, ...] = get_args(Kernel)


def check_smoothing(kernel: object, bandwidth: object) -> None:
    """Refuse unknown kernels and impossible bandwidths.

    Raises
    ------
    ValueError
        With the name of the argument.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, not {kernel!r}")
    if bandwidth is not None and not (isinstance(bandwidth, (int, float)) and 0 < bandwidth < math.inf):
        raise ValueError(f"bandwidth must be a positive number or None, not {bandwidth!r}")


def collocate_data(
    u: np.ndarray, t: np.ndarray, kernel: Kernel = "TriangularKernel", bandwidth: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """DiffEqFlux's ``collocate_data``: states and derivatives smoothed from observations, without any model.

    Local polynomials around each time, linear for the states and quadratic for the derivatives, weighted by a kernel
    (Liang and Wu, "Parameter estimation for differential equation models using a framework of measurement error in
    regression models", J. Am. Stat. Assoc. 103, 2008).

    Parameters
    ----------
    u
        Observations, shape ``(k, n)``, finite.
    t
        Their times, shape ``(k,)``, increasing.
    kernel
        One of :data:`KERNELS`.
    bandwidth
        Width of the kernel as a share of the whole time span; None is DiffEqFlux's default, which falls with `k`.

    Returns
    -------
    tuple
        ``(du, u)``, the derivatives and the smoothed states, each ``(k, n)``.

    Raises
    ------
    TypeError, ValueError
        For bad arguments, and where the bandwidth is too small for the local regressions.
    EngineUnavailable
        If DiffEqFlux, or Julia itself, is not installed.
    """
    u, t = _trajectory(u, t, "u")
    check_smoothing(kernel, bandwidth)
    if bandwidth is None and len(t) < 2:
        raise ValueError("t has one time only, of which no bandwidth can be chosen")
    require_extra("diffeqflux", "collocate_data")
    engine = get_engine("julia")
    engine.start()
    du, smooth = np.empty_like(u), np.empty_like(u)
    arguments = {"data": array(u), "t": array(t), "kernel": kernel, "du": where(du), "u": where(smooth)}
    if bandwidth is not None:
        arguments["bandwidth"] = float(bandwidth)
    try:
        engine.command("collocate", arguments)
    except JuliaError as error:
        # A regression with fewer points than coefficients: found by the determinant, or by the solve.
        if "bandwidth" in str(error) or "SingularException" in str(error):
            raise ValueError(f"bandwidth is too small: {error}") from error
        raise
    return du, smooth


def multiple_shoot(
    problem: Problem,
    observed: np.ndarray,
    t: np.ndarray,
    group_size: int,
    continuity_term: float = 100.0,
    algorithm: Algorithm | str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> float:
    """DiffEqFlux's ``multiple_shoot``: the loss of solves over short groups of observations, with the problem's parameters.

    Each group starts at its first observation and ends where the next one starts. The loss is the sum of squared
    residuals of all groups, and `continuity_term` times the absolute gap between the end of each group and the observation
    where the next one starts. The problem's own ``u0`` and time span are not used.

    Parameters
    ----------
    problem
        The system, of any first-order kind.
    observed
        All states at all times, shape ``(k, n)``, finite.
    t
        Times, shape ``(k,)``, increasing.
    group_size
        Observations in each group, both ends included, from 2 to `k`.
    continuity_term
        Weight of the gaps.
    algorithm, rtol, atol
        As :func:`pysciode.solve` takes them.

    Returns
    -------
    float
        The loss; infinite where a solve fails.

    Raises
    ------
    TypeError, ValueError
        For bad arguments.
    EngineUnavailable
        If DiffEqFlux, or Julia itself, is not installed.
    """
    check_problem(problem)
    if problem.form is not FIRST_ORDER:
        raise ValueError(f"problem must be an ODEProblem of the first order, not a {type(problem).__name__}")
    observed, t = _trajectory(observed, t, "observed")
    if observed.shape[1] != problem.n:
        raise ValueError(f"observed must have shape (k, {problem.n}), a column for each state, not {observed.shape}")
    group_size = whole_number(group_size, "group_size", 2, len(t))
    if not math.isfinite(continuity_term):
        raise ValueError(f"continuity_term must be finite, not {continuity_term}")
    algorithm = check_algorithm(algorithm)
    options = solve_options(problem, rtol=rtol, atol=atol, dense=False)
    require_extra("diffeqflux", "multiple_shoot")
    engine = get_engine("julia")
    u0, p = problem.flat_u0(), problem.flat_p()
    plan = engine.plan(SolveRequest(problem, {"u0": u0, "p": p}, (t[0], t[-1]), algorithm, options))
    data, p, loss = observed.astype(problem.dtype), np.ascontiguousarray(p, problem.dtype), np.empty(1)
    arguments = {
        "plan": plan.id,
        "data": array(data),
        "p": array(p),
        "t": array(t),
        "group_size": group_size,
        "continuity_term": float(continuity_term),
        "loss": where(loss),
    }
    engine.command("multiple_shoot", arguments)
    return float(loss[0])


def _trajectory(u: Any, t: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        u, t = np.ascontiguousarray(u, dtype=np.float64), np.ascontiguousarray(t, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} and t must be arrays of numbers: {error}") from None
    if t.ndim != 1 or t.size == 0 or not np.isfinite(t).all() or not (np.diff(t) > 0).all():
        raise ValueError("t must be one-dimensional, finite and strictly increasing")
    if u.ndim != 2 or len(u) != len(t):
        raise ValueError(f"{name} must have shape ({len(t)}, n), a row for each time, not {u.shape}")
    if not np.isfinite(u).all():
        raise ValueError(f"{name} must be finite")
    return u, t
