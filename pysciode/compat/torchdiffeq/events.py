"""Events: the time at which a function of time and state changes its sign, and its gradient.

A solution is searched step by step, as torchdiffeq does: an event is seen where the sign at the end of a step is another than at
the start. The event function is called in Python, so any code is allowed in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scipy.optimize import brentq

from ...solving.solution import ADVICE, Solution
from .errors import StepsFailed
from .solves import Job, ZeroGradients
from .states import Form

EventFunction = Callable[..., torch.Tensor]

_DOUBLINGS = 60


class Condition:
    """One number that is positive from the start on until the first entry of an event function changes its sign.

    Parameters
    ----------
    event_fn
        The user's function of time and state.
    start, y0
        Time, a tensor without dimensions, and state at the start.
    """

    def __init__(self, event_fn: EventFunction, start: torch.Tensor, y0: Any) -> None:
        self._event_fn = event_fn
        with torch.no_grad():
            self._signs = torch.sign(event_fn(start, y0))

    def __call__(self, t: torch.Tensor, y: Any) -> torch.Tensor:
        return torch.min(self._event_fn(t, y) * self._signs)


def solve_to_event(job: Job, u0: torch.Tensor, t: torch.Tensor, event_fn: EventFunction) -> tuple[torch.Tensor, torch.Tensor]:
    """The event's time, and the real states at the start and there, which carry gradients at that fixed time.

    Raises
    ------
    SolveFailed
        If the solver gives up before there is an event.
    RuntimeError
        If none is found in a very long time.
    """
    form = job.adapter.form
    with torch.no_grad():
        condition = Condition(event_fn, t[0], form.user(u0))
        found = _search(job, u0, t, lambda time, u: condition(t.new_tensor(time), form.user(u)).item())
    event_t = t.new_tensor(found)
    if found == t[0].item():
        states = torch.stack([u0, u0])
    else:
        states = job.states(u0, torch.cat([t[:1], event_t[None]]))
    if job.adjoint is not None and states.requires_grad:
        event_t = ZeroGradients.apply(event_t, states)
    return event_t, states


def _search(job: Job, u0: torch.Tensor, t: torch.Tensor, condition: Callable[[float, torch.Tensor], float]) -> float:
    start, length = t[0].item(), (t[1] - t[0]).item()
    if condition(start, u0) == 0:
        return start
    for _ in range(_DOUBLINGS):
        end = start + length
        solution = job.every_step(u0, start, end)
        found = _first_change(solution, condition)
        if found is not None:
            return found
        if not solution.success:
            raise StepsFailed(solution.retcode, solution.t_reached, solution, ADVICE.get(solution.retcode, ""))
        u0, start, length = solution.states[-1], end, 2 * length
    raise RuntimeError(f"no event was found up to t = {start:g}")


def _first_change(solution: Solution, condition: Callable[[float, torch.Tensor], float]) -> float | None:
    times = solution.t.tolist()
    low, high = sorted((solution.problem.tspan[0], solution.t_reached))

    def between(time: float) -> float:
        return condition(time, solution(min(max(time, low), high)))  # times of float32 are rounded

    left = times[0]
    for right, u in zip(times[1:], solution.states[1:], strict=True):
        value = condition(right, u)
        if not value > 0:
            return _refined(between, left, right, value)
        left = right
    return None


def _refined(condition: Callable[[float], float], left: float, right: float, value: float) -> float:
    """The place between `left` and `right` where the condition stops being positive; `value` is that at `right`."""
    if value < 0 and condition(left) > 0:
        return brentq(condition, left, right, xtol=1e-14 * max(abs(left), abs(right), 1e-300), rtol=1e-14)  # pyright: ignore[reportReturnType, reportArgumentType]
    # It may be zero all the way from there, or have no value.
    while abs(right - left) > 1e-15 * max(abs(left), abs(right)):
        middle = left + (right - left) / 2
        if middle in (left, right):
            break
        if condition(middle) > 0:
            left = middle
        else:
            right = middle
    return right


def event_with_gradient(
    func: Callable[..., Any], event_fn: EventFunction, start: torch.Tensor, y0: Any, event_t: torch.Tensor, solution: Any
) -> tuple[torch.Tensor, Any]:
    """The event's time and the solution, whose gradients take into account that the event moves.

    Parameters
    ----------
    start
        Shape ``(1,)``.
    event_t, solution
        As ``odeint(…, event_fn=event_fn)`` returns them: gradients of the solution at a fixed time.
    """
    if not torch.is_grad_enabled():
        return event_t, solution
    form = Form.of(y0)[0]
    state = solution[-1] if form.shapes is None else torch.cat([part[-1].reshape(-1) for part in solution])
    if not state.requires_grad:
        state = state.detach().requires_grad_()
    time = event_t.detach().clone().requires_grad_()
    value = Condition(event_fn, start[0].detach(), y0)(time, form.parts(state))
    if not value.requires_grad:
        return event_t, solution
    with torch.no_grad():
        slope = form.joined(form.real(func(time.detach().to(state.real.dtype), form.parts(state))))
    by_time, by_state = torch.autograd.grad(value, (time, state), retain_graph=True, allow_unused=True, materialize_grads=True)
    rate = by_time + (by_state.conj() * slope).real.sum()
    # Zero, with the gradient of the time at which the condition vanishes.
    shift = (value.detach() - value) / rate.detach()
    event_t = event_t.detach() + shift.to(event_t.dtype)
    state = state + slope * shift.to(state.real.dtype)
    if form.shapes is None:
        return event_t, torch.cat([solution[:-1], state[None]])
    return event_t, tuple(torch.cat([x[:-1], y[None]]) for x, y in zip(solution, form.parts(state), strict=True))
