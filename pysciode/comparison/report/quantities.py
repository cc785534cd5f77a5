"""Numbers as people read them: three digits and a unit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

_TIMES = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}
_SIZES = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}


def duration(*seconds: float) -> str:
    """A time in the largest unit that leaves at least one digit before the point, as ``"1.12 ms"``; a range as ``"1.10–1.15 ms"``."""
    return _with_unit(_TIMES, *seconds)


def size(n_bytes: float) -> str:
    """`n_bytes` in decimal units, as ``"1.23 MB"``."""
    return f"{n_bytes:.0f} B" if abs(n_bytes) < 1000 else _with_unit(_SIZES, n_bytes)


def error(value: float) -> str:
    """A relative error with two digits, as ``"3.1e-9"`` or ``"0.31"``."""
    if not math.isfinite(value) or 0.01 <= value < 100 or value == 0:
        return f"{value:.2g}"
    return np.format_float_scientific(value, 1, unique=False, exp_digits=1).replace("+", "")


def tolerance(value: float) -> str:
    """A tolerance without digits that say nothing, as ``"1e-8"``."""
    return np.format_float_scientific(value, 2, trim="-", exp_digits=1).replace("+", "") if value else "0"


def _with_unit(units: Mapping[str, float], *values: float) -> str:
    # Rounded first: 999.6 µs is 1.00 ms. Zero takes the base unit.
    rounded = float(f"{values[-1]:.3g}") or 1.0
    unit, scale = next(((unit, x) for unit, x in units.items() if rounded >= x * (1 - 1e-9)), list(units.items())[-1])
    digits = [f"{x:#.3g}".rstrip(".") if 0 < x < 999.5 else f"{x:.0f}" for x in np.array(values) / scale]
    return f"{'–'.join(digits)} {unit}"
