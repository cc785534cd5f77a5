"""Searches by Optimization.jl, which run inside Julia."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from ..engines.base import SolveRequest
from ..solving.options import solve_options
from .likelihoods import Likelihood, LogNormal, NegativeBinomial, Normal, Poisson
from .objective import Objective
from .observation import Entries
from .optimization_jl import FittedExperiment, Method, minimize
from .optimization_jl import Likelihood as JuliaLikelihood
from .optimizers import Found
from .simulation import Simulation

LIKELIHOODS: dict[type[Likelihood], JuliaLikelihood] = {
    Normal: "normal",
    LogNormal: "lognormal",
    Poisson: "poisson",
    NegativeBinomial: "negative_binomial",
}


def check_for_julia(objective: Objective) -> None:
    """Refuse options without a counterpart in Julia.

    Raises
    ------
    ValueError
        For priors, observation functions, likelihoods of one's own, or another engine than Julia's.
    """
    reason = None
    if objective.unknowns.has_priors:
        reason = "takes no priors"
    elif not all(isinstance(x.observe, Entries) for x in objective.simulations):
        reason = "observes entries of the state only, not a function of it"
    elif type(objective.likelihood) not in LIKELIHOODS:
        reason = f"doesn't know {type(objective.likelihood).__name__}"
    elif objective.options["engine"].name != "julia":
        reason = f"runs in Julia, not on the {objective.options['engine'].name} engine"
    if reason is not None:
        raise ValueError(f"a search by Optimization.jl {reason}; take one of SciPy's methods")


def minimize_in_julia(objective: Objective, z0: np.ndarray, method: str, *, maxiter: int, tol: float) -> Found:
    """Search from `z0`; `method` is one of :data:`~pysciode.fitting.optimizers.IN_JULIA`."""
    observe = objective.on_evaluation
    found = minimize(
        [_experiment(objective, x) for x in objective.simulations],
        [(x.lower, x.upper) for x in objective.unknowns.parameters],
        LIKELIHOODS[type(objective.likelihood)],
        z0,
        cast(Method, method.removeprefix("Optim.")),
        maxiters=maxiter,
        gradient_tolerance=tol,
        progress=None if observe is None else lambda iteration, value: observe(value),
    )
    objective.evaluations += found.evaluations
    return Found(found.z, found.value, found.converged, found.retcode, found.iterations)


def _experiment(objective: Objective, simulation: Simulation) -> FittedExperiment:
    options = dict(objective.options)
    problem, data = simulation.problem, simulation.experiment
    algorithm, sensealg = options.pop("algorithm"), options.pop("sensealg")
    del options["engine"]
    known = {key: options.pop(key) for key in ("rtol", "atol", "maxiters", "dt", "dtmin", "dtmax", "tstops") if key in options}
    request = SolveRequest(
        problem,
        {"u0": simulation.u0.numpy(), "p": simulation.p.numpy()},
        problem.tspan,
        algorithm,
        solve_options(problem, saveat=simulation.times, dense=False, extra=options, **known),
        sensealg,
        frozenset(),
    )
    noise = objective.likelihood.known(len(data.series))
    unknown = np.isnan(noise)
    # Those of the noise follow the model's, in the order of the series; Julia counts from one.
    noise_index = np.where(unknown, objective.n_model + np.cumsum(unknown), 0)
    return FittedExperiment(
        request=request,
        observed=data.observed,
        columns=np.array(simulation.observe.places),
        u0_index=_index(simulation.u0_places, problem.n),
        p_index=_index(simulation.p_places, problem.layout.size),
        noise_index=noise_index,
        noise_value=np.where(unknown, 1.0, noise),
        rows=simulation.rows,
        weights=data.weights,
    )


def _index(places: torch.Tensor, length: int) -> np.ndarray:
    found = np.zeros(length, dtype=np.int64)
    found[places[0].numpy()] = places[1].numpy() + 1
    return found
