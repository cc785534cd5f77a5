"""The main job on real data: the fit of the pelts against the published one, and what the demo shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pysciode import cli
from pysciode.fitting import lotka_volterra
from pysciode.fitting.maximum_likelihood import fit_log_normal


@pytest.fixture(scope="module")
def embedded_fit():
    return lotka_volterra.fit_pelts(engine="embedded", rtol=1e-6)


def check_against_published(result):
    estimates = dict(zip(lotka_volterra.PARAMETERS, result.fit.parameters, strict=True))
    errors = dict(zip(lotka_volterra.PARAMETERS, result.fit.parameters_se, strict=True))
    for name, published in lotka_volterra.PUBLISHED_RATES.items():
        # The published figures are posterior means under a prior, to two digits: they differ by a part of a standard error.
        assert estimates[name] == pytest.approx(published, abs=0.5 * errors[name] + 0.001), name
        assert 0.05 < errors[name] / estimates[name] < 0.2, name
    assert result.fit.sigma == pytest.approx([0.22, 0.22], abs=0.03)
    assert result.fit.converged


def test_the_fit_agrees_with_the_published_one(embedded_fit):
    assert embedded_fit.engine == "embedded"
    check_against_published(embedded_fit)


@pytest.mark.julia
def test_the_julia_engine_finds_the_same_fit(embedded_fit):
    result = lotka_volterra.fit_pelts(engine="julia")
    assert result.engine == "julia"
    check_against_published(result)
    assert result.fit.parameters == pytest.approx(embedded_fit.fit.parameters, rel=1e-3)
    assert result.fit.parameters_se == pytest.approx(embedded_fit.fit.parameters_se, rel=1e-2)
    assert result.fit.log_likelihood == pytest.approx(embedded_fit.fit.log_likelihood, abs=1e-4)


def test_the_data_are_the_pelts():
    pelts = lotka_volterra.load_pelts()
    assert list(pelts.columns) == ["year", "hare", "lynx"]
    assert list(pelts["year"]) == list(range(1900, 1921))
    assert pelts["hare"].max() == 77.4 and pelts["lynx"].max() == 59.4


def test_the_demo_prints_saves_and_names_the_engine(monkeypatch, tmp_path, embedded_fit):
    from pysciode import demo

    def already_fitted(*, on_evaluation, **options):
        on_evaluation(embedded_fit.fit.log_likelihood)
        return embedded_fit

    monkeypatch.setattr(demo, "fit_pelts", already_fitted)
    figure = tmp_path / "figures" / "fit.png"
    shown = CliRunner().invoke(cli.app, ["demo", "--engine", "embedded", "--output", str(figure)], env={"COLUMNS": "120"})
    assert shown.exit_code == 0, shown.output
    assert figure.stat().st_size > 20_000
    for text in ("alpha", "0.55", "std. error", "Engine: embedded", "Time:", "fit.png"):
        assert text in shown.output


def test_standard_errors_are_those_of_a_model_with_known_ones():
    # log y = log a + noise: the estimate's log has standard error sigma / sqrt(k).
    generator = np.random.default_rng(0)
    observed = np.exp(1.0 + 0.3 * generator.standard_normal((400, 1)))
    fit = fit_log_normal(lambda parameters: parameters.expand(400, 1), observed, np.array([1.0]))
    sigma = np.log(observed).std()
    assert fit.parameters == pytest.approx(np.exp(np.log(observed).mean()), rel=1e-5)
    assert fit.sigma == pytest.approx(sigma, rel=1e-4)
    assert fit.parameters_se / fit.parameters == pytest.approx(sigma / np.sqrt(400), rel=1e-3)
    assert fit.sigma_se / fit.sigma == pytest.approx(1 / np.sqrt(2 * 400), rel=1e-3)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_data_that_are_not_positive_are_refused_by_name(bad):
    with pytest.raises(ValueError, match="observed"):
        fit_log_normal(lambda parameters: torch.ones(2, 1), np.array([[1.0], [bad]]), np.array([1.0]))
