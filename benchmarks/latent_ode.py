"""A training step of a latent ODE of Chen et al.'s sizes: 100 spirals, 30 of 100 times seen, 1e-3/1e-4, float32."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache

import torch
from measure import Prepare, Result, compare
from torch import nn
from torch.distributions import Normal, kl_divergence

BATCH, SEEN, NOISE, RTOL, ATOL = 100, 30, 0.3, 1e-3, 1e-4
TRAINED = 200
TIMES = torch.linspace(0.0, 4.0, 100)


@cache
def _data() -> torch.Tensor:
    """Stretches of spirals of either direction, NaN where nothing was observed."""
    generator = torch.Generator().manual_seed(1)
    direction = 1.0 - 2.0 * (torch.arange(BATCH)[:, None] % 2)
    angle = 2 * math.pi * (1 + torch.rand(BATCH, 1, generator=generator)) + TIMES
    x = 0.3 * angle[..., None] * torch.stack([direction * angle.cos(), angle.sin()], 2)
    x += NOISE * torch.randn(x.shape, generator=generator)
    hidden = torch.rand(BATCH, len(TIMES), generator=generator).argsort(1)[:, SEEN:]
    return x.scatter(1, hidden[..., None].expand(-1, -1, 2), math.nan)


@cache
def _trained() -> nn.Module:
    """After some steps: at the initial weights the latent state hardly moves, and a solve would take a step or two."""
    from pysciode.nn import LatentODE, RNNEncoder

    torch.manual_seed(0)
    dynamics = nn.Sequential(nn.Linear(4, 20), nn.ELU(), nn.Linear(20, 20), nn.ELU(), nn.Linear(20, 4))
    decoder = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 2))
    model = LatentODE(RNNEncoder(2, 25, 4), dynamics, decoder, 4, observation_sd=NOISE, rtol=RTOL, atol=ATOL, dt=0.5, engine="julia")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(TRAINED):
        optimizer.zero_grad()
        (-model.elbo(_data(), TIMES).mean()).backward()
        optimizer.step()
    return model


def _step(model: nn.Module, bound: Callable[[torch.Generator], torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    def step() -> list[torch.Tensor]:
        model.zero_grad()
        (-bound(torch.Generator().manual_seed(2)).mean()).backward()
        return [p.grad for p in model.parameters()]

    return step


def _pysciode() -> Callable[[], list[torch.Tensor]]:
    model = copy.deepcopy(_trained())
    model.options |= {"rtol": RTOL, "atol": ATOL}
    return _step(model, lambda generator: model.elbo(_data(), TIMES, generator=generator))


def _torchdiffeq(solver_name: str) -> Prepare:
    def prepare():
        import torchdiffeq

        from pysciode.nn.time_series import Observations

        solver = getattr(torchdiffeq, solver_name)
        model = copy.deepcopy(_trained())
        dynamics = _Rates(model.dynamics)
        options = {"rtol": RTOL, "atol": ATOL, "method": "dopri5", "options": {"first_step": 0.5}}

        def bound(generator: torch.Generator) -> torch.Tensor:
            """The same encoder, decoder and sample; the path at all times comes from torchdiffeq."""
            observations = Observations.of(_data(), TIMES)
            posterior = Normal(*model.encoder(observations, 0.0))
            noise = torch.randn(posterior.mean.shape, generator=generator)
            path = solver(dynamics, posterior.mean + posterior.stddev * noise, TIMES, **options)
            means = model.decoder(path.transpose(0, 1))
            log_p = Normal(means, NOISE).log_prob(observations.values)
            kl = kl_divergence(posterior, Normal(torch.zeros(4), torch.ones(4))).sum(1)
            return torch.where(observations.mask, log_p, 0).sum((1, 2)) - kl

        return _step(model, bound)

    return prepare


class _Rates(nn.Module):
    def __init__(self, dynamics: nn.Module) -> None:
        super().__init__()
        self.dynamics = dynamics

    def forward(self, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.dynamics(z)


CONTESTANTS = {
    "pysciode": _pysciode,
    "torchdiffeq": _torchdiffeq("odeint"),
    "torchdiffeq, adjoint": _torchdiffeq("odeint_adjoint"),
}


def results() -> list[Result]:
    """The gradient of the evidence lower bound to all weights, encoder and decoder included."""
    return [compare("latent ODE, training step", CONTESTANTS)]
