"""Derivatives and incoming gradients that are not finite: refused, never passed on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from alive import DECAYING, METHODS, TIGHT

import pysciode as ps

F64 = torch.float64


def gradient(f, u0, p, engine, sensealg=None, **options):
    u0, p = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (u0, p))
    problem = ps.ODEProblem(f, u0, (0.0, 1.0), p, **options)
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], sensealg=sensealg, engine=engine, **TIGHT).u
    return torch.autograd.grad(u.sum(), [u0, p])


QUADRATURE = pytest.param("julia", ps.QuadratureAdjoint(), marks=pytest.mark.julia)


@pytest.mark.parametrize("engine, sensealg", [*METHODS, QUADRATURE], ids=str)
def test_a_derivative_that_is_not_finite(engine, sensealg):
    # Both forward solves succeed: the root stays at 0, and the power has no derivative to its exponent below 0.
    for f, u0, p in (
        (lambda u, p, t: [p[0] * np.sqrt(u[0])], [0.0], [1.0]),
        (lambda u, p, t: [0 * u[0] + (-u[0]) ** p[0]], [1.0], [2.0]),
    ):
        with pytest.raises(ps.GradientFailed) as caught:
            gradient(f, u0, p, engine, sensealg)
        assert caught.value.sensealg == sensealg.name


def guarded(u, p, t):
    return torch.stack([p[0] * torch.where(u[0] > 5, torch.sqrt(u[0] - 5), torch.ones_like(u[0])) - u[0]])


@pytest.mark.slow
@pytest.mark.parametrize("engine, sensealg", METHODS, ids=str)
@pytest.mark.parametrize("capture", ["auto", "callback"])
def test_the_branch_not_taken_has_no_derivative(engine, sensealg, capture):
    """The right gradient, or a refusal, as 0 · NaN gives to torch; never NaN."""
    if capture == "callback" and sensealg.name == "ForwardDiffSensitivity":
        pytest.skip("refused for callbacks")
    try:
        du0, dp = gradient(guarded, [1.0], [0.5], engine, sensealg, capture=capture)
    except ps.GradientFailed:
        return
    assert du0.item() == pytest.approx(np.exp(-1.0), rel=1e-5) and dp.item() == pytest.approx(1 - np.exp(-1.0), rel=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("engine, sensealg", METHODS, ids=str)
def test_an_incoming_gradient_that_is_not_finite(engine, sensealg, value):
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    u = ps.solve(ps.remake(DECAYING, p=k), ps.Tsit5(), saveat=[0.5, 1.0], sensealg=sensealg, engine=engine, **TIGHT).u
    cotangent = torch.ones_like(u)
    cotangent[0] = value
    with pytest.raises(ps.GradientFailed, match="comes in is not finite"):
        u.backward(cotangent, retain_graph=True)
    u.sum().backward()  # the graph is whole
    assert k.grad.item() == pytest.approx(-0.5 * np.exp(-1.0) - np.exp(-2.0), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("engine, sensealg", METHODS, ids=str)
def test_tiny_incoming_gradients(engine, sensealg):
    """Linear in what comes in, or zero where that underflows; also where the tolerance is absurd."""
    for atol in (1e-9, 1e5):
        k = torch.tensor(2.0, dtype=F64, requires_grad=True)
        problem = ps.remake(DECAYING, p=k)
        u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=atol, dtmax=0.01, sensealg=sensealg, engine=engine).u
        for size in (1e-150, 1e-300, 1e-307, 0.0):
            (slope,) = torch.autograd.grad(u, k, torch.full_like(u, size), retain_graph=True)
            assert slope.item() == pytest.approx(-size * np.exp(-2.0), rel=1e-2, abs=1e-308)
