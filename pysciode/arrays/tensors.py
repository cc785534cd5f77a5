"""The values that a problem's tensors have now, as flat arrays: NumPy's, or tensors on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .parameters import is_tensor

_View = tuple[int, int, torch.dtype, np.ndarray]
"""Address, length and dtype of a tensor, and a flat array over its memory.

The array keeps the memory alive, so nothing else can have come to its address: a contiguous tensor of the same address,
length and dtype still has this memory. Only ``x.data = …`` and the like give it another.
"""


class TensorValues:
    """Flat `u0` and parameters of a torch problem. Optimisers change tensors in place, so each solve reads them anew.

    To make NumPy's view of a tensor takes microseconds, so views are kept for as long as they are right. They are only
    read: threads may share them.
    """

    def __init__(self, u0: torch.Tensor, leaves: list[Any], dtype: np.dtype) -> None:
        self._u0 = u0
        self._leaves = leaves
        self._dtype = dtype
        self._views: dict[int, _View] = {}

    def __deepcopy__(self, memo: dict) -> None:
        return None  # a copied problem has its own tensors, and makes its own views

    def __reduce__(self) -> tuple:
        return (type(None), ())

    def u0(self) -> np.ndarray:
        """The state; shares the tensor's memory where it can."""
        return self._flat(-1, self._u0)

    def p(self) -> np.ndarray:
        """All parameters; shares the tensor's memory where there is but one."""
        if len(self._leaves) == 1:
            return self._flat(0, self._leaves[0])
        parts = [self._flat(i, x) for i, x in enumerate(self._leaves)]
        return np.concatenate(parts) if parts else np.zeros(0, self._dtype)

    def _flat(self, i: int, x: Any) -> np.ndarray:
        if not is_tensor(x):
            return np.ascontiguousarray(x, self._dtype).reshape(-1)
        view = self._views.get(i)
        if view is not None:
            address, length, dtype, array = view
            if x.data_ptr() == address and x.numel() == length and x.dtype is dtype and x.is_contiguous():
                return array
        values = x.numpy(force=True)
        array = np.ascontiguousarray(values, self._dtype).reshape(-1)
        if np.may_share_memory(array, values):
            self._views[i] = (x.data_ptr(), x.numel(), x.dtype, array)
        return array


class DeviceValues:
    """Flat `u0` and parameters of a problem whose tensors lie on a device, as tensors there."""

    def __init__(self, u0: torch.Tensor, leaves: Sequence[Any], dtype: np.dtype) -> None:
        self._u0 = u0
        self._leaves = leaves

    def __deepcopy__(self, memo: dict) -> None:
        return None

    def __reduce__(self) -> tuple:
        return (type(None), ())

    def u0(self) -> torch.Tensor:
        """The state; shares the tensor's memory where it can."""
        return self._flat(self._u0)

    def p(self) -> torch.Tensor:
        """All parameters; shares the tensor's memory where there is but one."""
        parts = [self._flat(torch.as_tensor(x)) for x in self._leaves]
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else self._u0.new_empty(0)

    def _flat(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().to(self._u0).contiguous().reshape(-1)
