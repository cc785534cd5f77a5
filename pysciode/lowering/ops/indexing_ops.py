"""Rows of operations that read or write at indices, constant or computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ...errors import IndexOutOfRange
from ...graphs.node_source import user_line
from ...graphs.scalar_graph import Scalar, ScalarGraph
from .backend import Array, Backend
from .table import aten, axis_of, cast, operation_name, pointwise, row, takes_bool, total


def _place(b: Backend, index: Array, n: int, *, from_end: bool = True) -> Array:
    """The places that `index` names among `n`. A computed one stands for the first where it names none, and what is computed counts
    as not defined then: see :meth:`Backend.require`.

    Negative ones count from the end, unless `from_end` is False.

    Raises
    ------
    IndexOutOfRange
        If a constant index is out of range.
    """
    first = -n if from_end else 0
    if index.bounds is not None:
        low, high = index.bounds
        if low < first or high >= n:
            outside = low if low < first else high
            raise IndexOutOfRange(f"index {outside} is out of range for an axis of size {n}", where=user_line(b.node))
        return index if low >= 0 else pointwise(b, lambda g, i: _from_end(g, i, n), index, kind="int")
    b.shared(index)

    def names_one(g: ScalarGraph, i: Scalar) -> Scalar:
        return g.apply("and", g.apply("ge", i, g.const(first)), g.apply("lt", i, g.const(n)))

    def place(g: ScalarGraph, i: Scalar) -> Scalar:
        return g.apply("select", names_one(g, i), _from_end(g, i, n) if from_end else i, g.const(0.0))

    b.require(pointwise(b, names_one, index, kind="bool"))
    return pointwise(b, place, index, kind="int")


def _from_end(g: ScalarGraph, i: Scalar, n: int) -> Scalar:
    return g.apply("select", g.apply("lt", i, g.const(0.0)), i + n, i)


def _indices(b: Backend, x: Array, indices: Sequence[Array | None]) -> tuple[list[int | Array], tuple[int, ...]]:
    """The coordinates that NumPy's advanced indexing reads `x` at, and the shape of the result."""
    given: dict[int, Array] = {}
    for i, index in enumerate(indices):
        if index is None:
            continue
        if index.kind == "bool":
            raise NotImplementedError("indexing by a mask; use torch.where")
        given[i] = _place(b, index, x.shape[i])
    at = list(given)
    block = tuple(torch.broadcast_shapes(*(given[i].shape for i in at)))
    together = at == list(range(at[0], at[-1] + 1))
    first = at[0] if together else 0
    free = [i for i in range(x.ndim) if i not in at]
    shape = (*(x.shape[i] for i in free[:first]), *block, *(x.shape[i] for i in free[first:]))
    coordinates: list[int | Array] = []
    for i in range(x.ndim):
        if i in given:
            lifted = b.expand(given[i], block)
            lifted = b.reshape(lifted, (1,) * first + block + (1,) * (len(free) - first))
            coordinates.append(b.expand(lifted, shape))
        else:
            place = free.index(i)
            coordinates.append(place if place < first else place + len(block))
    return coordinates, shape


@row(aten.index.Tensor, aten._unsafe_index.Tensor)
def _index(b: Backend, x: Array, indices: Sequence[Array | None]) -> Array:
    coordinates, shape = _indices(b, x, indices)
    return b.take(x, coordinates, shape)


@row(aten.index_put.default, aten._unsafe_index_put.default)
def _index_put(b: Backend, x: Array, indices: Sequence[Array | None], values: Array, accumulate: bool = False) -> Array:
    first = indices[0] if len(indices) == 1 else None
    if first is not None and first.kind == "bool" and math.prod(values.shape) == 1:
        mask = b.reshape(first, first.shape + (1,) * (x.ndim - first.ndim))
        fn = lambda g, m, x, v: g.apply("select", m, x + v if accumulate else v, x)  # noqa: E731
        fn.takes_bool = True
        return pointwise(b, fn, mask, x, b.reshape(values, (1,) * x.ndim), kind=x.kind)
    coordinates, shape = _indices(b, x, indices)
    return b.put(x, coordinates, b.expand(cast(b, values, x.kind), shape), accumulate)


def _along(b: Backend, x: Array, index: Array, axis: int) -> list[int | Array]:
    place = _place(b, index, x.shape[axis], from_end=False)
    return [place if a == axis else a for a in range(index.ndim)]


