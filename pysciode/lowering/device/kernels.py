"""The statements of array models as kernels: functions of the number of a thread, and the calls that launch them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from ..loops.buffers import Affine, Indirect
from ..loops.kernel_calls import Matrix, Product, Solve
from ..loops.loop_nest import Nest, best_last
from ..loops.statements import (
    START,
    STEP,
    AlongAxis,
    Loop,
    Reduction,
    Statement,
    body_lines,
    converted,
    target_text,
)
from .reductions import PartialReduction

# Steps in memory from which on it does not matter how far they go: a few dozen bytes are read at once.
_FAR = 32
_VECTOR = re.compile(r"\b([A-Za-z]\w*)\[")


class Kernels:
    """The kernels of a model's functions; equal ones are written once.

    Parameters
    ----------
    dtype
        Of the model: kernels compute in it whatever the type of their arguments.

    Attributes
    ----------
    definitions
        Source of the kernels, in the order of their names.
    used
        Names of all vectors that kernels were launched with.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.definitions: list[str] = []
        self.used: set[str] = set()
        self._names: dict[str, str] = {}

    def launch(self, lines: Sequence[str], count: int, given: Sequence[str] = ()) -> str:
        """A call that runs `lines` in `count` threads.

        Vectors in `lines` have the names that they have where the call is; `given` are integers known there.
        """
        text = "\n".join("        " + line for line in lines)
        vectors = list(dict.fromkeys(_VECTOR.findall(text)))
        self.used.update(vectors)
        short = {name: f"a{k}" for k, name in enumerate(vectors, 1)}
        text = _VECTOR.sub(lambda match: f"{short[match[1]]}[", text)
        scalars = [*(["t"] if re.search(r"\bt\b", text) else []), *given]
        element = {"float32": "Float32", "float64": "Float64"}[self.dtype.name]
        arguments = ", ".join(["i", *short.values(), *scalars])
        definition = f"({arguments})\n    T = {element}\n    @inbounds begin\n{text}\n    end\n    return nothing\nend"
        if definition not in self._names:
            self._names[definition] = f"kernel{len(self._names) + 1}"
            self.definitions.append(f"function {self._names[definition]}{definition}")
        return f"Kernels.launch!({', '.join([self._names[definition], str(count), *vectors, *scalars])})"

    def calls(self, statement: Statement) -> list[str]:
        """The calls that carry out a statement, in order."""
        match statement:
            case Loop():
                return self._loop(statement)
            case Reduction():
                return self._reduction(statement)
            case PartialReduction():
                return self._partial_reduction(statement)
            case AlongAxis():
                return self._along_axis(statement)
            case Product():
                return [self._product(statement)]
            case Solve():
                return [self._solve(statement)]
        raise TypeError(f"no kernel for a {type(statement).__name__}")

    # --- loops --------------------------------------------------------------------------------------------------------

    def _loop(self, loop: Loop) -> list[str]:
        if 0 in loop.sizes:
            return []
        values = [value for *_, value in loop.stores]
        reads = [index for _, index in loop.body.live_reads(values).values()]
        writes = [index for _, index, _ in loop.stores]
        axes = range(len(loop.sizes))
        parallel, steps = list(axes), []
        if loop.accumulate or loop.ordered:
            parallel, steps = list(loop.apart.axes), list(loop.apart.steps)
        serial = [a for a in axes if a not in parallel and a not in steps]
        parallel = _coalesced(parallel, [(1, x) for x in reads] + [(2, x) for x in writes])
        nest = Nest(loop.sizes, [parallel, steps, serial], [*reads, *writes])
        lines, values = body_lines(loop.body, nest, values, self.dtype)
        for (buffer, index, _), value in zip(loop.stores, values, strict=True):
            target = target_text(buffer, index, nest)
            value = f"{target} + ({value})" if loop.accumulate else value
            lines.append(f"{target} = {converted(buffer, value)}")
        parallel, steps, serial = nest.order
        first, count = _thread(nest, parallel)
        given = [nest.names[a] for a in steps]
        call = self.launch([*first, *nest.wrap(serial, lines, simd=False)], count, given)
        return nest.wrap(steps, [call], simd=False)

    def _reduction(self, fold: Reduction) -> list[str]:
        kept = [a for a in range(len(fold.sizes)) if a not in fold.inner]
        if 0 in (fold.sizes[a] for a in kept):
            return []
        buffer, place = fold.target
        reads = [index for _, index in fold.body.live_reads([fold.value]).values()]
        inner = best_last(fold.inner, fold.sizes, [(1, x) for x in reads])
        outer = _coalesced(kept, [(1, x) for x in [*reads, place]])
        nest = Nest(fold.sizes, [outer, inner], [*reads, place])
        first, count = _thread(nest, nest.order[0])
        target = target_text(buffer, place, nest)
        if 0 in fold.sizes:
            return [self.launch([*first, f"{target} = {START[fold.how]}"], count)]
        before, (value,) = body_lines(fold.body, nest, [fold.value], self.dtype)
        folded = nest.wrap(nest.order[1], [*before, f"acc = {STEP[fold.how].format('acc', value)}"], simd=False)
        lines = [*first, f"acc = {START[fold.how]}", *folded, f"{target} = {converted(buffer, 'acc')}"]
        return [self.launch(lines, count)]

    def _partial_reduction(self, part: PartialReduction) -> list[str]:
        fold = part.whole
        kept = [a for a in range(len(fold.sizes)) if a not in fold.inner]
        reads = [index for _, index in fold.body.live_reads([fold.value]).values()]
        nest = Nest(fold.sizes, [kept, best_last(fold.inner, fold.sizes, [(1, x) for x in reads])], reads)
        outer, inner = nest.order
        results = math.prod(nest.sizes[a] for a in outer)
        length = math.prod(nest.sizes[a] for a in inner)
        if part.kept_fastest:
            first = [f"chunk = {_divided('i - 1', results)}", *_digits(nest, outer, f"(i - 1) - chunk * {results}")]
        else:
            number = _divided("i - 1", part.chunks)
            first = [f"result = {number}", f"chunk = (i - 1) - result * {part.chunks}", *_digits(nest, outer, "result")]
        before, (value,) = body_lines(fold.body, nest, [fold.value], self.dtype)
        lines = [
            *first,
            f"acc = {START[fold.how]}",
            "e = chunk",
            f"while e < {length}",
            *("    " + line for line in _digits(nest, inner, "e")),
            *("    " + line for line in before),
            f"    acc = {STEP[fold.how].format('acc', value)}",
            f"    e += {part.chunks}",
            "end",
            f"{part.scratch.name}[i] = acc",
        ]
        return [self.launch(lines, results * part.chunks)]

    def _along_axis(self, statement: AlongAxis) -> list[str]:
        kept = [a for a in range(len(statement.sizes)) if a != statement.axis]
        if 0 in statement.sizes:
            return []
        buffer, place = statement.target
        reads = [index for _, index in statement.body.live_reads([statement.value]).values()]
        outer = _coalesced(kept, [(1, x) for x in [*reads, place]])
        nest = Nest(statement.sizes, [outer, [statement.axis]], [*reads, place])
        before, (value,) = body_lines(statement.body, nest, [statement.value], self.dtype)
        parallel, along = nest.order
        first, count = _thread(nest, parallel)
        step = statement.step(before, value, nest)
        return [self.launch([*first, *statement.start(), *nest.wrap(along, step, simd=False), *statement.end(nest)], count)]

    # --- dense matrices -----------------------------------------------------------------------------------------------

    def _product(self, x: Product) -> str:
        def operand(matrix: Matrix) -> str:
            self.used.add(matrix.buffer.name)
            return f"{matrix.buffer.name}, {matrix.offset + matrix.buffer.shift}, {', '.join(map(str, matrix.strides))}"

        return f"Kernels.device_product!({operand(x.c)}, {operand(x.a)}, {operand(x.b)}, {x.batch}, {x.m}, {x.n}, {x.k})"

    def _solve(self, x: Solve) -> str:
        self.used |= {x.a.name, x.b.name}
        return f"Kernels.device_solve!({x.a.name}, {x.a.shift}, {x.b.name}, {x.b.shift}, {x.batch}, {x.n}, {x.k})"


