"""Rows of operations that move elements: views, concatenation, assignment to parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .backend import Array, Backend
from .table import aten, axis_of, cast, node_kind, prims, row


@row(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten._reshape_alias.default)
def _view(b: Backend, x: Array, shape: Sequence[int], *strides: Any) -> Array:
    return b.reshape(x, tuple(b.node.meta["val"].shape))


@row(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.flatten.using_ints,
     aten.unflatten.int)  # fmt: skip
def _reshape_like_node(b: Backend, x: Array, *args: Any) -> Array:
    return b.reshape(x, tuple(b.node.meta["val"].shape))


@row(aten.permute.default)
def _permute(b: Backend, x: Array, axes: Sequence[int]) -> Array:
    return b.permute(x, [axis_of(a, x.ndim) for a in axes])


@row(aten.t.default, aten.numpy_T.default)
def _t(b: Backend, x: Array) -> Array:
    return b.permute(x, list(range(x.ndim))[::-1])


@row(aten.transpose.int)
def _transpose(b: Backend, x: Array, i: int, j: int) -> Array:
    axes = list(range(x.ndim))
    if axes:
        axes[i], axes[j] = axes[j], axes[i]
    return b.permute(x, axes)


@row(aten.expand.default)
def _expand(b: Backend, x: Array, shape: Sequence[int], implicit: bool = False) -> Array:
    return b.expand(x, tuple(b.node.meta["val"].shape))


def _bounds(n: int, start: int | None, stop: int | None) -> tuple[int, int]:
    start, stop, _ = slice(start, stop).indices(n)
    return start, max(start, stop)


@row(aten.slice.Tensor)
def _slice(b: Backend, x: Array, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> Array:
    axis = axis_of(axis, x.ndim)
    return b.slice(x, axis, *_bounds(x.shape[axis], start, stop), step)


@row(aten.select.int)
def _select(b: Backend, x: Array, axis: int, index: int) -> Array:
    axis = axis_of(axis, x.ndim)
    index %= x.shape[axis]
    return b.reshape(b.slice(x, axis, index, index + 1), x.shape[:axis] + x.shape[axis + 1 :])


@row(aten.narrow.default)
def _narrow(b: Backend, x: Array, axis: int, start: int, length: int) -> Array:
    return b.slice(x, axis_of(axis, x.ndim), start, start + length)


@row(aten.split.Tensor)
def _split(b: Backend, x: Array, size: int, axis: int = 0) -> list[Array]:
    axis = axis_of(axis, x.ndim)
    n = x.shape[axis]
    return [b.slice(x, axis, i, min(i + size, n)) for i in range(0, max(n, 1), max(size, 1))]


@row(aten.split_with_sizes.default, aten.split_with_sizes_copy.default)
def _split_with_sizes(b: Backend, x: Array, sizes: Sequence[int], axis: int = 0) -> list[Array]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [b.slice(x, axis_of(axis, x.ndim), s, s + n) for s, n in zip(starts, sizes, strict=True)]


@row(aten.unbind.int)
def _unbind(b: Backend, x: Array, axis: int = 0) -> list[Array]:
    axis = axis_of(axis, x.ndim)
    return [_select(b, x, axis, i) for i in range(x.shape[axis])]


@row(aten.flip.default)
def _flip(b: Backend, x: Array, axes: Sequence[int]) -> Array:
    return b.flip(x, [axis_of(a, x.ndim) for a in axes])


@row(aten.roll.default)
def _roll(b: Backend, x: Array, shifts: Sequence[int], axes: Sequence[int] = ()) -> Array:
    if not axes:
        flat = b.reshape(x, (math.prod(x.shape),))
        return b.reshape(_roll(b, flat, shifts, (0,)), x.shape)
    for shift, axis in zip(shifts, axes, strict=True):
        axis = axis_of(axis, x.ndim)
        n = x.shape[axis]
        if n and shift % n:
            k = n - shift % n
            x = b.cat([b.slice(x, axis, k, n), b.slice(x, axis, 0, k)], axis)
    return x


@row(aten.repeat.default)
def _repeat(b: Backend, x: Array, repeats: Sequence[int]) -> Array:
    x = b.reshape(x, (1,) * (len(repeats) - x.ndim) + x.shape)
    between = b.reshape(x, tuple(m for n in x.shape for m in (1, n)))
    spread = b.expand(between, tuple(m for r, n in zip(repeats, x.shape, strict=True) for m in (r, n)))
    return b.reshape(spread, tuple(r * n for r, n in zip(repeats, x.shape, strict=True)))


@row(aten.cat.default)
def _cat(b: Backend, xs: Sequence[Array], axis: int = 0) -> Array:
    kind = node_kind(b)
    # torch still lets an empty vector be concatenated to anything
    xs = [cast(b, x, kind) for x in xs if x.shape != (0,)] or list(xs[:1])
    return b.cat(xs, axis_of(axis, xs[0].ndim)) if len(xs) > 1 else xs[0]


@row(aten.stack.default)
def _stack(b: Backend, xs: Sequence[Array], axis: int = 0) -> Array:
    axis = axis_of(axis, xs[0].ndim + 1)
    kind = node_kind(b)
    return b.cat([b.reshape(cast(b, x, kind), (*x.shape[:axis], 1, *x.shape[axis:])) for x in xs], axis)


@row(aten.diagonal.default)
def _diagonal(b: Backend, x: Array, offset: int = 0, i: int = 0, j: int = 1) -> Array:
    shape, maps = _diagonal_maps(x.shape, offset, i, j)
    return b.affine(x, shape, maps)


@row(aten.diagonal_backward.default)
def _diagonal_backward(b: Backend, grad: Array, shape: Sequence[int], offset: int, i: int, j: int) -> Array:
    return b.accumulate(grad, tuple(shape), _diagonal_maps(tuple(shape), offset, i, j)[1])


def _diagonal_maps(shape: tuple[int, ...], offset: int, i: int, j: int) -> tuple[tuple[int, ...], list]:
    i, j = axis_of(i, len(shape)), axis_of(j, len(shape))
    length = max(0, min(shape[i], shape[j] - offset) if offset >= 0 else min(shape[i] + offset, shape[j]))
    rest = [a for a in range(len(shape)) if a not in (i, j)]
    out = (*(shape[a] for a in rest), length)
    maps = [(0, ((rest.index(a), 1),)) if a in rest else (0, ()) for a in range(len(shape))]
    maps[i], maps[j] = (max(0, -offset), ((len(rest), 1),)), (max(0, offset), ((len(rest), 1),))
    return out, maps


def _strided_maps(ndim: int, axis: int, start: int, step: int) -> list:
    return [(start, ((a, step),)) if a == axis else (0, ((a, 1),)) for a in range(ndim)]


@row(aten.slice_backward.default)
def _slice_backward(b: Backend, grad: Array, shape: Sequence[int], axis: int, start: int, stop: int, step: int) -> Array:
    axis = axis_of(axis, grad.ndim)
    start, _ = _bounds(shape[axis], start, stop)
    return b.accumulate(grad, tuple(shape), _strided_maps(grad.ndim, axis, start, step))


@row(aten.select_backward.default)
def _select_backward(b: Backend, grad: Array, shape: Sequence[int], axis: int, index: int) -> Array:
    axis = axis_of(axis, len(shape))
    grad = b.reshape(grad, (*grad.shape[:axis], 1, *grad.shape[axis:]))
    return b.accumulate(grad, tuple(shape), _strided_maps(grad.ndim, axis, index % shape[axis], 1))


@row(aten.slice_scatter.default)
def _slice_scatter(
    b: Backend, x: Array, source: Array, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Array:
    axis = axis_of(axis, x.ndim)
    n = x.shape[axis]
    start, stop = _bounds(n, start, stop)
    source = cast(b, source, x.kind)
    if step == 1:
        parts = [b.slice(x, axis, 0, start), source, b.slice(x, axis, stop, n)]
        parts = [part for part in parts if part.shape[axis]]
        return b.cat(parts, axis) if len(parts) > 1 else parts[0]
    where = torch.arange(start, stop, step)
    index = b.constant(where.reshape([-1 if a == axis else 1 for a in range(x.ndim)]).expand(source.shape))
    return b.put(x, [index if a == axis else a for a in range(x.ndim)], source, False)


@row(aten.select_scatter.default)
def _select_scatter(b: Backend, x: Array, source: Array, axis: int, index: int) -> Array:
    axis = axis_of(axis, x.ndim)
    index %= x.shape[axis]
    return _slice_scatter(b, x, b.reshape(source, (*source.shape[:axis], 1, *source.shape[axis:])), axis, index, index + 1)


@row(aten.constant_pad_nd.default)
def _constant_pad(b: Backend, x: Array, pad: Sequence[int], value: float = 0.0) -> Array:
    for i in range(len(pad) // 2):
        axis = x.ndim - 1 - i
        before, after = pad[2 * i], pad[2 * i + 1]
        x = b.slice(x, axis, max(0, -before), x.shape[axis] - max(0, -after))
        filler = lambda n: b.full((*x.shape[:axis], n, *x.shape[axis + 1 :]), value, x.kind)  # noqa: B023, E731
        parts = [filler(before)] * (before > 0) + [x] + [filler(after)] * (after > 0)
        x = b.cat(parts, axis) if len(parts) > 1 else x
    return x


@row(aten.unfold.default)
def _unfold(b: Backend, x: Array, axis: int, size: int, step: int) -> Array:
    axis = axis_of(axis, x.ndim)
    return b.affine(x, tuple(b.node.meta["val"].shape), _unfold_maps(x.ndim, axis, step))


@row(aten.unfold_backward.default)
def _unfold_backward(b: Backend, grad: Array, shape: Sequence[int], axis: int, size: int, step: int) -> Array:
    return b.accumulate(grad, tuple(shape), _unfold_maps(len(shape), axis_of(axis, len(shape)), step))


def _unfold_maps(ndim: int, axis: int, step: int) -> list:
    return [(0, ((a, step), (ndim, 1))) if a == axis else (0, ((a, 1),)) for a in range(ndim)]


def _storage_maps(x_shape: tuple[int, ...], shape: Sequence[int], strides: Sequence[int], offset: int) -> list:
    return [(offset, tuple((a, s) for a, s in enumerate(strides) if s))]


@row(aten.as_strided.default)
def _as_strided(b: Backend, x: Array, shape: Sequence[int], strides: Sequence[int], offset: int | None = None) -> Array:
    args: tuple[Any, ...] = b.node.args
    source = args[0].meta["val"]
    if not source.is_contiguous() or source.storage_offset():
        raise NotImplementedError("as_strided of a tensor that is itself a view")
    flat = b.reshape(x, (math.prod(x.shape),))
    return b.affine(flat, tuple(shape), _storage_maps(x.shape, shape, strides, offset or 0))


@row(aten.diagonal_scatter.default)
def _diagonal_scatter(b: Backend, x: Array, source: Array, offset: int = 0, i: int = 0, j: int = 1) -> Array:
    places = torch.arange(math.prod(x.shape)).reshape(x.shape).diagonal(offset, i, j)
    return _scattered(b, x, source, places)


def _scattered(b: Backend, x: Array, source: Array, places: torch.Tensor) -> Array:
    """`x` with `source` at flat places."""
    flat = b.reshape(x, (math.prod(x.shape),))
    return b.reshape(b.put(flat, [b.constant(places.contiguous())], cast(b, source, x.kind), False), x.shape)


@row(aten.as_strided_scatter.default, prims.as_strided_scatter.default)
def _as_strided_scatter(
    b: Backend, x: Array, source: Array, shape: Sequence[int], strides: Sequence[int], offset: int | None = None
) -> Array:
    places = torch.arange(math.prod(x.shape)).as_strided(tuple(shape), tuple(strides), offset or 0)
    return _scattered(b, x, source, places)
