"""Scalar graphs as straight-line Julia: no loop, no allocation, each common subexpression computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..capture.derivatives import forward, jacobian, reverse
from ..capture.graph import Scalar, ScalarGraph
from ..capture.model import ScalarModel
from ..capture.scalar_ops import SCALAR_OPS
from .model import LoweredModel

FUNCTIONS = ("f!", "f_oop", "vjp!", "vjp_p!", "vjp_both!", "jvp!", "tgrad!", "jac!", "paramjac!", "jac_sparse!")
"""What can be generated, in the order in which it is written."""

# An expression used once is written inside the one that uses it, up to this many characters: fewer names to read and to compile.
_INLINE_LENGTH = 90
# Zeros of a matrix are written one by one up to this many, beyond by a loop.
_EXPLICIT_ZEROS = 64
# LLVM's time grows faster than linearly with the length of a function.
_CHUNK_STATEMENTS = 500

Store = tuple[str, Scalar]
"""Where a value goes, as Julia text, and the value."""


def lower_scalar(model: ScalarModel, dtype: np.dtype | type = np.float64, want: Collection[str] = FUNCTIONS) -> LoweredModel:
    """Julia source of `model`.

    Parameters
    ----------
    dtype
        ``float32`` or ``float64``: the type of the literals, and so of the arithmetic. Dual numbers of it pass through.
    want
        Names among :data:`FUNCTIONS`; only these are generated.
    """
    unknown = set(want) - set(FUNCTIONS)
    if unknown:
        raise ValueError(f"unknown functions {sorted(unknown)}; there are {', '.join(FUNCTIONS)}")
    writer = _Writer(model, np.dtype(dtype))
    parts = [_GENERATORS[name](writer) for name in FUNCTIONS if name in want]
    return LoweredModel(
        source="\n".join(["workspace(::Type{T}) where {T} = nothing", *parts]),
        functions=frozenset(want),
        form="scalar",
        n=len(model.u),
        n_params=len(model.p),
        dtype=np.dtype(dtype),
        sparsity=writer.sparsity if "jac_sparse!" in want else None,
    )


def julia_literal(value: float | bool, dtype: np.dtype) -> str:
    """A Julia literal of `value`: ``0.5``, ``0.5f0``, ``Inf32``, ``true``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    single = dtype == np.float32
    if single:
        with np.errstate(over="ignore"):
            value = np.float32(value)
    if math.isnan(value):
        return "NaN32" if single else "NaN"
    if math.isinf(value):
        text = "Inf32" if single else "Inf"
        return text if value > 0 else f"(-{text})"
    text = str(value) if single else repr(float(value))
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


def select_text(c: str, a: str, b: str, constant: bool) -> str:
    """``ifelse``; a literal beside a dual number is made one, or the result has no single type."""
    return f"ifelse({c}, promote({a}, {b})...)" if constant else f"ifelse({c}, {a}, {b})"


@dataclass
class Code:
    """Straight-line code: loads, then statements, then stores."""

    loads: list[str]
    statements: list[str]
    results: list[tuple[str, str]]

    def lines(self) -> list[str]:
        return [*self.loads, *self.statements, *(f"{target} = {value}" for target, value in self.results)]


def half_integer_power(x: str, exponent: float, dtype: np.dtype) -> str:
    """``x^(k + 1/2)`` by multiplications and a square root, many times quicker than ``pow``; `x` is a name."""
    product = " * ".join([x] * int(abs(exponent) - 0.5) + [f"NaNMath.sqrt({x})"])
    return f"({product})" if exponent > 0 else f"({julia_literal(1.0, dtype)} / ({product}))"


def _is_half_integer(graph: ScalarGraph, i: int) -> bool:
    """Whether node `i` is a small half-integer power."""
    if graph.ops[i] != "pow" or graph.ops[graph.args[i][1]] != "const":
        return False
    exponent = graph.args[graph.args[i][1]][0]
    return abs(exponent) <= 4.5 and float(exponent - 0.5).is_integer()


