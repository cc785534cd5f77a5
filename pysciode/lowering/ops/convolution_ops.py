"""Rows of operations with sliding windows: convolutions and pooling, in any number of dimensions.

A window is an affine view, so a convolution is a product with that view, and its transpose adds the product back through the
same view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .backend import Array, Backend
from .table import aten, operation_name, pointwise, row, total


def _spread(value: int | Sequence[int], n: int) -> list[int]:
    value = [value] if isinstance(value, int) else list(value)
    return value * n if len(value) == 1 else value


def _pad(b: Backend, x: Array, padding: Sequence[int], value: float = 0.0, after: Sequence[int] | None = None) -> Array:
    """`x` with `padding` on both sides (`after` at the end, where it differs) of its last axes."""
    first = x.ndim - len(padding)
    for i, before in enumerate(padding):
        axis, behind = first + i, (after or padding)[i]
        parts = [x]
        for n, place in ((before, 0), (behind, len(parts) + 1)):
            if n:
                parts.insert(place, b.full((*x.shape[:axis], n, *x.shape[axis + 1 :]), value, x.kind))
        x = b.cat(parts, axis) if len(parts) > 1 else x
    return x


def _window_maps(lead: int, n: int, kernel_at: int, out_at: int, stride: Sequence[int], dilation: Sequence[int]) -> list:
    """Maps of the window axes of a base with `lead` leading axes, kept in front."""
    maps: list = [(0, ((a, 1),)) for a in range(lead)]
    return maps + [(0, ((out_at + i, stride[i]), (kernel_at + i, dilation[i]))) for i in range(n)]


class _Convolution:
    """Shapes of one convolution, seen from the side with the larger arrays ("wide") to the one of the windows ("narrow")."""

    def __init__(self, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int, n: int) -> None:
        self.stride, self.padding, self.dilation = _spread(stride, n), _spread(padding, n), _spread(dilation, n)
        self.groups, self.n = groups, n

    def _maps(self) -> list:
        # The columns have axes (channel, kernel…, batch, out…); the padded base has (batch, channel, space…).
        n = self.n
        maps = [(0, ((1 + n, 1),)), (0, ((0, 1),))]
        return maps + _window_maps(0, n, 1, 2 + n, self.stride, self.dilation)

    def columns(self, b: Backend, wide: Array, kernel: Sequence[int], narrow: Sequence[int]) -> Array:
        """The windows of `wide` as (groups, channels × kernel, batch × narrow)."""
        padded = _pad(b, wide, self.padding)
        batch, channels = wide.shape[:2]
        view = b.affine(padded, (channels, *kernel, batch, *narrow), self._maps())
        return b.reshape(view, (self.groups, channels * math.prod(kernel) // self.groups, batch * math.prod(narrow)))

    def spread(self, b: Backend, columns: Array, wide: Sequence[int], kernel: Sequence[int], narrow: Sequence[int]) -> Array:
        """The transpose of :meth:`columns`: an array of shape `wide`."""
        batch, channels, *space = wide
        view = b.reshape(columns, (channels, *kernel, batch, *narrow))
        padded = b.accumulate(view, (batch, channels, *(s + 2 * p for s, p in zip(space, self.padding, strict=True))), self._maps())
        for i, (s, p) in enumerate(zip(space, self.padding, strict=True)):
            padded = b.slice(padded, 2 + i, p, p + s) if p else padded
        return padded

    def flat(self, b: Backend, narrow: Array) -> Array:
        """(batch, channels, space…) as (groups, channels, batch × space)."""
        batch, channels, *space = narrow.shape
        moved = b.permute(narrow, [1, 0, *range(2, narrow.ndim)])
        return b.reshape(moved, (self.groups, channels // self.groups, batch * math.prod(space)))

    def unflat(self, b: Backend, flat: Array, batch: int, space: Sequence[int]) -> Array:
        channels = flat.shape[0] * flat.shape[1]
        moved = b.reshape(flat, (channels, batch, *space))
        return b.permute(moved, [1, 0, *range(2, moved.ndim)])

    def weight(self, b: Backend, weight: Array) -> Array:
        """(narrow channels, wide channels per group, kernel…) as (groups, narrow channels per group, the rest)."""
        return b.reshape(weight, (self.groups, weight.shape[0] // self.groups, math.prod(weight.shape[1:])))


def _product(b: Backend, x: Array, y: Array) -> Array:
    if x.shape[0] > 1:
        return b.matmul(x, y)
    out = b.matmul(b.reshape(x, x.shape[1:]), b.reshape(y, y.shape[1:]))
    return b.reshape(out, (1, *out.shape))


def _transposed(b: Backend, x: Array) -> Array:
    return b.permute(x, [0, 2, 1])


@row(aten.convolution.default)
def _convolution(
    b: Backend, x: Array, weight: Array, bias: Array | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Array:  # fmt: skip
    shape = tuple(b.node.meta["val"].shape)
    n = len(shape) - 2
    conv = _Convolution(stride, padding, dilation, groups, n)
    kernel, w = weight.shape[2:], conv.weight(b, weight)
    if transposed:
        columns = _product(b, _transposed(b, w), conv.flat(b, x))
        out = conv.spread(b, columns, shape, kernel, x.shape[2:])
    else:
        out = conv.unflat(b, _product(b, w, conv.columns(b, x, kernel, shape[2:])), shape[0], shape[2:])
    if bias is not None:
        out = pointwise(b, lambda g, x, c: x + c, out, b.reshape(bias, (shape[1], *(1,) * n)))
    return out


@row(aten.convolution_backward.default)
def _convolution_backward(
    b: Backend, grad: Array, x: Array, weight: Array, bias_sizes: Any, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int, mask: Sequence[bool],
) -> tuple[Array | None, ...]:  # fmt: skip
    n = x.ndim - 2
    conv = _Convolution(stride, padding, dilation, groups, n)
    kernel, w = weight.shape[2:], conv.weight(b, weight)
    dx = dw = db = None
    if transposed:
        columns = conv.columns(b, grad, kernel, x.shape[2:])
        if mask[0]:
            dx = conv.unflat(b, _product(b, w, columns), x.shape[0], x.shape[2:])
        if mask[1]:
            dw = b.reshape(_product(b, conv.flat(b, x), _transposed(b, columns)), weight.shape)
    else:
        flat = conv.flat(b, grad)
        if mask[0]:
            dx = conv.spread(b, _product(b, _transposed(b, w), flat), x.shape, kernel, grad.shape[2:])
        if mask[1]:
            columns = conv.columns(b, x, kernel, grad.shape[2:])
            dw = b.reshape(_product(b, flat, _transposed(b, columns)), weight.shape)
    if mask[2]:
        db = total(b, grad, [0, *range(2, grad.ndim)])
    return dx, dw, db


# --- pooling ---------------------------------------------------------------------------------------------------------


class _Pool:
    """Windows over the last `n` axes."""

    def __init__(self, shape: Sequence[int], out: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any, n: int):
        self.n, self.lead = n, len(shape) - n
        self.shape, self.out = tuple(shape), tuple(out)
        self.kernel = _spread(kernel, n)
        self.stride = _spread(stride, n) if stride or stride == 0 else self.kernel
        self.padding, self.dilation = _spread(padding, n), _spread(dilation, n)
        # With ceil_mode a last window may hang over the end.
        needed = [
            (o - 1) * s + d * (k - 1) + 1 for o, s, k, d in zip(out[self.lead :], self.stride, self.kernel, self.dilation, strict=True)
        ]
        self.after = [max(p, m - s - p) for p, m, s in zip(self.padding, needed, shape[self.lead :], strict=True)]

    @property
    def padded(self) -> tuple[int, ...]:
        sides = zip(self.shape[self.lead :], self.padding, self.after, strict=True)
        return (*self.shape[: self.lead], *(s + p + a for s, p, a in sides))

    def maps(self) -> list:
        return _window_maps(self.lead, self.n, self.lead + self.n, self.lead, self.stride, self.dilation)

    def windows(self, b: Backend, x: Array, filler: float) -> Array:
        """(lead…, out…, kernel…)"""
        return b.affine(_pad(b, x, self.padding, filler, self.after), (*self.out, *self.kernel), self.maps())

    def crop(self, b: Backend, padded: Array) -> Array:
        for i, p in enumerate(self.padding):
            padded = b.slice(padded, self.lead + i, p, p + self.shape[self.lead + i])
        return padded

    def counts(self, include_padding: bool, divisor: int | None) -> torch.Tensor:
        """What each window's sum is divided by, of the shape of the windows."""
        space = self.out[self.lead :]
        if divisor:
            return torch.full(space, float(divisor), dtype=torch.float64)
        per_axis = []
        for i, o in enumerate(space):
            size, pad = self.shape[self.lead + i], self.padding[i]
            starts = torch.arange(o) * self.stride[i] - pad
            # Torch counts the padding, but not what hangs over it.
            low, high = (starts, size + pad) if include_padding else (starts.clamp(min=0), size)
            per_axis.append((torch.clamp(starts + self.kernel[i], max=high) - low).to(torch.float64))
        counts = torch.ones(space, dtype=torch.float64)
        for i, c in enumerate(per_axis):
            counts = counts * c.reshape([-1 if j == i else 1 for j in range(len(space))])
        return counts


