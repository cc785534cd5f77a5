"""Latent ODEs against closed forms, torchdiffeq and networks run by hand."""

from __future__ import annotations

import copy
import io
import math
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn
from torchdiffeq import odeint

from pysciode.nn import ELBO, KLAnnealing, LatentODE, Observations, ODERNNEncoder, RNNEncoder
from pysciode.nn.trajectory import continuous_solution

D, LATENT, HIDDEN = 2, 3, 5
TIMES = torch.tensor([0.1, 0.3, 0.35, 0.9, 1.25, 2.0])


def network(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def make(engine: str, kind: str = "rnn", **options) -> LatentODE:
    torch.manual_seed(1)
    if kind == "rnn":
        encoder = RNNEncoder(D, HIDDEN, LATENT)
    else:
        encoder = ODERNNEncoder(D, HIDDEN, LATENT, network(HIDDEN, 6, HIDDEN), engine=engine, rtol=1e-6, atol=1e-8)
    options = {"observation_sd": 0.3, "rtol": 1e-6, "atol": 1e-8} | options
    return LatentODE(encoder, network(LATENT, 8, LATENT), network(LATENT, 7, D), LATENT, engine=engine, **options)


def series(batch: int, n: int = len(TIMES), dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, times of each sample's own, and a mask that leaves every sample something."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, n, D, generator=generator, dtype=dtype)
    times = 2 * torch.rand(batch, n, generator=generator, dtype=dtype).sort(1).values
    mask = torch.rand(batch, n, D, generator=generator) < 0.6
    mask[:, 2] = True
    return x, times, mask


# --- the path between the solver's steps -----------------------------------------------------------------------------


class Swing(nn.Module):
    """``z'' = -w² z`` in 2 entries: its solution is known."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(3.0))

    def forward(self, u):
        return torch.stack([u[:, 1], -(self.w**2) * u[:, 0]], 1)


class Driven(nn.Module):
    """``z' = cos 4t``."""

    def forward(self, t, u):
        return torch.cos(4 * t) + 0 * u


@pytest.mark.parametrize("end", [3.0, -2.0])
def test_path_of_an_oscillator(engine, end):
    model = LatentODE(nn.Identity(), Swing().double(), nn.Identity(), 2, rtol=1e-8, atol=1e-10, engine=engine)
    z0 = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)
    times = torch.linspace(0, end, 57, dtype=torch.float64)[torch.randperm(57)]
    found = model.latent_states(z0, times)
    expected = z0[:, :1] * torch.cos(3 * times) + z0[:, 1:] / 3 * torch.sin(3 * times)
    torch.testing.assert_close(found[..., 0], expected, rtol=0, atol=1e-6)
    assert model.engine == engine and model.nfe_forward > 0


def test_path_of_time_dependent_dynamics_to_both_sides(engine):
    model = LatentODE(nn.Identity(), Driven(), nn.Identity(), 1, t0=0.5, rtol=1e-6, atol=1e-7, engine=engine)
    times = torch.tensor([[0.5, 2.0, -1.0, 0.7], [-0.3, 0.4, 0.6, 1.5]])
    found = model.latent_states(torch.tensor([[0.0], [1.0]]), times)[..., 0]
    expected = torch.tensor([[0.0], [1.0]]) + (torch.sin(4 * times) - math.sin(2.0)) / 4
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_steps_are_divided_where_the_polynomial_is_too_coarse(julia_engine):
    """At this tolerance the default is of high order, and takes steps over which a quintic would be far off."""
    field = Swing().double()
    start = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    options = {"rtol": 1e-10, "atol": 1e-12, "engine": julia_engine}
    path, solutions = continuous_solution(lambda t, u: field(u), start, 0.0, 5.0, None, options)
    times = torch.linspace(0, 5, 203, dtype=torch.float64)
    assert len(solutions) > 1
    torch.testing.assert_close(path(times)[0, 0, :, 0], torch.cos(3 * times), rtol=0, atol=1e-8)


def test_gradients_are_torchdiffeqs(engine):
    torch.manual_seed(3)
    dynamics = network(LATENT, 8, LATENT).double()
    model = LatentODE(nn.Identity(), dynamics, nn.Identity(), LATENT, rtol=1e-9, atol=1e-11, engine=engine)
    z0 = torch.randn(4, LATENT, dtype=torch.float64, requires_grad=True)
    times = TIMES.double()
    weights = torch.randn(4, len(times), LATENT, dtype=torch.float64)
    inputs = [z0, *model.dynamics.parameters()]
    found = torch.autograd.grad((weights * model.latent_states(z0, times)).sum(), inputs)
    grid = torch.cat([times.new_zeros(1), times])
    path = odeint(lambda t, u: model.dynamics(u), z0, grid, rtol=1e-10, atol=1e-12)[1:].transpose(0, 1)
    expected = torch.autograd.grad((weights * path).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert engine == "embedded" or model.nfe_backward > 0


# --- bounds ----------------------------------------------------------------------------------------------------------


class LinearGaussian(nn.Module):
    """Exact posterior of ``z0 ~ N(0, 1)``, ``x(t) = e^{-kt} z0 + noise``: an encoder that makes the bound tight."""

    def __init__(self, k: float, sd: float) -> None:
        super().__init__()
        self.k, self.sd = k, sd

    def forward(self, observations, t0):
        rows = observations.mask.to(observations.values.dtype)[..., 0]
        slopes = torch.exp(-self.k * (observations.times - t0)) * rows
        precision = 1 + (slopes**2).sum(1, keepdim=True) / self.sd**2
        mean = (slopes * observations.values[..., 0]).sum(1, keepdim=True) / self.sd**2 / precision
        return mean, precision.rsqrt()


class Decay(nn.Module):
    def forward(self, z):
        return -0.7 * z


def marginal(x: torch.Tensor, times: torch.Tensor, t0: float, sd: float) -> torch.Tensor:
    """log p(x) of one series of the same model: a Gaussian with covariance ``s sᵀ + sd²``."""
    s = torch.exp(-0.7 * (times - t0))
    covariance = torch.outer(s, s) + sd**2 * torch.eye(len(s), dtype=s.dtype)
    return torch.distributions.MultivariateNormal(torch.zeros_like(s), covariance).log_prob(x)


@pytest.mark.slow
@pytest.mark.parametrize("importance_weighted", [False, True])
def test_bound_of_a_linear_gaussian_model(engine, importance_weighted):
    """With the exact posterior the bound is the log likelihood; the importance-weighted one so for every single sample."""
    options = {"t0": 0.2, "observation_sd": 0.4, "rtol": 1e-8, "atol": 1e-10, "engine": engine}
    model = LatentODE(LinearGaussian(0.7, 0.4), Decay(), nn.Identity(), 1, **options).double()
    x, times, _ = series(3, dtype=torch.float64)
    x, mask = x[..., :1], torch.ones(3, len(TIMES), 1, dtype=torch.bool)
    mask[0, :3] = mask[1, 4] = False
    generator = torch.Generator().manual_seed(0)
    samples = 3 if importance_weighted else 40_000
    bound = model.elbo(x, times, mask, samples=samples, importance_weighted=importance_weighted, generator=generator)
    expected = torch.stack([marginal(x[i, m, 0], times[i, m], 0.2, 0.4) for i, m in enumerate(mask[..., 0])])
    torch.testing.assert_close(bound, expected, rtol=0, atol=1e-5 if importance_weighted else 0.03)


def test_parts_and_weight_of_the_bound(engine):
    model = make(engine)
    x, times, mask = series(3)
    parts = []
    for weight in (1.0, 0.25):
        part = model.elbo_parts(x, times, mask, kl_weight=weight, generator=torch.Generator().manual_seed(0))
        parts.append(part)
        assert isinstance(part, ELBO)
        torch.testing.assert_close(part.value, part.log_likelihood - weight * part.kl)
    posterior = model.encode(x, times, mask)
    mean, sd = posterior.mean, posterior.stddev
    torch.testing.assert_close(parts[0].kl, (0.5 * (mean**2 + sd**2 - 1) - sd.log()).sum(1))


class Rate(nn.Module):
    """Logarithm of ``λ = 2 e^z``."""

    def forward(self, z):
        return z + math.log(2)


def test_poisson_process_of_a_known_rate(engine):
    """``z = z0 e^{-0.7 t}`` is followed exactly, so ``Σ log λ - ∫ λ`` is known up to a quadrature."""

    class Known(nn.Module):
        def forward(self, observations, t0):
            return torch.tensor([[0.5], [-1.0]], dtype=torch.float64), torch.full((2, 1), 1e-12, dtype=torch.float64)

    options = {"intensity": Rate(), "rtol": 1e-9, "atol": 1e-11, "engine": engine}
    model = LatentODE(Known(), Decay(), nn.Identity(), 1, **options).double()
    times = torch.tensor([[0.4, 1.0, 1.7], [0.2, 0.9, 2.2]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    window = torch.tensor([[0.0, 2.0], [-0.5, 1.5]], dtype=torch.float64)
    found = model.elbo_parts(torch.zeros(2, 3, 1, dtype=torch.float64), times, mask, window=window).event_log_likelihood
    for i, z0 in enumerate((0.5, -1.0)):
        z = z0 * torch.exp(-0.7 * times[i, mask[i]])
        fine = torch.linspace(window[i, 0], window[i, 1], 20_001, dtype=torch.float64)
        integral = torch.trapezoid(2 * torch.exp(z0 * torch.exp(-0.7 * fine)), fine)
        torch.testing.assert_close(found[i], (z + math.log(2)).sum() - integral, rtol=0, atol=1e-6)


def test_kl_annealing():
    assert [KLAnnealing(10, wait=5)(i) for i in (0, 5, 10, 15, 99)] == [0, 0, 0.5, 1, 1]
    assert KLAnnealing(10, start=0.2, stop=0.6)(5) == pytest.approx(0.4)
    cyclical = [KLAnnealing(40, cycles=2)(i) for i in (0, 5, 10, 19, 20, 25, 40)]
    assert cyclical == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1])


# --- missing values, times of each sample's own ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rnn", "ode-rnn"])
def test_what_is_masked_does_not_matter(engine, kind):
    model = make(engine, kind)
    x, times, mask = series(3)
    mask[0, 4:] = mask[1, :2] = False
    bounds, gradients = [], []
    for variant in range(3):
        y, s, m = x.clone(), times.clone(), mask
        if variant == 1:
            y[~mask] = 1e6
            s[~mask.any(2)] = 77.0
        if variant == 2:
            y[~mask] = math.nan
            s[~mask.any(2)] = math.nan
            m = None
        bound = model.elbo(y, s, m, generator=torch.Generator().manual_seed(0))
        bounds.append(bound)
        gradients.append(torch.autograd.grad(bound.sum(), list(model.parameters())))
    for bound, gradient in zip(bounds[1:], gradients[1:], strict=True):
        assert torch.equal(bound, bounds[0])
        assert all(map(torch.equal, gradient, gradients[0]))


@pytest.mark.parametrize("kind", ["rnn", "ode-rnn"])
def test_a_batch_is_its_samples_one_by_one(engine, kind):
    model = make(engine, kind).double()
    x, times, mask = series(3, dtype=torch.float64)
    at = torch.tensor([-0.5, 0.05, 1.0, 2.5], dtype=torch.float64)
    together = model.extrapolate(x, times, mask, at=at)
    for i in range(3):
        rows = mask[i].any(1)
        alone = model.extrapolate(x[i : i + 1, rows], times[i, rows], mask[i : i + 1, rows], at=at)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=2e-5)


def test_order_of_observations_does_not_matter(engine):
    model = make(engine)
    x, times, mask = series(2)
    order = torch.randperm(len(TIMES), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.reconstruct(x[:, order], times[:, order], mask[:, order]), model.reconstruct(x, times, mask)[:, order])


def test_rnn_encoder_is_its_gru_step_by_step():
    torch.manual_seed(0)
    encoder = RNNEncoder(D, HIDDEN, LATENT)
    x, times, mask = series(2)
    mask[0, 4:] = False
    mean, sd = encoder(Observations.of(x, times, mask), -0.5)
    cell = nn.GRUCell(2 * D + 1, HIDDEN)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in encoder.rnn.state_dict().items()})
    for i in range(2):
        seen = [j for j in range(len(TIMES)) if mask[i, j].any()]
        hidden = torch.zeros(1, HIDDEN)
        for before, j in reversed(list(zip([None, *seen], seen))):
            gap = times[i, j] - (-0.5 if before is None else times[i, before])
            hidden = cell(torch.cat([x[i, j] * mask[i, j], mask[i, j].float(), gap[None]])[None], hidden)
        expected = encoder.head(hidden)
        torch.testing.assert_close(mean[i : i + 1], expected[:, :LATENT])
        torch.testing.assert_close(sd[i : i + 1], nn.functional.softplus(expected[:, LATENT:]) + 1e-4)


