"""Robertson's reactions learned: the data against SciPy, the gradients against differences, and that the error falls."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import pysciode as ps
from pysciode.comparison.measure.reference import ridders

pytestmark = pytest.mark.slow


@pytest.fixture
def stiff(monkeypatch):
    """The example as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    yield import_module("stiff_neural_ode")
    del sys.modules["stiff_neural_ode"]


@pytest.fixture
def seen(stiff) -> torch.Tensor:
    """Observations by SciPy, shape (times, 3)."""
    rates = [0.04, 3e7, 1e4]
    right = solve_ivp(
        lambda t, u: stiff.robertson(u, rates, t),
        (0.0, 1e5),
        stiff.START.numpy(),
        t_eval=stiff.TIMES,
        method="Radau",
        rtol=1e-10,
        atol=1e-14,
    )
    return torch.from_numpy(right.y.T.copy())


def trial(stiff, seen, name: str):
    torch.manual_seed(0)
    return stiff.Trial(stiff.models(seen)[name](), seen, "julia")


@pytest.mark.julia
def test_the_observations_are_scipys(stiff, seen):
    np.testing.assert_allclose(stiff.observations(), seen, rtol=1e-6, atol=1e-12)


@pytest.mark.julia
def test_production_and_consumption_are_learned(stiff, seen):
    """The error of the paper's scaled network after some thousand steps of Adam is 0.1."""
    found = trial(stiff, seen, "production and consumption")
    stiff.train(found, steps=0, refinements=40, limit=300.0)
    assert not found.failure and found.best < 0.06 < 0.1 < found.errors[0]


@pytest.mark.julia
def test_the_gradient_is_the_difference_quotient(stiff, seen):
    found = trial(stiff, seen, "production and consumption")
    tight = {"rtol": 1e-9, "atol": 1e-10 * found.scale}
    gradient, x = found.gradient(**tight), found.vector()
    direction = np.random.default_rng(0).normal(size=x.size)

    def value(h: float) -> float:
        found.set(x + h * direction)
        with torch.no_grad():
            return (found.solution(**tight).u / found.scale).square().sum().item()

    assert gradient @ direction == pytest.approx(ridders(value, 1e-2)[0], rel=1e-4)


@pytest.mark.julia
def test_an_explicit_solver_gives_up_on_what_the_stiff_one_solves(stiff, seen):
    """The initial network's frequencies reach 2000 a second, so that stability asks for 1e7 explicit steps and more."""
    found = trial(stiff, seen, "production and consumption")
    assert found.solution(sensealg=ps.ForwardDiffSensitivity()).stats.naccept < 500
    with pytest.raises(ps.SolveFailed, match="MaxIters"), torch.no_grad():
        found.solution(algorithm=ps.Tsit5(), maxiters=5000)


@pytest.mark.julia
def test_scaled_is_learned_from_and_unscaled_is_not(stiff, seen):
    scaled, unscaled = trial(stiff, seen, "scaled"), trial(stiff, seen, "unscaled")
    for found in (scaled, unscaled):
        stiff.train(found, steps=60, refinements=0, limit=300.0)
    assert scaled.best < 0.3 and scaled.errors[-1] < 0.9 * scaled.errors[0]
    assert unscaled.failure or unscaled.best > 1.0
