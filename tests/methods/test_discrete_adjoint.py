"""DiscreteAdjoint against finite differences over the same steps, and against the gradients of solutions at tight tolerances."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from every_cell import ALL
from runge_kutta import states_of_steps

import pysciode as ps
from pysciode.methods import algorithm_table
from pysciode.methods.algorithms import is_reversible

pytestmark = pytest.mark.julia

F64 = torch.float64
# Most lie within steps, the second and the last at the end of one.
TIMES = np.array([0.11, 0.5, 0.93, 1.17, 1.58, 2.0])


def predator_prey(u, p, t):
    x, y = u
    return [p[0] * x - p[1] * x * y, p[3] * x * y - p[2] * y + 0.3 * np.sin(t)]


def loss(u):
    return (u**2).sum() + u[..., 0].sum()


Z = np.array([1.0, 1.2, 1.5, 1.0, 3.0, 1.0])


def by_differences(value, z, step=2e-3):
    """Central differences, extrapolated three times: right to about 1e-11."""
    gradient = []
    for e in np.eye(len(z)):
        table = [(value(z + h * e) - value(z - h * e)) / (2 * h) for h in step / 2.0 ** np.arange(4)]
        for k in range(1, 4):
            table = [(4**k * b - a) / (4**k - 1) for a, b in zip(table, table[1:], strict=False)]
        gradient.append(table[0])
    return np.array(gradient)


def solved(algorithm, u0, p, tspan=(0.0, 2.0), saveat=TIMES, **options):
    return ps.solve(ps.ODEProblem(predator_prey, u0, tspan, p), algorithm, saveat=saveat, engine="julia", **options)


def gradient(algorithm, sensealg, **options):
    u0, p = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (Z[:2], Z[2:]))
    loss(solved(algorithm, u0, p, sensealg=sensealg, **options).u).backward()
    return torch.cat([u0.grad, p.grad]).numpy()


REVERSIBLE = [name for family in ("explicit", "rosenbrock") for name in ps.list_algorithms(family) if is_reversible(ps.Algorithm(name))]
NAMES = ["Tsit5", "Rodas5P"]
SLOW = [
    "Euler",
    "BS3",
    "RK4",
    "Vern7",
    "DP8",
    "SSPRK43",
    "CarpenterKennedy2N54",
    "RKO65",
    "Rosenbrock23",
    "Rodas3",
    "ROS3P",
    "ROS2",
    "ROS3PR",
]
if ALL:
    SLOW = [name for name in REVERSIBLE if name not in NAMES]


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_it_is_the_gradient_of_the_steps(name):
    """Of fixed ones: between solves, sizes of adaptive ones differ."""
    fixed = {"dt": 0.05, "adaptive": False}
    right = by_differences(lambda z: float(loss(solved(ps.Algorithm(name), z[:2], z[2:], **fixed).u)), Z)
    np.testing.assert_allclose(gradient(ps.Algorithm(name), ps.DiscreteAdjoint(), **fixed), right, rtol=0, atol=1e-10 * np.abs(right).max())


@pytest.mark.parametrize(
    "algorithm",
    [ps.Tsit5(), ps.Rodas5P(), None, pytest.param(ps.AutoTsit5(ps.Rosenbrock23()), marks=pytest.mark.slow)],
    ids=str,
)
@pytest.mark.parametrize(
    "tspan, saveat", [((0.0, 2.0), TIMES), ((2.0, 0.0), TIMES[::-1]), ((0.0, 2.0), [0.0, 2.0]), ((0.0, 2.0), [2.0])], ids=str
)
def test_adaptive_steps(algorithm, tspan, saveat):
    options = {"tspan": tspan, "saveat": saveat}
    found = gradient(algorithm, ps.DiscreteAdjoint(), rtol=1e-9, atol=1e-9, **options)
    right = gradient(ps.Tsit5(), ps.ForwardDiffSensitivity(), rtol=1e-12, atol=1e-12, **options)
    np.testing.assert_allclose(found, right, rtol=0, atol=2e-7 * np.abs(right).max())


@pytest.mark.parametrize("algorithm", [ps.Tsit5(), ps.Rodas5P(), None], ids=str)
@pytest.mark.parametrize("checkpoints", [2, 3, 20, 10_000])
def test_checkpoints_give_the_same_gradient(algorithm, checkpoints):
    options = {"rtol": 1e-8, "atol": 1e-8, "saveat": TIMES}
    right = gradient(algorithm, ps.DiscreteAdjoint(), **options)
    np.testing.assert_allclose(gradient(algorithm, ps.DiscreteAdjoint(checkpoints=checkpoints), **options), right, rtol=1e-9)


def test_all_steps_are_saved():
    u0 = torch.tensor(Z[:2], dtype=F64, requires_grad=True)
    sol = solved(ps.Tsit5(), u0, Z[2:], saveat=None, rtol=1e-9, atol=1e-9, sensealg=ps.DiscreteAdjoint())
    assert len(sol.t) > 20
    sol.u[-1].sum().backward()
    right = by_differences(lambda z: float(solved(ps.Vern9(), z, Z[2:], saveat=[2.0], rtol=1e-12, atol=1e-12).u.sum()), Z[:2])
    np.testing.assert_allclose(u0.grad, right, rtol=1e-6)


@pytest.mark.parametrize("algorithm", [ps.Tsit5(), pytest.param(ps.Rodas5P(), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("dtype, rtol, right_to", [(F64, 1e-8, 1e-6), (torch.float32, 1e-5, 1e-3)])
def test_a_network(algorithm, dtype, rtol, right_to):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).to(dtype)
    u0 = torch.randn(5, 3, dtype=dtype, requires_grad=True)
    leaves = [u0, *net.parameters()]
    sol = ps.solve(ps.ODEProblem(net, u0, (0.0, 1.0)), algorithm, saveat=[0.3, 1.0], rtol=rtol, atol=rtol, engine="julia")
    assert sol.sensealg == ps.DiscreteAdjoint()  # by default
    found = torch.autograd.grad(sol.u.square().sum(), leaves)
    states = states_of_steps(net, u0, 0.01, (30, 100))
    for mine, right in zip(found, torch.autograd.grad(states.square().sum(), leaves), strict=True):
        torch.testing.assert_close(mine, right, rtol=right_to, atol=right_to)


def robertson(u, p, t):
    a, b, c = p[0] * u[0], p[2] * u[1] * u[2], p[1] * u[1] ** 2
    return [-a + b, a - b - c, c]


def conserved(u, p, t):
    return [*robertson(u, p, t)[:2], u[0] + u[1] + u[2] - 1]


@pytest.mark.parametrize(
    "f, mass_matrix",
    [(robertson, None), (conserved, np.diag([1.0, 1.0, 0.0])), (robertson, np.array([[2.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.3, 1.0]]))],
    ids=["stiff", "algebraic", "regular"],
)
def test_stiff_equations_and_mass_matrices(f, mass_matrix):
    rates = np.array([0.04, 3e7, 1e4])
    weights = torch.tensor([1.0, 1e4, 1.0], dtype=F64)

    def to_rates(sensealg, rtol):
        p = torch.tensor(rates, requires_grad=True)
        problem = ps.ODEProblem(f, [1.0, 0.0, 0.0], (0.0, 100.0), p, mass_matrix=mass_matrix)
        options = {"saveat": [0.1, 1.0, 10.0, 100.0], "rtol": rtol, "atol": rtol * 1e-3}
        (ps.solve(problem, ps.Rodas5P(), engine="julia", sensealg=sensealg, **options).u * weights).square().sum().backward()
        return p.grad.numpy() * rates

    right = to_rates(ps.ForwardDiffSensitivity(), 1e-11)
    np.testing.assert_allclose(to_rates(ps.DiscreteAdjoint(), 1e-8), right, rtol=0, atol=1e-5 * np.abs(right).max())


@pytest.mark.slow
@pytest.mark.parametrize("mass", [False, True])
def test_sparse_jacobians(mass):
    def diffusion(u, p, t):
        left, right = torch.cat([u[:1], u[:-1]]), torch.cat([u[1:], u[-1:]])
        return 900 * p[0] * (left - 2 * u + right) + p[1] * u * (1 - u)

    u0 = torch.sin(torch.linspace(0, 3, 30, dtype=F64))
    matrix = np.diag(np.linspace(1.0, 2.0, 30)) if mass else None

    def to_parameters(**options):
        p = torch.tensor([0.02, 3.0], dtype=F64, requires_grad=True)
        problem = ps.ODEProblem(diffusion, u0, (0.0, 1.0), p, mass_matrix=matrix, jac_sparsity=options.pop("jac_sparsity", None))
        ps.solve(problem, ps.Rodas5P(), saveat=[0.3, 1.0], engine="julia", **options).u.square().sum().backward()
        return p.grad.numpy()

    found = to_parameters(jac_sparsity=True, rtol=1e-8, atol=1e-8, sensealg=ps.DiscreteAdjoint())
    np.testing.assert_allclose(found, to_parameters(rtol=1e-11, atol=1e-11, sensealg=ps.ForwardDiffSensitivity()), rtol=1e-6)


def test_a_model_that_stays_in_python():
    rates = torch.tensor(Z[2:], requires_grad=True)

    def f(u, p, t):
        return torch.stack([p[0] * u[0] - p[1] * u[0] * u[1], p[3] * u[0] * u[1] - p[2] * u[1]])

    def to_rates(capture, sensealg, algorithm):
        problem = ps.ODEProblem(f, torch.tensor(Z[:2]), (0.0, 2.0), rates, capture=capture)
        sol = ps.solve(problem, algorithm, saveat=TIMES, rtol=1e-9, atol=1e-9, engine="julia", sensealg=sensealg)
        return sol, torch.autograd.grad(loss(sol.u), rates)[0].numpy()

    sol, found = to_rates("callback", None, ps.Tsit5())
    assert sol.sensealg == ps.DiscreteAdjoint()
    np.testing.assert_allclose(found, to_rates("auto", ps.ForwardDiffSensitivity(), ps.Tsit5())[1], rtol=1e-7)
    with pytest.raises(ValueError, match="stays in Python"):
        to_rates("callback", ps.DiscreteAdjoint(), ps.Rodas5P())


class Relaxing(torch.nn.Module):
    """A thousand times faster along one axis than along the other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).double()

    def forward(self, t, u):
        return torch.stack([-1000 * (u[0] - torch.cos(t)) + u[1], -u[1]]) + self.net(u)


