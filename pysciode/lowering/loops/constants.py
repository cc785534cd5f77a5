"""The tensors that are part of a model."""

from __future__ import annotations

import numpy as np
import torch

from ..ops.backend import Kind
from .buffers import Buffer


class Constants:
    """The tensors that are part of a model, each bound once under a name of its own."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.arrays: dict[str, np.ndarray] = {}
        self._known: dict[tuple[bytes, str], Buffer] = {}

    def buffer(self, value: torch.Tensor, kind: Kind) -> Buffer:
        types = {"float": self.dtype, "int": np.dtype(np.int64), "bool": np.dtype(np.bool_)}
        data = np.ascontiguousarray(value.numpy(), dtype=types[kind]).reshape(-1)
        key = (data.tobytes(), kind)
        if key not in self._known:
            name = f"c{len(self.arrays) + 1}"
            self.arrays[name] = data
            self._known[key] = Buffer(data.size, kind, name)
        return self._known[key]
