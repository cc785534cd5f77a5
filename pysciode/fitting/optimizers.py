"""Searches for the minimum of an objective: SciPy's methods, torch's optimisers, and Optimization.jl inside Julia."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import optimize

from .likelihoods import LogNormal, Normal
from .objective import Objective

TorchOptimizer = Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer]

GRADIENT = ("L-BFGS-B", "BFGS", "CG", "TNC", "SLSQP", "trust-constr")
"""SciPy's methods that need a gradient."""

CURVATURE = ("trust-exact", "trust-ncg", "trust-krylov", "dogleg", "Newton-CG")
"""SciPy's methods that need second derivatives too: the expected information takes their place (Fisher scoring)."""

DERIVATIVE_FREE = ("Nelder-Mead", "Powell", "COBYLA")

IN_JULIA = ("Optim.LBFGS", "Optim.BFGS", "Optim.NelderMead", "Optim.NewtonTrustRegion")
"""The whole loop inside Julia, by Optimization.jl."""

LEAST_SQUARES = "least_squares"

METHODS = (*GRADIENT, *CURVATURE, *DERIVATIVE_FREE, LEAST_SQUARES, *IN_JULIA)


@dataclass(frozen=True)
class Found:
    """Where a search ended.

    Attributes
    ----------
    z
        The best point.
    value
        The objective there.
    converged
        Whether the optimiser reports convergence.
    message
        The optimiser's message.
    iterations
        The optimiser's count.
    """

    z: np.ndarray
    value: float
    converged: bool
    message: str
    iterations: int


def check_optimizer(optimizer: Any, objective: Objective) -> None:
    """Refuse optimisers that are unknown or don't fit the objective.

    Raises
    ------
    TypeError, ValueError
        For an unknown method, or least squares where the likelihood isn't one.
    """
    if callable(optimizer):
        return
    if not isinstance(optimizer, str):
        raise TypeError(f"optimizer must be the name of a method, or a function from parameters to one of torch's, not {optimizer!r}")
    if optimizer not in METHODS:
        raise ValueError(f"optimizer {optimizer!r} is not known; there are {', '.join(METHODS)}")
    if optimizer == LEAST_SQUARES:
        if not isinstance(objective.likelihood, (Normal, LogNormal)):
            raise ValueError("least_squares needs a Normal or LogNormal likelihood")
        for name, parameter in zip(objective.unknowns.names, objective.unknowns.parameters, strict=True):
            noise = objective.unknowns.names.index(name) >= objective.n_model
            if parameter.prior is not None and (noise or not isinstance(parameter.prior, torch.distributions.Normal)):
                raise ValueError(f"least_squares takes normal priors of the model's parameters only, not that of {name}")


def minimize(
    objective: Objective,
    z0: np.ndarray,
    optimizer: str | TorchOptimizer,
    *,
    maxiter: int,
    tol: float,
    free: np.ndarray | None = None,
    **options: Any,
) -> Found:
    """Search from `z0`.

    Parameters
    ----------
    maxiter
        Iterations at most.
    tol
        Tolerance of the gradient or of relative changes, as the method defines it.
    free
        Which entries move, a mask; all by default.
    options
        Options of SciPy's method.
    """
    searched: Objective | _Restricted = objective
    restore: Callable[[np.ndarray], np.ndarray] = np.asarray
    if free is not None and not free.all():
        whole = z0
        searched, restore = _Restricted(objective, whole, free), lambda z: _with(whole, free, z)
        z0 = whole[free]
    if callable(optimizer):
        found = _with_torch(searched, z0, optimizer, maxiter)
    elif optimizer == LEAST_SQUARES and free is None:
        found = _least_squares(objective, z0, maxiter, tol, options)
    else:
        found = _with_scipy(searched, z0, "L-BFGS-B" if optimizer == LEAST_SQUARES else optimizer, maxiter, tol, options)
    return Found(restore(found.z), found.value, found.converged, found.message, found.iterations)


@dataclass(frozen=True, eq=False)
class _Restricted:
    """The objective over the free entries of ``z`` alone."""

    objective: Objective
    z0: np.ndarray
    free: np.ndarray

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = self.objective.value_and_gradient(_with(self.z0, self.free, z))
        return value, slope[self.free]

    def information(self, z: np.ndarray) -> np.ndarray:
        return self.objective.information(_with(self.z0, self.free, z))[np.ix_(self.free, self.free)]


def _with(z0: np.ndarray, free: np.ndarray, z: np.ndarray) -> np.ndarray:
    whole = np.array(z0)
    whole[free] = z
    return whole


