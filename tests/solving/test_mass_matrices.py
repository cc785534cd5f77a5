"""Equations M u' = f(u, p, t), with M regular and singular, against closed solutions and their derivatives by torch."""

from __future__ import annotations

import numpy as np
import pytest
from every_cell import ALL

import pysciode as ps

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.julia

F64 = torch.float64
M = np.array([[2.0, 0.5], [0.0, 4.0]])
A = torch.tensor([[-1.0, 0.3], [0.2, -2.0]], dtype=F64)
TIMES = [0.0, 0.5, 1.0, 2.0]
CONTINUOUS = [ps.GaussAdjoint(), ps.GaussKronrodAdjoint(), ps.InterpolatingAdjoint(), ps.QuadratureAdjoint()]
FORWARD = [ps.ForwardDiffSensitivity(), ps.ForwardSensitivity()]
VJPS = [
    ps.GaussAdjoint(autojacvec="ReverseDiffVJP"),
    ps.GaussAdjoint(autojacvec="ZygoteVJP"),
    ps.InterpolatingAdjoint(autojacvec="ReverseDiffVJP"),
]


def linear(u, p, t):
    return p * (A @ u)


def leaf(values):
    return torch.tensor(values, dtype=F64, requires_grad=True)


WEIGHTS = torch.linspace(0.5, 2.0, 8, dtype=F64).reshape(4, 2)


def gradients(loss, *inputs):
    return [x.numpy() for x in torch.autograd.grad(loss, inputs)]


# How products are taken is no matter of the matrix: one that is not generated is enough, and the others are with the singular one.
REGULAR = [(ps.Rodas5P(), x) for x in (None, *CONTINUOUS, ps.BacksolveAdjoint(), *FORWARD, *(VJPS if ALL else VJPS[2:]))]
REGULAR += [(ps.QNDF(), x) for _, x in REGULAR if ALL or x in (None, FORWARD[0])]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm, sensealg", REGULAR, ids=str)
def test_regular_matrices(algorithm, sensealg):
    u0, p = leaf([1.0, 2.0]), leaf(1.3)
    inverse = torch.linalg.inv(torch.from_numpy(M))
    exact = torch.stack([torch.linalg.matrix_exp(inverse @ A * p * t) @ u0 for t in TIMES])
    problem = ps.ODEProblem(linear, u0, (0.0, 2.0), p, mass_matrix=M)
    sol = ps.solve(problem, algorithm, saveat=TIMES, sensealg=sensealg, rtol=1e-9, atol=1e-9)
    assert sol.u.detach().numpy() == pytest.approx(exact.detach().numpy(), abs=2e-7)
    for got, want in zip(gradients((WEIGHTS * sol.u).sum(), u0, p), gradients((WEIGHTS * exact).sum(), u0, p), strict=True):
        assert got == pytest.approx(want, rel=1e-5)


def test_times_move_by_the_solved_slope():
    u0, t0, t1, at = leaf([1.0, 2.0]), leaf(0.2), leaf(2.0), leaf([0.5, 1.5])
    inverse = torch.linalg.inv(torch.from_numpy(M))
    exact = torch.stack([torch.linalg.matrix_exp(inverse @ A * (t - t0)) @ u0 for t in at])
    problem = ps.ODEProblem(linear, u0, (t0, t1), torch.tensor(1.0, dtype=F64), mass_matrix=M)
    sol = ps.solve(problem, ps.Rodas5P(), saveat=at, rtol=1e-9, atol=1e-9)
    for got, want in zip(gradients((sol.u**2).sum(), t0, at), gradients((exact**2).sum(), t0, at), strict=True):
        assert got == pytest.approx(want, rel=1e-6)


def root(u, p, t):
    """2 u' = v - p₀ u with v² = p₁ u: √u is an exponential."""
    return torch.stack([u[1] - p[0] * u[0], u[1] ** 2 - p[1] * u[0]])


def root_exact(u0, p, times=TIMES):
    end = torch.sqrt(p[1]) / p[0]
    w = torch.stack([end + (torch.sqrt(u0[0]) - end) * torch.exp(-p[0] * t / 4) for t in times])
    return torch.stack([w**2, torch.sqrt(p[1]) * w], 1)


DAE = np.diag([2.0, 0.0])
GUESS = 0.9  # of v, which is 1 at the start


