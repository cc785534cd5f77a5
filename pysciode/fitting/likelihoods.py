"""Likelihoods: the distribution of observations about the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributions

from .unknowns import Parameter, Unknown

SMALLEST = 1e-12
"""Predictions that must be positive are at least this: a solver may step slightly below zero on a bad guess."""


class Likelihood(ABC):
    """A distribution of each observation, given what the model predicts for it.

    Subclasses are dataclasses. The scatter is one number for each series: known, or estimated with the rest.
    """

    noise: str | None = None
    """Name of the attribute that holds the scatter; None for distributions that have none of their own."""

    @abstractmethod
    def distribution(self, predicted: torch.Tensor, noise: torch.Tensor) -> distributions.Distribution:
        """Of observations with these predictions, shape ``(..., m)``; `noise` has shape ``(m,)``."""

    @abstractmethod
    def information(self, predicted: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Fisher information about the prediction that one observation holds, shape of `predicted`."""

    def noise_information(self, noise: np.ndarray) -> np.ndarray | None:
        """Fisher information about the scatter that one observation of each series holds, shape ``(m,)``; None without a closed form."""
        return None

    def check(self, observed: np.ndarray) -> None:  # noqa: B027  (most take all)
        """Refuse data that this distribution can't give."""

    def start(self, observed: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """A first guess of the scatter of each series, shape ``(m,)``; both ``(N, m)``, NaN where there is none."""
        raise NotImplementedError

    def log_prob(self, observed: torch.Tensor, predicted: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Logarithm of the density of each observation."""
        return self.distribution(predicted, noise).log_prob(observed)

    def residuals(self, observed: np.ndarray, predicted: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Pearson residuals: of mean 0 and variance 1 where the model is right."""
        scatter = self.distribution(torch.from_numpy(predicted), torch.from_numpy(noise))
        return (observed - scatter.mean.numpy()) / scatter.stddev.numpy()

    def unknowns(self, series: Sequence[str], observed: np.ndarray, predicted: np.ndarray) -> list[Unknown]:
        """The scatter of each series that is to be estimated; its start may come from first predictions."""
        found = []
        guess = None
        for j, (name, given) in enumerate(zip(series, self._given(len(series)), strict=True)):
            if given is not None and not isinstance(given, Parameter):
                continue
            parameter = Parameter(lower=0.0) if given is None else given
            if parameter.start is None:
                guess = self.start(observed, predicted) if guess is None else guess
                parameter = Parameter(float(guess[j]), parameter.lower or 0.0, parameter.upper, parameter.prior)
            found.append(Unknown(f"{self.noise}[{name}]", parameter))
        return found

    def known(self, count: int) -> np.ndarray:
        """The scatter of each series where it is known, NaN where it is not, shape ``(m,)``."""
        given = self._given(count)
        return np.array([np.nan if x is None or isinstance(x, Parameter) else x for x in given], float)

    def _given(self, count: int) -> list[Any]:
        """The scatter given for each series."""
        if self.noise is None:
            return [1.0] * count
        value = getattr(self, self.noise)
        if value is None or isinstance(value, Parameter) or np.ndim(value) == 0:
            return [value] * count
        if len(value) != count:
            raise ValueError(f"{self.noise} must be one number or one for each of the {count} series, not {len(value)}")
        return list(value)

    def __post_init__(self) -> None:
        if self.noise is None:
            return
        value = getattr(self, self.noise)
        given = [value] if value is None or isinstance(value, Parameter) or np.ndim(value) == 0 else value
        for x in given:
            if x is not None and not isinstance(x, Parameter) and not (np.isfinite(x) and x > 0):
                raise ValueError(f"{self.noise} must be positive and finite, not {x!r}")


@dataclass(frozen=True)
class Normal(Likelihood):
    """Additive normal noise.

    Attributes
    ----------
    sd
        Its standard deviation: a number or one for each series; None or a `Parameter` where it is to be estimated.
    """

    sd: Any = None
    noise = "sd"

    def distribution(self, predicted: torch.Tensor, noise: torch.Tensor) -> distributions.Distribution:
        return distributions.Normal(predicted, noise, validate_args=False)

    def information(self, predicted: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return np.broadcast_to(1 / noise**2, predicted.shape)

    def noise_information(self, noise: np.ndarray) -> np.ndarray:
        return 2 / noise**2

    def start(self, observed: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        spread = np.sqrt(np.nanmean((observed - predicted) ** 2, 0))
        scale = np.nanmax(np.abs(observed), 0)
        return np.clip(spread, 1e-4 * np.where(scale > 0, scale, 1.0), None)


@dataclass(frozen=True)
class LogNormal(Likelihood):
    """Normal noise on the logarithm: observations scatter by a factor about the prediction, which is their median.

    Attributes
    ----------
    sigma
        Standard deviation of the logarithm: a number or one for each series; None or a `Parameter` where it is to be
        estimated.
    """

    sigma: Any = None
    noise = "sigma"

    def check(self, observed: np.ndarray) -> None:
        if (observed[np.isfinite(observed)] <= 0).any():
            raise ValueError("observed must be positive for LogNormal, which has no zero")

    def distribution(self, predicted: torch.Tensor, noise: torch.Tensor) -> distributions.Distribution:
        return distributions.LogNormal(predicted.clamp_min(SMALLEST).log(), noise, validate_args=False)

    def information(self, predicted: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return 1 / (noise * np.maximum(predicted, SMALLEST)) ** 2

    def noise_information(self, noise: np.ndarray) -> np.ndarray:
        return 2 / noise**2

    def start(self, observed: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        logs = np.log(observed) - np.log(np.maximum(predicted, SMALLEST))
        return np.clip(np.sqrt(np.nanmean(logs**2, 0)), 0.05, 2.0)

    def residuals(self, observed: np.ndarray, predicted: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Of the logarithms."""
        return (np.log(observed) - np.log(np.maximum(predicted, SMALLEST))) / noise


@dataclass(frozen=True)
class Poisson(Likelihood):
    """Counts of independent events, whose expectation is the prediction."""

    def check(self, observed: np.ndarray) -> None:
        _check_counts(observed, "Poisson")

    def distribution(self, predicted: torch.Tensor, noise: torch.Tensor) -> distributions.Distribution:
        return distributions.Poisson(predicted.clamp_min(SMALLEST), validate_args=False)

    def information(self, predicted: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return 1 / np.maximum(predicted, SMALLEST)


@dataclass(frozen=True)
class NegativeBinomial(Likelihood):
    """Overdispersed counts: mean ``μ``, the prediction, and variance ``μ + μ²/size``.

    Attributes
    ----------
    size
        A number or one for each series; None or a `Parameter` where it is to be estimated. Large ones approach `Poisson`.
    """

    size: Any = None
    noise = "size"

    def check(self, observed: np.ndarray) -> None:
        _check_counts(observed, "NegativeBinomial")

    def distribution(self, predicted: torch.Tensor, noise: torch.Tensor) -> distributions.Distribution:
        logits = predicted.clamp_min(SMALLEST).log() - noise.log()
        return distributions.NegativeBinomial(noise, logits=logits, validate_args=False)

    def information(self, predicted: np.ndarray, noise: np.ndarray) -> np.ndarray:
        mean = np.maximum(predicted, SMALLEST)
        return 1 / (mean + mean**2 / noise)

    def start(self, observed: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        # By moments: what the squared error has beyond Poisson's.
        excess = np.nanmean((observed - predicted) ** 2 - predicted, 0)
        return np.clip(np.nanmean(predicted**2, 0) / np.maximum(excess, 1e-9), 0.1, 1e3)


def _check_counts(observed: np.ndarray, name: str) -> None:
    counts = observed[np.isfinite(observed)]
    if (counts < 0).any() or (counts != np.round(counts)).any():
        raise ValueError(f"observed must hold counts (0, 1, 2, …) for {name}")
