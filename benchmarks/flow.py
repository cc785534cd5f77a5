"""A training step of FFJORD's network (concat-squash, 64-64-64) in the plane: batch 512, 1e-5/1e-5, float32."""

from __future__ import annotations

import math

import torch
from measure import Result, compare

BATCH, TOLERANCE = 512, 1e-5


def _network() -> torch.nn.Module:
    from pysciode.nn import ConcatSquashNetwork

    torch.manual_seed(0)
    return ConcatSquashNetwork(2)


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    """Points around a ring, and signs for Hutchinson's estimate."""
    generator = torch.Generator().manual_seed(1)
    angle = 2 * math.pi * torch.rand(BATCH, generator=generator)
    x = 2.0 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * torch.randn(BATCH, 2, generator=generator)
    return x, torch.randint(0, 2, x.shape, generator=generator) * 2.0 - 1.0


def _gradient(network: torch.nn.Module, log_prob) -> None:
    network.zero_grad()
    (-log_prob().mean()).backward()


def _pysciode(trace: str):
    def prepare():
        from pysciode.nn import ContinuousFlow

        network, (x, _) = _network(), _data()
        flow = ContinuousFlow(network, 2, trace=trace, rtol=TOLERANCE, atol=TOLERANCE, engine="julia")
        return lambda: _gradient(network, lambda: flow.log_prob(x))

    return prepare


class _Rates(torch.nn.Module):
    """The equations as they are usually written for torchdiffeq: ``autograd.grad`` inside the right-hand side."""

    def __init__(self, network: torch.nn.Module, noise: torch.Tensor | None) -> None:
        super().__init__()
        self.network, self.noise = network, noise

    def forward(self, t, state):
        with torch.enable_grad():
            x = state[0].requires_grad_()
            dx = self.network(t, x)
            if self.noise is not None:
                row = torch.autograd.grad(dx, x, self.noise, create_graph=True)[0]
                return dx, (row * self.noise).sum(1)
            columns = range(x.shape[1])
            return dx, sum(torch.autograd.grad(dx[:, i].sum(), x, create_graph=True)[0][:, i] for i in columns)


def _torchdiffeq(solver_name: str, trace: str):
    def prepare():
        import torchdiffeq

        solver = getattr(torchdiffeq, solver_name)
        network, (x, noise) = _network(), _data()
        rates = _Rates(network, noise if trace == "hutchinson" else None)
        start, times = (x, torch.zeros(BATCH)), torch.tensor([1.0, 0.0])

        def log_prob():
            z, log_det = solver(rates, start, times, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")
            return torch.distributions.Normal(0.0, 1.0).log_prob(z[-1]).sum(1) + log_det[-1]

        return lambda: _gradient(network, log_prob)

    return prepare


def results() -> list[Result]:
    """One gradient of the mean log likelihood, with each trace."""
    return [
        compare(
            f"continuous flow training step, {trace} trace",
            {
                "pysciode": _pysciode(trace),
                "torchdiffeq": _torchdiffeq("odeint", trace),
                "torchdiffeq, adjoint": _torchdiffeq("odeint_adjoint", trace),
            },
        )
        for trace in ("exact", "hutchinson")
    ]
