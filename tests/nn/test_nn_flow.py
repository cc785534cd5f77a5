"""Continuous flows against analytic densities, quadrature, FFJORD's equations on torchdiffeq, and torch's own rules."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    Uniform,
)
from torchdiffeq import odeint

import pysciode as ps
from pysciode.engines.julia.engine import JuliaEngine
from pysciode.errors import CaptureError, SolveFailed
from pysciode.nn import ConcatSquashNetwork, ContinuousFlow, Regularization
from pysciode.nn.divergence import draw_noise, exact_divergence, hutchinson_divergence

F64 = torch.float64
MATRIX = torch.tensor([[0.3, -0.8, 0.1], [0.5, -0.2, 0.4], [0.0, 0.3, 0.1]], dtype=F64)
OFFSET = torch.tensor([0.1, 0.2, -0.3], dtype=F64)
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
EMBEDDED = "embedded"  # where the engine makes no difference: nothing is compiled there


def points(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(dim: int, hidden: tuple[int, ...] = (12, 12), seed: int = 0, **options) -> ConcatSquashNetwork:
    torch.manual_seed(seed)
    return ConcatSquashNetwork(dim, hidden, **options).to(F64)


def linear(matrix: torch.Tensor = MATRIX, offset: torch.Tensor = OFFSET) -> nn.Linear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0]).to(F64)
    with torch.no_grad():
        layer.weight.copy_(matrix)
        layer.bias.copy_(offset)
    return layer


def carried(t: float, offset: torch.Tensor = OFFSET) -> MultivariateNormal:
    """What ``dx/dt = A x + b`` makes of a standard normal by the time `t`."""
    expm = torch.matrix_exp(MATRIX * t)
    mean = torch.linalg.solve(MATRIX, (offset @ (expm - torch.eye(3, dtype=F64)).T).unsqueeze(-1)).squeeze(-1)
    return MultivariateNormal(mean, expm @ expm.T)


class Reference(nn.Module):
    """FFJORD's equations in the usual way: ``autograd.grad`` inside the right-hand side."""

    def __init__(self, dynamics: nn.Module, noise: torch.Tensor | None, context: torch.Tensor | None = None) -> None:
        super().__init__()
        self.dynamics, self.noise, self.context = dynamics, noise, context

    def forward(self, t, state):
        x = state[0]
        with torch.enable_grad():
            x = x if x.requires_grad else x.requires_grad_()
            dx = self.dynamics(t, x if self.context is None else torch.cat([x, self.context], 1))
            if self.noise is None:
                rows = [torch.autograd.grad(dx[:, i].sum(), x, create_graph=True)[0] for i in range(x.shape[1])]
                trace = sum(row[:, i] for i, row in enumerate(rows))
                norm = sum(row.square().sum(1) for row in rows)
            else:
                row = torch.autograd.grad(dx, x, self.noise, create_graph=True)[0]
                trace, norm = (row * self.noise).sum(1), row.square().sum(1)
        return dx, trace, dx.square().sum(1), norm

    def solve(self, x: torch.Tensor, span: tuple[float, float]) -> list[torch.Tensor]:
        zero = x.new_zeros(len(x))
        times = torch.tensor(span, dtype=x.dtype)
        return [u[-1] for u in odeint(self, (x, zero, zero, zero), times, rtol=1e-10, atol=1e-10)]

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        z, log_det, _, _ = self.solve(x, (1.0, 0.0))
        return Normal(0.0, 1.0).log_prob(z).sum(1) + log_det


# --- the divergence --------------------------------------------------------------------------------------------------


def jacobians(f, x: torch.Tensor) -> torch.Tensor:
    n = x[0].numel()
    return torch.stack([torch.autograd.functional.jacobian(lambda y: f(y[None])[0], row).reshape(n, n) for row in x])


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_exact_divergence_is_the_trace_of_the_jacobian(shape):
    layer = linear() if shape == (3,) else nn.Conv2d(2, 2, 3, padding=1).to(F64)

    def f(x):
        return torch.tanh(layer(x))

    x = points(4, *shape)
    expected = jacobians(f, x)
    found = exact_divergence(f, x)
    torch.testing.assert_close(found.value, f(x))
    torch.testing.assert_close(found.trace, torch.stack([j.trace() for j in expected]))
    torch.testing.assert_close(found.squared_norm, expected.square().sum((1, 2)))


