"""Parameter estimation against closed forms, SciPy's own fits, and the definitions of the intervals."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, optimize, stats

import pysciode as ps
from pysciode.fitting import (
    Experiment,
    FitResult,
    LogNormal,
    NegativeBinomial,
    Normal,
    NotIdentifiable,
    Parameter,
    Poisson,
    fit,
)

TIMES = np.linspace(0.25, 4.0, 16)


def decay(u, p, t):
    return [-p["k"] * u[0]]


def decay_problem(k=0.5, u0=2.0):
    return ps.ODEProblem(decay, [u0], (0.0, 4.0), {"k": k})


def decay_data(k=0.9, u0=3.0, sd=0.05, seed=0, times=TIMES):
    generator = np.random.default_rng(seed)
    return times, u0 * np.exp(-k * times) + sd * generator.standard_normal(len(times))


def line(u, p, t):
    """``u = u0 + a t``: linear in its parameters, so that all is known in closed form."""
    return [p["a"] + 0 * u[0]]


def line_data(sd, seed=1):
    return TIMES, 1.0 + 0.7 * TIMES + sd * np.random.default_rng(seed).standard_normal(len(TIMES))


def least_squares_line(t, y, sd):
    """Estimates and their covariance by linear algebra."""
    design = np.column_stack([t, np.ones_like(t)])
    inverse = np.linalg.inv(design.T @ design)
    return inverse @ design.T @ y, sd**2 * inverse


def fit_line(t, y, **options):
    problem = ps.ODEProblem(line, [0.5], (0.0, 4.0), {"a": 0.1})
    options = {"likelihood": Normal(0.1), "engine": "embedded", "progress": False, "rtol": 1e-8} | options
    parameters = options.pop("parameters", ["a", "u0"])
    return fit(problem, (t, y), parameters, **options)


# --- estimates and standard errors ---


def test_estimates_and_errors_are_curve_fits(engine):
    t, y = decay_data()
    result = fit(decay_problem(), (t, y), {"k": (0, None), "u0": (0, None)}, engine=engine, progress=False, rtol=1e-9)
    expected, covariance = optimize.curve_fit(lambda t, k, u0: u0 * np.exp(-k * t), t, y, [0.5, 2.0])
    assert list(result.estimates) == ["k", "u0[0]", "sd[y[0]]"]
    assert result.values[:2] == pytest.approx(expected, rel=1e-5)
    # curve_fit divides the squares by N - 2, maximum likelihood by N.
    n = len(t)
    errors = np.sqrt(np.diag(covariance) * (n - 2) / n)
    assert list(result.standard_errors.values())[:2] == pytest.approx(errors, rel=1e-4)
    residuals = y - expected[1] * np.exp(-expected[0] * t)
    sd = np.sqrt(np.mean(residuals**2))
    assert result.estimates["sd[y[0]]"] == pytest.approx(sd, rel=1e-4)
    assert result.standard_errors["sd[y[0]]"] == pytest.approx(sd / np.sqrt(2 * n), rel=1e-3)
    assert result.log_likelihood == pytest.approx(stats.norm.logpdf(residuals, scale=sd).sum(), abs=1e-6)
    assert result.aic == pytest.approx(6 - 2 * result.log_likelihood)
    assert result.converged and result.engine == engine


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    ["L-BFGS-B", "BFGS", "trust-constr", "trust-exact", "trust-krylov", "Newton-CG", "Nelder-Mead", "least_squares", "torch"],
)
def test_all_optimisers_find_the_same(optimizer):
    t, y = decay_data()
    chosen, maxiter = optimizer, 400
    if optimizer == "torch":
        chosen, maxiter = lambda parameters: torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe"), 5
    result = fit(
        decay_problem(), (t, y), {"k": (0, None), "u0": None}, optimizer=chosen, maxiter=maxiter, engine="embedded",
        progress=False,
    )  # fmt: skip
    expected, _ = optimize.curve_fit(lambda t, k, u0: u0 * np.exp(-k * t), t, y, [0.5, 2.0])
    assert result.values[:2] == pytest.approx(expected, rel=2e-4)


@pytest.mark.slow
def test_series_with_scatters_of_their_own_are_weighted_by_them():
    generator = np.random.default_rng(3)
    sd = np.array([0.01, 0.4])
    truth = 3.0 * np.exp(-0.9 * TIMES)
    y = truth[:, None] + sd * generator.standard_normal((len(TIMES), 2))

    def twice(u, p, t):
        return torch.stack([u[:, 0], u[:, 0]], 1)

    results = [
        fit(decay_problem(), (TIMES, y), ["k", "u0"], observe=twice, optimizer=name, engine="embedded", progress=False)
        for name in ("L-BFGS-B", "least_squares")
    ]
    for result in results:
        # The second series says next to nothing beside the first.
        only_first, _ = optimize.curve_fit(lambda t, k, u0: u0 * np.exp(-k * t), TIMES, y[:, 0], [0.5, 2.0])
        assert result.values[:2] == pytest.approx(only_first, abs=0.003)
    assert results[0].values == pytest.approx(results[1].values, rel=1e-3)


def test_lognormal_scatter_has_known_errors():
    # A constant: its logarithm's estimate has standard error sigma / sqrt(N).
    problem = ps.ODEProblem(lambda u, p, t: [0 * u[0]], [1.0], (0.0, 1.0))
    y = np.exp(1.0 + 0.3 * np.random.default_rng(0).standard_normal(400))
    t = np.tile([0.1, 0.4, 0.7, 1.0], 100)
    result = fit(problem, (t, y), {"u0": (0, None)}, likelihood=LogNormal(), engine="embedded", progress=False)
    sigma = np.log(y).std()
    assert result.values == pytest.approx([np.exp(np.log(y).mean()), sigma], rel=1e-4)
    errors = np.array(list(result.standard_errors.values())) / result.values
    assert errors == pytest.approx([sigma / 20, 1 / np.sqrt(800)], rel=1e-3)


def test_poisson_counts():
    problem = ps.ODEProblem(lambda u, p, t: [0 * u[0]], [5.0], (0.0, 1.0))
    y = np.random.default_rng(0).poisson(7.0, 50)
    data = Experiment(np.tile([0.5, 1.0], 25), y)
    result = fit(problem, data, {"u0": (0, None)}, likelihood=Poisson(), engine="embedded", progress=False)
    assert result.estimates["u0[0]"] == pytest.approx(y.mean(), rel=1e-5)
    assert result.standard_errors["u0[0]"] == pytest.approx(np.sqrt(y.mean() / 50), rel=1e-4)
    assert result.log_likelihood == pytest.approx(stats.poisson.logpmf(y, y.mean()).sum(), abs=1e-5)


def test_negative_binomial_counts():
    problem = ps.ODEProblem(lambda u, p, t: [0 * u[0]], [5.0], (0.0, 1.0))
    y = np.random.default_rng(0).negative_binomial(3, 3 / (3 + 8.0), 300)
    data = (np.tile([0.4, 0.7, 1.0], 100), y)
    result = fit(problem, data, {"u0": (0, None)}, likelihood=NegativeBinomial(), engine="embedded", progress=False)

    def by_scipy(x):
        return -stats.nbinom.logpmf(y, x[1], x[1] / (x[1] + x[0])).sum()

    best = optimize.minimize(by_scipy, [5.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10})
    assert result.values == pytest.approx(best.x, rel=1e-3)
    assert result.log_likelihood == pytest.approx(-best.fun, abs=1e-5)
    mean, size = best.x
    assert result.standard_errors["u0[0]"] == pytest.approx(np.sqrt((mean + mean**2 / size) / 300), rel=1e-3)
    step = 1e-3
    second = (by_scipy([mean, size + step]) - 2 * best.fun + by_scipy([mean, size - step])) / step**2
    assert result.standard_errors["size[y[0]]"] == pytest.approx(second**-0.5, rel=1e-2)


def test_weights_count_observations():
    t, y = line_data(0.1)
    doubled = fit_line(t, y)
    problem = ps.ODEProblem(line, [0.5], (0.0, 4.0), {"a": 0.1})
    options = {"likelihood": Normal(0.1), "engine": "embedded", "progress": False}
    weighted = fit(problem, Experiment(t, y, weights=4.0), ["a", "u0"], **options)
    assert weighted.values == pytest.approx(doubled.values, rel=1e-5)
    ratio = np.array(list(weighted.standard_errors.values())) / np.array(list(doubled.standard_errors.values()))
    assert ratio == pytest.approx([0.5, 0.5], rel=1e-5)


# --- data ---


def test_missing_values_repeated_and_unordered_times():
    t, y = line_data(0.1)
    order = np.random.default_rng(0).permutation(len(t))
    t2 = np.concatenate([t[order], t[:3], [2.0]])
    y2 = np.concatenate([y[order], y[:3] + 0.05, [np.nan]])
    result = fit_line(t2, y2)
    there = np.isfinite(y2)
    expected, covariance = least_squares_line(t2[there], y2[there], 0.1)
    assert result.values == pytest.approx(expected, rel=1e-5)
    assert list(result.standard_errors.values()) == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-5)
    assert result.count == len(t) + 3


@pytest.mark.slow
def test_experiments_share_parameters_and_have_their_own():
    rates, starts = {"a": 0.9, "b": 0.9}, {"a": 3.0, "b": 1.0}
    data = {name: Experiment(*decay_data(rates[name], starts[name], 1e-4, seed=i), u0=[starts[name]]) for i, name in enumerate(rates)}
    result = fit(decay_problem(), data, {"k": (0, None)}, engine="embedded", progress=False)
    assert result.estimates["k"] == pytest.approx(0.9, abs=1e-3)
    local = fit(decay_problem(), data, {"k": Parameter(lower=0), "u0": Parameter(local=True)}, engine="embedded", progress=False)
    assert local.estimates["u0[0]@a"] == pytest.approx(3.0, abs=1e-2)
    assert local.estimates["u0[0]@b"] == pytest.approx(1.0, abs=1e-2)
    with pytest.raises(ValueError, match="@"):
        fit(decay_problem(), {"a@b": data["a"]}, ["k"], engine="embedded")
    with pytest.raises(ValueError, match=r"local=True"):
        fit(decay_problem(), data, ["k", "u0"], engine="embedded")


def dosed(u, p, t):
    return [p["dose"] - p["k"] * u[0]]


@pytest.mark.slow
def test_inputs_differ_between_experiments_and_an_observation_function_sees_parameters():
    def truth(dose, t):
        return 2.5 * dose / 0.6 * (1 - np.exp(-0.6 * t))

    problem = ps.ODEProblem(dosed, [0.0], (0.0, 4.0), {"dose": 1.0, "k": 0.3, "scale": 1.0})
    data = [Experiment(TIMES, truth(dose, TIMES), p={"dose": dose}) for dose in (1.0, 4.0)]
    result = fit(
        problem, data, {"k": (0, None), "scale": (0, None)}, observe=lambda u, p, t: p["scale"] * u[:, :1],
        likelihood=Normal(0.01), engine="embedded", progress=False,
    )  # fmt: skip
    assert result.estimates == pytest.approx({"k": 0.6, "scale": 2.5}, rel=1e-4)
    assert result.problem.p["k"] == pytest.approx(0.6, rel=1e-4) and result.problem.p["dose"] == 1.0


def test_a_data_frame_names_the_series():
    t, y = decay_data()
    table = pd.DataFrame({"time": t, "substance": y})
    result = fit(decay_problem(), table, ["k", "u0"], engine="embedded", progress=False)
    assert result.names[-1] == "sd[substance]"
    assert list(result.residuals().columns) == ["experiment", "t", "series", "observed", "predicted", "residual"]
    assert (result.residuals()["residual"] ** 2).mean() == pytest.approx(1.0, rel=1e-3)


def oscillator(u, p, t):
    return [u[1], -p[0] * u[0]]


def test_entries_of_the_state_can_be_observed(engine):
    t = np.linspace(0, 5, 40)
    problem = ps.ODEProblem(oscillator, [1.0, 0.0], (0.0, 5.0), [3.0])
    result = fit(problem, (t, -2.0 * np.sin(2 * t)), observe=[1], likelihood=Normal(0.1), engine=engine, progress=False)
    assert result.estimates["p[0]"] == pytest.approx(4.0, rel=1e-4)


@pytest.mark.julia
def test_second_order_problems_have_velocity_and_position():
    t = np.linspace(0.1, 5, 30)
    problem = ps.SecondOrderODEProblem(lambda v, u, p, t: [-p[0] * u[0]], [0.0], [0.5], (0.0, 5.0), [3.0])
    states = np.stack([-2 * np.sin(2 * t), np.cos(2 * t)], 1)
    data = Experiment(t, states, u0=[[0.0], [0.7]])
    result = fit(problem, data, {"p": None, "u0[1,0]": None}, likelihood=Normal(0.1), engine="julia", progress=False)
    assert result.estimates == pytest.approx({"u0[1,0]": 1.0, "p[0]": 4.0}, rel=1e-4)
    again = ps.solve(result.problem, ps.Tsit5(), saveat=t, rtol=1e-8, engine="julia")
    assert again.u[:, 0] == pytest.approx(states[:, 1], abs=1e-3)
    only_positions = fit(problem, (t, states[:, 1]), ["p", "u0"], observe=[1], likelihood=Normal(0.1), engine="julia", progress=False)
    assert only_positions.estimates["p[0]"] == pytest.approx(4.0, rel=1e-4)


@pytest.mark.julia
def test_stiff_chemistry_of_three_rates():
    """Robertson's, with scatter of one per cent: the rates within four standard errors."""

    def robertson(u, p, t):
        return [-p[0] * u[0] + p[2] * u[1] * u[2], p[0] * u[0] - p[1] * u[1] ** 2 - p[2] * u[1] * u[2], p[1] * u[1] ** 2]

    truth = np.array([0.04, 3e7, 1e4])
    t = np.logspace(-2, 4, 20)
    run = integrate.solve_ivp(lambda t, u: robertson(u, truth, t), (0, 1e4), [1.0, 0, 0], "Radau", t_eval=t, rtol=1e-9, atol=1e-14)
    observed = run.y.T * np.exp(0.01 * np.random.default_rng(0).standard_normal((20, 3)))
    problem = ps.ODEProblem(robertson, [1.0, 0.0, 0.0], (0.0, 1e4), truth * [1.5, 0.7, 2.0])
    result = fit(
        problem, (t, observed), {"p": (0, None)}, likelihood=LogNormal(), algorithm=ps.Rodas5P(), atol=1e-12, engine="julia",
        progress=False,
    )  # fmt: skip
    errors = np.array(list(result.standard_errors.values()))[:3]
    assert (np.abs(result.values[:3] - truth) < 4 * errors).all() and (errors < 0.02 * truth).all()


