"""Statements that are one call of a kernel for dense matrices (`Kernels` of the Julia package), or a loop of such calls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .loops import Buffer, Statement


@dataclass(frozen=True)
class Matrix:
    """A matrix (or a batch of them) in a buffer: offset, and strides of batch, rows and columns."""

    buffer: Buffer
    offset: int
    strides: tuple[int, int, int]


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

        call = (
            f"Kernels.matmul!({operand(self.c)}, {operand(self.a)}, {operand(self.b)}, {self.m}, {self.n}, {self.k})"
        )
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
