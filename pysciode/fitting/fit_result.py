"""Results of fits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from ..problems.base import Problem
from .information import Information
from .objective import Objective
from .optimizers import Found
from .simulation import state_names
from .unknowns import named_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .prediction import Prediction
    from .profile_likelihood import Profile


@dataclass(frozen=True, eq=False)
class FitResult:
    """Estimates with their uncertainty; predictions, profiles and plots of the fitted model.

    Attributes
    ----------
    names
        Names of all estimates, shape ``(q,)``: parameters, initial values (``u0[i]``), those of one experiment
        (``name@experiment``), scatter (``sd[series]``).
    values
        The estimates, shape ``(q,)``.
    covariance
        Covariance of the estimates, from Fisher's information, shape ``(q, q)``; infinite where the data determine nothing,
        None without ``standard_errors``.
    log_likelihood
        Log likelihood at the estimates, with normalisation and without priors.
    objective_value
        The minimum: the negative log likelihood, minus the log density of the priors.
    count
        How many numbers were observed.
    converged, message, iterations
        The optimiser's report.
    searches
        The objective at the end of each search, best first.
    evaluations
        Number of gradients.
    seconds
        Wall time.
    optimizer, engine
        The names of both.
    undetermined
        Combinations of parameters that the data don't determine.
    condition
        Condition number of the scaled information matrix.
    objective
        The objective itself; None for a result that was loaded without its problem.
    """

    names: tuple[str, ...]
    values: np.ndarray
    covariance: np.ndarray | None
    log_likelihood: float
    objective_value: float
    count: int
    converged: bool
    message: str
    iterations: int
    searches: np.ndarray
    evaluations: int
    seconds: float
    optimizer: str
    engine: str
    undetermined: list[dict[str, float]] = field(default_factory=list)
    condition: float = float("nan")
    objective: Objective | None = None

    @classmethod
    def of(cls, objective: Objective, found: Found, information: Information | None, **about: Any) -> FitResult:
        """The result at the end of a search."""
        x = objective.unknowns.values(torch.from_numpy(found.z))
        with torch.no_grad():
            log_likelihood = objective.log_likelihood(x).item()
        result = cls(
            names=objective.unknowns.names,
            values=x.numpy(),
            covariance=None if information is None else information.covariance,
            log_likelihood=log_likelihood,
            objective_value=found.value,
            count=len(objective.data.observed),
            converged=found.converged,
            message=found.message,
            iterations=found.iterations,
            evaluations=objective.evaluations,
            undetermined=[] if information is None else information.undetermined,
            condition=float("nan") if information is None else information.condition,
            objective=objective,
            **about,
        )
        result._set_modules()
        return result

    # --- numbers ---

    @property
    def estimates(self) -> dict[str, float]:
        """The values by name."""
        return named_values(self.names, self.values)

    @property
    def standard_errors(self) -> dict[str, float]:
        """Square roots of the covariance's diagonal by name.

        Raises
        ------
        ValueError
            If `fit` was called with ``standard_errors=False``.
        """
        return named_values(self.names, np.sqrt(np.diag(self._covariance())))

    @property
    def correlation(self) -> pd.DataFrame:
        """Correlation of the estimates; NaN where one is not determined."""
        covariance = self._covariance()
        errors = np.sqrt(np.diag(covariance))
        with np.errstate(invalid="ignore"):
            found = covariance / np.outer(errors, errors)
        return pd.DataFrame(found, self.names, self.names)

    @property
    def aic(self) -> float:
        """Akaike's information criterion, ``2 q - 2 log L``."""
        return 2 * len(self.names) - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz's information criterion, ``q log N - 2 log L``."""
        return len(self.names) * np.log(self.count) - 2 * self.log_likelihood

    def confidence_intervals(self, level: float = 0.95) -> pd.DataFrame:
        """Columns ``lower`` and ``upper``, by the normal approximation on the scale without bounds, so that they keep these.

        See :meth:`profile` for intervals that don't rest on it.
        """
        unknowns = self._objective().unknowns
        z, errors = self.unbounded()
        reach = stats.norm.ppf(0.5 + level / 2) * errors
        ends = [unknowns.values(torch.from_numpy(z + sign * reach)).numpy() for sign in (-1, 1)]
        return pd.DataFrame({"lower": np.minimum(*ends), "upper": np.maximum(*ends)}, self.names)

    def unbounded(self) -> tuple[np.ndarray, np.ndarray]:
        """Estimates and standard errors on the scale without bounds, each of shape ``(q,)``."""
        unknowns = self._objective().unknowns
        z = unknowns.unbounded(self.values)
        return z, np.sqrt(np.diag(self._covariance())) / np.abs(unknowns.slopes(z))

    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """A row for each estimate: ``estimate``, ``standard_error``, ``lower``, ``upper``."""
        found = pd.DataFrame({"estimate": self.values}, self.names)
        if self.covariance is None or self.objective is None:
            return found
        found["standard_error"] = np.sqrt(np.diag(self.covariance))
        return found.join(self.confidence_intervals(level))

    def __str__(self) -> str:
        ended = "converged" if self.converged else "NOT converged"
        return (
            f"{self.to_frame().to_string(float_format='{:.5g}'.format)}\n"
            f"log-likelihood {self.log_likelihood:.6g}, AIC {self.aic:.6g}, BIC {self.bic:.6g}, {self.count} observations\n"
            f"{self.optimizer}: {ended} ({self.message}), {self.evaluations} gradients, {self.seconds:.2f} s, {self.engine}"
        )

    def __repr__(self) -> str:
        return f"<FitResult: {len(self.names)} estimates, log-likelihood {self.log_likelihood:.6g}>"

    # --- the fitted model ---

    @cached_property
    def problem(self) -> Problem:
        """The problem with the estimates in it; what belongs to one experiment alone is left as it was."""
        problem, found = self._objective().problem, self.estimates
        p, u0 = np.array(problem.flat_p()), np.array(problem.flat_u0())
        for values, names in ((p, problem.layout.names), (u0, state_names(problem))):
            for i, name in enumerate(names):
                values[i] = found.get(name, values[i])
        u0 = u0.reshape(problem.shape)
        if problem.is_torch:
            return problem.with_state(torch.from_numpy(u0), p=problem.layout.unflatten(torch.from_numpy(p)))
        return problem.with_state(u0, p=problem.layout.unflatten(p))

    def predict(
        self,
        t: Any = None,
        experiment: str | int = 0,
        *,
        level: float = 0.95,
        noise: bool = False,
        draws: Any = None,
        seed: int | None = None,
    ) -> Prediction:
        """The observed quantities over time, with bands.

        Parameters
        ----------
        t
            Times in order; by default 200 over the experiment.
        experiment
            The experiment, by name or index.
        level
            Coverage of the bands.
        noise
            Whether the bands are for new observations, with their scatter, instead of for the prediction itself.
        draws
            Values to predict with, shape ``(S, q)``, or what :meth:`sample` returned; the bands are then quantiles. Without,
            they come from the covariance by the delta method, or with `noise` from 500 draws of the normal approximation.
        seed
            Seed of these draws.
        """
        from .prediction import predict

        return predict(self, t, experiment, level, noise, draws, seed)

    def residuals(self) -> pd.DataFrame:
        """Columns ``experiment``, ``t``, ``series``, ``observed``, ``predicted``, ``residual`` (Pearson's)."""
        objective = self._objective()
        x = torch.from_numpy(self.values)
        noise = objective.noise(x).numpy()
        tables = []
        for simulation in objective.simulations:
            data = simulation.experiment
            with torch.no_grad():
                predicted = simulation.predict(x, objective.options).numpy()
            row, column = np.nonzero(np.isfinite(data.observed))
            observed, expected = data.observed[row, column], predicted[row, column]
            tables.append(
                pd.DataFrame(
                    {
                        "experiment": data.name,
                        "t": data.t[row],
                        "series": np.array(data.series)[column],
                        "observed": observed,
                        "predicted": expected,
                        "residual": objective.likelihood.residuals(observed, expected, noise[column]),
                    }
                )
            )
        return pd.concat(tables, ignore_index=True)

    def profile(self, name: str, *, level: float = 0.95, points: int = 12, progress: bool = True) -> Profile:
        """The profile likelihood of one estimate, and the interval that follows from it.

        See :func:`~pysciode.fitting.profile_likelihood.profile`.
        """
        from .profile_likelihood import profile

        return profile(self, name, level=level, points=points, progress=progress)

    def sample(self, draws: int = 1000, *, tune: int = 500, chains: int = 4, seed: int | None = None, **options: Any) -> Any:
        """Draws from the posterior by NUTS, as ArviZ's ``InferenceData``.

        See :func:`~pysciode.fitting.posterior.sample_posterior`.
        """
        from .posterior import sample_posterior

        return sample_posterior(self, draws=draws, tune=tune, chains=chains, seed=seed, **options)

    # --- pictures ---

    def plot(self, *, level: float = 0.95, noise: bool = False) -> Figure:
        """Data, fit and bands of every experiment and series."""
        from .fit_plots import plot_fit

        return plot_fit(self, level, noise)

    def plot_residuals(self) -> Figure:
        """Residuals over time and over predictions, and their quantiles against normal ones."""
        from .fit_plots import plot_residuals

        return plot_residuals(self)

    # --- files ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all numbers, the data, bounds and priors to a JSON file; not the model, which is code."""
        from .saved_fit import save

        save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str], problem: Problem | None = None, *, observe: Any = None) -> FitResult:
        """Read what `save` wrote.

        Parameters
        ----------
        problem, observe
            The model as `fit` had it; without it, only the numbers are available.
        """
        from .saved_fit import load

        return FitResult(**load(path, problem, observe))

    # --- inside ---

    def _objective(self) -> Objective:
        if self.objective is None:
            raise ValueError("this result was loaded without its model: FitResult.load(path, problem) brings it back")
        return self.objective

    def _covariance(self) -> np.ndarray:
        if self.covariance is None:
            raise ValueError("fit was called with standard_errors=False")
        return self.covariance

    def _set_modules(self) -> None:
        """Give the modules that the model uses their estimates, as training would."""
        problem, found = self._objective().problem, self.estimates
        first = problem.layout.n_leaves
        at = problem.layout.slices[first:]
        with torch.no_grad():
            for tensor, place in zip(problem.leaves[first:], at, strict=True):
                names: Sequence[str] = problem.layout.names[place]
                values = tensor.reshape(-1).tolist()
                new = [found.get(name, value) for name, value in zip(names, values, strict=True)]
                if new != values:
                    tensor.copy_(torch.tensor(new, dtype=tensor.dtype).reshape(tensor.shape))
