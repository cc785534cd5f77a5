"""Events, and functions that a solver calls after its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays.parameters import is_tensor
from ..capture.compiled_model import store
from ..engines.base import EventRequest
from ..problems.base import Problem, remake
from ..problems.event import EventAffect, EventCondition, EventFunction


@dataclass(frozen=True, eq=False)
class ContinuousCallback:
    """An event: where `condition` changes its sign, found to rounding on the solver's interpolant.

    SciML's callback of that name, without an affect by default: the event is noted, and perhaps ends the solve. The
    condition is captured like a model, so no Python runs in the solve. All changes of sign are found, in order, however
    many fall within one step of the solver: each step is divided until the condition is a parabola there as far as its
    sign goes, beginning with nine points; a zero that is touched without a change of sign is no event. What can be
    missed: a peak so narrow that it falls between the nine points and leaves no trace at them (set ``dtmax``), two zeros
    nearer to each other than 1.5e-8 of a step, and more than some thousand turns without a zero in one step, of which an
    :class:`~pysciode.AccuracyWarning` tells. A condition that is zero at the start counts from the side to which it leaves.

    Parameters
    ----------
    condition
        ``condition(u, p, t)`` (or with fewer arguments, as a model), a number; `u` has the state's shape, which of a
        second-order or dynamical problem is ``(2, …)``, velocities first.
    affect
        ``affect(u, p, t)``, the state after the event; None leaves it as it is.
    direction
        +1: only from negative to positive, as time goes in the solve; -1: only from positive to negative; 0: both.
    terminal
        Whether the solve ends there; a whole number ``n``: with the n-th occurrence.

    Raises
    ------
    TypeError, ValueError
        For an argument of a wrong type or value.

    Examples
    --------
    >>> ground = ContinuousCallback(lambda u, p, t: u[0], terminal=True, direction=-1)
    >>> solve(falling, Tsit5(), callback=ground).t_reached
    """

    condition: Callable[..., Any]
    affect: Callable[..., Any] | None = None
    direction: int = 0
    terminal: bool | int = False

    def __post_init__(self) -> None:
        for part in ("condition", "affect"):
            given = getattr(self, part)
            if not callable(given) and not (part == "affect" and given is None):
                raise TypeError(f"{part} must be a function of u, p and t, not {type(given).__name__}")
        if isinstance(self.direction, complex) or self.direction not in (-1, 0, 1):
            raise ValueError(f"direction must be -1, 0 or 1, not {self.direction!r}")
        if isinstance(self.terminal, float) or self.terminal != int(self.terminal) or self.terminal < 0:
            raise ValueError(f"terminal must be True, False or a number of occurrences, not {self.terminal!r}")

    def request(self, problem: Problem) -> EventRequest:
        """The event of a solve of `problem`, for the engine."""
        return EventRequest(
            condition=_beside(problem, EventCondition, self.condition),
            affect=None if self.affect is None else _beside(problem, EventAffect, self.affect),
            direction=int(self.direction),
            stop_after=int(self.terminal),
        )


@dataclass(frozen=True, eq=False)
class FunctionCallingCallback:
    """A Python function that is called at the start and after every accepted step, for its side effects.

    SciML's callback of that name (DiffEqCallbacks.jl). Python runs in the solve then, which costs some microseconds a step.

    Parameters
    ----------
    function
        ``function(u, t)``: a copy of the state, in its shape, as an array or tensor, and the time. What it returns is
        ignored, and what it raises ends the solve.

    Raises
    ------
    TypeError
        If it is no function.
    """

    function: Callable[[Any, float], Any]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be a function of u and t, not {type(self.function).__name__}")

    def bind(self, problem: Problem) -> Callable[[np.ndarray, float], None]:
        """The function of flat states that an engine calls."""
        return on_flat_states(self.function, problem)


Callback = ContinuousCallback | FunctionCallingCallback


def check_callbacks(callback: Any) -> tuple[Callback, ...]:
    """Return the callbacks of what ``solve`` takes: None, a callback or several.

    Raises
    ------
    TypeError
        For anything else.
    """
    if callback is None:
        return ()
    given = tuple(callback) if isinstance(callback, Sequence) else (callback,)
    for x in given:
        if not isinstance(x, (ContinuousCallback, FunctionCallingCallback)):
            raise TypeError(f"callback must be a ContinuousCallback, a FunctionCallingCallback or a list of these, not {type(x).__name__}")
    return given


def on_flat_states(function: Callable[..., Any], problem: Problem) -> Callable[..., Any]:
    """`function` of a state, in its shape and as what the problem has, and perhaps more, as one of a flat array and the rest."""
    shape, in_torch = problem.shape, problem.is_torch

    def on_flat(u: np.ndarray, *rest: Any) -> Any:
        state: Any = u.reshape(shape)
        if in_torch:
            import torch

            state = torch.from_numpy(state)
        return function(state, *rest)

    return on_flat


def _beside(problem: Problem, kind: type[EventFunction], function: Callable[..., Any]) -> EventFunction:
    """`function` on the state and parameters of `problem`."""
    known = store(function)
    key = (kind, problem.shape, problem.dtype, problem.is_torch)
    layout = problem.layout
    values = {
        "u0": problem.u0.detach() if is_tensor(problem.u0) else problem.u0,
        "tspan": problem.span,
        "p": layout.rebuild(problem.leaves[: layout.n_leaves]),
    }
    latest = known.get(key)
    known[key] = posed = kind(function, **values) if latest is None else remake(latest, **values)
    return posed
