"""Two-dimensional densities on which flows are usually tried, each from its formula, all within about (-4, 4)²."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def circles(n: int) -> torch.Tensor:
    """Two concentric circles with Gaussian radii."""
    angle = 2 * math.pi * torch.rand(n)
    radius = torch.where(torch.rand(n) < 0.5, 1.5, 3.0) + 0.12 * torch.randn(n)
    return polar(radius, angle)


def pinwheel(n: int) -> torch.Tensor:
    """Five Gaussian blades, each bent the more the farther out."""
    along, across = 1.0 + 0.3 * torch.randn(n), 0.1 * torch.randn(n)
    turn = 2 * math.pi / 5 * torch.randint(0, 5, (n,)) + 0.25 * torch.exp(along)
    x, y = torch.cos(turn) * along - torch.sin(turn) * across, torch.sin(turn) * along + torch.cos(turn) * across
    return 2.0 * torch.stack([x, y], 1)


def checkerboard(n: int) -> torch.Tensor:
    """Uniform on eight squares of side 2: its entropy is log 32."""
    column, row = torch.randint(0, 4, (n,)), torch.randint(0, 2, (n,))
    corner = torch.stack([column, 2 * row + column % 2], 1)
    return 2.0 * (corner + torch.rand(n, 2)) - 4.0


def gaussians(n: int) -> torch.Tensor:
    """Eight Gaussians on a circle, too narrow to overlap: the entropy is log 8 + log(2 π e 0.3²)."""
    angle = math.pi / 4 * torch.randint(0, 8, (n,))
    return polar(torch.tensor(3.0), angle) + 0.3 * torch.randn(n, 2)


def moons(n: int) -> torch.Tensor:
    """Two half circles that reach into each other."""
    angle, lower = math.pi * torch.rand(n), torch.rand(n) < 0.5
    upper_moon = polar(torch.tensor(2.0), angle) + torch.tensor([-1.0, -0.5])
    lower_moon = polar(torch.tensor(2.0), -angle) + torch.tensor([1.0, 0.5])
    return torch.where(lower[:, None], lower_moon, upper_moon) + 0.15 * torch.randn(n, 2)


def spirals(n: int) -> torch.Tensor:
    """Two arms of an Archimedean spiral, with equal mass for equal area."""
    angle = 3 * math.pi * torch.rand(n).sqrt()
    arm = math.pi * torch.randint(0, 2, (n,))
    return polar(angle / 2.6, angle + arm) + 0.1 * torch.randn(n, 2)


def polar(radius: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 1)


DENSITIES: dict[str, Callable[[int], torch.Tensor]] = {
    "circles": circles,
    "pinwheel": pinwheel,
    "checkerboard": checkerboard,
    "gaussians": gaussians,
    "moons": moons,
    "spirals": spirals,
}
"""Samplers by name: ``n`` samples, shape ``(n, 2)``."""

ENTROPIES = {"checkerboard": math.log(32.0), "gaussians": math.log(8.0) + math.log(2 * math.pi * math.e * 0.3**2)}
"""Where they have a formula, in nats: the lowest negative log likelihood, but for chance in the samples."""
