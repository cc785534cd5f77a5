"""The statements that array models are made of, and their Julia text.

Explicit loops rather than broadcasts, because Julia compiles them several times faster and they allocate nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...graphs.scalar_graph import Scalar, ScalarGraph
from ..scalars.straight_line import straight_line
from .buffers import Affine, Buffer, access
from .loop_nest import SIMD_FROM, Nest, best_last
from .scatter_races import Apart


class Body:
    """The scalar operations of one loop, with what they read."""

    def __init__(self) -> None:
        self.graph = ScalarGraph()
        self.reads: dict[str, tuple[Buffer, Affine]] = {}
        self._names: dict[tuple[Buffer, Affine], str] = {}

    def read(self, buffer: Buffer, index: Affine) -> Scalar:
        key = (buffer, index)
        if key not in self._names:
            self._names[key] = f"v{len(self._names) + 1}"
            self.reads[self._names[key]] = key
        return self.graph.symbol(self._names[key])

    def absorb(self, other: Body, known: dict[tuple[Buffer, Affine], Scalar]) -> Callable[[Scalar], Scalar]:
        """Copy the operations of `other` into this body, with reads of `known` places replaced; returns the translation."""
        places: dict[int, Scalar] = {}
        g = other.graph
        for i, op in enumerate(g.ops):
            if op == "symbol":
                name = g.args[i][0]
                if name in other.reads:
                    buffer, index = other.reads[name]
                    found = known.get((buffer, index))
                    places[i] = self.read(buffer, index) if found is None else found
                else:
                    places[i] = self.graph.symbol(name)
            elif op == "const":
                places[i] = self.graph.const(g.args[i][0])
            else:
                places[i] = self.graph.apply(op, *(places[a] for a in g.args[i]))
        return lambda scalar: places[scalar.id]

    def live_reads(self, roots: Sequence[Scalar]) -> dict[str, tuple[Buffer, Affine]]:
        """The reads that `roots` depend on: simplification may have made others superfluous."""
        names = [self.graph.args[i][0] for i in self.graph.reachable(roots) if self.graph.ops[i] == "symbol"]
        return {name: self.reads[name] for name in names if name in self.reads}


class Statement:
    """A step of a program."""

    def reads(self) -> set[Buffer]:
        raise NotImplementedError

    def writes(self) -> set[Buffer]:
        raise NotImplementedError

    def emit(self, dtype: np.dtype) -> list[str]:
        raise NotImplementedError


def _touched(accesses: Iterable[tuple[Buffer, Affine]]) -> set[Buffer]:
    found: set[Buffer] = set()
    for buffer, index in accesses:
        found.add(buffer)
        found.update(index.buffers())
    return found


def body_lines(body: Body, nest: Nest, values: Sequence[Scalar], dtype: np.dtype) -> tuple[list[str], list[str]]:
    """Statements that compute `values`, and the expressions that then are these."""
    code = straight_line(body.graph, values, dtype)
    reads = body.live_reads(values)
    lines = []
    for name, (buffer, index) in reads.items():
        text = access(buffer, nest.index(index), nest.names)
        lines.append(f"{name} = convert(T, {text})" if buffer.kind == "int" else f"{name} = {text}")
    return [*lines, *code.statements], list(code.values)


def target_text(buffer: Buffer, index: Affine, nest: Nest) -> str:
    return access(buffer, nest.index(index), nest.names)


def converted(buffer: Buffer, value: str) -> str:
    return f"Kernels.integer({value})" if buffer.kind == "int" else value


@dataclass
class Loop(Statement):
    """A loop nest over `sizes` that stores scalars, or adds them (`accumulate`), each at its own place."""

    sizes: tuple[int, ...]
    body: Body
    stores: list[tuple[Buffer, Affine, Scalar]]
    accumulate: bool = False
    ordered: bool = False
    """Whether places may coincide, so that iterations must stay in order."""
    apart: Apart = Apart(())
    """Where places may coincide: the axes along which they don't."""
    conditions: list[tuple[Buffer, Affine, Scalar]] = field(default_factory=list)
    """What is stored once, at its place: whether a condition holds in all iterations."""

    def reads(self) -> set[Buffer]:
        accesses = list(self.body.live_reads([s for *_, s in (*self.stores, *self.conditions)]).values())
        found = _touched(accesses)
        for buffer, index, _ in self.stores:
            found.update(index.buffers())
            if self.accumulate or self.ordered:
                found.add(buffer)
        return found

    def writes(self) -> set[Buffer]:
        return {buffer for buffer, *_ in (*self.stores, *self.conditions)}

    def emit(self, dtype: np.dtype) -> list[str]:
        if 0 in self.sizes:
            return []
        wanted = [value for *_, value in (*self.stores, *self.conditions)]
        reads = [index for _, index in self.body.live_reads(wanted).values()]
        writes = [index for _, index, _ in self.stores]
        axes = best_last(range(len(self.sizes)), self.sizes, [(1, x) for x in reads] + [(2, x) for x in writes])
        nest = Nest(self.sizes, [axes], [*reads, *writes])
        lines, values = body_lines(self.body, nest, wanted, dtype)
        for (buffer, index, _), value in zip(self.stores, values[: len(self.stores)], strict=True):
            target = target_text(buffer, index, nest)
            value = f"{target} + ({value})" if self.accumulate else value
            lines.append(f"{target} = {converted(buffer, value)}")
        # An integer, because loops with a truth value don't become vectorised.
        names = [f"not{k}" for k in range(1, len(self.conditions) + 1)]
        lines += [f"{name} = {name} | ifelse({value}, 0, 1)" for name, value in zip(names, values[len(self.stores) :], strict=True)]
        loop = nest.wrap(nest.order[0], lines, simd=not self.ordered)
        results = [f"{target_text(*x[:2], nest)} = {name} == 0" for x, name in zip(self.conditions, names, strict=True)]
        return [*(f"{name} = 0" for name in names), *loop, *results]


