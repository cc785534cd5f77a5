"""The backend that turns a graph into a program of loops.

Shapes are static, so every value is a view (buffer, offset, strides in C order): reshaping, permuting, slicing and expanding cost no
code.  Pointwise values stay unevaluated until something needs them in memory; then they become one loop, with all that
they are made of inside it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch

from ...graphs.scalar_graph import Scalar, ScalarGraph
from ..ops.backend import AxisMap, Backend, Kind, ScalarFunction, as_number, kind_of, run_scalar
from .array_values import Computed, Filled, Stored, Taken, Value, Viewed, at_index, axes_of, mapped
from .buffers import Affine, Buffer
from .constants import Constants
from .kernel_calls import Matrix, Product, Solve, matrix_strides
from .program import Program
from .reshapes import reshaped, split_maps
from .scatter_races import Apart, apart
from .statements import ArgReduction, Body, Loop, Reduction, Scan

# A value used more than once is kept in memory from this cost on.
_SHARED_COST = 3
# Beyond these, a pointwise value is evaluated to memory: loops stay short enough to compile quickly.
_MAX_COST, _MAX_READS = 400, 24
# Products with so few terms are written out and fused with what follows.
_SHORT_PRODUCT = 4


def _all_of(g: ScalarGraph, *x: Scalar) -> Scalar:
    return functools.reduce(lambda x, y: g.apply("and", x, y), x)


def _or_nan(g: ScalarGraph, valid: Scalar, x: Scalar) -> Scalar:
    return g.apply("select", valid, x, g.const(math.nan))


_all_of.takes_bool = _or_nan.takes_bool = True


class LoopBackend(Backend[Value]):
    """Builds the program of one function.

    Parameters
    ----------
    constants
        Takes the tensors that are part of the model.
    again
        A single number of at most this cost is computed again wherever it is needed, rather than kept in memory: on a device,
        that costs less than to launch a kernel for it.
    """

    def __init__(self, constants: Constants, again: int = 0) -> None:
        self.program = Program()
        self.constants = constants
        self.again = again
        self._required: list[Value] = []

    # --- evaluation ---

    def store(self, x: Value, target: Stored) -> None:
        """Evaluate `x` into `target`."""
        body = Body()
        index = axes_of(x.ndim)
        value = x.load(body, index)
        if x.kind == "bool" and target.kind != "bool":
            value = as_number(body.graph, value)
        self.program.statements.append(Loop(x.shape, body, [(target.buffer, target.place(index), value)]))

    def temporary(self, shape: tuple[int, ...], kind: Kind) -> Stored:
        return Stored(Buffer(math.prod(shape), kind), shape)

    def memory(self, x: Value) -> Stored:
        """`x` as a view of memory; evaluated if it is not one."""
        if isinstance(x, Stored):
            return x
        if isinstance(x, Computed):
            if x.stored is None:
                target = self.temporary(x.shape, x.kind)
                self.store(x, target)
                x.stored, x.cost, x.n_reads = target, 0, 1
            return x.stored
        if isinstance(x, Viewed) and isinstance(x.base, Computed) and math.prod(x.base.shape) <= math.prod(x.shape):
            return self.memory(self.affine(self.memory(x.base), x.shape, x.maps))
        target = self.temporary(x.shape, x.kind)
        self.store(x, target)
        return target

    def packed(self, x: Value) -> Stored:
        """`x` in C order."""
        out = self.memory(x)
        if not out.dense:
            target = self.temporary(x.shape, x.kind)
            self.store(out, target)
            out = target
        return out

    def require(self, valid: Value) -> None:
        self._required.append(valid)

    def defined(self, results: Sequence[Value]) -> list[Value]:
        """The results of an interpretation, NaN where what was required does not hold."""
        if not self._required:
            return list(results)
        # At the end, where the loops are known that compute the same indices.
        by_shape: dict[tuple[int, ...], list[Value]] = {}
        for x in self._required:
            by_shape.setdefault(x.shape, []).append(x)
        whole = [self.pointwise(_all_of, xs, shape, "bool") for shape, xs in by_shape.items()]
        conditions = [self.reduce("all", x, tuple(range(x.ndim))) if x.ndim else x for x in whole]
        valid = self.memory(conditions[0] if len(conditions) == 1 else self.pointwise(_all_of, conditions, (), "bool"))
        return [self.pointwise(_or_nan, [self.expand(valid, x.shape), x], x.shape, x.kind) for x in results]

    def shared(self, x: Value) -> None:
        """`x` is used several times: keep it in memory, if it is not quicker to compute it again."""
        base = x.base if isinstance(x, Viewed) else x
        if isinstance(base, Computed) and base.stored is None and self._is_dear(base):
            self.memory(base)

    def _is_dear(self, x: Value) -> bool:
        """Whether `x` is better kept in memory than computed several times."""
        return x.cost >= _SHARED_COST and (math.prod(x.shape) > 1 or x.cost > self.again)

    # --- primitives ---

    def constant(self, value: torch.Tensor) -> Value:
        kind = kind_of(value.dtype)
        out = Stored(self.constants.buffer(value, kind), tuple(value.shape))
        return out

    def full(self, shape: Sequence[int], value: float | bool, kind: Kind) -> Value:
        return Filled(tuple(shape), value, kind)

    def pointwise(self, fn: ScalarFunction, args: Sequence[Value], shape: tuple[int, ...], kind: Kind) -> Value:
        for x in args:
            # What is spread over a larger shape is computed once, not for each copy.
            if math.prod(x.shape) < math.prod(shape):
                self.shared(x)
        args = [self.expand(x, shape) for x in args]
        filled = [x for x in args if isinstance(x, Filled)]
        if len(filled) == len(args):
            graph = ScalarGraph()
            scalars = [graph.const(bool(x.value) if x.kind == "bool" else float(x.value)) for x in filled]
            value = run_scalar(graph, fn, [x.kind for x in args], scalars).constant
            if value is not None:
                return Filled(shape, value, kind)
        out = Computed(fn, args, shape, kind)
        if out.cost > _MAX_COST or out.n_reads > _MAX_READS:
            for x in sorted(args, key=lambda x: -x.cost):
                self.shared(x)
            out = Computed(fn, args, shape, kind)
        return out

    def affine(self, x: Value, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> Value:
        if isinstance(x, Filled):
            return Filled(shape, x.value, x.kind)
        if isinstance(x, Viewed):
            inner = [Affine.combine(c, ((k, Affine.axis(a)) for a, k in terms)) for c, terms in maps]
            return self.affine(x.base, shape, [mapped(m, tuple(inner)).axis_map() for m in x.maps])
        if isinstance(x, Computed) and x.stored is not None:
            x = x.stored
        if isinstance(x, Stored):
            offset = x.offset + sum(s * c for s, (c, _) in zip(x.strides, maps, strict=True))
            strides = [0] * len(shape)
            for s, (_, terms) in zip(x.strides, maps, strict=True):
                for a, k in terms:
                    strides[a] += s * k
            return Stored(x.buffer, shape, tuple(strides), offset)
        if math.prod(shape) > math.prod(x.shape) and self._is_dear(x):
            return self.affine(self.memory(x), shape, maps)
        return Viewed(x, shape, maps)

    def accumulate(self, x: Value, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> Value:
        target = self.temporary(shape, x.kind)
        self.store(Filled(shape, 0.0, x.kind), target)
        body, index = Body(), axes_of(x.ndim)
        place = target.place(tuple(mapped(m, index) for m in maps))
        value = x.load(body, index)
        distinct = apart(x.shape, [terms for _, terms in maps])
        shared = not distinct.all_of(x.shape)
        stores = [(target.buffer, place, value)]
        self.program.statements.append(Loop(x.shape, body, stores, accumulate=shared, ordered=shared, apart=distinct))
        return target

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        if x.shape == shape:
            return x
        if isinstance(x, Filled):
            return Filled(shape, x.value, x.kind)
        if isinstance(x, Computed) and x.stored is not None:
            x = x.stored
        if isinstance(x, Stored):
            strides = reshaped(x.shape, x.strides, shape)
            if strides is not None:
                return Stored(x.buffer, shape, strides, x.offset)
            return self.reshape(self.packed(x), shape)
        maps = split_maps(x.shape, shape)
        if maps is not None:
            return self.affine(x, shape, maps)
        if isinstance(x, Computed) and all(self._reshapes(a, shape) for a in x.args):
            return Computed(x.fn, [self.reshape(a, shape) for a in x.args], shape, x.kind)
        return self.reshape(self.memory(x), shape)

    def _reshapes(self, x: Value, shape: tuple[int, ...]) -> bool:
        """Whether `x` can be seen in another shape without being moved."""
        if isinstance(x, Computed) and x.stored is None:
            return split_maps(x.shape, shape) is not None
        if isinstance(x, Filled):
            return True
        kept = x.stored if isinstance(x, Computed) else x
        return isinstance(kept, Stored) and reshaped(kept.shape, kept.strides, shape) is not None

    def cat(self, xs: Sequence[Value], axis: int) -> Value:
        length = sum(x.shape[axis] for x in xs)
        shape = (*xs[0].shape[:axis], length, *xs[0].shape[axis + 1 :])
        target = self.temporary(shape, xs[0].kind)
        start = 0
        for x in xs:
            part = self.memory(self.slice(target, axis, start, start + x.shape[axis]))
            self.store(x, part)
            start += x.shape[axis]
        return target

    def _source(self, x: Value) -> tuple[Body, Scalar]:
        body = Body()
        return body, x.load(body, axes_of(x.ndim))

    def _kept(self, x: Value, axes: Sequence[int], kind: Kind) -> tuple[Stored, Affine]:
        """Memory for `x` without `axes`, and the place in it of an index of `x`."""
        index = axes_of(x.ndim)
        target = self.temporary(tuple(n for a, n in enumerate(x.shape) if a not in axes), kind)
        return target, target.place(tuple(index[a] for a in range(x.ndim) if a not in axes))

    def reduce(self, how: str, x: Value, axes: tuple[int, ...]) -> Value:
        shape = tuple(n for a, n in enumerate(x.shape) if a not in axes)
        count = math.prod(x.shape[a] for a in axes)
        if isinstance(x, Filled) and count:
            value = x.value * count if how == "sum" else x.value**count if how == "prod" else x.value
            return Filled(shape, value, x.kind)
        if count == 1:
            return self.reshape(x, shape)
        body, value = self._source(x)
        target, place = self._kept(x, axes, x.kind)
        self.program.statements.append(Reduction(x.shape, axes, how, body, value, (target.buffer, place)))
        return target

    def arg_reduce(self, how: str, x: Value, axis: int) -> Value:
        body, value = self._source(x)
        target, place = self._kept(x, (axis,), "int")
        self.program.statements.append(ArgReduction(x.shape, axis, how, body, value, (target.buffer, place)))
        return target

    def scan(self, how: str, x: Value, axis: int) -> Value:
        body, value = self._source(x)
        target = self.temporary(x.shape, x.kind)
        place = (target.buffer, target.place(axes_of(x.ndim)))
        self.program.statements.append(Scan(x.shape, axis, how, body, value, place))
        return target

    def matmul(self, a: Value, b: Value) -> Value:
        shape = (*a.shape[:-1], b.shape[-1])
        m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
        if any(isinstance(x, Filled) and x.value == 0 for x in (a, b)) or k == 0:
            return Filled(shape, 0.0, "float")
        if k <= _SHORT_PRODUCT:
            return self._short_product(a, b, shape, k)
        left, right = self._operand(a), self._operand(b)
        target = self.temporary(shape, "float")
        batch = shape[0] if len(shape) == 3 else 1
        statement = Product(batch, m, n, k, self._matrix(left), self._matrix(right), self._matrix(target))
        self.program.statements.append(statement)
        return target

    def _operand(self, x: Value) -> Stored:
        out = self.memory(x)
        steps = matrix_strides(out.shape[-2:], out.strides[-2:])
        if steps is None or min(out.strides) < 0:
            return self.packed(self._copy(out))
        return Stored(out.buffer, out.shape, (*out.strides[:-2], *steps), out.offset)

    def _copy(self, x: Stored) -> Stored:
        target = self.temporary(x.shape, x.kind)
        self.store(x, target)
        return target

    @staticmethod
    def _matrix(x: Stored) -> Matrix:
        return Matrix(x.buffer, x.offset, (x.strides[0] if x.ndim == 3 else 0, x.strides[-2], x.strides[-1]))

    def _short_product(self, a: Value, b: Value, shape: tuple[int, ...], k: int) -> Value:
        """The product as a sum of `k` pointwise products."""
        for x in (a, b):
            self.shared(x)
        columns = [self.slice(a, a.ndim - 1, j, j + 1) for j in range(k)]
        rows = [self.slice(b, b.ndim - 2, j, j + 1) for j in range(k)]

        def fn(g: ScalarGraph, *x: Scalar) -> Scalar:
            return g.total([p * q for p, q in zip(x[:k], x[k:], strict=True)])

        return self.pointwise(fn, [*columns, *rows], shape, "float")

    def solve(self, a: Value, b: Value) -> Value:
        left, right = self.temporary(a.shape, "float"), self.temporary(b.shape, "float")
        self.store(a, left)
        self.store(b, right)
        batch = a.shape[0] if a.ndim == 3 else 1
        self.program.statements.append(Solve(batch, b.shape[-2], b.shape[-1], left.buffer, right.buffer))
        return right

    def take(self, x: Value, coordinates: Sequence[int | Value], shape: tuple[int, ...]) -> Value:
        if isinstance(x, Filled):
            return Filled(shape, x.value, x.kind)
        at = [c if isinstance(c, int) else self._place(c) for c in coordinates]
        return Taken(self.memory(x), at, shape)

    def _never_meet(self, at: Sequence[int | Stored], target: Stored, shape: tuple[int, ...]) -> bool:
        """Whether all coordinates are constants, and no two of them the same place."""
        place = np.zeros(shape, np.int64)
        for c, stride in zip(at, target.strides, strict=True):
            if isinstance(c, int):
                along = np.arange(shape[c]).reshape([-1 if a == c else 1 for a in range(len(shape))])
            elif c.buffer.name in self.constants.arrays:
                values = self.constants.arrays[c.buffer.name]
                along = np.lib.stride_tricks.as_strided(values[c.offset :], shape, [s * values.itemsize for s in c.strides])
            else:
                return False
            place = place + stride * along
        return np.unique(place).size == place.size

    def _place(self, index: Value) -> Stored:
        return self.memory(index)

    def put(self, base: Value, coordinates: Sequence[int | Value], values: Value, accumulate: bool) -> Value:
        at = [c if isinstance(c, int) else self._place(c) for c in coordinates]
        target = self.temporary(base.shape, base.kind)
        body, index = Body(), axes_of(values.ndim)
        value = values.load(body, index)
        if values.kind == "bool" and base.kind != "bool":
            value = as_number(body.graph, value)
        self.store(base, target)
        if self._never_meet(at, target, values.shape):
            distinct = Apart(tuple(range(values.ndim)))
        else:
            distinct = apart(values.shape, [((c, 1),) if isinstance(c, int) else None for c in at])
        stores = [(target.buffer, target.place(at_index(at, index)), value)]
        self.program.statements.append(Loop(values.shape, body, stores, accumulate=accumulate, ordered=True, apart=distinct))
        return target
