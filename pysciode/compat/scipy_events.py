"""SciPy's events as SciML's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from ..callbacks import ContinuousCallback
from ..engines.base import EventRequest
from ..problems import ODEProblem
from ..solution import Solution
from .scipy_arguments import EPS, Span
from .scipy_model import Call, Form, Model, model_of


@dataclass(frozen=True)
class Event:
    """One of the user's functions, with the attributes that SciPy reads.

    Attributes
    ----------
    stop_after
        With which occurrence the solve ends; 0: with none.
    direction
        +1, -1, or 0 for both.
    """

    function: Callable[..., Any]
    stop_after: int
    direction: int


def events_of(events: Any) -> tuple[Event, ...]:
    """A function or a list of them; None stands for none.

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

    posed: ODEProblem | None = None
    stop_after: int = 0

    def request(self, problem: ODEProblem) -> EventRequest:
        return EventRequest(self.posed, None, self.direction, self.stop_after)


class Events:
    """The events of one solve.

    Those that may end it are SciML's callbacks. The others are looked for afterwards, as SciPy does: where the function changes
    its sign from one step to the next. (A callback would make the solver stop and start at each of them.)

    Parameters
    ----------
    events, args
        The user's functions, and what they take beside time and state.
    y0
        The initial state.
    slope
        Gives ``fun`` at the start.

    Attributes
    ----------
    callbacks
        For :func:`pysciode.solve`.
    calls
        Those of them that stay in Python.
    need_dense
        Whether there are others.
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

    def occurrences(
        self, solution: Solution | None, sol: Callable[[Any], np.ndarray] | None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
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
            else:
                t = self._roots(event, solution, sol)
                y = sol(t).T
            times.append(t)
            states.append(y if len(t) else np.empty(0))
        return times, states

    def _roots(self, event: Event, solution: Solution, sol: Callable[[Any], np.ndarray]) -> np.ndarray:
        times, args = solution.t, self._args
        values = [event.function(t, y, *args) for t, y in zip(times.tolist(), solution.u.view(self._y0.dtype))]
        g = np.array(values, float).reshape(len(times))
        before, after = g[:-1], g[1:]
        up, down = (before <= 0) & (after >= 0), (before >= 0) & (after <= 0)
        crossed = up | down if event.direction == 0 else up if event.direction > 0 else down
        steps = np.flatnonzero(crossed)
        return np.array([_root(event.function, args, sol, times[k : k + 2], g[k : k + 2]) for k in steps])


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

    return brentq(g, *times.tolist(), xtol=4 * EPS, rtol=4 * EPS)


def _occurs_at(
    event: Event, args: tuple[Any, ...], y0: np.ndarray, t0: float, end: float, slope: Callable[[], np.ndarray]
) -> bool:
    if not event.stop_after or event.function(t0, y0.copy(), *args) != 0:
        return False
    if event.direction == 0:
        return True
    h = np.copysign(max(1e-9 * min(abs(end - t0), 1e6), 1e3 * np.spacing(abs(t0))), end - t0)
    later = event.function(t0 + h, y0 + h * slope(), *args)
    return bool(later >= 0 if event.direction > 0 else later <= 0)
