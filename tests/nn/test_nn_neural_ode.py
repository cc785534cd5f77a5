"""Neural ODE blocks against matrix exponentials, torchdiffeq at tight tolerances and quadrature by hand."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn
from torchdiffeq import odeint

import pysciode as ps
from pysciode.nn import AugmentedNeuralODE, NeuralODE, Regularization

F64 = torch.float64
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


class TimeNet(nn.Module):
    """Depends on time, and so that a time for each sample would not pass."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width + 1, 8), nn.Tanh(), nn.Linear(8, width))

    def forward(self, t, u):
        return self.net(torch.cat([u, t.expand(len(u), 1)], 1))


class Waves(nn.Module):
    """Each entry for itself: then any Rademacher noise gives the Jacobian's squared norm exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor([0.7, -1.2, 0.4], dtype=F64))

    def forward(self, t, u):
        return torch.sin(self.rate * u) * (1 + t)


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, u):
        return self.layers(u)


def made(cls, *args):
    torch.manual_seed(1)
    return cls(*args).to(F64)


def linear(matrix):
    layer = nn.Linear(2, 2, bias=False).to(F64)
    layer.weight.data = matrix.clone()
    return layer


ROTATION = torch.tensor([[-0.3, 2.0], [-1.0, 0.1]], dtype=F64)
U0 = torch.tensor([[1.0, 0.5], [-0.2, 0.8], [0.3, -1.1]], dtype=F64)


def gradients(module, out, *inputs):
    module.zero_grad()
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return torch.autograd.grad((out * weights).sum(), [*module.parameters(), *inputs])


# --- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [(0.0, 0.4, 1.5), (1.0, 0.2, -0.5)])
def test_linear_dynamics_give_the_matrix_exponential(engine, span):
    expected = torch.stack([U0 @ torch.linalg.matrix_exp(ROTATION.T * (t - span[0])) for t in span])
    dynamics = linear(ROTATION)
    for returns in ("end", "trajectory", "both"):
        out = NeuralODE(dynamics, span, returns=returns, engine=engine, **TIGHT)(U0)
        if returns == "both":
            torch.testing.assert_close(out[0], out[1][-1], rtol=0, atol=0)
            out = out[1]
        torch.testing.assert_close(out, expected if returns != "end" else expected[-1], rtol=1e-8, atol=1e-8)


def test_times_of_a_call_replace_the_span(engine):
    block = NeuralODE(linear(ROTATION), (0.0, 9.0), returns="trajectory", engine=engine, **TIGHT)
    out = block(U0, torch.tensor([0.5, 1.0, 1.25], dtype=F64))
    for state, length in zip(out, (0.0, 0.5, 0.75), strict=True):
        torch.testing.assert_close(state, U0 @ torch.linalg.matrix_exp(ROTATION.T * length), rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("make, u0", [(TimeNet, U0), (Images, torch.linspace(-1, 1, 2 * 4 * 9, dtype=F64).reshape(2, 4, 3, 3))])
def test_states_and_gradients_are_torchdiffeqs(engine, make, u0):
    dynamics, u0 = made(make), u0.clone().requires_grad_()
    field = dynamics if make is TimeNet else (lambda t, u: dynamics(u))
    block = NeuralODE(dynamics, (0.0, 0.3, 1.0), returns="trajectory", engine=engine, **TIGHT)
    expected = odeint(field, u0, torch.tensor([0.0, 0.3, 1.0], dtype=F64), rtol=1e-11, atol=1e-11)
    out = block(u0)
    torch.testing.assert_close(out, expected, rtol=1e-7, atol=1e-8)
    for ours, theirs in zip(gradients(dynamics, out, u0), gradients(dynamics, expected, u0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_learnt_end_time(engine):
    block = NeuralODE(linear(ROTATION), nn.Parameter(torch.tensor([0.0, 1.5], dtype=F64)), engine=engine, **TIGHT)
    end = block(U0)
    end.sum().backward()
    slope = (end.detach() @ ROTATION.T).sum()
    torch.testing.assert_close(block.t_span.grad[1], slope, rtol=1e-7, atol=0)
    # The dynamics don't depend on time, so only the length counts.
    torch.testing.assert_close(block.t_span.grad[0], -slope, rtol=1e-7, atol=0)
    assert set(block.state_dict()) == {"t_span", "dynamics.weight"}


# --- times of each sample's own --------------------------------------------------------------------------------------

OWN_TIMES = torch.tensor([[0.0, 0.5, 1.0], [0.5, 0.9, 2.0], [1.0, 0.2, -0.4], [0.3, 0.8, 0.8]], dtype=F64)


def solved_one_by_one(dynamics, u0, times):
    """Trajectories of shape (k, batch, …); repeated times keep the state."""
    columns = []
    for start, row in zip(u0, times, strict=True):
        states = [start[None]]
        for a, b in zip(row[:-1], row[1:], strict=True):
            span = torch.stack([a, b])
            moved = odeint(dynamics, states[-1], span, rtol=1e-10, atol=1e-10)[-1] if a != b else states[-1]
            states.append(moved)
        columns.append(torch.cat(states))
    return torch.stack(columns, 1)


def test_times_of_each_sample(engine):
    dynamics = made(TimeNet)
    u0 = torch.cat([U0, U0[:1] * 2]).requires_grad_()
    times = OWN_TIMES.clone().requires_grad_()
    expected = solved_one_by_one(dynamics, u0, times)
    out = NeuralODE(dynamics, returns="trajectory", engine=engine, **TIGHT)(u0, times)
    torch.testing.assert_close(out, expected, rtol=1e-7, atol=1e-7)
    for ours, theirs in zip(gradients(dynamics, out, u0), gradients(dynamics, expected, u0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    # Moving an end time moves that state along the flow.
    end = NeuralODE(dynamics, returns="end", engine=engine, **TIGHT)(u0, times)
    (moved,) = torch.autograd.grad(end.sum(), times)
    for i in range(3):
        slope = dynamics(times[i, -1], end[i : i + 1]).sum()
        torch.testing.assert_close(moved[i, -1], slope, rtol=1e-6, atol=1e-7)


# --- regularisation --------------------------------------------------------------------------------------------------


def by_quadrature(dynamics, u0, span):
    """``∫‖f‖²``, ``∫‖∂f/∂u‖²`` and ``∫‖d²u/dt²‖²`` of each sample, by Simpson's rule."""
    t = torch.linspace(*span, 801, dtype=F64)
    u = odeint(dynamics, u0, t, rtol=1e-11, atol=1e-11)
    at, rate = t[:, None, None], dynamics.rate
    f = torch.sin(rate * u) * (1 + at)
    slope = rate * torch.cos(rate * u) * (1 + at)
    second = slope * f + torch.sin(rate * u)
    weights = torch.ones(801, dtype=F64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    weights *= abs(span[1] - span[0]) / 800 / 3
    return [torch.einsum("t,tbn->b", weights, x.square()) for x in (f, slope, second)]


@pytest.mark.slow
@pytest.mark.parametrize("span", [(0.0, 1.5), (1.0, -0.5)])
def test_regularisation_is_the_integral_along_the_solution(engine, span):
    dynamics = Waves()
    u0 = torch.tensor([[1.0, 0.5, -0.7], [-0.2, 0.8, 1.3]], dtype=F64)
    kinetic, jacobian, second = by_quadrature(dynamics, u0, span)
    block = NeuralODE(dynamics, span, regularization=Regularization(0.5, 0.25, 2.0), engine=engine, **TIGHT)
    block(u0)
    found = block.regularization_terms
    for name, expected in (("kinetic", kinetic), ("jacobian", jacobian), ("derivative", second)):
        torch.testing.assert_close(found[name], expected, rtol=1e-7, atol=1e-8)
    ours = torch.autograd.grad(block.regularization.sum(), dynamics.rate)[0]
    theirs = torch.autograd.grad((0.5 * kinetic + 0.25 * jacobian + 2.0 * second).sum(), dynamics.rate)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    # With times of each sample's own, the same integrals over each one's span.
    block(u0, torch.tensor([span, (span[0], (span[0] + span[1]) / 2)], dtype=F64))
    half = by_quadrature(dynamics, u0, (span[0], (span[0] + span[1]) / 2))
    for value, whole, part in zip(block.regularization_terms.values(), (kinetic, jacobian, second), half, strict=True):
        torch.testing.assert_close(value, torch.stack([whole[0], part[1]]), rtol=1e-6, atol=1e-7)
    block.eval()(u0)
    assert block.regularization is None and block.regularization_terms == {}


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_noise_estimates_the_frobenius_norm(noise):
    block = NeuralODE(linear(ROTATION), (0.0, 2.0), regularization=Regularization(jacobian=1.0, noise=noise), engine="embedded")
    torch.manual_seed(0)
    with torch.no_grad():
        block(torch.ones(4000, 2, dtype=F64))
    # The Jacobian is constant; 4000 samples leave about 2 % of noise.
    expected = 2.0 * ROTATION.square().sum()
    torch.testing.assert_close(block.regularization.mean(), expected, rtol=0.08, atol=0)
    assert block.regularization.std() > 0.1


def test_higher_derivatives():
    """Of ``u' = a u`` the third derivative is ``a³ u``."""
    regularization = Regularization(derivative=2.0, order=3)
    block = NeuralODE(nn.Linear(1, 1, bias=False).to(F64), (0.0, 2.0), regularization=regularization, engine="embedded", **TIGHT)
    a = block.dynamics.weight.data.fill_(-0.7)
    block(torch.ones(1, 1, dtype=F64))
    expected = 2.0 * a**6 * torch.expm1(2 * a * 2.0) / (2 * a)
    torch.testing.assert_close(block.regularization, expected[0], rtol=1e-7, atol=0)


def test_states_of_one_size_but_other_shapes_are_told_apart(engine):
    class Sums(nn.Module):
        def forward(self, u):
            return u.sum(-1, keepdim=True).expand_as(u)

    block = NeuralODE(Sums(), (0.0, 0.5), regularization=Regularization(kinetic=1.0), engine=engine, **TIGHT)
    u0 = torch.linspace(0, 1, 16, dtype=F64)
    for shape in ((2, 4, 2), (2, 2, 4)):
        x = u0.reshape(shape)
        total = x.sum(-1, keepdim=True)
        growth = torch.e ** torch.tensor(0.5 * shape[-1], dtype=F64)
        torch.testing.assert_close(block(x), x + total * (growth - 1) / shape[-1], rtol=1e-8, atol=1e-8)


# --- as a module -----------------------------------------------------------------------------------------------------


def test_it_goes_where_modules_go(engine):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), NeuralODE(TimeNet(), engine=engine), nn.Linear(2, 1))
    x = torch.randn(5, 3)
    before = model(x)
    assert before.dtype == torch.float32
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    other = nn.Sequential(nn.Linear(3, 2), NeuralODE(TimeNet(), engine=engine), nn.Linear(2, 1))
    other.load_state_dict(torch.load(saved))
    torch.testing.assert_close(other(x), before, rtol=0, atol=0)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[1].dynamics.net[2].bias.add_(1.0)
    assert not torch.allclose(twin(x), before)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    double = model.to(F64)(x.to(F64))
    assert double.dtype == F64
    torch.testing.assert_close(double.to(torch.float32), before, rtol=1e-3, atol=1e-3)


