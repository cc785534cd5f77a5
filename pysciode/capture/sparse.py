"""SciPy's sparse matrices times arrays of Scalars, which SciPy itself refuses."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..graphs.numpy_protocol import ScalarArray


def is_sparse(x: Any) -> bool:
    """Whether `x` is a SciPy sparse matrix or array; does not import SciPy."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and sparse.issparse(x)


class SparseOperator:
    """Stands in for a sparse matrix while a model is captured: products with Scalars are ours, all else is SciPy's."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix

    def __getattr__(self, name: str) -> Any:
        if name in ("transpose", "T"):
            transposed = SparseOperator(self._matrix.T)
            return transposed if name == "T" else lambda *args, **kwargs: transposed
        return getattr(self._matrix, name)

    def __getitem__(self, key: Any) -> Any:
        part = self._matrix[key]
        return SparseOperator(part) if is_sparse(part) else part

    def dot(self, other: Any) -> Any:
        return self @ other

    def __matmul__(self, other: Any) -> Any:
        other = other._matrix if isinstance(other, SparseOperator) else other
        if not (isinstance(other, np.ndarray) and other.dtype == object):
            return self._matrix @ other
        if other.shape[0] != self._matrix.shape[1]:
            raise ValueError(f"dimension mismatch: {self._matrix.shape} @ {other.shape}")
        return _product(self._matrix, other)

    def __rmatmul__(self, other: Any) -> Any:
        if not (isinstance(other, np.ndarray) and other.dtype == object):
            return other @ self._matrix
        if other.shape[-1] != self._matrix.shape[0]:
            raise ValueError(f"dimension mismatch: {other.shape} @ {self._matrix.shape}")
        return _product(self._matrix.T, other.T).T

    def __mul__(self, other: Any) -> Any:
        # `*` is the matrix product of spmatrix, and goes by elements for sparse arrays.
        from scipy.sparse import spmatrix

        if isinstance(self._matrix, spmatrix) and isinstance(other, np.ndarray):
            return self @ other
        return SparseOperator(self._matrix * (other._matrix if isinstance(other, SparseOperator) else other))

    def __rmul__(self, other: Any) -> Any:
        return SparseOperator(other * self._matrix)

    def __neg__(self) -> SparseOperator:
        return SparseOperator(-self._matrix)

    def __add__(self, other: Any) -> SparseOperator:
        return SparseOperator(self._matrix + (other._matrix if isinstance(other, SparseOperator) else other))

    def __sub__(self, other: Any) -> SparseOperator:
        return SparseOperator(self._matrix - (other._matrix if isinstance(other, SparseOperator) else other))

    # NumPy must leave `array @ matrix` to this class.
    __array_ufunc__ = None


def _product(matrix: Any, x: np.ndarray) -> ScalarArray:
    rows = matrix.tocsr()
    out = np.empty((rows.shape[0], *x.shape[1:]), object).view(ScalarArray)
    x = x.view(ScalarArray)
    for i in range(rows.shape[0]):
        entries = slice(rows.indptr[i], rows.indptr[i + 1])
        total: Any = np.zeros(x.shape[1:]) if x.ndim > 1 else 0.0
        for j, value in zip(rows.indices[entries], rows.data[entries], strict=True):
            total = total + x[j] * value.item()
        out[i] = total
    return out
