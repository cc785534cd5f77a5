"""Experiments: observations with their times and conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from ..arrays.parameters import is_tensor


@dataclass(frozen=True, eq=False)
class Experiment:
    """Observations of one run of a system.

    Attributes
    ----------
    t
        Times, shape ``(k,)``, in any order; repeated ones are replicates.
    observed
        Shape ``(k, m)``, or ``(k,)`` for one series; NaN where nothing was observed.
    u0
        The initial state in this experiment; None is the problem's.
    p
        Values that parameters have in this experiment, by name (doses, temperatures, …); they are not estimated here.
    t0
        When the experiment begins; None is the start of the problem's time span.
    weights
        Factors of the log likelihood of each observation: one number, shape ``(m,)`` or ``(k, m)``.
    series
        Names of the `m` series.
    name
        The experiment's name.

    Raises
    ------
    TypeError, ValueError
        If shapes don't fit together, times aren't finite, or nothing at all was observed.
    """

    t: np.ndarray
    observed: np.ndarray
    u0: Any = None
    p: Mapping[str, float] = field(default_factory=dict)
    t0: float | None = None
    weights: Any = None
    series: Sequence[str] = ()
    name: str | None = None

    def __post_init__(self) -> None:
        t, observed = _floats(self.t, "t"), _floats(self.observed, "observed")
        if t.ndim != 1 or not len(t):
            raise ValueError(f"t must have shape (k,), not {t.shape}")
        if not np.isfinite(t).all():
            raise ValueError("t must be finite")
        observed = observed[:, None] if observed.ndim == 1 else observed
        if observed.ndim != 2 or len(observed) != len(t):
            raise ValueError(f"observed must have shape ({len(t)}, m), a row for each time, not {observed.shape}")
        if np.isinf(observed).any() or np.isnan(observed).all():
            raise ValueError("observed must hold finite numbers, NaN where there is none")
        if self.t0 is not None and not np.isfinite(self.t0):
            raise ValueError(f"t0 must be finite, not {self.t0}")
        series = () if self.series is None else tuple(self.series)
        series = series or tuple(f"y[{j}]" for j in range(observed.shape[1]))
        if len(series) != observed.shape[1] or len(set(series)) != len(series):
            raise ValueError(f"series must name each of the {observed.shape[1]} columns of observed once, not {series}")
        values = {"t": t, "observed": observed, "weights": _weights(self.weights, observed), "series": series}
        for key, value in (values | {"p": dict(self.p)}).items():
            object.__setattr__(self, key, value)


def as_experiments(data: Any) -> list[Experiment]:
    """Return the experiments of what users give.

    Parameters
    ----------
    data
        An :class:`Experiment`; a pair ``(t, observed)``; a data frame with times in a column ``t`` or ``time``, or in its
        index, and a column for each series; or a list or dict (by name) of these.

    Raises
    ------
    TypeError, ValueError
        If `data` is none of these, or two experiments have the same name or different series.
    """
    if isinstance(data, Mapping):
        found = [replace(_experiment(x), name=str(name)) for name, x in data.items()]
    elif isinstance(data, list):
        found = [_experiment(x) for x in data]
    else:
        found = [_experiment(data)]
    if not found:
        raise ValueError("data must hold an experiment")
    found = [x if x.name is not None else replace(x, name=str(i)) for i, x in enumerate(found)]
    names = [x.name for x in found if x.name is not None]
    if len(set(names)) != len(names):
        raise ValueError(f"experiments must have different names, not {names}")
    if any("@" in name for name in names):
        raise ValueError(f"names of experiments must not have an @, which stands before them in names of estimates: {names}")
    for x in found[1:]:
        if x.series != found[0].series:
            raise ValueError(
                f"all experiments must have the same series (NaN where one was not observed): {x.name!r} has {x.series}, "
                f"{found[0].name!r} {found[0].series}"
            )
    return found


def _experiment(data: Any) -> Experiment:
    if isinstance(data, Experiment):
        return data
    if isinstance(data, pd.DataFrame):
        times = next((name for name in ("t", "time") if name in data.columns), None)
        values = data if times is None else data.drop(columns=times)
        t = data.index if times is None else data[times]
        return Experiment(t.to_numpy(), values.to_numpy(float), series=tuple(map(str, values.columns)))
    if isinstance(data, tuple) and len(data) == 2:
        return Experiment(*data)
    raise TypeError(
        f"data must be an Experiment, a pair (t, observed), a data frame, or a list or dict of these, not {type(data).__name__}"
    )


def _floats(x: Any, name: str) -> np.ndarray:
    if is_tensor(x):
        x = x.detach().cpu().numpy()
    try:
        return np.array(x, dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numbers: {error}") from None


def _weights(given: Any, observed: np.ndarray) -> np.ndarray:
    if given is None:
        return np.ones_like(observed)
    weights = _floats(given, "weights")
    try:
        weights = np.broadcast_to(weights, observed.shape).copy()
    except ValueError:
        raise ValueError(f"weights must be one number, or have shape {observed.shape[1:]} or {observed.shape}") from None
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("weights must be finite and not negative")
    return weights
