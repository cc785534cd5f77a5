"""Recommendations from rows made by hand, whose best method is plain to see."""

from __future__ import annotations

import pytest

import pysciode as ps
from pysciode.comparison.measure.rows import GradientRow, Reference, Timing
from pysciode.comparison.report.rendering import to_text
from pysciode.comparison.report.reports import AdjointReport

REFERENCE = Reference("tight", "differences", 1e-10, {"p": 4}, 1.0)


def row(method, time=1e-3, error=1e-7, *, engine="julia", vjp=None, spread=0.0, **others):
    seconds = (time * (1 - spread), time, time * (1 + spread))
    return GradientRow("Tsit5", method, vjp, engine, 1e-6, 1e-8, error=error, total=Timing(seconds), **others)


def failed(method, reason):
    return GradientRow("Tsit5", method, None, "julia", 1e-6, 1e-8, status="failed", reason=reason)


def report(*rows, **others):
    return AdjointReport(rows, others.pop("reference", REFERENCE), **others)


def test_the_fastest_accurate_method_is_taken_with_the_figures_as_reasons():
    advice = report(row("GaussAdjoint", 3e-3), row("ForwardDiffSensitivity", 1e-3), row("BacksolveAdjoint", 5e-4, error=0.3)).recommend()
    text = str(advice)
    assert advice.method == "ForwardDiffSensitivity" and advice.runner_up.method == "GaussAdjoint"
    assert "1.00 ms" in text and "3.0 times" in text and "4 entries" in text and "0.3" in text


def test_what_is_to_be_pasted_makes_the_method():
    advice = report(row("InterpolatingAdjoint", vjp="ZygoteVJP", options={"checkpointing": True})).recommend()
    made = eval(f"dict({advice.expression})", {"ps": ps})
    assert made["sensealg"] == ps.InterpolatingAdjoint(autojacvec="ZygoteVJP", checkpointing=True)
    assert (made["rtol"], made["atol"]) == (1e-6, 1e-8)


def test_within_noise_the_more_accurate_method_is_taken():
    noisy = report(row("GaussAdjoint", 1e-3, 1e-7, spread=0.2), row("QuadratureAdjoint", 1.1e-3, 1e-8, spread=0.2))
    clear = report(row("GaussAdjoint", 1e-3, 1e-7, spread=0.01), row("QuadratureAdjoint", 1.1e-3, 1e-8, spread=0.01))
    assert noisy.recommend().method == "QuadratureAdjoint"
    assert clear.recommend().method == "GaussAdjoint"


def test_a_peer_that_is_fastest_is_named():
    advice = report(row("odeint_adjoint", 1e-4, engine="embedded"), row("GaussAdjoint", 1e-3)).recommend()
    assert advice.method == "odeint_adjoint" and "10 times" in str(advice)


def test_memory_limit_and_unknown_memory():
    rows = row("GaussAdjoint", 1e-3, kept_memory=10**6), row("BacksolveAdjoint", 2e-3, kept_memory=10**3), row("X", 1e-4)
    assert report(*rows).recommend(memory_limit=10**4).method == "BacksolveAdjoint"
    none = report(*rows).recommend(memory_limit=10)
    assert none.method is None and "1.00 kB" in none.reasons[0]


def test_stiff_problems_name_the_failure_of_backsolve():
    advice = report(row("GaussAdjoint"), failed("BacksolveAdjoint", "drifts"), stiff=True).recommend()
    assert any("stiff" in x and "drifts" in x for x in advice.reasons)


def test_explosion_is_the_first_sentence():
    first = report(row("GaussAdjoint"), growth=7.2).recommend().reasons[0]
    assert "10^7" in first and "no method" in first


def test_a_gradient_that_is_far_off_is_recommended_only_where_the_user_says_so():
    far = report(row("GaussAdjoint", error=0.3))
    assert far.recommend().method is None
    assert far.recommend(accuracy=0.5).method == "GaussAdjoint"


def test_advice_shows_the_same_in_terminal_and_notebook():
    advice = report(row("GaussAdjoint"), failed("BacksolveAdjoint", "<drifts>")).recommend()
    shown = to_text(advice, 80)
    assert max(map(len, shown.splitlines())) <= 80 and "GaussAdjoint" in shown and "<drifts>" in shown
    html = advice._repr_mimebundle_([], [])["text/html"]
    assert "&lt;drifts&gt;" in html and "1.00 ms" in html


@pytest.mark.parametrize(
    "nothing",
    [report(), report(failed("GaussAdjoint", "NaN")), report(row("GaussAdjoint"), reference=None)],
    ids=["empty", "all failed", "no reference"],
)
def test_without_a_proven_gradient_there_is_no_recommendation(nothing):
    advice = nothing.recommend()
    assert advice.method is None and advice.reasons and "No method" in str(advice)


def test_accuracy_that_the_reference_cannot_show_is_not_claimed():
    advice = report(row("GaussAdjoint", error=1e-14)).recommend(accuracy=1e-12)
    assert advice.method is None and "≤ 1.0e-10" in advice.reasons[0]


@pytest.mark.parametrize("bad", [{"accuracy": 0.0}, {"accuracy": float("nan")}, {"memory_limit": -1}])
def test_bad_limits(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        report().recommend(**bad)