def straight_line(graph: ScalarGraph, stores: Sequence[Store], dtype: np.dtype) -> Code:
    """Code that computes the values of `stores`; everything is read before anything is written."""
    order = graph.reachable(value for _, value in stores)
    uses = dict.fromkeys(order, 0)
    for i in order:
        if graph.ops[i] not in ("symbol", "const"):
            for a in graph.args[i]:
                uses[a] += 1
            if _is_half_integer(graph, i):
                uses[graph.args[i][0]] += 1  # so that the base has a name
    for _, value in stores:
        uses[value.id] += 1
    text: dict[int, str] = {}
    loads: list[str] = []
    statements: list[str] = []
    for i in order:
        op, args = graph.ops[i], graph.args[i]
        if op == "const":
            text[i] = julia_literal(args[0], dtype)
        elif op == "symbol":
            name = args[0].replace("[", "").replace("]", "")
            if name != args[0]:
                loads.append(f"{name} = {args[0]}")
            text[i] = name
        else:
            if op == "select":
                constant = graph.ops[args[1]] == "const" or graph.ops[args[2]] == "const"
                expression = select_text(*(text[a] for a in args), constant)
            elif _is_half_integer(graph, i):
                expression = half_integer_power(text[args[0]], graph.args[args[1]][0], dtype)
            else:
                expression = SCALAR_OPS[op].julia.format(*(text[a] for a in args))
            if uses[i] > 1 or len(expression) > _INLINE_LENGTH:
                text[i] = f"x{len(statements) + 1}"
                statements.append(f"{text[i]} = {strip_parentheses(expression)}")
            else:
                text[i] = expression
    return Code(loads, statements, [(target, strip_parentheses(text[value.id])) for target, value in stores])


class _Writer:
    """Generates the functions of one model; derivatives wanted by several of them are formed once."""

    def __init__(self, model: ScalarModel, dtype: np.dtype) -> None:
        self.model = model
        self.graph = model.graph
        self.dtype = dtype
        self._jacobian: dict[tuple[int, int], Scalar] | None = None

    def symbols(self, name: str, n: int) -> list[Scalar]:
        return [self.graph.symbol(f"{name}[{i}]") for i in range(1, n + 1)]

    @property
    def jacobian(self) -> dict[tuple[int, int], Scalar]:
        """Entries by ``(column, row)``, sorted: column-major order."""
        if self._jacobian is None:
            entries = jacobian(self.graph, self.model.rhs, self.model.u)
            self._jacobian = {(j, i): entries[i, j] for i, j in sorted(entries, key=lambda key: (key[1], key[0]))}
        return self._jacobian

    @property
    def sparsity(self) -> tuple[np.ndarray, np.ndarray]:
        columns = np.array([j for j, _ in self.jacobian], int)
        rows = np.array([i for _, i in self.jacobian], int)
        counts = np.bincount(columns, minlength=len(self.model.u))
        return np.concatenate([[1], 1 + np.cumsum(counts)]), rows + 1

    def function(self, name: str, arguments: Sequence[str], stores: Sequence[Store], *, zeros: str = "") -> str:
        """``function name(arguments..., w)`` that stores all of `stores`; `zeros` is code that runs first."""
        code = straight_line(self.graph, stores, self.dtype)
        if len(code.statements) + len(stores) > _CHUNK_STATEMENTS:
            return self._chunked(name, arguments, stores, zeros)
        return _function(name, [*arguments, "w"], [*([zeros] if zeros else []), *code.lines()])

    def _chunked(self, name: str, arguments: Sequence[str], stores: Sequence[Store], zeros: str) -> str:
        """The same as a sequence of shorter functions; what two of them need, both compute."""
        groups = _group(self.graph, stores)
        parts, calls = [], []
        for k, group in enumerate(groups, 1):
            part = f"{name[:-1]}_part{k}!"
            lines = straight_line(self.graph, group, self.dtype).lines()
            parts.append("@noinline " + _function(part, arguments, lines))
            calls.append(f"{part}({', '.join(arguments)})")
        return "\n".join([*parts, _function(name, [*arguments, "w"], [*([zeros] if zeros else []), *calls])])

    def matrix(self, name: str, target: str, entries: dict[tuple[int, int], Scalar], n_columns: int) -> str:
        """A function that fills a flat column-major matrix; `entries` are by ``(column, row)``."""
        n = len(self.model.u)
        missing = n * n_columns - len(entries)
        stores = [(f"{target}[{j * n + i + 1}]", x) for (j, i), x in entries.items()]
        zeros = ""
        if missing > _EXPLICIT_ZEROS:
            zeros = f"for i in 1:{n * n_columns}\n        {target}[i] = 0\n    end"
        elif missing:
            zero = self.graph.const(0.0)
            stores = [
                (f"{target}[{j * n + i + 1}]", entries.get((j, i), zero)) for j in range(n_columns) for i in range(n)
            ]
        return self.function(name, (target, "u", "p", "t"), stores, zeros=zeros)


