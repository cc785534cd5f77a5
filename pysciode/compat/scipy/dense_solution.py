"""Continuous solutions in the form of SciPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.integrate import DenseOutput, OdeSolution

from ...solving.solution import Solution


class DenseSolution(OdeSolution):
    """A continuous solution: SciPy's ``OdeSolution``, over SciML's dense output.

    Outside of the interval that was solved a cubic polynomial continues it, which is inaccurate soon.

    Parameters
    ----------
    solution
        A dense solution; None for one that is constant.
    steps
        The times that the solver stepped on, shape ``(k + 1,)``.
    y0
        The initial state; if it is complex, the solution's states are pairs of real and imaginary parts.

    Attributes
    ----------
    t_min, t_max
        The interval.
    ts
        `steps`.
    interpolants
        One ``DenseOutput`` for each step.
    """

    def __init__(self, solution: Solution | None, steps: np.ndarray, y0: np.ndarray) -> None:
        self.ts = steps
        self.n_segments = len(steps) - 1
        self.ascending = bool(steps[-1] >= steps[0])
        self.ts_sorted = steps if self.ascending else steps[::-1]
        self.t_min, self.t_max = self.ts_sorted[0], self.ts_sorted[-1]
        self.side = "left" if self.ascending else "right"
        self._solution = solution
        self._y0 = y0

    @property
    def interpolants(self) -> list[DenseOutput]:
        return [_Step(self, start, end) for start, end in zip(self.ts[:-1], self.ts[1:], strict=True)]

    def __call__(self, t: Any) -> np.ndarray:
        """The states at `t`: shape ``(n,)`` for a number, ``(n, k)`` for `k` times."""
        t = np.asarray(t, float)
        if t.ndim > 1:
            raise ValueError("`t` must be a float or a 1-D array.")
        times = t.reshape(-1)
        y = self._states(times).view(self._y0.dtype)
        return y[0] if t.ndim == 0 else y.T

    def _states(self, times: np.ndarray) -> np.ndarray:
        solution = self._solution
        if solution is None:
            return np.tile(self._y0, (len(times), 1))
        inside = np.clip(times, self.t_min, self.t_max)
        y = np.ascontiguousarray(solution(inside))
        for there in (times < self.t_min, times > self.t_max):
            if there.any():
                y[there] = self._beyond(solution, inside[there], times[there])
        return y

    def _beyond(self, solution: Solution, end: np.ndarray, times: np.ndarray) -> np.ndarray:
        """The cubic through values and slopes at the end and as far inside as `times` lie outside, or a step if that is more."""
        first, last = self.ts_sorted[:2], self.ts_sorted[-2:]
        step = (first if end[0] == self.t_min else last) @ [-1.0, 1.0]
        other = np.clip(end - np.sign(times - end) * np.maximum(step, np.abs(times - end)), self.t_min, self.t_max)
        h = (other - end)[:, None]
        s = (times - end)[:, None] / h
        y0, y1 = solution(end), solution(other)
        d0, d1 = h * solution(end, derivative=1), h * solution(other, derivative=1)
        rise = y1 - y0
        return y0 + s * (d0 + s * (3 * rise - 2 * d0 - d1 + s * (d0 + d1 - 2 * rise)))


class _Step(DenseOutput):
    """The solution over one step."""

    def __init__(self, whole: DenseSolution, start: float, end: float) -> None:
        super().__init__(start, end)
        self._whole = whole

    def _call_impl(self, t: np.ndarray) -> np.ndarray:
        return self._whole(t)
