"""Lotka-Volterra fitted to the Hudson Bay lynx and hare pelts, 1900 to 1920.

The data are the Hudson's Bay Company's pelt counts in thousands, as tabulated by Hewitt, *The Conservation of the Wild Life
of Canada* (1921) and Elton and Nicholson, "The ten-year cycle in numbers of the lynx in Canada", J. Anim. Ecol. 11 (1942).
The model with log-normal noise, and the published Bayesian fit of it, are those of Carpenter, "Predator-prey population
dynamics: the Lotka-Volterra model in Stan" (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..problems.ode import ODEProblem
from .experiment import Experiment
from .fit import fit
from .fit_result import FitResult
from .likelihoods import LogNormal
from .unknowns import Parameter

SERIES = ("hare", "lynx")
MEANINGS = {"alpha": "hares born", "beta": "hares eaten", "gamma": "lynx dying", "delta": "lynx fed"}
PUBLISHED_RATES = {"alpha": 0.55, "beta": 0.028, "gamma": 0.80, "delta": 0.024}
"""Posterior means of Carpenter (2018)."""


class Rates(NamedTuple):
    """The model's rates, per year; `beta` and `delta` per thousand animals of the other species, too."""

    alpha: float
    beta: float
    gamma: float
    delta: float


def lotka_volterra(u, p, t):
    """Hares ``x`` and lynx ``y``: ``x' = alpha x - beta x y``, ``y' = delta x y - gamma y``."""
    x, y = u
    alpha, beta, gamma, delta = p
    return [alpha * x - beta * x * y, delta * x * y - gamma * y]


def load_pelts() -> pd.DataFrame:
    """Pelts in thousands: columns ``year``, ``hare``, ``lynx``."""
    with files("pysciode").joinpath("data/hudson-bay-lynx-hare.csv").open() as source:
        return pd.read_csv(source)


@dataclass(frozen=True)
class PeltFit:
    """The fit, with what is needed to draw it.

    Attributes
    ----------
    years, curve
        The fitted populations on a fine grid, shapes ``(k,)`` and ``(k, 2)``.
    """

    pelts: pd.DataFrame
    fit: FitResult
    years: np.ndarray
    curve: np.ndarray


def gradient_matching_start(years: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Rates from the data alone, to start the optimiser from.

    The logarithmic slopes of the data are linear in the rates (``(log x)' = alpha - beta y``), so least squares gives
    them without a single solve.
    """
    slopes = np.gradient(np.log(observed), years, axis=0)
    ones = np.ones(len(years))
    alpha, minus_beta = np.linalg.lstsq(np.column_stack([ones, observed[:, 1]]), slopes[:, 0], rcond=None)[0]
    minus_gamma, delta = np.linalg.lstsq(np.column_stack([ones, observed[:, 0]]), slopes[:, 1], rcond=None)[0]
    return np.array([alpha, -minus_beta, -minus_gamma, delta])


def fit_pelts(
    *,
    engine: str = "auto",
    rtol: float = 1e-7,
    priors: bool = False,
    on_evaluation: Callable[[float], None] | None = None,
    **options: Any,
) -> PeltFit:
    """Fit four rates, both initial values and both sigmas.

    Parameters
    ----------
    engine
        ``"auto"``, ``"julia"`` or ``"embedded"``.
    rtol
        The solver's relative tolerance.
    priors
        Whether Carpenter's priors take part; otherwise it is maximum likelihood.
    on_evaluation
        Called with the log likelihood after each gradient.
    options
        Further ones of :func:`pysciode.fitting.fit`.
    """
    pelts = load_pelts()
    observed = pelts[list(SERIES)].to_numpy(float)
    # Years since 1900: the solver sees small times, and its step control no large offset.
    since = (pelts["year"] - pelts["year"].iloc[0]).to_numpy(float)
    start = Rates(*gradient_matching_start(since, observed))
    problem = ODEProblem(lotka_volterra, observed[0], (since[0], since[-1]), start)
    rate, meeting, initial, sigma = carpenters_priors() if priors else [Parameter(lower=0.0)] * 4
    result = fit(
        problem,
        Experiment(since, observed, series=SERIES),
        {"alpha": rate, "beta": meeting, "gamma": rate, "delta": meeting, "u0": initial},
        likelihood=LogNormal(sigma),
        rtol=rtol,
        atol=rtol,
        engine=engine,
        progress=False,
        on_evaluation=on_evaluation,
        **options,
    )
    grid = np.linspace(since[0], since[-1], 401)
    return PeltFit(pelts, result, grid + pelts["year"].iloc[0], result.predict(grid).mean)


def carpenters_priors() -> list[Parameter]:
    """The priors of birth and death rates, of `beta` and `delta`, of initial populations, and of the sigmas."""
    from torch.distributions import LogNormal as LogNormalPrior
    from torch.distributions import Normal as NormalPrior

    priors = (NormalPrior(1.0, 0.5), NormalPrior(0.05, 0.05), LogNormalPrior(np.log(10.0), 1.0), LogNormalPrior(-1.0, 1.0))
    return [Parameter(lower=0.0, prior=prior) for prior in priors]
