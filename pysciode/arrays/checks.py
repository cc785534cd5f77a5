"""Checks of users' arguments. Each error names the argument; no engine is involved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .parameters import is_module, is_tensor
from .real_values import check_mask, check_storage, real_number

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_LIMITS = {x.dtype: (float(x.max), float(x.eps), float(x.smallest_subnormal)) for x in map(np.finfo, _FLOATS)}
"""Largest number, relative and smallest spacing."""

_RESOLVED = dict(zip(_FLOATS, (100, 10_000), strict=True))
"""The least number of floating-point spacings in a time span. Solvers round each step to a spacing: with so few, solutions over some time
constants were off by 3e-4 in float32 and by 8e-5 in float64."""

_FEW = 16


@dataclass(frozen=True)
class TimeSpan:
    """Start and end as floats, and as the tensors that they came from where these require grad."""

    start: float
    end: float
    start_tensor: Any = None
    end_tensor: Any = None

    @property
    def direction(self) -> int:
        return 1 if self.end > self.start else -1


def check_function(f: Any, name: str = "f") -> None:
    """Refuse what capture can't take apart."""
    if callable(f) or is_module(f) or isinstance(f, str):
        return
    if isinstance(f, (tuple, list)) and len(f) > 0:
        return  # expressions; capture says what is wrong with them
    if hasattr(f, "free_symbols") or hasattr(f, "__fspath__"):
        return  # one SymPy expression or matrix; a Julia file
    raise TypeError(f"{name} must be a function f(u, p, t), an nn.Module, SymPy expressions or Julia source, not {type(f).__name__}")


def state_of(u0: Any, leaves: Sequence[Any], torch_backend: bool, name: str = "u0") -> tuple[Any, np.dtype]:
    """`u0` as an array or tensor of a floating dtype, and that dtype.

    Raises
    ------
    TypeError
        If `u0` is not real, or has no dtype that the solvers know (float32 and float64; integers become float64).
    ValueError
        If `u0` is empty or not finite.
    """
    if is_tensor(u0):
        dtype = _tensor_dtype(u0, name)
        if not u0.is_floating_point():
            u0 = u0.to(_torch().float64)
        check_storage(u0, name)
    else:
        u0 = _array(u0, name)
        dtype = u0.dtype
        if torch_backend:
            u0 = _torch().from_numpy(u0)
    if math.prod(u0.shape) == 0:
        raise ValueError(f"{name} is empty (shape {tuple(u0.shape)}); there is nothing to solve")
    check_finite(u0, name)
    return u0, dtype


def _array(u0: Any, name: str) -> np.ndarray:
    if u0 is None or isinstance(u0, (str, bytes, dict, set)):
        raise TypeError(f"{name} must be a number or an array, not {type(u0).__name__}")
    if isinstance(u0, (list, tuple)) and any(map(is_tensor, u0)):
        raise TypeError(f"{name} is a {type(u0).__name__} of tensors; make it one: torch.stack({name}) or torch.cat({name})")
    check_mask(u0, name)
    try:
        array = np.array(u0, order="C")  # a copy: the problem's state does not change with the caller's array
    except ValueError as error:
        raise ValueError(f"{name} is ragged: {error}") from None
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    if array.dtype in _FLOATS:
        return array
    if array.dtype.kind == "c":
        raise TypeError(f"{name} is complex; write the equations for its real and imaginary parts")
    raise TypeError(f"{name} has dtype {array.dtype}; float32 and float64 are supported")


def _torch() -> Any:
    import torch

    return torch


def _tensor_dtype(x: Any, name: str) -> np.dtype:
    torch = _torch()
    if x.dtype == torch.float64:
        return _FLOATS[1]
    if x.dtype == torch.float32:
        return _FLOATS[0]
    if x.is_complex():
        raise TypeError(f"{name} is complex; write the equations for its real and imaginary parts")
    if x.is_floating_point() or x.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {x.dtype}; float32 and float64 are supported")
    return _FLOATS[1]