def test_dynamics_put_in_place_of_others_are_used(engine):
    block = NeuralODE(linear(ROTATION), regularization=Regularization(kinetic=1.0), engine=engine, **TIGHT)
    block(U0)
    block.dynamics = linear(ROTATION / 2)
    torch.testing.assert_close(block(U0), U0 @ torch.linalg.matrix_exp(ROTATION.T / 2), rtol=1e-8, atol=1e-8)


def test_it_trains(engine):
    """A spiral's flow is found: the error falls to a small part of what doing nothing leaves."""
    torch.manual_seed(0)
    u0 = torch.randn(30, 2)
    goal = u0 @ torch.linalg.matrix_exp(ROTATION.T.float())
    block = NeuralODE(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)), rtol=1e-3, atol=1e-4, engine=engine)
    optimizer = torch.optim.Adam(block.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        loss = (block(u0) - goal).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.02 * (u0 - goal).square().mean()


FIXED_STEPS = {
    "julia": (ps.Tsit5(), 48, [ps.BacksolveAdjoint(), ps.InterpolatingAdjoint()]),
    "embedded": (ps.RK4(), 32, [ps.BacksolveAdjoint()]),
}


@pytest.mark.slow
def test_evaluations_are_counted(engine):
    algorithm, evaluations, methods = FIXED_STEPS[engine]
    few = range(evaluations, evaluations + 3)  # eight steps; SciML looks at the slope once more at either end
    x = torch.randn(4, 2)
    for method in methods:
        block = NeuralODE(TimeNet(), algorithm=algorithm, adaptive=False, dt=0.125, sensealg=method, engine=engine)
        out = block(x)
        assert block.nfe_forward in few and block.nfe_backward == 0
        out.sum().backward()
        assert block.nfe_backward >= evaluations
        block(x, torch.tensor([[0.0, 0.5, 1.0]] * 4))
        assert block.nfe_forward // 2 in few and block.nfe_backward == 0
        assert block.engine == engine


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(2)])
def test_layers_that_an_ode_can_not_have_in_training_mode(layer):
    block = NeuralODE(nn.Sequential(nn.Linear(2, 2), layer), engine="embedded")
    x = torch.randn(4, 2)
    with pytest.raises(ps.CaptureError, match="training mode"):
        block(x)
    block.eval()(x)
    block.dynamics[1].train()  # it alone
    with pytest.raises(ps.CaptureError, match="training mode"):
        block(x)
    block.eval()(x)


