"""Checks of the arguments of torchdiffeq's functions; invalid ones raise torchdiffeq's exceptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...arrays.torch_transforms import transforming
from .errors import InputError
from .states import HALF, Form, widened

_STEP_HOOKS = ("callback_step", "callback_accept_step", "callback_reject_step")
STEP_HOOKS = (*_STEP_HOOKS, *(f"{name}_adjoint" for name in _STEP_HOOKS))
"""Attributes of a function that torchdiffeq calls at its steps."""


def check_state(y0: Any) -> None:
    """A tensor, or a tuple of tensors."""
    if isinstance(y0, torch.Tensor):
        if not (y0.is_floating_point() or y0.is_complex()):
            raise TypeError(f"y0 must be a floating point tensor, not {y0.dtype}")
        return
    if not isinstance(y0, tuple):
        raise InputError(f"y0 must be either a torch.Tensor or a tuple, not {type(y0).__name__}")
    for i, y in enumerate(y0):
        if not isinstance(y, torch.Tensor):
            raise TypeError(f"y0[{i}] must be a tensor, not {type(y).__name__}")
        if not (y.is_floating_point() or y.is_complex()):
            raise TypeError(f"y0[{i}] must be a floating point tensor, not {y.dtype}")


def check_times(t: Any) -> None:
    """One or more times, strictly monotone.

    Raises
    ------
    TypeError
        If they are no floating point numbers.
    InputError
        A ValueError and an AssertionError, for anything else.
    """
    if not isinstance(t, torch.Tensor):
        raise InputError(f"t must be a torch.Tensor, not {type(t).__name__}")
    if not t.is_floating_point():
        raise TypeError(f"t must be a floating point tensor, not {t.dtype}")
    if t.ndim != 1:
        raise InputError(f"t must be one dimensional, but has shape {tuple(t.shape)}")
    if len(t) == 0:
        raise InputError("t is empty; it must hold at least the time of y0")
    values = numbers(t)
    steps = np.diff(values)
    if not ((steps > 0).all() or (steps < 0).all()) or not np.isfinite(values).all():
        raise InputError("t must be strictly increasing or decreasing, and finite")


def numbers(t: torch.Tensor) -> np.ndarray:
    """The values of times, those that torch.func transforms too.

    Raises
    ------
    InputError
        For a batch of them inside vmap.
    """
    t = widened(t)
    if not transforming():
        return t.numpy(force=True)
    try:
        return np.array(t.tolist(), dtype=str(t.dtype).removeprefix("torch."))
    except RuntimeError:
        raise InputError("t must be the same for all members of a batch of vmap") from None


def tolerance(value: Any, name: str, form: Form) -> Any:
    """`rtol` or `atol` of the real tensor: one float, or an array of its shape.

    Parameters
    ----------
    value
        A number, a tensor that fits the state's shape, or for a tuple one of either for each of its tensors.
    """
    if torch.is_tensor(value):
        if value.requires_grad:
            raise InputError(f"{name} cannot require gradient")
        if value.ndim == 0:
            return value.item()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if form.shapes is not None:
        parts = _parts(value, name, len(form.shapes))
        try:
            spread = [_spread(torch.as_tensor(x), shape) for x, shape in zip(parts, form.shapes, strict=True)]
        except RuntimeError:
            raise InputError(f"{name} must fit the tensors of y0 one by one") from None
        whole = torch.cat(spread) if spread else torch.zeros(0)
    else:
        try:
            whole = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be a number or a tensor, not {value!r}") from None
    try:
        return form.tolerance(whole).numpy(force=True)
    except RuntimeError:
        raise InputError(f"{name} has shape {tuple(whole.shape)}, but the state has {tuple(form.shape)}") from None


def _spread(tolerance: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    # torchdiffeq takes those of all entries of a tensor in one row.
    return tolerance.expand(shape.numel()) if tolerance.ndim == 1 else tolerance.expand(shape).reshape(-1)


def _parts(value: Any, name: str, count: int) -> Sequence[Any]:
    try:
        parts = tuple(value)
    except TypeError:
        raise TypeError(f"{name} must be a number, or one for each tensor of y0, not {value!r}") from None
    if len(parts) != count:
        raise InputError(f"{name} has {len(parts)} entries, but y0 {count} tensors: they must be as many")
    return parts


def not_here(func: Any, y0: Any, t: torch.Tensor) -> str | None:
    """Why Julia can't solve this; None if it can."""
    parts = (y0,) if isinstance(y0, torch.Tensor) else y0
    for y in parts:
        if y.device.type not in ("cpu", "cuda"):
            return f"a tensor on the device {y.device}"
        if y.device != parts[0].device:
            return f"tensors on the devices {parts[0].device} and {y.device}"
        if y.dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128, *HALF):
            return f"a state of {y.dtype}"
    for name in STEP_HOOKS:
        if getattr(func, name, None) is not None:
            return f"it has a {name}"
    return None