def test_parameters_of_a_module_are_set():
    torch.manual_seed(0)
    layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    problem = ps.ODEProblem(lambda u, p, t: -layer(u), torch.tensor([3.0], dtype=torch.float64), (0.0, 4.0))
    t, y = decay_data(sd=1e-3)
    result = fit(problem, (t, y), engine="embedded", progress=False)
    assert layer.weight.item() == pytest.approx(0.9, abs=5e-3)
    assert layer.weight.item() == result.values[0]


# --- bounds, priors, starts ---


def test_estimates_and_intervals_keep_their_bounds():
    t, y = decay_data()
    result = fit(decay_problem(), (t, y), {"k": (0.0, 0.8), "u0": (0, None)}, engine="embedded", progress=False)
    assert 0.79 < result.estimates["k"] < 0.8
    inside = fit(decay_problem(0.05), (t, 2.0 + 0 * y), {"k": (0, None), "u0": (0, None)}, engine="embedded", progress=False,
                 likelihood=Normal(0.1))  # fmt: skip
    assert inside.confidence_intervals()["lower"]["k"] >= 0


def test_a_normal_prior_gives_the_conjugate_posterior():
    t, y = line_data(0.1)
    prior = torch.distributions.Normal(0.2, 0.02)
    for optimizer in ("L-BFGS-B", "least_squares"):
        result = fit_line(t, y, parameters={"a": prior, "u0": None}, optimizer=optimizer)
        design = np.column_stack([t, np.ones_like(t)]) / 0.1
        precision = design.T @ design + np.diag([1 / 0.02**2, 0])
        expected = np.linalg.solve(precision, design.T @ (y / 0.1) + np.array([0.2 / 0.02**2, 0]))
        assert result.values == pytest.approx(expected, rel=1e-5)
        assert result.covariance == pytest.approx(np.linalg.inv(precision), rel=1e-4)


