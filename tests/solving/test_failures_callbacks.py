"""Python in the solver that raises or returns something else: the user's own error comes out, and the session goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from alive import DECAYING, TIGHT, check_alive

import pysciode as ps

F64 = torch.float64


@pytest.fixture
def alive(engine):
    yield engine
    check_alive(engine)


METHODS = [
    pytest.param("julia", ps.GaussAdjoint(), marks=pytest.mark.julia),
    pytest.param("julia", ps.InterpolatingAdjoint(), marks=pytest.mark.julia),
    pytest.param("julia", ps.BacksolveAdjoint(), marks=pytest.mark.julia),
    ("embedded", ps.BacksolveAdjoint()),
    ("embedded", ps.ReverseDiffAdjoint()),
]


class OwnError(Exception):
    pass


def raises_late(u, p, t):
    if t > 0.3:
        raise OwnError(f"at {float(t) > 0.3}")
    return -p * u


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [ps.Tsit5(), pytest.param(ps.Rodas5P(), marks=pytest.mark.julia)], ids=str)
def test_the_users_own_exception_comes_out(alive, algorithm):
    if alive == "embedded" and algorithm.name != "Tsit5":
        pytest.skip("explicit methods only")
    for u0, p in ((np.ones(1), 2.0), (torch.ones(1, dtype=F64), torch.tensor(2.0, dtype=F64, requires_grad=True))):
        problem = ps.ODEProblem(raises_late, u0, (0.0, 1.0), p, capture="callback")
        for _ in range(2):
            with pytest.raises(OwnError, match="at True"):
                ps.solve(problem, algorithm, engine=alive)
        assert ps.solve(ps.remake(problem, tspan=(0.0, 0.25)), algorithm, engine=alive).success


def test_an_exception_in_capture(alive):
    def broken(u, p, t):
        raise OwnError("while it was captured")

    for u0 in (np.ones(1), torch.ones(1, dtype=F64)):
        with pytest.raises((OwnError, ps.CaptureError), match="while it was captured"):
            ps.solve(ps.ODEProblem(broken, u0, (0.0, 1.0)), ps.Tsit5(), engine=alive)


class RaisesInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        return -u

    @staticmethod
    def backward(ctx, grad):
        raise OwnError("in the model's backward pass")


@pytest.mark.slow
@pytest.mark.parametrize("engine, sensealg", METHODS, ids=str)
def test_an_exception_in_the_backward_pass_of_a_callback(engine, sensealg):
    u0 = torch.ones(1, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: RaisesInBackward.apply(u), u0, (0.0, 1.0), capture="callback")
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], sensealg=sensealg, engine=engine).u
    for _ in range(2):
        with pytest.raises(OwnError, match="in the model's backward pass"):
            u.sum().backward(retain_graph=True)
    assert u0.grad is None
    (du0,) = torch.autograd.grad(ps.solve(ps.ODEProblem(lambda u, p, t: -u, u0, (0.0, 1.0), capture="callback"), ps.Tsit5(),
                                          saveat=[1.0], sensealg=sensealg, engine=engine, **TIGHT).u, u0)  # fmt: skip
    assert du0.item() == pytest.approx(np.exp(-1.0), rel=1e-6)


@pytest.mark.parametrize(
    "late, error, message",
    [
        (lambda u: None, (TypeError, ValueError), "None"),
        (lambda u: np.ones(3), ValueError, r"shape \(3,\)"),
        (lambda u: 1.0, ValueError, r"shape \(\)"),
        (lambda u: [1.0, 2.0, 3.0], ValueError, r"shape \(3,\)"),
        (lambda u: "fast", TypeError, "values of type"),
        (lambda u: np.array([1j, 1j]), TypeError, "complex"),
        (lambda u: np.array([None, None]), TypeError, "object"),
    ],
    ids=["None", "longer", "number", "list", "string", "complex", "object"],
)
def test_a_callback_that_returns_something_else_later(alive, late, error, message):
    problem = ps.ODEProblem(lambda u, p, t: late(u) if t > 0.3 else -u, np.ones(2), (0.0, 1.0), capture="callback")
    with pytest.raises(error, match=message):
        ps.solve(problem, ps.Tsit5(), engine=alive)


@pytest.mark.parametrize(
    "late, error, message",
    [
        (lambda u: None, TypeError, "NoneType"),
        (lambda u: torch.ones(3, dtype=F64), ValueError, r"shape \(3,\)"),
        (lambda u: u.float(), TypeError, "float32"),
        (lambda u: u + 1j, TypeError, "complex"),
    ],
    ids=["None", "longer", "float32", "complex"],
)
def test_a_torch_callback_that_returns_something_else_later(alive, late, error, message):
    u0 = torch.ones(2, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: late(u) if t > 0.3 else -u, u0, (0.0, 1.0), capture="callback")
    with pytest.raises(error, match=message):
        ps.solve(problem, ps.Tsit5(), engine=alive)


def test_a_callback_that_keeps_and_changes_what_it_is_given(alive):
    kept = []

    def hoards(u, p, t):
        du = -p * u
        kept.append(u)
        u[:] = np.nan
        return du

    problem = ps.ODEProblem(hoards, np.ones(2), (0.0, 1.0), np.array([2.0]), capture="callback")
    sol = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=alive, **TIGHT)
    np.testing.assert_allclose(sol.u, np.exp(-2.0), rtol=1e-7)


@pytest.mark.slow
def test_a_solve_within_a_solve(alive):
    """A callback whose right-hand side is itself the end of a solve."""

    def outer(u, p, t):
        inner = ps.solve(ps.remake(DECAYING, u0=[float(u[0])]), ps.Tsit5(), saveat=[1.0], engine=alive, **TIGHT)
        return [-inner.u[0, 0]]  # -exp(-2) u

    sol = ps.solve(ps.ODEProblem(outer, [1.0], (0.0, 1.0), capture="callback"), ps.Tsit5(), saveat=[1.0], engine=alive, **TIGHT)
    assert sol.u[0, 0] == pytest.approx(np.exp(-np.exp(-2.0)), rel=1e-7)
