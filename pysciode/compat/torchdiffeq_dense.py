"""Solutions as functions of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ..solving import ADVICE
from .torch_states import Form
from .torchdiffeq import job_of, odeint
from .torchdiffeq_errors import InputError, StepsFailed


def dense(func: Callable[..., Any], y0: Any, t0: Any, t1: Any, settings: dict[str, Any]) -> Callable[[Any], Any]:
    """See :func:`~pysciode.compat.torchdiffeq.odeint_dense`; `settings` are its other arguments."""
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

    job, u0 = job_of(func, y0, span, settings)
    if job is None or (torch.is_grad_enabled() and (u0.requires_grad or job.adapter.tensors())):
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