@pytest.mark.julia
def test_many_starts_find_the_frequency_that_one_misses():
    t = np.linspace(0, 10, 60)
    problem = ps.ODEProblem(oscillator, [1.0, 0.0], (0.0, 10.0), [0.5])
    data = (t, np.cos(3.0 * t))
    options = {"observe": [0], "likelihood": Normal(0.1), "engine": "julia", "progress": False}
    one = fit(problem, data, {"p": Parameter(0.5, 0.1, 30.0)}, **options)
    many = fit(problem, data, {"p": Parameter(0.5, 0.1, 30.0)}, starts=20, seed=0, **options)
    assert abs(one.estimates["p[0]"] - 9.0) > 1
    assert many.estimates["p[0]"] == pytest.approx(9.0, rel=1e-3)
    assert len(many.searches) > 10 and (np.diff(many.searches) >= 0).all()
    again = fit(problem, data, {"p": Parameter(0.5, 0.1, 30.0)}, starts=20, seed=0, **options)
    assert again.values == many.values


@pytest.mark.julia
def test_a_search_turns_back_where_the_model_explodes():
    # u' = a u² has a pole at 1 / (a u0): a first step of the search may well go past it.
    problem = ps.ODEProblem(lambda u, p, t: [p["a"] * u[0] ** 2], [1.0], (0.0, 1.0), {"a": 0.01})
    t = np.linspace(0.1, 1.0, 10)
    result = fit(problem, (t, 1 / (1 - 0.95 * t)), likelihood=Normal(0.01), engine="julia", progress=False)
    assert result.estimates["a"] == pytest.approx(0.95, rel=1e-4)


