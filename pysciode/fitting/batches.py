"""Data as batches that can be iterated repeatedly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch


class Batches:
    """A loader as it is; a tensor, a tuple of tensors, or None, as the one batch of each pass.

    Attributes
    ----------
    single
        Whether there is but one batch.
    generators
        Random generators of the loader's own, on which the order of the batches depends.

    Raises
    ------
    TypeError
        For other data; `name` is their name in the message.
    """

    def __init__(self, data: Any, name: str) -> None:
        whole = data is None or isinstance(data, torch.Tensor)
        whole = whole or (isinstance(data, tuple) and all(isinstance(x, torch.Tensor) for x in data))
        if not whole and not isinstance(data, Iterable):
            raise TypeError(f"{name} must be a loader, tensors or None, not {type(data).__name__}")
        if isinstance(data, Iterator):
            raise TypeError(f"{name} is an iterator, which can be gone through once; give a loader, a list, or steps with data=None")
        self.single = whole
        self._batches: Any = (data,) if whole else data
        found = (getattr(data, "generator", None), getattr(getattr(data, "sampler", None), "generator", None))
        self.generators = list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def count(self) -> int | None:
        """Batches of a pass, if the loader knows."""
        try:
            return len(self._batches)
        except TypeError:
            return None


def samples(batch: Any) -> int:
    """How many samples a batch holds: the length of its first tensor."""
    while isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]
    return len(batch) if isinstance(batch, torch.Tensor) and batch.ndim else 1
