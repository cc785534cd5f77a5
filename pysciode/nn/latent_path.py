"""The latent path of a batch, forwards and backwards from where it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..capture.torch.arguments import infer_signature
from ..methods.algorithms import Algorithm
from ..solving.solution import Solution
from .trajectory import Field, Trajectory, continuous_solution


@dataclass(frozen=True)
class LatentPath:
    """States at any time of the range that was solved.

    Attributes
    ----------
    start
        Shape ``(samples, batch, d)``.
    t0
        The time of `start`.
    later, earlier
        From `t0` on and back; None where no time lies there.
    """

    start: torch.Tensor
    t0: float
    later: Trajectory | None
    earlier: Trajectory | None

    def __call__(self, times: torch.Tensor) -> torch.Tensor:
        """States at `times`, ``(n,)`` or ``(batch, n)``, as ``(samples, batch, n, d)``; beyond the range those at its end."""
        if self.later is None:
            return self.start[:, :, None].expand(-1, -1, times.shape[-1], -1) if self.earlier is None else self.earlier(times)
        if self.earlier is None:
            return self.later(times)
        return torch.where((times >= self.t0)[..., None], self.later(times), self.earlier(times))


def follow(
    field: Field,
    start: torch.Tensor,
    t0: float,
    wanted: torch.Tensor,
    algorithm: Algorithm | None,
    options: Mapping[str, Any],
) -> tuple[LatentPath, list[Solution]]:
    """The path from `start` at `t0`, as far as the times in `wanted` go to either side; see `continuous_solution`."""
    parts: list[Trajectory | None] = [None, None]
    solutions = []
    if wanted.numel():
        last, first = wanted.max().item(), wanted.min().item()
        for i, (end, lies_there) in enumerate(((last, last > t0), (first, first < t0))):
            if lies_there:
                parts[i], solved = continuous_solution(field, start, t0, end, algorithm, options)
                solutions += solved
    return LatentPath(start, t0, *parts), solutions


def latent_field(dynamics: nn.Module, intensity: nn.Module | None, latent_dim: int) -> Field:
    """``f(t, u)``; with an intensity its integral follows the latent state in `u`."""
    roles = infer_signature(dynamics)

    def flow(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        given = {"t": t, "u": u}
        return dynamics(*[given[role] for role in roles])

    if intensity is None:
        return flow

    def flow_with_integral(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        z = u[:, :latent_dim]
        return torch.cat([flow(t, z), intensity(z).exp()], 1)

    return flow_with_integral


def by_rows(module: Callable[[torch.Tensor], torch.Tensor], latent: torch.Tensor) -> torch.Tensor:
    """`module`, which takes ``(rows, latent_dim)``, on states of any shape ``(…, latent_dim)``."""
    return module(latent.flatten(0, -2)).unflatten(0, latent.shape[:-1])
