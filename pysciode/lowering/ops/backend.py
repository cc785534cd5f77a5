"""The arrays of a backend, and the few primitives that express every operation.

The rows of :mod:`~pysciode.lowering.ops.table` express every ATen operation by these. So a new operation is one row, whatever it is
printed as: unrolled scalars, loops or broadcasts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Literal

import torch
import torch.fx
from typing_extensions import TypeVar

from ...errors import CaptureError
from ...graphs.scalar_graph import Scalar, ScalarGraph

Kind = Literal["float", "int", "bool"]
ScalarFunction = Callable[..., Scalar]
"""``fn(graph, *scalars) -> Scalar``: what a pointwise operation does to one element."""

AxisMap = tuple[int, tuple[tuple[int, int], ...]]
"""Where an axis of the base is read: ``constant + Σ coefficient * index`` over pairs ``(axis of the view, coefficient)``."""


def kind_of(dtype: torch.dtype) -> Kind:
    """float, int or bool: all that distinguishes values inside a model of one float type."""
    if dtype.is_floating_point:
        return "float"
    if dtype == torch.bool:
        return "bool"
    if dtype.is_complex:
        raise CaptureError("complex tensors are not supported", operation=str(dtype))
    return "int"


class Array:
    """A value of a backend: has a static `shape` and a `kind`."""

    shape: tuple[int, ...]
    kind: Kind
    bounds: tuple[int, int] | None = None
    """The least and the largest element of integers that are constant; None of what is computed."""

    @property
    def ndim(self) -> int:
        return len(self.shape)


A = TypeVar("A", bound=Array, default=Array)


class Backend(ABC, Generic[A]):
    """The primitives.  Shapes are static, axes non-negative, and arrays of one call have equal shapes unless said otherwise."""

    node: torch.fx.Node
    """Of the graph, the one that is being translated."""

    def require(self, valid: A) -> None:
        """Have all results be NaN where an element of `valid` is false: an index lies outside of its array.

        The solver then takes a smaller step, as with any right-hand side that is not defined. Ignored by backends that compute nothing.
        """

    @abstractmethod
    def constant(self, value: torch.Tensor) -> A: ...

    @abstractmethod
    def full(self, shape: Sequence[int], value: float | bool, kind: Kind) -> A: ...

    @abstractmethod
    def pointwise(self, fn: ScalarFunction, args: Sequence[A], shape: tuple[int, ...], kind: Kind) -> A:
        """`fn` on each element of `args`, broadcast to `shape`."""

    @abstractmethod
    def affine(self, x: A, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> A:
        """The view of `x` whose element at an index is `x` at the mapped index (one map for each axis of `x`)."""

    @abstractmethod
    def accumulate(self, x: A, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> A:
        """The adjoint of :meth:`affine`: zeros of `shape`, with each element of `x` added at its mapped index."""

    @abstractmethod
    def reshape(self, x: A, shape: tuple[int, ...]) -> A: ...

    @abstractmethod
    def cat(self, xs: Sequence[A], axis: int) -> A: ...

    @abstractmethod
    def reduce(self, how: str, x: A, axes: tuple[int, ...]) -> A:
        """``"sum"``, ``"prod"``, ``"max"``, ``"min"`` (NaN wins), ``"any"`` or ``"all"`` over `axes`, which disappear.

        Equal extremes share the derivative; with ``"first_max"`` and ``"first_min"`` the first of them has it.
        """

    @abstractmethod
    def arg_reduce(self, how: str, x: A, axis: int) -> A:
        """The first index of the ``"max"`` or ``"min"`` along `axis`, which disappears."""

    @abstractmethod
    def matmul(self, a: A, b: A) -> A:
        """``(m, k) × (k, n)`` or ``(batch, m, k) × (batch, k, n)``."""

    @abstractmethod
    def solve(self, a: A, b: A) -> A:
        """``a⁻¹ b`` for ``(n, n)`` and ``(n, k)``, or for a batch of both."""

    @abstractmethod
    def take(self, x: A, coordinates: Sequence[int | A], shape: tuple[int, ...]) -> A:
        """``out[o] = x[c(o)]``: for each axis of `x`, a coordinate is an axis of the result or an index array of `shape`."""

    @abstractmethod
    def put(self, base: A, coordinates: Sequence[int | A], values: A, accumulate: bool) -> A:
        """`base` with `values` set or added at the coordinates, which are as in :meth:`take` over the shape of `values`."""

    @abstractmethod
    def scan(self, how: str, x: A, axis: int) -> A:
        """The running ``"sum"`` or ``"prod"`` along `axis`."""

    def shared(self, x: A) -> None:
        """`x` will be used more than once."""

    # --- views by name; a backend may print them in its own way ---

    def permute(self, x: A, axes: Sequence[int]) -> A:
        places = {a: i for i, a in enumerate(axes)}
        return self.affine(x, tuple(x.shape[a] for a in axes), [(0, ((places[a], 1),)) for a in range(x.ndim)])

    def expand(self, x: A, shape: tuple[int, ...]) -> A:
        if x.shape == shape:
            return x
        lead = len(shape) - x.ndim
        return self.affine(x, shape, [(0, () if n == 1 else ((lead + a, 1),)) for a, n in enumerate(x.shape)])

    def slice(self, x: A, axis: int, start: int, stop: int, step: int = 1) -> A:
        """Every `step`-th element from `start` up to `stop` along `axis`."""
        length = max(0, -(-(stop - start) // step))
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        return self.affine(x, shape, [(start, ((a, step),)) if a == axis else (0, ((a, 1),)) for a in range(x.ndim)])

    def flip(self, x: A, axes: Sequence[int]) -> A:
        return self.affine(x, x.shape, [(n - 1, ((a, -1),)) if a in axes else (0, ((a, 1),)) for a, n in enumerate(x.shape)])


def run_scalar(graph: ScalarGraph, fn: ScalarFunction, kinds: Sequence[Kind], scalars: Sequence[Scalar]) -> Scalar:
    """`fn` on scalars; truth values count as 0 and 1 unless `fn` is marked as taking them as they are."""
    if not getattr(fn, "takes_bool", False):
        scalars = [as_number(graph, s) if k == "bool" else s for k, s in zip(kinds, scalars, strict=True)]
    return fn(graph, *scalars)


def as_number(graph: ScalarGraph, s: Scalar) -> Scalar:
    """1 for true, 0 for false."""
    return graph.apply("select", s, graph.const(1.0), graph.const(0.0))
