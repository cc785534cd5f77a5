"""Each kind of model that is not torch's, through the Julia engine."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
import torch
from ode_models import LARGE, lotka_volterra
from scipy.integrate import solve_ivp

import pysciode as ps
from pysciode.graphs.scalar_ops import SCALAR_OPS
from pysciode.lowering.scalars.python_function import python_function

pytestmark = pytest.mark.julia

U0, P, SPAN = np.array([1.0, 1.0]), [1.5, 1.0, 3.0, 1.0], (0.0, 3.0)
x, y, a, b, c, d = sympy.symbols("x y a b c d")
JULIA = """
function f!(du, u, p, t)
    du[1] = p[1] * u[1] - p[2] * u[1] * u[2]
    du[2] = p[4] * u[1] * u[2] - p[3] * u[2]
end
"""
MODELS = {
    "python": (lotka_volterra, "auto"),
    "sympy": (ps.SymbolicModel([a * x - b * x * y, d * x * y - c * y], [x, y], [a, b, c, d]), "auto"),
    "julia": (JULIA, "auto"),
    "callback": (lotka_volterra, "callback"),
}


def reference(f, u0, p, span):
    return solve_ivp(lambda t, u: np.asarray(f(u, p, t)), span, u0, rtol=1e-11, atol=1e-12, method="DOP853").y[:, -1]


@pytest.mark.parametrize("kind", MODELS)
def test_solution(kind):
    f, capture = MODELS[kind]
    expected = reference(lotka_volterra, U0, P, SPAN)
    sol = ps.solve(ps.ODEProblem(f, U0, SPAN, P, capture=capture), ps.Tsit5(), rtol=1e-10, atol=1e-10)
    assert sol.u[-1] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("kind", ["python", "sympy", "julia"])
def test_gradient(kind):
    f, capture = MODELS[kind]

    def last_prey(u0, p):
        problem = ps.ODEProblem(f, u0, SPAN, p, capture=capture)
        return ps.solve(problem, ps.Tsit5(), saveat=[SPAN[1]], rtol=1e-10, atol=1e-10).u[-1][0]

    u0, p = torch.tensor(U0, requires_grad=True), torch.tensor(P, dtype=torch.float64, requires_grad=True)
    last_prey(u0, p).backward()
    for leaf in (u0, p):
        for k in range(leaf.numel()):
            step = torch.zeros_like(leaf)
            step[k] = 1e-5
            at = [(u0 + s * step, p) if leaf is u0 else (u0, p + s * step) for s in (1, -1)]
            with torch.no_grad():
                difference = (last_prey(*at[0]) - last_prey(*at[1])) / 2e-5
            assert leaf.grad[k].item() == pytest.approx(difference.item(), rel=1e-5, abs=1e-7)


def test_each_operation_in_julia():
    """All operations in one model, one state each, on a short way from where they are regular."""
    graphs = {op: row for op, row in SCALAR_OPS.items() if not row.boolean}
    starts = {"asin": 0.4, "acos": 0.4, "atanh": 0.4, "erfinv": 0.4, "acosh": 1.7}

    def f(u, p, t):
        out = []
        for k, (op, row) in enumerate(graphs.items()):
            operands = (u[k] > 0, u[k], u[k] * 0.5) if op == "select" else (u[k], 0.7 + 0 * t)[: row.julia.count("{")]
            graph = getattr(u[k], "graph", None)
            if graph is None:
                raise NotImplementedError  # on numbers: nothing to compare with
            out.append(0.1 * graph.apply(op, *map(graph.lift, operands)))
        return out

    u0 = np.array([starts.get(op, 1.3) for op in graphs])
    problem = ps.ODEProblem(f, u0, (0.0, 0.2))
    rhs = python_function(problem.model)
    expected = solve_ivp(lambda t, u: rhs(u, np.zeros(0), t), (0.0, 0.2), u0, rtol=1e-11, atol=1e-12).y[:, -1]
    sol = ps.solve(problem, ps.Tsit5(), rtol=1e-10, atol=1e-10)
    for name, found, exact in zip(graphs, sol.u[-1], expected, strict=True):
        assert found == pytest.approx(exact, rel=1e-7), name


@pytest.mark.parametrize("name", LARGE)
def test_models_written_as_loops(name, monkeypatch):
    from pysciode.lowering.scalars import scalar_functions as scalar

    monkeypatch.setattr(scalar, "_LONG", 100)
    model = LARGE[name]
    span = (0.0, 0.02)
    shape = model.u.shape

    def flat(u, p, t):
        return np.asarray(model.f(u.reshape(shape), p, t)).ravel()

    # a function of its own, so that the model is lowered here and not found from elsewhere
    problem = ps.ODEProblem(lambda u, p, t: model.f(u, p, t), model.u, span, model.p)
    sol = ps.solve(problem, ps.Rodas5P(), rtol=1e-8, atol=1e-8)
    expected = reference(flat, model.u.ravel(), model.p, span)
    assert np.asarray(sol.u[-1]).ravel() == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.slow
def test_derivatives_that_a_julia_model_brings_are_used():
    source = """
    f!(du, u, p, t) = (du[1] = -p[1] * u[1] + t; nothing)
    jac!(J, u, p, t) = (J[1, 1] = -p[1]; nothing)
    tgrad!(dT, u, p, t) = (dT[1] = 1; nothing)
    vjp!(dlam, lam, u, p, t) = (dlam[1] = -p[1] * lam[1]; nothing)
    vjp_p!(dp, lam, u, p, t) = (dp[1] = -2 * u[1] * lam[1]; nothing)  # twice what is right: seen if it is used
    """
    p = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    gradients = []
    for text in (source, source.split("vjp!")[0]):
        problem = ps.ODEProblem(text, torch.ones(1, dtype=torch.float64), (0.0, 1.0), p)
        sol = ps.solve(problem, ps.Rodas5P(), saveat=[1.0], rtol=1e-9, atol=1e-9, sensealg=ps.GaussAdjoint())
        gradients.append(torch.autograd.grad(sol.u[-1, 0], p)[0].item())
        assert sol.u[-1, 0].item() == pytest.approx(1.25 * np.exp(-2) + 0.25, rel=1e-7)
    assert gradients[0] == pytest.approx(2 * gradients[1], rel=1e-6)


def test_julia_errors_name_the_cause():
    problem = ps.ODEProblem("f!(du, u, p, t) = (du[1] = undefined_name * u[1])", np.ones(1), SPAN)
    with pytest.raises(ps.JuliaError, match="undefined_name"):
        ps.solve(problem, ps.Tsit5())
    with pytest.raises(ps.JuliaError, match="must define f!"):
        ps.solve(ps.ODEProblem("constant = 3", np.ones(1), SPAN), ps.Tsit5())
    with pytest.raises(ps.JuliaError):
        ps.solve(ps.ODEProblem("f!(du, u, p, t) = (", np.ones(1), SPAN), ps.Tsit5())


def test_an_exception_in_a_callback_comes_back():
    def f(u, p, t):
        if t > 0.5:
            raise KeyError("mine")
        return -u

    problem = ps.ODEProblem(f, np.ones(1), SPAN, capture="callback")
    with pytest.raises(KeyError, match="mine"):
        ps.solve(problem, ps.Tsit5())
    # and the session goes on
    assert ps.solve(ps.ODEProblem(lotka_volterra, U0, SPAN, P), ps.Tsit5()).retcode == "Success"
