"""Scalar graphs as Julia functions that don't allocate: straight-line code, or loops where a model repeats one formula."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from ...errors import CaptureError
from ...graphs.captured_model import ScalarModel
from ...graphs.scalar_derivatives import forward, jacobian, reverse
from ...graphs.scalar_graph import Scalar, ScalarGraph
from ..lowered_model import LoweredModel
from .rolled import Roller
from .straight_line import Store, straight_line

FUNCTIONS = ("f!", "f_oop", "vjp!", "vjp_p!", "vjp_both!", "jvp!", "tgrad!", "jac!", "paramjac!", "jac_sparse!")
"""What can be generated, in the order in which it is written."""

# Zeros of a matrix are written one by one up to this many, beyond by a loop.
_EXPLICIT_ZEROS = 64
# Straight-line code runs quickest, but the compiler takes about 0.2 ms for each statement: beyond this many, look for loops.
_LONG = 1500
# What can't be rolled up is split beyond this many, as LLVM's time then grows faster than the length.
_CHUNK = 3000
# Beyond this the compiler would take minutes.
_HOPELESS = 60_000


def lower_scalar(
    model: ScalarModel, dtype: np.dtype | type = np.float64, want: Collection[str] = FUNCTIONS, *, tables: str = ""
) -> LoweredModel:
    """Julia source of `model`.

    Parameters
    ----------
    dtype
        ``float32`` or ``float64``: the type of the literals, and so of the arithmetic. Dual numbers of it pass through.
    want
        Names among :data:`FUNCTIONS`; only these are generated.
    tables
        Name of the argument that has the model's constants as fields; without one they are read as constants of the module.
    """
    unknown = set(want) - set(FUNCTIONS)
    if unknown:
        raise ValueError(f"unknown functions {sorted(unknown)}; there are {', '.join(FUNCTIONS)}")
    writer = _Writer(model, np.dtype(dtype), tables)
    parts = [_GENERATORS[name](writer) for name in FUNCTIONS if name in want]
    return LoweredModel(
        source="\n".join(["workspace(::Type{T}) where {T} = nothing", *parts]),
        functions=frozenset(want),
        form="scalar",
        n=len(model.u),
        n_params=len(model.p),
        dtype=np.dtype(dtype),
        constants=writer.tables,
        sparsity=writer.sparsity if "jac_sparse!" in want else None,
    )


class _Writer:
    """Generates the functions of one model; derivatives wanted by several of them are formed once."""

    def __init__(self, model: ScalarModel, dtype: np.dtype, given: str = "") -> None:
        self.model = model
        self.given = given
        self.graph = model.graph
        self.dtype = dtype
        self.tables: dict[str, np.ndarray] = {}
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
        first = [zeros] if zeros else []
        values = [x for _, _, x in stores]
        if len(stores) > _LONG or len(self.graph.reachable(values)) > _LONG:
            rolled = self._rolled(name, stores)
            if rolled is not None:
                return _function(name, [*arguments, "w"], [*first, *rolled])
        groups = _chunks(self.graph, stores)
        if len(groups) == 1:
            return _function(name, [*arguments, "w"], [*first, *self._lines(stores)])
        if len(groups) * _CHUNK > _HOPELESS:
            raise CaptureError(
                f"{name} of this model takes more than {_HOPELESS} scalar operations that don't repeat; written with torch it "
                "is captured as array operations, which stay few"
            )
        parts, calls = [], []
        for k, group in enumerate(groups, 1):
            part = f"{name[:-1]}_part{k}!"
            parts.append("@noinline " + _function(part, arguments, self._lines(group)))
            calls.append(f"{part}({', '.join(arguments)})")
        return "\n".join([*parts, _function(name, [*arguments, "w"], [*first, *calls])])

    def _lines(self, stores: Sequence[Store]) -> list[str]:
        code = straight_line(self.graph, [x for _, _, x in stores], self.dtype)
        targets = [f"{vector}[{index}]" for vector, index, _ in stores]
        results = [f"{target} = {value}" for target, value in zip(targets, code.values, strict=True)]
        return [*code.loads, *code.statements, *results]

    def _rolled(self, name: str, stores: Sequence[Store]) -> list[str] | None:
        roller = Roller(self.graph, self.dtype, name[:-1])
        lines = roller.lines(stores)
        if lines is None:
            return None
        self.tables.update(roller.tables)
        given = [f"{table} = {self.given}.{table}" for table in roller.tables] if self.given else []
        return [*given, *lines]

    def matrix(self, name: str, target: str, entries: dict[tuple[int, int], Scalar], n_columns: int) -> str:
        """A function that fills a flat column-major matrix; `entries` are by ``(column, row)``."""
        n = len(self.model.u)
        missing = n * n_columns - len(entries)
        stores = [(target, j * n + i + 1, x) for (j, i), x in entries.items()]
        zeros = ""
        if missing > _EXPLICIT_ZEROS:
            zeros = f"for i in 1:{n * n_columns}\n        {target}[i] = 0\n    end"
        elif missing:
            zero = self.graph.const(0.0)
            stores = [(target, j * n + i + 1, entries.get((j, i), zero)) for j in range(n_columns) for i in range(n)]
        return self.function(name, (target, "u", "p", "t"), stores, zeros=zeros)


def _function(name: str, arguments: Sequence[str], lines: Sequence[str]) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"function {name}({', '.join(arguments)})\n    @inbounds begin\n{body}    end\n    return nothing\nend"


def _chunks(graph: ScalarGraph, stores: Sequence[Store]) -> list[list[Store]]:
    """Consecutive stores that together need about `_CHUNK` operations; what two chunks need, both compute."""
    if len(stores) + len(graph.reachable(x for _, _, x in stores)) <= _CHUNK:
        return [list(stores)]
    chunks: list[list[Store]] = [[]]
    seen: set[int] = set()
    for store in stores:
        new = [i for i in graph.reachable([store[2]]) if graph.ops[i] not in ("symbol", "const")]
        grown = seen.union(new)
        if chunks[-1] and len(grown) + len(chunks[-1]) > _CHUNK:
            chunks.append([])
            grown = set(new)
        chunks[-1].append(store)
        seen = grown
    return chunks


def _vector(target: str, values: Sequence[Scalar]) -> list[Store]:
    return [(target, i, x) for i, x in enumerate(values, 1)]


def _f(w: _Writer) -> str:
    return w.function("f!", ("du", "u", "p", "t"), _vector("du", w.model.rhs))


def _f_oop(w: _Writer) -> str:
    if len(w.graph.reachable(w.model.rhs)) > _LONG:
        roller = Roller(w.graph, w.dtype, "f_oop")
        lines, value = roller.expression(w.model.rhs)
        w.tables.update(roller.tables)
    else:
        code = straight_line(w.graph, w.model.rhs, w.dtype)
        lines, value = [*code.loads, *code.statements], f"[{', '.join(code.values)}]"
    body = "".join(f"    {line}\n" for line in lines)
    return f"function f_oop(u, p, t)\n{body}    return {value}\nend"


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
