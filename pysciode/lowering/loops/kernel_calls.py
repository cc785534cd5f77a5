"""Statements that are one call of a kernel for dense matrices (`Kernels` of the Julia package), or a loop of such calls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .buffers import Buffer
from .statements import Statement


@dataclass(frozen=True)
class Matrix:
    """A matrix (or a batch of them) in a buffer: offset, and strides of batch, rows and columns."""

    buffer: Buffer
    offset: int
    strides: tuple[int, int, int]


def matrix_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int] | None:
    """Strides for a matrix whose rows, or columns, lie densely one after the other; None where neither do.

    That is how libraries take matrices. The stride of an axis of length 1 is free, and chosen to be one that they understand.
    """
    (m, n), (rows, columns) = shape, strides
    if (n == 1 or columns == 1) and (m == 1 or rows >= n):
        return (rows if m > 1 else n), 1
    if (m == 1 or rows == 1) and (n == 1 or columns >= m):
        return 1, (columns if n > 1 else m)
    return None


@dataclass
class Product(Statement):
    """``C = A B`` for each matrix of a batch."""

    batch: int
    m: int
    n: int
    k: int
    a: Matrix
    b: Matrix
    c: Matrix

    def reads(self) -> set[Buffer]:
        return {self.a.buffer, self.b.buffer}

    def writes(self) -> set[Buffer]:
        return {self.c.buffer}

    def emit(self, dtype: np.dtype) -> list[str]:
        def operand(x: Matrix) -> str:
            offset = str(x.offset + x.buffer.shift)
            if self.batch > 1 and x.strides[0]:
                offset += f" + {x.strides[0]}*i"
            return f"{x.buffer.name}, {offset}, {x.strides[1]}, {x.strides[2]}"

        call = f"Kernels.matmul!({operand(self.c)}, {operand(self.a)}, {operand(self.b)}, {self.m}, {self.n}, {self.k})"
        return [call] if self.batch == 1 else [f"for i in 0:{self.batch - 1}", "    " + call, "end"]


@dataclass
class Solve(Statement):
    """``B = A⁻¹ B`` for each of a batch of dense matrices; `A` is overwritten."""

    batch: int
    n: int
    k: int
    a: Buffer
    b: Buffer

    def reads(self) -> set[Buffer]:
        return {self.a, self.b}

    def writes(self) -> set[Buffer]:
        return {self.a, self.b}

    def emit(self, dtype: np.dtype) -> list[str]:
        def at(buffer: Buffer, size: int) -> str:
            return f"{buffer.name}, {buffer.shift}" + (f" + {size}*i" if self.batch > 1 else "")

        call = f"Kernels.solve!({at(self.a, self.n**2)}, {at(self.b, self.n * self.k)}, {self.n}, {self.k})"
        return [call] if self.batch == 1 else [f"for i in 0:{self.batch - 1}", "    " + call, "end"]
