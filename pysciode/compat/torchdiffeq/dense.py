"""Solutions as functions of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ...arrays.torch_compile import opaque
from ...engines import get_engine
from ...solving.solution import ADVICE
from .errors import InputError, StepsFailed
from .odeint import State, job_of, odeint
from .states import Form


@opaque
def odeint_dense(
    func: Callable[..., Any],
    y0: State,
    t0: Any,
    t1: Any,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: Any = None,
    options: dict[str, Any] | None = None,
) -> Callable[[Any], Any]:
    """The solution of ``dy/dt = func(t, y)``, ``y(t0) = y0`` as a function of time.

    Parameters
    ----------
    t0, t1
        Numbers, or tensors without dimensions, between which times may lie.
    func, y0, rtol, atol, method, options
        As in :func:`odeint`.

    Returns
    -------
    callable
        A function of a time, or of a tensor of times; the states have the shape of the times in front of their own. Where `y0` or what `func`
        uses requires a gradient, each call solves anew, up to the last of its times.
    """
    settings = {"rtol": rtol, "atol": atol, "method": method, "options": options}
    if get_engine().name == "embedded":
        from .original import ODEINT_DENSE

        return ODEINT_DENSE(func, y0, t0, t1, **settings)
    return _dense(func, y0, t0, t1, settings)


def _dense(func: Callable[..., Any], y0: Any, t0: Any, t1: Any, settings: dict[str, Any]) -> Callable[[Any], Any]:
    start, end = _number(t0, "t0"), _number(t1, "t1")
    if start == end:
        raise InputError(f"t0 and t1 must differ, but both are {start:g}")
    first = y0 if isinstance(y0, torch.Tensor) else y0[0]
    dtype = t0.dtype if torch.is_tensor(t0) else first.real.dtype
    span = torch.tensor([start, end], dtype=dtype)

    def by_solving(t: Any) -> Any:
        times = _inside(t, start, end, dtype)
        later, place = torch.unique(times.detach().reshape(-1), return_inverse=True)
        if end < start:
            later, place = later.flip(0), len(later) - 1 - place
        skip = 0 if later[0].item() == start else 1
        path = odeint(func, y0, torch.cat([span[:skip], later]), **settings)
        form = Form.of(y0)[0]
        states = (path if form.shapes is None else torch.cat([x.flatten(1) for x in path], -1))[skip:][place]
        if times.requires_grad:
            moved = (times - times.detach()).reshape(-1, *[1] * (states.ndim - 1))
            states = states + _slopes(func, form, times, states) * moved.to(states.real.dtype)
        return form.parts(states.reshape((*times.shape, *states.shape[1:])))

    posed = job_of(func, y0, span, settings)
    if posed is None:
        return by_solving
    job, u0 = posed
    if torch.is_grad_enabled() and (u0.requires_grad or job.adapter.tensors()):
        return by_solving
    solution = job.every_step(u0, start, end)
    if not solution.success:
        raise StepsFailed(solution.retcode, solution.t_reached, solution, ADVICE.get(solution.retcode, ""))
    form = job.adapter.form

    def by_interpolation(t: Any) -> Any:
        if torch.is_tensor(t) and t.requires_grad:
            return by_solving(t)
        return form.user(solution(_inside(t, start, end, dtype)))

    return by_interpolation


def _slopes(func: Callable[..., Any], form: Form, times: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        at = times.reshape(-1).to(states.real.dtype)
        return torch.stack([form.joined(form.real(func(t, form.parts(y)))) for t, y in zip(at, states, strict=True)])


def _number(t: Any, name: str) -> float:
    try:
        value = t.item() if torch.is_tensor(t) else float(t)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, not {t!r}") from None
    if not math.isfinite(value):
        raise InputError(f"{name} must be finite, not {value}")
    return value


def _inside(t: Any, start: float, end: float, dtype: torch.dtype) -> torch.Tensor:
    times = t if torch.is_tensor(t) else torch.as_tensor(t, dtype=dtype)
    low, high = min(start, end), max(start, end)
    if times.numel() and not (low <= times.min().item() and times.max().item() <= high):
        raise ValueError(f"t must lie between {low:g} and {high:g}, where the solution is known")
    return times
