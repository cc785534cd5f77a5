"""Rows of operations that move or combine elements: views, reductions, products, indexing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..capture.graph import Scalar, ScalarGraph
from .interpreter import Array, Backend
from .ops import aten, axis_of, cast, node_kind, pointwise, prims, reduce, row, takes_bool, to_bool, total

# --- views -----------------------------------------------------------------------------------------------------------


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
    source = b.node.args[0].meta["val"]
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


# --- reductions ------------------------------------------------------------------------------------------------------


def _axes(x: Array, axes: int | Sequence[int] | None) -> list[int]:
    if axes is None or (not isinstance(axes, int) and len(axes) == 0):
        return list(range(x.ndim))
    return [axis_of(a, x.ndim) for a in ([axes] if isinstance(axes, int) else axes)]


@row(aten.sum.default, aten.sum.dim_IntList)
def _sum(b: Backend, x: Array, axes: Sequence[int] | None = None, keepdim: bool = False, dtype: Any = None) -> Array:
    return total(b, x, _axes(x, axes), keepdim)


@row(aten.mean.default, aten.mean.dim)
def _mean(b: Backend, x: Array, axes: Sequence[int] | None = None, keepdim: bool = False, dtype: Any = None) -> Array:
    axes = _axes(x, axes)
    count = math.prod(x.shape[a] for a in axes)
    return pointwise(b, lambda g, s: s * (1 / count) if count else s * math.nan, total(b, x, axes, keepdim), kind="float")


@row(aten.prod.default, aten.prod.dim_int)
def _prod(b: Backend, x: Array, axes: int | None = None, keepdim: bool = False, dtype: Any = None) -> Array:
    return reduce(b, "prod", cast(b, x, node_kind(b)), _axes(x, axes), keepdim)


@row(aten.amax.default)
def _amax(b: Backend, x: Array, axes: Sequence[int] = (), keepdim: bool = False) -> Array:
    return reduce(b, "max", x, _axes(x, axes), keepdim)


@row(aten.amin.default)
def _amin(b: Backend, x: Array, axes: Sequence[int] = (), keepdim: bool = False) -> Array:
    return reduce(b, "min", x, _axes(x, axes), keepdim)


@row(aten.max.default)
def _max(b: Backend, x: Array) -> Array:
    return reduce(b, "max", x, range(x.ndim))


@row(aten.min.default)
def _min(b: Backend, x: Array) -> Array:
    return reduce(b, "min", x, range(x.ndim))


def _arg(b: Backend, how: str, x: Array, axis: int | None, keepdim: bool) -> Array:
    if axis is None:
        out = b.arg_reduce(how, b.reshape(x, (math.prod(x.shape),)), 0)
        return b.reshape(out, (1,) * x.ndim) if keepdim else out
    axis = axis_of(axis, x.ndim)
    if not x.ndim:
        return b.full((), 0, "int")
    out = b.arg_reduce(how, x, axis)
    return b.reshape(out, (*x.shape[:axis], 1, *x.shape[axis + 1 :])) if keepdim else out


@row(aten.argmax.default)
def _argmax(b: Backend, x: Array, axis: int | None = None, keepdim: bool = False) -> Array:
    return _arg(b, "max", x, axis, keepdim)


@row(aten.argmin.default)
def _argmin(b: Backend, x: Array, axis: int | None = None, keepdim: bool = False) -> Array:
    return _arg(b, "min", x, axis, keepdim)


@row(aten.max.dim)
def _max_dim(b: Backend, x: Array, axis: int, keepdim: bool = False) -> tuple[Array, Array]:
    return reduce(b, "max", x, [axis], keepdim), _arg(b, "max", x, axis, keepdim)


@row(aten.min.dim)
def _min_dim(b: Backend, x: Array, axis: int, keepdim: bool = False) -> tuple[Array, Array]:
    return reduce(b, "min", x, [axis], keepdim), _arg(b, "min", x, axis, keepdim)


@row(aten.any.default, aten.any.dim, aten.any.dims)
def _any(b: Backend, x: Array, axes: Any = None, keepdim: bool = False) -> Array:
    return reduce(b, "any", to_bool(b, x), _axes(x, axes), keepdim)


@row(aten.all.default, aten.all.dim, aten.all.dims)
def _all(b: Backend, x: Array, axes: Any = None, keepdim: bool = False) -> Array:
    return reduce(b, "all", to_bool(b, x), _axes(x, axes), keepdim)


@row(aten.var.correction)
def _var(b: Backend, x: Array, axes: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Array:
    return _var_mean(b, x, axes, correction=correction, keepdim=keepdim)[0]


@row(aten.var_mean.correction)
def _var_mean(
    b: Backend, x: Array, axes: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Array, Array]:
    axes = _axes(x, axes)
    count = math.prod(x.shape[a] for a in axes)
    weight = count - (1 if correction is None else correction)
    mean = pointwise(b, lambda g, s: s * (1 / count), total(b, x, axes, True), kind="float")
    square = pointwise(b, lambda g, x, m: (x - m) * (x - m), x, mean, kind="float")
    scale = 1 / weight if weight > 0 else math.nan
    var = pointwise(b, lambda g, s: s * scale, total(b, square, axes, keepdim), kind="float")
    if not keepdim:
        mean = b.reshape(mean, var.shape)
    return var, mean


@row(aten.cumsum.default)
def _cumsum(b: Backend, x: Array, axis: int, dtype: Any = None) -> Array:
    return b.scan("sum", cast(b, x, node_kind(b)), axis_of(axis, x.ndim)) if x.ndim else x


@row(aten.cumprod.default)
def _cumprod(b: Backend, x: Array, axis: int, dtype: Any = None) -> Array:
    return b.scan("prod", cast(b, x, node_kind(b)), axis_of(axis, x.ndim)) if x.ndim else x


@row(aten.linalg_vector_norm.default)
def _vector_norm(
    b: Backend, x: Array, order: float = 2, axes: Any = None, keepdim: bool = False, dtype: Any = None
) -> Array:
    axes = _axes(x, axes)
    absolute = pointwise(b, lambda g, x: g.apply("abs", x), x)
    if order == math.inf:
        return reduce(b, "max", absolute, axes, keepdim)
    if order == -math.inf:
        return reduce(b, "min", absolute, axes, keepdim)
    if order == 0:
        return total(b, pointwise(b, lambda g, x: g.apply("select", g.apply("eq", x, g.const(0.0)), g.const(0.0), g.const(1.0)), x), axes, keepdim)
    powers = pointwise(b, lambda g, x: g.apply("pow", x, g.const(order)), x if order % 2 == 0 else absolute)
    return pointwise(b, lambda g, s: g.apply("pow", s, g.const(1 / order)), total(b, powers, axes, keepdim))


# --- products --------------------------------------------------------------------------------------------------------


@row(aten.mm.default, aten.bmm.default)
def _mm(b: Backend, x: Array, y: Array) -> Array:
    return b.matmul(x, y)


def _scaled(g: ScalarGraph, x: Scalar, y: Scalar, beta: float, alpha: float) -> Scalar:
    return y * alpha + x * beta


@row(aten.addmm.default, aten.baddbmm.default)
def _addmm(b: Backend, x: Array, y: Array, z: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    return pointwise(b, lambda g, s, x: _scaled(g, x, s, beta, alpha), b.matmul(y, z), x)


@row(aten.mv.default)
def _mv(b: Backend, x: Array, y: Array) -> Array:
    return b.reshape(b.matmul(x, b.reshape(y, (*y.shape, 1))), x.shape[:1])


@row(aten.addmv.default)
def _addmv(b: Backend, x: Array, y: Array, z: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    return pointwise(b, lambda g, s, x: _scaled(g, x, s, beta, alpha), _mv(b, y, z), x)


@row(aten.dot.default, aten.vdot.default)
def _dot(b: Backend, x: Array, y: Array) -> Array:
    return total(b, pointwise(b, lambda g, x, y: x * y, x, y), [0])


@row(aten.addr.default)
def _addr(b: Backend, x: Array, y: Array, z: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    column = b.reshape(y, (*y.shape, 1))
    return pointwise(b, lambda g, x, y, z: _scaled(g, x, y * z, beta, alpha), x, column, z)


@row(aten._trilinear.default)
def _trilinear(
    b: Backend, x: Array, y: Array, z: Array, new_x: Sequence[int], new_y: Sequence[int], new_z: Sequence[int],
    summed: Sequence[int], unroll_dim: int = 1,
) -> Array:  # fmt: skip
    def widened(x: Array, new: Sequence[int]) -> Array:
        for axis in sorted(new):
            x = b.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))
        return x

    spread = [widened(x, new_x), widened(y, new_y), widened(z, new_z)]
    product = pointwise(b, lambda g, x, y, z: x * y * z, *spread, kind="float")
    return total(b, product, list(summed))


# --- linear systems --------------------------------------------------------------------------------------------------
# Where torch hands on factors, which only its own derivatives use, the matrix itself is handed on.


def _solve(b: Backend, a: Array, x: Array, left: bool = True) -> Array:
    if not left:
        return _swap(b, _solve(b, _swap(b, a), _swap(b, x)))
    batch = tuple(torch.broadcast_shapes(a.shape[:-2], x.shape[:-2]))
    count = (math.prod(batch),) if batch else ()
    a = b.reshape(b.expand(a, (*batch, *a.shape[-2:])), (*count, *a.shape[-2:]))
    x = b.reshape(b.expand(x, (*batch, *x.shape[-2:])), (*count, *x.shape[-2:]))
    return b.reshape(b.solve(a, x), (*batch, *x.shape[-2:]))


def _swap(b: Backend, x: Array) -> Array:
    return b.permute(x, [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2])


@row(aten._linalg_solve_ex.default)
def _linalg_solve(b: Backend, a: Array, x: Array, *, left: bool = True, check_errors: bool = False) -> tuple[Array, ...]:
    if x.ndim == a.ndim - 1 and (x.ndim == 1 or x.shape == a.shape[:-1]):
        column = b.reshape(x, (*x.shape, 1) if left else (*x.shape[:-1], 1, x.shape[-1]))
        return b.reshape(_solve(b, a, column, left), x.shape), a, a, a
    return _solve(b, a, x, left), a, a, a


@row(aten.linalg_lu_solve.default)
def _lu_solve(b: Backend, a: Array, pivots: Array, x: Array, *, left: bool = True, adjoint: bool = False) -> Array:
    return _solve(b, _swap(b, a) if adjoint else a, x, left)


@row(aten.linalg_inv_ex.default)
def _inverse(b: Backend, a: Array, check_errors: bool = False) -> tuple[Array, Array]:
    identity = b.constant(torch.eye(a.shape[-1], dtype=torch.float64).expand(a.shape))
    return _solve(b, a, identity), a


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


# --- indexing --------------------------------------------------------------------------------------------------------


def _wrapped(b: Backend, index: Array, n: int) -> Array:
    """`index` with the negative ones counted from the end."""
    fn = lambda g, i: g.apply("select", g.apply("lt", i, g.const(0.0)), i + n, i)  # noqa: E731
    return pointwise(b, fn, index, kind="int")


def _indices(b: Backend, x: Array, indices: Sequence[Array | None]) -> tuple[list[int | Array], tuple[int, ...]]:
    """The coordinates that NumPy's advanced indexing reads `x` at, and the shape of the result."""
    given: list[Array | None] = []
    for i, index in enumerate(indices):
        if index is not None and index.kind == "bool":
            raise NotImplementedError("indexing by a mask; use torch.where")
        given.append(None if index is None else _wrapped(b, index, x.shape[i]))
    given += [None] * (x.ndim - len(given))
    at = [i for i, index in enumerate(given) if index is not None]
    block = tuple(torch.broadcast_shapes(*(given[i].shape for i in at)))
    together = at == list(range(at[0], at[-1] + 1))
    first = at[0] if together else 0
    free = [i for i in range(x.ndim) if i not in at]
    shape = (*(x.shape[i] for i in free[:first]), *block, *(x.shape[i] for i in free[first:]))
    coordinates: list[int | Array] = []
    for i in range(x.ndim):
        if i in at:
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
    if len(indices) == 1 and indices[0].kind == "bool" and math.prod(values.shape) == 1:
        mask = b.reshape(indices[0], indices[0].shape + (1,) * (x.ndim - indices[0].ndim))
        fn = lambda g, m, x, v: g.apply("select", m, x + v if accumulate else v, x)  # noqa: E731
        fn.takes_bool = True
        return pointwise(b, fn, mask, x, b.reshape(values, (1,) * x.ndim), kind=x.kind)
    coordinates, shape = _indices(b, x, indices)
    return b.put(x, coordinates, b.expand(cast(b, values, x.kind), shape), accumulate)


