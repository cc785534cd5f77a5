"""A solve's outcome as SciPy's ``OdeResult``."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.integrate import solve_ivp as scipys

from ...solving.solution import ADVICE, Solution
from .arguments import Span
from .dense_solution import DenseSolution
from .events import Events

OdeResult = type(scipys(lambda t, y: y, (0.0, 0.0), [0.0]))
"""SciPy's class, which has no public name."""

FINISHED = "The solver successfully reached the end of the integration interval."
ENDED = "A termination event occurred."
TOO_SMALL_STEP = "Required step size is less than spacing between numbers."


def result_of(solution: Solution | None, y0: np.ndarray, span: Span, dense_output: bool, events: Events, track: bool) -> Any:
    """What ``solve_ivp`` returns.

    Parameters
    ----------
    solution
        At every step, or at the times of `span` if there are any and it is not dense; None where an event at the start
        ended the solve.
    y0
        The initial state.
    dense_output
        Whether the user gets the continuous solution.
    track
        Whether the user gave events, of which the list may be empty.
    """
    is_complex = y0.dtype.kind == "c"
    if solution is None:
        times, y, reached = np.full(2, span.start), np.column_stack([y0, y0]), span.start
    else:
        times, states, reached = solution.t, solution.u, solution.t_reached
        y = (states.view(complex) if is_complex else states).T
    sol = None
    if dense_output or solution is None or events.need_dense:
        sol = DenseSolution(solution, _distinct(times), y0)
    if span.t_eval is not None:
        times = span.t_eval[np.abs(span.t_eval - span.start) <= abs(reached - span.start)]
        if sol is not None:
            y = sol(times)
        if not len(times):
            times, y = [], []  # as SciPy has it
    t_events, y_events = events.occurrences(solution, sol) if track else (None, None)
    counts = {} if solution is None else solution.stats.all
    status = 1 if events.ended_it else 0 if solution is not None and solution.success else -1
    return OdeResult(
        t=times,
        y=y,
        sol=sol if dense_output else None,
        t_events=t_events,
        y_events=y_events,
        nfev=counts.get("nf", 0),
        njev=counts.get("njacs", 0),
        nlu=counts.get("nw", 0),
        status=status,
        message=_message(status, solution),
        success=status >= 0,
    )


def _distinct(times: np.ndarray) -> np.ndarray:
    """Without repetitions, of which there are two where the solve took no time."""
    return times if times[0] == times[-1] else times[np.append(True, np.diff(times) != 0)]


def _message(status: int, solution: Solution | None) -> str:
    if status >= 0 or solution is None:
        return ENDED if status else FINISHED
    if solution.retcode == "DtLessThanMin":
        return TOO_SMALL_STEP
    advice = ADVICE.get(solution.retcode, "")
    return f"The solver stopped at t = {solution.t_reached:g} with retcode {solution.retcode}: {advice}"
