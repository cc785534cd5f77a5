"""Gradients of stiff problems, against forward mode at tight tolerances and closed forms: within a thousand tolerances, or told."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import pysciode as ps

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.julia]

F64 = torch.float64
TIMES = np.linspace(12.5, 100.0, 8)


def robertson(u, p, t):
    a, b, c = p[0] * u[0], p[1] * u[1] * u[1], p[2] * u[1] * u[2]
    return [c - a, a - b - c, b]


def gradient(algorithm, sensealg, rtol):
    """Of a loss that weighs each state by its size, to the logarithms of the rate constants."""
    log_p = torch.log(torch.tensor([0.04, 3e7, 1e4], dtype=F64)).requires_grad_()
    problem = ps.ODEProblem(robertson, torch.tensor([1.0, 0.0, 0.0], dtype=F64), (0.0, 100.0), torch.exp(log_p))
    u = ps.solve(problem, algorithm, saveat=TIMES, rtol=rtol, atol=1e-3 * rtol, sensealg=sensealg).u
    weights = torch.cos(torch.arange(24, dtype=F64)).reshape(8, 3) / u.detach().amax(0)
    return torch.autograd.grad((weights * u).sum(), log_p)[0]


@pytest.fixture(scope="module")
def exact():
    return gradient(ps.RadauIIA5(), ps.ForwardDiffSensitivity(), 1e-11)


@pytest.mark.parametrize("sensealg", [ps.GaussAdjoint(), ps.InterpolatingAdjoint(), ps.QuadratureAdjoint()], ids=lambda x: x.name)
@pytest.mark.parametrize("algorithm", [ps.FBDF(), ps.KenCarp4(), ps.TRBDF2(), ps.RadauIIA5()], ids=lambda x: x.name)
def test_robertson(julia_engine, exact, algorithm, sensealg):
    """GaussAdjoint with FBDF was off 140-fold at rtol=1e-4, with TRBDF2 3-fold."""
    for rtol in (1e-4, 1e-6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ps.AccuracyWarning)
            found = gradient(algorithm, sensealg, rtol)
        assert (found - exact).abs().max() <= 1000 * rtol * exact.abs().max()


def layer(u, p, t):
    return [p[0] * (u[1] - u[0]), -p[1] * u[1]]


@pytest.mark.parametrize("sensealg", [ps.GaussAdjoint(), ps.GaussKronrodAdjoint(), ps.QuadratureAdjoint()], ids=lambda x: x.name)
def test_layers_that_no_quadrature_sees(julia_engine, sensealg):
    """A rate of 1e13: behind a saved time the adjoint decays within a few floats of the time."""
    p = torch.tensor([1e13, 0.5], dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(layer, torch.tensor([1.0, 1.0], dtype=F64), (0.0, 60.0), p)
    sol = ps.solve(problem, ps.Rodas5P(), saveat=[30.0, 60.0], rtol=1e-6, atol=1e-14, sensealg=sensealg)
    try:
        (found,) = torch.autograd.grad(sol.u[:, 0].sum(), p)
    except ps.GradientFailed as refused:
        assert "too fast" in str(refused) or "no end" in str(refused)
    else:
        wanted = -30 * math.exp(-15) - 60 * math.exp(-30)
        assert found[1].item() == pytest.approx(wanted, rel=1e-3)
        assert found[0].item() * 1e13 == pytest.approx(0.0, abs=1e-3 * abs(wanted))


@pytest.mark.parametrize("sensealg", [ps.ForwardDiffSensitivity(), ps.ForwardSensitivity()], ids=lambda x: x.name)
def test_a_large_rate_constant(julia_engine, sensealg):
    """Its derivative is small, and must not lie below the tolerance: the sensitivity to its logarithm is what counts."""
    p = torch.tensor([1000.0, 0.7], dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(layer, torch.tensor([2.0, 1.0], dtype=F64), (0.0, 3.0), p)
    sol = ps.solve(problem, ps.Tsit5(), saveat=np.linspace(0.375, 3.0, 8), rtol=1e-4, atol=1e-6, sensealg=sensealg)
    (found,) = torch.autograd.grad(sol.u[:, 0].sum(), p)
    # u0 = k e^(-r t) / (k - r) + …: the derivative by k is -r e^(-r t) / (k - r)² once the transient is over.
    wanted = sum(-0.7 * math.exp(-0.7 * t) for t in np.linspace(0.375, 3.0, 8)) / (1000.0 - 0.7) ** 2
    assert found[0].item() * 1000 == pytest.approx(wanted * 1000, abs=5e-4)
