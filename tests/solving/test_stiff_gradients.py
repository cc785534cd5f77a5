"""Gradients of stiff problems against their variational equations, solved by SciPy with formulas by SymPy.

Robertson's reactions and HIRES ("high irradiance response", 8 states), from Hairer & Wanner, Solving Ordinary Differential
Equations II, section IV.10; the values of HIRES at the end from Mazzia & Magherini's Test Set for IVP Solvers (2008).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import sympy
import torch
from scipy.integrate import solve_ivp

import pysciode as ps

pytestmark = pytest.mark.slow

F64 = torch.float64


def robertson(u, p, t):
    a, b, c = u
    return [-p[0] * a + p[2] * b * c, p[0] * a - p[2] * b * c - p[1] * b**2, p[1] * b**2]


def hires(u, p, t):
    y1, y2, y3, y4, y5, y6, y7, y8 = u
    k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12 = p
    binding = k10 * y6 * y8
    return [
        -k1 * y1 + k2 * y2 + k3 * y3 + k4,
        k1 * y1 - k5 * y2,
        -k6 * y3 + k2 * y4 + k7 * y5,
        k3 * y2 + k1 * y3 - k8 * y4,
        -k9 * y5 + k2 * (y6 + y7),
        -binding + k11 * y4 + k1 * y5 - k2 * y6 + k11 * y7,
        binding - k12 * y7,
        -binding + k12 * y7,
    ]


@dataclass(frozen=True)
class Stiff:
    f: Callable
    u0: Sequence[float]
    rates: Sequence[float]
    times: Sequence[float]


PROBLEMS = {
    "robertson": Stiff(robertson, (1.0, 0.0, 0.0), (0.04, 3e7, 1e4), tuple(np.logspace(-5, 4, 50))),
    "hires": Stiff(
        hires,
        (1.0, 0, 0, 0, 0, 0, 0, 0.0057),
        (1.71, 0.43, 8.32, 0.0007, 8.75, 10.03, 0.035, 1.12, 1.745, 280.0, 0.69, 1.81),
        (1.0, 10.0, 100.0, 321.8122),
    ),
}
HIRES_AT_THE_END = [
    0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2,
    0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2,
]  # fmt: skip


@cache
def reference(name: str) -> tuple[np.ndarray, np.ndarray]:
    """States ``(times, n)`` and sensitivities ``(times, n, rates)``: ``S' = J S + ∂f/∂k``, by Radau to 1e-12."""
    problem = PROBLEMS[name]
    n, m = len(problem.u0), len(problem.rates)
    u, k = sympy.symbols(f"u:{n}"), sympy.symbols(f"k:{m}")
    s = sympy.Matrix(n, m, sympy.symbols(f"s:{n * m}"))
    f = sympy.Matrix(problem.f(u, k, 0))
    rhs = sympy.Matrix([*f, *(f.jacobian(u) * s + f.jacobian(k))])
    z = [*u, *s]
    slope = sympy.lambdify((z, k), list(rhs), cse=True)
    jacobian = sympy.lambdify((z, k), rhs.jacobian(z), cse=True)
    rates = np.array(problem.rates)
    out = solve_ivp(
        lambda t, z: slope(z, rates),
        (0.0, problem.times[-1]),
        [*problem.u0, *np.zeros(n * m)],
        method="Radau",
        jac=lambda t, z: jacobian(z, rates),
        rtol=1e-12,
        atol=np.concatenate([np.full(n, 1e-15), np.tile(1e-15 / rates, n)]),
        t_eval=problem.times,
    )
    assert out.success
    return out.y[:n].T, out.y[n:].T.reshape(-1, n, m)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_reference_scales_as_time_does(name):
    """Every term is linear in the rates: faster rates are faster clocks, so ``Σ kⱼ ∂u/∂kⱼ = t f(u)`` exactly."""
    problem = PROBLEMS[name]
    u, s = reference(name)
    flow = np.array([t * np.array(problem.f(x, problem.rates, t)) for t, x in zip(problem.times, u, strict=True)])
    np.testing.assert_allclose(s @ np.array(problem.rates), flow, rtol=1e-6, atol=1e-9)


def test_the_reference_ends_at_the_published_state():
    np.testing.assert_allclose(reference("hires")[0][-1], HIRES_AT_THE_END, rtol=1e-9)


def test_the_reference_agrees_with_differences():
    """Robertson's loss along random directions of the rates, by central differences of SciPy's solves."""
    problem = PROBLEMS["robertson"]
    rates = np.array(problem.rates)
    direction = np.array([0.7, -0.4, 0.9])

    def value(step):
        k = rates * (1 + step * direction)
        u = solve_ivp(lambda t, u: problem.f(u, k, t), (0, problem.times[-1]), problem.u0, "Radau", problem.times, rtol=1e-12, atol=1e-16).y
        return (u**2).sum()

    h = 1e-4
    found = (value(h) - value(-h)) / (2 * h)
    assert found == pytest.approx(gradient_of_squares("robertson") @ (rates * direction), rel=1e-6)