def _coalesced(axes: Sequence[int], accesses: Sequence[tuple[int, Affine]]) -> list[int]:
    """`axes` in the order in which neighbouring threads read and write neighbouring memory, by the weights of `accesses`."""

    def spread(axis: int) -> int:
        total = 0
        for weight, index in accesses:
            total += weight * min(abs(index.coefficient(axis)), _FAR)
            for variable, _ in index.terms:
                if isinstance(variable, Indirect) and variable.index.coefficient(axis):
                    total += weight * _FAR
        return total

    return sorted(axes, key=spread, reverse=True)


def _thread(nest: Nest, axes: Sequence[int]) -> tuple[list[str], int]:
    """Lines that find a thread's index along `axes`, neighbours along the last one; and the number of threads."""
    return _digits(nest, axes, "i - 1"), math.prod(nest.sizes[a] for a in axes)


def _digits(nest: Nest, axes: Sequence[int], number: str) -> list[str]:
    """Lines that take a number from zero apart into an index along `axes`."""
    if not axes:
        return []
    if len(axes) == 1:
        return [f"{nest.names[axes[0]]} = {number}"]
    # Unsigned numbers of 32 bits divide several times faster than integers of 64.
    short = math.prod(nest.sizes[a] for a in axes) < 2**32
    lines = [f"j = ({number}) % UInt32" if short else f"j = {number}"]
    for axis in reversed(axes[1:]):
        n = _unsigned(nest.sizes[axis]) if short else str(nest.sizes[axis])
        lines += [f"{nest.names[axis]} = Int(j % {n})", f"j = j ÷ {n}"]
    return [*lines, f"{nest.names[axes[0]]} = Int(j)"]


def _divided(number: str, by: int) -> str:
    return f"Int((({number}) % UInt32) ÷ {_unsigned(by)})"


def _unsigned(n: int) -> str:
    return f"{n:#010x}"