def _function(name: str, arguments: Sequence[str], lines: Sequence[str]) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"function {name}({', '.join(arguments)})\n    @inbounds begin\n{body}    end\n    return nothing\nend"


def _group(graph: ScalarGraph, stores: Sequence[Store]) -> list[list[Store]]:
    """Consecutive stores that together need about `_CHUNK_STATEMENTS` operations."""
    groups: list[list[Store]] = [[]]
    seen: set[int] = set()
    for store in stores:
        new = [i for i in graph.reachable([store[1]]) if graph.ops[i] not in ("symbol", "const")]
        grown = seen.union(new)
        if groups[-1] and len(grown) + len(groups[-1]) > _CHUNK_STATEMENTS:
            groups.append([])
            grown = set(new)
        groups[-1].append(store)
        seen = grown
    return groups


def _vector(target: str, values: Sequence[Scalar]) -> list[Store]:
    return [(f"{target}[{i}]", x) for i, x in enumerate(values, 1)]


def _f(w: _Writer) -> str:
    return w.function("f!", ("du", "u", "p", "t"), _vector("du", w.model.rhs))


def _f_oop(w: _Writer) -> str:
    code = straight_line(w.graph, _vector("du", w.model.rhs), w.dtype)
    body = "".join(f"    {line}\n" for line in [*code.loads, *code.statements])
    return f"function f_oop(u, p, t)\n{body}    return [{', '.join(value for _, value in code.results)}]\nend"


def _vjp(w: _Writer) -> str:
    lam = w.symbols("lam", len(w.model.rhs))
    bars = reverse(w.graph, w.model.rhs, lam, w.model.u)
    return w.function("vjp!", ("dlam", "lam", "u", "p", "t"), _vector("dlam", bars))


def _vjp_p(w: _Writer) -> str:
    lam = w.symbols("lam", len(w.model.rhs))
    bars = reverse(w.graph, w.model.rhs, lam, w.model.p)
    return w.function("vjp_p!", ("dp", "lam", "u", "p", "t"), _vector("dp", bars))


def _vjp_both(w: _Writer) -> str:
    lam = w.symbols("lam", len(w.model.rhs))
    n = len(w.model.u)
    bars = reverse(w.graph, w.model.rhs, lam, [*w.model.u, *w.model.p])
    stores = _vector("dlam", bars[:n]) + _vector("dp", bars[n:])
    return w.function("vjp_both!", ("dlam", "dp", "lam", "u", "p", "t"), stores)


def _jvp(w: _Writer) -> str:
    v = w.symbols("v", len(w.model.u))
    tangents = {x.id: dot for x, dot in zip(w.model.u, v, strict=True)}
    return w.function("jvp!", ("dv", "v", "u", "p", "t"), _vector("dv", forward(w.graph, w.model.rhs, tangents)))


def _tgrad(w: _Writer) -> str:
    dots = forward(w.graph, w.model.rhs, {w.model.t.id: w.graph.const(1.0)})
    return w.function("tgrad!", ("dT", "u", "p", "t"), _vector("dT", dots))


def _jac(w: _Writer) -> str:
    return w.matrix("jac!", "J", w.jacobian, len(w.model.u))


def _paramjac(w: _Writer) -> str:
    entries = jacobian(w.graph, w.model.rhs, w.model.p)
    by_column = {(j, i): entries[i, j] for i, j in sorted(entries, key=lambda key: (key[1], key[0]))}
    return w.matrix("paramjac!", "pJ", by_column, len(w.model.p))


def _jac_sparse(w: _Writer) -> str:
    return w.function("jac_sparse!", ("nz", "u", "p", "t"), _vector("nz", list(w.jacobian.values())))


_GENERATORS: dict[str, Callable[[_Writer], str]] = {
    "f!": _f,
    "f_oop": _f_oop,
    "vjp!": _vjp,
    "vjp_p!": _vjp_p,
    "vjp_both!": _vjp_both,
    "jvp!": _jvp,
    "tgrad!": _tgrad,
    "jac!": _jac,
    "paramjac!": _paramjac,
    "jac_sparse!": _jac_sparse,
}