def test_the_mean_over_all_signs_is_the_trace():
    layer = linear()

    def f(x):
        return torch.tanh(layer(x))

    x = points(1, 3)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=F64)
    found = hutchinson_divergence(f, x.expand(8, 3), signs)
    expected = jacobians(f, x)[0]
    torch.testing.assert_close(found.trace.mean(), expected.trace())
    torch.testing.assert_close(found.squared_norm.mean(), expected.square().sum())


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_noise_has_mean_zero_and_unit_variance(noise):
    drawn = draw_noise(points(20_000, 3), noise, torch.Generator().manual_seed(1))
    assert drawn.dtype == F64
    assert drawn.mean(0).abs().max() < 5 / math.sqrt(20_000)
    torch.testing.assert_close(torch.cov(drawn.T), torch.eye(3, dtype=F64), atol=0.06, rtol=0)


def test_estimated_log_density_is_unbiased(julia_engine):
    n = 4000
    x = points(1, 3).expand(n, 3)
    flow = ContinuousFlow(linear(), 3, trace="hutchinson", noise="gaussian", engine=julia_engine, **TIGHT)
    with torch.no_grad():
        found = flow.log_prob(x, generator=torch.Generator().manual_seed(3))
    expected = carried(1.0).log_prob(x[0])
    assert found.std() > 0.1
    assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(n)


# --- densities -------------------------------------------------------------------------------------------------------


def test_linear_flow_is_the_analytic_gaussian(engine):
    flow = ContinuousFlow(linear(), 3, engine=engine, **TIGHT)
    x = points(5, 2, 3)
    with torch.no_grad():
        torch.testing.assert_close(flow.log_prob(x), carried(1.0).log_prob(x), atol=1e-7, rtol=0)
        torch.testing.assert_close(flow.log_prob(x[0, 0]), carried(1.0).log_prob(x[0, 0]), atol=1e-7, rtol=0)
        torch.testing.assert_close(flow.log_prob(x, time=0.4), carried(0.4).log_prob(x), atol=1e-7, rtol=0)
        assert flow.engine == engine and flow.nfe_forward > 6
        torch.testing.assert_close(flow.log_prob(x, time=0.0), Normal(0.0, 1.0).log_prob(x).sum(-1))
        assert flow.nfe_forward == 0  # nothing was solved


def test_forward_and_inverse_undo_each_other(engine):
    flow = ContinuousFlow(network(2), 2, t_span=(0.5, -1.0), engine=engine, **TIGHT)
    z = points(6, 2)
    with torch.no_grad():
        x, log_det = flow(z)
        back, log_det_back = flow.inverse(x)
        path = flow.trajectory(z, [0.5, 0.0, -1.0])
    assert (x - z).abs().max() > 0.1
    torch.testing.assert_close(back, z, atol=1e-7, rtol=0)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-7, rtol=0)
    torch.testing.assert_close(path[0], z)
    torch.testing.assert_close(path[2], x, atol=1e-7, rtol=0)
    determinant = torch.linalg.slogdet(jacobians(lambda z: flow(z)[0], z[:1]))[1]
    torch.testing.assert_close(log_det[:1], determinant, atol=1e-6, rtol=0)


