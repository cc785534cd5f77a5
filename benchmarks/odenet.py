"""A training step of an ODE-Net's block: two 3x3 convolutions, 128 images of 16 channels, 4x4, 1e-3/1e-3, float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from measure import Prepare, Result, compare

BATCH, WIDTH, SIZE, TOLERANCE = 128, 16, 4, 1e-3


class Dynamics(torch.nn.Module):
    """Those of Chen et al. (2018, arXiv:1806.07366), section 3; the time is a further channel of both convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.GroupNorm(8, WIDTH) for _ in range(3))
        self.convolutions = torch.nn.ModuleList(torch.nn.Conv2d(WIDTH + 1, WIDTH, 3, padding=1) for _ in range(2))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        for norm, convolution in zip(self.norms[:2], self.convolutions, strict=True):
            u = torch.relu(norm(u))
            u = convolution(torch.cat([t.expand(len(u), 1, *u.shape[2:]), u], 1))
        return self.norms[2](u)


def _dynamics() -> Dynamics:
    torch.manual_seed(0)
    return Dynamics()


def _step(dynamics: Dynamics, flow: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """Gradients to the weights and to the features that come in, which have layers before them."""
    features = torch.randn(BATCH, WIDTH, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def step() -> list[torch.Tensor]:
        dynamics.zero_grad()
        features.grad = None
        loss = flow(features).square().mean()
        loss.backward()
        return [features.grad, *(p.grad for p in dynamics.parameters())]

    return step


def _pysciode(sensealg_name: str | None = None) -> Prepare:
    def prepare():
        import pysciode as ps
        from pysciode.nn import NeuralODE

        dynamics = _dynamics()
        sensealg = getattr(ps, sensealg_name)() if sensealg_name else None
        return _step(dynamics, NeuralODE(dynamics, rtol=TOLERANCE, atol=TOLERANCE, sensealg=sensealg, engine="julia"))

    return prepare


def _torchdiffeq(solver_name: str) -> Prepare:
    def prepare():
        import torchdiffeq

        solver = getattr(torchdiffeq, solver_name)
        dynamics, times = _dynamics(), torch.tensor([0.0, 1.0])
        options = {"rtol": TOLERANCE, "atol": TOLERANCE, "method": "dopri5"}
        return _step(dynamics, lambda features: solver(dynamics, features, times, **options)[-1])

    return prepare


CONTESTANTS = {
    "pysciode": _pysciode(),
    "pysciode, adjoint": _pysciode("BacksolveAdjoint"),
    "torchdiffeq": _torchdiffeq("odeint"),
    "torchdiffeq, adjoint": _torchdiffeq("odeint_adjoint"),
}


def results() -> list[Result]:
    """Forward and backward through the block; the second of ours does what torchdiffeq's adjoint does."""
    return [compare("ODE-Net block, training step", CONTESTANTS)]