class Still(nn.Module):
    def forward(self, h):
        return 0 * h


@pytest.mark.parametrize("rate", [0.0, 0.7])
def test_ode_rnn_is_its_gru_with_a_known_flow(engine, rate):
    """Dynamics that stand still leave the plain GRU; dynamics that decay multiply its state by ``e^{-0.7 Δt}``, Δt < 0."""
    torch.manual_seed(0)
    encoder = ODERNNEncoder(D, HIDDEN, LATENT, Decay() if rate else Still(), rtol=1e-6, atol=1e-7, engine=engine)
    x, times, mask = series(3)
    mask[0, 4:] = mask[1, 0] = False
    mean, _ = encoder(Observations.of(x, times, mask), 0.0)
    for i in range(3):
        hidden, before = torch.zeros(1, HIDDEN), None
        for j in reversed(range(len(TIMES))):
            if mask[i, j].any():
                if before is not None:
                    hidden = hidden * torch.exp(-rate * (times[i, j] - before))
                hidden = encoder.cell(torch.cat([x[i, j] * mask[i, j], mask[i, j].float()])[None], hidden)
                before = times[i, j]
        expected = encoder.head(hidden * torch.exp(-rate * (0.0 - before)))[0, :LATENT]
        torch.testing.assert_close(mean[i], expected, rtol=0, atol=1e-4)


