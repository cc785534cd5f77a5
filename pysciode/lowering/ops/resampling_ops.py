"""Rows of operations that apply one matrix along each axis: interpolation, adaptive averages, and the backward of padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .backend import Array, Backend
from .table import aten, operation_name, row


def _along_axis(b: Backend, x: Array, axis: int, matrix: torch.Tensor) -> Array:
    """``out[…, i, …] = Σ_j matrix[i, j] x[…, j, …]`` with `axis` the one of i and j."""
    order = [a for a in range(x.ndim) if a != axis] + [axis]
    moved = b.permute(x, order)
    rest = moved.shape[:-1]
    product = b.matmul(b.reshape(moved, (math.prod(rest), x.shape[axis])), b.constant(matrix.T.contiguous()))
    return b.permute(b.reshape(product, (*rest, matrix.shape[0])), [order.index(a) for a in range(x.ndim)])


def _averaging(b: Backend, x: Array, axis: int, out: int, transposed: bool = False) -> Array:
    """The product along `axis` with the matrix that averages its adaptive windows, or with its transpose."""
    wide = out if not transposed else x.shape[axis]
    size = x.shape[axis] if not transposed else out
    matrix = torch.zeros(wide, size, dtype=torch.float64)
    for i in range(wide):
        low, high = i * size // wide, -(-(i + 1) * size // wide)
        matrix[i, low:high] = 1 / (high - low)
    return _along_axis(b, x, axis, matrix.T.contiguous() if transposed else matrix)


def _adaptive(n: int) -> Any:
    def rule(b: Backend, x: Array, size: Sequence[int]) -> Array:
        for i, out in enumerate(b.node.meta["val"].shape[-n:]):
            if out != x.shape[x.ndim - n + i]:
                x = _averaging(b, x, x.ndim - n + i, out)
        return x

    return rule


def _adaptive_backward(n: int) -> Any:
    def rule(b: Backend, grad: Array, x: Array) -> Array:
        for i in range(n):
            axis = x.ndim - n + i
            if grad.shape[axis] != x.shape[axis]:
                grad = _averaging(b, grad, axis, x.shape[axis], transposed=True)
        return grad

    return rule


for _n in (2, 3):
    row(getattr(aten, f"_adaptive_avg_pool{_n}d").default)(_adaptive(_n))
    row(getattr(aten, f"_adaptive_avg_pool{_n}d_backward").default)(_adaptive_backward(_n))


def _resampling_matrices(operation: Any, input_size: Sequence[int], options: Sequence[Any]) -> list[torch.Tensor]:
    """The matrix that a separable resampling applies along each axis: its response to unit vectors, from torch itself."""
    n = len(input_size) - 2
    matrices = []
    for i in range(n):
        size = input_size[2 + i]
        probe = torch.eye(size, dtype=torch.float64).reshape([size, 1] + [size if j == i else 1 for j in range(n)])
        out_size, *rest = options
        shape = [out_size[i] if j == i else 1 for j in range(n)]
        scales = [s if j == i else None for j, s in enumerate(rest[-n:])]
        response = operation(probe, shape, *rest[:-n], *scales)
        matrices.append(response.reshape(size, out_size[i]).T.contiguous())
    return matrices


def _upsample(operation: Any, n: int) -> None:
    forward, backward = getattr(aten, operation).default, getattr(aten, operation + "_backward").default

    @row(forward)
    def rule(b: Backend, x: Array, out_size: Sequence[int], *options: Any) -> Array:
        options = (*options, *[None] * (len(forward._schema.arguments) - 2 - len(options)))
        for i, matrix in enumerate(_resampling_matrices(forward, x.shape, (out_size, *options))):
            x = _along_axis(b, x, 2 + i, matrix)
        return x

    @row(backward)
    def backward_rule(b: Backend, grad: Array, out_size: Sequence[int], input_size: Sequence[int], *options: Any) -> Array:
        options = (*options, *[None] * (len(forward._schema.arguments) - 2 - len(options)))
        for i, matrix in enumerate(_resampling_matrices(forward, input_size, (out_size, *options))):
            grad = _along_axis(b, grad, 2 + i, matrix.T.contiguous())
        return grad


for _mode, _dims in (("nearest", (1, 2, 3)), ("linear", (1,)), ("bilinear", (2,)), ("trilinear", (3,)), ("bicubic", (2,))):
    for _n in _dims:
        _upsample(f"upsample_{_mode}{_n}d", _n)


@row(aten.replication_pad1d_backward.default, aten.replication_pad2d_backward.default, aten.replication_pad3d_backward.default,
     aten.reflection_pad1d_backward.default, aten.reflection_pad2d_backward.default,
     aten.reflection_pad3d_backward.default)  # fmt: skip
def _pad_backward(b: Backend, grad: Array, x: Array, padding: Sequence[int]) -> Array:
    n = len(padding) // 2
    pad = getattr(aten, operation_name(b).split("::")[1].replace("_backward", "")).default
    for i in range(n):
        axis = x.ndim - n + i
        size, sides = x.shape[axis], [0] * (2 * n)
        sides[2 * (n - 1 - i) : 2 * (n - 1 - i) + 2] = padding[2 * (n - 1 - i) : 2 * (n - 1 - i) + 2]
        # Where each padded element comes from: pad a ramp.
        ramp = torch.arange(size, dtype=torch.float64).reshape([1] + [size if j == i else 1 for j in range(n)])
        if n > 1:
            ramp = ramp.expand([1] + [size if j == i else max(2, size) for j in range(n)]).contiguous()
        source = pad(ramp, sides).movedim(1 + i, 0).reshape(grad.shape[axis], -1)[:, 0]
        matrix = torch.nn.functional.one_hot(source.long(), size).to(torch.float64).T.contiguous()
        grad = _along_axis(b, grad, axis, matrix)
    return grad
