"""Directional derivatives by differences, to check a gradient that came some other way."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .blocks import Blocks


def ridders(f: Callable[[float], float], step: float = 0.1, levels: int = 7) -> tuple[float, float]:
    """``f'(0)`` and an estimate of its error.

    Central differences with steps that halve, extrapolated to zero; the entry of the tableau with the least change from its
    neighbours is taken. Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", Advances in Engineering Software 4 (1982),
    75–76.
    """
    best, error = math.nan, math.inf
    row: list[float] = []
    for _ in range(levels):
        above, row = row, [(f(step) - f(-step)) / (2 * step)]
        for order, previous in enumerate(above, 1):
            gain = 4.0**order
            row.append((gain * row[-1] - previous) / (gain - 1))
            change = max(abs(row[-1] - row[-2]), abs(row[-1] - previous))
            if change <= error:
                best, error = row[-1], change
        if above and abs(row[-1] - above[-1]) > 2 * error:
            break  # rounding has taken over
        step /= 2
    return best, error


def scales(parameters: np.ndarray, blocks: Blocks) -> np.ndarray:
    """By how much each entry may move: its size; for a zero the root mean square of its block, or 1 in a block of zeros."""
    found = np.abs(parameters)
    for x in blocks.cut(found).values():
        x[x == 0] = np.sqrt(np.mean(x**2)) or 1.0
    return found


def discrepancy(
    gradient: np.ndarray, loss_at: Callable[[np.ndarray], float], scale: np.ndarray, rng: np.random.Generator, directions: int = 3
) -> float:
    """Relative error of a gradient, as differences of the loss along random directions show it.

    With ``ξ`` of independent normal entries, the mean of ``(e·ξ)²`` is ``‖e‖²``: the root mean square over some directions
    estimates the norm of the error, here in the variables divided by `scale`. `loss_at` is a function of the step from the
    present parameters.
    """
    scaled = gradient * scale
    size = float(np.linalg.norm(scaled))
    if size == 0:
        return math.inf
    off = []
    for _ in range(directions):
        xi = rng.standard_normal(gradient.size)
        # Long vectors of normal numbers are long: the step is that of the whole vector.
        xi /= np.linalg.norm(xi)
        slope, _ = ridders(lambda h, xi=xi: loss_at(h * scale * xi))
        off.append(float(scaled @ xi) - slope)
    return float(np.sqrt(gradient.size * np.mean(np.square(off)))) / size
