"""Fisher-KPP: the data against SciPy, and what is learned from them against the equation."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

pytestmark = pytest.mark.slow


@pytest.fixture
def kpp(monkeypatch):
    """The example as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    yield import_module("ude_fisher_kpp")
    del sys.modules["ude_fisher_kpp"]


@pytest.mark.julia
def test_the_observations_are_scipys(kpp):
    ring = np.roll(np.eye(26), 1, axis=0) + np.roll(np.eye(26), -1, axis=0) - 2 * np.eye(26)

    def f(t, u):
        return u * (1 - u) + 0.01 / 0.04**2 * ring @ u

    right = solve_ivp(f, (0, 5), kpp.START.numpy(), t_eval=kpp.TIMES.numpy(), rtol=1e-11, atol=1e-13, method="DOP853")
    np.testing.assert_allclose(kpp.observations(), right.y.T, rtol=0, atol=1e-8)


@pytest.mark.julia
def test_growth_and_stencil_are_recovered(kpp):
    torch.manual_seed(0)
    found = kpp.fit(kpp.observations(), adam=100, lbfgs=25, engine="julia", progress=False)
    assert found.losses[-1] < 1e-3 * found.losses[0]
    model = found.block.dynamics
    np.testing.assert_allclose(model.stencil().detach(), kpp.TRUE_STENCIL, rtol=0.02)
    assert abs(model.stencil().sum().item()) < 0.05
    np.testing.assert_allclose(kpp.growth_law(model), [0.0, 1.0, -1.0], atol=0.05)
    assert len(found.stencils) == len(found.losses) == 125


def test_the_growth_law_of_a_known_curve(kpp):
    """Of ``0.1 + 2 u - 3 u²``, put in the place of the network."""
    model = kpp.UniversalPDE()
    model.growth = lambda u: 0.1 + 2 * u - 3 * u**2
    np.testing.assert_allclose(kpp.growth_law(model), [0.1, 2.0, -3.0], atol=1e-12)
