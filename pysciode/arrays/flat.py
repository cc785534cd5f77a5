"""The flat arrays that cross to an engine: NumPy arrays in main memory, torch tensors on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .checks import all_finite
from .parameters import flat_array
from .tensors import DeviceValues


class InMainMemory:
    """NumPy arrays."""

    all_finite: Callable[[Any], bool] = staticmethod(all_finite)
    copy: Callable[..., Any] = staticmethod(np.copy)
    tensor: Callable[[Any], torch.Tensor] = staticmethod(torch.from_numpy)
    zeros_like: Callable[[Any], Any] = staticmethod(np.zeros_like)

    @staticmethod
    def values(u0: torch.Tensor, leaves: Sequence[Any], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Flat `u0` and parameters."""
        return u0.reshape(-1).numpy(force=True), flat_array(leaves, dtype)

    @staticmethod
    def like(x: torch.Tensor, other: Any) -> Any:
        """`x` with the dtype and shape of another array."""
        return np.ascontiguousarray(x.numpy(force=True), other.dtype).reshape(other.shape)

    @staticmethod
    def largest(x: Any) -> float:
        """The largest absolute value."""
        return float(np.abs(x).max(initial=0.0))


class OnDevice:
    """Tensors."""

    copy: Callable[..., Any] = staticmethod(torch.clone)
    zeros_like: Callable[[Any], Any] = staticmethod(torch.zeros_like)

    @staticmethod
    def tensor(x: Any) -> torch.Tensor:
        return x

    @staticmethod
    def all_finite(x: Any) -> bool:
        return bool(torch.isfinite(x).all())

    @staticmethod
    def values(u0: torch.Tensor, leaves: Sequence[Any], dtype: np.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Flat `u0` and parameters."""
        flat = DeviceValues(u0, leaves, dtype)
        return flat.u0(), flat.p()

    @staticmethod
    def like(x: torch.Tensor, other: Any) -> Any:
        """`x` with the dtype and shape of another tensor."""
        return x.detach().to(other.dtype).contiguous().reshape(other.shape)

    @staticmethod
    def largest(x: Any) -> float:
        """The largest absolute value."""
        return x.abs().max().item() if x.numel() else 0.0