def check_leaves(leaves: Sequence[Any], names: Sequence[str], dtype: np.dtype, state: str = "u0") -> None:
    """Check that every array among the parameters is real and finite, and every floating tensor has the state's dtype."""
    for x, name in zip(leaves, names, strict=True):
        if is_tensor(x):
            if x.is_floating_point() or x.is_complex() or x.dtype == _torch().bool:
                found = _tensor_dtype(x, name)
                if found != dtype:
                    raise TypeError(f"{name} is {found} but {state} is {dtype}: convert one of them, for instance {name}.to({state}.dtype)")
            check_storage(x, name)
        elif isinstance(x, np.ndarray):
            if x.dtype.kind == "c":
                raise TypeError(f"{name} is complex; parameters must be real")
            if x.dtype.kind not in "fiu":
                raise TypeError(f"{name} has dtype {x.dtype}; parameters must be real numbers")
            check_mask(x, name)
        else:
            x = real_number(x, name)
        check_finite(x, name)
        if not is_tensor(x) and getattr(x, "dtype", _FLOATS[1]).itemsize > dtype.itemsize and not np.all(np.abs(x) <= _LIMITS[dtype][0]):
            raise ValueError(f"{name} is beyond the range of {dtype}, the dtype of {state}")


def all_finite(x: np.ndarray) -> bool:
    """Whether a flat array holds neither NaN nor infinity; faster than NumPy for a few numbers."""
    if x.size <= _FEW:
        return all(map(math.isfinite, x.tolist()))
    return bool(np.isfinite(x).all())


def check_finite(x: Any, name: str) -> None:
    """Refuse NaN and infinity; tensors inside a torch.func transformation have no values, and pass."""
    if is_tensor(x):
        from .torch_transforms import is_wrapped, transforming

        torch = _torch()
        if is_wrapped(x):
            return
        # NumPy is faster for a few numbers, but has no view of tensors inside a transformation.
        by_torch = transforming() or x.device.type != "cpu"
        if torch.isfinite(x).all() if by_torch else all_finite(x.numpy(force=True).reshape(-1)):
            return
        bad = torch.nonzero(~torch.isfinite(x))[0].tolist()
        value = x[tuple(bad)].item()
    else:
        if np.isfinite(x).all():
            return
        x = np.asarray(x)
        bad = np.argwhere(~np.isfinite(x))[0].tolist()
        value = x[tuple(bad)]
    place = f"{name}[{', '.join(map(str, bad))}]" if bad else name
    raise ValueError(f"{place} is {value}; {name} must be finite")


def check_time_span(tspan: Any) -> TimeSpan:
    """Two finite, different times.

    Raises
    ------
    TypeError
        If `tspan` is not a pair of numbers.
    ValueError
        If a time is not finite, or both are the same.
    """
    try:
        start, end = tspan
    except (TypeError, ValueError):
        raise TypeError(f"tspan must be a pair of times (start, end), not {tspan!r}") from None
    values = []
    for x, which in ((start, "tspan[0]"), (end, "tspan[1]")):
        value = real_number(x, which)
        if not math.isfinite(value):
            raise ValueError(f"{which} is {value}; tspan must be finite")
        values.append(value)
    if values[0] == values[1]:
        raise ValueError(f"tspan = ({values[0]:g}, {values[1]:g}): start and end must differ")
    return TimeSpan(*values, *(x if is_tensor(x) and x.requires_grad else None for x in (start, end)))


def check_resolution(span: TimeSpan, dtype: np.dtype) -> None:
    """Check that the state's dtype, which times have in the solver, resolves enough different times in the span.

    Raises
    ------
    ValueError
        If not.
    """
    largest, eps, smallest = _LIMITS[dtype]
    latest = max(abs(span.start), abs(span.end))
    if latest > largest or abs(span.end - span.start) < _RESOLVED[dtype] * max(eps * latest, smallest):
        raise ValueError(
            f"tspan = ({span.start!r}, {span.end!r}) can't be resolved in {dtype}: count the time from another origin or in "
            "other units, or give u0 as float64"
        )


def check_matrix(matrix: Any, n: int, name: str) -> None:
    """A square matrix of the state's size; dense or SciPy sparse."""
    shape = getattr(matrix, "shape", None)
    if shape is None:
        shape = np.shape(matrix)
    if tuple(shape) != (n, n):
        raise ValueError(f"{name} has shape {tuple(shape)}, but a state of {n} entries needs ({n}, {n})")
    values = np.asarray(matrix.tocoo().data if hasattr(matrix, "tocoo") else matrix)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {values.dtype}; it must be made of real numbers")
    if values.dtype.kind == "f":
        check_finite(values, name)
