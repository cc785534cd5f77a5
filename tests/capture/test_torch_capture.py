"""Torch capture: arguments, parameters wherever they are, derivatives as torch has them, and what can't be captured."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

import pysciode as ps
from pysciode.capture.torch.array_capture import capture_torch, discover_parameters, infer_signature
from pysciode.errors import CaptureError
from pysciode.lowering.loops.array_functions import lower_array

U = torch.linspace(-1, 1, 6).reshape(3, 2)
MATRIX = nn.Parameter(torch.tensor([[0.0, 1.0], [-1.0, 0.5]]))
HELPERS = {"scale": torch.tensor(2.0, requires_grad=True)}


def run(model, name: str, *inputs: torch.Tensor):
    graph = model.f if name == "f" else model.trace(name)
    return graph(*inputs)


# --- arguments -------------------------------------------------------------------------------------------------------


class TimeFirst(nn.Module):
    def forward(self, t, x):
        return -x * t


class StateOnly(nn.Module):
    def forward(self, anything):
        return -anything


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda u, p, t: u, ("u", "p", "t")),
        (lambda t, y: y, ("t", "u")),
        (lambda y, t: y, ("u", "t")),
        (lambda t, y, args: y, ("t", "u", "p")),
        (lambda a, b, c: a, ("u", "p", "t")),
        (lambda u, params: u, ("u", "p")),
        (lambda du, u, p, t: None, ("du", "u", "p", "t")),
        (lambda t, concentrations: t, ("t", "u")),
        (TimeFirst(), ("t", "u")),
        (StateOnly(), ("u",)),
        (nn.Linear(2, 2), ("u",)),
        (nn.Sequential(nn.Linear(2, 2)), ("u",)),
    ],
)
def test_signatures(f, expected):
    assert infer_signature(f) == expected


def test_ambiguous_arguments_are_refused():
    with pytest.raises(TypeError, match="name them u, p and t"):
        infer_signature(lambda a, b: a)


def test_parameters_keep_their_structure():
    p = {"a": torch.tensor(2.0), "rest": [torch.ones(2), 3.0]}
    model = capture_torch(lambda u, p, t: p["a"] * u + p["rest"][0] * t - p["rest"][1], U, p)
    assert model.param_shapes == ((), (2,), ())
    found = run(model, "f", torch.tensor(0.5), U, torch.tensor(2.0), torch.ones(2), torch.tensor(3.0))
    torch.testing.assert_close(found, 2 * U + 0.5 - 3)


def test_in_place_right_hand_side():
    def f(du, u, p, t):
        du[:, 0] = u[:, 1]
        du[:, 1] = -u[:, 0] * p

    model = capture_torch(f, U, torch.tensor(4.0))
    found = run(model, "f", torch.tensor(0.0), U, torch.tensor(4.0))
    torch.testing.assert_close(found, torch.stack([U[:, 1], -4 * U[:, 0]], 1))


def test_a_tuple_of_components_is_stacked():
    model = capture_torch(lambda u, p, t: (u[1], -u[0]), torch.zeros(2))
    assert run(model, "f", torch.tensor(0.0), torch.tensor([1.0, 2.0])).tolist() == [2.0, -1.0]


@pytest.mark.parametrize(
    ("f", "u", "p", "message"),
    [
        (lambda u, p, t: u[0], U, None, "shape"),
        (lambda u, p, t: u.double(), U, None, "float64"),
        (lambda u, p, t: u, torch.zeros(2, dtype=torch.int64), None, "float32 or float64"),
        (lambda u, p, t: u * p, U, torch.zeros(2, dtype=torch.float64), "parameter 0"),
        (nn.Linear(2, 2).double(), U, None, "weight is torch.float64"),
        (lambda u, p, t: 3.0, U, None, "returned float"),
    ],
)
def test_types_that_do_not_fit(f, u, p, message):
    with pytest.raises(TypeError, match=message):
        capture_torch(f, u, p)


# --- parameters ------------------------------------------------------------------------------------------------------


def uses_globals(u, p, t):
    return u @ MATRIX * HELPERS["scale"]


class Holder:
    def __init__(self):
        self.net = nn.Linear(2, 2)
        self.rates = [torch.tensor(1.0, requires_grad=True), torch.tensor(2.0)]

    def rhs(self, u, p, t):
        return self.net(u) * self.rates[0] * self.rates[1]

    def __call__(self, t, u):
        return self.rhs(u, None, t)


def closure():
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    return lambda t, u: net(u)


def with_partial():
    return functools.partial(lambda u, p, t, net: net(u), net=nn.Linear(2, 2, bias=False))


def with_default(u, p, t, weight=nn.Parameter(torch.eye(2))):  # noqa: B008
    return u @ weight


@pytest.mark.parametrize(
    ("f", "names"),
    [
        (closure(), ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]),
        (uses_globals, ["MATRIX", "HELPERS.scale"]),
        (Holder().rhs, ["net.weight", "net.bias", "rates.0"]),
        (Holder(), ["net.weight", "net.bias", "rates.0"]),
        (with_partial(), ["net.weight"]),
        (with_default, ["default0"]),
        (nn.Linear(2, 2), ["weight", "bias"]),
    ],
)
def test_parameters_are_found(f, names):
    found = discover_parameters(f)
    assert sorted(found) == sorted(names)
    signature = ("u", "p", "t") if isinstance(f, functools.partial) else None
    model = capture_torch(f, U, signature=signature)
    assert model.param_shapes == tuple(tuple(x.shape) for x in found.values())
    # Each is an input: other values give another result.
    inputs = [torch.tensor(0.3), U, *(x.detach() for x in found.values())]
    changed = [*inputs[:2], *(x + 1 for x in inputs[2:])]
    assert not torch.allclose(run(model, "f", *inputs), run(model, "f", *changed))


def test_tied_parameters_appear_once():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.weight = a.weight
    net = nn.Sequential(a, b)
    assert list(discover_parameters(net)) == ["0.weight", "0.bias", "1.bias"]
    model = capture_torch(net, U)
    lam = torch.ones_like(U)
    gradients = run(model, "vjp_p", lam, torch.tensor(0.0), U, a.weight, a.bias, b.bias)
    expected = torch.autograd.grad(net(U).sum(), [a.weight, a.bias, b.bias])
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_frozen_parameters_and_buffers_are_constants():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    net[0].weight.requires_grad_(False)
    assert list(discover_parameters(net)) == ["0.bias", "1.weight", "1.bias"]
    lowered = lower_array(capture_torch(net, U), {"f!"})
    frozen = np.sort(net[0].weight.numpy().reshape(-1))
    assert any(np.array_equal(np.sort(c), frozen) for c in lowered.constants.values())


def test_a_trainable_tensor_that_can_not_be_found_is_refused():
    hidden = iter([nn.Parameter(torch.eye(2))] * 3)
    with pytest.raises(CaptureError, match="pass it in p"):
        capture_torch(lambda u, p, t: u @ next(hidden), U)


# --- derivatives -----------------------------------------------------------------------------------------------------


def test_derivatives_agree_with_autograd():
    net = nn.Sequential(nn.Linear(2, 7), nn.SiLU(), nn.Linear(7, 2)).double()
    u, t = U.double(), torch.tensor(0.7, dtype=torch.float64)
    lam, v = torch.randn_like(u), torch.randn_like(u)

    def f(t, u):
        return net(u) * torch.cos(t)

    model = capture_torch(f, u)
    parameters = list(discover_parameters(f).values())
    x, s = u.clone().requires_grad_(), t.clone().requires_grad_()
    expected = torch.autograd.grad(f(s, x), [x, *parameters], lam)
    torch.testing.assert_close(run(model, "vjp", lam, t, u, *parameters), expected[0])
    for name, wanted in (("vjp_p", expected[1:]), ("vjp_both", expected)):
        for found, gradient in zip(run(model, name, lam, t, u, *parameters), wanted, strict=True):
            torch.testing.assert_close(found, gradient)
    torch.testing.assert_close(run(model, "jvp", v, t, u, *parameters), torch.func.jvp(lambda u: f(t, u), (u,), (v,))[1])
    torch.testing.assert_close(run(model, "tgrad", t, u, *parameters), -net(u) * torch.sin(t))
    tangents = [torch.randn_like(p) for p in parameters]
    found = run(model, "jvp_p", t, u, *parameters, *tangents)
    wanted = sum((torch.autograd.functional.jvp(
        lambda p, i=i: torch.func.functional_call(net, {n: p if j == i else q for j, (n, q) in enumerate(net.named_parameters())}, (u,)),
        parameters[i], tangents[i])[1] for i in range(len(parameters))), torch.zeros_like(u)) * torch.cos(t)  # fmt: skip
    torch.testing.assert_close(found, wanted)


def test_gradients_stop_where_the_model_stops_them():
    def f(t, u):
        with torch.no_grad():
            scale = u.norm()
        return scale * u + u.detach() * 3 + u.data

    lam = torch.randn_like(U)
    x = U.clone().requires_grad_()
    expected = torch.autograd.grad(f(0.0, x), x, lam)[0]
    torch.testing.assert_close(run(capture_torch(f, U), "vjp", lam, torch.tensor(0.0), U), expected)


def test_capture_without_gradients_changes_nothing():
    net = nn.Linear(2, 2)
    with torch.no_grad():
        model = capture_torch(net, U)
    lam = torch.randn_like(U)
    torch.testing.assert_close(run(model, "vjp", lam, torch.tensor(0.0), U, net.weight, net.bias), lam @ net.weight)


def test_capture_leaves_the_model_as_it_was():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    lower_array(capture_torch(net, U), {"f!", "vjp_both!", "jvp!"})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


# --- what can't be captured ------------------------------------------------------------------------------------------


def branches(u, p, t):
    if u.sum() > 0:
        return u
    return -u


def takes_item(u, p, t):
    return u * u.sum().item()


def takes_numpy(u, p, t):
    return u * torch.from_numpy(np.sin(u.numpy()))


def masks(u, p, t):
    return u * u[u > 0].sum()


def draws(u, p, t):
    return u + torch.randn_like(u)


def cumulates(u, p, t):
    return torch.cummax(u, 1)[0]


def is_complex(u, p, t):
    return torch.linalg.eigvals(torch.outer(u, u)).real


def overwrites(u, p, t):
    u[0] = 0.0
    return u


def fails(u, p, t):
    return u @ torch.ones(5, 5)


@pytest.mark.parametrize(
    ("f", "message", "line"),
    [
        (branches, "torch.where", "if u.sum() > 0"),
        (takes_item, "number out of a tensor", ".item()"),
        (takes_numpy, "NumPy", "np.sin"),
        (masks, "torch.where", "u[u > 0]"),
        (draws, "random", "randn_like"),
        (cumulates, "aten.cummax", "torch.cummax"),
        (is_complex, "complex", "eig"),
        (overwrites, "in place", "u[0] = 0.0"),
        (fails, "while tracing fails", "torch.ones(5, 5)"),
    ],
)
def test_what_can_not_be_captured_is_named(f, message, line):
    with pytest.raises(CaptureError, match="capture='callback'") as caught:
        lower_array(capture_torch(f, U), {"f!"})
    assert message in str(caught.value)
    assert line in caught.value.where
    assert caught.value.where.startswith("test_torch_capture.py:")
    assert caught.value.operation


@pytest.mark.parametrize("layer", [nn.Dropout(0.2), nn.BatchNorm1d(2), nn.AlphaDropout(0.1)])
def test_layers_in_training_mode_are_refused(layer):
    net = nn.Sequential(nn.Linear(2, 2), layer)
    with pytest.raises(CaptureError, match=r"\.eval\(\)"):
        capture_torch(net, U)
    capture_torch(net.eval(), U)


@pytest.mark.parametrize("engine", [pytest.param("julia", marks=pytest.mark.julia), "embedded"])
def test_gradients_stop_where_the_user_stops_them_on_every_engine(engine):
    def f(u, p, t):
        with torch.no_grad():
            scale = p * 2
        return -scale * u * p.detach() * p

    p = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    u = ps.solve(
        ps.ODEProblem(f, torch.ones(1, dtype=torch.float64), (0.0, 1.0), p), ps.Tsit5(), saveat=[1.0], engine=engine, rtol=1e-9, atol=1e-9
    ).u
    (slope,) = torch.autograd.grad(u.sum(), [p])
    # u = exp(-2 a² p t) with a = p held fixed
    assert slope.item() == pytest.approx(-2 * 0.25 * math.exp(-2 * 0.125), rel=1e-6)
