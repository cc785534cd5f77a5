"""The main job as a demonstration: progress, table and figure around :mod:`pysciode.fitting.lotka_volterra`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from .errors import INSTALL_COMMAND
from .fitting.lotka_volterra import MEANINGS, PUBLISHED_RATES, PeltFit, fit_pelts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HARE, LYNX, INK = "#1b7f79", "#c8553d", "#333333"


def run_demo(engine: str = "auto", output: Path = Path("lynx-hare.png"), *, quick: bool = False) -> PeltFit:
    """Fit the pelts, print the estimates and save the figure.

    Parameters
    ----------
    engine
        ``"auto"``, ``"julia"`` or ``"embedded"``.
    output
        Where the figure goes; its suffix chooses the format.
    quick
        A looser tolerance, for a first look.
    """
    console = Console()
    console.print(
        "Fitting Lotka-Volterra with log-normal noise to the Hudson Bay lynx and hare pelts, 1900-1920 "
        "(4 rates, 2 initial values, 2 sigmas; maximum likelihood, adjoint gradients)"
    )
    with tqdm(desc="gradients", unit="", leave=True) as bar:

        def advance(log_likelihood: float) -> None:
            bar.set_postfix_str(f"log-likelihood {log_likelihood:.3f}", refresh=False)
            bar.update()

        result = fit_pelts(engine=engine, rtol=1e-5 if quick else 1e-7, on_evaluation=advance)
    console.print(estimates_table(result))
    if not result.fit.converged:
        console.print("[yellow]The optimiser stopped before it converged: take the figures with care.[/yellow]")
    draw(result, output)
    console.print(
        f"Engine: {_engine_line(result.fit.engine, engine)}\n"
        f"Time: {result.fit.seconds:.1f} s for {result.fit.evaluations} gradients\n"
        f"Figure: {output}",
        highlight=False,
    )
    return result


def _engine_line(used: str, asked: str) -> str:
    if used == "julia":
        return "julia (SciML, in this process)"
    if asked == "embedded":
        return "embedded (torchdiffeq), as asked for"
    return f"embedded (torchdiffeq), because Julia is not installed for this Python; {INSTALL_COMMAND} brings it"


def estimates_table(result: PeltFit) -> Table:
    """Estimates, standard errors and 95 % intervals beside the published fit."""
    table = Table(
        title=f"log-likelihood {result.fit.log_likelihood:.2f}; rates per year, populations in thousands",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("parameter", no_wrap=True)
    for heading in ("estimate", "std. error", "95 % interval", "published"):
        table.add_column(heading, justify="right", no_wrap=True)

    labels = {"u0[0]": "hare(1900)", "u0[1]": "lynx(1900)", "sigma[hare]": "sigma(hare)", "sigma[lynx]": "sigma(lynx)"}
    for label, row in result.fit.to_frame().iterrows():
        name = str(label)
        published = PUBLISHED_RATES.get(name)
        table.add_row(
            f"{labels.get(name, name)} [dim]{MEANINGS.get(name, '')}[/dim]",
            f"{row.estimate:.4g}",
            f"{row.standard_error:.2g}",
            f"{row.lower:.3g} to {row.upper:.3g}",
            "" if published is None else f"{published:g}",
        )
    table.caption = "published: posterior means of Carpenter (2018), Stan"
    return table


def draw(result: PeltFit, output: Path) -> None:
    """Data and fit over the years, and the phase plane, saved to `output`."""
    # Agg, and no pyplot: the figure needs no display, and the user's own backend stays as it is.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    over_time, plane = figure.subplots(1, 2, width_ratios=(1.45, 1))
    _draw_years(over_time, result)
    _draw_phase_plane(plane, result)
    figure.suptitle("Hudson's Bay Company pelts and the Lotka\N{EN DASH}Volterra fit", x=0.01, ha="left", weight="bold")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=160)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_years(axes: Axes, result: PeltFit) -> None:
    for column, (name, colour) in enumerate((("hare", HARE), ("lynx", LYNX))):
        curve = result.curve[:, column]
        spread = np.exp(result.fit.estimates[f"sigma[{name}]"])
        axes.fill_between(result.years, curve / spread, curve * spread, color=colour, alpha=0.13, linewidth=0)
        axes.plot(result.years, curve, color=colour, linewidth=1.8, label=f"{name}: fit, ±1σ")
        years, pelts = result.pelts["year"], result.pelts[name]
        axes.plot(years, pelts, "o", color=colour, markersize=4.5, markeredgecolor="white", label=f"{name}: pelts")
    _tidy(axes)
    axes.set(xlabel="year", ylabel="pelts, thousands", xlim=(1899.5, 1920.5), ylim=(0, None))
    axes.set_xticks(range(1900, 1921, 4))
    axes.legend(ncols=2, frameon=False, fontsize=8.5, loc="upper center")
    axes.margins(y=0.12)
    axes.set_ylim(0, 1.16 * axes.get_ylim()[1])


def _draw_phase_plane(axes: Axes, result: PeltFit) -> None:
    alpha, beta, gamma, delta = result.fit.values[:4]
    hare, lynx = result.pelts["hare"], result.pelts["lynx"]
    axes.plot(result.curve[:, 0], result.curve[:, 1], color=INK, linewidth=1.6, label="fitted orbit")
    axes.plot(hare, lynx, "-", color="#999999", linewidth=0.6, alpha=0.7)
    points = axes.scatter(hare, lynx, c=result.pelts["year"], cmap="viridis", s=26, zorder=3, edgecolors="white", linewidths=0.6)
    axes.plot(gamma / delta, alpha / beta, "+", color=LYNX, markersize=11, markeredgewidth=2, label="fixed point")
    _tidy(axes)
    axes.set(xlabel="hares, thousands", ylabel="lynx, thousands", xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False, fontsize=8.5, loc="upper right")
    colours = axes.figure.colorbar(points, ax=axes, pad=0.02, aspect=30, ticks=range(1900, 1921, 4))
    colours.outline.set_visible(False)
    colours.ax.tick_params(labelsize=8.5, length=0)
