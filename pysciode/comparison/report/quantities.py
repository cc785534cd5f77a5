"""Numbers as people read them: three digits and a unit."""

from __future__ import annotations

import math

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def duration(seconds: float) -> str:
    """`seconds` in the largest unit that leaves at least one digit before the point, as ``"1.12 ms"``."""
    return _with_unit(seconds, _TIMES)


def duration_range(low: float, high: float) -> str:
    """Two times in the unit of the larger one, as ``"1.10–1.15 ms"``."""
    scale, unit = _unit(high, _TIMES)
    return f"{_three_digits(low / scale)}–{_three_digits(high / scale)} {unit}"


def size(n_bytes: float) -> str:
    """`n_bytes` in decimal units, as ``"1.23 MB"``."""
    if abs(n_bytes) < 1000:
        return f"{n_bytes:.0f} B"
    return _with_unit(n_bytes, _SIZES)


def error(value: float) -> str:
    """A relative error with two digits, as ``"3.1e-9"`` or ``"0.31"``."""
    if value == 0:
        return "0"
    if not math.isfinite(value) or 0.01 <= value < 100:
        return f"{value:.2g}"
    return _short_exponent(f"{value:.1e}")


def tolerance(value: float) -> str:
    """A tolerance without digits that say nothing, as ``"1e-8"``."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def ratio(value: float) -> str:
    """How many times, as ``"2.9"`` or ``"114"``."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}" if value < 1e5 else error(value)


def _short_exponent(text: str) -> str:
    mantissa, exponent = text.split("e")
    return f"{mantissa}e{int(exponent)}"


def _with_unit(value: float, units: tuple[tuple[float, str], ...]) -> str:
    scale, unit = _unit(value, units)
    return f"{_three_digits(value / scale)} {unit}"


def _unit(value: float, units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    # Rounded first: 999.6 µs is 1.00 ms. Zero takes the base unit.
    magnitude = abs(float(f"{value:.3g}"))
    if magnitude == 0 or not math.isfinite(magnitude):
        return next(x for x in units if x[0] == 1.0)
    return next((x for x in units if magnitude >= x[0] * (1 - 1e-9)), units[-1])


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    value = float(f"{value:.3g}")
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{decimals}f}"
