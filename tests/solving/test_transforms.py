"""torch.func's transformations of solves whose functions reach what is transformed: closures, containers, modules, attributes."""

from __future__ import annotations

import math

import pytest

import pysciode as ps

torch = pytest.importorskip("torch")

from pysciode.compat.torchdiffeq import odeint, odeint_adjoint  # noqa: E402

F64 = torch.float64
TIMES = torch.tensor([0.0, 1.0], dtype=F64)
Y0 = torch.tensor([1.0, 2.0], dtype=F64)


class Rate(torch.nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.kept = {"rate": rate}

    def forward(self, t, y):
        return -self.kept["rate"] * y


class Plain:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, t, y):
        return -self.rate * y


def with_default(rate):
    def f(t, y, inner=[rate]):  # noqa: B006
        return -inner[0] * y

    return f


PLACES = {
    "closure": lambda rate: lambda t, y: -rate * y,
    "helper": lambda rate: (lambda g: lambda t, y: -g(y))(lambda y: rate * y),
    "list": lambda rate: (lambda kept: lambda t, y: -kept[0] * y)([rate]),
    "nested": lambda rate: (lambda kept: lambda t, y: -kept["a"][0] * y)({"a": [rate]}),
    "attribute": Plain,
    "module": Rate,
    "default": with_default,
}


def solved(how, f, y0):
    if how == "native":
        return ps.solve(ps.ODEProblem(lambda u, p, t: f(t, u), y0, (0.0, 1.0)), saveat=[1.0], rtol=1e-8, atol=1e-10).u[-1]
    solver = odeint if how == "odeint" else odeint_adjoint
    more = {"adjoint_params": ()} if how == "odeint_adjoint" and not isinstance(f, torch.nn.Module) else {}
    return solver(f, y0, TIMES, rtol=1e-8, atol=1e-10, **more)[-1]


@pytest.mark.julia
@pytest.mark.parametrize("how", ["native", "odeint"])
@pytest.mark.parametrize("place", PLACES)
def test_what_the_function_reaches(julia_engine, place, how):
    def loss(rate, y0=Y0):
        return solved(how, PLACES[place](rate), y0).sum()

    for rate in (1.3, 0.5):  # the second after the first: no number of the first call remains
        x = torch.tensor(rate, dtype=F64)
        gradient, by_start = torch.func.grad(loss, argnums=(0, 1))(x, Y0)
        assert gradient.item() == pytest.approx(-3 * math.exp(-rate), rel=1e-6)
        torch.testing.assert_close(by_start, torch.full((2,), math.exp(-rate), dtype=F64), rtol=1e-6, atol=0)
    rates = torch.tensor([1.3, 0.5], dtype=F64)
    torch.testing.assert_close(torch.func.vmap(loss)(rates), 3 * torch.exp(-rates), rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(rates), -3 * torch.exp(-rates), rtol=1e-6, atol=0)


@pytest.mark.julia
@pytest.mark.parametrize("how", ["odeint", "odeint_adjoint"])
def test_gradients_for_each_sample(julia_engine, how):
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()

        def field(self, t, y):
            return self.net(y)

        def forward(self, y):
            if how == "odeint":
                return odeint(self.field, y, TIMES)[-1].square().sum()
            return odeint_adjoint(self.field, y, TIMES, adjoint_params=tuple(self.net.parameters()))[-1].square().sum()

    torch.manual_seed(0)
    layer = Layer()
    values = {name: x.detach() for name, x in layer.named_parameters()}
    batch = torch.randn(3, 2, dtype=F64)
    found = torch.func.vmap(torch.func.grad(lambda p, y: torch.func.functional_call(layer, p, (y,))), in_dims=(None, 0))(values, batch)
    for i, y in enumerate(batch):
        exact = torch.autograd.grad(layer(y), list(layer.parameters()))
        for x, want in zip(found.values(), exact, strict=True):
            torch.testing.assert_close(x[i], want, rtol=1e-6, atol=1e-8)


@pytest.mark.julia
def test_what_is_batched_and_can_not_be(julia_engine):
    with pytest.raises(ValueError, match="same for all members"):
        torch.func.vmap(lambda t: odeint(lambda t, y: -y, Y0, t))(torch.stack([TIMES, 2 * TIMES]))
    rate = torch.tensor(1.0, dtype=F64)
    with pytest.raises(TypeError, match="being transformed by torch.func"):
        torch.func.grad(lambda rate: solved("native", (lambda kept: lambda t, y: -kept[0] * y)((rate,)), Y0).sum())(rate)
