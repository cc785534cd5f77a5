"""The universal differential equation of Lotka-Volterra: what is recovered, against the values that made the data."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

pytestmark = pytest.mark.slow

pytest.importorskip("pysindy")

RIGHT = {"U1[x*y]": -0.9, "U2[x*y]": 0.8}


@pytest.fixture(scope="module")
def example():
    folder = str(Path(__file__).parents[2] / "examples")
    sys.path.insert(0, folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield import_module("ude_lotka_volterra")
    torch.set_num_threads(threads)
    sys.path.remove(folder)
    del sys.modules["ude_lotka_volterra"]


def truth(times, u0=(0.44249296, 4.6280594)):
    def f(t, u):
        return [1.3 * u[0] - 0.9 * u[0] * u[1], 0.8 * u[0] * u[1] - 1.8 * u[1]]

    return solve_ivp(f, (0.0, times[-1]), u0, t_eval=times, method="DOP853", rtol=1e-11, atol=1e-11).y.T


@pytest.mark.julia
def test_interactions_are_recovered_at_the_papers_noise(example):
    """Terms and coefficients within 5 %, from the network and through the solver; then t = 20, far beyond the data."""
    data = example.noisy_data(0)
    clean = truth(example.TIMES)
    noise = (data - clean) / clean.mean(0)
    assert noise.std() == pytest.approx(5e-3, rel=0.25)
    networks = example.trained_many(example.Universal, data, restarts=1, adam=200, lbfgs=300, seed=0)
    regression, equations = example.recover(networks, data)
    direct = example.network_coefficients(regression)
    assert set(equations.coefficients) == set(RIGHT)
    for name, value in RIGHT.items():
        assert direct[name] == pytest.approx(value, rel=0.05), name
        assert equations.coefficients[name] == pytest.approx(value, rel=0.05), name
        assert abs(equations.coefficients[name] - value) < 3 * equations.standard_errors[name]
    times = np.linspace(0.0, 20.0, 201)
    error = example.solved(equations, times) - truth(times)
    assert np.sqrt(np.mean(error**2) / np.mean(truth(times) ** 2)) < 0.05


def known(example):
    """The right terms with wrong coefficients, in the known physics."""
    u = np.random.default_rng(0).uniform(0.3, 4.0, (40, 2))
    outputs = np.stack([-0.85 * u[:, 0] * u[:, 1], 0.85 * u[:, 0] * u[:, 1]], 1)
    found = example.discover(u, outputs, symbols="x y", outputs=["U1", "U2"], library=2)
    physics = example.Physics(["alpha*x + U1", "U2 - delta*y"], "U1 U2", "x y", {"alpha": 1.3, "delta": 1.8})
    return found.inside(physics)


def scipy_fit(times, data):
    """Least squares, weighted by the data's own noise, and standard errors from its Jacobian."""
    from scipy.optimize import least_squares

    noise = 5e-3 * truth(times).mean(0)

    def residuals(q):
        def f(t, u):
            return [1.3 * u[0] + q[0] * u[0] * u[1], q[1] * u[0] * u[1] - 1.8 * u[1]]

        found = solve_ivp(f, (0.0, times[-1]), q[2:], t_eval=times, method="DOP853", rtol=1e-10, atol=1e-10)
        return ((found.y.T - data) / noise).ravel()

    best = least_squares(residuals, [-0.85, 0.85, *data[0]], x_scale=[1, 1, 0.4, 4.0], xtol=1e-12, ftol=1e-12)
    return best.x, np.sqrt(np.diag(np.linalg.inv(best.jac.T @ best.jac)))


def test_refitted_as_by_scipy(example, engine):
    from pysciode.discovery import refit
    from pysciode.fitting import Normal

    data = example.noisy_data(1) if engine == "julia" else truth(example.TIMES) + _noise(example.TIMES)
    values, errors = scipy_fit(example.TIMES, data)
    sd = 5e-3 * truth(example.TIMES).mean(0)
    found = refit(known(example), (example.TIMES, data), engine=engine, likelihood=Normal(list(sd)), rtol=1e-8)
    names = list(RIGHT)
    np.testing.assert_allclose([found.coefficients[k] for k in names], values[:2], rtol=1e-4)
    np.testing.assert_allclose([found.standard_errors[k] for k in names], errors[:2], rtol=1e-2)
    assert found.problem([1.0, 1.0], (0.0, 1.0)).p == {**found.coefficients, "alpha": 1.3, "delta": 1.8}


def _noise(times):
    return 5e-3 * truth(times).mean(0) * np.random.default_rng(1).standard_normal((len(times), 2))


@pytest.mark.julia
def test_the_data_choose_among_candidates(example):
    """Outputs whose errors are smooth: regression takes more terms than there are, the data do not."""
    from pysciode.discovery import discover, select

    data = example.noisy_data(0)
    u = truth(np.linspace(0.0, 3.0, 61))
    product = u[:, 0] * u[:, 1]
    wrong = 1 + 0.03 * np.sin(2 * u[:, 1])
    outputs = np.stack([-0.9 * product * wrong, 0.8 * product * wrong], 1)
    found = discover(u, outputs, symbols="x y", outputs=["U1", "U2"], library=3, max_terms=3)
    assert len(found.coefficients) > 2
    physics = example.Physics(["alpha*x + U1", "U2 - delta*y"], "U1 U2", "x y", {"alpha": 1.3, "delta": 1.8})
    chosen = select(found.inside(physics), (example.TIMES, data))
    assert set(chosen.coefficients) == set(RIGHT)
    table = chosen.table
    best = table[table["terms"] == 2].iloc[0]
    # AICc of the whole data by hand: two coefficients, two initial values, two scatters
    n, k = data.size, 6
    assert best["aicc"] == pytest.approx(-2 * best["log_likelihood"] + 2 * k + 2 * k * (k + 1) / (n - k - 1))
    assert best["delta"] <= 2.0


@pytest.mark.julia
def test_nothing_can_be_fitted(example):
    from pysciode.discovery import refit, select

    data = example.noisy_data(0)
    data[0, 1] = np.nan
    with pytest.raises(ValueError, match="u0 must be given"):
        refit(known(example), (example.TIMES, data))
    with pytest.raises(ValueError, match="criterion"):
        select(known(example), (example.TIMES, example.noisy_data(0)), criterion="r2")
    with pytest.raises(ValueError, match="max_combinations"):
        select(known(example), (example.TIMES, example.noisy_data(0)), max_combinations=0)
