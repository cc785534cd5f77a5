"""SciPy's events as SciML's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import brentq

from ...engines.base import EventRequest
from ...errors import AccuracyWarning
from ...problems.base import Problem
from ...solving.callbacks import ContinuousCallback
from ...solving.solution import Solution
from .arguments import EPS, Span
from .model import Call, Form, Model, model_of


@dataclass(frozen=True)
class Event:
    """One of the user's functions, with the attributes that SciPy reads.

    Attributes
    ----------
    stop_after
        The number of the occurrence that ends the solve; 0: none does.
    direction
        +1, -1, or 0 for both.
    """

    function: Callable[..., Any]
    stop_after: int
    direction: int


def events_of(events: Any) -> tuple[Event, ...]:
    """Return the events of a function or a list of functions; None means no events.

    Raises
    ------
    ValueError
        If an attribute ``terminal`` is neither a truth value nor a positive whole number.
    TypeError
        If there is something that can't be called.
    """
    if events is None:
        return ()
    given = (events,) if callable(events) else tuple(events)
    out = []
    for event in given:
        terminal = getattr(event, "terminal", None)
        if terminal is not None and not (int(terminal) == terminal and terminal >= 0):
            raise ValueError("The `terminal` attribute of each event must be a boolean or positive integer.")
        if not callable(event):
            raise TypeError(f"{type(event).__name__!r} object is not callable: each event is a function of t and y")
        out.append(Event(event, int(terminal or 0), int(np.sign(getattr(event, "direction", 0)))))
    return tuple(out)


@dataclass(frozen=True, eq=False)
class _Posed(ContinuousCallback):
    """An event whose condition is a captured model already."""

    posed: Problem = field(kw_only=True)
    stop_after: int = 0

    def request(self, problem: Problem) -> EventRequest:
        return EventRequest(self.posed, None, self.direction, self.stop_after)


class Events:
    """The events of one solve.

    Those that may end it are SciML's callbacks. The others are looked for afterwards, as SciPy does: where the function changes
    its sign from one step to the next, or within a step, where SciPy does not look. (A callback would make the solver stop and start
    at each of them.)

    Parameters
    ----------
    events, args
        The user's functions, and their further arguments.
    y0
        The initial state.
    slope
        Gives ``fun`` at the start.

    Attributes
    ----------
    callbacks
        For :func:`pysciode.solve`.
    calls
        The events that stay in Python.
    need_dense
        Whether there are further events, which need the continuous solution.
    may_end
        Whether one of them may end the solve.
    end_at_start
        Whether the solve is over where it starts: SciPy counts an event that is zero there, if the direction in which it
        leaves fits.
    """

    def __init__(
        self,
        events: tuple[Event, ...],
        args: tuple[Any, ...],
        y0: np.ndarray,
        span: Span,
        slope: Callable[[], np.ndarray],
    ) -> None:
        t0, end = span.start, span.end
        form = Form(y0.size, y0.dtype.kind == "c", event=True)
        self.callbacks: list[ContinuousCallback] = []
        self.calls: dict[Model, Call] = {}
        self.need_dense = any(not event.stop_after for event in events)
        self.may_end = any(event.stop_after for event in events)
        self._ending: Solution | None = None
        self._events, self._args, self._y0, self._t0 = events, args, y0, t0
        self._at_start = [_occurs_at(event, args, y0, t0, end, slope) for event in events]
        self.end_at_start = any(now and x.stop_after == 1 for now, x in zip(self._at_start, events, strict=True))
        if self.end_at_start:
            return
        for i, (event, now) in enumerate(zip(events, self._at_start, strict=True)):
            if not event.stop_after:
                continue
            model, p = model_of(event.function, args, y0, t0, form, position=i + 1)
            if model.in_python:
                self.calls[model] = Call(event.function, args)
            self.callbacks.append(
                _Posed(
                    event.function,
                    direction=event.direction,
                    posed=model.pose(y0.view(float), (t0, end), p),
                    stop_after=event.stop_after - now,
                )
            )

    def note(self, solution: Solution) -> None:
        """Take note of the solve with `callbacks`."""
        self._ending = solution

    @property
    def ended_it(self) -> bool:
        """Whether one of the events ended the solve."""
        return self.end_at_start or (self._ending is not None and self._ending.retcode == "Terminated")

    def occurrences(self, solution: Solution | None, sol: Callable[[Any], np.ndarray] | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """SciPy's ``t_events`` and ``y_events``; `sol` is the continuous solution, where one was needed."""
        stopping = iter(() if self._ending is None else self._ending.events)
        times, states = [], []
        for event, now in zip(self._events, self._at_start, strict=True):
            start = (np.full(int(now), self._t0), np.tile(self._y0, (int(now), 1)))
            if solution is None:
                t, y = start
            elif event.stop_after:
                found = next(stopping)
                t, y = np.append(start[0], found.t), np.vstack([start[1], found.u.view(self._y0.dtype)])
            elif sol is not None:  # which is there wherever an event does not end the solve
                t = self._roots(event, solution, sol)
                y = sol(t).T
            else:
                t, y = start
            times.append(t)
            states.append(y if len(t) else np.empty(0))
        return times, states

    def _roots(self, event: Event, solution: Solution, sol: Callable[[Any], np.ndarray]) -> np.ndarray:
        def g(times: np.ndarray) -> np.ndarray:
            states = np.asarray(sol(times)).T
            return np.array([event.function(t, y, *self._args) for t, y in zip(times.tolist(), states, strict=True)], float).reshape(
                len(times)
            )

        ends = solution.t
        values = [event.function(t, y, *self._args) for t, y in zip(ends.tolist(), solution.u.view(self._y0.dtype), strict=True)]
        times, values, followed = samples_between(g, ends, np.array(values, float).reshape(len(ends)))
        if not followed:
            warnings.warn(
                "an event function changes too often within a step of the solver to be followed, so events may be missing: set max_step",
                AccuracyWarning,
                stacklevel=2,
            )
        before, after = values[:-1], values[1:]
        up, down = (before <= 0) & (after >= 0), (before >= 0) & (after <= 0)
        crossed = up | down if event.direction == 0 else up if event.direction > 0 else down
        steps = np.flatnonzero(crossed)
        return np.array([_root(event.function, self._args, sol, times[k : k + 2], values[k : k + 2]) for k in steps])


