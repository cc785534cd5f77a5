"""Profile likelihoods: how well the data determine one parameter, whatever the others are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import stats
from scipy.interpolate import PchipInterpolator

from ..arrays.real_values import whole_number
from .optimizers import minimize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .fit_result import FitResult
    from .objective import Objective


@dataclass(frozen=True, eq=False)
class Profile:
    """The likelihood, with all other parameters at their best, over the values of one.

    Attributes
    ----------
    name
        The parameter's name.
    values
        Its values in order, shape ``(k,)``.
    deviance
        ``2 (log L_max - log L_profile)`` at each: about ``χ²₁`` distributed at the truth.
    estimates
        All estimates at each, shape ``(k, q)``.
    lower, upper
        The interval's ends; infinite where the deviance does not reach its bound on that side, that is where the
        parameter is not identifiable from these data.
    level
        Coverage of the interval.
    """

    name: str
    values: np.ndarray
    deviance: np.ndarray
    estimates: np.ndarray
    lower: float
    upper: float
    level: float

    @property
    def threshold(self) -> float:
        """The deviance at the interval's ends."""
        return float(stats.chi2.ppf(self.level, 1))

    def plot(self, axes: Axes | None = None) -> Axes:
        """The deviance over the parameter, with the interval."""
        from .fit_plots import plot_profile

        return plot_profile(self, axes)


def profile(result: FitResult, name: str, *, level: float = 0.95, points: int = 12, progress: bool = True) -> Profile:
    """Fix one parameter at values farther and farther from its estimate, and fit the others each time.

    Steps are on the scale without bounds; each begins from the estimates of the one before. They end where the deviance
    has passed the bound of the interval, ``χ²₁`` at `level` (Raue et al., "Structural and practical identifiability analysis of
    partially observed dynamical models by exploiting the profile likelihood", Bioinformatics 25, 2009, equations 5-7).

    Parameters
    ----------
    points
        Steps to each side at most.

    Raises
    ------
    ValueError
        If there is no such estimate, or `level` isn't between 0 and 1.
    """
    from tqdm.auto import tqdm

    objective = result._objective()
    unknowns = objective.unknowns
    if name not in unknowns.names:
        raise ValueError(f"there is no estimate {name!r}; there are {', '.join(unknowns.names)}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    whole_number(points, "points", 2)
    i, threshold = unknowns.names.index(name), float(stats.chi2.ppf(level, 1))
    z = unknowns.unbounded(result.values)
    best = objective.value_and_gradient(z)[0]
    step = _first_step(result, i, z, float(np.sqrt(threshold)))
    rows = [(z, 0.0)]
    with tqdm(total=2 * points, desc=f"profile of {name}", disable=not progress) as bar:
        for sign in (-1.0, 1.0):
            found = _walk(objective, z, i, sign * step, best, threshold, points, bar.update)
            rows += found
    rows.sort(key=lambda row: row[0][i])
    estimates = unknowns.values(torch.from_numpy(np.stack([row[0] for row in rows]))).numpy()
    values, deviance = estimates[:, i], np.array([row[1] for row in rows])
    order = np.argsort(values)  # an upper bound alone turns the direction round
    values, deviance, estimates = values[order], deviance[order], estimates[order]
    at = int(np.argmin(deviance))
    lower = _crossing(values[: at + 1][::-1], deviance[: at + 1][::-1], threshold, -np.inf)
    upper = _crossing(values[at:], deviance[at:], threshold, np.inf)
    return Profile(name, values, deviance, estimates, lower, upper, level)


def _first_step(result: FitResult, i: int, z: np.ndarray, reach: float) -> float:
    """A third of the way to where the normal approximation puts the interval's end."""
    error = np.inf if result.covariance is None else result.unbounded()[1][i]
    return reach * error / 3 if np.isfinite(error) and error > 0 else 0.1 * max(1.0, abs(z[i]))


def _walk(
    objective: Objective,
    z: np.ndarray,
    i: int,
    step: float,
    best: float,
    threshold: float,
    points: int,
    advance: Callable[[], object],
) -> list[tuple[np.ndarray, float]]:
    free = np.arange(len(z)) != i
    found: list[tuple[np.ndarray, float]] = []
    here, deviance, tangent = z, 0.0, _tangent(objective, z, i)
    for _ in range(points):
        # The others follow the way that they went last: far away, a search from where they were may find nothing.
        there = here + step * tangent
        if free.any():
            there = minimize(objective, there, "L-BFGS-B", maxiter=200, tol=1e-6, free=free).z
        value = objective.value_and_gradient(there)[0]
        before, deviance = deviance, max(2 * (value - best), 0.0)
        found.append((there, deviance))
        advance()
        if deviance > threshold:
            break
        tangent = (there - here) / step
        if deviance - before < 0.1 * threshold:
            step *= 2  # flat: the approximation was too narrow
        here = there
    return found


def _tangent(objective: Objective, z: np.ndarray, i: int) -> np.ndarray:
    """How all unknowns move as number `i` does, by the information at the estimates."""
    information = objective.information(z)
    others = np.arange(len(z)) != i
    tangent = np.ones(len(z))
    tangent[others] = -np.linalg.pinv(information[np.ix_(others, others)], hermitian=True) @ information[others, i]
    return tangent


def _crossing(values: np.ndarray, deviance: np.ndarray, threshold: float, otherwise: float) -> float:
    """Where the deviance, going outwards, first reaches the threshold."""
    above = np.flatnonzero(deviance > threshold)
    if not len(above):
        return otherwise
    last = above[0]
    # The square root is about linear in the parameter; monotone where it is made so.
    heights = np.maximum.accumulate(np.sqrt(deviance[: last + 1]))
    keep = np.concatenate([[True], np.diff(heights) > 0])
    heights, values = heights[keep], values[: last + 1][keep]
    if len(values) < 2:
        return otherwise
    return float(PchipInterpolator(heights, values)(np.sqrt(threshold)))
