"""Dataclasses as plain values: JSON's types, there and back, and rows of a data frame."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ...errors import require_extra_package
from ..measure.rows import Counts, GradientRow, Reference, SolveRow

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")


def plain(value: object) -> Any:
    """`value` in JSON's types; numbers that JSON lacks become ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else json.dumps(number)
    if is_dataclass(value):
        return {x.name: plain(getattr(value, x.name)) for x in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(x) for x in value]
    return str(value)


def restored(kind: type[T], data: Any) -> T:
    """The dataclass that `plain` made `data` from; the annotations of its fields say what each value is."""
    hints = get_type_hints(kind)
    if unknown := sorted(set(data) - set(hints)):
        raise ValueError(f"data: {kind.__name__} has no field {', '.join(unknown)}")
    return kind(**{name: _value(hints[name], x) for name, x in data.items()})


def _value(kind: Any, data: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        return None if data is None else _value(get_args(kind)[0], data)
    if get_origin(kind) is tuple:
        return tuple(_value(get_args(kind)[0], x) for x in data)
    if isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping):
        return {key: _value(get_args(kind)[1], x) for key, x in data.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        return restored(kind, data)
    return float(data) if kind is float else data


def data_frame(kind: type[GradientRow] | type[SolveRow], rows: Sequence[Any], reference: Reference | None) -> pandas.DataFrame:
    """One row for each of `rows`, of `kind`; units are in the names of the columns."""
    require_extra_package("pandas", "a report as a data frame", "analysis")
    import pandas

    blocks = list(dict.fromkeys(name for row in rows for name in getattr(row, "block_errors", ())))
    empty = GradientRow("", "", None, "", 0.0, 0.0) if kind is GradientRow else SolveRow("", "", 0.0, 0.0)
    columns = list(_record(empty, blocks, reference))  # so that no rows have columns, too
    reals = [x for x in columns if x in ("rtol", "atol", "error", "loss") or x.startswith("error[") or x.endswith("_s")]
    types = dict.fromkeys(columns, "Int64") | dict.fromkeys(reals, "float64") | {"below_reference": "boolean"}
    types |= dict.fromkeys(("solver", "method", "label", "vjp", "options", "engine", "status", "reason"), "string")
    frame = pandas.DataFrame([_record(row, blocks, reference) for row in rows], columns=columns)
    return frame.astype({name: types[name] for name in columns})


def _record(row: GradientRow | SolveRow, blocks: Sequence[str], reference: Reference | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for x in fields(row):
        name, value = x.name, getattr(row, x.name)
        if name == "engine":
            found |= {"label": row.label, "engine": value}
        elif name == "options":
            found["options"] = json.dumps(plain(value))
        elif name == "error" and isinstance(row, GradientRow):
            found |= {"error": value, "below_reference": None if value is None else reference is not None and reference.hides(row)}
        elif name == "block_errors":
            found |= {f"error[{block}]": value.get(block) for block in blocks}
        elif isinstance(value, Counts):
            found |= {f"{count}{_PASSES[name]}": getattr(value, count) for count in _COUNTED[type(row)]}
        elif "Timing" in str(x.type):
            low, high = value.quartiles if value else (None, None)
            found |= {f"{name}_s": value and value.median, f"{name}_q1_s": low, f"{name}_q3_s": high}
        else:
            found[name + _UNITS.get(name, "")] = value
    return found | {"repeats": None if row.timing is None else len(row.timing.seconds)}


_PASSES = {"forward_counts": "_forward", "backward_counts": "_backward", "counts": ""}
_COUNTED = {GradientRow: ("f", "vjp", "jacobian"), SolveRow: ("f", "jacobian")}
_UNITS = {"first_call": "_s", "peak_memory": "_bytes", "kept_memory": "_bytes", "allocated": "_bytes"}