def test_gradient_through_a_long_ode_rnn(engine):
    """It vanishes on the way, far below the tolerance of the reverse solves."""
    torch.manual_seed(0)
    encoder = ODERNNEncoder(D, HIDDEN, LATENT, network(HIDDEN, HIDDEN), engine=engine)
    times = torch.linspace(0, 3, 12)
    x = torch.randn(4, 12, D, requires_grad=True)
    (1e-9 * encoder(Observations.of(x, times), 0.0)[0].sum()).backward()
    assert torch.isfinite(x.grad).all() and x.grad[:, 0].abs().max() > 0
    at_start = x.grad[:, 0].clone()
    x.grad = None
    encoder(Observations.of(x, times), 0.0)[0].sum().backward()
    torch.testing.assert_close(1e9 * at_start, x.grad[:, 0], rtol=0.02, atol=1e-4)
    x.grad = None
    (0 * encoder(Observations.of(x, times), 0.0)[0].sum()).backward()
    assert (x.grad == 0).all()


# --- predictions and training ------------------------------------------------------------------------------------------


def test_predictions(engine):
    model = make(engine)
    x, times, mask = series(3)
    reconstruction = model(x, times, mask)
    assert reconstruction.shape == (3, len(TIMES), D)
    torch.testing.assert_close(model.extrapolate(x, times, mask, at=times), reconstruction)
    first = torch.where(mask.any(2), times, math.inf).amin(1, keepdim=True)
    torch.testing.assert_close(model.interpolate(x, times, mask, at=first), model.extrapolate(x, times, mask, at=first), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="at must lie between"):
        model.interpolate(x, times, mask, at=torch.tensor([5.0]))
    assert model.extrapolate(x, times, mask, at=[-1.0, 5.0], samples=4).shape == (4, 3, 2, D)
    prior = model.sample_prior(6, TIMES, noise=True, generator=torch.Generator().manual_seed(0))
    assert prior.shape == (6, len(TIMES), D) and torch.isfinite(prior).all()