CELLS = [(ps.Rodas5P(), x) for x in (None, *CONTINUOUS, *FORWARD, *VJPS)]
CELLS += [(None, ps.GaussAdjoint()), (None, FORWARD[0]), (ps.RadauIIA5(), FORWARD[0])]
# Of two methods of a family one is differentiated in reverse, the other forwards.
CELLS += [(ps.FBDF(), ps.GaussAdjoint()), (ps.QNDF(), FORWARD[0]), (ps.TRBDF2(), ps.GaussAdjoint()), (ps.KenCarp4(), FORWARD[0])]
if ALL:
    CELLS += [(ps.QNDF(), ps.GaussAdjoint()), (ps.FBDF(), FORWARD[0]), (ps.KenCarp4(), ps.GaussAdjoint()), (ps.TRBDF2(), FORWARD[0])]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm, sensealg", CELLS, ids=str)
@pytest.mark.parametrize("start", [1.0, GUESS], ids=["consistent", "guess"])
def test_algebraic_equations_and_their_gradients(start, algorithm, sensealg):
    u0, p = leaf([1.0, start]), leaf([0.7, 1.0])
    exact = root_exact(u0, p)
    by_p, by_u0 = gradients((WEIGHTS * exact).sum(), p, u0)
    want = [by_p, np.append(by_u0[:1], 0.0)]
    problem = ps.ODEProblem(root, u0, (0.0, 2.0), p, mass_matrix=DAE)
    sol = ps.solve(problem, algorithm, saveat=TIMES, sensealg=sensealg, rtol=1e-7, atol=1e-7)
    assert sol.u[0].detach().numpy() == pytest.approx([1.0, 1.0], abs=1e-7)
    # SciML interpolates the algebraic variable of the SDIRK methods with less than their order.
    assert sol.u.detach().numpy() == pytest.approx(exact.detach().numpy(), abs=1e-4)
    for x, y in zip(gradients((WEIGHTS * sol.u).sum(), p, u0), want, strict=True):
        assert x == pytest.approx(y, rel=1e-4, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm, sensealg", [(ps.Rodas5P(), ps.BacksolveAdjoint()), (ps.RadauIIA5(), ps.GaussAdjoint())], ids=str)
def test_reverse_solves_that_may_stop_are_refused_or_right(algorithm, sensealg):
    u0, p = leaf([1.0, GUESS]), leaf([0.7, 1.0])
    problem = ps.ODEProblem(root, u0, (0.0, 2.0), p, mass_matrix=DAE)
    sol = ps.solve(problem, algorithm, saveat=TIMES, sensealg=sensealg, rtol=1e-7, atol=1e-7)
    try:
        got = gradients((WEIGHTS * sol.u).sum(), p)
    except ps.GradientFailed:
        return
    assert got[0] == pytest.approx(gradients((WEIGHTS * root_exact(u0, p)).sum(), p)[0], rel=1e-4)


@pytest.mark.slow
def test_models_that_stay_in_python():
    u0, p = leaf([1.0, GUESS]), leaf([0.7, 1.0])
    problem = ps.ODEProblem(root, u0, (0.0, 2.0), p, mass_matrix=DAE, capture="callback")
    with torch.no_grad():
        sol = ps.solve(problem, ps.Rodas5P(), saveat=TIMES, rtol=1e-7, atol=1e-7)
    assert sol.u.numpy() == pytest.approx(root_exact(u0, p).detach().numpy(), abs=2e-5)
    with pytest.raises(ValueError, match="stays in Python"):
        ps.solve(problem, ps.Rodas5P())
    # A regular matrix is no hindrance.
    problem = ps.ODEProblem(linear, u0, (0.0, 2.0), leaf(1.3), mass_matrix=M, capture="callback")
    captured = ps.ODEProblem(linear, u0, (0.0, 2.0), leaf(1.3), mass_matrix=M)
    by = [gradients((WEIGHTS * ps.solve(x, ps.Rodas5P(), saveat=TIMES, rtol=1e-8, atol=1e-8).u).sum(), u0)[0] for x in (problem, captured)]
    assert by[0] == pytest.approx(by[1], rel=1e-6)


def numpy_root(u, p, t):
    return np.array([u[1] - p[0] * u[0], u[1] ** 2 - p[1] * u[0]])


def posed(start, matrix=DAE, dtype=np.float64, f=numpy_root, **more):
    return ps.ODEProblem(f, np.array([1.0, start], dtype), (0.0, 2.0), np.array([0.7, 1.0], dtype), mass_matrix=matrix, **more)


def end_of(p=(0.7, 1.0)):
    return root_exact(torch.tensor([1.0, 1.0], dtype=F64), torch.tensor(p, dtype=F64))[-1].numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    "dense, dtype", [(True, np.float64), (False, np.float32), *([(False, np.float64), (True, np.float32)] if ALL else [])]
)
def test_ways_to_a_consistent_start(dtype, dense):
    ways = [None, ps.BrownFullBasicInit(), ps.BrownFullBasicInit(abstol=1e-6)]
    if dtype is np.float64:
        ways += [ps.ShampineCollocationInit(), ps.ShampineCollocationInit(initdt=1e-4)]
    for way in ways:
        sol = ps.solve(posed(GUESS, dtype=dtype), ps.Rodas5P(), initializealg=way, dense=dense)
        assert sol.u[0, 1] ** 2 - sol.u[0, 0] == pytest.approx(0.0, abs=1e-5)
        if not isinstance(way, ps.ShampineCollocationInit):
            assert sol.u[0] == pytest.approx([1.0, 1.0], abs=1e-5)
            assert sol.u[-1] == pytest.approx(end_of(), abs=1e-4)
        if dense:
            assert sol(0.0) == pytest.approx(sol.u[0], abs=1e-6)
    with pytest.raises(ps.SolveFailed, match="InitialFailure.*BrownFullBasicInit"):
        ps.solve(posed(GUESS), ps.Rodas5P(), initializealg=ps.CheckInit())
    assert ps.solve(posed(1.0), ps.Rodas5P(), initializealg=ps.CheckInit()).u[-1] == pytest.approx(end_of(), abs=1e-4)
    assert ps.solve(posed(GUESS), ps.FBDF(), initializealg=ps.NoInit()).u[0, 1] == GUESS


