"""Sets of terms that explain samples: PySINDy's optimisers over a sweep of their sparsity, and all small sets.

Brunton, Proctor, Kutz, "Discovering governing equations from data by sparse identification of nonlinear dynamical
systems" (PNAS 113, 2016, arXiv:1509.03580); the sweep, and the choice from it by an information criterion: Mangan et
al. 2017, see :mod:`pysciode.discovery.criteria`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import sympy

from .equations import Candidate

DEFAULT_THRESHOLDS = np.logspace(-3.0, 0.0, 25)
_RIDGES = (0.0, 1e-2)
_ALL_SUBSETS_AT_MOST = 5_000
# What PySINDy's optimisers call their sparsity; the weight of SR3's L0 norm is half the square of its threshold.
_SPARSITY = {"threshold": lambda x: x, "reg_weight_lam": lambda x: 0.5 * x**2}


@dataclass(frozen=True)
class Sweep:
    """How candidates are found.

    Attributes
    ----------
    optimizers
        Optimisers of PySINDy; empty for sequentially thresholded least squares without and with a small ridge.
    thresholds
        The thresholds of the sweep, increasing.
    normalize
        Whether columns and output are scaled to a norm of one before the regression.
    exhaustive
        All sets of up to so many terms are candidates, too.
    max_terms
        Terms at most.
    """

    optimizers: tuple[Any, ...]
    thresholds: np.ndarray
    normalize: bool
    exhaustive: int
    max_terms: int | None


def candidates(values: np.ndarray, y: np.ndarray, terms: Sequence[sympy.Expr], output: str, sweep: Sweep) -> list[Candidate]:
    """Candidates for one output, each with the coefficients of least squares.

    Parameters
    ----------
    values
        The terms at the samples, shape ``(n, m)``.
    y
        The output there, shape ``(n,)``.
    """
    scales = np.linalg.norm(values, axis=0)
    limit = min(len(terms), len(y) - 1 if sweep.max_terms is None else sweep.max_terms)
    sets: dict[tuple[int, ...], float] = {(): float("nan")}
    for threshold, support in _swept(values / scales, y, scales, sweep):
        if len(support) <= limit:
            sets[support] = max(threshold, sets.get(support, -np.inf))
    for size in range(1, min(sweep.exhaustive, limit) + 1):
        if comb(len(terms), size) <= _ALL_SUBSETS_AT_MOST:
            for support in combinations(range(len(terms)), size):
                sets.setdefault(support, float("nan"))
    features, target = _compressed(values / scales, y)
    return [_least_squares(features, scales, target, terms, output, *item) for item in sets.items()]


def _swept(scaled: np.ndarray, y: np.ndarray, scales: np.ndarray, sweep: Sweep) -> list[tuple[float, tuple[int, ...]]]:
    """``(threshold, set of terms)`` for each regression."""
    from pysindy import STLSQ
    from sklearn.base import clone

    optimizers = sweep.optimizers or [STLSQ(alpha=ridge, max_iter=50, unbias=False) for ridge in _RIDGES]
    all_features = scaled if sweep.normalize else scaled * scales
    all_target = y / np.linalg.norm(y) if sweep.normalize and y.any() else y
    few = _compressed(all_features, all_target)
    out = []
    for template in optimizers:
        features, target = (all_features, all_target) if _looks_at_samples(template) else few
        key = next((key for key in _SPARSITY if hasattr(_innermost(template), key)), None)
        for threshold in sweep.thresholds if key is not None else [float("nan")]:
            optimizer: Any = clone(template)
            if key is not None:
                setattr(_innermost(optimizer), key, _SPARSITY[key](threshold))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of thresholds that leave nothing, which is a candidate too
                optimizer.fit(features, target[:, None])
            # Greedy ones (SSR, FROLS) have no threshold, but a path of one term more or less at each step.
            path = [*getattr(optimizer, "history_", []), optimizer.coef_] if key is None else [optimizer.coef_]
            out += [(float(threshold), tuple(map(int, np.flatnonzero(np.atleast_2d(c)[0])))) for c in path]
    return out


def _compressed(features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As many rows as columns, with the same sum of squares for any coefficients."""
    both = np.column_stack([features, target])
    triangle: Any = np.linalg.qr(both, mode="r") if len(both) > both.shape[1] else both
    return triangle[:, :-1], triangle[:, -1]


def _looks_at_samples(optimizer: Any) -> bool:
    """Whether it does more with samples than sum the squares of their residuals: draws or drops some of them."""
    return hasattr(optimizer, "opt") or bool(getattr(optimizer, "trimming_fraction", 0))


def _innermost(optimizer: Any) -> Any:
    """The optimiser within an ensemble."""
    return _innermost(optimizer.opt) if hasattr(optimizer, "opt") else optimizer


def _least_squares(
    scaled: np.ndarray,
    scales: np.ndarray,
    y: np.ndarray,
    terms: Sequence[sympy.Expr],
    output: str,
    support: tuple[int, ...],
    threshold: float,
) -> Candidate:
    chosen = list(support)
    shares = np.linalg.lstsq(scaled[:, chosen], y, rcond=None)[0] if chosen else np.empty(0)
    found = shares / scales[chosen]
    residuals = y - scaled[:, chosen] @ shares
    names = [f"{output}[{terms[i]}]" for i in chosen]
    return Candidate(
        dict(zip(names, map(float, found), strict=True)),
        float(residuals @ residuals),
        terms=tuple(terms[i] for i in chosen),
        threshold=threshold,
    )