START = {"sum": "zero(T)", "prod": "one(T)", "max": "convert(T, -Inf)", "min": "convert(T, Inf)", "any": "false", "all": "true",
         "first_max": "convert(T, -Inf)", "first_min": "convert(T, Inf)"}  # fmt: skip
STEP = {"sum": "{0} + ({1})", "prod": "{0} * ({1})", "max": "Kernels.larger({0}, {1})", "min": "Kernels.smaller({0}, {1})",
         "any": "{0} | ({1})", "all": "{0} & ({1})",
         "first_max": "Kernels.first_larger({0}, {1})", "first_min": "Kernels.first_smaller({0}, {1})"}  # fmt: skip


@dataclass
class Reduction(Statement):
    """The fold of a scalar over the axes `inner`, stored for each index of the others."""

    sizes: tuple[int, ...]
    inner: tuple[int, ...]
    how: str
    body: Body
    value: Scalar
    target: tuple[Buffer, Affine]

    def reads(self) -> set[Buffer]:
        return _touched(self.body.live_reads([self.value]).values())

    def writes(self) -> set[Buffer]:
        return {self.target[0]}

    def emit(self, dtype: np.dtype) -> list[str]:
        buffer, place = self.target
        reads = [index for _, index in self.body.live_reads([self.value]).values()]
        weighted = [(1, x) for x in reads]
        outer = [a for a in range(len(self.sizes)) if a not in self.inner]
        inner = best_last(self.inner, self.sizes, weighted)
        if 0 in (self.sizes[a] for a in outer):
            return []
        nest = Nest(self.sizes, [outer, inner], [*reads, place])
        outer, inner = nest.order
        target = target_text(buffer, place, nest)
        start, step = START[self.how], STEP[self.how]
        if 0 in self.sizes:
            return nest.wrap(outer, [f"{target} = {start}"], simd=True)
        before, (value,) = body_lines(self.body, nest, [self.value], dtype)

        def stride(axis: int) -> int:
            return sum(min(abs(nest.index(x).coefficient(axis)), 2) for x in reads)

        if outer and inner and nest.sizes[outer[-1]] >= SIMD_FROM and stride(outer[-1]) < stride(inner[-1]):
            # The kept axis runs through memory: add whole rows, vectorised, to the result in place.
            *rest, row = outer
            clear = nest.wrap([row], [f"{target} = {start}"], simd=True)
            add = nest.wrap([*inner, row], [*before, f"{target} = {step.format(target, value)}"], simd=True)
            return nest.wrap(rest, [*clear, *add], simd=False)
        fold = nest.wrap(inner, [*before, f"acc = {step.format('acc', value)}"], simd=self.how in ("sum", "prod"))
        fold = [line.replace("@simd ivdep", "@simd") for line in fold]
        return nest.wrap(outer, [f"acc = {start}", *fold, f"{target} = {converted(buffer, 'acc')}"], simd=False)


@dataclass
class AlongAxis(Statement):
    """Visits the elements along one axis in order, for each index of the others."""

    sizes: tuple[int, ...]
    axis: int
    how: str
    body: Body
    value: Scalar
    target: tuple[Buffer, Affine]

    reads = Reduction.reads
    writes = Reduction.writes

    def start(self) -> list[str]:
        """What comes before the first element."""
        raise NotImplementedError

    def step(self, before: list[str], value: str, nest: Nest) -> list[str]:
        """What is done with each element, `value` after the lines `before`."""
        raise NotImplementedError

    def end(self, nest: Nest) -> list[str]:
        """What comes after the last element."""
        raise NotImplementedError

    def emit(self, dtype: np.dtype) -> list[str]:
        reads = [index for _, index in self.body.live_reads([self.value]).values()]
        outer = [a for a in range(len(self.sizes)) if a != self.axis]
        nest = Nest(self.sizes, [outer, [self.axis]], [*reads, self.target[1]])
        before, (value,) = body_lines(self.body, nest, [self.value], dtype)
        fold = nest.wrap(nest.order[1], self.step(before, value, nest), simd=False)
        return nest.wrap(nest.order[0], [*self.start(), *fold, *self.end(nest)], simd=False)


@dataclass
class ArgReduction(AlongAxis):
    """The first place of the extreme along one axis."""

    def start(self) -> list[str]:
        return [f"best = convert(T, {'-Inf' if self.how == 'max' else 'Inf'})", "place = 0"]

    def step(self, before: list[str], value: str, nest: Nest) -> list[str]:
        name = nest.names[self.axis] if self.sizes[self.axis] > 1 else "0"
        better = "gt" if self.how == "max" else "lt"
        return [*before, f"r = {value}", f"if Kernels.{better}(r, best) || (isnan(r) && !isnan(best))",
                "    best = r", f"    place = {name}", "end"]  # fmt: skip

    def end(self, nest: Nest) -> list[str]:
        return [f"{target_text(*self.target, nest)} = place"]


@dataclass
class Scan(AlongAxis):
    """Running sums or products along one axis."""

    def start(self) -> list[str]:
        return [f"acc = {START[self.how]}"]

    def step(self, before: list[str], value: str, nest: Nest) -> list[str]:
        return [*before, f"acc = {STEP[self.how].format('acc', value)}",
                f"{target_text(*self.target, nest)} = {converted(self.target[0], 'acc')}"]  # fmt: skip

    def end(self, nest: Nest) -> list[str]:
        return []


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a C-contiguous array."""
    return tuple(math.prod(shape[a + 1 :]) for a in range(len(shape)))