def _with_scipy(objective: Any, z0: np.ndarray, method: str, maxiter: int, tol: float, options: dict[str, Any]) -> Found:
    given: dict[str, Any] = {}
    if method in CURVATURE:
        given["hess"] = objective.information
    if method in DERIVATIVE_FREE:
        function: Callable[[np.ndarray], Any] = lambda z: objective.value_and_gradient(z)[0]  # noqa: E731
    else:
        function, given["jac"] = objective.value_and_gradient, True
    settings = {"maxiter": maxiter} | ({"ftol": tol * 1e-3, "gtol": tol, "maxfun": 20 * maxiter} if method == "L-BFGS-B" else {})
    if method in ("BFGS", "CG", *CURVATURE) and method != "Newton-CG":
        settings["gtol"] = tol
    best = optimize.minimize(function, z0, method=method, options=settings | options, **given)
    # A line search that finds nothing better at the precision of the solver has converged, whatever its status.
    slope = objective.value_and_gradient(best.x)[1] if method not in DERIVATIVE_FREE else np.zeros(1)
    at_floor = not best.success and best.nit < maxiter and np.abs(slope).max() < 1e-2
    return Found(best.x, float(best.fun), bool(best.success or at_floor), str(best.message), int(best.nit))


def _with_torch(objective: Any, z0: np.ndarray, optimizer: TorchOptimizer, steps: int) -> Found:
    point = torch.tensor(z0, dtype=torch.float64, requires_grad=True)
    search = optimizer([point])
    if not isinstance(search, torch.optim.Optimizer):
        raise TypeError(f"optimizer must return one of torch's optimisers, not {type(search).__name__}")
    best, best_value = z0, np.inf

    def closure() -> float:
        nonlocal best, best_value
        here = point.detach().numpy().copy()
        value, slope = objective.value_and_gradient(here)
        if value < best_value:
            best, best_value = here, value
        point.grad = torch.from_numpy(slope)
        return value

    for _ in range(steps):
        search.step(closure)
    closure()
    return Found(best, best_value, True, f"{steps} steps of {type(search).__name__}", steps)


def _least_squares(objective: Objective, z0: np.ndarray, maxiter: int, tol: float, options: dict[str, Any]) -> Found:
    """Levenberg-Marquardt or another of SciPy's; scatter that is unknown is estimated from the residuals, in turn."""
    n = objective.n_model
    z, iterations = np.array(z0), 0
    estimated = len(objective.unknowns) > n
    settings = {"xtol": tol * 1e-2, "ftol": tol * 1e-2, "gtol": tol * 1e-2, "max_nfev": maxiter, "method": "trf"} | options

    for _ in range(50 if estimated else 1):
        noise = _noise_at(objective, z)
        best = optimize.least_squares(
            lambda x: objective.residuals(_head(z, x, n), noise),  # noqa: B023
            z[:n],
            lambda x: objective.residual_jacobian(_head(z, x, n), noise),  # noqa: B023  # pyright: ignore[reportArgumentType]
            **settings,
        )
        iterations += best.nfev
        objective.evaluations += best.nfev
        moved = np.abs(best.x - z[:n]).max()
        z = _head(z, best.x, n)
        if estimated:
            # At given predictions the noise has a maximum of its own.
            before = z[n:].copy()
            z[n:] = _best_noise(objective, z)
            moved = max(moved, np.abs(z[n:] - before).max())
        if moved < 1e-7:
            break
        if objective.on_evaluation is not None:
            objective.on_evaluation(objective.value_and_gradient(z)[0])
    value = objective.value_and_gradient(z)[0]
    return Found(z, value, bool(best.success), str(best.message), iterations)


def _best_noise(objective: Objective, z: np.ndarray) -> np.ndarray:
    """The unbounded scatter that is most likely at the predictions of `z`."""
    n, unknowns = objective.n_model, objective.unknowns
    point = torch.from_numpy(np.asarray(z, float))
    with torch.no_grad():
        predicted = objective.predict(unknowns.values(point))

    def value_and_gradient(tail: np.ndarray) -> tuple[float, np.ndarray]:
        part = torch.tensor(tail, requires_grad=True)
        x = unknowns.values(torch.cat([point[:n], part]))
        value = -objective.log_likelihood_at(predicted, objective.noise(x)) - unknowns.log_prior(x)
        return value.item(), torch.autograd.grad(value, part)[0].numpy()

    return optimize.minimize(value_and_gradient, z[n:], jac=True, method="BFGS", options={"gtol": 1e-8}).x


def _noise_at(objective: Objective, z: np.ndarray) -> np.ndarray:
    return objective.noise(objective.unknowns.values(torch.from_numpy(np.asarray(z, float)))).numpy()


def _head(z: np.ndarray, head: np.ndarray, n: int) -> np.ndarray:
    whole = np.array(z)
    whole[:n] = head
    return whole
