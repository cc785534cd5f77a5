"""Work–precision diagrams: error against time, beside a list of the methods with their memory, which is the legend too."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..measure.rows import GradientRow, SolveRow
from . import quantities
from .ranking import in_order, label, memory, proven_error, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .reports import AdjointReport, SolverReport

# Okabe and Ito, "Color Universal Design" (2008): told apart with any kind of colour vision. Yellow is too faint for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Eleven markers over seven colours: 77 methods before a pair comes again.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
_FAILED = "#8C1D18"
_QUIET = "0.45"


@dataclass(frozen=True)
class _Series:
    """The rows of one method, loosest tolerance first, and how it is drawn."""

    name: str
    rows: tuple[GradientRow | SolveRow, ...]
    colour: str
    marker: str

    @property
    def is_peer(self) -> bool:
        return self.rows[0].engine != "julia"

    @property
    def done(self) -> list[GradientRow | SolveRow]:
        return [row for row in self.rows if row.status == "ok"]


def adjoint_figure(report: AdjointReport) -> Figure:
    """See :meth:`~pysciode.comparison.report.reports.AdjointReport.plot`."""
    reference = report.reference

    def point(row: GradientRow) -> tuple[float | None, float | None]:
        return seconds(row), proven_error(row, reference)

    series = _series(report.rows)
    figure, left, right = _panels(len(series), "Gradients of " + report.problem if report.problem else "Gradients")
    _draw_work_precision(left, series, point)
    left.set_xlabel("time of solve and gradient, median")
    left.set_ylabel("relative error of the gradient")
    if reference is not None:
        _draw_floor(left, reference.estimated_error)
    title = "memory kept between the passes"
    if any(row.kept_memory is None and row.peak_memory is not None for row in report.rows if row.status == "ok"):
        title += "; hatched: peak growth instead"
    _draw_list(right, title, series, memory, quantities.size, hatched=lambda row: row.kept_memory is None)
    _write_warnings(figure, report.warnings)
    return figure


def solver_figure(report: SolverReport) -> Figure:
    """See :meth:`~pysciode.comparison.report.reports.SolverReport.plot`."""

    def point(row: SolveRow) -> tuple[float | None, float | None]:
        return seconds(row), row.error

    series = _series(report.rows)
    figure, left, right = _panels(len(series), "Solves of " + report.problem if report.problem else "Solves")
    _draw_work_precision(left, series, point)
    left.set_xlabel("time of a solve, median")
    left.set_ylabel("largest relative error of the states")
    _draw_list(right, "evaluations of the model", series, lambda row: row.counts.f, str, hatched=lambda row: False)
    return figure


def save(figure: Figure, path: str | PathLike[str] | None) -> Figure:
    """Write `figure` to `path`, if there is one; the suffix chooses the format."""
    if path is not None:
        figure.savefig(path, dpi=160)
    return figure


def _series(rows: Sequence[GradientRow | SolveRow]) -> list[_Series]:
    """One for each method, the fastest first; those that never ran come last."""
    several = len({row.solver for row in rows if isinstance(row, GradientRow)}) > 1
    found: dict[str, list[GradientRow | SolveRow]] = {}
    for row in in_order(rows):
        name = f"{label(row)}, {row.solver}" if several and isinstance(row, GradientRow) else label(row)
        found.setdefault(name, []).append(row)

    def key(name: str) -> tuple[int, float, float]:
        done = [row for row in found[name] if row.status == "ok" and seconds(row) is not None]
        if not done:
            return 1, 0.0, 0.0
        return 0, min(row.rtol for row in done), min(seconds(row) for row in done if row.rtol == done[-1].rtol)

    names = sorted(found, key=key)
    return [_Series(name, tuple(found[name]), _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(names)]


def _panels(n_series: int, title: str) -> tuple[Figure, Axes, Axes]:
    height = max(4.8, 1.9 + 0.27 * n_series)
    # No pyplot: the figure needs no display, and the user's own backend stays as it is.
    figure = Figure(figsize=(12.5, height), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    figure.suptitle("\n".join(textwrap.wrap(title, 110)), x=0.01, ha="left", weight="bold", fontsize=12)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure, left, right


def _draw_work_precision(
    axes: Axes,
    series: Sequence[_Series],
    point: Callable[[GradientRow | SolveRow], tuple[float | None, float | None]],
) -> None:
    drawn = False
    for one in series:
        points = [(x, y, row) for row in one.done for x, y in [point(row)] if _positive(x) and _positive(y)]
        if not points:
            continue
        drawn = True
        times, errors = [x for x, _, _ in points], [y for _, y, _ in points]
        timings = [row.total if isinstance(row, GradientRow) else row.time for _, _, row in points]
        spread = [[t.median - t.quartiles[0] for t in timings], [t.quartiles[1] - t.median for t in timings]]
        axes.errorbar(
            times,
            errors,
            xerr=spread,
            color=one.colour,
            marker=one.marker,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.4,
            elinewidth=1.0,
            linestyle="--" if one.is_peer else "-",
            label=one.name,
        )
    if not drawn:
        axes.text(0.5, 0.5, "no method gave an error and a time", ha="center", color=_QUIET, transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(which="major", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    _label_decades(axes)


def _label_decades(axes: Axes) -> None:
    """Times with units; where less than two decades are seen, 2 and 5 are labelled too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    few = math.log10(high / low) < 2
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _tick(quantities.duration(x))))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    if math.log10(high / low) > 2:
        axes.yaxis.set_minor_formatter(NullFormatter())


