"""Observation functions: from states to observed quantities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..problems.base import Problem

Observe = Callable[[torch.Tensor, Any, torch.Tensor], torch.Tensor]
"""``observe(u, p, t)``: states ``(k, *shape)``, the parameters in their structure and times ``(k,)`` to ``(k, m)``."""


@dataclass(frozen=True)
class Entries:
    """Entries of the flat state, as an observation function."""

    places: tuple[int, ...]

    def __call__(self, u: torch.Tensor, p: Any, t: torch.Tensor) -> torch.Tensor:
        return u.reshape(len(u), -1)[:, self.places]


def as_observation(given: Any, problem: Problem) -> Observe:
    """Return the observation function of what users give.

    Parameters
    ----------
    given
        A function, in torch; a list of entries of the flat state, or one; None for all of them.

    Raises
    ------
    TypeError, ValueError
        If it is none of these, or an entry does not exist.
    """
    if given is None:
        return Entries(tuple(range(problem.n)))
    function: Any = given
    if callable(given):
        return function
    try:
        entries = np.atleast_1d(np.asarray(given))
    except ValueError:
        entries = np.empty(0)
    if entries.ndim != 1 or entries.dtype.kind not in "iu":
        raise TypeError(f"observe must be a function of (u, p, t), or entries of the flat state, not {given!r}")
    if (entries < -problem.n).any() or (entries >= problem.n).any():
        raise ValueError(f"observe names an entry that the state, of {problem.n} entries, hasn't: {given!r}")
    return Entries(tuple(int(i) for i in entries % problem.n))


def check_prediction(y: Any, count: int, series: int) -> torch.Tensor:
    """What an observation function returned, of shape ``(k, m)``.

    Raises
    ------
    TypeError, ValueError
        If it isn't a tensor of that shape.
    """
    if not isinstance(y, torch.Tensor):
        raise TypeError(f"observe must return a torch tensor, not {type(y).__name__}")
    if y.shape == (count,) and series == 1:
        return y[:, None]
    if y.shape != (count, series):
        raise ValueError(
            f"the observed series are {series}, for which predictions of shape ({count}, {series}) are needed; observe gives "
            f"{tuple(y.shape)}. observe=[…] chooses entries of the state"
        )
    return y
