"""Pictures of fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from ..errors import require_extra_package

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .fit_result import FitResult
    from .profile_likelihood import Profile


def plot_fit(result: FitResult, level: float, noise: bool) -> Figure:
    """A panel for each experiment, a colour for each series: observations, fit and band."""
    simulations = result._objective().simulations
    figure, panels = _panels(len(simulations))
    for i, (axes, simulation) in enumerate(zip(panels, simulations, strict=True)):
        data = simulation.experiment
        found = result.predict(experiment=i, level=level, noise=noise)
        for j, name in enumerate(data.series):
            (line,) = axes.plot(found.t, found.mean[:, j], label=name)
            axes.fill_between(found.t, found.lower[:, j], found.upper[:, j], color=line.get_color(), alpha=0.2, linewidth=0)
            axes.plot(data.t, data.observed[:, j], "o", color=line.get_color(), markersize=4, markeredgecolor="white")
        axes.set(xlabel="t", title=data.name if len(simulations) > 1 else None)
    panels[0].legend(frameon=False)
    return figure


def plot_residuals(result: FitResult) -> Figure:
    """Three panels: over time, over the predictions, and quantiles against those of a normal distribution."""
    table = result.residuals()
    figure, (over_time, over_prediction, quantiles) = _panels(3)
    for name, part in table.groupby("series", sort=False):
        over_time.plot(part["t"], part["residual"], "o", markersize=4, label=name)
        over_prediction.plot(part["predicted"], part["residual"], "o", markersize=4)
        ordered = np.sort(part["residual"])
        expected = stats.norm.ppf((np.arange(len(ordered)) + 0.5) / len(ordered))
        quantiles.plot(expected, ordered, "o", markersize=4)
    for axes in (over_time, over_prediction):
        axes.axhline(0, color="#888888", linewidth=0.8)
    ends = np.array(quantiles.get_xlim())
    quantiles.plot(ends, ends, color="#888888", linewidth=0.8)
    over_time.set(xlabel="t", ylabel="residual")
    over_prediction.set(xlabel="predicted")
    quantiles.set(xlabel="normal quantile", ylabel="residual's quantile")
    over_time.legend(frameon=False)
    return figure


def plot_profile(profile: Profile, axes: Axes | None) -> Axes:
    """The deviance over the parameter; the interval's ends where it crosses the dashed line."""
    if axes is None:
        axes = _panels(1)[1][0]
    axes.plot(profile.values, profile.deviance, "o-", markersize=4)
    axes.axhline(profile.threshold, color="#888888", linewidth=0.8, linestyle="--")
    for end in (profile.lower, profile.upper):
        if np.isfinite(end):
            axes.axvline(end, color="#888888", linewidth=0.8)
    axes.set(xlabel=profile.name, ylabel=f"deviance ({profile.level:.0%} at {profile.threshold:.2f})", ylim=(0, None))
    return axes


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    # Agg and no pyplot: no display is needed, and the user's own backend stays as it is.
    require_extra_package("matplotlib", "a plot of a fit", "analysis")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, list(panels[:count])