def test_a_density_integrates_to_one(julia_engine):
    net = network(2, (16, 16))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)  # far from the identity
    flow = ContinuousFlow(net, 2, rtol=1e-6, atol=1e-6, engine=julia_engine)
    axis = torch.linspace(-9, 9, 121, dtype=F64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    with torch.no_grad():
        density = flow.log_prob(grid).exp()
        base = Normal(0.0, 1.0).log_prob(grid).sum(-1).exp()
    total = torch.trapezoid(torch.trapezoid(density, axis), axis)
    assert abs(total - 1) < 1e-4
    assert (density - base).abs().max() > 0.02


def test_samples_have_the_analytic_moments(engine):
    flow = ContinuousFlow(linear(), 3, engine=engine)
    n = 20_000
    x = flow.sample(n, seed=4)
    expected = carried(1.0)
    assert x.shape == (n, 3) and x.dtype == F64
    error = (x.mean(0) - expected.mean) / torch.sqrt(torch.diagonal(expected.covariance_matrix) / n)
    assert error.abs().max() < 4.5
    torch.testing.assert_close(torch.cov(x.T), expected.covariance_matrix, atol=0.12, rtol=0)


def test_another_base():
    base = Independent(Uniform(torch.full((3,), -1.0, dtype=F64), torch.full((3,), 2.0, dtype=F64)), 1)
    flow = ContinuousFlow(linear(), 3, base=base, engine=EMBEDDED, **TIGHT)
    x = flow.sample(50, seed=0)
    with torch.no_grad():
        expected = -3 * math.log(3.0) - MATRIX.trace()
        torch.testing.assert_close(flow.log_prob(x), expected.expand(50), atol=1e-7, rtol=0)


def test_images(engine):
    torch.manual_seed(0)
    dynamics = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)).to(F64)
    flow = ContinuousFlow(dynamics, (1, 2, 3), engine=engine, **TIGHT)
    z, context = points(2, 1, 2, 3), points(2, 1, 2, 3, seed=1)
    with torch.no_grad():
        x, log_det = flow(z, context)
        jacobian = jacobians(lambda z: flow(z, context[:1])[0], z[:1])
    assert x.shape == z.shape
    torch.testing.assert_close(log_det[:1], torch.linalg.slogdet(jacobian)[1], atol=1e-6, rtol=0)
    assert flow.sample(4, context[:1]).shape == (4, 1, 1, 2, 3)


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_gradients_against_torchdiffeq(engine, trace):
    net = network(3, context=2)
    x, context = points(5, 3).requires_grad_(), points(5, 2, seed=1).requires_grad_()
    weights = points(5, seed=2)
    flow = ContinuousFlow(net, 3, trace=trace, engine=engine, **TIGHT)
    noise = None
    if trace == "hutchinson":
        noise = draw_noise(x, "rademacher", torch.Generator().manual_seed(5))
    inputs = [x, context, *net.parameters()]
    found = flow.log_prob(x, context, generator=torch.Generator().manual_seed(5))
    expected = Reference(net, noise, context).log_prob(x)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    for a, b in zip(torch.autograd.grad(found @ weights, inputs), torch.autograd.grad(expected @ weights, inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_weight_normalised_dynamics(engine):
    """Torch has no derivative of that layer's derivative, which the divergence asks for."""
    torch.manual_seed(0)
    normalised = nn.utils.parametrizations.weight_norm(nn.Linear(3, 8))
    net = nn.Sequential(normalised, nn.Softplus(), nn.Linear(8, 3)).to(F64)
    plain = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 3)).to(F64)
    scale, direction = (x.detach().clone().requires_grad_() for x in normalised.parametrizations.weight.parameters())
    rest = [normalised.bias, *net[2].parameters()]
    x = points(4, 3)
    found = ContinuousFlow(net, 3, engine=engine, **TIGHT).log_prob(x).sum()
    weight = scale * direction / direction.norm(dim=1, keepdim=True)

    def dynamics(t, x):
        values = dict(zip(("0.weight", "0.bias", "2.weight", "2.bias"), (weight, *rest), strict=True))
        return torch.func.functional_call(plain, values, (x,))

    expected = Reference(dynamics, None).log_prob(x).sum()
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    inputs = [*normalised.parametrizations.weight.parameters(), *rest]
    for a, b in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, [scale, direction, *rest]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_samples_by_reparametrisation():
    dynamics = linear()
    flow = ContinuousFlow(dynamics, 3, engine=EMBEDDED, **TIGHT)
    flow.rsample(20, seed=1).sum().backward()
    found = dynamics.bias.grad.clone()
    # d(sum of x(1))/db = n (1ᵀ ∫ exp(A s) ds), whatever the base's draws
    integral = torch.linalg.solve(MATRIX, torch.matrix_exp(MATRIX) - torch.eye(3, dtype=F64))
    torch.testing.assert_close(found, 20 * integral.sum(0), atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "trace"), [pytest.param("julia", "hutchinson", marks=pytest.mark.julia), (EMBEDDED, "exact")])
