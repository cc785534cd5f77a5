"""What a user drops is freed: problems, models, modules and what the drop-ins keep for them, of each public entry point."""

from __future__ import annotations

import gc
import warnings
import weakref

import numpy as np
import pytest
import torch

import pysciode as ps
from pysciode.compat.scipy import solve_ivp

pytestmark = pytest.mark.slow

T = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)


class Net(torch.nn.Module):
    """A module that keeps its own solution, as many examples do."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2, dtype=torch.float64)
        self.kept = None

    def forward(self, *arguments):
        y = next(x for x in arguments if isinstance(x, torch.Tensor) and x.ndim)
        return torch.tanh(self.layer(y))


class Keeping(Net):
    def __init__(self, interface):
        super().__init__()
        self.interface = [interface]

    def solve(self, y0):
        self.kept = self.interface[0](self, y0, T)
        return self.kept


def start():
    return torch.ones(2, dtype=torch.float64)


def odeint_kept():
    model = Keeping(ps.odeint)
    model.solve(start()).sum().backward()
    return model


def odeint_adjoint_kept():
    model = Keeping(ps.odeint_adjoint)
    model.solve(start()).sum().backward()
    return model


def odeint_function():
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def f(t, y):
        return -w * y

    ps.odeint(f, start(), T).sum().backward()
    return f


def solve_module():
    model = Net()
    sol = ps.solve(ps.ODEProblem(lambda u, p, t: model(u), start(), (0.0, 1.0)), saveat=[1.0])
    sol.u.sum().backward()
    model.kept = sol
    return model


def solve_numpy():
    class Model:
        k = 1.0

        def __call__(self, u, p, t):
            return -self.k * u

    model = Model()
    model.kept = ps.solve(ps.ODEProblem(model, np.ones(2), (0.0, 1.0)))
    return model


def scipy():
    class Model:
        k = 1.0

        def __call__(self, t, y):
            return -self.k * y

    model = Model()
    model.kept = solve_ivp(model, (0.0, 1.0), [1.0, 2.0])
    return model


def neural_ode():
    from pysciode.nn import NeuralODE

    model = NeuralODE(Net(), (0.0, 1.0))
    model.kept = model(start()[None])
    model.kept.sum().backward()
    return model


def second_order():
    model = Net()
    problem = ps.SecondOrderODEProblem(lambda v, u, p, t: model(u), start(), start(), (0.0, 1.0))
    model.kept = ps.solve(problem, saveat=[1.0])
    return model


ENTRIES = (odeint_kept, odeint_adjoint_kept, odeint_function, solve_module, solve_numpy, scipy, neural_ode, second_order)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda f: f.__name__)
def test_freed(entry, engine, monkeypatch):
    from pysciode import engines

    if engine == "julia" and entry is odeint_adjoint_kept:
        pytest.xfail("the graph of torch holds the module that keeps its own result of odeint_adjoint")
    monkeypatch.setattr(engines, "_chosen", engine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        held = entry()
        held_by = weakref.ref(held)
        del held
        for _ in range(3):
            gc.collect()
        assert held_by() is None
        before = _tensors()
        for _ in range(3):
            entry()
        gc.collect()
        gc.collect()
        assert _tensors() - before <= 6


def _tensors() -> int:
    return sum(isinstance(x, torch.Tensor) for x in gc.get_objects())