def gradient_of_squares(name: str) -> np.ndarray:
    u, s = reference(name)
    return np.einsum("ti,tij->j", 2 * u, s)


METHODS = {
    "GaussAdjoint": ps.GaussAdjoint(),
    "GaussKronrodAdjoint": ps.GaussKronrodAdjoint(),
    "QuadratureAdjoint": ps.QuadratureAdjoint(abstol=1e-14, reltol=1e-12),
    "InterpolatingAdjoint": ps.InterpolatingAdjoint(),
    "ForwardDiffSensitivity": ps.ForwardDiffSensitivity(),
    "default": None,
}


def gradient(name, algorithm, sensealg, engine, rtol=1e-8):
    problem = PROBLEMS[name]
    p = torch.tensor(problem.rates, dtype=F64, requires_grad=True)
    u0 = torch.tensor(problem.u0, dtype=F64)
    sol = ps.solve(
        ps.ODEProblem(problem.f, u0, (0.0, problem.times[-1]), p),
        algorithm,
        saveat=problem.times,
        rtol=rtol,
        atol=1e-4 * rtol,
        maxiters=20_000,
        sensealg=sensealg,
        engine=engine,
    )
    sol.u.square().sum().backward()
    return p.grad.numpy()


@pytest.mark.parametrize(
    "sensealg",
    [
        *(pytest.param(sensealg, id=name) for name, sensealg in METHODS.items()),
        pytest.param(ps.ForwardSensitivity(), id="ForwardSensitivity"),
    ],
)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_method_agrees_with_the_variational_equations(julia_engine, name, sensealg):
    found = gradient(name, ps.Rodas5P(), sensealg, julia_engine)
    np.testing.assert_allclose(found, gradient_of_squares(name), rtol=1e-5)


@pytest.mark.parametrize("sensealg", [METHODS[x] for x in ("GaussAdjoint", "QuadratureAdjoint", "InterpolatingAdjoint")], ids=str)
def test_strict_tolerances_give_more_digits(julia_engine, sensealg):
    found = gradient("robertson", ps.Rodas5P(), sensealg, julia_engine, rtol=1e-10)
    np.testing.assert_allclose(found, gradient_of_squares("robertson"), rtol=1e-8)


def test_a_quadrature_over_an_interpolant_that_overshoots_is_refused(julia_engine, monkeypatch):
    """SciML alone returns 40,000 times the gradient here, without an error; its end state ``∂L/∂u0`` is right."""
    monkeypatch.setattr("pysciode.engines.julia.plans._RODAS_LIMIT", 0)  # as in problems of many states
    with pytest.raises(ps.GradientFailed, match="interpolated adjoint") as caught:
        gradient("robertson", ps.KenCarp47(), ps.GaussAdjoint(), julia_engine)
    assert caught.value.sensealg == "GaussAdjoint"


@pytest.mark.julia
def test_implicit_methods_carry_derivatives_where_there_are_no_parameters():
    u0 = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    sol = ps.solve(ps.ODEProblem(lambda u, p, t: -2 * u, u0, (0.0, 1.0)), ps.Rodas5P(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine="julia")
    (gradient,) = torch.autograd.grad(sol.u.sum(), u0)
    assert gradient.item() == pytest.approx(np.exp(-2.0), rel=1e-7)


@pytest.mark.julia
def test_the_default_algorithm_has_adjoints_at_tight_tolerances():
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: -p * u, torch.ones(3, dtype=torch.float64), (0.0, 5.0), rate)
    sol = ps.solve(problem, saveat=[2.0, 5.0], rtol=1e-9, atol=1e-9, sensealg=ps.GaussAdjoint(), engine="julia")
    (gradient,) = torch.autograd.grad(sol.u.sum(), rate)
    assert gradient.item() == pytest.approx(-3 * (2 * np.exp(-0.6) + 5 * np.exp(-1.5)), rel=1e-7)


def test_with_few_states_it_is_right(julia_engine):
    """The reverse solve goes by Rodas5P; what is left is the error of KenCarp47's own states."""
    # Another tolerance than above: a plan that is kept would bring its reverse solve.
    found = gradient("robertson", ps.KenCarp47(), ps.GaussAdjoint(), julia_engine, rtol=1e-9)
    np.testing.assert_allclose(found, gradient_of_squares("robertson"), rtol=1e-3)
