"""A parameter that a model only compares with time or state gets the gradient 0, though moving it moves the solution: said by name."""

from __future__ import annotations

import warnings
from typing import Any

from ..arrays.parameters import is_tensor
from ..errors import AccuracyWarning, depth_of_user
from ..graphs.captured_model import ArrayModel, ScalarModel
from ..problems.base import Problem

_NAMED = 5


def warn_of_steps(problem: Problem, all_wanted: bool) -> None:
    """Warn once of each parameter that reaches the model through steps alone, if it wants a gradient (or all do)."""
    known = problem.compiled
    found: dict[int, str | None] | None = known.get(warn_of_steps)
    if found is None:
        found = known[warn_of_steps] = _found(problem.model)
    if not found:
        return
    layout = problem.layout
    for leaf, place in zip(problem.leaves, layout.slices, strict=True):
        if not (is_tensor(leaf) and (all_wanted or leaf.requires_grad)):
            continue
        inside = [k for k in found if place.start <= k < place.stop]
        if not inside:
            continue
        line = next((found[k] for k in inside if found[k]), None)
        names = ", ".join(layout.names[k] for k in inside[:_NAMED]) + (", …" if len(inside) > _NAMED else "")
        for k in inside:
            del found[k]
        warnings.warn(
            f"the model only compares or rounds {names} with the time or the state{f' ({line})' if line else ''}: its gradient is 0 here, while "
            "moving it moves where the model switches. To get that gradient, solve up to the switch and on from there in two solves that "
            "meet there, with the time of the switch as the end of one and the start of the other (both may be tensors); or replace the step by a steep sigmoid",
            AccuracyWarning,
            stacklevel=depth_of_user(),
        )


def _found(model: Any) -> dict[int, str | None]:
    if not isinstance(model, (ScalarModel, ArrayModel)):
        return {}
    from ..lowering.dependence import only_through_steps

    return only_through_steps(model)
