"""Options of a solve: checked, and brought into the engines' form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..arrays.real_values import positive, real_array, real_number, whole_number
from ..engines.base import SolveOptions
from ..methods.initialization import check_initialization
from ..problems.base import Problem
from .callbacks import ContinuousCallback, FunctionCallingCallback, check_callbacks, on_flat_states

DEFAULT_TOLERANCES = {np.dtype(np.float64): (1e-6, 1e-8), np.dtype(np.float32): (1e-4, 1e-6)}
"""Relative and absolute, by the state's dtype."""

_MOST_TIMES = 1e9
_MOST_STEPS = 2**63 - 1


def save_times(saveat: Any, start: float, end: float) -> np.ndarray:
    """Times to save at as a float64 array; a number is a step, after SciML: the end is saved too.

    Raises
    ------
    TypeError, ValueError
        If they are not finite, strictly monotone in the direction of the time span and inside it.
    """
    direction = 1.0 if end > start else -1.0
    times = real_array(saveat, "saveat")
    if times.ndim == 0:
        return _steps(real_number(saveat, "saveat"), start, end, direction)
    return _times(times, start, end, direction, "saveat", _rounding(saveat))


def _rounding(x: Any) -> float:
    """Relative rounding error of times given in another precision than float64."""
    return 1e-6 if "float32" in str(getattr(x, "dtype", "")) else 1e-14


def _steps(step: float, start: float, end: float, direction: float) -> np.ndarray:
    if not (step > 0 and math.isfinite(step)):
        raise ValueError(f"saveat = {step:g}: a step must be positive and finite")
    length = abs(end - start)
    if length / step > _MOST_TIMES:
        raise ValueError(f"saveat = {step:g}: the time span would have {length / step:.3g} steps of this length")
    if step <= math.ulp(max(abs(start), abs(end))):
        raise ValueError(f"saveat = {step:g}: times in ({start:g}, {end:g}) can't lie so close to one another")
    count = math.floor(length / step * (1 + 1e-12))
    times = start + direction * step * np.arange(count + 1)
    if abs(times[-1] - end) <= 1e-9 * step:
        times[-1] = end
        return times
    return np.append(times, end)


def _times(times: np.ndarray, start: float, end: float, direction: float, name: str, rounding: float) -> np.ndarray:
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"{name} has shape {times.shape}; it must be one-dimensional and not empty")
    # Comparisons with NaN are False, so this finds it too.
    later, earlier = times[1:], times[:-1]
    if not (later > earlier if direction > 0 else later < earlier).all() or not np.isfinite(times[[0, -1]]).all():
        if not np.isfinite(times).all():
            raise ValueError(f"{name} must be finite, but holds {times[~np.isfinite(times)][0]}")
        order = "increase" if direction > 0 else "decrease"
        raise ValueError(f"{name} must strictly {order}, as the time span does")
    low, high = (start, end) if direction > 0 else (end, start)
    first, last = (times[0], times[-1]) if direction > 0 else (times[-1], times[0])
    if first < low or last > high:
        slack = rounding * max(abs(low), abs(high))
        if first < low - slack or last > high + slack:
            outside = first if first < low - slack else last
            raise ValueError(f"{name} holds {outside:g}, outside tspan = ({start:g}, {end:g})")
        times = np.clip(times, low, high)
    return times


def check_fixed_step(dt: float, start: float, end: float) -> None:
    """Refuse a fixed step that does not move the time.

    Raises
    ------
    ValueError
        If it doesn't.
    """
    if dt <= math.ulp(max(abs(start), abs(end))):
        raise ValueError(f"dt = {dt:g}: a fixed step must be longer than the spacing of numbers between {start:g} and {end:g}")


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def _tolerance(value: Any, name: str, default: float, problem: Problem) -> Any:
    if value is None:
        return default
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, not {value!r}")
        return float(value)
    array = real_array(value, name)
    if array.ndim == 0:
        return _tolerance(float(array), name, default, problem)
    if name == "rtol":
        raise TypeError("rtol must be one number; atol may be an array")
    if array.shape != tuple(problem.u0.shape):
        raise ValueError(f"{name} has shape {array.shape}, but the state has {tuple(problem.u0.shape)}")
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError(f"{name} must be finite and not negative")
    return np.ascontiguousarray(array.reshape(-1), problem.dtype)


def saved_entries(save_idxs: Any, problem: Problem) -> np.ndarray | None:
    """Flat indices of the entries to save.

    Raises
    ------
    TypeError, ValueError, IndexError
        If they are no indices of the state.
    """
    if save_idxs is None:
        return None
    if problem.velocity is not None:
        raise ValueError(f"save_idxs can't be used with a {type(problem).__name__}; index sol.u and sol.v instead")
    array = np.asarray(save_idxs)
    if array.dtype == bool:
        if array.shape != tuple(problem.u0.shape):
            raise ValueError(f"save_idxs is a mask of shape {array.shape}, but the state has {tuple(problem.u0.shape)}")
        return np.flatnonzero(array)
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size == 0:
        raise TypeError(f"save_idxs must be an index, a list of flat indices or a mask, not {save_idxs!r}")
    flat = np.atleast_1d(array).astype(np.int64)
    if flat.min() < -problem.n or flat.max() >= problem.n:
        raise IndexError(f"save_idxs holds {flat[(flat < -problem.n) | (flat >= problem.n)][0]}, but the state has {problem.n} entries")
    return flat % problem.n


