"""Coefficients from trajectories, through the solver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .equations import DiscoveredEquations

if TYPE_CHECKING:
    from ..problems.base import Problem


def refit(
    equations: DiscoveredEquations,
    data: Any,
    u0: Any = None,
    *,
    tspan: Any = None,
    estimate_u0: bool = True,
    parameters: Mapping[str, Any] | None = None,
    optimizer: Any = "least_squares",
    progress: bool = False,
    **options: Any,
) -> DiscoveredEquations:
    """Fit the coefficients to trajectories, by solving the equations.

    Coefficients from regression carry the errors of derivatives, or of a network; these carry only the errors of the
    data, and have standard errors.

    Parameters
    ----------
    equations
        For every state: derivatives of all, or terms within known physics (:meth:`DiscoveredEquations.inside`).
    data
        As in :func:`pysciode.fitting.fit`: an ``Experiment``, a pair ``(t, observed)``, a data frame, or a list or
        dict of these.
    u0
        The initial state, or a first guess of it; None takes the first observation, where that is whole.
    tspan
        Time span; by default that of the data.
    estimate_u0
        Whether the initial state is estimated, too.
    parameters
        What else is estimated, or with which bounds and priors, by name. Known parameters of the physics are kept
        unless they are named here.
    optimizer, progress, options
        As in :func:`pysciode.fitting.fit`.

    Returns
    -------
    DiscoveredEquations
        With the new coefficients, their standard errors, and the fit as its `fit`.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.
    SolveFailed
        If the equations can't be solved with the coefficients that they have.
    """
    from ..fitting.fit import fit

    problem = fitting_problem(equations, data, u0, tspan)
    estimated = dict.fromkeys(equations.coefficients) | ({"u0": None} if estimate_u0 else {})
    estimated |= dict(parameters or {})
    if not estimated:
        raise ValueError("equations have no coefficients, and nothing else is to be estimated")
    result = fit(problem, data, estimated, optimizer=optimizer, progress=progress, **options)
    errors = result.standard_errors if result.covariance is not None else {}
    names = equations.coefficients
    estimates = {name: result.estimates[name] for name in names}
    return equations.with_coefficients(estimates, {name: errors[name] for name in names if name in errors}, result)


def fitting_problem(equations: DiscoveredEquations, data: Any, u0: Any, tspan: Any) -> Problem:
    """The problem that is fitted, with what isn't given taken from the data."""
    from ..fitting.experiment import as_experiments

    experiments = as_experiments(data)
    if tspan is None:
        first = min(e.t.min() if e.t0 is None else e.t0 for e in experiments)
        tspan = (float(first), float(max(e.t.max() for e in experiments)))
    if u0 is None:
        first = experiments[0]
        start = first.observed[np.argmin(first.t)]
        if len(start) != len(equations.states) or not np.isfinite(start).all():
            raise ValueError("u0 must be given where the first observation is not the whole state")
        u0 = start
    return equations.problem(np.asarray(u0, float), tspan)
