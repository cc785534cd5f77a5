"""SciPy's events as SciML's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..callbacks import ContinuousCallback
from ..engines.base import EventRequest
from ..problems import ODEProblem
from ..solution import Solution
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

    Parameters
    ----------
    events, args
        The user's functions, and what they take beside time and state.
    y0, t0, end
        Where the solve starts, and its last time.
    slope
        ``fun(t0, y0)``.

    Attributes
    ----------
    callbacks
        For :func:`pysciode.solve`.
    calls
        Those that stay in Python.
    at_start
        Whether each one occurs at `t0`: SciPy counts an event that is zero there, if the direction in which it leaves fits.
    ends_at_start
        Whether the solve is over with that.
    """

    def __init__(
        self, events: tuple[Event, ...], args: tuple[Any, ...], y0: np.ndarray, t0: float, end: float, slope: Callable[[], np.ndarray]
    ) -> None:
        form = Form(y0.size, y0.dtype.kind == "c", event=True)
        self.callbacks: list[ContinuousCallback] = []
        self.calls: dict[Model, Call] = {}
        self.at_start = tuple(_occurs_at(event, args, y0, t0, end, slope) for event in events)
        self.ends_at_start = any(now and event.stop_after == 1 for now, event in zip(self.at_start, events, strict=True))
        self._y0, self._t0 = y0, t0
        if self.ends_at_start:
            return
        for i, (event, now) in enumerate(zip(events, self.at_start, strict=True)):
            model, p = model_of(event.function, args, y0, t0, form, position=i + 1)
            if model.in_python:
                self.calls[model] = Call(event.function, args)
            self.callbacks.append(
                _Posed(
                    event.function,
                    direction=event.direction,
                    posed=model.pose(y0.view(float), (t0, end), p),
                    stop_after=event.stop_after - now if event.stop_after else 0,
                )
            )

    def occurrences(self, solution: Solution | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """SciPy's ``t_events`` and ``y_events``."""
        times, states = [], []
        for i, now in enumerate(self.at_start):
            t = np.empty(0) if solution is None else solution.events[i].t
            y = np.empty((0, self._y0.size), self._y0.dtype) if solution is None else solution.events[i].u.view(self._y0.dtype)
            if now:
                t, y = np.append(self._t0, t), np.vstack([self._y0, y])
            times.append(t)
            states.append(y if len(t) else np.empty(0))
        return times, states


def _occurs_at(
    event: Event, args: tuple[Any, ...], y0: np.ndarray, t0: float, end: float, slope: Callable[[], np.ndarray]
) -> bool:
    if event.function(t0, y0.copy(), *args) != 0:
        return False
    if event.direction == 0:
        return True
    h = np.copysign(max(1e-9 * min(abs(end - t0), 1e6), 1e3 * np.spacing(abs(t0))), end - t0)
    later = event.function(t0 + h, y0 + h * slope(), *args)
    return bool(later >= 0 if event.direction > 0 else later <= 0)
