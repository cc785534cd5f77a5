"""Maximum likelihood with log-normal noise, its standard errors from the observed information."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

Simulate = Callable[[torch.Tensor], torch.Tensor]
"""Positive parameters, shape ``(n,)``, to the model's values, shape ``(k, m)``; differentiable."""


@dataclass(frozen=True)
class LogNormalFit:
    """A maximum-likelihood estimate under log-normal noise.

    Attributes
    ----------
    parameters, parameters_se
        Estimates and standard errors, shape ``(n,)``, in the parameters' own units.
    sigma, sigma_se
        Standard deviation of the log residuals of each of the `m` series, and its standard error.
    log_covariance
        Covariance of the logarithms of parameters and sigmas, shape ``(n + m, n + m)``.
    log_likelihood
        At the estimate, normalisation included.
    evaluations
        Gradients taken, those for the standard errors included.
    converged
        Whether the optimiser says so.
    """

    parameters: np.ndarray
    parameters_se: np.ndarray
    sigma: np.ndarray
    sigma_se: np.ndarray
    log_covariance: np.ndarray
    log_likelihood: float
    evaluations: int
    converged: bool


def fit_log_normal(
    simulate: Simulate,
    observed: np.ndarray,
    start: np.ndarray,
    *,
    maxiter: int = 200,
    on_evaluation: Callable[[float], None] | None = None,
) -> LogNormalFit:
    """Fit positive parameters to positive data: ``log observed = log simulate(parameters) + sigma * normal``.

    The optimiser (L-BFGS) works on the logarithms of the parameters and of the sigmas, where all are unbounded and of
    like size. Standard errors come from the inverse of the observed information, by central differences of the
    gradient, and the delta method takes them back from the logarithms.

    Parameters
    ----------
    simulate
        The model.
    observed
        Positive data, shape ``(k, m)``.
    start
        Where to begin, positive, shape ``(n,)``.
    maxiter
        Iterations of the optimiser at most.
    on_evaluation
        Called with the log-likelihood after each gradient.

    Raises
    ------
    ValueError
        If the data or the start aren't positive and finite.
    """
    start = np.asarray(start, dtype=float)
    observed = np.asarray(observed, dtype=float)
    for name, values in (("observed", observed), ("start", start)):
        if not np.all(np.isfinite(values) & (values > 0)):
            raise ValueError(f"{name} must be positive and finite: log-normal noise has no zero")

    n = start.size
    log_observed = torch.from_numpy(np.log(observed))
    evaluations = 0

    def residuals(log_parameters: torch.Tensor) -> torch.Tensor:
        # A solver's overshoot may touch zero on a bad guess: a floor keeps the logarithm finite there.
        return log_observed - simulate(log_parameters.exp()).clamp_min(1e-12).log()

    def negative_log_likelihood(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal evaluations
        evaluations += 1
        z = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        scaled = residuals(z[:n]) / z[n:].exp()
        value = 0.5 * scaled.square().sum() + observed.shape[0] * z[n:].sum()
        (gradient,) = torch.autograd.grad(value, z)
        if on_evaluation is not None:
            on_evaluation(-_with_normalisation(value.item(), log_observed))
        return value.item(), gradient.numpy()

    with torch.no_grad():
        spread = residuals(torch.from_numpy(np.log(start))).square().mean(0).sqrt()
    x0 = np.concatenate([np.log(start), spread.clamp(0.05, 2.0).log().numpy()])
    best = minimize(
        negative_log_likelihood, x0, jac=True, method="L-BFGS-B", options={"maxiter": maxiter, "ftol": 1e-11, "gtol": 1e-5}
    )
    log_covariance = np.linalg.inv(_hessian(negative_log_likelihood, best.x))
    log_se = np.sqrt(np.diag(log_covariance))
    estimate = np.exp(best.x)
    return LogNormalFit(
        parameters=estimate[:n],
        parameters_se=(estimate * log_se)[:n],
        sigma=estimate[n:],
        sigma_se=(estimate * log_se)[n:],
        log_covariance=log_covariance,
        log_likelihood=-_with_normalisation(best.fun, log_observed),
        evaluations=evaluations,
        converged=bool(best.success),
    )


def _with_normalisation(value: float, log_observed: torch.Tensor) -> float:
    """The whole negative log-likelihood of the data, from the part that depends on the parameters."""
    return value + 0.5 * log_observed.numel() * math.log(2 * math.pi) + log_observed.sum().item()


def _hessian(value_and_gradient: Callable[[np.ndarray], tuple[float, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """Central differences of the gradient, made symmetric."""
    # The gradient carries the solver's error (about its relative tolerance), so the step is far above sqrt(eps).
    step = 1e-3
    columns = []
    for direction in np.eye(x.size):
        forward = value_and_gradient(x + step * direction)[1]
        backward = value_and_gradient(x - step * direction)[1]
        columns.append((forward - backward) / (2 * step))
    hessian = np.array(columns)
    return 0.5 * (hessian + hessian.T)
