"""Draw the README's pictures from the examples: `python tools/readme_figures.py [name …]`, some minutes for all.

They lie on white, so that they can be read on a page of any colour, and are small: a reader looks at four of them at once.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))
BLUE, RED, GREEN, PINK, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"  # Okabe and Ito (2008)
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.titlelocation": "left", "axes.titleweight": "bold", "legend.fontsize": 8,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.6,
}  # fmt: skip


def spiral(axes: Axes) -> None:
    """The states of a neural ODE while it trains, over the data."""
    from neural_ode import train

    steps = {0: "#A9CDE4", 60: "#5B9DC9", 500: BLUE}
    data, states = train(max(steps) + 1, keep=tuple(steps))
    axes.plot(*data[:, 0].T, "o", color="0.6", markersize=4, label="data")
    for step, colour in steps.items():
        axes.plot(*states[step][:, 0].T, color=colour, label="before training" if step == 0 else f"after {step} steps")
    axes.set(title="A neural ODE learns a spiral", aspect="equal", xlim=(-2.6, 4.6))
    axes.legend(loc="center right")


def ude(axes: Axes) -> None:
    """The equation recovered from a network inside a model, far beyond the data."""
    from ude_lotka_volterra import TIMES, Universal, noisy_data, recover, solved, trained_many, truth

    data = noisy_data(0)
    networks = trained_many(Universal, data, restarts=3, adam=200, lbfgs=1000, seed=0)
    _, equations = recover(networks, data)
    times = np.linspace(0.0, 24.0, 601)
    axes.axvspan(0.0, TIMES[-1], color="0.92", linewidth=0)
    axes.plot(times, truth(times)[:, 0], color="0.7", linewidth=5, label="truth")
    axes.plot(times, solved(equations, times)[:, 0], color=BLUE, label="equation found in the network")
    axes.plot(times, networks[0].solve(times)[:, 0], "--", color=RED, label="the network itself")
    axes.set(title="A network in a model becomes an equation", xlabel="time (data: shaded)", ylabel="prey", ylim=(0.0, 13.5))
    axes.legend(loc="upper right")


def pelts(axes: Axes) -> None:
    """Bands of the populations and of new pelts, over the data and ten years more."""
    from pysciode.fitting.lotka_volterra import fit_pelts

    found, t = fit_pelts(priors=True), np.linspace(0.0, 30.0, 301)
    populations = found.fit.predict(t, level=0.9)
    observations = found.fit.predict(t, level=0.9, noise=True, seed=0)
    for j, (name, colour) in enumerate((("hare", BLUE), ("lynx", RED))):
        for band, alpha in ((observations, 0.15), (populations, 0.3)):
            axes.fill_between(1900 + t, band.lower[:, j], band.upper[:, j], color=colour, alpha=alpha, linewidth=0)
        axes.plot(1900 + t, populations.mean[:, j], color=colour, label=name)
        axes.plot(found.pelts["year"], found.pelts[name], "o", color=colour, markersize=4, markeredgecolor="white")
    axes.axvline(1920, color="0.5", linewidth=0.8, linestyle="--")
    axes.set(title="A fit with its uncertainty (90 % bands)", ylabel="pelts, thousands", ylim=(0, 125))
    axes.legend(loc="upper right", ncols=2)


def adjoints(axes: Axes) -> None:
    """Error against time of gradients of a stiff problem."""
    from compare_stiff import ROBERTSON_TIMES, robertson_loss, robertson_problem

    import pysciode as ps

    methods = [ps.GaussAdjoint(), ps.ForwardDiffSensitivity(), ps.InterpolatingAdjoint(), ps.BacksolveAdjoint()]
    report = ps.compare_adjoints(
        robertson_problem(),
        robertson_loss,
        saveat=ROBERTSON_TIMES,
        sensealgs=methods,
        tolerances=[1e-4, 1e-6, 1e-8],
        memory=False,
        progress=False,
    )
    print(report)
    styles = iter(((BLUE, "o"), (GREEN, "s"), (PINK, "^"), (RED, "D"), (ORANGE, "v"), ("#56B4E9", "P"), ("0.3", "X")))
    failed: list[str] = []
    for label in dict.fromkeys(row.label for row in report.rows):
        done = [row for row in report.rows if row.label == label and row.status == "ok" and row.total is not None]
        name = label.replace("embedded", "torchdiffeq")
        if not done:
            failed.append(name)
        else:
            colour, marker = next(styles)
            times, errors = [row.total.median for row in done], [row.error for row in done]
            axes.loglog(times, errors, marker=marker, color=colour, markersize=5, linestyle="--" if ":" in name else "-", label=name)
    axes.xaxis.set_major_formatter(EngFormatter("s"))
    axes.set(title="Adjoints side by side, on Robertson's reactions", xlabel="time of solve and gradient", ylabel="error of the gradient")
    axes.grid(color="0.92", linewidth=0.7)
    axes.set_ylim(bottom=2e-9)
    text = "\n".join(textwrap.wrap(f"No gradient from {', '.join(failed)}.", 58))
    axes.text(0.01, 0.03, text, fontsize=7.5, color="0.35", transform=axes.transAxes)
    axes.figure.legend(loc="outside lower center", ncols=2)


PICTURES: dict[str, Callable[[Axes], None]] = {"spiral": spiral, "ude": ude, "pelts": pelts, "adjoints": adjoints}


def main(names: list[str]) -> None:
    """Draw the pictures called so, by default all."""
    import matplotlib

    for name in names or PICTURES:
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(4.8, 3.0), layout="constrained", facecolor="white")
            PICTURES[name](figure.subplots())
            path = ROOT / "docs" / "figures" / f"readme_{name}.png"
            figure.savefig(path, dpi=140)
            # A palette of few colours takes a third of the space.
            Image.open(path).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