def _inverse_counts(b: Backend, pool: _Pool, include_padding: bool, divisor: int | None) -> Array:
    inverse = 1 / pool.counts(include_padding, divisor)
    if bool((inverse == inverse.reshape(-1)[0]).all()):
        return b.full(tuple(inverse.shape), inverse.reshape(-1)[0].item(), "float")
    return b.constant(inverse)


def _avg_pool(n: int) -> Any:
    def rule(
        b: Backend, x: Array, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Array:  # fmt: skip
        pool = _Pool(x.shape, b.node.meta["val"].shape, kernel, stride, padding, 1, n)
        summed = total(b, pool.windows(b, x, 0.0), list(range(x.ndim, x.ndim + n)))
        return pointwise(b, lambda g, s, c: s * c, summed, _inverse_counts(b, pool, count_include_pad, divisor_override))

    return rule


def _avg_pool_backward(n: int) -> Any:
    def rule(
        b: Backend, grad: Array, x: Array, kernel: Any, stride: Any, padding: Any, ceil_mode: bool,
        count_include_pad: bool, divisor_override: int | None,
    ) -> Array:  # fmt: skip
        pool = _Pool(x.shape, grad.shape, kernel, stride, padding, 1, n)
        share = pointwise(b, lambda g, s, c: s * c, grad, _inverse_counts(b, pool, count_include_pad, divisor_override))
        share = b.expand(b.reshape(share, share.shape + (1,) * n), (*share.shape, *pool.kernel))
        return pool.crop(b, b.accumulate(share, pool.padded, pool.maps()))

    return rule


def _max_pool(n: int) -> Any:
    def rule(
        b: Backend, x: Array, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> tuple[Array, Array]:
        pool = _Pool(x.shape, b.node.meta["val"][0].shape, kernel, stride, padding, dilation, n)
        windows = pool.windows(b, x, -math.inf)
        flat = b.reshape(windows, (*pool.out, math.prod(pool.kernel)))
        best = b.reduce("first_max", flat, (x.ndim,))
        # The place in the input, counted over its window axes, of each place in the window.
        places = torch.zeros((*pool.out[pool.lead :], *pool.kernel), dtype=torch.int64)
        for i in range(n):
            o = torch.arange(pool.out[pool.lead + i]).reshape([-1 if j == i else 1 for j in range(2 * n)])
            k = torch.arange(pool.kernel[i]).reshape([-1 if j == n + i else 1 for j in range(2 * n)])
            at = o * pool.stride[i] + k * pool.dilation[i] - pool.padding[i]
            places = places * pool.shape[pool.lead + i] + at.clamp(0, pool.shape[pool.lead + i] - 1)
        places = places.reshape(*pool.out[pool.lead :], -1)
        winner = b.arg_reduce("max", flat, x.ndim)
        table = b.constant(places)
        index = b.take(table, [*range(pool.lead, x.ndim), winner], pool.out)
        return best, index

    return rule


def _max_pool_backward(n: int) -> Any:
    def rule(
        b: Backend, grad: Array, x: Array, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, index: Array
    ) -> Array:
        lead = x.shape[: x.ndim - n]
        flat = (*lead, math.prod(grad.shape[len(lead) :]))
        base = b.full((*lead, math.prod(x.shape[len(lead) :])), 0.0, "float")
        where: list = [*range(len(lead)), b.reshape(index, flat)]
        return b.reshape(b.put(base, where, b.reshape(grad, flat), True), x.shape)

    return rule


for _n in (2, 3):
    row(getattr(aten, f"avg_pool{_n}d").default)(_avg_pool(_n))
    row(getattr(aten, f"avg_pool{_n}d_backward").default)(_avg_pool_backward(_n))
    row(getattr(aten, f"max_pool{_n}d_with_indices").default)(_max_pool(_n))
    row(getattr(aten, f"max_pool{_n}d_with_indices_backward").default)(_max_pool_backward(_n))


@row(aten.adaptive_max_pool2d_backward.default, aten.adaptive_max_pool3d_backward.default)
def _adaptive_max_backward(b: Backend, grad: Array, x: Array, index: Array) -> Array:
    n = 2 if "2d" in operation_name(b) else 3
    return _max_pool_backward(n)(b, grad, x, None, None, None, None, False, index)


def _adaptive_max(n: int) -> Any:
    def rule(b: Backend, x: Array, size: Sequence[int]) -> tuple[Array, Array]:
        out = tuple(b.node.meta["val"][0].shape)
        lead, space = x.shape[: x.ndim - n], x.shape[x.ndim - n :]
        windows = [[(i * s // o, -(-(i + 1) * s // o)) for i in range(o)] for s, o in zip(space, out[len(lead) :], strict=True)]
        # Windows of different sizes: repeat the last element of the shorter ones, which changes no maximum.
        places = torch.zeros((), dtype=torch.int64)
        for axis, (low_high, s) in enumerate(zip(windows, space, strict=True)):
            width = max(high - low for low, high in low_high)
            at = torch.tensor([[min(low + k, high - 1) for k in range(width)] for low, high in low_high])
            view = [1] * (2 * n)
            view[axis], view[n + axis] = at.shape
            places = places * s + at.reshape(view)
        places = places.reshape(*out[len(lead) :], -1)
        flat = b.reshape(x, (*lead, math.prod(space)))
        shape = (*lead, *places.shape)
        index = b.expand(b.constant(places), shape)
        taken = b.take(flat, [*range(len(lead)), index], shape)
        winner = b.arg_reduce("max", taken, len(shape) - 1)
        where = b.take(b.constant(places), [*range(len(lead), len(out)), winner], out)
        return b.reduce("first_max", taken, (len(shape) - 1,)), where

    return rule


row(aten.adaptive_max_pool2d.default)(_adaptive_max(2))
row(aten.adaptive_max_pool3d.default)(_adaptive_max(3))
