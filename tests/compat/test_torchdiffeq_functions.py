"""Functions as torchdiffeq's users write them: counters, attributes set before a solve, lambdas, Python that can't be captured."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
import torchdiffeq

import pysciode as ps
from pysciode.capture.reach import Reached
from pysciode.compat.torchdiffeq.functions import Adapter
from pysciode.compat.torchdiffeq.states import Form
from pysciode.errors import CallbackWarning, FallbackWarning

TIGHT = {"rtol": 1e-9, "atol": 1e-10}
TIMES = torch.linspace(0.0, 1.0, 4, dtype=torch.float64)
Y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)

pytestmark = pytest.mark.usefixtures("on_julia")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2).double()
        self.context = torch.zeros(2, dtype=torch.float64)
        self.noise = torch.ones(2, dtype=torch.float64)
        self.scale = 1.0
        self.nfe = 0

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.nfe += 1
        return self.scale * torch.tanh(self.linear(y) + self.context) * self.noise


def same(func: Any, *inputs: torch.Tensor, y0: torch.Tensor = Y0) -> None:
    """Solution and gradients are torchdiffeq's."""
    answers = []
    for library in (ps, torchdiffeq):
        y = library.odeint(func, y0, TIMES, **TIGHT)
        answers.append((y, *(torch.autograd.grad(y.square().sum(), inputs, retain_graph=True) if inputs else ())))
    for found, expected in zip(*answers, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def captures(func: Any) -> int:
    return len(Adapter.of(func, Form.of(Y0)[0])._known.captures)


def test_attributes_that_change_between_solves() -> None:
    net, encoder = Net(), torch.nn.Linear(2, 2).double()
    for scale in (1.0, 1.0, 1.0, 2.0):
        net.scale = scale
        net.noise = torch.randn(2, dtype=torch.float64)
        net.context = encoder(torch.randn(2, dtype=torch.float64))
        same(net, net.linear.weight, encoder.weight)
    # One for the first noise, one when it had changed, one for the other scale.
    assert captures(net) == 3


def test_weights_changed_in_place_and_weights_frozen() -> None:
    net = Net()
    same(net, net.linear.weight)
    with torch.no_grad():
        net.linear.weight.add_(0.5)
    same(net, net.linear.weight)
    net.requires_grad_(False)
    same(net)
    net.linear.bias.add_(0.5)
    same(net)


def test_functions_made_anew_share_a_capture() -> None:
    net = Net()
    for make in (lambda c: lambda t, y: net(t, y) + c, lambda c: functools.partial(shifted, net, c)):
        made = []
        for _ in range(4):
            made.append(make(torch.randn(2, dtype=torch.float64)))
            same(made[-1], net.linear.weight)
        assert captures(made[-1]) == 2


def shifted(net: Net, c: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return net(t, y) + c


class Holder:
    def __init__(self) -> None:
        self.net, self.factor = Net(), 1.0

    def __call__(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.factor * self.net(t, y)

    def method(self, anything: torch.Tensor, of_any_name: torch.Tensor) -> torch.Tensor:
        return 2 * self.factor * self.net(anything, of_any_name) * anything


def test_objects_that_can_be_called_and_bound_methods() -> None:
    holder = Holder()
    for func in (holder, holder.method):
        for holder.factor in (1.0, 3.0):
            same(func, holder.net.linear.weight)


def test_evaluations_are_counted() -> None:
    net = Net()
    net.nfe = 100
    y = ps.odeint_adjoint(net, Y0, TIMES, **TIGHT)
    # Steps of six evaluations, and two for the first step.
    forward = net.nfe - 100
    assert forward > 10
    net.nfe = 0
    ps.odeint_adjoint(net, Y0, TIMES, **TIGHT)
    assert net.nfe == forward
    net.nfe = 0
    y.sum().backward()
    assert net.nfe > 10


count = 0


def test_evaluations_are_counted_in_closures_and_globals() -> None:
    here = 0

    def closure(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal here
        here += 2
        return torch.cos(y)

    def outside(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        global count
        count += 1
        return torch.cos(y)

    for func in (closure, outside):
        ps.odeint(func, Y0, TIMES)
        ps.odeint(func, Y0, TIMES)
    assert here == 2 * count
    assert count > 20


def test_what_can_not_be_captured_is_called_with_one_warning() -> None:
    net = Net()
    net.nfe = 0

    def branch(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return net(t, y) if y.sum() > 0.0 else -y

    with pytest.warns(CallbackWarning, match=r"branch can't be compiled.*if, while(.|\n)*test_torchdiffeq_functions.py") as caught:
        same(branch, net.linear.weight)
        net.scale = 2.0
        same(branch, net.linear.weight)
    assert len([x for x in caught if x.category is CallbackWarning]) == 1
    assert caught[0].filename == __file__
    assert net.nfe > 20  # it counts by itself


def test_random_numbers_are_drawn_at_every_evaluation() -> None:
    drawn = []

    def noisy(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        drawn.append(torch.randn(()).item())
        return -y + 1e-12 * drawn[-1]

    with pytest.warns(CallbackWarning, match="random"):
        ps.odeint(noisy, Y0, TIMES, rtol=1e-3, atol=1e-3)
    assert len(set(drawn)) > 5


def test_dropout_is_called_in_training_and_captured_in_evaluation() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)).double()

    class Dropped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.net(y)

    dropped = Dropped()
    with pytest.warns(CallbackWarning):
        ps.odeint(dropped, Y0, TIMES, rtol=1e-2, atol=1e-2, options={"max_num_steps": 1000, "min_step": 0.1})
    dropped.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(dropped, net[0].weight)


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (lambda net: setattr(net, "callback_step", lambda t, y, dt: None), None, "callback_step"),
        (lambda net: net.linear.float(), None, "float32"),
        (lambda net: None, {"step_size": 0.1, "perturb": True}, "perturb"),
    ],
)
def test_what_only_torchdiffeq_can_do_it_does(change: Any, options: Any, reason: str) -> None:
    class Other(Net):
        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return super().forward(t, y.to(self.linear.weight.dtype)).to(y.dtype)

    net, keywords = Other(), {"method": "euler", "options": options}
    change(net)
    with pytest.warns(FallbackWarning, match=reason) as caught:
        found = ps.odeint(net, Y0, TIMES, **keywords)
        ps.odeint(net, Y0, TIMES, **keywords)
    assert len(caught) == 1
    assert torch.equal(found, torchdiffeq.odeint(net, Y0, TIMES, **keywords))


def test_what_a_function_reaches() -> None:
    net = Net()
    reached = Reached(net)
    assert list(reached.tensors) == ["linear.weight", "linear.bias"]
    assert set(reached.constants) == {"context", "noise"}
    assert Reached(net).key == reached.key
    net.nfe += 1
    assert Reached(net).key != reached.key
    net.nfe -= 1
    net.eval()
    assert Reached(net).key != reached.key
