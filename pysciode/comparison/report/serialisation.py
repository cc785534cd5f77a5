"""Reports as plain values and as JSON, there and back."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ..measure.rows import Counts, GradientRow, Reference, SolveRow, Timing

_TIMINGS = ("forward", "backward", "total", "time")
_COUNTS = ("forward_counts", "backward_counts", "counts")
_FLOATS = ("rtol", "atol", "error", "loss", "first_call", "estimated_error", "norm")
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def plain(value: object) -> Any:
    """`value` in JSON's types. Numbers that JSON lacks become ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``; what is no
    number, text or container becomes its `str`."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return _plain_float(float(value))
    if isinstance(value, Mapping):
        return {str(key): plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(x) for x in value]
    return str(value)


def _plain_float(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def row_to_dict(row: GradientRow | SolveRow | Reference) -> dict[str, Any]:
    """The fields of `row` in JSON's types."""
    return plain(asdict(row))


def gradient_row(data: Mapping[str, Any]) -> GradientRow:
    """The row that `row_to_dict` made `data` from."""
    values = _fields_of(GradientRow, data)
    values["block_errors"] = _floats(values.get("block_errors", {}))
    return GradientRow(**values)


def solve_row(data: Mapping[str, Any]) -> SolveRow:
    """The row that `row_to_dict` made `data` from."""
    return SolveRow(**_fields_of(SolveRow, data))


def reference(data: Mapping[str, Any] | None) -> Reference | None:
    """The reference that `row_to_dict` made `data` from."""
    return None if data is None else Reference(**_fields_of(Reference, data))


def check_kind(data: object, kind: str) -> Mapping[str, Any]:
    """`data` if it is a report of this kind.

    Raises
    ------
    ValueError
        Otherwise.
    """
    found = data.get("kind") if isinstance(data, Mapping) else type(data).__name__
    if found != kind:
        raise ValueError(f"data: expected a saved {kind}, not {found!r}")
    return data


def _fields_of(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(data) - {x.name for x in fields(cls)}
    if unknown:
        raise ValueError(f"data: {cls.__name__} has no field {', '.join(sorted(unknown))}")
    return {name: _field(name, value) for name, value in data.items()}


def _field(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _TIMINGS:
        return Timing(tuple(_float(x) for x in value["seconds"]))
    if name in _COUNTS:
        return Counts(**value)
    return _float(value) if name in _FLOATS else value


def _float(value: float | str) -> float:
    return _NOT_FINITE[value] if isinstance(value, str) else float(value)


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: _float(value) for key, value in values.items()}
