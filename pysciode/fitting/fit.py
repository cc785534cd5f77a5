"""Estimate the parameters of a model from data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays.real_values import whole_number
from ..engines import get_engine
from ..engines.base import Engine
from ..errors import GradientFailed, SolveFailed
from ..methods.adjoints import SensitivityAlgorithm, check_sensealg
from ..methods.algorithms import Algorithm, Tsit5, check_algorithm
from ..problems.base import Problem, check_problem
from .experiment import as_experiments
from .fit_result import FitResult
from .information import fisher_information
from .likelihoods import Likelihood, Normal
from .objective import Objective
from .observation import as_observation
from .optimizers import IN_JULIA, Found, TorchOptimizer, check_optimizer, minimize


def fit(
    problem: Problem,
    data: Any,
    parameters: Any = None,
    *,
    observe: Any = None,
    likelihood: Likelihood | None = None,
    optimizer: str | TorchOptimizer = "L-BFGS-B",
    starts: int = 1,
    maxiter: int = 500,
    tol: float = 1e-5,
    algorithm: Algorithm | str | None = None,
    rtol: float | None = 1e-7,
    atol: Any = None,
    sensealg: SensitivityAlgorithm | None = None,
    maxiters: int = 10_000,
    engine: str | Engine | None = None,
    standard_errors: bool = True,
    seed: int | None = None,
    progress: bool = True,
    on_evaluation: Callable[[float], None] | None = None,
    optimizer_options: dict[str, Any] | None = None,
    **solver_options: Any,
) -> FitResult:
    """Fit a model to data by maximum likelihood, or with priors to the maximum of the posterior density.

    Ctrl-C ends the search, and the best that was found is the result.

    Parameters
    ----------
    problem
        The model, with values for all parameters: those that are not estimated keep them.
    data
        An :class:`Experiment`; a pair ``(t, observed)``; a data frame; or a list or dict of these. See
        :func:`~pysciode.fitting.experiment.as_experiments`.
    parameters
        What is estimated: names as in ``problem.layout.names``, an array's name for all its entries, ``u0`` or ``u0[i]``
        for initial values; in a dict, a :class:`Parameter`, a pair of bounds, or a prior for each. None is all
        parameters. Parameters of an ``nn.Module`` are among them by their names.
    observe
        What is observed: entries of the flat state, or a function ``observe(u, p, t)`` in torch, of states ``(k, *shape)``,
        parameters in their structure and times ``(k,)``, to ``(k, m)``. None is the whole state. The state of a second-order
        problem is ``[du, u]``.
    likelihood
        `Normal` (the default), `LogNormal`, `Poisson` or `NegativeBinomial`.
    optimizer
        A method of SciPy's ``minimize`` by name (those that want second derivatives get the expected information);
        ``"least_squares"``; ``"Optim.LBFGS"`` and its like, which run whole inside Julia; or a function from parameters to
        one of torch's optimisers, which then takes `maxiter` steps.
    starts
        Searches from so many places, the first one being the parameters' start; the best is taken.
    maxiter, tol
        Iterations and tolerance of each search.
    algorithm
        The solver; None is ``Tsit5()``. Stiff models need a stiff one, such as ``Rodas5P()``.
    rtol, atol, sensealg, maxiters, engine, solver_options
        As in :func:`pysciode.solve`; fewer steps are allowed, because searches and samplers try absurd values.
    standard_errors
        Whether Fisher's information is computed, and from it standard errors.
    seed
        Seed for the starts of the searches.
    progress
        Whether to show a bar with the log likelihood.
    on_evaluation
        Called with the log likelihood, priors included, after each gradient.
    optimizer_options
        Further options of SciPy's method.

    Returns
    -------
    FitResult
        Estimates, standard errors, predictions with bands, profiles, plots.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.
    SolveFailed, GradientFailed
        If the model can't be solved at the start. The search steps back from later failures.
    EngineUnavailable
        If `optimizer` needs a Julia package that is not installed.

    Warns
    -----
    NotIdentifiable
        If Fisher's information is singular.
    RuntimeWarning
        If the search ended before it converged.

    Examples
    --------
    >>> result = fit(problem, (t, observed), {"alpha": (0, None), "beta": Parameter(0.1, lower=0)})  # doctest: +SKIP
    >>> result.estimates["alpha"], result.standard_errors["alpha"]  # doctest: +SKIP
    """
    began = time.perf_counter()
    check_problem(problem)
    likelihood = Normal() if likelihood is None else likelihood
    if not isinstance(likelihood, Likelihood):
        raise TypeError(f"likelihood must be a Likelihood such as Normal(), not {likelihood!r}")
    for name, value in (("starts", starts), ("maxiter", maxiter)):
        whole_number(value, name, 1)
    experiments = as_experiments(data)
    backend = get_engine(engine)
    options = {
        "rtol": rtol,
        "atol": atol,
        "sensealg": check_sensealg(sensealg),
        "maxiters": maxiters,
        "engine": backend,
        **solver_options,
    }
    # The embedded engine's own default is the same method.
    options["algorithm"] = Tsit5() if algorithm is None and backend.name == "julia" else check_algorithm(algorithm)
    objective = Objective(problem, experiments, parameters, likelihood, as_observation(observe, problem), options)
    check_optimizer(optimizer, objective)
    if isinstance(optimizer, str) and optimizer in IN_JULIA:
        from .julia_search import check_for_julia

        check_for_julia(objective)

    unknowns = objective.unknowns
    places = [unknowns.unbounded(x) for x in unknowns.draw_starts(starts, np.random.default_rng(seed))]
    objective.check_start(places[0])
    searches = _search(objective, places, optimizer, maxiter, tol, optimizer_options or {}, progress, on_evaluation)
    best = min(searches, key=lambda x: x.value)
    if not best.converged:
        warnings.warn(f"the search ended before it converged: {best.message}", RuntimeWarning, stacklevel=2)
    information = fisher_information(objective, best.z) if standard_errors else None
    return FitResult.of(
        objective,
        best,
        information,
        optimizer=optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", "torch"),
        searches=np.sort([x.value for x in searches]),
        engine=backend.name,
        seconds=time.perf_counter() - began,
    )


def _search(
    objective: Objective,
    places: list[np.ndarray],
    optimizer: str | TorchOptimizer,
    maxiter: int,
    tol: float,
    options: dict[str, Any],
    progress: bool,
    on_evaluation: Callable[[float], None] | None,
) -> list[Found]:
    from tqdm.auto import tqdm

    found: list[Found] = []
    with tqdm(desc="fit", unit=" gradients", disable=not progress) as bar:

        def advance(value: float) -> None:
            which = f"start {len(found) + 1} of {len(places)}, " if len(places) > 1 else ""
            bar.set_postfix_str(f"{which}log-likelihood {-value:.6g}", refresh=False)
            bar.update()
            if on_evaluation is not None:
                on_evaluation(-value)

        objective.on_evaluation = advance
        for i, z0 in enumerate(places):
            try:
                if i:
                    objective.check_start(z0)
            except (SolveFailed, GradientFailed, ValueError):
                continue  # nothing begins there; the first place was checked
            try:
                found.append(_search_from(objective, z0, optimizer, maxiter, tol, options))
            except KeyboardInterrupt:
                if objective.best is None:
                    raise
                found.append(Found(objective.best[1], objective.best[0], False, "interrupted", 0))
                break
        objective.on_evaluation = None
    return found


def _search_from(
    objective: Objective, z0: np.ndarray, optimizer: str | TorchOptimizer, maxiter: int, tol: float, options: dict[str, Any]
) -> Found:
    if isinstance(optimizer, str) and optimizer in IN_JULIA:
        from .julia_search import minimize_in_julia

        return minimize_in_julia(objective, z0, optimizer, maxiter=maxiter, tol=tol)
    return minimize(objective, z0, optimizer, maxiter=maxiter, tol=tol, **options)