@row(aten.gather.default)
def _gather(b: Backend, x: Array, axis: int, index: Array, *, sparse_grad: bool = False) -> Array:
    if not x.ndim:
        return b.expand(x, index.shape)
    return b.take(x, _along(b, x, index, axis_of(axis, x.ndim)), index.shape)


@row(aten.scatter.src, aten.scatter.value, aten.scatter_add.default)
def _scatter(b: Backend, x: Array, axis: int, index: Array, source: Any) -> Array:
    accumulate = "add" in operation_name(b)
    if not isinstance(source, Array):
        source = b.full(index.shape, source, x.kind)
    for a, n in enumerate(index.shape):
        if n != source.shape[a]:
            source = b.slice(source, a, 0, n)
    return b.put(x, _along(b, x, index, axis_of(axis, x.ndim)), source, accumulate)


@row(aten.take.default)
def _take(b: Backend, x: Array, index: Array) -> Array:
    return _index(b, b.reshape(x, (math.prod(x.shape),)), [index])


@row(aten.put.default)
def _put(b: Backend, x: Array, index: Array, source: Array, accumulate: bool = False) -> Array:
    flat = b.reshape(x, (math.prod(x.shape),))
    return b.reshape(_index_put(b, flat, [index], source, accumulate), x.shape)


@row(aten.index_select.default)
def _index_select(b: Backend, x: Array, axis: int, index: Array) -> Array:
    axis = axis_of(axis, x.ndim)
    return _index(b, x, [None] * axis + [index])


@row(aten.index_add.default)
def _index_add(b: Backend, x: Array, axis: int, index: Array, source: Array, *, alpha: float = 1) -> Array:
    if alpha != 1:
        source = pointwise(b, lambda g, s: s * alpha, source)
    axis = axis_of(axis, x.ndim)
    return _index_put(b, x, [None] * axis + [index], source, True)


@row(aten.embedding.default)
def _embedding(b: Backend, weight: Array, indices: Array, padding: int = -1, *options: Any) -> Array:
    out = _index(b, weight, [indices])
    if padding < 0:
        return out
    # The row of the padding has no gradient.
    kept = pointwise(b, lambda g, i: g.apply("ne", i, g.const(padding)), indices, kind="bool")
    fn = lambda g, k, x: g.apply("select", k, x, g.apply("stop", x))  # noqa: E731
    return pointwise(b, takes_bool(fn), b.reshape(kept, (*kept.shape, 1)), out)


@row(aten.embedding_dense_backward.default)
def _embedding_backward(b: Backend, grad: Array, indices: Array, rows: int, padding: int, scale_by_frequency: bool) -> Array:
    if scale_by_frequency:
        raise NotImplementedError("scale_grad_by_freq")
    if padding >= 0:
        keep = pointwise(b, lambda g, i: g.apply("ne", i, g.const(padding)), indices, kind="bool")
        keep = b.reshape(keep, (*keep.shape, 1))
        grad = pointwise(b, lambda g, k, x: k * x, keep, grad)
    base = b.full((rows, grad.shape[-1]), 0.0, "float")
    return _index_put(b, base, [indices], grad, True)


# --- searching -------------------------------------------------------------------------------------------------------


def _count_before(b: Backend, sequence: Array, x: Array, right: bool) -> Array:
    """How many of an ascending sequence lie before each of `x`."""
    column = b.reshape(x, (*x.shape, 1))
    before = pointwise(b, lambda g, s, x: g.apply("le" if right else "lt", s, x), sequence, column, kind="bool")
    return total(b, before, [before.ndim - 1])


@row(aten.searchsorted.Tensor, aten.searchsorted.Scalar)
def _searchsorted(
    b: Backend, sequence: Array, x: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: Any = None,
) -> Array:  # fmt: skip
    if sequence.ndim != 1 or sorter is not None:
        raise NotImplementedError("searchsorted of several sequences, or with a sorter")
    if not isinstance(x, Array):
        x = b.full((), x, "float")
    return _count_before(b, sequence, x, right or side == "right")


@row(aten.bucketize.Tensor)
def _bucketize(b: Backend, x: Array, sequence: Array, *, out_int32: bool = False, right: bool = False) -> Array:
    return _count_before(b, sequence, x, right)
