"""A function with other values in the places that :class:`~pysciode.capture.reach.Reached` finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .parts import NOTHING, describe
from .reach import ATOMS, Reached, is_parameter


class Substituted:
    """`f` and `args` with other values, in the order of `Reached.values`: symbols, while a model is captured."""

    def __init__(self, f: Any, args: tuple[Any, ...], reached: Reached, values: Sequence[Any]) -> None:
        self._values = iter(values)
        self._names = reached.names
        self._done: dict[tuple[int, int], tuple[Any, Any]] = {}
        self.f = self._rebuild(f, reached.level)
        self.args = self._rebuild(args, reached.level)

    def _rebuild(self, x: Any, level: int) -> Any:
        if level == NOTHING:
            return x
        if is_parameter(x, level):
            return next(self._values)
        if type(x) in ATOMS or (type(x) is np.ndarray and x.dtype != object):
            return x
        place = (id(x), level)
        if place in self._done:
            return self._done[place][0]
        described = describe(x, self._names)
        out = x
        if described is not None:
            _, parts, remake = described
            inside = [self._rebuild(part.value, max(level, part.level)) for part in parts]
            if any(new is not part.value for new, part in zip(inside, parts, strict=True)):
                out = remake(x, parts, inside)
        self._done[place] = (out, x)
        return out