def _tick(text: str) -> str:
    number, unit = text.split()
    return f"{float(number):g} {unit}"


def _draw_floor(axes: Axes, floor: float) -> None:
    if not _positive(floor) or axes.get_yscale() != "log":
        return
    low, high = axes.get_ylim()
    low, high = min(low, floor / 3), max(high, floor * 3)
    axes.set_ylim(low, high)
    axes.axhspan(low, floor, color="0.93", zorder=0)
    axes.axhline(floor, color=_QUIET, linewidth=0.9, linestyle=":")
    axes.annotate(
        f"the reference's own error, {quantities.error(floor)}",
        (1, floor),
        xycoords=("axes fraction", "data"),
        xytext=(-3, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
        color=_QUIET,
    )


def _draw_list(
    axes: Axes,
    title: str,
    series: Sequence[_Series],
    value: Callable[[GradientRow | SolveRow], int | None],
    write: Callable[[int], str],
    hatched: Callable[[GradientRow | SolveRow], bool],
) -> None:
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
        row = one.done[-1] if one.done else None
        if row is not None and _positive(x):
            hatch = "////" if hatched(row) else None
            style = {"facecolor": "white", "edgecolor": one.colour} if hatch else {"color": one.colour, "alpha": 0.8}
            axes.barh(at, x - base, left=base, height=0.62, hatch=hatch, linewidth=0.8, **style)
        text, colour = _remark(one, x, write, tightest)
        start = x if _positive(x) else base
        axes.annotate(
            text,
            (start, at),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
            annotation_clip=False,
        )
        axes.plot(
            -0.03,
            at,
            marker=one.marker,
            color=one.colour if one.done else "0.8",
            markersize=6,
            clip_on=False,
            transform=axes.get_yaxis_transform(),
        )
    axes.set_xlim(base, top)
    axes.set_ylim(len(series) - 0.4, -0.6)
    axes.set_yticks(range(len(series)), ["\n".join(textwrap.wrap(one.name, 44)) for one in series], fontsize=8.5)
    axes.tick_params(axis="y", length=0, pad=16)
    for tick, one in zip(axes.get_yticklabels(), series, strict=True):
        tick.set_color("black" if one.done else _QUIET)
    axes.set_xticks([])
    axes.set_xticks([], minor=True)
    axes.spines["bottom"].set_visible(False)


def _remark(one: _Series, value: int | None, write: Callable[[int], str], tightest: float | None) -> tuple[str, str]:
    if not one.done:
        failed = any(row.status == "failed" for row in one.rows)
        last = next(row for row in one.rows if row.status == ("failed" if failed else "unavailable"))
        text = f"{'failed' if failed else 'not run'}: {last.reason or 'no reason given'}"
        return textwrap.shorten(text, 52, placeholder="…"), _FAILED if failed else _QUIET
    text = "not measured" if value is None else write(value)
    if value is not None and one.done[-1].rtol != tightest:
        text += f" at {quantities.tolerance(one.done[-1].rtol)}"
    failed = [quantities.tolerance(row.rtol) for row in one.rows if row.status == "failed"]
    if failed:
        return f"{text}; failed at {', '.join(failed)}", _FAILED
    return text, _QUIET if value is None else "black"


def _write_warnings(figure: Figure, warnings: Sequence[str]) -> None:
    if warnings:
        text = "\n".join("\n".join(textwrap.wrap(f"Warning: {x}", 150)) for x in warnings)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color=_FAILED)


def _positive(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0
