"""Equations from samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import sympy

from ..arrays.parameters import is_tensor
from ..arrays.real_values import whole_number
from ..errors import require_extra_package
from .criteria import (
    CRITERIA,
    Criterion,
    check_within,
    correlation_time,
    deviance,
    information_criteria,
    ranked,
)
from .derivatives import Differentiated, differentiate, differentiate_with
from .equations import Candidate, DiscoveredEquations, evaluate
from .library import candidate_terms
from .physics import as_symbols
from .sparse_regression import DEFAULT_THRESHOLDS, Sweep, candidates


def discover(
    x: Any,
    y: Any = None,
    *,
    t: Any = None,
    symbols: Any = None,
    outputs: Sequence[str] | None = None,
    method: Literal["sindy", "pysr"] = "sindy",
    library: Any = None,
    optimizer: Any = None,
    thresholds: Any = None,
    normalize: bool = True,
    exhaustive: int = 2,
    criterion: Criterion = "aicc",
    within: float = 2.0,
    resolution: float = 1e-3,
    max_terms: int | None = None,
    effective_samples: float | None = None,
    differentiation: Any = None,
    **options: Any,
) -> DiscoveredEquations:
    """Find expressions for outputs as functions of inputs, or for the derivatives of states from their trajectories.

    For each output candidates are made, each with coefficients of least squares: by default the sets of terms that
    sequentially thresholded least squares leaves, over a sweep of its threshold. An information criterion of the
    residuals chooses among them (Mangan et al. 2017, arXiv:1701.01773).

    Parameters
    ----------
    x
        Samples of the inputs, shape ``(n, d)``; with `t`, trajectories of the states: one of shape ``(n, d)``, or a
        list of them.
    y
        The outputs there, shape ``(n, m)`` or ``(n,)``: derivatives, or outputs of a trained network. None takes the
        derivatives of `x` along `t`.
    t
        Times of `x`, shape ``(n,)``, increasing; or a list of them. With `y`, it must not be given.
    symbols
        Symbols or names of the inputs; ``x0, x1, …`` by default. One called ``t`` is the time.
    outputs
        Names of the outputs. By default those of the inputs without time, if there are as many: then outputs are
        derivatives.
    method
        ``"sindy"``: sparse regression by PySINDy; ``"pysr"``: search among expressions by PySR, in the same Julia
        process.
    library
        Terms: a degree of polynomials, a list of SymPy expressions, or a feature library of PySINDy's (polynomials,
        Fourier, custom functions, and their concatenations). By default polynomials of degree 3.
    optimizer
        An optimiser of PySINDy's (``STLSQ``, ``SR3``, …), or a list of them, whose sets of terms are all candidates.
        Copies are made. Those with constraints are refused, since the coefficients come from least squares.
    thresholds
        Of the sweep: ``threshold`` of the optimiser, or the threshold of SR3's L0 norm. By default 25 between 0.001
        and 1.
    normalize
        Whether terms and outputs are scaled to a norm of one for the optimiser: a threshold is then the share that a
        term must have in the output, whatever the units.
    exhaustive
        All sets of up to so many terms are candidates, too, as long as they are few enough.
    criterion
        ``"aic"``, ``"aicc"`` or ``"bic"``.
    within
        The fewest terms are taken among the candidates whose criterion is at most this far from the lowest: up to 2,
        there is as good as nothing between them (Burnham, Anderson, *Model Selection and Multimodel Inference*, 2nd
        ed., section 2.6).
    resolution
        Share of an output's root mean square below which residuals are no reason for another term: no derivative and no
        network is exact. For outputs of a network, its error relative to them, such as the spread between restarts.
    max_terms
        Terms of an output at most.
    effective_samples
        How many independent samples the criterion counts. By default all; of derivatives that were taken here, which
        share errors with their neighbours, all over the correlation time of the residuals.
    differentiation
        ``differentiation(u, t)``, such as those of ``pysindy.differentiation``; where it smooths states, these are
        the smooth ones. By default smoothed differences (11 samples, equal steps), with the terms smoothed likewise.
    options
        Of ``pysr.PySRRegressor``, with ``method="pysr"``.

    Returns
    -------
    DiscoveredEquations
        The chosen expressions; all others are in its `table`, and the best of each size in its `alternatives`.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.
    ImportError
        If PySINDy, or PySR, is not installed.

    Notes
    -----
    The errors of a trained network are smooth along a trajectory, as terms are: more of them always describe the
    network better, and the criterion takes too many. Give `resolution` then, or let the data decide by
    :func:`pysciode.discovery.select`.

    Examples
    --------
    >>> t = np.linspace(0, 10, 500)
    >>> found = discover(np.stack([np.cos(t), -np.sin(t)], 1), t=t, symbols="x v")  # doctest: +SKIP
    >>> print(found)  # doctest: +SKIP
    """
    if method not in ("sindy", "pysr"):
        raise ValueError(f"method must be 'sindy' or 'pysr', not {method!r}")
    if criterion not in CRITERIA:
        raise ValueError(f"criterion must be one of {', '.join(CRITERIA)}, not {criterion!r}")
    for name, value, least in (("exhaustive", exhaustive, 0), ("max_terms", max_terms, 1)):
        if value is not None:
            whole_number(value, name, least)
    if isinstance(resolution, bool) or not isinstance(resolution, (int, float)) or not 0 <= resolution < 1:
        raise ValueError(f"resolution must lie between 0 and 1, not {resolution!r}")
    check_within(within)
    if effective_samples is not None and not effective_samples > 0:
        raise ValueError(f"effective_samples must be positive, not {effective_samples!r}")
    if method == "sindy":
        if options:
            raise TypeError(f"discover has no argument {next(iter(options))!r}; options are those of method='pysr'")
        require_extra_package("pysindy", "sparse regression", "discovery")
    elif library is not None or optimizer is not None or thresholds is not None:
        raise ValueError("library, optimizer and thresholds are those of method='sindy'")
    samples = _samples(x, y, t, differentiation, averaged=method == "sindy")
    inputs, targets = samples.x, samples.y
    symbols = _symbols(symbols, inputs.shape[1])
    names = _outputs(outputs, symbols, targets.shape[1])
    if method == "sindy":
        sweep = Sweep(_optimizers(optimizer), _thresholds(thresholds), bool(normalize), exhaustive, max_terms)
        terms, values = candidate_terms(library, symbols, inputs)
        values = samples.average(values)
        found = [candidates(values, column, terms, name, sweep) for column, name in zip(targets.T, names, strict=True)]
    else:
        from .pysr_search import pysr_candidates

        found = [pysr_candidates(inputs, column, symbols, name, options, max_terms) for column, name in zip(targets.T, names, strict=True)]
    tables, best, fronts = [], [], []
    for column, name, group in zip(targets.T, names, found, strict=True):
        n = effective_samples or float(len(column))
        if effective_samples is None and y is None:
            best_fit = min(group, key=lambda c: c.rss).expression
            predicted = samples.average(evaluate([best_fit], symbols, inputs))[:, 0]
            n /= correlation_time(column - predicted)
        table = _table(group, column, name, n, resolution)
        table, order = ranked(table, criterion, within)
        tables.append(table)
        best.append(group[order[0]])
        fronts.append(_front(group))
    return DiscoveredEquations(
        symbols=symbols,
        outputs=names,
        forms=tuple(c.form for c in best),
        coefficients={key: value for c in best for key, value in c.coefficients.items()},
        table=pd.concat(tables, ignore_index=True),
        criterion=criterion,
        alternatives=tuple(fronts),
    )


def _table(group: list[Candidate], y: np.ndarray, output: str, n: float, resolution: float) -> pd.DataFrame:
    """A row for each candidate."""
    least = float(y @ y) * max(resolution, 1e-10) ** 2  # rounding is always there
    return pd.DataFrame(
        {
            "output": output,
            "terms": c.count,
            "expression": str(c),
            "rss": c.rss,
            **information_criteria(deviance(max(c.rss, least), len(y), n), n, c.count + 1),
            "threshold": c.threshold,
        }
        for c in group
    )


def _front(group: list[Candidate]) -> tuple[Candidate, ...]:
    """The best of each size, as far as it is better than all smaller ones."""
    out: list[Candidate] = []
    for c in sorted(group, key=lambda c: (c.count, c.rss)):
        if not out or (c.count > out[-1].count and c.rss < out[-1].rss):
            out.append(c)
    return tuple(out)


def _samples(x: Any, y: Any, t: Any, differentiation: Any, *, averaged: bool) -> Differentiated:
    if (y is None) == (t is None):
        raise ValueError("give y, the outputs, or t, the times of x; one of the two")
    if y is None:
        if differentiation is not None and not callable(differentiation):
            raise TypeError(f"differentiation must be a function of (u, t), not {type(differentiation).__name__}")
        several = isinstance(x, (list, tuple)) and isinstance(t, (list, tuple)) and np.ndim(t[0]) == 1
        states = [_matrix(part, "x") for part in (x if several else [x])]
        times = [_vector(part, "t") for part in (t if several else [t])]
        if len(states) != len(times) or any(len(a) != len(b) for a, b in zip(states, times, strict=False)):
            raise ValueError("t must hold as many times as x has samples")
        if any((np.diff(part) <= 0).any() for part in times):
            raise ValueError("t must be increasing")
        if len({part.shape[1] for part in states}) != 1:
            raise ValueError("all trajectories of x must have the same states")
        if differentiation is None:
            found = differentiate(states, times)
            if averaged:
                return found
            # No expression can be averaged before it is known; the smooth states are the next best.
            return Differentiated(found.average(found.x), found.y, lambda values: values)
        return differentiate_with(differentiation, states, times)
    if differentiation is not None:
        raise ValueError("differentiation is for x along t, not where y is given")
    inputs, targets = _matrix(x, "x"), _matrix(y, "y")
    if len(inputs) != len(targets):
        raise ValueError(f"y must have as many samples as x, {len(inputs)}, not {len(targets)}")
    return Differentiated(inputs, targets, lambda values: values)


def _matrix(given: Any, name: str) -> np.ndarray:
    out = _numbers(given, name)
    out = out[:, None] if out.ndim == 1 else out
    if out.ndim != 2 or out.size == 0:
        raise ValueError(f"{name} must have shape (n, {'d' if name == 'x' else 'm'}), not {out.shape}")
    return out


def _vector(given: Any, name: str) -> np.ndarray:
    out = _numbers(given, name)
    if out.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), not {out.shape}")
    return out


def _numbers(given: Any, name: str) -> np.ndarray:
    if is_tensor(given):
        given = given.detach().cpu().numpy()
    try:
        out = np.array(given, float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numbers: {error}") from None
    if not np.isfinite(out).all():
        raise ValueError(f"{name} must be finite")
    return out


def _symbols(given: Any, count: int) -> tuple[sympy.Symbol, ...]:
    out = as_symbols([f"x{i}" for i in range(count)] if given is None else given, "symbols")
    if len(out) != count:
        raise ValueError(f"symbols must name each of the {count} columns of x, not {', '.join(map(str, out))}")
    return out


def _outputs(given: Sequence[str] | None, symbols: tuple[sympy.Symbol, ...], count: int) -> tuple[str, ...]:
    states = tuple(str(s) for s in symbols if str(s) != "t")
    if given is None:
        return states if len(states) == count else tuple(f"y{j}" for j in range(count))
    out = tuple(str(x) for x in ([given] if isinstance(given, str) else given))
    if len(out) != count or len(set(out)) != count:
        raise ValueError(f"outputs must name each of the {count} outputs once, not {', '.join(out)}")
    return out


def _optimizers(given: Any) -> tuple[Any, ...]:
    out = () if given is None else tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for optimizer in out:
        if not hasattr(optimizer, "fit") or not hasattr(optimizer, "get_params"):
            raise TypeError(f"optimizer must be one of PySINDy's, not {type(optimizer).__name__}")
        if getattr(optimizer, "constraint_lhs", None) is not None:
            raise ValueError("optimizer has constraints, which least squares on its terms would not keep")
    return out


def _thresholds(given: Any) -> np.ndarray:
    if given is None:
        return DEFAULT_THRESHOLDS
    out = np.unique(_numbers(given, "thresholds"))
    if out.ndim != 1 or not len(out) or (out < 0).any():
        raise ValueError("thresholds must be numbers of 0 or more")
    return out