def test_steps_that_the_adjoint_outruns():
    """An explicit method at its limit of stability: told where the user chose it, another adjoint where the default did."""
    model = Relaxing()
    u0 = torch.tensor([0.3, -0.5], dtype=F64, requires_grad=True)
    leaves = [u0, *model.parameters()]

    def to_leaves(algorithm, sensealg, rtol):
        options = {"saveat": [0.5, 1.0], "rtol": rtol, "atol": rtol, "maxiters": 10**6, "engine": "julia"}
        sol = ps.solve(ps.ODEProblem(model, u0, (0.0, 1.0)), algorithm, sensealg=sensealg, **options)
        return sol, torch.cat([x.flatten() for x in torch.autograd.grad(sol.u.square().sum(), leaves)])

    right = to_leaves(ps.Rodas5P(), ps.DiscreteAdjoint(), 1e-9)[1]
    with pytest.warns(ps.AccuracyWarning, match="changes faster than the steps of Tsit5"):
        to_leaves(ps.Tsit5(), ps.DiscreteAdjoint(), 1e-3)
    first, found = to_leaves(ps.Tsit5(), None, 1e-3)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-3 * right.abs().max().item())
    again, found = to_leaves(ps.Tsit5(), None, 1e-3)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-3 * right.abs().max().item())
    assert (first.sensealg, again.sensealg) == (ps.DiscreteAdjoint(), ps.GaussAdjoint())
    assert to_leaves(ps.Rodas5P(), None, 1e-6)[0].sensealg == ps.DiscreteAdjoint()  # which is not at its limit
    torch.testing.assert_close(to_leaves(None, None, 1e-6)[1], right, rtol=0, atol=1e-3 * right.abs().max().item())