def test_training_lowers_the_loss(engine):
    """Circles of either direction; the noise is learnt with the rest."""
    torch.manual_seed(0)
    sign = torch.randint(0, 2, (16, 1)) * 2.0 - 1
    phase = 6 * torch.rand(16, 1)
    angle = sign * 2 * TIMES + phase
    x = torch.stack([angle.cos(), angle.sin()], 2)
    x[torch.rand(16, len(TIMES)) < 0.3] = math.nan
    model = make(engine, learn_sd=True, rtol=1e-3, atol=1e-4)
    start = model.observation_sd.item()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = KLAnnealing(20, start=0.1)
    losses = []
    for step in range(40):
        optimiser.zero_grad()
        loss = -model.elbo(x, TIMES, kl_weight=schedule(step)).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert model.observation_sd.item() != start


def test_copies_and_state_dicts(engine):
    model = make(engine, "ode-rnn", intensity=nn.Linear(LATENT, 1))
    x, times, mask = series(2)
    call = {"window": (0.0, 2.0), "samples": 2}
    bounds = [model.elbo(x, times, mask, **call, generator=torch.Generator().manual_seed(0))]
    twin = copy.deepcopy(model)
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    other = make(engine, "ode-rnn", intensity=nn.Linear(LATENT, 1))
    other.load_state_dict(torch.load(stored))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    for copied in (twin, other):
        bounds.append(copied.elbo(x, times, mask, **call, generator=torch.Generator().manual_seed(0)))
        torch.testing.assert_close(bounds[-1], bounds[0])
    bounds[1].sum().backward()
    assert all(p.grad is not None for p in twin.parameters()) and all(p.grad is None for p in model.parameters())


