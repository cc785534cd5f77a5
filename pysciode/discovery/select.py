"""The choice among candidates by trajectories."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import sympy

from ..arrays.real_values import whole_number
from ..errors import GradientFailed, SolveFailed
from ..problems.base import Problem, remake
from .criteria import CRITERIA, Criterion, check_within, information_criteria, ranked
from .equations import Candidate, DiscoveredEquations
from .refit import fitting_problem, refit

Choice = tuple[Candidate, ...]


def select(
    equations: DiscoveredEquations,
    data: Any,
    u0: Any = None,
    *,
    tspan: Any = None,
    criterion: Criterion = "aicc",
    within: float = 2.0,
    max_terms: int = 4,
    max_combinations: int = 100,
    estimate_u0: bool = True,
    optimizer: Any = "least_squares",
    progress: bool = False,
    **options: Any,
) -> DiscoveredEquations:
    """Choose among the candidates by how well they describe trajectories, each fitted through the solver.

    Regression only proposes; what decides is the information criterion of the data, whose errors are independent, while
    those of derivatives or of a network are not (Mangan et al. 2017, arXiv:1701.01773, section 2).

    Parameters
    ----------
    equations
        As returned by :func:`discover`, inside known physics where there is some.
    data, u0, tspan, estimate_u0, optimizer, options
        As in :func:`pysciode.discovery.refit`.
    criterion
        ``"aic"``, ``"aicc"`` or ``"bic"``, of the log likelihood of all data.
    within
        As in :func:`pysciode.discovery.discover`.
    max_terms
        Candidates of more terms for one output are left out.
    max_combinations
        How many combinations of candidates are tried at most, those with the fewest terms first.
    progress
        Whether to show a bar.

    Returns
    -------
    DiscoveredEquations
        The best, refitted. Its `table` has a row for each combination of candidates.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or no candidate can be solved.
    """
    from tqdm.auto import tqdm

    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, not {criterion!r}")
    check_within(within)
    for name, value in (("max_terms", max_terms), ("max_combinations", max_combinations)):
        whole_number(value, name, 1)
    groups = [[c for c in front if c.count <= max_terms] for front in equations.alternatives]
    choices = [choice for choice in itertools.product(*groups) if any(c.count for c in choice)]
    if not choices:
        raise ValueError(f"no candidate has {max_terms} terms or fewer")
    choices = sorted(choices, key=lambda choice: sum(c.count for c in choice))[:max_combinations]
    how = {"optimizer": optimizer, **options}
    start = fitting_problem(equations, data, u0, tspan)
    shared = _with_all_terms(equations, start)
    rows = []
    for choice in tqdm(choices, desc="candidates", disable=not progress):
        names = dict(zip(equations.outputs, map(_names, choice), strict=True))
        fitted = _fitted(equations, choice, shared, start, data, estimate_u0, how)
        rows.append({"terms": sum(c.count for c in choice), **names, **fitted})
    table, order = ranked(pd.DataFrame(rows), criterion, within)
    if not np.isfinite(table[criterion].iloc[0]):
        raise ValueError(f"no candidate could be fitted to the data: {table['note'].iloc[0]}")
    best = equations.with_candidates(choices[order[0]])
    best = refit(best, data, start.u0, tspan=start.tspan, estimate_u0=estimate_u0, **how)
    return best.with_table(table, criterion)


def _with_all_terms(equations: DiscoveredEquations, start: Problem) -> Problem | None:
    """One problem for all candidates, in which the coefficients of other candidates' terms are zero.

    So one model is compiled instead of dozens. None where candidates are no sums of terms with coefficients.
    """
    if any(c.nonlinear is not None for front in equations.alternatives for c in front):
        return None
    forms, zeros = [], {}
    for front in equations.alternatives:
        terms = {name: term for c in front for name, term in zip(c.coefficients, c.terms, strict=True)}
        forms.append(sympy.Add(*(sympy.Symbol(name) * term for name, term in terms.items())))
        zeros |= dict.fromkeys(terms, 0.0)
    return replace(equations, forms=tuple(forms), coefficients=zeros).problem(start.u0, start.tspan)


def _fitted(
    equations: DiscoveredEquations,
    choice: Choice,
    shared: Problem | None,
    start: Problem,
    data: Any,
    estimate_u0: bool,
    how: dict[str, Any],
) -> dict[str, Any]:
    """Criteria of one choice."""
    from ..fitting.fit import fit

    proposed = equations.with_candidates(choice)
    if shared is None:
        problem = proposed.problem(start.u0, start.tspan)
    else:
        problem = remake(shared, p={**shared.p, **proposed.coefficients})
    estimated = [*proposed.coefficients, *(["u0"] if estimate_u0 else [])]
    try:
        result = fit(problem, data, dict.fromkeys(estimated), standard_errors=False, progress=False, **how)
    except (SolveFailed, GradientFailed) as error:
        return {**dict.fromkeys(CRITERIA, np.inf), "log_likelihood": -np.inf, "note": str(error).splitlines()[0]}
    criteria = information_criteria(-2 * result.log_likelihood, result.count, len(result.names))
    note = "" if result.converged else result.message
    return {**criteria, "log_likelihood": result.log_likelihood, "note": note}


def _names(candidate: Candidate) -> str:
    """The terms without their coefficients."""
    if candidate.nonlinear is not None:
        return str(candidate.nonlinear)
    return ", ".join(map(str, candidate.terms)) or "none"