# --- what is not determined ---


def two_rates(u, p, t):
    return [-(p["a"] + p["b"]) * u[0]]


@pytest.mark.julia
def test_parameters_that_cannot_be_told_apart_are_named():
    t, y = decay_data()
    problem = ps.ODEProblem(two_rates, [3.0], (0.0, 4.0), {"a": 0.3, "b": 0.3})
    with pytest.warns(NotIdentifiable, match="a with b"):
        result = fit(problem, (t, y), ["a", "b"], likelihood=Normal(0.05), engine="julia", progress=False)
    assert np.isinf(list(result.standard_errors.values())).all()
    assert result.undetermined[0] == pytest.approx({"a": 0.707, "b": -0.707}, abs=0.01) or result.undetermined[0] == pytest.approx(
        {"a": -0.707, "b": 0.707}, abs=0.01
    )
    # Both ends stay open: whatever a is, b makes up for it.
    profile = result.profile("a", progress=False)
    assert profile.lower == -np.inf and profile.upper == np.inf
    prior = torch.distributions.Normal(0.4, 0.1)
    told = fit(problem, (t, y), {"a": prior, "b": None}, likelihood=Normal(0.05), engine="julia", progress=False)
    assert told.standard_errors["a"] == pytest.approx(0.1, rel=1e-3)


