"""What the scripts that compare methods share: their options, and how a report is shown."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from pysciode import AdjointReport
from pysciode.engines import julia_is_installed
from pysciode.errors import INSTALL_COMMAND

WIDTH = 140
"""Characters of a report that does not go to a terminal."""


def options(description: str, output: str) -> argparse.Namespace:
    """The command line's ``quick`` and ``output`` (a path, `output` unless given)."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer methods, sizes and repetitions: some seconds")
    parser.add_argument("--output", type=Path, default=Path(output), metavar="PNG", help=f"the picture ({output})")
    chosen = parser.parse_args()
    if not julia_is_installed():
        print(f"Without Julia only the methods of torchdiffeq and diffrax run. To install it: {INSTALL_COMMAND}\n")
    return chosen


def show(report: AdjointReport) -> None:
    """Print a report and the advice from it."""
    console = Console()
    print(report.to_text(None if console.is_terminal else WIDTH))
    print(f"\n{report.recommend()}\n", flush=True)


def new_figure(columns: int, width: float = 5.6, height: float = 4.4) -> tuple[Figure, list]:
    """A figure with some panels side by side; it needs no display."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(which="major", color="0.9", linewidth=0.7)
        axes.set_axisbelow(True)
    return figure, panels


def save(figure: Figure, path: Path) -> None:
    """Write a figure and say so."""
    figure.savefig(path, dpi=110)
    print(f"saved {path}")


_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito (2008)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")


def line_styles(names: Mapping[str, object] | list[str]) -> dict[str, dict[str, object]]:
    """A colour and a marker for each name, for matplotlib's ``plot``; peers are dashed."""
    return {
        name: {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": "--" if ":" in name else "-",
            "markersize": 5,
        }
        for i, name in enumerate(names)
    }
