"""Rows of operations that combine the elements of axes: sums, extremes, norms, running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...graphs.scalar_graph import Scalar, ScalarGraph
from .backend import Array, Backend
from .table import apply, aten, axis_of, cast, node_kind, pointwise, reduce, row, safe_root, to_bool, total


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
    return reduce(b, "first_max", x, [axis], keepdim), _arg(b, "max", x, axis, keepdim)


@row(aten.min.dim)
def _min_dim(b: Backend, x: Array, axis: int, keepdim: bool = False) -> tuple[Array, Array]:
    return reduce(b, "first_min", x, [axis], keepdim), _arg(b, "min", x, axis, keepdim)


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
def _var_mean(b: Backend, x: Array, axes: Any = None, *, correction: float | None = None, keepdim: bool = False) -> tuple[Array, Array]:
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


@row(aten.std.correction)
def _std(b: Backend, x: Array, axes: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Array:
    return _std_mean(b, x, axes, correction=correction, keepdim=keepdim)[0]


@row(aten.std_mean.correction)
def _std_mean(b: Backend, x: Array, axes: Any = None, *, correction: float | None = None, keepdim: bool = False) -> tuple[Array, Array]:
    var, mean = _var_mean(b, x, axes, correction=correction, keepdim=keepdim)
    return pointwise(b, lambda g, v: safe_root(g, v, apply("sqrt")), var), mean


@row(aten.cumsum.default)
def _cumsum(b: Backend, x: Array, axis: int, dtype: Any = None) -> Array:
    return b.scan("sum", cast(b, x, node_kind(b)), axis_of(axis, x.ndim)) if x.ndim else x


@row(aten.cumprod.default)
def _cumprod(b: Backend, x: Array, axis: int, dtype: Any = None) -> Array:
    return b.scan("prod", cast(b, x, node_kind(b)), axis_of(axis, x.ndim)) if x.ndim else x


@row(aten.linalg_vector_norm.default)
def _vector_norm(b: Backend, x: Array, order: float = 2, axes: Any = None, keepdim: bool = False, dtype: Any = None) -> Array:
    axes = _axes(x, axes)
    absolute = pointwise(b, lambda g, x: g.apply("abs", x), x)
    if order == math.inf:
        return reduce(b, "max", absolute, axes, keepdim)
    if order == -math.inf:
        return reduce(b, "min", absolute, axes, keepdim)
    if order == 0:
        present = pointwise(b, lambda g, x: g.apply("ne", x, g.const(0.0)), x, kind="bool")
        return cast(b, total(b, present, axes, keepdim), "float")

    def power(g: ScalarGraph, x: Scalar) -> Scalar:
        return g.apply("pow", x, g.const(order))

    def one(g: ScalarGraph, x: Scalar) -> Scalar:
        return power(g, x) if order >= 1 else safe_root(g, x, power)

    powers = pointwise(b, one, x if order % 2 == 0 else absolute)
    summed = total(b, powers, axes, keepdim)
    return pointwise(b, lambda g, s: safe_root(g, s, lambda g, s: g.apply("pow", s, g.const(1 / order))), summed)
