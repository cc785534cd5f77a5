"""The arguments of the latest ``solve`` of a model, with the checked options.

In a fit the same arguments come at every step, and checking them takes as long as a tenth of a small solve.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from ..arrays.parameters import is_tensor
from ..engines.base import SolveOptions
from ..methods.adjoints import SensitivityAlgorithm
from ..methods.algorithms import Algorithm
from ..problems.base import Problem

_UNCHANGING = (type(None), bool, int, float, str, Algorithm, SensitivityAlgorithm)


class _Latest(NamedTuple):
    """Never changed, only replaced as a whole: threads that solve the same problem see one or the other."""

    tspan: tuple[float, float]
    given: tuple[Any, ...]
    saveat: Hashable
    algorithm: Algorithm | None
    options: SolveOptions


def recall(problem: Problem, given: tuple[Any, ...], saveat: Any) -> tuple[Algorithm | None, SolveOptions] | None:
    """Return what `remember` kept, if these are the same arguments; None otherwise.

    The inputs of the checks are compared: `given`, of types that can't change; the values in `saveat`; the time span. The rest (kind of problem, shape and dtype of the state) belongs to the model, with which this is kept.
    """
    captured = problem.captured
    latest = captured.latest_call if captured is not None else None
    if latest is None or latest.tspan != problem.tspan or not all(map(_same, given, latest.given)) or latest.saveat != _value(saveat):
        return None
    return latest.algorithm, latest.options


def remember(problem: Problem, given: tuple[Any, ...], saveat: Any, algorithm: Algorithm | None, options: SolveOptions) -> None:
    """Keep `algorithm` and `options`, which checking made of `given` and `saveat`, if these can be recognised again."""
    captured = problem.captured
    if captured is None or not all(isinstance(x, _UNCHANGING) for x in given):
        return
    if options.saveat is not None:
        options.saveat.flags.writeable = False
    captured.latest_call = _Latest(problem.tspan, given, _value(saveat), algorithm, options)


def _same(x: Any, y: Any) -> bool:
    # Most often the very object; but an algorithm is often written anew at each call.
    return x is y or (type(x) is type(y) and isinstance(x, _UNCHANGING) and x == y)


def _value(saveat: Any) -> Hashable:
    """Equal for equal times only: an array may have been changed in place since."""
    kind = type(saveat)
    if saveat is None or kind is float or kind is int:
        return saveat
    if kind is not np.ndarray and is_tensor(saveat):
        try:
            saveat = saveat.numpy(force=True)
        except (RuntimeError, TypeError):
            return object()  # of another layout, which checking refuses, or inside a torch.func transformation
        kind = np.ndarray
    if kind is np.ndarray and saveat.dtype.kind in "fiu":
        return saveat.tobytes(), saveat.dtype, saveat.shape
    return object()  # equals nothing