def _along(b: Backend, index: Array, axis: int, n: int) -> list[int | Array]:
    return [index if a == axis else a for a in range(index.ndim)]


@row(aten.gather.default)
def _gather(b: Backend, x: Array, axis: int, index: Array, *, sparse_grad: bool = False) -> Array:
    if not x.ndim:
        return b.expand(x, index.shape)
    return b.take(x, _along(b, index, axis_of(axis, x.ndim), x.ndim), index.shape)


@row(aten.scatter.src, aten.scatter.value, aten.scatter_add.default)
def _scatter(b: Backend, x: Array, axis: int, index: Array, source: Any) -> Array:
    accumulate = "add" in b.node.target._schema.name
    if not isinstance(source, Array):
        source = b.full(index.shape, source, x.kind)
    for a, n in enumerate(index.shape):
        if n != source.shape[a]:
            source = b.slice(source, a, 0, n)
    return b.put(x, _along(b, index, axis_of(axis, x.ndim), x.ndim), source, accumulate)


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
def _embedding_backward(
    b: Backend, grad: Array, indices: Array, rows: int, padding: int, scale_by_frequency: bool
) -> Array:
    if scale_by_frequency:
        raise NotImplementedError("scale_grad_by_freq")
    if padding >= 0:
        keep = pointwise(b, lambda g, i: g.apply("ne", i, g.const(padding)), indices, kind="bool")
        keep = b.reshape(keep, (*keep.shape, 1))
        grad = pointwise(b, lambda g, k, x: k * x, keep, grad)
    base = b.full((rows, grad.shape[-1]), 0.0, "float")
    return _index_put(b, base, [indices], grad, True)