def test_example_runs(tmp_path, capsys):
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "latent_ode_spirals.py"))
    output = tmp_path / "spirals.png"
    example["main"](quick=True, observations=[30], steps=0, count=0, batch=20, engine="embedded", output=output)
    assert output.stat().st_size > 0 and "embedded" in capsys.readouterr().out


def test_bad_input():
    model = make("embedded")
    x, times, mask = series(3)
    for arguments, message in [
        ((x[0], times), "x has shape"),
        ((x, times[:, :3]), "times has shape"),
        ((x, times, mask[:2]), "mask has shape"),
        ((x, times, mask * 2.0), "mask must hold 0 and 1"),
        ((x / 0, times, mask), "x must be finite"),
        ((x, times * math.inf), "times must be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.elbo(*arguments)
    with pytest.raises(TypeError, match="x must be a float32"):
        model.elbo(x.int(), times)
    for options, message in [
        ({"samples": 0}, "samples"),
        ({"kl_weight": -1}, "kl_weight"),
        ({"kl_weight": 0.5, "importance_weighted": True}, "kl_weight must be 1"),
        ({"window": (0, 2)}, "window is for models"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.elbo(x, times, **options)
    events = make("embedded", intensity=nn.Linear(LATENT, 1))
    for window, message in [(None, "window is needed"), ((0.0, 0.5), "window must hold"), ((2.0, 0.0), "start before")]:
        with pytest.raises(ValueError, match=message):
            events.elbo(x, times, window=window)
    with pytest.raises(ValueError, match="at must be finite"):
        model.extrapolate(x, times, at=[math.nan])
    for name, value, kind in [
        ("latent_dim", 0, ValueError),
        ("observation_sd", -1.0, ValueError),
        ("t0", math.nan, ValueError),
        ("saveat", 0.1, TypeError),
    ]:
        arguments = {"latent_dim": LATENT} | {name: value}
        with pytest.raises(kind, match=name):
            LatentODE(RNNEncoder(D, HIDDEN, LATENT), network(LATENT, LATENT), network(LATENT, D), **arguments)
    with pytest.raises(ValueError, match="hidden_dim"):
        RNNEncoder(D, 0, LATENT)