@pytest.mark.slow
def test_sparse_matrices_members_and_events():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    assert ps.solve(posed(GUESS, scipy_sparse.csr_matrix(DAE)), ps.Rodas5P()).u[-1] == pytest.approx(end_of(), abs=1e-4)
    ensemble = ps.EnsembleProblem(posed(GUESS), p=np.array([[0.7, 1.0], [0.5, 1.2]]))
    sol = ps.solve(ensemble, ps.Rodas5P(), saveat=[0.0, 2.0])
    assert np.asarray(sol.u)[0, -1] == pytest.approx(end_of(), abs=1e-4)
    # v jumps with u where an event changes the state: the algebraic equation is solved anew.
    halve = ps.ContinuousCallback(lambda u, p, t: t - 1.0, affect=lambda u, p, t: np.array([u[0] / 4, u[1]]))
    sol = ps.solve(posed(GUESS), ps.Rodas5P(), callback=halve, rtol=1e-8, atol=1e-8, saveat=[0.5, 1.5, 2.0])
    assert sol.u[:, 1] ** 2 == pytest.approx(sol.u[:, 0], abs=1e-6)


def twins(u, p, t):
    """(a + b)' = -a = -b: singular without a line of zeros."""
    return -u


def test_singular_matrices_of_another_form():
    ones = np.ones((2, 2))
    sol = ps.solve(posed(1.0, ones, f=twins), ps.Rodas5P(), rtol=1e-8, atol=1e-8)
    assert sol.u[-1] == pytest.approx(np.exp(-1.0) * np.ones(2), abs=1e-6)
    with pytest.raises(ps.SolveFailed, match="InitialFailure"):
        ps.solve(posed(2.0, ones, f=twins), ps.Rodas5P())
    u0 = leaf([1.0, 1.0])
    with pytest.raises(ps.GradientFailed, match="rows and columns of zeros"):
        ps.solve(ps.ODEProblem(twins, u0, (0.0, 2.0), mass_matrix=ones), ps.Rodas5P()).u.sum().backward()


def test_what_is_refused():
    with pytest.raises(ValueError, match="Tsit5 takes no mass_matrix"):
        ps.solve(posed(1.0), ps.Tsit5())
    with pytest.raises(TypeError, match="initializealg must be"):
        ps.solve(posed(1.0), ps.Rodas5P(), initializealg="Brown")
    with pytest.raises(ValueError, match="abstol must be positive"):
        ps.BrownFullBasicInit(abstol=-1.0)
    u0 = leaf([1.0, 1.0])
    for sensealg in (ps.ReverseDiffAdjoint(), ps.TrackerAdjoint()):
        with pytest.raises(ValueError, match="mass_matrix"):
            ps.solve(ps.ODEProblem(linear, u0, (0.0, 1.0), torch.tensor(1.0, dtype=F64), mass_matrix=M), ps.Rodas5P(), sensealg=sensealg)
    p = torch.tensor([0.7, 1.0], dtype=F64)
    with pytest.raises(ValueError, match="gradients with respect to times"):
        ps.solve(ps.ODEProblem(root, u0, (0.0, leaf(1.0)), p, mass_matrix=DAE), ps.Rodas5P())
    with pytest.raises(ValueError, match="ShampineCollocationInit"):
        ps.solve(ps.ODEProblem(root, u0, (0.0, 1.0), p, mass_matrix=DAE), ps.Rodas5P(), initializealg=ps.ShampineCollocationInit())
