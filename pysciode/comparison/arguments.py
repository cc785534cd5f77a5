"""Arguments of a comparison: checked, and brought into one form."""

from __future__ import annotations

import math
from typing import Any

Tolerances = tuple[tuple[float, float], ...]
"""Pairs ``(rtol, atol)``."""


def check_tolerances(tolerances: Any, default: Tolerances) -> Tolerances:
    """Pairs ``(rtol, atol)``; a number is `rtol`, and a hundredth of it `atol`; None is `default`.

    Raises
    ------
    TypeError, ValueError
        If they are none, or not positive.
    """
    if tolerances is None:
        return default
    if isinstance(tolerances, (int, float)):
        tolerances = [tolerances]
    found = []
    try:
        for x in tolerances:
            rtol, atol = x if isinstance(x, (tuple, list)) else (x, x / 100)
            found.append((float(rtol), float(atol)))
    except (TypeError, ValueError):
        raise TypeError(f"tolerances must be pairs (rtol, atol) or numbers rtol, not {tolerances!r}") from None
    if not found:
        raise ValueError("tolerances is empty; there is nothing to compare")
    for rtol, atol in found:
        if not (0 < rtol < math.inf and 0 <= atol < math.inf):
            raise ValueError(f"tolerances must be positive and finite, not ({rtol:g}, {atol:g})")
    return tuple(dict.fromkeys(found))


def check_time_limit(x: Any) -> float | None:
    """Seconds, or None.

    Raises
    ------
    TypeError, ValueError
        If they are not positive.
    """
    if x is None:
        return None
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        raise TypeError(f"time_limit must be a number of seconds or None, not {x!r}")
    if not 0 < x < math.inf:
        raise ValueError(f"time_limit must be positive and finite, not {x!r}")
    return float(x)
