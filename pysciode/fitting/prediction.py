"""Predictions of a fitted model with bands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats

from ..errors import SolveFailed
from .objective import prediction_jacobian
from .simulation import Simulation

if TYPE_CHECKING:
    from .fit_result import FitResult

DRAWS = 500
"""Draws of the normal approximation where the covariance gives no band directly."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Observed quantities over time.

    Attributes
    ----------
    t
        Shape ``(k,)``.
    mean
        At the estimates, shape ``(k, m)``; with draws given, their mean.
    lower, upper
        The band, shape ``(k, m)``.
    level
        Its coverage, point by point.
    series
        Names of the `m` columns.
    """

    t: np.ndarray
    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    level: float
    series: tuple[str, ...]


def predict(result: FitResult, t: Any, experiment: str | int, level: float, noise: bool, draws: Any, seed: int | None) -> Prediction:
    """See :meth:`FitResult.predict`."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    objective = result._objective()
    simulation = _find(objective.simulations, experiment)
    t0, t1 = simulation.problem.tspan
    t = np.linspace(t0, t1, 200) if t is None else np.asarray(t, float)
    if t.ndim != 1 or not len(t) or not np.isfinite(t).all() or (np.diff(t) <= 0).any() or t[0] < t0:
        raise ValueError(f"t must be finite, increasing and begin at {t0:g} or later")
    if t[-1] > t1:
        simulation = simulation.until(float(t[-1]))
    with torch.no_grad():
        mean = simulation.predict(torch.from_numpy(result.values), objective.options, t).numpy()
    if draws is None and not noise:
        lower, upper = _delta_band(result, simulation, t, level)
    else:
        values = _normal_draws(result, seed) if draws is None else _as_array(draws, result.names)
        curves = _curves(result, simulation, t, values, noise, seed)
        if draws is not None:
            mean = _curves(result, simulation, t, values, False, seed).mean(0)
        lower, upper = np.quantile(curves, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return Prediction(t, mean, lower, upper, level, tuple(simulation.experiment.series))


def _find(simulations: list[Simulation], experiment: str | int) -> Simulation:
    if isinstance(experiment, int) and -len(simulations) <= experiment < len(simulations):
        return simulations[experiment]
    for simulation in simulations:
        if simulation.experiment.name == experiment:
            return simulation
    names = ", ".join(repr(x.experiment.name) for x in simulations)
    raise ValueError(f"there is no experiment {experiment!r}; there are {names}")


def _delta_band(result: FitResult, simulation: Simulation, t: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """First-order propagation of the covariance."""
    objective = result._objective()
    n = objective.n_model
    covariance = result._covariance()[:n, :n]
    finite = np.isfinite(np.diag(covariance))
    y, jacobian = prediction_jacobian(
        lambda x: simulation.predict(x, objective.options, t),
        torch.from_numpy(result.values[:n]),
        objective.options["engine"],
    )
    part = jacobian[:, finite]
    variance = np.einsum("ij,jk,ik->i", part, covariance[np.ix_(finite, finite)], part)
    reach = stats.norm.ppf(0.5 + level / 2) * np.sqrt(np.maximum(variance, 0))
    # What the data don't determine may still not matter to a prediction; where it does, nothing is known.
    reach[(np.abs(jacobian[:, ~finite]) > 0).any(1)] = np.inf
    shape = (len(t), -1)
    return (y - reach).reshape(shape), (y + reach).reshape(shape)


def _normal_draws(result: FitResult, seed: int | None) -> np.ndarray:
    unknowns = result._objective().unknowns
    z = unknowns.unbounded(result.values)
    slopes = unknowns.slopes(z)
    covariance = result._covariance() / np.outer(slopes, slopes)
    if not np.isfinite(covariance).all():
        raise ValueError(f"the data don't determine {', '.join(result.undetermined[0])}: no draws can be made")
    draws = np.random.default_rng(seed).multivariate_normal(z, covariance, DRAWS)
    return unknowns.values(torch.from_numpy(draws)).numpy()


def _as_array(draws: Any, names: tuple[str, ...]) -> np.ndarray:
    if hasattr(draws, "posterior"):
        posterior = draws.posterior
        return np.stack([posterior[name].values.reshape(-1) for name in names], 1)
    values = np.asarray(draws, float)
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"draws must have shape (S, {len(names)}), not {values.shape}")
    return values


def _curves(result: FitResult, simulation: Simulation, t: np.ndarray, values: np.ndarray, noise: bool, seed: int | None) -> np.ndarray:
    """Shape ``(S, k, m)``; draws for which the model can't be solved are left out."""
    objective = result._objective()
    found = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        for row in values:
            x = torch.from_numpy(np.ascontiguousarray(row))
            try:
                y = simulation.predict(x, objective.options, t)
            except SolveFailed:
                continue
            if noise:
                y = objective.likelihood.distribution(y, objective.noise(x)).sample()
            found.append(y.numpy())
    if not found:
        raise ValueError("the model can't be solved for any of the draws")
    return np.stack(found)
