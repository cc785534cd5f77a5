"""The main job on real data: the fit of the pelts against the published one, and what the demo shows."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pysciode import cli
from pysciode.fitting import lotka_volterra


@pytest.fixture(scope="module")
def embedded_fit():
    return lotka_volterra.fit_pelts(engine="embedded", rtol=1e-6)


def check_against_published(result):
    estimates, errors = result.fit.estimates, result.fit.standard_errors
    for name, published in lotka_volterra.PUBLISHED_RATES.items():
        # The published figures are posterior means under a prior, to two digits: they differ by a part of a standard error.
        assert estimates[name] == pytest.approx(published, abs=0.5 * errors[name] + 0.001), name
        assert 0.05 < errors[name] / estimates[name] < 0.2, name
    assert result.fit.values[-2:] == pytest.approx([0.22, 0.22], abs=0.03)
    assert result.fit.converged


@pytest.mark.slow
def test_the_fit_agrees_with_the_published_one(embedded_fit):
    assert embedded_fit.fit.engine == "embedded"
    check_against_published(embedded_fit)


@pytest.mark.julia
def test_the_julia_engine_finds_the_same_fit(embedded_fit):
    result = lotka_volterra.fit_pelts(engine="julia")
    assert result.fit.engine == "julia"
    check_against_published(result)
    assert result.fit.values == pytest.approx(embedded_fit.fit.values, rel=1e-3)
    assert list(result.fit.standard_errors.values()) == pytest.approx(list(embedded_fit.fit.standard_errors.values()), rel=1e-2)
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
