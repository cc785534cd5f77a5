"""The log likelihood, or posterior density, of data as a function of the unknown values, with derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..engines.base import Engine
from ..errors import GradientFailed, SolveFailed
from ..problems.base import Problem
from .experiment import Experiment
from .likelihoods import Likelihood
from .observation import Observe
from .simulation import Simulation, find_unknowns
from .unknowns import Unknowns

_FAILURES = (SolveFailed, GradientFailed)


@dataclass(frozen=True)
class Series:
    """All observations of all experiments, one after the other, without the missing ones.

    Attributes
    ----------
    observed, weights
        Shape ``(N,)``.
    column
        Which series each belongs to.
    """

    observed: np.ndarray
    weights: np.ndarray
    column: np.ndarray


class Objective:
    """Negative logarithm of the likelihood times the priors, as a function of the unbounded vector ``z``.

    Attributes
    ----------
    unknowns
        The model's and, after them, those of the noise.
    n_model
        How many of them are the model's.
    evaluations
        Gradients taken so far.
    on_evaluation
        Called with the value after each.
    best
        Value and place of the lowest of them; None before the first.
    """

    def __init__(
        self,
        problem: Problem,
        experiments: Sequence[Experiment],
        parameters: Any,
        likelihood: Likelihood,
        observe: Observe,
        options: Mapping[str, Any],
    ) -> None:
        self.problem = problem
        self.likelihood = likelihood
        self.options = dict(options)
        self.simulations = [Simulation(problem, x, observe) for x in experiments]
        self.series = experiments[0].series
        for x in experiments:
            likelihood.check(x.observed)
        self.data = _join(experiments)
        model = find_unknowns(problem, self.simulations, parameters)
        self.n_model = len(model)
        self._connect([x.name for x in model])
        known = likelihood.known(len(self.series))
        if np.isnan(known).any():
            model += likelihood.unknowns(self.series, *self._first_predictions(Unknowns(model).start))
        self.unknowns = Unknowns(model)
        self._known = torch.from_numpy(known)
        self._noise_places = torch.from_numpy(np.flatnonzero(np.isnan(known)))
        self._observed, self._weights = torch.from_numpy(self.data.observed), torch.from_numpy(self.data.weights)
        self._column = torch.from_numpy(self.data.column)
        self.evaluations = 0
        self.on_evaluation: Callable[[float], None] | None = None
        self.best: tuple[float, np.ndarray] | None = None
        self._worst = 0.0

    def _connect(self, names: Sequence[str]) -> None:
        for simulation in self.simulations:
            simulation.connect(names)

    def _first_predictions(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            x = torch.from_numpy(start)
            predicted = [s.predict(x, self.options).numpy() for s in self.simulations]
        return np.vstack([s.experiment.observed for s in self.simulations]), np.vstack(predicted)

    # --- predictions ---

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """What the model predicts for each observation, shape ``(N,)``."""
        found = []
        for simulation in self.simulations:
            y = simulation.predict(x, self.options)
            found.append(y[torch.from_numpy(np.isfinite(simulation.experiment.observed))])
        return torch.cat(found)

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        """The scatter of each series, shape ``(m,)``."""
        if not len(self._noise_places):
            return self._known
        return self._known.index_copy(0, self._noise_places, x[self.n_model :])

    def log_likelihood(self, x: torch.Tensor) -> torch.Tensor:
        """Of all data, each observation by its weight."""
        return self.log_likelihood_at(self.predict(x), self.noise(x))

    def log_likelihood_at(self, predicted: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The same, of predictions that are known already."""
        found = self.likelihood.log_prob(self._observed, predicted, noise[self._column])
        return found @ self._weights

    def log_posterior(self, x: torch.Tensor) -> torch.Tensor:
        """The log likelihood plus the priors' log densities."""
        found = self.log_likelihood(x)
        return found + self.unknowns.log_prior(x) if self.unknowns.has_priors else found

    # --- for optimisers and samplers, in z ---

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient; where a solve fails, a large value without a slope, from which searches turn back."""
        self.evaluations += 1
        found = self.log_density(z)
        if found is None:
            value, slope = self._worst + 1e3 * (1 + abs(self._worst)), np.zeros(len(z))
        else:
            value, slope = -found[0], -found[1]
            self._worst = max(self._worst, value)
            if self.best is None or value < self.best[0]:
                self.best = value, np.array(z)
        if self.on_evaluation is not None:
            self.on_evaluation(value)
        return value, slope

    def log_density(self, z: np.ndarray, *, of_z: bool = False) -> tuple[float, np.ndarray] | None:
        """The log posterior at ``z`` and its gradient; None where it has no value.

        Parameters
        ----------
        of_z
            Whether it is to be the density of ``z``, with the Jacobian of the change of variables, instead of that of the
            values.
        """
        point = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        x = self.unknowns.values(point)
        if not torch.isfinite(x).all():
            return None  # beyond what an exponential can hold
        try:
            value = self.log_posterior(x)
            if of_z:
                value = value + self.unknowns.log_slopes(point)
            (gradient,) = torch.autograd.grad(value, point)
        except _FAILURES:
            return None
        if not torch.isfinite(value) or not torch.isfinite(gradient).all():
            return None
        return value.item(), gradient.numpy()

    def check_start(self, z: np.ndarray) -> None:
        """Refuse a start from which nothing can be learned.

        Raises
        ------
        SolveFailed, GradientFailed
            If the model can't be solved there.
        ValueError
            If the objective is not finite there.
        """
        point = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        value = -self.log_posterior(self.unknowns.values(point))
        (gradient,) = torch.autograd.grad(value, point)
        if not torch.isfinite(value) or not torch.isfinite(gradient).all():
            x = self.unknowns.values(point.detach())
            outside = [n for n, v, p in zip(self.unknowns.names, x, self.unknowns.parameters, strict=True)
                       if p.prior is not None and not torch.isfinite(p.prior.log_prob(v)).all()]  # fmt: skip
            where = f": {', '.join(outside)} can't have their start under their priors" if outside else ""
            raise ValueError(f"the objective is {value.item():g} at the start, or has no finite gradient there{where}")
        self._worst = abs(value.item())

    def residuals(self, z: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Weighted, standardised residuals and, after them, those of normal priors; their squares make the objective."""
        x = self.unknowns.values(torch.from_numpy(np.asarray(z, float)))
        with torch.no_grad():
            predicted = self.predict(x).numpy()
        own = self.likelihood.residuals(self.data.observed, predicted, noise[self.data.column])
        return np.concatenate([own * np.sqrt(self.data.weights), self._prior_residuals(x.numpy())])

    def residual_jacobian(self, z: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """``d residuals / dz`` of the model's unknowns, from the sensitivities of the solution."""
        predicted, jacobian = self.sensitivities(z)
        scale = np.sqrt(self.likelihood.information(predicted, noise[self.data.column]) * self.data.weights)
        slopes = self.unknowns.slopes(z)[: self.n_model]
        rows = [np.eye(self.n_model)[i] / p.prior.scale.item() for i, p in self._normal_priors()]
        return np.vstack([-scale[:, None] * jacobian, *rows]) * slopes

    def sensitivities(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predictions ``(N,)`` and their derivatives with respect to the model's unknown *values*, ``(N, n_model)``."""
        x = self.unknowns.values(torch.from_numpy(np.asarray(z, float)))[: self.n_model]
        return prediction_jacobian(self.predict, x, self.options["engine"])

    def information_of_values(self, z: np.ndarray) -> np.ndarray:
        """Expected information about all unknown *values*, shape ``(q, q)``, with the curvature of the priors.

        The noise is orthogonal to the mean in all distributions here; where its information has no closed form it is the
        observed one.
        """
        unknowns, n = self.unknowns, self.n_model
        x = unknowns.values(torch.from_numpy(np.asarray(z, float)))
        predicted, jacobian = self.sensitivities(z)
        noise = self.noise(x)
        each = self.likelihood.information(predicted, noise.numpy()[self.data.column]) * self.data.weights
        matrix = np.zeros((len(unknowns), len(unknowns)))
        matrix[:n, :n] = jacobian.T @ (each[:, None] * jacobian)
        if len(unknowns) > n:
            matrix[n:, n:] = self._noise_information(x, noise.numpy(), torch.from_numpy(predicted))
        if unknowns.has_priors:
            matrix -= torch.autograd.functional.hessian(unknowns.log_prior, x).numpy()
        return matrix

    def _noise_information(self, x: torch.Tensor, noise: np.ndarray, predicted: torch.Tensor) -> np.ndarray:
        places = self._noise_places.numpy()
        each = self.likelihood.noise_information(noise)
        if each is not None:
            return np.diag((each * np.bincount(self.data.column, self.data.weights, len(noise)))[places])
        n = self.n_model

        def of_noise(tail: torch.Tensor) -> torch.Tensor:
            return -self.log_likelihood_at(predicted, self.noise(torch.cat([x[:n], tail])))

        # Away from the maximum it may be negative, which no information is.
        return np.maximum(torch.autograd.functional.hessian(of_noise, x[n:]).numpy(), 0.0)

    def information(self, z: np.ndarray) -> np.ndarray:
        """The same about ``z``: where priors are log-concave it is positive semidefinite, and stands in for the Hessian."""
        slopes = self.unknowns.slopes(z)
        return self.information_of_values(z) * np.outer(slopes, slopes)

    def _normal_priors(self) -> list[tuple[int, Any]]:
        return [(i, p) for i, p in enumerate(self.unknowns.parameters[: self.n_model]) if p.prior is not None]

    def _prior_residuals(self, x: np.ndarray) -> np.ndarray:
        return np.array([(x[i] - p.prior.loc.item()) / p.prior.scale.item() for i, p in self._normal_priors()])


def prediction_jacobian(predict: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """Values, shape ``(N,)``, and Jacobian, ``(N, q)``, of predictions as a function of a vector.

    Julia solves once and carries the sensitivities forward: each row is then a product with them. The embedded engine would
    go back through all its steps for each row, and so takes central differences where these are fewer solves.
    """
    x = x.detach()

    def flat(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = predict(x).reshape(-1)
        return y, y

    if engine.name == "embedded":
        with torch.no_grad():
            y = flat(x)[0]
        if len(y) > 2 * len(x):
            return y.numpy(), _central_differences(predict, x)
    jacobian, y = torch.func.jacrev(flat, has_aux=True)(x)
    return y.numpy(), jacobian.numpy()


def _central_differences(predict: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> np.ndarray:
    columns = []
    for i in range(len(x)):
        # Far above the square root of the rounding: the solver's own error, of about its tolerance, is divided by it.
        step = 1e-3 * max(abs(x[i].item()), 1e-3)
        ends = []
        for sign in (1, -1):
            there = x.clone()
            there[i] += sign * step
            with torch.no_grad():
                ends.append(predict(there).reshape(-1))
        columns.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(columns, 1).numpy()


def _join(experiments: Sequence[Experiment]) -> Series:
    observed = np.vstack([x.observed for x in experiments])
    there = np.isfinite(observed)
    column = np.broadcast_to(np.arange(observed.shape[1]), observed.shape)
    return Series(observed[there], np.vstack([x.weights for x in experiments])[there], column[there])