_SPLITS = (0.43, 0.59)  # irregular, so that no periodic function looks constant
_DEEPEST = 26
_SHORTEST = 1e-12
_MOST_SAMPLES = 1_000_000


def samples_between(g: Callable[[np.ndarray], np.ndarray], ends: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Samples of `g` so near to each other that it changes its sign once at most between two of them.

    SciPy looks at the ends of the steps alone, and overlooks an even number of changes within one. The rule is that of
    julia/src/border/crossings.jl: a piece of a step is left alone when no parabola as near to its samples as they are to theirs reaches
    zero there, or when all of these are monotone.

    Parameters
    ----------
    g
        The values at times, of shape ``(k,)``.
    ends, values
        The ends of the steps, and the values there.

    Returns
    -------
    times, values : ndarray
        The ends and what lies between, without the samples between that are zero themselves.
    followed
        Whether all pieces could be left alone.
    """
    if len(np.unique(ends)) < 2:
        return ends, values, True

    def split(t: np.ndarray) -> np.ndarray:
        """A piece more for each, with new columns between the old ones."""
        out = np.empty((len(t), 2 * t.shape[1] - 1))
        out[:, ::2], out[:, 1::2] = t, t[:, :-1] + np.resize(_SPLITS, t.shape[1] - 1) * np.diff(t)
        return out

    def valued(t: np.ndarray, known: np.ndarray) -> np.ndarray:
        out = np.empty(t.shape)
        out[:, ::2], out[:, 1::2] = known, g(t[:, 1::2].reshape(-1)).reshape(len(t), -1)
        return out

    moves = ends[1:] != ends[:-1]
    t, v = np.stack([ends[:-1], ends[1:]], 1)[moves], np.stack([values[:-1], values[1:]], 1)[moves]
    for _ in range(3):
        t, v = (fine := split(t)), valued(fine, v)
    noise = np.tile(8 * EPS * np.abs(v).max(1), 2)
    kept_t, kept_v = [t[:, 1:-1].reshape(-1)], [v[:, 1:-1].reshape(-1)]
    t, v = np.concatenate([t[:, :5], t[:, 4:]]), np.concatenate([v[:, :5], v[:, 4:]])
    count, followed = t.size, True
    for _ in range(_DEEPEST):
        long = np.abs(t[:, 4] - t[:, 0]) > _SHORTEST * np.abs(t[:, 0])
        t, v, noise = t[long], v[long], noise[long]
        open_ = ~_settled(g, t, v, noise)
        t, v, noise = t[open_], v[open_], np.tile(noise[open_], 2)
        count += 4 * len(t)
        if not len(t) or count > _MOST_SAMPLES:
            followed = not len(t)
            break
        halves = np.concatenate([t[:, :3], t[:, 2:]])
        fine = split(halves)
        v = valued(fine, np.concatenate([v[:, :3], v[:, 2:]]))
        t = fine
        kept_t.append(t[:, 1::2].reshape(-1))
        kept_v.append(v[:, 1::2].reshape(-1))
    inner_t, inner_v = np.concatenate(kept_t), np.concatenate(kept_v)
    all_t = np.concatenate([ends, inner_t[inner_v != 0]])
    order = np.argsort(all_t if ends[-1] >= ends[0] else -all_t, kind="stable")
    return all_t[order], np.concatenate([values, inner_v[inner_v != 0]])[order], followed


def _settled(g: Callable[[np.ndarray], np.ndarray], t: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    h = t[:, 4] - t[:, 0]
    x = (t - t[:, :1]) / h[:, None]
    a, m, b, xm = v[:, 0], v[:, 2], v[:, 4], x[:, 2]
    bend = ((m - a) / xm - (b - a)) / (xm - 1)
    slope = b - a - bend
    vertex = -slope / np.where(bend == 0, np.inf, 2 * bend)
    inside = (vertex > 0) & (vertex < 1)
    turn = np.where(inside, a + vertex * (slope + vertex * bend), a)
    lowest, highest = np.minimum(np.minimum(a, b), turn), np.maximum(np.maximum(a, b), turn)
    least = np.where(inside, 0.0, np.minimum(np.abs(slope), np.abs(slope + 2 * bend)))

    def deviation(x: np.ndarray, v: np.ndarray) -> np.ndarray:
        return v - (a[:, None] + x * (slope[:, None] + x * bend[:, None]))

    at = deviation(x, v)[:, 1:4]
    away = 2 * np.abs(at).max(1) + noise
    out = (lowest > away) | (highest < -away) | (least > 11 * away)
    near = t[:, 1:4] + h[:, None] / 100
    values = np.full(near.shape, np.nan)
    values[out] = g(near[out].reshape(-1)).reshape(-1, 3)
    away = np.maximum(away, 50 * np.abs(deviation(x[:, 1:4] + 0.01, values) - at).max(1))
    return ~v.any(1) | out & ((lowest > away) | (highest < -away) | (least > 11 * away))


def _root(
    event: Callable[..., Any],
    args: tuple[Any, ...],
    sol: Callable[[Any], np.ndarray],
    times: np.ndarray,
    values: np.ndarray,
) -> float:
    """Where `event` is zero between two times, at which its values are known."""
    known = dict(zip(times.tolist(), values.tolist(), strict=True))

    def g(t: float) -> float:
        return known[t] if t in known else float(event(t, sol(t), *args))

    return brentq(g, *times.tolist(), xtol=4 * EPS, rtol=4 * EPS)  # pyright: ignore[reportReturnType]


def _occurs_at(event: Event, args: tuple[Any, ...], y0: np.ndarray, t0: float, end: float, slope: Callable[[], np.ndarray]) -> bool:
    if not event.stop_after or event.function(t0, y0.copy(), *args) != 0:
        return False
    if event.direction == 0:
        return True
    h = np.copysign(max(1e-9 * min(abs(end - t0), 1e6), 1e3 * np.spacing(abs(t0))), end - t0)
    later = event.function(t0 + h, y0 + h * slope(), *args)
    return bool(later >= 0 if event.direction > 0 else later <= 0)