# --- intervals and bands ---


@pytest.mark.julia
def test_the_profile_of_a_linear_model_is_a_parabola():
    t, y = line_data(0.1)
    result = fit_line(t, y, engine="julia")
    profile = result.profile("a", progress=False)
    expected, covariance = least_squares_line(t, y, 0.1)
    error = np.sqrt(covariance[0, 0])
    assert profile.deviance == pytest.approx(((profile.values - expected[0]) / error) ** 2, abs=1e-3)
    reach = stats.norm.ppf(0.975) * error
    assert (profile.lower, profile.upper) == pytest.approx((expected[0] - reach, expected[0] + reach), rel=1e-3)
    intervals = result.confidence_intervals()
    assert list(intervals.loc["a"]) == pytest.approx([profile.lower, profile.upper], rel=1e-3)


@pytest.mark.julia
def test_the_profile_of_a_nonlinear_model_agrees_with_its_likelihood_by_scipy():
    t, y = decay_data(sd=0.3)
    problem = decay_problem(0.9, 3.0)
    result = fit(problem, (t, y), {"k": (0, None), "u0": None}, likelihood=Normal(0.3), engine="julia", progress=False)
    profile = result.profile("k", progress=False)

    def deviance(k):
        basis = np.exp(-k * t)
        u0 = basis @ y / (basis @ basis)
        return np.sum((y - u0 * basis) ** 2) / 0.3**2

    best = deviance(result.estimates["k"])
    assert deviance(profile.lower) - best == pytest.approx(profile.threshold, abs=0.03)
    assert deviance(profile.upper) - best == pytest.approx(profile.threshold, abs=0.03)


