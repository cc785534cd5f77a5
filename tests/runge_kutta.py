"""Classical Runge-Kutta steps, which torch differentiates: a reference for gradients of networks."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch


def states_of_steps(f: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor, dt: float, after: Collection[int]) -> torch.Tensor:
    """The states after so many steps each, shape ``(len(after), *u.shape)``."""
    states = []
    for step in range(1, max(after) + 1):
        k1 = f(u)
        k2 = f(u + dt / 2 * k1)
        k3 = f(u + dt / 2 * k2)
        u = u + dt / 6 * (k1 + 2 * k2 + 2 * k3 + f(u + dt * k3))
        if step in after:
            states.append(u)
    return torch.stack(states)
