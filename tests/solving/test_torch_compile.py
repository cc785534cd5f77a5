"""Models under torch.compile and torch's other transformations; models that torch compiled, scripted or traced."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchdiffeq import odeint

import pysciode as ps
from pysciode.nn import AugmentedNeuralODE, ContinuousFlow, NeuralODE

F64 = torch.float64
TIGHT = dict(rtol=1e-7, atol=1e-9)
X = torch.linspace(-1, 1, 12, dtype=F64).reshape(6, 2)
TIMES = torch.tensor([0.0, 1.0], dtype=F64)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def model(engine: str) -> nn.Sequential:
    block = NeuralODE(network(), engine=engine, **TIGHT)
    return nn.Sequential(nn.Linear(2, 2, dtype=F64), block, nn.Linear(2, 3, dtype=F64))


def check(found: Callable, x: torch.Tensor, parts: nn.Sequential) -> None:
    """Value and gradients of a `model` as torchdiffeq has them."""
    first, block, last = parts
    expected = last(odeint(lambda t, u: block.dynamics(u), first(x), TIMES, rtol=1e-9, atol=1e-10)[-1])
    y = found(x)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    slopes = (torch.autograd.grad(z.square().sum(), list(parts.parameters())) for z in (y, expected))
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_block_within_a_compiled_model(engine):
    parts = model(engine)
    parts(X)
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(parts, backend="aot_eager")
    check(compiled, X, parts)
    check(compiled, 2 * X[:4], parts)
    with torch.no_grad():
        parts[1].dynamics[0].weight.mul_(2)
    check(compiled, X, parts)
    breaks = torch._dynamo.utils.counters["graph_break"]
    assert 1 <= len(breaks) <= 4 and not any("engines" in x or "numpy" in x for x in breaks)  # the solve, nothing inside it
    assert parts[1].nfe_forward > 0


@pytest.mark.parametrize("kind", ["AugmentedNeuralODE", "ContinuousFlow"])
def test_other_blocks(kind, engine):
    if kind == "ContinuousFlow":
        parts = ContinuousFlow(network(), 2, engine=engine)
        call = parts.log_prob
    else:
        wide = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        call = parts = AugmentedNeuralODE(wide, 1, engine=engine)
    compiled = torch.compile(lambda x: 2 * call(torch.sin(x)), backend="aot_eager")
    expected = 2 * call(torch.sin(X))
    torch.testing.assert_close(compiled(X), expected)
    slopes = (torch.autograd.grad(y.sum(), list(parts.parameters())) for y in (compiled(X), expected))
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b)


def test_a_solve_within_a_compiled_function(engine):
    rate = torch.tensor(2.0, dtype=F64, requires_grad=True)

    def run(x, rate):
        problem = ps.ODEProblem(lambda u, p, t: -p * u, torch.sin(x), (0.0, 1.0), rate)
        problem = ps.remake(problem, tspan=(0.0, 2.0))
        return ps.solve(problem, ps.Tsit5(), saveat=[0.5, 2.0], engine=engine, **TIGHT).u[-1] * rate

    compiled = torch.compile(run, backend="aot_eager")
    for x in (X, 2 * X):
        y = compiled(x, rate)
        torch.testing.assert_close(y, torch.sin(x) * torch.exp(-2 * rate) * rate, rtol=1e-6, atol=1e-8)
        (slope,) = torch.autograd.grad(y.sum(), rate)
        torch.testing.assert_close(slope, torch.sin(x).sum() * -3 * math.exp(-4), rtol=1e-5, atol=1e-8)


def test_one_graph_can_not_hold_a_solve():
    parts = model("embedded")
    with pytest.raises(Exception, match="pysciode solves outside of torch"):
        torch.compile(parts, backend="eager", fullgraph=True)(X)
    with pytest.raises(Exception, match="pysciode solves outside of torch"):
        torch.compile(lambda x: ps.ODEProblem(parts, x, (0, 1)), backend="eager", fullgraph=True)(X)
    for strict in (False, True):
        with pytest.raises(Exception, match=r"can't be traced|pysciode solves outside of torch"):
            torch.export.export(parts, (X,), strict=strict)
    with pytest.raises(TypeError, match="can't be traced"):
        torch.jit.trace(parts, X)
    with pytest.raises(TypeError, match="can't be traced"):
        ps.solve(ps.ODEProblem(lambda u, p, t: -u, fake(X), (0, 1)), engine="embedded")
    with pytest.raises(TypeError, match="Proxy"):
        torch.fx.symbolic_trace(parts)


def fake(x: torch.Tensor) -> torch.Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(x)


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch.compile": lambda net: torch.compile(net, backend="eager"),
    "fx": torch.fx.symbolic_trace,
    "script": torch.jit.script,
    "trace": lambda net: torch.jit.trace(net, X),
}


@pytest.mark.parametrize("way", ["script", "trace"])
def test_scripts_that_torch_has_optimised(way, engine):
    """From its second call on, TorchScript detaches the parameters and carries their gradients itself: a trace has to undo that."""
    for _ in range(3):
        net = network()
        made = WAYS[way](net)
        for _ in range(3):
            made(X).sum().backward()
        u = ps.solve(ps.ODEProblem(made, X, (0.0, 1.0)), ps.Tsit5(), saveat=[1.0], engine=engine, **TIGHT).u[-1]
        expected = odeint(lambda t, u, net=net: net(u), X, TIMES, rtol=1e-9, atol=1e-10)[-1]
        slopes = (torch.autograd.grad(y.square().sum(), list(f.parameters())) for y, f in ((u, made), (expected, net)))
        for a, b in zip(*slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("capture", ["auto", "callback"])
@pytest.mark.parametrize("way", WAYS)
def test_right_hand_sides_that_torch_made(way, capture, engine):
    net = network()
    made = WAYS[way](net)
    for _ in range(2):
        found = ps.solve(ps.ODEProblem(made, X, (0.0, 1.0), capture=capture), ps.Tsit5(), saveat=[1.0], engine=engine, **TIGHT).u[-1]
        expected = odeint(lambda t, u: net(u), X, TIMES, rtol=1e-9, atol=1e-10)[-1]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        slopes = (torch.autograd.grad(y.square().sum(), list(f.parameters())) for y, f in ((found, made), (expected, net)))
        for a, b in zip(*slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        made(X)  # compiled by now
        with torch.no_grad():
            for x in made.parameters():
                x.mul_(1.2)
            if next(net.parameters()) is not next(made.parameters()):
                for x in net.parameters():
                    x.mul_(1.2)


def test_compiled_parts_of_a_right_hand_side(engine):
    parts = model(engine)
    parts[1].dynamics.compile(backend="eager")
    check(parts, X, parts)
    parts.compile(backend="eager")
    check(parts, X, parts)
    parts[1].dynamics[0] = torch.compile(nn.Linear(2, 8, dtype=F64), backend="eager")
    check(parts, X, parts)
    compiled = torch.compile(lambda x: torch.tanh(x), backend="eager")
    u = ps.solve(ps.ODEProblem(lambda u, p, t: p * compiled(u) / torch.tanh(u) * u, X, (0, 1), torch.tensor(0.5, dtype=F64)),
                 ps.Tsit5(), saveat=[1.0], engine=engine, **TIGHT).u[-1]  # fmt: skip
    torch.testing.assert_close(u, X * math.exp(0.5), rtol=1e-6, atol=1e-8)


def test_inference_mode(engine):
    parts = model(engine)
    with torch.inference_mode():
        first = parts(X)
        made_there = torch.ones(2, dtype=F64)
    check(parts, X, parts)
    torch.testing.assert_close(first, parts(X))
    with torch.no_grad():
        parts(made_there[None])


def test_parameters_of_others(engine):
    """torch.func.functional_call: those of the call, and afterwards the module's own."""
    parts = model(engine)
    other = {name: (1.1 * x.detach()).requires_grad_() for name, x in parts.named_parameters()}
    before = parts(X)
    found = torch.func.functional_call(parts, other, (X,))
    slopes = torch.autograd.grad(found.square().sum(), list(other.values()))
    torch.testing.assert_close(parts(X), before)
    with torch.no_grad():
        for x in parts.parameters():
            x.mul_(1.1)
    expected = parts(X)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    for a, b in zip(slopes, torch.autograd.grad(expected.square().sum(), list(parts.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    check(parts, X, parts)


def test_checkpoints(engine):
    from torch.utils.checkpoint import checkpoint

    parts = model(engine)
    for reentrant in (False, True):
        x = X.clone().requires_grad_()
        grads = []
        for y in (checkpoint(parts, x, use_reentrant=reentrant), parts(x)):
            parts.zero_grad()
            y.square().sum().backward()
            grads.append([x.grad for x in parts.parameters()])
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b)


def test_low_precision_is_told(engine):
    parts = model(engine).float()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(TypeError, match="bfloat16"):
        parts(X.float())


def test_transformations_of_the_parameters_of_modules(engine):
    """torch.func.grad, vmap and jacrev over functional_call, with a fresh model and with a captured one."""
    for _ in range(2):
        parts = model(engine)
        for x in (X, X[:3]):
            given = {name: x.detach() for name, x in parts.named_parameters()}
            found = torch.func.grad(lambda p, x=x, m=parts: torch.func.functional_call(m, p, (x,)).square().sum())(given)
            expected = torch.autograd.grad(parts(x).square().sum(), list(parts.parameters()))
            for a, b in zip(found.values(), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
            check(parts, x, parts)


def test_an_ensemble(engine):
    members = [model(engine) for _ in range(3)]
    stacked, _ = torch.func.stack_module_state(members)
    base = model(engine)
    found = torch.func.vmap(lambda p: torch.func.functional_call(base, p, (X,)))(stacked)
    torch.testing.assert_close(found, torch.stack([x(X) for x in members]), rtol=1e-6, atol=1e-8)


def test_jacobian_of_a_model(engine):
    parts = model(engine)
    for x in (X[0:1], X[2:3]):
        found = torch.func.jacrev(parts)(x)
        expected = torch.autograd.functional.jacobian(
            lambda x: parts[2](odeint(lambda t, u: parts[1].dynamics(u), parts[0](x), TIMES, rtol=1e-9, atol=1e-10)[-1]), x
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_transformed_tensors_that_a_model_closes_over(engine):
    def end(w):
        problem = ps.ODEProblem(lambda u, p, t: -w * u, torch.ones(2, dtype=F64), (0.0, 1.0))
        return ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-8, atol=1e-10, engine=engine).u[-1].sum()

    w = torch.tensor([1.0, 0.5], dtype=F64)
    assert torch.func.grad(end)(w[0]).item() == pytest.approx(-2 * math.exp(-1.0), rel=1e-6)
    torch.testing.assert_close(torch.func.vmap(end)(w), 2 * torch.exp(-w), rtol=1e-6, atol=0)


def test_drop_ins_within_a_compiled_function(engine, monkeypatch):
    from pysciode import engines

    monkeypatch.setattr(engines, "_chosen", engine)
    net = network()

    def run(x):
        times = torch.tensor([0.0, 1.0], dtype=F64)
        return ps.odeint(lambda t, u: net(u), torch.sin(x), times)[-1], ps.odeint_adjoint(net_of_time, torch.sin(x), times)[-1]

    net_of_time = OfTime(net)
    expected = odeint(lambda t, u: net(u), torch.sin(X), TIMES, rtol=1e-9, atol=1e-10)[-1]
    for found in torch.compile(run, backend="eager")(X):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        slopes = (torch.autograd.grad(y.sum(), list(net.parameters()), retain_graph=True) for y in (found, expected))
        for a, b in zip(*slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class OfTime(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, t, u):
        return self.net(u)
