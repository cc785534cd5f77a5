"""The lynx and hare pelts by maximum likelihood, profile likelihood and NUTS, beside the published posterior.

Carpenter, "Predator-prey population dynamics: the Lotka-Volterra model in Stan" (2018): Lotka-Volterra with log-normal noise
on the Hudson Bay pelts of 1900-1920, with its priors. The published posterior is that of the reference draws for this model in
posteriordb (Magnusson et al. 2024, ``hudson_lynx_hare-lotka_volterra``).

Run: python examples/fit_lynx_hare.py [--quick]
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pysciode import get_engine
from pysciode.fitting import Prediction
from pysciode.fitting.lotka_volterra import PeltFit, fit_pelts

PUBLISHED = {
    "alpha": (0.5469, 0.0630),
    "beta": (0.02775, 0.00415),
    "gamma": (0.8001, 0.0891),
    "delta": (0.02409, 0.00353),
    "u0[0]": (34.04, 2.92),
    "u0[1]": (5.936, 0.529),
    "sigma[hare]": (0.2481, 0.0433),
    "sigma[lynx]": (0.2510, 0.0436),
}
"""Means and standard deviations, from posteriordb's means and mean squares."""


def draw(result: PeltFit, before: Prediction, after: Prediction, draws: dict[str, np.ndarray]) -> Figure:
    """Posterior bands over data and the ten years after them; marginals beside the published means and deviations."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    grid = figure.add_gridspec(3, 4, height_ratios=(1.6, 1, 1))
    axes = figure.add_subplot(grid[0, :])
    for j, (name, colour) in enumerate((("hare", "#1b7f79"), ("lynx", "#c8553d"))):
        axes.fill_between(1900 + after.t, after.lower[:, j], after.upper[:, j], color=colour, alpha=0.15, linewidth=0)
        axes.fill_between(1900 + before.t, before.lower[:, j], before.upper[:, j], color=colour, alpha=0.3, linewidth=0)
        axes.plot(1900 + before.t, before.mean[:, j], color=colour, label=name)
        axes.plot(result.pelts["year"], result.pelts[name], "o", color=colour, markersize=4, markeredgecolor="white")
    axes.axvline(1920, color="#888888", linewidth=0.8, linestyle="--")
    axes.set(ylabel="pelts, thousands", title="90 % bands: of the populations, and of new pelts (light)", ylim=(0, 160))
    axes.legend(frameon=False, loc="upper left")
    for i, (name, (mean, sd)) in enumerate(PUBLISHED.items()):
        panel = figure.add_subplot(grid[1 + i // 4, i % 4])
        panel.hist(draws[name], bins=30, density=True, color="#9fb8c8")
        x = np.linspace(mean - 4 * sd, mean + 4 * sd, 100)
        panel.plot(x, np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi)), color="#333333", linewidth=1)
        panel.set(title=name, yticks=[])
    for each in figure.axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few draws.")] = False,
    engine: Annotated[str, typer.Option(help="auto, julia or embedded.")] = "auto",
    output: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("fit_lynx_hare.png"),
) -> None:
    """Fit, profile, sample, compare."""
    console = Console()
    engine = get_engine(engine).name
    fit_pelts(engine=engine)  # whatever compiles, before the clock starts
    likelihood = fit_pelts(engine=engine).fit
    began = time.perf_counter()
    profiles = {name: likelihood.profile(name, progress=False) for name in ("alpha", "beta", "gamma", "delta")}
    profile_seconds = time.perf_counter() - began
    bayes = fit_pelts(engine=engine, priors=True)
    draws, tune, chains = (60, 60, 2) if quick else (1000, 500, 2)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its next version
        posterior = bayes.fit.sample(draws, tune=tune, chains=chains, seed=1, progress_bar=False).posterior
    sampling_seconds = time.perf_counter() - began
    flat = {name: posterior[name].values.ravel() for name in bayes.fit.names}

    table = Table(title="Lotka-Volterra, pelts of 1900-1920", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("", "ML ± s.e.", "95 %, profile", "mean ± s.d.", "published"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for name, (mean, sd) in PUBLISHED.items():
        profile = profiles.get(name)
        table.add_row(
            escape(name),
            f"{likelihood.estimates[name]:.3g} ± {likelihood.standard_errors[name]:.2g}",
            "" if profile is None else f"{profile.lower:.3g} to {profile.upper:.3g}",
            f"{flat[name].mean():.3g} ± {flat[name].std():.2g}",
            f"{mean:.3g} ± {sd:.2g}",
        )
    console.print(table)
    console.print(
        f"Engine: {engine}. Seconds: fit {likelihood.seconds:.2f} ({likelihood.evaluations} gradients and the sensitivities), "
        f"four profiles {profile_seconds:.1f}, NUTS {sampling_seconds:.0f} ({chains} chains of {tune} + {draws})."
    )
    thinned = np.stack([flat[name] for name in bayes.fit.names], 1)[:: max(1, draws * chains // 300)]
    t = np.linspace(0, 30, 301)
    before = bayes.fit.predict(t, level=0.9, draws=thinned)
    after = bayes.fit.predict(t, level=0.9, draws=thinned, noise=True, seed=0)
    output.parent.mkdir(parents=True, exist_ok=True)
    draw(bayes, before, after, flat).savefig(output, dpi=95)
    console.print(f"Figure: {output}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
