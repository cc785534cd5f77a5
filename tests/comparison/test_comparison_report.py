"""Reports from rows made by hand: what they show is what the rows hold."""

from __future__ import annotations

import json
import math

import pytest

from pysciode.comparison.measure.rows import Counts, GradientRow, Reference, SolveRow, Timing
from pysciode.comparison.report import quantities
from pysciode.comparison.report.reports import AdjointReport, SolverReport

REFERENCE = Reference("ForwardDiff at 1e-13", "differences", 2e-10, {"u0": 2, "µ_1": 4}, 3.0)
GAUSS = GradientRow(
    "Tsit5",
    "GaussAdjoint",
    "generated",
    "julia",
    1e-6,
    1e-8,
    error=3.1e-7,
    block_errors={"u0": 1e-7, "µ_1": 4e-7},
    total=Timing((1.1e-3, 1.12e-3, 1.2e-3)),
    kept_memory=24_000,
    backward_counts=Counts(vjp=640),
)
EXACT = GradientRow("Tsit5", "ForwardSensitivity", None, "julia", 1e-6, 1e-8, error=1e-12, total=Timing((2e-3,)))
FAILED = GradientRow("Tsit5", "BacksolveAdjoint", None, "julia", 1e-6, 1e-8, status="failed", reason="drifts by 50% & more")
ABSENT = GradientRow("Tsit5", "x_y|z", None, "diffrax", 1e-6, 1e-8, status="unavailable", reason="not installed")
REPORT = AdjointReport((FAILED, ABSENT, EXACT, GAUSS), REFERENCE, ("gradients grow",), "model_α", {"loss": "sum"})
SOLVERS = SolverReport((SolveRow("Tsit5", "julia", 1e-6, 1e-8, error=2e-6, time=Timing((1e-4,)), counts=Counts(f=75)),), "tight")


def cells(markdown):
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    titles, _, *rows = [[x.strip() for x in line.strip("|").split(" | ")] for line in table]
    return [dict(zip(titles, row, strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (quantities.duration(0.00112), "1.12 ms"),
        (quantities.duration(0.0009996), "1.00 ms"),
        (quantities.duration(0.0), "0 s"),
        (quantities.size(999), "999 B"),
        (quantities.size(1_234_567), "1.23 MB"),
        (quantities.error(3.14e-9), "3.1e-9"),
        (quantities.error(0.314), "0.31"),
        (quantities.tolerance(1e-8), "1e-8"),
    ],
)
def test_quantities(text, expected):
    assert text == expected


def test_markdown_holds_the_numbers_of_the_rows():
    gauss, exact, failed = cells(REPORT.to_markdown())
    assert float(gauss["rtol"]) == 1e-6 and float(gauss["error"]) == 3.1e-7
    assert gauss["total"] == "1.12 ms" and gauss["kept"] == "24.0 kB" and gauss["worst block"] == r"µ\_1 4.0e-7"
    assert exact["error"] == "≤ 2.0e-10" and exact["kept"] == "–"
    assert failed["method"] == "BacksolveAdjoint" and failed["error"] == "failed"


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_text_fits_its_width_and_tells_all_that_matters(width):
    text = REPORT.to_text(width)
    assert max(map(len, text.splitlines())) <= width
    joined = " ".join(text.split())
    for what in ("3.1e-7", "1.12 ms", "gradients grow", "drifts by 50% & more", "not installed"):
        assert what in joined


def test_latex_escapes():
    latex = REPORT.to_latex(caption="50%_α")
    assert r"50\%\_$\alpha$" in latex and r"3.1\times 10^{-7}" in latex and r"drifts by 50\% \& more" in latex
    body = latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")]
    assert len({line.count(" & ") for line in body.splitlines() if line.endswith(r"\\")}) == 1
    assert latex.count("{") == latex.count("}")


def test_notebooks_show_escaped_html():
    assert "50% &amp; more" in REPORT._repr_mimebundle_([], [])["text/html"]


def test_json_round_trip_without_nan():
    row = GradientRow("Tsit5", "GaussAdjoint", None, "julia", 1e-6, 1e-8, error=math.inf, block_errors={"p": math.inf})
    report = AdjointReport((*REPORT.rows, row), REFERENCE, ("w",), "p", {"tolerances": [1e-6], "stiff": True})
    assert AdjointReport.from_json(report.to_json()) == report
    assert SolverReport.from_json(SOLVERS.to_json()) == SOLVERS

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(report.to_json(), parse_constant=refuse)
    with pytest.raises(ValueError, match="SolverReport"):
        SolverReport.from_json(report.to_json())


def test_dataframe_has_a_typed_row_for_each_measurement():
    frame = REPORT.to_dataframe()
    assert len(frame) == 4 and frame["error[µ_1]"].iloc[3] == 4e-7 and frame["total_s"].iloc[3] == 1.12e-3
    assert str(frame["kept_memory_bytes"].dtype) == "Int64" and frame["kept_memory_bytes"].isna().sum() == 3
    assert list(frame["below_reference"].fillna(False)) == [False, False, True, False]
    assert SOLVERS.to_dataframe()["f"].iloc[0] == 75


@pytest.mark.parametrize(
    "report",
    [AdjointReport(()), AdjointReport((FAILED,)), AdjointReport((GAUSS,)), REPORT, SolverReport(()), SOLVERS],
    ids=["empty", "failed", "single", "full", "no solvers", "solvers"],
)
def test_every_report_can_be_shown(report, tmp_path):
    assert str(report) and report._repr_mimebundle_([], []) and report.to_markdown() and report.to_latex()
    assert len(report.to_dataframe()) == len(report.rows)
    figure = report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 1000 and len(figure.axes) == 2


def test_figure_draws_the_errors_and_lists_the_failed():
    left, right = REPORT.plot().axes
    drawn = {x.get_label(): x.lines[0].get_xydata().tolist() for x in left.containers}
    assert drawn == {"GaussAdjoint": [[1.12e-3, 3.1e-7]], "ForwardSensitivity": [[2e-3, 2e-10]]}
    said = " ".join(x.get_text() for x in right.texts)
    assert "failed: drifts" in said and "not run: not installed" in said and "24.0 kB" in said
