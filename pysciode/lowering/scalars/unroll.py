"""Torch models with few scalars -> scalar operations: each element of each array becomes a node of a scalar graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ...graphs.captured_model import ArrayModel, ScalarModel
from ...graphs.node_source import user_line
from ...graphs.scalar_graph import Scalar, ScalarGraph
from ..ops.backend import Array, AxisMap, Backend, Kind, ScalarFunction, as_number, kind_of, run_scalar
from ..ops.interpreter import interpret


class TooLarge(Exception):
    """The model has too many scalar operations to be unrolled."""


class Elements(Array):
    """An object array of scalars."""

    def __init__(self, data: np.ndarray, kind: Kind) -> None:
        self.data = data
        self.kind = kind

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.data.shape


def _objects(items: Sequence[Scalar], shape: tuple[int, ...]) -> np.ndarray:
    out = np.empty(len(items), dtype=object)
    out[:] = items
    return out.reshape(shape)


class Unroller(Backend[Elements]):
    """Arrays as NumPy object arrays of :class:`~pysciode.graphs.scalar_graph.Scalar`."""

    def __init__(self, graph: ScalarGraph, max_ops: int) -> None:
        self.graph = graph
        self.max_ops = max_ops

    def _checked(self, data: np.ndarray, kind: Kind) -> Elements:
        if len(self.graph.ops) > self.max_ops:
            raise TooLarge
        return Elements(data, kind)

    def _spend(self, work: int) -> None:
        if work > self.max_ops:
            raise TooLarge

    def constant(self, value: torch.Tensor) -> Elements:
        self._spend(value.numel())
        kind = kind_of(value.dtype)
        items = [self.graph.const(x) for x in value.reshape(-1).tolist()]
        return self._checked(_objects(items, tuple(value.shape)), kind)

    def full(self, shape: Sequence[int], value: float | bool, kind: Kind) -> Elements:
        value = bool(value) if kind == "bool" else float(value)
        return Elements(np.full(tuple(shape), self.graph.const(value), dtype=object), kind)

    def pointwise(self, fn: ScalarFunction, args: Sequence[Elements], shape: tuple[int, ...], kind: Kind) -> Elements:
        self._spend(math.prod(shape))
        kinds: list[Kind] = [x.kind for x in args]
        rows = zip(*(np.broadcast_to(x.data, shape).reshape(-1) for x in args), strict=True)
        return self._checked(_objects([run_scalar(self.graph, fn, kinds, row) for row in rows], shape), kind)

    def affine(self, x: Elements, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> Elements:
        return Elements(x.data[grid(shape, maps)] if x.ndim else np.broadcast_to(x.data, shape), x.kind)

    def accumulate(self, x: Elements, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> Elements:
        out = np.full(shape, self.graph.const(0.0), dtype=object)
        where = [np.broadcast_to(w, x.shape).reshape(-1) for w in grid(x.shape, maps)]
        for i, item in enumerate(x.data.reshape(-1)):
            at = tuple(w[i] for w in where)
            out[at] = out[at] + item
        return self._checked(out, x.kind)

    def reshape(self, x: Elements, shape: tuple[int, ...]) -> Elements:
        return Elements(x.data.reshape(shape), x.kind)

    def cat(self, xs: Sequence[Elements], axis: int) -> Elements:
        return Elements(np.concatenate([x.data for x in xs], axis), xs[0].kind)

    def _fold(self, how: str, items: Sequence[Scalar]) -> Scalar:
        if how == "sum":
            return self.graph.total(list(items))
        g = self.graph
        op = {"prod": "mul", "any": "or", "all": "and"}.get(how, how)
        if not len(items):
            return g.const({"prod": 1.0, "any": False, "all": True}[how])
        if how in ("max", "min"):
            return g.extreme(how, items)
        out = items[0]
        for item in items[1:]:
            out = self._wins(how, item, out)[1] if how.startswith("first_") else g.apply(op, out, item)
        return out

    def _wins(self, how: str, item: Scalar, best: Scalar) -> tuple[Scalar, Scalar]:
        """Whether `item` is beyond `best`, and which of them is the extreme: a NaN wins, and the first of equals."""
        g = self.graph
        wins = g.apply("gt" if how.endswith("max") else "lt", item, best)
        wins = g.apply("or", wins, g.apply("and", g.apply("isnan", item), g.apply("not", g.apply("isnan", best))))
        return wins, g.apply("select", wins, item, best)

    def _rows(self, x: Elements, axes: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
        self._spend(x.data.size)
        kept = [a for a in range(x.ndim) if a not in axes]
        shape = tuple(x.shape[a] for a in kept)
        rows = x.data.transpose([*kept, *axes]).reshape(math.prod(shape), math.prod(x.shape[a] for a in axes))
        return rows, shape

    def reduce(self, how: str, x: Elements, axes: tuple[int, ...]) -> Elements:
        rows, shape = self._rows(x, axes)
        return self._checked(_objects([self._fold(how, row) for row in rows], shape), x.kind)

    def arg_reduce(self, how: str, x: Elements, axis: int) -> Elements:
        g = self.graph
        rows, shape = self._rows(x, (axis,))
        out = []
        for row in rows:
            best, place = row[0], g.const(0.0)
            for i, item in enumerate(row[1:], 1):
                wins, best = self._wins(how, item, best)
                place = g.apply("select", wins, g.const(i), place)
            out.append(place)
        return self._checked(_objects(out, shape), "int")

    def matmul(self, a: Elements, b: Elements) -> Elements:
        self._spend(math.prod(a.shape) * b.shape[-1])
        left = a.data.reshape(-1, *a.shape[-2:])
        right = b.data.reshape(-1, *b.shape[-2:])
        out = [
            self.graph.total([x * y for x, y in zip(row, column, strict=True)])
            for page, other in zip(left, right, strict=True)
            for row in page
            for column in other.T
        ]
        return self._checked(_objects(out, (*a.shape[:-1], b.shape[-1])), "float")

    def solve(self, a: Elements, b: Elements) -> Elements:
        raise TooLarge  # pivots depend on the values

    def _static(self, index: Elements) -> np.ndarray:
        values = [s.constant for s in index.data.reshape(-1)]
        if any(v is None for v in values):
            raise TooLarge  # an index that is computed from the state is left to the array form
        return np.array(values, dtype=np.int64).reshape(index.shape)

    def _coordinates(self, coordinates: Sequence[int | Elements], shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        grid = np.indices(shape, sparse=True)
        return tuple(np.broadcast_to(grid[c] if isinstance(c, int) else self._static(c), shape) for c in coordinates)

    def take(self, x: Elements, coordinates: Sequence[int | Elements], shape: tuple[int, ...]) -> Elements:
        return Elements(x.data[self._coordinates(coordinates, shape)], x.kind)

    def put(self, base: Elements, coordinates: Sequence[int | Elements], values: Elements, accumulate: bool) -> Elements:
        out = base.data.copy()
        where = [w.reshape(-1) for w in self._coordinates(coordinates, values.shape)]
        for i, item in enumerate(values.data.reshape(-1)):
            at = tuple(w[i] for w in where)
            out[at] = out[at] + item if accumulate else item
        return self._checked(out, base.kind)

    def scan(self, how: str, x: Elements, axis: int) -> Elements:
        out = x.data.copy()
        lines = np.moveaxis(out, axis, 0)
        for i in range(1, len(lines)):
            for at in np.ndindex(lines.shape[1:]):
                lines[(i, *at)] = self._fold(how, [lines[(i - 1, *at)], lines[(i, *at)]])
        return self._checked(out, x.kind)


def grid(shape: tuple[int, ...], maps: Sequence[AxisMap]) -> tuple[np.ndarray, ...]:
    """Index arrays, each of `shape`, for the axes of the base of a view."""
    indices = np.indices(shape, sparse=True)
    return tuple(np.broadcast_to(sum((c * indices[a] for a, c in terms), np.array(constant)), shape) for constant, terms in maps)


def unroll(model: ArrayModel, max_ops: int = 400) -> ScalarModel | None:
    """`model` as scalar operations, or None if it has more than `max_ops` of them, or computes indices from its state."""
    n = math.prod(model.u_shape)
    n_params = sum(math.prod(s) for s in model.param_shapes)
    if n + n_params > max_ops:
        return None
    graph = ScalarGraph()
    t = graph.symbol("t")
    u = [graph.symbol(f"u[{i + 1}]") for i in range(n)]
    p = [graph.symbol(f"p[{i + 1}]") for i in range(n_params)]
    inputs = [Elements(_objects([t], ()), "float"), Elements(_objects(u, model.u_shape), "float")]
    start = 0
    for shape in model.param_shapes:
        stop = start + math.prod(shape)
        inputs.append(Elements(_objects(p[start:stop], shape), "float"))
        start = stop
    unroller = Unroller(graph, max_ops + n + n_params + 1)
    graph.where = lambda: user_line(unroller.node)
    try:
        (du,) = interpret(model.f, unroller, inputs)
    except TooLarge:
        return None
    graph.where = None
    rhs = tuple(as_number(graph, s) if du.kind == "bool" else s for s in du.data.reshape(-1))
    return ScalarModel(graph, tuple(u), tuple(p), t, rhs)