@pytest.mark.julia
def test_bands_of_a_linear_model():
    t, y = line_data(0.1)
    result = fit_line(t, y, engine="julia")
    expected, covariance = least_squares_line(t, y, 0.1)
    at = np.array([0.5, 2.0, 8.0])  # the last one after all data
    design = np.column_stack([at, np.ones_like(at)])
    reach = stats.norm.ppf(0.95) * np.sqrt(np.einsum("ij,jk,ik->i", design, covariance, design))
    band = result.predict(at, level=0.9)
    assert band.mean[:, 0] == pytest.approx(design @ expected, rel=1e-5)
    assert band.upper[:, 0] - band.mean[:, 0] == pytest.approx(reach, rel=1e-4)
    with_noise = result.predict(at, level=0.9, noise=True, seed=0)
    whole = np.sqrt(reach**2 + (stats.norm.ppf(0.95) * 0.1) ** 2)
    assert (with_noise.upper - with_noise.lower)[:, 0] / 2 == pytest.approx(whole, rel=0.15)


# --- files and pictures ---


@pytest.mark.slow
def test_a_result_is_saved_and_comes_back(tmp_path):
    t, y = decay_data()
    prior = torch.distributions.LogNormal(0.0, 1.0)
    problem = decay_problem()
    data = {"first": Experiment(t, y, weights=2.0, series=["x"])}
    given = {"k": Parameter(lower=0, prior=prior), "u0": Parameter(local=True)}
    result = fit(problem, data, given, engine="embedded", progress=False)
    path = tmp_path / "fit.json"
    result.save(path)
    assert json.loads(path.read_text())["result"]["names"] == list(result.names)
    numbers = FitResult.load(path)
    assert numbers.estimates == result.estimates and numbers.standard_errors == result.standard_errors
    with pytest.raises(ValueError, match="without its model"):
        numbers.predict()
    whole = FitResult.load(path, problem)
    at = np.array([1.0, 3.0])
    assert whole.predict(at).mean == pytest.approx(result.predict(at).mean)
    z = result.objective.unknowns.unbounded(result.values)
    assert whole.objective.value_and_gradient(z)[0] == pytest.approx(result.objective_value)
    other = ps.ODEProblem(two_rates, [3.0], (0.0, 4.0), {"a": 0.3, "b": 0.3})
    with pytest.raises(ValueError):
        FitResult.load(path, other)
    path.write_text("{}")
    with pytest.raises(ValueError, match="not a saved fit"):
        FitResult.load(path)


