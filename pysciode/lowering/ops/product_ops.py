"""Rows of matrix products and linear systems."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ...graphs.scalar_graph import Scalar, ScalarGraph
from .backend import Array, Backend
from .table import aten, pointwise, row, total


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
