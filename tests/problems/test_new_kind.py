"""A new kind of problem is one class here and one file in Julia: ``du/dt = gain(u, p, t) f(u, p, t)``, `gain` a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import pysciode as ps
from pysciode.problems.base import Problem
from pysciode.problems.declarations import Form, Signature

F64 = torch.float64


class ModulatedODEProblem(Problem):
    """``du/dt = gain(u, p, t) f(u, p, t)``."""

    signatures = {"f": Signature(), "gain": Signature(output="number")}
    form = Form("modulated", frozenset({"explicit"}), parts=("f", "gain"))
    _arguments = ("f", "gain", "u0", "tspan", "p", "name")

    def __init__(self, f, gain, u0, tspan, p=None, *, name=None):
        self._prepare({"f": f, "gain": gain}, u0, tspan, p, name=name)

    @staticmethod
    def _first_order(f, gain):
        return lambda u, p, t: gain(u, p, t) * f(u, p, t)


def growth(u, p, t):
    return p[0] * u


def gain(u, p, t):
    return 2 * p[1] * t


def posed(p, u0=(1.0, 3.0), **more):
    return ModulatedODEProblem(growth, gain, torch.tensor(u0, dtype=F64), (0.0, 1.5), p, **more)


@pytest.fixture(scope="module")
def julia_side():
    """The form's own file, loaded once."""
    ps.get_engine("julia").start()
    import juliacall

    juliacall.Main.include(str(Path(__file__).with_name("modulated.jl")))


# u(t) = u0 exp(a b t²); the derivative by a of the sum at 1.5 is b 1.5² times it.
@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("algorithm", [ps.Tsit5(), ps.Vern7(), ps.Rodas5P()], ids=str)
def test_it_solves_with_gradients(julia_side, algorithm):
    p = torch.tensor([0.4, 0.7], dtype=F64, requires_grad=True)
    problem = posed(p)
    assert problem.form.takes(algorithm) == (algorithm.name != "Rodas5P")
    sol = ps.solve(problem, algorithm, saveat=[1.0, 1.5], rtol=1e-10, atol=1e-10, engine="julia")
    a, b = 0.4, 0.7
    for t, u in zip((1.0, 1.5), sol.u.detach().numpy(), strict=True):
        np.testing.assert_allclose(u, np.exp(a * b * t**2) * np.array([1.0, 3.0]), rtol=1e-8)
    sol.u[-1].sum().backward()
    total = 4 * np.exp(a * b * 1.5**2)
    np.testing.assert_allclose(p.grad.numpy(), [b * 1.5**2 * total, a * 1.5**2 * total], rtol=1e-7)


@pytest.mark.julia
def test_adjoints_take_its_first_order_system(julia_side):
    p = torch.tensor([0.4, 0.7], dtype=F64, requires_grad=True)
    sol = ps.solve(posed(p), ps.Rodas5P(), saveat=[1.5], rtol=1e-10, atol=1e-10, sensealg=ps.GaussAdjoint(), engine="julia")
    sol.u.sum().backward()
    total = 4 * np.exp(0.28 * 1.5**2)
    np.testing.assert_allclose(p.grad.numpy(), [0.7 * 1.5**2 * total, 0.4 * 1.5**2 * total], rtol=1e-6)
    with pytest.raises(ValueError, match="in parts"):
        ps.solve(posed(p), ps.Tsit5(), sensealg=ps.GaussAdjoint(), engine="julia")


def test_everything_else_knows_it_too(engine):
    """remake, ensembles, names and errors ask the class, not for its name."""
    problem = posed(torch.tensor([0.4, 0.7], dtype=F64), name="modulated")
    other = ps.remake(problem, p=torch.tensor([0.1, 0.2], dtype=F64))
    assert other.captured is problem.captured or other.model is problem.model
    assert "ModulatedODEProblem 'modulated'" in repr(problem)
    changed = ps.remake(problem, gain=lambda u, p, t: 0 * t + 1.0)
    assert changed.functions["f"] is growth and changed.model is not problem.model
    ensemble = ps.EnsembleProblem(problem, u0=torch.ones(3, 2, dtype=F64))
    found = ps.solve(ensemble, "auto", saveat=[1.0], rtol=1e-8, atol=1e-8, engine=engine).u
    np.testing.assert_allclose(found[:, 0].numpy(), np.exp(0.28), rtol=1e-6)
    with pytest.raises(ValueError, match="imex|split|SplitODE"):
        ps.solve(problem, ps.IMEXEuler(), dt=0.1, engine=engine)