def test_pictures_are_drawn(tmp_path):
    t, y = line_data(0.1)
    result = fit_line(t, y)
    profile = result.profile("a", points=4, progress=False)
    for i, figure in enumerate((result.plot(), result.plot_residuals(), profile.plot().figure)):
        path = tmp_path / f"{i}.png"
        figure.savefig(path)
        assert path.stat().st_size > 5_000


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": ["nope"]}, "nope"),
        ({"parameters": {"k": (1.0, 0.5)}}, "lower"),
        ({"parameters": {"k": (0.6, None)}}, "k is 0.5"),
        ({"parameters": {"k": Parameter(0.5), "u0": None, "u0[0]": None}}, "twice"),
        ({"optimizer": "simplex"}, "simplex"),
        ({"optimizer": "least_squares", "likelihood": Poisson()}, "observed must hold counts"),
        ({"likelihood": LogNormal(), "data": (TIMES, -np.ones(16))}, "positive"),
        ({"data": (TIMES, np.ones((16, 2)))}, "observe"),
        ({"data": (TIMES - 1, np.ones(16))}, "before its start"),
        ({"data": (TIMES, np.full(16, np.nan))}, "observed"),
        ({"data": (TIMES[:3], np.ones(4))}, "observed"),
        ({"observe": [3]}, "observe"),
        ({"starts": 0}, "starts"),
        ({"likelihood": Normal([1.0, 2.0])}, "sd"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"data": decay_data(), "parameters": {"k": None}, "engine": "embedded", "progress": False} | change
    with pytest.raises(ValueError, match=message):
        fit(decay_problem(), arguments.pop("data"), arguments.pop("parameters"), **arguments)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="problem"):
        fit(decay, decay_data())
    with pytest.raises(TypeError, match="likelihood"):
        fit(decay_problem(), decay_data(), likelihood="normal")
    with pytest.raises(TypeError, match="data"):
        fit(decay_problem(), 3)
    with pytest.raises(TypeError, match="prior"):
        Parameter(prior=stats.norm())
    with pytest.raises(ValueError, match="sd"):
        Normal(-1.0)


def test_a_search_that_was_cut_short_says_so_and_still_has_errors():
    t, y = decay_data()
    with pytest.warns(RuntimeWarning, match="before it converged"):
        result = fit(decay_problem(0.1, 1.0), (t, y), {"k": (0, None), "u0": (0, None)}, maxiter=1, engine="embedded", progress=False)
    assert not result.converged and np.isfinite(list(result.standard_errors.values())).all()


def test_an_interrupted_search_returns_the_best_so_far():
    t, y = decay_data()
    seen = []

    def interrupt(log_likelihood):
        seen.append(log_likelihood)
        if len(seen) == 6:
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="interrupted"):
        result = fit(decay_problem(), (t, y), {"k": (0, None), "u0": (0, None)}, engine="embedded", progress=False,
                     on_evaluation=interrupt)  # fmt: skip
    assert not result.converged and result.log_likelihood == pytest.approx(max(seen), rel=1e-9)


# --- the search inside Julia ---


@pytest.mark.julia
@pytest.mark.extra("optimization")
@pytest.mark.parametrize("method", ["Optim.LBFGS", "Optim.BFGS", "Optim.NewtonTrustRegion", "Optim.NelderMead"])
def test_a_search_inside_julia_finds_the_same(method):
    t, y = decay_data()
    y[3] = np.nan
    given = {"k": (0, 5), "u0": (0, None)}
    there = np.isfinite(y)
    result = fit(decay_problem(), (t, y), given, optimizer=method, engine="julia", progress=False)
    expected, _ = optimize.curve_fit(lambda t, k, u0: u0 * np.exp(-k * t), t[there], y[there], [0.5, 2.0])
    assert result.values[:2] == pytest.approx(expected, rel=1e-3)
    assert result.converged and result.optimizer == method


@pytest.mark.julia
@pytest.mark.extra("optimization")
def test_what_julia_cannot_search_is_refused():
    t, y = decay_data()
    options = {"optimizer": "Optim.LBFGS", "engine": "julia", "progress": False}
    with pytest.raises(ValueError, match="priors"):
        fit(decay_problem(), (t, y), {"k": torch.distributions.Normal(0.5, 1.0)}, **options)
    with pytest.raises(ValueError, match="function"):
        fit(decay_problem(), (t, y), ["k"], observe=lambda u, p, t: u, **options)
    with pytest.raises(ValueError, match="embedded"):
        fit(decay_problem(), (t, y), ["k"], **(options | {"engine": "embedded"}))