def test_regularisation_against_quadrature(engine, trace):
    net = network(3)
    x = points(4, 3)
    terms = Regularization(kinetic=0.3, jacobian=0.7)
    flow = ContinuousFlow(net, 3, trace=trace, regularization=terms, engine=engine, **TIGHT)
    noise = None
    if trace == "hutchinson":
        noise = draw_noise(x, "rademacher", torch.Generator().manual_seed(5))
    _, _, kinetic, norm = Reference(net, noise).solve(x, (1.0, 0.0))
    expected = -(0.3 * kinetic + 0.7 * norm)  # positive: the reference goes backwards in time
    flow.log_prob(x, generator=torch.Generator().manual_seed(5))
    found = flow.regularization
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    assert (found > 0).all() and set(flow.regularization_terms) == {"kinetic", "jacobian"}
    parameters = list(net.parameters())
    for a, b in zip(torch.autograd.grad(found.sum(), parameters), torch.autograd.grad(expected.sum(), parameters), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    flow.eval()
    flow.log_prob(x)
    assert flow.regularization is None


def test_higher_order_regularisation():
    """Of ``dx/dt = A x + b`` the second derivative is ``A (A x + b)``."""
    flow = ContinuousFlow(linear(), 3, regularization=Regularization(derivative=1.0), engine=EMBEDDED, **TIGHT)
    z = points(2, 3)
    with torch.no_grad():
        flow(z)
        times = torch.linspace(0, 1, 201, dtype=F64)
        expm = torch.matrix_exp(MATRIX * times[:, None, None])
        fixed = torch.linalg.solve(MATRIX, OFFSET)
        second = ((z + fixed) @ (MATRIX @ MATRIX @ expm).mT).square().sum(-1)
        expected = torch.trapezoid(second, times, dim=0)
    torch.testing.assert_close(flow.regularization, expected, atol=1e-4, rtol=1e-4)


# --- contexts --------------------------------------------------------------------------------------------------------


class Shifted(nn.Module):
    """``A x + b(context)``, in one of the ways in which dynamics are told a context."""

    def __init__(self, separate: bool) -> None:
        super().__init__()
        self.linear = linear(torch.cat([MATRIX, torch.eye(3, dtype=F64)], 1), torch.zeros(3))
        if separate:
            self.forward = lambda t, x, context: self.linear(torch.cat([x, context], 1))
        else:
            self.forward = lambda x: self.linear(x)


@pytest.mark.parametrize(("engine", "separate"), [pytest.param("julia", False, marks=pytest.mark.julia), (EMBEDDED, True)])
def test_conditional_flow(engine, separate):
    flow = ContinuousFlow(Shifted(separate), 3, engine=engine, **TIGHT)
    context, x = points(4, 3, seed=2), points(6, 1, 3)
    expected = torch.stack([carried(1.0, c).log_prob(x[:, 0]) for c in context], 1)
    with torch.no_grad():
        found = flow.log_prob(x, context)
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
        path = flow.trajectory(x, [0.0, 1.0], context)
    assert path.shape == (2, 6, 4, 3)
    samples = flow.sample(3000, context, seed=0)
    assert samples.shape == (3000, 4, 3)
    expected = torch.stack([carried(1.0, c).mean for c in context])
    torch.testing.assert_close(samples.mean(0), expected, atol=0.1, rtol=0)


# --- torch's distributions -------------------------------------------------------------------------------------------


def test_flow_as_a_distribution(monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # torch's default, which libraries change
    flow = ContinuousFlow(Shifted(False), 3, engine=EMBEDDED, **TIGHT)
    context = points(2, 3)
    flows = flow.distribution(context)
    assert flows.batch_shape == (2,) and flows.event_shape == (3,) and flows.has_rsample
    assert flows.sample((5, 4)).shape == (5, 4, 2, 3)
    assert flows.rsample().requires_grad and not flows.sample().requires_grad
    x = points(5, 2, 3, seed=1)
    with torch.no_grad():
        each = [carried(1.0, c) for c in context]
        components = MultivariateNormal(torch.stack([x.mean for x in each]), torch.stack([x.covariance_matrix for x in each]))
        torch.testing.assert_close(flows.log_prob(x), components.log_prob(x), atol=1e-7, rtol=0)
        mixing = Categorical(torch.tensor([0.3, 0.7], dtype=F64))
        found = MixtureSameFamily(mixing, flows).log_prob(x[:, 0])
        torch.testing.assert_close(found, MixtureSameFamily(mixing, components).log_prob(x[:, 0]), atol=1e-7, rtol=0)
        stretched = TransformedDistribution(flows, [AffineTransform(1.0, 2.0, event_dim=1)])
        expected = TransformedDistribution(components, [AffineTransform(1.0, 2.0, event_dim=1)])
        torch.testing.assert_close(stretched.log_prob(x), expected.log_prob(x), atol=1e-7, rtol=0)
        assert Independent(flows, 1).log_prob(x).shape == (5,)
    with pytest.raises(ValueError, match="support"):
        flows.log_prob(torch.full((2, 3), math.nan, dtype=F64))


def test_expanded_distribution():
    flow = ContinuousFlow(linear(), 3, engine=EMBEDDED, **TIGHT)
    expanded = flow.distribution().expand((4,))
    assert expanded.sample((2,)).shape == (2, 4, 3)
    with torch.no_grad():
        found = expanded.log_prob(points(3))
    torch.testing.assert_close(found, carried(1.0).log_prob(points(3)).expand(4), atol=1e-7, rtol=0)
    conditional = ContinuousFlow(Shifted(False), 3, engine=EMBEDDED).distribution(points(2, 3)).expand((4, 2))
    assert conditional.batch_shape == (4, 2) and conditional.sample((5,)).shape == (5, 4, 2, 3)


# --- noise, copies, compilation, training ----------------------------------------------------------------------------


def test_when_noise_changes():
    flow = ContinuousFlow(network(2), 2, trace="hutchinson", engine=EMBEDDED)
    x = points(20, 2)
    with torch.no_grad():
        assert not torch.equal(flow.log_prob(x), flow.log_prob(x))
        given = [flow.log_prob(x, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
        assert torch.equal(*given)
        flow.eval()
        assert torch.equal(flow.log_prob(x), flow.log_prob(x))
        flow.trace = "exact"
        exact = flow.log_prob(x)
    assert not torch.allclose(exact, given[0])


def test_seeded_samples_leave_torchs_numbers_alone():
    flow = ContinuousFlow(network(2), 2, engine=EMBEDDED)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    a, b = flow.sample(5, seed=1), flow.sample(5, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(a, b) and not torch.equal(a, flow.sample(5, seed=2))


def test_nothing_is_compiled_twice_and_evaluations_are_counted(julia_engine, monkeypatch):
    import pysciode.capture.torch.array_capture as torch_fx

    captures, commands = [], []
    capture, command = torch_fx.capture_torch, JuliaEngine.command
    monkeypatch.setattr(torch_fx, "capture_torch", lambda *a, **k: captures.append(1) or capture(*a, **k))
    monkeypatch.setattr(JuliaEngine, "command", lambda self, *a, **k: commands.append(a[0]) or command(self, *a, **k))
    flow = ContinuousFlow(network(2), 2, trace="hutchinson", engine=julia_engine, sensealg=ps.GaussAdjoint())
    optimiser = torch.optim.Adam(flow.parameters())
    counts = []
    for step in range(4):
        optimiser.zero_grad()
        loss = -flow.log_prob(points(16, 2, seed=step)).mean()
        assert flow.nfe_forward > 6 and flow.nfe_backward == 0
        loss.backward()
        assert flow.nfe_backward > 6
        optimiser.step()
        flow.sample(8)
        counts.append((len(captures), len(commands)))
    assert counts[0][0] == 2  # the flow with and without its density
    assert counts[0] == counts[-1]


def test_a_mode_of_the_dynamics_alone_is_noticed():
    dynamics = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).to(F64)
    flow = ContinuousFlow(dynamics, 2, engine=EMBEDDED)
    dynamics.eval()
    assert flow.training and torch.isfinite(flow.log_prob(points(3, 2))).all()
    flow.train()
    with pytest.raises(CaptureError, match="Dropout in training mode"):
        flow.log_prob(points(3, 2))


def test_copies_and_saved_weights():
    flow = ContinuousFlow(network(2), 2, engine=EMBEDDED)
    x = points(3, 2)
    expected = flow.log_prob(x).detach()
    other = ContinuousFlow(network(2, seed=1), 2, engine=EMBEDDED)
    assert not torch.allclose(other.log_prob(x), expected)
    other.load_state_dict(flow.state_dict())
    assert all(name.startswith("dynamics.") for name in flow.state_dict())
    for twin in (other, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        torch.testing.assert_close(twin.log_prob(x).detach(), expected, atol=1e-9, rtol=0)
    twin = copy.deepcopy(flow).float()
    torch.testing.assert_close(twin.log_prob(x.float()).detach(), expected.float(), atol=1e-2, rtol=0)
    assert twin.sample(2).dtype == torch.float32


def test_training_reaches_the_entropy(julia_engine):
    """Data from a Gaussian: no model has a lower expected loss than its entropy."""
    torch.manual_seed(0)
    truth = MultivariateNormal(torch.tensor([1.0, -1.0]), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    flow = ContinuousFlow(ConcatSquashNetwork(2, (16,)), 2, rtol=1e-4, atol=1e-4, engine=julia_engine)
    held_out = truth.sample((2000,))
    start = -flow.log_prob(held_out).mean().item()
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.02)
    for _ in range(120):
        optimiser.zero_grad()
        loss = -flow.log_prob(truth.sample((200,))).mean()
        loss.backward()
        optimiser.step()
    end = -flow.log_prob(held_out).mean().item()
    expected = -truth.log_prob(held_out).mean().item()
    base = -Normal(0.0, 1.0).log_prob(held_out).sum(1).mean().item()
    assert start > expected + 0.5 and base > expected + 0.5
    assert expected - 0.02 < end < expected + 0.1


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shape": 0}, ValueError, "shape"),
        ({"trace": "approximate"}, ValueError, "trace"),
        ({"noise": "uniform"}, ValueError, "noise"),
        ({"t_span": (1.0, 1.0)}, ValueError, "t_span"),
        ({"base": Normal(torch.zeros(3), 1.0)}, ValueError, "base"),
        ({"base": 1.0}, TypeError, "base"),
        ({"atol": [1e-3, 1e-3]}, ValueError, "atol"),
        ({"dynamics": torch.tanh}, TypeError, "dynamics"),
        ({"regularization": 0.1}, TypeError, "regularization"),
        ({"saveat": [1.0]}, TypeError, "saveat"),
        ({"sensealg": ps.GaussAdjoint}, TypeError, "sensealg"),
    ],
)
def test_bad_options(options, error, message):
    arguments = {"dynamics": linear(), "shape": 3} | options
    with pytest.raises(error, match=message):
        ContinuousFlow(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda flow: flow.log_prob(points(4, 2)), ValueError, "x has shape"),
        (lambda flow: flow.log_prob([1.0, 2.0, 3.0]), TypeError, "x must be a tensor"),
        (lambda flow: flow.log_prob(torch.ones(3, dtype=torch.int64)), TypeError, "x is torch.int64"),
        (lambda flow: flow.log_prob(points(0, 3)), ValueError, "x is empty"),
        (lambda flow: flow(torch.full((3,), math.inf, dtype=F64)), ValueError, "z has entries"),
        (lambda flow: flow.log_prob(points(3), time=2.0), ValueError, "time"),
        (lambda flow: flow.trajectory(points(3), [0.0, 0.5, 0.5]), ValueError, "times"),
        (lambda flow: flow.trajectory(points(3), [0.5, 1.5]), ValueError, "times"),
        (lambda flow: flow.log_prob(points(4, 3), points(3, 3)), ValueError, "context"),
        (lambda flow: flow.log_prob(points(3), points(3).float()), TypeError, "context"),
        (lambda flow: flow.log_prob(points(3), torch.tensor(1.0)), ValueError, "context"),
    ],
)
def test_bad_inputs(call, error, message):
    with pytest.raises(error, match=message):
        call(ContinuousFlow(linear(), 3, engine=EMBEDDED))


def test_dynamics_of_another_shape_are_refused():
    flow = ContinuousFlow(nn.Linear(3, 2).to(F64), 3, engine=EMBEDDED)
    with pytest.raises(TypeError, match="dynamics returned"):
        flow.log_prob(points(4, 3))


def test_a_failing_solve_is_told(engine):
    class Explosive(nn.Module):
        def forward(self, x):
            return x**3

    flow = ContinuousFlow(Explosive(), 2, engine=engine, maxiters=200)
    with pytest.raises(SolveFailed), torch.no_grad():
        flow(torch.full((2, 2), 5.0, dtype=F64))
