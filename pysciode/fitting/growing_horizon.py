"""Growing horizons: first the beginning of the data, then more and more of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..arrays.real_values import whole_number
from .multiple_shooting import check_times


@dataclass(frozen=True, eq=False)
class GrowingHorizon:
    """A schedule of ever longer beginnings of the data, as batches of a training run.

    Over a short time trajectories can't drift far, and their loss has few minima; each stage begins where the one before has
    brought the parameters. Going through it once is the whole schedule: it is the `data` of one epoch of
    :func:`pysciode.fitting.train`, with one optimiser, one history and one checkpoint.

    Attributes
    ----------
    t
        Times, shape ``(k,)``, strictly monotone.
    observed
        Data, shape ``(k, ...)``.
    stages
        How many horizons, of evenly growing lengths up to `k`.
    steps
        Steps of the optimiser on each horizon.
    first
        Points of the first horizon, at least 2; by default ``k / stages``, rounded up.

    Raises
    ------
    ValueError
        If an attribute is invalid; the message names it.

    Examples
    --------
    >>> def loss(model, batch):
    ...     t, observed = batch
    ...     return (model(observed[0], t) - observed).square().mean()
    >>> horizons = GrowingHorizon(t, observed, stages=5, steps=200)
    >>> train(model, loss, horizons, torch.optim.Adam(model.parameters(), lr=0.01), epochs=1)
    """

    t: Any
    observed: Any
    stages: int = 5
    steps: int = 100
    first: int | None = None

    def __post_init__(self) -> None:
        k = len(check_times(self.t))
        observed = torch.as_tensor(self.observed)
        if observed.ndim < 1 or len(observed) != k:
            raise ValueError(f"observed has shape {tuple(observed.shape)}, but there are {k} times")
        whole_number(self.stages, "stages", 1, k - 1)
        whole_number(self.steps, "steps", 1)
        first = self._first_length(k)
        whole_number(first, "first", 2, k)
        for name, value in (("t", torch.as_tensor(self.t)), ("observed", observed), ("first", first)):
            object.__setattr__(self, name, value)

    def _first_length(self, k: int) -> int:
        return max(2, -(-k // self.stages)) if self.first is None else self.first

    @property
    def lengths(self) -> tuple[int, ...]:
        """Points of each horizon; the last has all."""
        if self.stages == 1:
            return (len(self.t),)
        return tuple(int(round(x)) for x in np.linspace(self._first_length(len(self.t)), len(self.t), self.stages))

    def __len__(self) -> int:
        return self.stages * self.steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for length in self.lengths:
            for _ in range(self.steps):
                yield self.t[:length], self.observed[:length]