@pytest.mark.parametrize(
    "algorithm",
    [
        ps.FBDF(),
        ps.KenCarp4(),
        ps.VCABM(),
        ps.ROCK2(),
        ps.Anas5(),
        ps.Rodas4PW(),
        ps.Rodas5P(linsolve="KrylovJL_GMRES"),
        ps.AutoTsit5(ps.FBDF()),
    ],
    ids=str,
)
def test_steps_that_it_does_not_know_are_refused(algorithm):
    with pytest.raises(ValueError, match="does not go back through the steps of"):
        gradient(algorithm, ps.DiscreteAdjoint(), dt=0.01)


@pytest.mark.slow
def test_steps_that_julia_does_not_know(monkeypatch):
    """As with other versions of SciML: another adjoint takes over."""
    monkeypatch.setitem(algorithm_table.REVERSIBLE, "OrdinaryDiffEqQPRK", "")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)).double()
    problem = ps.ODEProblem(net, torch.ones(2, dtype=F64), (0.0, 1.0))

    def to_weights(algorithm):
        sol = ps.solve(problem, algorithm, saveat=[0.4, 1.0], rtol=1e-9, atol=1e-9, engine="julia")
        return torch.cat([x.flatten() for x in torch.autograd.grad(sol.u.square().sum(), list(net.parameters()))])

    torch.testing.assert_close(to_weights(ps.QPRK98()), to_weights(ps.Tsit5()), rtol=1e-6, atol=1e-7)


