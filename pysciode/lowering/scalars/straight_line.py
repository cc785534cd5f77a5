"""Nodes of a scalar graph as Julia statements, each common subexpression computed once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...graphs.scalar_graph import Scalar, ScalarGraph
from ...graphs.scalar_ops import SCALAR_OPS

# An expression used once is written inside the one that uses it, up to this many characters: fewer names to read and to compile.
# All numbers count as long, so that models that differ in them alone have one source.
_INLINE_LENGTH = 90
_NUMBER_LENGTH = 3

Store = tuple[str, int, Scalar]
"""Where a value goes, as a vector's name and a one-based index, and the value."""


def julia_literal(value: float | bool, dtype: np.dtype) -> str:
    """A Julia literal of `value`: ``0.5``, ``0.5f0``, ``Inf32``, ``true``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    single = dtype == np.float32
    if single:
        with np.errstate(over="ignore"):
            number = np.float32(value)
    else:
        number = float(value)
    if math.isnan(number):
        return "NaN32" if single else "NaN"
    if math.isinf(number):
        text = "Inf32" if single else "Inf"
        return text if number > 0 else f"(-{text})"
    text = str(number) if single else repr(number)
    if single:
        text = text.replace("e", "f") if "e" in text else text + "f0"
    return f"({text})" if text.startswith("-") else text


def strip_parentheses(text: str) -> str:
    """Without the outermost pair, where one encloses it all."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for k, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and k < len(text) - 1:
            return text
    return text[1:-1]


def half_integer_power(x: str, exponent: float, dtype: np.dtype) -> str:
    """``x^(k + 1/2)`` by multiplications and a square root, many times quicker than ``pow``; `x` is a name."""
    whole = int(abs(exponent) - 0.5)
    power = f"Kernels.half_power({x}, Val({whole}))" if whole else f"NaNMath.sqrt({x})"
    return power if exponent > 0 else f"({julia_literal(1.0, dtype)} / {power})"


def _is_half_integer(graph: ScalarGraph, i: int) -> bool:
    """Whether node `i` is a small half-integer power."""
    if graph.ops[i] != "pow" or graph.ops[graph.args[i][1]] != "const":
        return False
    exponent = graph.args[graph.args[i][1]][0]
    return abs(exponent) <= 4.5 and float(exponent - 0.5).is_integer()


@dataclass(frozen=True)
class Code:
    """Straight-line code: loads, statements that run once, statements that run in a loop, and the values asked for."""

    loads: list[str]
    statements: list[str]
    inner: list[str]
    values: list[str]


def straight_line(
    graph: ScalarGraph,
    values: Sequence[Scalar],
    dtype: np.dtype,
    *,
    names: Mapping[int, str] | None = None,
    varying: Collection[int] = frozenset(),
    prefix: str = "x",
) -> Code:
    """Code that computes `values`.

    Parameters
    ----------
    names
        Nodes that have a name already, by number; other inputs are loaded.
    varying
        Nodes that are computed in a loop; what they need of the others is computed before it.
    prefix
        Prefix of the names of intermediate results.
    """
    text: dict[int, str] = dict(names or {})
    order = graph.reachable(values, stop=text)
    uses = dict.fromkeys(order, 0)
    for i in order:
        if graph.ops[i] in ("symbol", "const") or i in text:
            continue
        for a in graph.args[i]:
            # Two uses force a name: what a loop needs from outside, and the base of a half-integer power.
            uses[a] += 2 if i in varying and a not in varying else 1
        if _is_half_integer(graph, i):
            uses[graph.args[i][0]] += 1
    for value in values:
        uses[value.id] += 1
    code = Code([], [], [], [])
    count = 0
    longer: dict[int, int] = {}  # by how much than it counts
    for i in order:
        if i in text:
            continue
        op, args = graph.ops[i], graph.args[i]
        if op == "const":
            text[i] = julia_literal(args[0], dtype)
            longer[i] = len(text[i]) - _NUMBER_LENGTH
        elif op == "symbol":
            text[i] = args[0].replace("[", "").replace("]", "")
            if text[i] != args[0]:
                code.loads.append(f"{text[i]} = {args[0]}")
        else:
            expression = _expression(graph, i, [text[a] for a in args], dtype)
            excess = sum(longer.get(a, 0) for a in args)
            if uses[i] > 1 or len(expression) - excess > _INLINE_LENGTH:
                count += 1
                text[i] = f"{prefix}{count}"
                (code.inner if i in varying else code.statements).append(f"{text[i]} = {strip_parentheses(expression)}")
            else:
                text[i] = expression
                longer[i] = excess
    code.values.extend(strip_parentheses(text[value.id]) for value in values)
    return code


def _expression(graph: ScalarGraph, i: int, operands: list[str], dtype: np.dtype) -> str:
    op, args = graph.ops[i], graph.args[i]
    if op == "select" and "const" in (graph.ops[args[1]], graph.ops[args[2]]):
        # A literal beside a dual number is made one, or the result has no single type.
        return f"ifelse({operands[0]}, promote({operands[1]}, {operands[2]})...)"
    if _is_half_integer(graph, i):
        return half_integer_power(operands[0], graph.args[args[1]][0], dtype)
    return SCALAR_OPS[op].julia.format(*operands)
