"""Which states each component of an array model depends on, and few directional derivatives that give its sparse Jacobian.

Columns that share no row come from one product J v: Curtis, Powell & Reid, *On the estimation of sparse Jacobian matrices*,
IMA J. Appl. Math. 13 (1974).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..graphs.captured_model import ArrayModel
from ..graphs.scalar_graph import ScalarGraph
from .ops.backend import Array, AxisMap, Backend, Kind, ScalarFunction, kind_of, run_scalar
from .ops.interpreter import interpret
from .scalars.unroll import grid


class Dependencies(Array):
    """For each element, the set of states that it depends on, as the bits of an integer; `known` are a constant's values."""

    def __init__(self, sets: np.ndarray, kind: Kind, known: np.ndarray | None = None) -> None:
        self.sets, self.kind, self.known = sets, kind, known

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.sets.shape


def _none(shape: Sequence[int]) -> np.ndarray:
    return np.full(tuple(shape), 0, dtype=object)


def _union(sets: np.ndarray, axis: int | None = None) -> np.ndarray:
    return np.bitwise_or.reduce(sets.reshape(-1) if axis is None else sets, axis=0 if axis is None else axis, initial=0)


class DependencyBackend(Backend[Dependencies]):
    """Follows the sets through a graph. They may be too large, never too small."""

    def constant(self, value: torch.Tensor) -> Dependencies:
        return Dependencies(_none(value.shape), kind_of(value.dtype), value.numpy())

    def full(self, shape: Sequence[int], value: float | bool, kind: Kind) -> Dependencies:
        return Dependencies(_none(shape), kind, np.full(tuple(shape), value))

    def pointwise(self, fn: ScalarFunction, args: Sequence[Dependencies], shape: tuple[int, ...], kind: Kind) -> Dependencies:
        out = _none(shape)
        if kind != "float":
            return Dependencies(out, kind)  # steps have no derivative
        graph = ScalarGraph()
        symbols = [graph.symbol(f"a{i}") for i in range(len(args))]
        used = set(graph.reachable([run_scalar(graph, fn, [x.kind for x in args], symbols)]))
        for symbol, x in zip(symbols, args, strict=True):
            if symbol.id in used and x.kind == "float":
                out = out | np.broadcast_to(x.sets, shape)
        return Dependencies(out.reshape(shape) if isinstance(out, np.ndarray) else np.array(out, object), kind)

    def _moved(self, x: Dependencies, move) -> Dependencies:
        known = None if x.known is None else np.asarray(move(x.known))
        return Dependencies(_as_objects(move(x.sets)), x.kind, known)

    def affine(self, x: Dependencies, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> Dependencies:
        where = grid(shape, maps)
        return self._moved(x, (lambda a: a[where]) if x.ndim else (lambda a: np.broadcast_to(a, shape)))

    def reshape(self, x: Dependencies, shape: tuple[int, ...]) -> Dependencies:
        return self._moved(x, lambda a: a.reshape(shape))

    def accumulate(self, x: Dependencies, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> Dependencies:
        out = _none(shape)
        where = [np.broadcast_to(w, x.shape).reshape(-1) for w in grid(x.shape, maps)]
        for i, item in enumerate(x.sets.reshape(-1)):
            out[tuple(w[i] for w in where)] |= item
        return Dependencies(out, x.kind)

    def cat(self, xs: Sequence[Dependencies], axis: int) -> Dependencies:
        known = [x.known for x in xs if x.known is not None]
        whole = np.concatenate(known, axis) if len(known) == len(xs) else None
        return Dependencies(np.concatenate([x.sets for x in xs], axis), xs[0].kind, whole)

    def reduce(self, how: str, x: Dependencies, axes: tuple[int, ...]) -> Dependencies:
        kept = [a for a in range(x.ndim) if a not in axes]
        shape = tuple(x.shape[a] for a in kept)
        rows = x.sets.transpose([*kept, *axes]).reshape(math.prod(shape), math.prod(x.shape[a] for a in axes))
        return Dependencies(_as_objects(_union(rows, 1)).reshape(shape), x.kind)

    def arg_reduce(self, how: str, x: Dependencies, axis: int) -> Dependencies:
        return Dependencies(_none(x.shape[:axis] + x.shape[axis + 1 :]), "int")

    def matmul(self, a: Dependencies, b: Dependencies) -> Dependencies:
        out = _none((*a.shape[:-1], b.shape[-1]))
        pages = zip(out.reshape(-1, *out.shape[-2:]), _pages(a.sets), _pages(b.sets), _values(a), _values(b), strict=True)
        for page, left, right, left_values, right_values in pages:
            # Where one factor is a constant zero, the other does not matter.
            columns = _through(left_values, right, lambda row, sets: _union(sets[row], 0), _union(right, 0))
            page |= columns if columns.ndim == 2 else columns[None, :]
            rows = _through(None if right_values is None else right_values.T, left.T, lambda c, sets: _union(sets[c], 0), _union(left, 1))
            page |= rows.T if rows.ndim == 2 else rows[:, None]
        return Dependencies(out, "float")

    def solve(self, a: Dependencies, b: Dependencies) -> Dependencies:
        return Dependencies(np.full(b.shape, int(_union(a.sets)) | int(_union(b.sets)), dtype=object), "float")

    def _places(self, coordinates: Sequence[int | Dependencies], shape: tuple[int, ...]) -> tuple[np.ndarray, ...] | None:
        axes = np.indices(shape, sparse=True)
        places = [axes[c] if isinstance(c, int) else c.known for c in coordinates]
        known = [x for x in places if x is not None]
        return tuple(np.broadcast_to(x, shape) for x in known) if len(known) == len(places) else None

    def take(self, x: Dependencies, coordinates: Sequence[int | Dependencies], shape: tuple[int, ...]) -> Dependencies:
        where = self._places(coordinates, shape)
        if where is None:
            return Dependencies(np.full(shape, int(_union(x.sets)), dtype=object), x.kind)
        return self._moved(x, lambda a: a[where])

    def put(self, base: Dependencies, coordinates: Sequence[int | Dependencies], values: Dependencies, accumulate: bool) -> Dependencies:
        where = self._places(coordinates, values.shape)
        if where is None:
            return Dependencies(base.sets | int(_union(values.sets)), base.kind)
        out = base.sets.copy()
        flat = [w.reshape(-1) for w in where]
        for i, item in enumerate(values.sets.reshape(-1)):
            at = tuple(w[i] for w in flat)
            out[at] = out[at] | item if accumulate else item
        return Dependencies(out, base.kind)

    def scan(self, how: str, x: Dependencies, axis: int) -> Dependencies:
        return Dependencies(np.bitwise_or.accumulate(x.sets, axis=axis), x.kind)


def _as_objects(x: Any) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else np.array(x, dtype=object)


def _pages(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, *x.shape[-2:])


def _values(x: Dependencies) -> Sequence[np.ndarray | None]:
    count = math.prod(x.shape[:-2])
    return [None] * count if x.known is None else list(_pages(x.known))


def _through(values: np.ndarray | None, sets: np.ndarray, pick, otherwise: np.ndarray) -> np.ndarray:
    """For each row of constant `values`, the union of the rows of `sets` that it does not multiply by zero."""
    if values is None:
        return otherwise
    return np.array([pick(row != 0, sets) for row in values], dtype=object)


@dataclass(frozen=True)
class SparseJacobian:
    """The pattern of a Jacobian in CSC form, from zero, and the groups of columns that one product gives."""

    colptr: np.ndarray
    rowval: np.ndarray
    colors: np.ndarray

    @property
    def n_colors(self) -> int:
        return int(self.colors.max(initial=-1)) + 1


def sparse_jacobian(model: ArrayModel) -> SparseJacobian:
    """The structural non-zeros of ``∂f/∂u``, with a colouring of its columns."""
    n = math.prod(model.u_shape)
    states = np.array([1 << i for i in range(n)], dtype=object).reshape(model.u_shape)
    inputs = [Dependencies(_none(()), "float"), Dependencies(states, "float")]
    inputs += [Dependencies(_none(shape), "float") for shape in model.param_shapes]
    (du,) = interpret(model.f, DependencyBackend(), inputs)
    columns: list[list[int]] = [[] for _ in range(n)]
    rows: list[list[int]] = []
    for i, bits in enumerate(du.sets.reshape(-1)):
        found = []
        while bits:
            low = bits & -bits
            found.append(low.bit_length() - 1)
            bits ^= low
        rows.append(found)
        for j in found:
            columns[j].append(i)
    colors = np.zeros(n, dtype=np.int64)
    for j in range(n):
        taken = {colors[k] for i in columns[j] for k in rows[i] if k < j}
        color = 0
        while color in taken:
            color += 1
        colors[j] = color
    colptr = np.concatenate([[0], np.cumsum([len(c) for c in columns])])
    return SparseJacobian(colptr.astype(np.int64), np.array([i for c in columns for i in c], np.int64), colors)
