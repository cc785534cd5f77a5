"""Numbers and arrays that users pass as options: real, or refused by name; never cast silently."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from .parameters import is_tensor


def whole_number(value: Any, name: str, least: int, most: int | None = None) -> int:
    """A whole number from `least` to `most`, Python's or NumPy's.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """
    bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number {bounds}, not {value!r}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name} must be a whole number {bounds}, not {value!r}")
    return int(value)


def real_number(value: Any, name: str) -> float:
    """One number, Python's, NumPy's or a tensor without dimensions, as a float; it may be infinite or NaN.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, for all else: bools, strings and complex numbers too.
    """
    if type(value) is float:
        return value
    if is_tensor(value) or isinstance(value, (np.ndarray, np.generic)):
        if value.ndim == 0:
            return float(real_array(value, name))
    elif isinstance(value, Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{name} is beyond the range of floating-point numbers") from None
    raise TypeError(f"{name} must be a real number, not {value!r}")


def positive(value: Any, name: str) -> float | None:
    """A step size or a tolerance: positive and finite (SciML sets the sign in backward solves); None passes.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """
    if value is None:
        return None
    value = real_number(value, name)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, not {value:g}")
    return value


def real_array(value: Any, name: str) -> np.ndarray:
    """Numbers of any shape as a new, contiguous float64 array.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, for what is not made of real numbers.
    """
    if is_tensor(value):
        check_storage(value, name)
        try:
            # Inside a torch.func transformation NumPy has no view of any tensor.
            value = np.reshape(value.tolist(), tuple(value.shape))
        except RuntimeError:
            raise TypeError(f"{name} is a batch inside vmap, which has no values to go by") from None
    elif isinstance(value, (list, tuple)) and any(is_tensor(x) and x.requires_grad for x in value):
        raise TypeError(f"{name} is a {type(value).__name__} of tensors that require grad; make it one: torch.stack({name})")
    check_mask(value, name)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a number or an array of numbers: {error}") from None
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be made of real numbers, not {value!r}")
    return np.array(array, np.float64, order="C")


def check_storage(x: Any, name: str) -> None:
    """Refuse tensors on unsupported devices and sparse ones."""
    if x.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} is on device {x.device}; solves run on the CPU and on CUDA devices: pass {name}.cpu()")
    import torch

    if x.layout != torch.strided:
        raise TypeError(f"{name} is a sparse tensor; pass {name}.to_dense()")


def check_mask(x: Any, name: str) -> None:
    """Refuse a masked array with masked entries."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ValueError(f"{name} has masked entries")
