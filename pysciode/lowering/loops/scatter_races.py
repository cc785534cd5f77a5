"""Which iterations of a scattering loop write to different places, so that they may run at the same time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Terms = Sequence[tuple[int, int]]
"""Where a loop writes along one axis of its target, up to a constant: ``Σ coefficient * index`` over ``(axis, coefficient)``."""

# Axes that share places are taken one index after another up to this many indices together.
_MOST_STEPS = 128


@dataclass(frozen=True)
class Apart:
    """Axes by what they mean for the places of a loop.

    Attributes
    ----------
    axes
        Different indices along these lie at different places, as long as the index along `steps` stays the same, whatever it is
        along all others.
    steps
        Axes to go along one index after another.
    """

    axes: tuple[int, ...]
    steps: tuple[int, ...] = ()

    def all_of(self, sizes: Sequence[int]) -> bool:
        """Whether no two iterations share a place."""
        return not self.steps and all(n == 1 or a in self.axes for a, n in enumerate(sizes))


def apart(sizes: Sequence[int], digits: Sequence[Terms | None]) -> Apart:
    """Axes of a loop over `sizes` that writes at `digits`, one for each axis of the target; None where it is not known."""
    known: set[int] = set()
    digits = [[(a, k) for a, k in terms if k and sizes[a] > 1] for terms in digits if terms is not None]

    def open_terms(terms: Terms) -> list[tuple[int, int]]:
        return [(a, k) for a, k in terms if a not in known]

    changed = True
    while changed:
        changed = False
        for terms in digits:
            rest = open_terms(terms)
            if rest and _one_to_one(sizes, rest):
                known.update(a for a, _ in rest)
                changed = True
    # Windows that overlap are apart for one place in the window at a time.
    steps: list[int] = []
    for terms in digits:
        rest = sorted({a for a, _ in open_terms(terms)} - set(steps), key=lambda a: sizes[a])
        if rest and math.prod(sizes[a] for a in (*steps, *rest[:-1])) <= _MOST_STEPS:
            steps += rest[:-1]
            known.add(rest[-1])
    return Apart(tuple(sorted(known)), tuple(steps))


def _one_to_one(sizes: Sequence[int], terms: Terms) -> bool:
    """Whether different indices give different sums: each step is longer than all that the shorter ones add up to."""
    span = 0
    for axis, coefficient in sorted(terms, key=lambda term: abs(term[1])):
        if abs(coefficient) <= span:
            return False
        span += abs(coefficient) * (sizes[axis] - 1)
    return True
