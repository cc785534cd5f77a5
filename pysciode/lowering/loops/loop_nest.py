"""The axes of a loop nest: in which order they run, and which of them are one."""

from __future__ import annotations

from collections.abc import Sequence

from .buffers import Affine

SIMD_FROM = 4
"""The shortest loop that is worth vectorising."""


class Nest:
    """The axes of a loop nest, put in order and merged where all accesses allow it."""

    def __init__(self, sizes: Sequence[int], groups: Sequence[Sequence[int]], accesses: Sequence[Affine]) -> None:
        flat = [a for index in accesses for a in index.nested()]
        self.order: list[list[int]] = []
        self.sizes: dict[int, int] = {}
        self._map: dict[int, tuple[int, int]] = {}
        for group in groups:
            kept: list[int] = []
            for axis in group:
                if sizes[axis] == 1:
                    self._map[axis] = (axis, 0)
                    continue
                outer = kept[-1] if kept else None
                if outer is not None and all(x.coefficient(outer) == x.coefficient(axis) * sizes[axis] for x in flat):
                    # The two run through memory as one: the inner axis goes on with both lengths.
                    self.sizes[axis] = self.sizes.pop(outer) * sizes[axis]
                    self._map[outer] = (axis, 0)
                    for a, (b, _) in self._map.items():
                        if b == outer:
                            self._map[a] = (axis, 0)
                    kept[-1] = axis
                else:
                    kept.append(axis)
                    self.sizes[axis] = sizes[axis]
                self._map[axis] = (axis, 1)
            self.order.append(kept)
        self.names = [f"i{a}" for a in range(len(sizes))]

    def index(self, index: Affine) -> Affine:
        return index.substitute(self._map)

    def wrap(self, axes: Sequence[int], body: Sequence[str], simd: bool) -> list[str]:
        """`body` inside loops over `axes`, the last one vectorised where that is allowed."""
        lines = list(body)
        for depth, axis in enumerate(reversed(axes)):
            n = self.sizes[axis]
            mark = "@simd ivdep " if simd and depth == 0 and n >= SIMD_FROM else ""
            lines = [f"{mark}for {self.names[axis]} in 0:{n - 1}", *("    " + line for line in lines), "end"]
        return lines


def best_last(axes: Sequence[int], sizes: Sequence[int], accesses: Sequence[tuple[int, Affine]]) -> list[int]:
    """`axes` with the one that most accesses (by weight) step through by one moved to the end."""
    live = [a for a in axes if sizes[a] > 1]
    if len(live) < 2:
        return list(axes)

    def score(axis: int) -> float:
        value = 0.0
        for weight, index in accesses:
            step = abs(index.coefficient(axis))
            value += weight * (2 if step == 1 else 1.5 if step == 0 else 0)
        # A very short inner loop is not worth its head.
        return value * min(1.0, sizes[axis] / 8) + 1e-6 * axis

    best = max(live, key=score)
    if score(best) <= score(live[-1]) * 1.25:
        return list(axes)
    return [a for a in axes if a != best] + [best]
