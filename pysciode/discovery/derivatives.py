"""States and their derivatives from measured trajectories, by PySINDy's differentiation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_WINDOW, _DEGREE = 11, 3


@dataclass(frozen=True)
class Differentiated:
    """Trajectories with derivatives.

    Attributes
    ----------
    x
        States, all trajectories one after the other, shape ``(n, d)``.
    y
        Derivatives, shape ``(rows, d)``.
    average
        What functions of the states, shape ``(n, m)``, must go through to stand beside `y`: shape ``(rows, m)``.
    """

    x: np.ndarray
    y: np.ndarray
    average: Callable[[np.ndarray], np.ndarray]


def differentiate(u: list[np.ndarray], t: list[np.ndarray]) -> Differentiated:
    """Differences of the states smoothed by local cubics (Savitzky, Golay 1964) over 11 samples.

    Terms are smoothed in the same way, and averaged over the same two steps (by Simpson's rule) as the difference: so
    what the smoothing takes from the derivatives, it takes from the terms too, and there is no bias from a window
    that is wide for the dynamics. This is the weak form (Messenger, Bortz, "Weak SINDy", Multiscale Modeling &
    Simulation 19, 2021, arXiv:2005.04339) with the smoother's kernel for a test function.

    Parameters
    ----------
    u
        Shape ``(n, d)`` each.
    t
        Shape ``(n,)`` each, increasing, in equal steps.

    Raises
    ------
    ValueError
        If steps differ, or there are too few.
    """
    from pysindy.differentiation import SmoothedFiniteDifference

    lengths, derivatives = [len(times) for times in t], []
    for part, times in zip(u, t, strict=True):
        steps = np.diff(times)
        if len(times) < _WINDOW + 4:
            raise ValueError(f"t must have {_WINDOW + 4} samples or more to be differentiated, not {len(times)}")
        if not np.allclose(steps, steps.mean(), rtol=1e-3):
            raise ValueError("t must have equal steps, or differentiation must be given")
        method: Any = SmoothedFiniteDifference(smoother_kws={"window_length": _WINDOW, "polyorder": _DEGREE})
        derivatives.append(np.asarray(method(part, times), float)[_inside(len(times))])

    def average(values: np.ndarray) -> np.ndarray:
        return np.concatenate([_average(part) for part in np.split(values, np.cumsum(lengths)[:-1])])

    return Differentiated(np.concatenate(u), np.concatenate(derivatives), average)


def _inside(count: int) -> slice:
    """At the ends the smoother is another one at each sample."""
    edge = _WINDOW // 2 + 1
    return slice(edge, count - edge)


def _average(values: np.ndarray) -> np.ndarray:
    from scipy.signal import savgol_filter

    smooth = np.asarray(savgol_filter(values, _WINDOW, _DEGREE, axis=0))
    out = smooth.copy()
    out[1:-1] = (smooth[:-2] + 4 * smooth[1:-1] + smooth[2:]) / 6
    return out[_inside(len(values))]


def differentiate_with(method: Callable[[Any, Any], Any], u: list[np.ndarray], t: list[np.ndarray]) -> Differentiated:
    """Derivatives by a method of the user's, such as those of ``pysindy.differentiation``.

    Where it smooths the states, these are the smooth ones.

    Raises
    ------
    ValueError
        If derivatives aren't finite, or have another shape.
    """
    states, derivatives = [], []
    for part, times in zip(u, t, strict=True):
        found = np.asarray(method(part, times), float)
        if found.shape != part.shape or not np.isfinite(found).all():
            raise ValueError(f"differentiation must return finite derivatives of shape {part.shape}")
        smooth = getattr(method, "smoothed_x_", None)
        states.append(part if smooth is None or np.shape(smooth) != part.shape else np.asarray(smooth, float))
        derivatives.append(found)
    return Differentiated(np.concatenate(states), np.concatenate(derivatives), lambda values: values)
