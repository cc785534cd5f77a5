"""The models and claims of the examples that compare methods, against SciPy, published values and theory."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import pysciode as ps
from pysciode.comparison.measure.losses import SavedStates
from pysciode.comparison.measure.reference import ridders

pytestmark = pytest.mark.slow

QUICK = {"repeats": 1, "memory": False, "progress": False}
METHODS = [ps.ForwardDiffSensitivity(), ps.GaussAdjoint(), ps.BacksolveAdjoint()]


@pytest.fixture
def example(monkeypatch):
    """An example as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    yield import_module
    for name in [x for x in sys.modules if x.startswith(("compare_", "reproduce_", "comparison_script"))]:
        del sys.modules[name]


def scipy_gradient(f, u0, times, p, loss, **options) -> np.ndarray:
    """Gradient of ``loss(solution)`` to `p` by extrapolated differences of SciPy's solutions, relative steps."""

    def value(p: np.ndarray) -> float:
        found = solve_ivp(lambda t, u: f(u, p, t), (0.0, times[-1]), u0, t_eval=times, **options)
        return float(loss(SavedStates(torch.from_numpy(times), torch.from_numpy(found.y.T.copy()))))

    return np.array([ridders(lambda h, i=i: value(p * (1 + h * np.eye(len(p))[i])))[0] / p[i] for i in range(len(p))])


@pytest.mark.julia
def test_lotka_volterra_has_no_warnings_and_small_errors(example):
    lv = example("compare_lotka_volterra")
    times = lv.TIMES
    right = scipy_gradient(lv.lotka_volterra, [1.0, 1.0], times, lv.RATES, lv.misfit, method="DOP853", rtol=1e-12, atol=1e-12)
    report = ps.compare_adjoints(lv.problem(), lv.misfit, saveat=times, sensealgs=METHODS, tolerances=[1e-6], reference=right, **QUICK)
    assert report.warnings == () and report.growth is None and not report.stiff
    assert {row.engine for row in report.rows} >= {"julia", "embedded"}
    for row in report.rows:
        assert row.status == "ok", row.reason
        assert row.error < 1e-3, row.label


@pytest.mark.julia
def test_backsolve_fails_on_robertson(example):
    stiff = example("compare_stiff")
    right = scipy_gradient(
        stiff.robertson,
        [1.0, 0.0, 0.0],
        stiff.ROBERTSON_TIMES,
        np.array([0.04, 3e7, 1e4]),
        stiff.robertson_loss,
        method="Radau",
        rtol=1e-10,
        atol=1e-14,
    )
    report = ps.compare_adjoints(
        stiff.robertson_problem(),
        stiff.robertson_loss,
        saveat=stiff.ROBERTSON_TIMES,
        sensealgs=METHODS,
        tolerances=[1e-6],
        reference=right,
        peers=False,
        **QUICK,
    )
    rows = {row.method: row for row in report.rows}
    assert rows["ForwardDiffSensitivity"].error < 1e-3 and rows["GaussAdjoint"].error < 1e-2
    assert rows["BacksolveAdjoint"].status == "failed"
    assert report.stiff and any("BacksolveAdjoint" in x for x in report.warnings)


@pytest.mark.julia
def test_pollu_ends_where_the_test_set_says(example):
    """Mazzia, Magherini, "Test Set for Initial Value Problem Solvers" (2008), II-1: the first two concentrations."""
    problem = example("compare_stiff").pollu_problem()
    end = ps.solve(problem, ps.Rodas5P(), saveat=[60.0], rtol=1e-9, atol=1e-14).u[-1]
    np.testing.assert_allclose(end[:2], [0.5646255480022769e-1, 0.1342484130422339], rtol=1e-7)


@pytest.mark.julia
def test_lorenz_warns_and_grows_at_the_lyapunov_exponent(example):
    lorenz = example("compare_lorenz")
    starts = lorenz.on_the_attractor(4)
    report = ps.compare_adjoints(
        lorenz.problem(starts[0], 20.0),
        lorenz.last_height,
        saveat=[20.0],
        sensealgs=METHODS[:1],
        tolerances=[1e-8],
        peers=False,
        **QUICK,
    )
    assert report.growth > 4 and any("chaotic" in x for x in report.warnings)
    horizons = np.linspace(0.0, 50.0, 51)[1:]
    norms = np.array([lorenz.gradient_norms(start, horizons) for start in starts])
    assert lorenz.growth_rate(horizons, norms) == pytest.approx(lorenz.LYAPUNOV, abs=0.06)


@pytest.mark.julia
def test_an_interpolated_solution_keeps_its_stages_and_one_solved_backwards_nothing(example):
    """Tsit5's interpolation needs the state and seven stages of each step: 8 · 40 numbers of 8 bytes."""
    memory = example("compare_memory")
    methods = [ps.BacksolveAdjoint(), ps.InterpolatingAdjoint()]
    found = memory.measured([1e-5, 1e-9], methods, peers=False)
    assert memory.bytes_per_step(found["InterpolatingAdjoint"]) > 8 * 40 * 8
    assert abs(memory.bytes_per_step(found["BacksolveAdjoint"])) < 100


def test_the_crossing_of_two_power_laws(example):
    costs = example("reproduce_adjoint_costs")
    sizes = [10, 50, 300, 1000]
    forward, adjoint = [(n, 1e-5 * n) for n in sizes], [(n, 1e-3 * (n / 100) ** 0.5) for n in sizes]
    assert costs.crossing(forward, adjoint) == pytest.approx(100.0)
    assert costs.crossing(forward[:2], adjoint[:2]) is None


def test_slope_and_size_of_networks(example):
    networks = example("compare_network_size")
    assert networks.slope([(10**3, 9.0), (10**4, 2.0), (10**5, 2.0 * 10**0.7)]) == pytest.approx(0.7)
    for wanted in (1_000, 100_000):
        assert sum(x.numel() for x in networks.network(wanted).parameters()) == pytest.approx(wanted, rel=0.05)


def test_the_brusselator_is_at_rest_where_theory_says(example):
    """Without a source ``u = A, v = B / A`` is the equilibrium, on any grid."""
    problem = example("compare_brusselator").brusselator(6)
    state = torch.tensor([1.0, 3.4], dtype=torch.float64)[:, None, None].expand(2, 6, 6)
    p = {**problem.p, "source": torch.zeros(6, 6)}
    np.testing.assert_allclose(problem.f(state, p, None).detach(), 0.0, atol=1e-12)
