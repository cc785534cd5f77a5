"""DiffEqFlux from Python, against formulas that hold exactly and against solves by SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import pysciode as ps
from pysciode.errors import EngineUnavailable
from pysciode.fitting.diffeqflux import collocate_data, multiple_shoot

with_diffeqflux = pytest.mark.extra("diffeqflux")
T = np.linspace(0, 3, 31)


def rotation(u, p, t):
    return [p[0] * u[1], -p[0] * u[0]]


@pytest.mark.julia
@with_diffeqflux
def test_collocation_is_exact_where_local_polynomials_are():
    u = np.stack([T**2, 2 * T - 1], axis=1)
    du, smooth = collocate_data(u, T, "EpanechnikovKernel", bandwidth=0.2)
    np.testing.assert_allclose(du, np.stack([2 * T, np.full(31, 2.0)], axis=1), atol=1e-9)
    np.testing.assert_allclose(smooth[:, 1], u[:, 1], atol=1e-9)
    assert np.abs(smooth[:, 0] - u[:, 0]).max() > 1e-3  # a line is not a parabola
    assert collocate_data(u, T)[0].shape == (31, 2)


@pytest.mark.julia
@with_diffeqflux
def test_a_bandwidth_that_leaves_too_few_points_is_named():
    with pytest.raises(ValueError, match=r"bandwidth is too small.*0\.001"):
        collocate_data(np.stack([T, T], axis=1), T, bandwidth=1e-3)


@pytest.mark.julia
@with_diffeqflux
def test_loss_of_multiple_shooting_is_that_of_separate_solves():
    observed = np.stack([np.sin(T), np.cos(T)], axis=1)
    problem = ps.ODEProblem(rotation, [9.0, 9.0], (0.0, 1.0), [1.3])
    expected = 0.0
    for first in range(0, 30, 5):
        times = T[first : first + 6]
        run = solve_ivp(lambda t, u: rotation(u, [1.3], t), times[[0, -1]], observed[first], t_eval=times, rtol=1e-11, atol=1e-12)
        expected += ((run.y.T - observed[first : first + 6]) ** 2).sum()
        if first < 25:
            expected += 3.0 * np.abs(run.y[:, -1] - observed[first + 5]).sum()
    found = multiple_shoot(problem, observed, T, 6, 3.0, "Tsit5", rtol=1e-10, atol=1e-10)
    assert found == pytest.approx(expected, rel=1e-7)
    true = ps.ODEProblem(rotation, [9.0, 9.0], (0.0, 1.0), [1.0])
    assert multiple_shoot(true, observed, T, 6, algorithm="Tsit5", rtol=1e-10, atol=1e-10) < 1e-8


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kernel": "Triangular"}, ValueError, "kernel must be one of EpanechnikovKernel"),
        ({"bandwidth": 0.0}, ValueError, "bandwidth must be a positive number"),
        ({"t": T[::-1]}, ValueError, "t must be one-dimensional, finite and strictly increasing"),
        ({"u": np.ones(31)}, ValueError, r"u must have shape \(31, n\)"),
        ({"u": np.full((31, 2), np.nan)}, ValueError, "u must be finite"),
        ({"u": "text"}, TypeError, "u and t must be arrays"),
    ],
)
def test_collocation_names_what_is_wrong(change, error, message):
    with pytest.raises(error, match=message):
        collocate_data(**({"u": np.ones((31, 2)), "t": T} | change))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"problem": 1}, TypeError, "problem must be an ODEProblem"),
        ({"observed": np.ones((31, 3))}, ValueError, r"observed must have shape \(k, 2\)"),
        ({"group_size": 1}, ValueError, "group_size must be a whole number from 2 to 31"),
        ({"group_size": 2.5}, TypeError, "group_size must be a whole number from 2 to 31"),
        ({"continuity_term": np.nan}, ValueError, "continuity_term must be finite"),
        ({"rtol": -1.0}, ValueError, "rtol must be finite"),
    ],
)
def test_multiple_shooting_names_what_is_wrong(change, error, message):
    problem = ps.ODEProblem(rotation, [0.0, 1.0], (0.0, 1.0), [1.0])
    with pytest.raises(error, match=message):
        multiple_shoot(**({"problem": problem, "observed": np.ones((31, 2)), "t": T, "group_size": 5} | change))


def test_without_diffeqflux_the_error_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", "/usr/bin/julia")
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(tmp_path))
    with pytest.raises(EngineUnavailable, match="DiffEqFlux is not installed.*python -m pysciode install diffeqflux"):
        collocate_data(np.ones((31, 2)), T)
