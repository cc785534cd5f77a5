"""Fits whose search runs in Julia, against SciPy's search and against the densities of torch and SciPy."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from torch.distributions import biject_to, constraints

import pysciode as ps
from pysciode.engines.base import SolveOptions, SolveRequest
from pysciode.errors import EngineUnavailable
from pysciode.fitting.optimization_jl import FittedExperiment, minimize
from pysciode.methods.algorithms import Tsit5

with_optimization = pytest.mark.extra("optimization")
TIMES = np.linspace(0.0, 8.0, 17)
TRUE = [1.5, 1.0, 3.0, 1.0]


def lotka_volterra(u, p, t):
    return [p[0] * u[0] - p[1] * u[0] * u[1], -p[2] * u[1] + p[3] * u[0] * u[1]]


def states(p, u0=(1.0, 1.0)):
    run = scipy.integrate.solve_ivp(lambda t, u: lotka_volterra(u, p, t), (0, 8), u0, t_eval=TIMES, rtol=1e-11, atol=1e-12)
    return run.y.T


@pytest.fixture(scope="module")
def observed():
    noise = np.random.default_rng(1).standard_normal((17, 2))
    values = states(TRUE) * np.exp(0.1 * noise)
    values[3:6, 1] = np.nan
    return values


def experiment(observed, u0=(1.0, 1.0), **changes):
    """All rates, the first initial value and the noise of the first series are unknown."""
    problem = ps.ODEProblem(lotka_volterra, list(u0), (0.0, 8.0), TRUE)
    options = SolveOptions(saveat=TIMES, rtol=1e-10, atol=1e-10)
    request = SolveRequest(problem, problem.flat_values(), problem.tspan, Tsit5(), options)
    arrays = {
        "columns": [0, 1],
        "u0_index": [5, 0],
        "p_index": [1, 2, 3, 4],
        "noise_index": [6, 0],
        "noise_value": [np.nan, 0.2],
    }
    return FittedExperiment(request, observed, **(arrays | changes))


BOUNDS = [(0.0, None)] * 4 + [(0.1, 3.0), (0.0, None)]
CONSTRAINTS = [constraints.greater_than(0.0)] * 4 + [constraints.interval(0.1, 3.0), constraints.greater_than(0.0)]
START = np.array([np.log(1.3), np.log(0.9), np.log(2.7), np.log(1.1), 0.0, np.log(0.3)])


def values(z: torch.Tensor) -> torch.Tensor:
    return torch.stack([biject_to(c)(x) for c, x in zip(CONSTRAINTS, z, strict=True)])


def negative_log_likelihood(z: np.ndarray, observed: np.ndarray) -> tuple[float, np.ndarray]:
    """The same fit by torch: pysciode's gradient of the solve, torch's densities and transformations."""
    z = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    x = values(z)
    problem = ps.ODEProblem(lotka_volterra, torch.stack([x[4], torch.ones((), dtype=torch.float64)]), (0.0, 8.0), x[:4])
    u = ps.solve(problem, Tsit5(), saveat=TIMES, rtol=1e-10, atol=1e-10).u
    data, seen = torch.tensor(observed), torch.tensor(~np.isnan(observed))
    scale = torch.stack([x[5], torch.tensor(0.2, dtype=torch.float64)]).expand(17, 2)
    total = -torch.distributions.LogNormal(torch.log(u[seen]), scale[seen]).log_prob(data[seen]).sum()
    return total.item(), torch.autograd.grad(total, z)[0].numpy()


@pytest.mark.julia
@with_optimization
@pytest.mark.parametrize("method", ["LBFGS", "BFGS", "NewtonTrustRegion"])
def test_estimates_are_those_of_scipy(observed, method):
    reference = scipy.optimize.minimize(negative_log_likelihood, START, args=(observed,), jac=True, method="BFGS", options={"gtol": 1e-7})
    found = minimize([experiment(observed)], BOUNDS, "lognormal", START, method, gradient_tolerance=1e-8, value_tolerance=1e-15)
    np.testing.assert_allclose(found.z, reference.x, atol=1e-6)
    assert found.value == pytest.approx(reference.fun, rel=1e-9)
    assert found.converged
    assert found.retcode == "Success"
    assert found.trace[0] == pytest.approx(negative_log_likelihood(START, observed)[0], rel=1e-8)
    assert found.trace[-1] == pytest.approx(found.value, rel=1e-9)
    assert len(found.trace) == found.iterations + 1
    assert found.evaluations >= found.iterations


@pytest.mark.julia
@with_optimization
def test_without_gradients_the_search_comes_near(observed):
    search = minimize([experiment(observed)], BOUNDS, "lognormal", START, "LBFGS", gradient_tolerance=1e-8)
    found = minimize([experiment(observed)], BOUNDS, "lognormal", START, "NelderMead", maxiters=3000, value_tolerance=1e-12)
    np.testing.assert_allclose(found.z, search.z, atol=1e-3)


def densities(kind: str, y: np.ndarray, u: np.ndarray, s: np.ndarray) -> np.ndarray:
    if kind == "normal":
        return scipy.stats.norm.logpdf(y, u, s)
    if kind == "lognormal":
        return scipy.stats.lognorm.logpdf(y, s, scale=u)
    if kind == "poisson":
        return scipy.stats.poisson.logpmf(y, u)
    return scipy.stats.nbinom.logpmf(y, s, s / (s + u))


@pytest.mark.julia
@with_optimization
@pytest.mark.parametrize("kind", ["normal", "lognormal", "poisson", "negative_binomial"])
def test_values_of_likelihoods_of_two_experiments_with_weights(kind):
    counts = np.random.default_rng(2).integers(1, 9, (17, 2)).astype(float)
    weights = np.linspace(0.5, 2.0, 34).reshape(17, 2)
    first = experiment(counts, weights=weights)
    second = experiment(counts[:3], u0=(0.7, 1.2), u0_index=[0, 0], noise_index=[0, 6], noise_value=[0.5, np.nan], rows=[2, 2, 5])
    x = values(torch.from_numpy(START)).numpy()
    expected = -(weights * densities(kind, counts, states(x[:4], (x[4], 1.0)), np.array([x[5], 0.2]))).sum()
    expected -= densities(kind, counts[:3], states(x[:4], (0.7, 1.2))[[2, 2, 5]], np.array([0.5, x[5]])).sum()
    found = minimize([first, second], BOUNDS, kind, START, maxiters=1)
    assert found.trace[0] == pytest.approx(expected, rel=1e-7)
    assert found.retcode == "MaxIters"
    assert not found.converged


@pytest.mark.julia
@with_optimization
def test_one_sided_and_missing_bounds_agree_with_torch():
    # exp decay with one rate: x(z) for every kind of bounds, seen through the value at the start
    problem = ps.ODEProblem(lambda u, p, t: [-p[0] * u[0]], [1.0], (0.0, 1.0), [1.0])
    options = SolveOptions(saveat=np.array([1.0]), rtol=1e-10, atol=1e-12)
    request = SolveRequest(problem, problem.flat_values(), problem.tspan, Tsit5(), options)
    data = FittedExperiment(request, np.array([[0.4]]), [0], [0], [1], [0], [1.0])
    for bounds, constraint in (
        ((None, None), constraints.real),
        ((-1.0, None), constraints.greater_than(-1.0)),
        ((None, 2.0), constraints.less_than(2.0)),
        ((-1.0, 2.0), constraints.interval(-1.0, 2.0)),
    ):
        rate = biject_to(constraint)(torch.tensor(0.3, dtype=torch.float64)).item()
        found = minimize([data], [bounds], "normal", [0.3], gradient_tolerance=1e-9, value_tolerance=1e-16)
        assert found.trace[0] == pytest.approx(-scipy.stats.norm.logpdf(0.4, np.exp(-rate), 1.0), rel=1e-9)
        estimate = biject_to(constraint)(torch.from_numpy(found.z)).item()
        assert estimate == pytest.approx(-np.log(0.4), abs=1e-6)


@pytest.mark.julia
@with_optimization
def test_a_search_that_can_not_begin_is_infinite_and_says_so(observed):
    data = experiment(observed)
    stops = replace(data, request=replace(data.request, options=replace(data.request.options, maxiters=5)))
    found = minimize([stops], BOUNDS, "lognormal", START)
    assert found.value == np.inf
    assert not found.converged
    assert found.retcode != "Success"


@pytest.mark.julia
@with_optimization
def test_progress_is_called_and_may_end_the_search(observed):
    seen = []

    def watch(iteration, value):
        seen.append((iteration, value))
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        minimize([experiment(observed)], BOUNDS, "lognormal", START, progress=watch)
    assert seen == [(0, pytest.approx(negative_log_likelihood(START, observed)[0], rel=1e-8))]


@pytest.mark.julia
@with_optimization
def test_ctrl_c_ends_the_search(observed):
    data = [experiment(observed)] * 50
    minimize(data[:1], BOUNDS, "lognormal", START)  # compiled
    threading.Timer(0.5, lambda: __import__("_thread").interrupt_main()).start()
    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        minimize(data, BOUNDS, "lognormal", START, "NelderMead", maxiters=1_000_000, value_tolerance=0.0)
        time.sleep(5)  # an interrupt that came too late
    assert time.perf_counter() - began < 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"likelihood": "gauss"}, "likelihood must be one of 'normal'"),
        ({"method": "Adam"}, "method must be one of 'LBFGS'"),
        ({"maxiters": 0}, "maxiters must be a whole number of at least 1"),
        ({"value_tolerance": -1.0}, "value_tolerance must be finite and not negative"),
        ({"start": START[:, None]}, "start must be a vector"),
        ({"bounds": BOUNDS[:2]}, "a pair for each of the 6 unknowns, not 2"),
        ({"bounds": [(1.0, 0.0), *BOUNDS[1:]]}, r"a lower and a higher number, not \(1.0, 0.0\)"),
        ({"experiments": []}, "experiments must hold at least one"),
        ({"columns": [0, 2]}, "columns must lie between 0 and 1"),
        ({"p_index": [1, 2, 3, 7]}, "p_index must lie between 0 and 6"),
        ({"p_index": [1, 2]}, "p_index must hold 4 integers"),
        ({"noise_value": [1.0, -1.0]}, "noise_value must hold a positive number"),
        ({"weights": -1.0}, "weights must be finite and not negative"),
        ({"rows": [1]}, "rows must hold 17 integers"),
        ({"observed": -np.ones((17, 2))}, "observed must be positive"),
        ({"observed": np.ones((3, 2))}, "observed has 3 rows for 17 saved times"),
    ],
)
def test_bad_arguments_are_named(observed, change, message):
    arguments = {"experiments": None, "bounds": BOUNDS, "likelihood": "lognormal", "start": START}
    arguments |= {key: value for key, value in change.items() if key in (*arguments, "method", "maxiters", "value_tolerance")}
    if arguments["experiments"] is None:
        rest = {key: value for key, value in change.items() if key not in arguments}
        arguments["experiments"] = [experiment(rest.pop("observed", observed), **rest)]
    with pytest.raises(ValueError, match=message):
        minimize(**arguments)


def test_without_the_package_the_error_names_the_command(observed, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", "/usr/bin/julia")
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(tmp_path))
    with pytest.raises(EngineUnavailable, match="OptimizationOptimJL is not installed.*python -m pysciode install optimization"):
        minimize([experiment(observed)], BOUNDS, "lognormal", START)
