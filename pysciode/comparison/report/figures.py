"""Work–precision diagrams: error against time, beside a list of the methods with their memory, which is the legend too."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import require_extra_package
from ..measure.rows import GradientRow, SolveRow
from . import quantities
from .tables import in_order, names

if TYPE_CHECKING:
    from typing import TypeGuard

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .reports import AdjointReport, SolverReport

# Okabe and Ito, "Color Universal Design" (2008): told apart with any kind of colour vision. Yellow is too faint for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Eleven markers over seven colours: 77 methods before a pair comes again.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
_POINTS = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.6, "linewidth": 1.4, "elinewidth": 1.0}
OfRow = Callable[[Any], Any]
_FAILED = "#8C1D18"
_QUIET = "0.45"


@dataclass(frozen=True)
class _Series:
    """The rows of one method, loosest tolerance first, those of them that went well, and how it is drawn."""

    name: str
    rows: Sequence[GradientRow | SolveRow]
    done: Sequence[GradientRow | SolveRow]
    colour: str
    marker: str


def adjoint_figure(report: AdjointReport) -> Figure:
    """See :meth:`~pysciode.comparison.report.reports.AdjointReport.plot`."""
    reference = report.reference
    title = "memory kept between the passes"
    if any(row.kept_memory is None and row.peak_memory is not None for row in report.rows if row.status == "ok"):
        title += "; hatched: peak growth instead"
    figure, left, right, series = _panels(report, "Gradients")
    _draw_work_precision(left, series, lambda row: row.error if reference is None else reference.proven_error(row))
    left.set(xlabel="time of solve and gradient, median", ylabel="relative error of the gradient")
    if reference is not None:
        _draw_floor(left, reference.estimated_error)
    _draw_list(right, title, series, lambda row: row.memory, quantities.size, hatched=lambda row: row.kept_memory is None)
    if report.warnings:
        text = "\n".join("\n".join(textwrap.wrap(f"Warning: {x}", 150)) for x in report.warnings)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color=_FAILED)
    return figure


def solver_figure(report: SolverReport) -> Figure:
    """See :meth:`~pysciode.comparison.report.reports.SolverReport.plot`."""
    figure, left, right, series = _panels(report, "Solves")
    _draw_work_precision(left, series, lambda row: row.error)
    left.set(xlabel="time of a solve, median", ylabel="largest relative error of the states")
    _draw_list(right, "evaluations of the model", series, lambda row: row.counts.f, str, hatched=lambda row: False)
    return figure


def _panels(report: AdjointReport | SolverReport, what: str) -> tuple[Figure, Axes, Axes, list[_Series]]:
    require_extra_package("matplotlib", "a figure of a report", "analysis")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = _series(report.rows)
    # No pyplot: the figure needs no display, and the user's own backend stays as it is.
    figure = Figure(figsize=(12.5, max(4.8, 1.9 + 0.27 * len(series))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    title = f"{what} of {report.problem}" if report.problem else what
    figure.suptitle("\n".join(textwrap.wrap(title, 110)), x=0.01, ha="left", weight="bold", fontsize=12)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure, left, right, series


def _series(rows: Sequence[GradientRow | SolveRow]) -> list[_Series]:
    """One for each method, the fastest at its tightest tolerance first; those that never ran come last."""
    name = names(rows)
    found: dict[str, list[GradientRow | SolveRow]] = {}
    for row in in_order(rows):
        found.setdefault(name(row), []).append(row)
    done = {key: [row for row in own if row.status == "ok"] for key, own in found.items()}

    def key(name: str) -> tuple[bool, float, float]:
        timed = [(False, row.rtol, row.timing.median) for row in done[name] if row.timing]
        return timed[-1] if timed else (True, 0.0, 0.0)

    styles = [(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]) for i in range(len(found))]
    return [_Series(x, found[x], done[x], *style) for x, style in zip(sorted(found, key=key), styles, strict=True)]


def _draw_work_precision(axes: Axes, series: Sequence[_Series], error: OfRow) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    for one in series:
        shown = [(row.timing, error(row)) for row in one.done if row.timing and _positive(error(row))]
        if shown:
            times = np.array([timing.median for timing, _ in shown])
            low, high = np.transpose([timing.quartiles for timing, _ in shown])
            dashes = "-" if one.rows[0].engine == "julia" else "--"
            style = {"color": one.colour, "marker": one.marker, "linestyle": dashes, "label": one.name, **_POINTS}
            axes.errorbar(times, [x for _, x in shown], xerr=[times - low, high - times], **style)
    if not axes.containers:
        axes.text(0.5, 0.5, "no method gave an error and a time", ha="center", color=_QUIET, transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    axes.set(xscale="log", yscale="log", axisbelow=True)
    axes.grid(which="major", color="0.9", linewidth=0.7)
    # Where less than two decades are seen, 2 and 5 are labelled too.
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if right < 100 * left else (1.0,)))
    axes.xaxis.set_major_formatter(EngFormatter("s"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if high > 100 * low:
        axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_floor(axes: Axes, floor: float) -> None:
    if not _positive(floor) or axes.get_yscale() != "log":
        return
    low, high = axes.get_ylim()
    low = min(low, floor / 3)
    axes.set_ylim(low, max(high, floor * 3))
    axes.axhspan(low, floor, color="0.93", zorder=0)
    axes.axhline(floor, color=_QUIET, linewidth=0.9, linestyle=":")
    place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "top"}
    axes.text(0.99, 0.93 * floor, f"the reference's own error, {quantities.error(floor)}", fontsize=8, color=_QUIET, **place)


def _draw_list(axes: Axes, title: str, series: Sequence[_Series], value: OfRow, write: Callable[[Any], str], hatched: OfRow) -> None:
    """A line for each method: its marker, its name, and a bar of its `value` at the tightest tolerance that it did."""
    values = [value(one.done[-1]) if one.done else None for one in series]
    known = [x for x in values if _positive(x)]
    tightest = min((one.done[-1].rtol for one in series if one.done), default=None)
    logarithmic = bool(known) and max(known) / min(known) > 30
    if logarithmic:
        axes.set_xscale("log")
    if tightest is not None:
        title += f"\nat rtol {quantities.tolerance(tightest)}" + (", logarithmic bars" if logarithmic else "")
    axes.set_title(title, loc="left", fontsize=9)
    base = min(known) / 3 if logarithmic else 0.0
    top = max(known) * (max(known) / base) ** 0.45 if logarithmic else 1.45 * max(known, default=1.0)
    for at, (one, x) in enumerate(zip(series, values, strict=True)):
        if _positive(x):
            hollow: dict[str, Any] = {"facecolor": "white", "edgecolor": one.colour, "hatch": "////"}
            style = hollow if hatched(one.done[-1]) else {"color": one.colour, "alpha": 0.8}
            axes.barh(at, x - base, left=base, height=0.62, linewidth=0.8, **style)
        text, colour = _remark(one, x, write, tightest)
        place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(text, (x if _positive(x) else base, at), fontsize=8, color=colour, **place)
        colour = one.colour if one.done else "0.8"
        axes.plot(-0.03, at, marker=one.marker, color=colour, markersize=6, clip_on=False, transform=axes.get_yaxis_transform())
    axes.set(xlim=(base, top), ylim=(len(series) - 0.4, -0.6))
    axes.set_yticks(range(len(series)), ["\n".join(textwrap.wrap(one.name, 44)) for one in series], fontsize=8.5)
    axes.tick_params(axis="y", length=0, pad=16)
    axes.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    axes.spines["bottom"].set_visible(False)


def _remark(one: _Series, value: float | None, write: Callable[[Any], str], tightest: float | None) -> tuple[str, str]:
    """What stands beside a method's bar, and its colour."""
    failed = [row for row in one.rows if row.status == "failed"]
    if not one.done:
        reason = (failed or one.rows)[0].reason or "no reason given"
        return textwrap.shorten(f"{'failed' if failed else 'not run'}: {reason}", 52, placeholder="…"), _FAILED if failed else _QUIET
    text = "not measured" if value is None else write(value)
    if value is not None and one.done[-1].rtol != tightest:
        text += f" at {quantities.tolerance(one.done[-1].rtol)}"
    if failed:
        return f"{text}; failed at {', '.join(quantities.tolerance(row.rtol) for row in failed)}", _FAILED
    return text, _QUIET if value is None else "black"


def _positive(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value) and value > 0