# --- augmented -------------------------------------------------------------------------------------------------------


def test_zero_augmentation_of_features_and_channels(engine):
    """A rotation by a half turn in the plane of input and added entry takes x to -x."""
    half_turn = linear(torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64))
    x = torch.tensor([[-1.0], [1.0], [0.3]], dtype=F64)
    options = {"t_span": (0.0, torch.pi / 2, torch.pi), "engine": engine, **TIGHT}
    end, path = AugmentedNeuralODE(half_turn, 1, returns="both", project="drop", **options)(x)
    torch.testing.assert_close(end, -x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(path, torch.stack([x, 0 * x, -x]), rtol=1e-8, atol=1e-8)
    whole = AugmentedNeuralODE(half_turn, 1, returns="trajectory", **options)(x)
    torch.testing.assert_close(whole[1], torch.cat([0 * x, x], 1), rtol=1e-8, atol=1e-8)

    class Channels(nn.Module):
        def forward(self, u):
            return torch.stack([-u[:, 1], u[:, 0]], 1)

    images = torch.linspace(-1, 1, 2 * 9, dtype=F64).reshape(2, 1, 3, 3)
    out = AugmentedNeuralODE(Channels(), 1, project="drop", **options)(images)
    torch.testing.assert_close(out, -images, rtol=1e-8, atol=1e-8)


def test_learned_lifts_and_projections(engine):
    dynamics, lift, project = linear(ROTATION), nn.Linear(1, 1).to(F64), nn.Linear(2, 3).to(F64)
    x = torch.tensor([[-1.0], [0.4]], dtype=F64)
    flow = torch.linalg.matrix_exp(ROTATION.T)
    partly = AugmentedNeuralODE(dynamics, 1, lift=lift, project=project, engine=engine, **TIGHT)
    expected = project(torch.cat([x, lift(x)], 1) @ flow)
    torch.testing.assert_close(partly(x), expected, rtol=1e-8, atol=1e-8)
    assert {"block.dynamics.weight", "lift.bias", "project.bias"} <= set(partly.state_dict())
    for ours, theirs in zip(
        torch.autograd.grad(partly(x).square().sum(), lift.parameters()),
        torch.autograd.grad(expected.square().sum(), lift.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)
    assert partly.nfe_forward > 0 and partly.engine == engine
    whole = nn.Linear(1, 2).to(F64)
    block = AugmentedNeuralODE(dynamics, lift=whole, returns="trajectory", project=project, engine=engine, **TIGHT)
    torch.testing.assert_close(block(x), project(torch.stack([whole(x), whole(x) @ flow])), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({}, "augment"),
        ({"augment": -1}, "augment"),
        ({"augment": 1.0}, "augment"),
        ({"augment": 1, "lift": "one"}, "lift"),
        ({"augment": 1, "project": "first"}, "project"),
        ({"lift": nn.Linear(1, 2), "project": "drop"}, "project"),
    ],
)
def test_bad_augmentations_are_named(arguments, named):
    with pytest.raises((TypeError, ValueError), match=named):
        AugmentedNeuralODE(nn.Linear(2, 2), **arguments)


def trained_on_the_crossing(model):
    """The loss of fitting -1 to 1 and 1 to -1, after training."""
    x = torch.tensor([[-1.0], [1.0]])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(80):
        optimizer.zero_grad()
        loss = (model(x) + x).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_only_the_augmented_paths_cross(julia_engine):
    """Order is kept in one dimension, so a plain neural ODE leaves a mean squared error of 1 at least."""
    torch.manual_seed(0)
    options = {"engine": julia_engine, "rtol": 1e-3, "atol": 1e-4}
    plain = NeuralODE(nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)), **options)
    augmented = AugmentedNeuralODE(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)), 1, project="drop", **options)
    assert trained_on_the_crossing(plain) > 0.999
    assert trained_on_the_crossing(augmented) < 0.01


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"dynamics": lambda u: u}, "dynamics"),
        ({"t_span": (0.0,)}, "t_span"),
        ({"t_span": (0.0, 1.0, 0.5)}, "t_span"),
        ({"t_span": (0.0, float("nan"))}, "t_span"),
        ({"returns": "last"}, "returns"),
        ({"saveat": [0.5]}, "saveat"),
        ({"regularization": "kinetic"}, "regularization"),
        ({"algorithm": 5}, "algorithm"),
        ({"sensealg": "Gauss"}, "sensealg"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises((TypeError, ValueError), match=named):
        NeuralODE(**{"dynamics": nn.Linear(2, 2), **arguments})


@pytest.mark.parametrize("times", [[0.0], [0.0, 0.0], [0.0, float("inf")], [[0.0, 1.0]], [[0.0, 1.0, 0.5]] * 4, [[[0.0, 1.0]]], 1.0])
def test_bad_times_are_named(times):
    with pytest.raises(ValueError, match="times"):
        NeuralODE(nn.Linear(2, 2), engine="embedded")(torch.zeros(4, 2), times)


@pytest.mark.parametrize("bad", [{}, {"kinetic": -1.0}, {"kinetic": 1.0, "noise": "uniform"}, {"derivative": 1.0, "order": 1}])
def test_bad_regularisations_are_refused(bad):
    with pytest.raises(ValueError):
        Regularization(**bad)


def test_neither_torch_nor_julia_before_they_are_needed():
    code = "import sys, pysciode; assert 'torch' not in sys.modules; pysciode.nn.NeuralODE; assert 'juliacall' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
