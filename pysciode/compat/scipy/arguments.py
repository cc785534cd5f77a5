"""The arguments of ``solve_ivp``, checked as SciPy checks them: the same exceptions and warnings, in the same order."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .methods import Method

EPS = np.finfo(float).eps
_CALLER = 3  # frames from a warning to the call of solve_ivp


@dataclass
class Span:
    """Where to integrate, and where to save."""

    start: float
    end: float
    t_eval: np.ndarray | None


@dataclass
class Limits:
    """Tolerances and steps, in this package's terms; `rest` are options for SciML's solve."""

    rtol: float
    atol: float | np.ndarray
    dt: float | None
    dtmin: float | None
    dtmax: float | None
    rest: dict[str, Any]


def span_of(t_span: Any, t_eval: Any) -> Span:
    """Start, end and times to save at.

    Raises
    ------
    ValueError
        If `t_eval` is not one-dimensional, sorted and within `t_span`, or a time is not a number.
    """
    start, end = map(float, t_span)
    if np.isnan(start) or np.isnan(end) or np.isinf(start):
        raise ValueError(f"`t_span` = ({start:g}, {end:g}) must start at a finite time, and end at a number")
    if t_eval is None:
        return Span(start, end, None)
    t_eval = np.asarray(t_eval)
    if t_eval.ndim != 1:
        raise ValueError("`t_eval` must be 1-dimensional.")
    if np.any(t_eval < min(start, end)) or np.any(t_eval > max(start, end)):
        raise ValueError("Values in `t_eval` are not within `t_span`.")
    steps = np.diff(t_eval)
    if (end > start and np.any(steps <= 0)) or (end < start and np.any(steps >= 0)):
        raise ValueError("Values in `t_eval` are not properly sorted.")
    return Span(start, end, t_eval)


def arguments_of(args: Any) -> tuple[Any, ...]:
    """`args` as a tuple.

    Raises
    ------
    TypeError
        If it can't be unpacked.
    """
    if args is None:
        return ()
    try:
        return tuple(args)
    except TypeError as error:
        raise TypeError(f"Supplied 'args' cannot be unpacked. Please supply `args` as a tuple (e.g. `args=({args},)`)") from error


def state_of(y0: Any, method: Method) -> np.ndarray:
    """`y0` as a vector of float64 or complex128.

    Raises
    ------
    ValueError
        If it is not one-dimensional and finite, or complex where the method is for real states.
    """
    y0 = np.asarray(y0)
    is_complex = np.issubdtype(y0.dtype, np.complexfloating)
    if is_complex and method.real_only:
        raise ValueError("`y0` is complex, but the chosen solver does not support integration in a complex domain.")
    y0 = y0.astype(complex if is_complex else float)
    if y0.ndim != 1:
        raise ValueError("`y0` must be 1-dimensional.")
    if not np.isfinite(y0).all():
        raise ValueError("All components of the initial state `y0` must be finite.")
    return y0


def limits_of(options: Mapping[str, Any], method: Method, n: int) -> Limits:
    """Tolerances and step sizes from the options; those that the method does not know are warned of.

    Raises
    ------
    ValueError
        If one of them is out of its range.
    """
    rest: dict[str, Any] = {}
    for name in options:
        if not method.knows(name):
            rest[name] = options[name]
    if rest and method.scipy_name is not None:
        names = ", ".join(f"`{name}`" for name in rest)
        warnings.warn(f"The following arguments have no effect for a chosen solver: {names}.", stacklevel=_CALLER)
        rest = {}
    max_step, min_step = options.get("max_step", np.inf), options.get("min_step", 0.0)
    if max_step <= 0:
        raise ValueError("`max_step` must be positive.")
    if method.knows("min_step") and min_step < 0:
        raise ValueError("`min_step` must be nonnegative.")
    rtol, atol = _tolerances(options.get("rtol", 1e-3), options.get("atol", 1e-6), n)
    return Limits(
        rtol=rtol,
        atol=atol,
        dt=options.get("first_step"),
        dtmin=float(min_step) if method.knows("min_step") and min_step > 0 else None,
        dtmax=float(max_step) if max_step < np.inf else None,
        rest=rest,
    )


def _tolerances(rtol: Any, atol: Any, n: int) -> tuple[float, float | np.ndarray]:
    rtol = np.asarray(rtol, float)
    if np.any(rtol < 100 * EPS):
        warnings.warn(
            f"At least one element of `rtol` is too small. Setting `rtol = np.maximum(rtol, {100 * EPS})`.",
            stacklevel=_CALLER + 1,
        )
        rtol = np.maximum(rtol, 100 * EPS)
    atol = np.asarray(atol, float)
    if atol.ndim > 0 and atol.shape != (n,):
        raise ValueError("`atol` has wrong shape.")
    if np.any(atol < 0):
        raise ValueError("`atol` must be positive.")
    if rtol.ndim > 0 and rtol.shape != (n,):
        raise ValueError("`rtol` has wrong shape.")
    # SciML's relative tolerance is one number: the smallest serves every component.
    return float(rtol.min()), atol if atol.ndim else float(atol)


def check_first_step(first_step: Any, span: Span) -> None:
    """As SciPy does.

    Raises
    ------
    ValueError
        If it is not positive, or longer than the interval.
    """
    if first_step is None:
        return
    if first_step <= 0:
        raise ValueError("`first_step` must be positive.")
    if first_step > abs(span.end - span.start):
        raise ValueError("`first_step` exceeds bounds.")


def check_jacobian(jac: Any, t0: float, y0: np.ndarray, args: tuple[Any, ...]) -> None:
    """The shape of a Jacobian that was given.

    Raises
    ------
    ValueError
        If it is not ``(n, n)``.
    """
    if jac is None:
        return
    matrix: Any = jac(t0, y0.copy(), *args) if callable(jac) else jac
    shape = matrix.shape if hasattr(matrix, "shape") else np.shape(matrix)  # NumPy gives sparse matrices none
    expected = (y0.size, y0.size)
    if shape != expected:
        raise ValueError(f"`jac` is expected to have shape {expected}, but actually has {shape}.")
