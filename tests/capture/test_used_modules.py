"""Modules that are copied, saved, loaded and changed after they were used: right numbers every time."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchdiffeq import odeint

import pysciode as ps
from pysciode import nn as psnn

F64 = torch.float64
TIGHT = dict(rtol=1e-8, atol=1e-10)


def network(inputs: int = 2, outputs: int = 2, hidden: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).double()


def regularized(block: nn.Module) -> torch.Tensor:
    return torch.cat([block(X), block.regularization[:, None]], 1)


def latent(engine: str) -> nn.Module:
    encoder = psnn.ODERNNEncoder(2, 6, 2, network(6, 6), dt=0.5, engine=engine).double()
    return psnn.LatentODE(encoder, network(), network(), 2, engine=engine).double()


def elbo(model: nn.Module) -> torch.Tensor:
    torch.manual_seed(0)
    return model.elbo(torch.linspace(-1, 1, 24, dtype=F64).reshape(3, 4, 2), torch.linspace(0, 1, 4, dtype=F64))


X = torch.linspace(-1, 1, 12, dtype=F64).reshape(6, 2)
MODULES: dict[str, tuple[Callable[[str], nn.Module], Callable[[nn.Module], torch.Tensor]]] = {
    "NeuralODE": (lambda e: psnn.NeuralODE(network(), engine=e), lambda x: x(X)),
    "AugmentedNeuralODE": (lambda e: psnn.AugmentedNeuralODE(network(3, 3), 1, engine=e), lambda x: x(X)),
    "Regularization": (lambda e: psnn.NeuralODE(network(), regularization=psnn.Regularization(1.0), engine=e), regularized),
    "ScaledField": (lambda e: psnn.NeuralODE(psnn.ScaledField(network(), [1.0, 2.0], 3.0), engine=e), lambda x: x(X)),
    "ConcatSquashNetwork": (lambda e: psnn.NeuralODE(psnn.ConcatSquashNetwork(2, [8]).double(), engine=e), lambda x: x(X)),
    "ContinuousFlow": (lambda e: psnn.ContinuousFlow(network(), 2, engine=e), lambda x: x.log_prob(X)),
    "LatentODE": (latent, elbo),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODULES)
def test_modules_of_every_kind(kind, engine):
    """Copies made before and after use give the same numbers and gradients, and lead their own lives."""
    make, call = MODULES[kind]
    torch.manual_seed(0)
    module = make(engine)
    fresh = pickle.loads(pickle.dumps(module))
    value, gradient = value_and_gradient(module, call)
    assert torch.isfinite(value).all() and any(x.abs().max() > 0 for x in gradient)
    stored = io.BytesIO()
    torch.save(module, stored)
    stored.seek(0)
    torch.manual_seed(1)
    other = make(engine)
    assert not torch.allclose(call(other).detach(), value)
    other.load_state_dict(saved_and_loaded(module.state_dict()))
    twins = [fresh, pickle.loads(pickle.dumps(module)), copy.deepcopy(module), torch.load(stored, weights_only=False), other]
    with torch.no_grad():
        for x in module.parameters():
            x.mul_(1.5)
    for twin in twins:
        same, slopes = value_and_gradient(twin, call)
        torch.testing.assert_close(same, value)
        for x, y in zip(slopes, gradient, strict=True):
            torch.testing.assert_close(x, y)
    assert not torch.allclose(call(module).detach(), value)


def value_and_gradient(module: nn.Module, call: Callable) -> tuple[torch.Tensor, list[torch.Tensor]]:
    module.zero_grad()
    value = call(module)
    value.square().sum().backward()
    return value.detach(), [torch.zeros_like(x) if x.grad is None else x.grad.clone() for x in module.parameters()]


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    stored = io.BytesIO()
    torch.save(state, stored)
    stored.seek(0)
    return torch.load(stored, weights_only=True)


@pytest.fixture
def block(engine) -> psnn.NeuralODE:
    """One that was used."""
    torch.manual_seed(0)
    made = psnn.NeuralODE(network(), engine=engine, **TIGHT)
    check(made)
    return made


def check(block: psnn.NeuralODE, x: torch.Tensor = X, rtol: float = 1e-5) -> None:
    """Values and gradients as torchdiffeq has them."""
    wanted = [x for x in block.parameters() if x.requires_grad]
    times = torch.tensor([0.0, 1.0], dtype=F64)
    tight = dict(rtol=1e-9, atol=1e-10) if x.dtype == F64 else dict(rtol=1e-6, atol=1e-6)
    expected = odeint(lambda t, u: block.dynamics(u), x, times, **tight)[-1]
    found = block(x)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)
    if wanted:
        slopes = (torch.autograd.grad(y.square().sum(), wanted) for y in (found, expected))
        for a, b in zip(*slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=10 * rtol, atol=10 * rtol)
    else:
        assert not found.requires_grad


def test_averages_of_weights(block):
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    average = AveragedModel(block, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.SGD(block.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        block(X).square().mean().backward()
        optimizer.step()
        average.update_parameters(block)
        average(X)
    check(block)
    check(average.module)
    assert not torch.allclose(average(X), block(X))


def test_weights_loaded_into_a_used_block(block):
    other = copy.deepcopy(block)
    with torch.no_grad():
        for x in block.parameters():
            x.mul_(-1.5)
    other.load_state_dict(saved_and_loaded(block.state_dict()))
    check(other)
    torch.testing.assert_close(other(X), block(X))
    other.load_state_dict(network_state(other, 7), assign=True)
    check(other)


def network_state(block: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: torch.randn_like(x) for name, x in block.state_dict().items()}


def test_training_goes_on_in_a_copy(block):
    optimizer = torch.optim.Adam(block.parameters(), 0.05)
    step(block, optimizer)
    twin = pickle.loads(pickle.dumps(block))
    follower = torch.optim.Adam(twin.parameters(), 0.05)
    follower.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    third, third_optimizer = copy.deepcopy((block, optimizer))
    for _ in range(2):
        for pair in ((block, optimizer), (twin, follower), (third, third_optimizer)):
            step(*pair)
    for other in (twin, third):
        torch.testing.assert_close(other(X), block(X))
    check(block)


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    module(X).square().mean().backward()
    optimizer.step()


def test_other_precisions(block):
    block.options.update(rtol=1e-5, atol=1e-6)
    for dtype, tolerance in ((torch.float32, 1e-3), (F64, 1e-4), (torch.float32, 1e-3)):
        block.to(dtype)
        check(block, X.to(dtype), tolerance)
        assert block(X.to(dtype)).dtype == dtype
    block.half()
    with pytest.raises(TypeError, match="float16"):
        block(X.half())
    with pytest.raises(TypeError, match=r"float16|Half"):
        block(X)


def test_frozen_weights(block):
    block.requires_grad_(False)
    check(block)
    with torch.no_grad():
        block.dynamics[0].weight.mul_(1.5)
    check(block)
    block.dynamics[2].requires_grad_(True)
    check(block)
    block.requires_grad_(True)
    check(block)


def test_other_layers(block):
    changes: list[Callable[[nn.Sequential], Any]] = [
        lambda net: net.append(nn.Linear(2, 2, dtype=F64)),
        lambda net: net.__setitem__(1, nn.SiLU()),
        lambda net: net.__delitem__(3),
        lambda net: setattr(net[0], "weight", nn.Parameter(torch.ones(8, 2, dtype=F64))),
        lambda net: setattr(net[0].weight, "data", torch.linspace(-1, 1, 16, dtype=F64).reshape(8, 2)),
        lambda net: setattr(net[0], "bias", None),
        lambda net: setattr(net[0], "forward", lambda x: 2 * nn.functional.linear(x, net[0].weight)),
    ]
    for change in changes:
        change(block.dynamics)
        check(block)


def test_hooks(block):
    def half(module, inputs):
        return (0.5 * inputs[0],)

    for register, hook in (
        (block.dynamics[0].register_forward_hook, lambda module, inputs, output: 2 * output),
        (block.dynamics.register_forward_pre_hook, half),
    ):
        handle = register(hook)
        check(block)
        handle.remove()
        check(block)
    calls = []
    block.register_forward_hook(lambda *given: calls.append(1))
    check(block)
    assert calls == [1]


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.scale, self.bounded, self.calls = nn.Linear(2, 2, dtype=F64), 1.0, True, 0

    def forward(self, u):
        self.calls += 1
        u = self.linear(u)
        return self.scale * (torch.tanh(u) if self.bounded else u)


def test_attributes(block):
    block.dynamics = Scaled()
    check(block)
    for name, value in (("scale", -0.5), ("bounded", False)):
        setattr(block.dynamics, name, value)
        check(block)
    # One that counts calls does not cost a capture each time.
    block(X)
    calls = block.dynamics.calls
    block(X)
    assert block.dynamics.calls == calls


@pytest.mark.slow
def test_parametrized_weights(block):
    from torch.nn.utils import parametrizations, parametrize, prune

    class Symmetric(nn.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).T

    block.dynamics.append(nn.Linear(2, 2, dtype=F64))
    parametrize.register_parametrization(block.dynamics[3], "weight", Symmetric())
    check(block)
    parametrizations.weight_norm(block.dynamics[0])
    check(block)
    check(copy.deepcopy(block))
    parametrize.remove_parametrizations(block.dynamics[0], "weight")
    check(block)
    for _ in range(2):
        prune.l1_unstructured(block.dynamics[2], "weight", amount=0.25)
        check(block)
    prune.remove(block.dynamics[2], "weight")
    check(block)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_older_weight_norm(block):
    torch.nn.utils.weight_norm(block.dynamics[0])
    optimizer = torch.optim.SGD(block.parameters(), 0.1)
    for _ in range(2):
        step(block, optimizer)
        check(block)
    torch.nn.utils.remove_weight_norm(block.dynamics[0])
    check(block)


@pytest.mark.slow
def test_layers_that_change_themselves(block):
    """Power iterations and running statistics, which an adaptive solver would repeat as it likes."""
    from torch.nn.utils.parametrizations import spectral_norm

    for change in (
        lambda net: spectral_norm(net[0]),
        lambda net: net.append(nn.BatchNorm1d(2, dtype=F64)),
    ):
        block.dynamics = network()
        change(block.dynamics)
        block.train()
        with pytest.raises(ps.CaptureError, match=r"in place|statistics"):
            block(X)
        block.eval()
        check(block)
    block.dynamics[3].running_mean.fill_(0.3)
    check(block)
