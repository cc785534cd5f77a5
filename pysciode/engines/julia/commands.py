"""Arguments for Julia as text: TOML, which Julia reads without any package."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np


def toml(table: dict[str, Any]) -> str:
    """`table` as TOML: keys with numbers, strings, bools, arrays and tables of these; None is left out.

    Raises
    ------
    TypeError
        For a value of another type, naming its key.
    """
    lines = [f"{_string(key)} = {_value(key, value)}" for key, value in table.items() if value is not None]
    return "\n".join(lines)


def array(x: np.ndarray) -> list[Any]:
    """A contiguous array for Julia to read while the command runs: dtype, address, length."""
    return [x.dtype.name, where(x), x.size]


def where(x: np.ndarray) -> int:
    """Address of a contiguous array, for Julia to write to while the command runs."""
    if not x.flags.c_contiguous:
        raise ValueError("the array must be contiguous")
    return x.__array_interface__["data"][0]


def _string(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{text!r} is no valid text: it can't be written in UTF-8") from None
    # As JSON writes it, but no pairs of surrogates; TOML has no bare delete character either.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(key: str, value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{key}: {value} does not fit into 64 bits")
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, np.ndarray):
        return _value(key, value.reshape(-1).tolist())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(key, x) for x in value)}]"
    if isinstance(value, dict):
        inside = ", ".join(f"{_string(k)} = {_value(k, v)}" for k, v in value.items() if v is not None)
        return f"{{{inside}}}"
    raise TypeError(f"{key}: numbers, bools, strings and arrays of these go to Julia, not a {type(value).__name__}")
