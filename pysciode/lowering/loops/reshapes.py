"""When an array can be seen in another shape without being moved."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ops.backend import AxisMap
from .statements import contiguous


def reshaped(old: Sequence[int], strides: Sequence[int], new: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of a view in another shape; None if its elements would have to be moved."""
    if 0 in new:
        return contiguous(new)
    axes = [(n, s) for n, s in zip(old, strides, strict=True) if n != 1]
    out: list[int] = []
    i = 0
    at = 0
    while i < len(axes):
        # The smallest runs of old and new axes with the same number of elements.
        count, j = axes[i][0], i + 1
        size, k = 1, at
        while True:
            while size < count and k < len(new):
                size *= new[k]
                k += 1
            if size == count:
                break
            if j == len(axes):
                return None
            count *= axes[j][0]
            j += 1
        for x, y in zip(axes[i : j - 1], axes[i + 1 : j], strict=True):
            if x[1] != y[0] * y[1]:
                return None
        step = axes[j - 1][1]
        run = list(new[at:k])
        out += [step * math.prod(run[r + 1 :]) for r in range(len(run))]
        i, at = j, k
    return (*out, *(1 for _ in new[at:]))


def split_maps(old: Sequence[int], new: Sequence[int]) -> list[AxisMap] | None:
    """Maps for a reshape that only splits axes, or adds and drops ones; None for another."""
    if 0 in new:
        return None
    maps: list[AxisMap] = []
    k = 0
    for n in old:
        if n == 1:
            maps.append((0, ()))
            continue
        size, terms = 1, []
        while size < n:
            if k == len(new):
                return None
            size *= new[k]
            terms.append(k)
            k += 1
        if size != n:
            return None
        maps.append((0, tuple((a, math.prod(new[a + 1 : k])) for a in terms if new[a] != 1)))
    return maps if math.prod(new[k:]) == 1 else None
