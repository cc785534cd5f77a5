"""Lotka-Volterra fitted to the Hudson Bay lynx and hare pelts, 1900 to 1920.

The data are the Hudson's Bay Company's pelt counts in thousands, as tabulated by Hewitt, *The Conservation of the Wild Life
of Canada* (1921) and Elton and Nicholson, "The ten-year cycle in numbers of the lynx in Canada", J. Anim. Ecol. 11 (1942).
The model with log-normal noise, and the published Bayesian fit of it, are those of Carpenter, "Predator-prey population
dynamics: the Lotka-Volterra model in Stan" (2018).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import pandas as pd
import torch

from ..algorithms import Tsit5
from ..engines import get_engine
from ..problems import ODEProblem
from ..solving import solve
from .maximum_likelihood import LogNormalFit, fit_log_normal

PARAMETERS = ("alpha", "beta", "gamma", "delta", "hare(1900)", "lynx(1900)")
MEANINGS = (
    "hares born",
    "hares eaten",
    "lynx dying",
    "lynx fed",
    "",
    "",
)
PUBLISHED_RATES = {"alpha": 0.55, "beta": 0.028, "gamma": 0.80, "delta": 0.024}
"""Posterior means of Carpenter (2018)."""


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
    engine
        Name of the engine that solved.
    seconds
        Wall time of the whole fit, standard errors included.
    """

    pelts: pd.DataFrame
    fit: LogNormalFit
    years: np.ndarray
    curve: np.ndarray
    engine: str
    seconds: float


def gradient_matching_start(years: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Rates from the data alone, to start the optimiser from.

    The logarithmic slopes of the data are linear in the rates (``(log x)' = alpha - beta y``), so least squares gives
    them without a single solve; the first observations serve as initial values.
    """
    slopes = np.gradient(np.log(observed), years, axis=0)
    ones = np.ones(len(years))
    alpha, minus_beta = np.linalg.lstsq(np.column_stack([ones, observed[:, 1]]), slopes[:, 0], rcond=None)[0]
    minus_gamma, delta = np.linalg.lstsq(np.column_stack([ones, observed[:, 0]]), slopes[:, 1], rcond=None)[0]
    return np.array([alpha, -minus_beta, -minus_gamma, delta, *observed[0]])


def fit_pelts(
    *, engine: str = "auto", rtol: float = 1e-7, on_evaluation: Callable[[float], None] | None = None
) -> PeltFit:
    """Fit four rates, both initial values and both sigmas by maximum likelihood.

    Parameters
    ----------
    engine
        ``"auto"``, ``"julia"`` or ``"embedded"``.
    rtol
        The solver's relative tolerance.
    on_evaluation
        Called with the log-likelihood after each gradient.
    """
    began = time.perf_counter()
    pelts = load_pelts()
    observed = pelts[["hare", "lynx"]].to_numpy(float)
    # Years since 1900: the solver sees small times, and its step control no large offset.
    since = (pelts["year"] - pelts["year"].iloc[0]).to_numpy(float)
    span = (since[0], since[-1])
    backend = get_engine(engine)
    # Named for Julia, where it comes compiled; the embedded engine has its own explicit method.
    algorithm = Tsit5() if backend.name == "julia" else None

    def populations(parameters: torch.Tensor, times: np.ndarray):
        problem = ODEProblem(lotka_volterra, parameters[4:], span, parameters[:4])
        return solve(problem, algorithm, saveat=times, rtol=rtol, atol=rtol, engine=backend)

    fit = fit_log_normal(
        lambda parameters: populations(parameters, since).u,
        observed,
        gradient_matching_start(since, observed),
        on_evaluation=on_evaluation,
    )
    grid = np.linspace(*span, 401)
    solution = populations(torch.from_numpy(fit.parameters), grid)
    return PeltFit(
        pelts=pelts,
        fit=fit,
        years=grid + pelts["year"].iloc[0],
        curve=solution.u.numpy(),
        engine=solution.engine,
        seconds=time.perf_counter() - began,
    )