def test_the_default_may_come_to_steps_that_it_does_not_know():
    """Above 50 states, SciML's default algorithm takes FBDF where the problem is stiff."""
    rates = torch.tensor([-1.0, -3000.0], dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(
        lambda u, p, t: torch.cat([p[0] * u[:30], p[1] * (u[30:] - u[:30].cos())]), torch.ones(60, dtype=F64), (0.0, 5.0), rates
    )
    sol = ps.solve(problem, saveat=[5.0], engine="julia", sensealg=ps.DiscreteAdjoint())
    with pytest.raises(ps.GradientFailed, match="took steps by FBDF"):
        sol.u.sum().backward()
    found = torch.autograd.grad(ps.solve(problem, saveat=[5.0], rtol=1e-8, atol=1e-8, engine="julia").u.sum(), rates)[0]
    decayed = 30 * np.exp(-5.0)
    # The fast half follows cos(e^-t), up to a thousandth.
    slow = 5.0 * decayed * (1 - np.sin(np.exp(-5.0)))
    np.testing.assert_allclose(found[0], slow, rtol=1e-3)


def test_the_table_of_reversible_algorithms(julia_engine):
    """Julia reads the same methods from their steps: some of two packages, all with PYSCIODE_EVERY_CELL=1."""
    solved(ps.Tsit5(), Z[:2], Z[2:])
    from juliacall import Main

    Main.seval("import PySciODE")
    drawn = random.Random(0)
    candidates = [ps.Algorithm(name) for family in ("explicit", "rosenbrock") for name in ps.list_algorithms(family)]
    if not ALL:
        candidates = [
            ps.Tsit5(),
            *drawn.sample([x for x in candidates if x.package in ("OrdinaryDiffEqLowOrderRK", "OrdinaryDiffEqSSPRK")], 4),
        ]
    for algorithm in candidates:
        try:
            made = Main.seval(f'PySciODE.algorithm("{algorithm.julia}", ["{algorithm.package}"])')
        except Exception as error:
            if "is not defined" in str(error) or "is not in this Julia environment" in str(error) or "UndefKeyword" in str(error):
                continue
            raise
        # One extrapolation method keeps its order in the equations that are tried, and counts as a Runge-Kutta method there.
        if algorithm != ps.AitkenNeville():
            assert (Main.PySciODE.read_method(made) is not None) == is_reversible(algorithm), algorithm