_REFUSED = {
    "reltol": "the relative tolerance is called rtol",
    "abstol": "the absolute tolerance is called atol",
    "verbose": "messages of the solver come as exceptions",
    "save_everystep": "saveat=None saves every step, and saveat the times it names",
    "save_start": "name the start in saveat",
    "save_end": "name the end in saveat",
    "save_on": "saveat says what is saved",
    "alias": "arrays are never aliased",
    "alias_u0": "arrays are never aliased",
    # SciML's current solve ignores these silently.
    **dict.fromkeys(
        ("gamma", "beta1", "beta2", "qmin", "qmax", "qsteady_min", "qsteady_max", "qoldinit", "failfactor"),
        "SciML takes options of the step size controller no longer in solve",
    ),
}
"""SciML's keywords that would be ignored or contradict what is asked for here, each with the way out."""


def check_extra(extra: Mapping[str, Any]) -> None:
    """Refuse options that would be ignored.

    Raises
    ------
    TypeError
        Naming the option.
    """
    for name in extra:
        if name in _REFUSED:
            raise TypeError(f"solve has no option {name!r}: {_REFUSED[name]}")


def check_reserved(given: Mapping[str, Any], reason: str) -> None:
    """Refuse options of `solve` that a module which solves sets itself.

    Raises
    ------
    TypeError
        Naming the option, with the reason.
    """
    for name in ("saveat", "throw", "save_idxs", "dense"):
        if name in given:
            raise TypeError(f"{name} can't be given: {reason}")


class ProgressBar:
    """A bar on stderr that shows how far a solve has come."""

    def __init__(self, start: float, end: float) -> None:
        from tqdm import tqdm

        self._start, self._end = start, end
        time: Any = [start]
        self._bar = tqdm(total=1.0, bar_format="{percentage:3.0f}% |{bar}| t = {postfix[0]:g} [{elapsed}<{remaining}]", postfix=time)

    def __call__(self, t: float) -> None:
        self._bar.postfix[0] = t
        self._bar.update(min(max((t - self._start) / (self._end - self._start), 0.0), 1.0) - self._bar.n)

    def close(self) -> None:
        self._bar.close()


def solve_options(
    problem: Problem,
    *,
    saveat: Any = None,
    tstops: Any = None,
    rtol: Any = None,
    atol: Any = None,
    dt: Any = None,
    dtmin: Any = None,
    dtmax: Any = None,
    maxiters: Any = 100_000,
    adaptive: bool = True,
    save_idxs: Any = None,
    dense: bool | None = None,
    progress: Callable[[float], object] | None = None,
    callback: Any = None,
    internalnorm: Callable[[Any], float] | None = None,
    initializealg: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> SolveOptions:
    """All options, checked.

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value, naming it.
    """
    if extra:
        check_extra(extra)
    start, end = problem.tspan
    callbacks = check_callbacks(callback)
    if internalnorm is not None and not callable(internalnorm):
        raise TypeError(f"internalnorm must be a function of the scaled error, not {type(internalnorm).__name__}")
    default_rtol, default_atol = DEFAULT_TOLERANCES[problem.dtype]
    times = None if saveat is None else save_times(saveat, start, end)
    if tstops is not None:
        tstops = np.unique(np.atleast_1d(real_array(tstops, "tstops")))
        if end < start:
            tstops = tstops[::-1]
        tstops = _times(np.ascontiguousarray(tstops), start, end, 1.0 if end > start else -1.0, "tstops", 1e-14)
    if isinstance(maxiters, float) and maxiters.is_integer():
        maxiters = int(maxiters)  # 1e6
    maxiters = min(whole_number(maxiters, "maxiters", 1), _MOST_STEPS)
    rtol = _tolerance(rtol, "rtol", default_rtol, problem)
    atol = _tolerance(atol, "atol", default_atol, problem)
    if rtol == 0 and np.any(atol == 0):
        raise ValueError("rtol and atol are both 0: no step would ever be accepted")
    dt = positive(dt, "dt")
    if not _flag(adaptive, "adaptive"):
        if dt is None:
            raise ValueError("adaptive=False needs a step size: dt")
        check_fixed_step(dt, start, end)
    return SolveOptions(
        saveat=times,
        tstops=tstops,
        rtol=rtol,
        atol=atol,
        dt=dt,
        dtmin=positive(dtmin, "dtmin"),
        dtmax=positive(dtmax, "dtmax"),
        maxiters=maxiters,
        adaptive=bool(adaptive),
        dense=times is None if dense is None else _flag(dense, "dense"),
        save_idxs=saved_entries(save_idxs, problem),
        progress=progress,
        events=tuple(x.request(problem) for x in callbacks if isinstance(x, ContinuousCallback)),
        steps=tuple(x.bind(problem) for x in callbacks if isinstance(x, FunctionCallingCallback)),
        norm=None if internalnorm is None else on_flat_states(lambda error: float(internalnorm(error)), problem),
        initializealg=check_initialization(initializealg, problem.mass_matrix),
        extra=dict(extra or {}),
    )
