"""The arrays of a loop program: views of buffers, and pointwise values that are not evaluated yet."""

from __future__ import annotations

from collections.abc import Sequence

from ...graphs.scalar_graph import Scalar, ScalarGraph
from ..ops.backend import Array, AxisMap, Kind, ScalarFunction, run_scalar
from .buffers import Affine, Buffer, Indirect
from .statements import Body, contiguous

# What a scalar operation costs, in units of an addition; others are transcendental.
_COSTS = {
    "symbol": 0, "const": 0, "stop": 0, "add": 1, "sub": 1, "mul": 1, "neg": 1, "max": 1, "min": 1, "select": 1, "abs": 1,
    "lt": 1, "le": 1, "gt": 1, "ge": 1, "eq": 1, "ne": 1, "and": 1, "or": 1, "not": 1, "isnan": 1, "isinf": 1,
    "floor": 1, "ceil": 1, "trunc": 1, "round": 1, "sign": 2, "div": 4, "sqrt": 4,
}  # fmt: skip
_TRANSCENDENTAL = 20

Index = tuple[Affine, ...]


class Value(Array):
    """An array whose elements a loop body can read."""

    cost = 0
    n_reads = 1

    def load(self, body: Body, index: Index) -> Scalar:
        raise NotImplementedError


class Time(Value):
    """The scalar argument ``t``."""

    shape, kind = (), "float"

    def load(self, body: Body, index: Index) -> Scalar:
        return body.graph.symbol("t")


class Filled(Value):
    """One constant everywhere."""

    n_reads = 0

    def __init__(self, shape: tuple[int, ...], value: float | bool, kind: Kind) -> None:
        self.shape, self.value, self.kind = shape, value, kind

    def load(self, body: Body, index: Index) -> Scalar:
        return body.graph.const(bool(self.value) if self.kind == "bool" else float(self.value))


class Stored(Value):
    """A strided view of a buffer."""

    def __init__(self, buffer: Buffer, shape: tuple[int, ...], strides: tuple[int, ...] | None = None, offset: int = 0) -> None:
        self.buffer, self.shape, self.offset, self.kind = buffer, shape, offset, buffer.kind
        self.strides = contiguous(shape) if strides is None else strides

    def place(self, index: Index) -> Affine:
        return Affine.combine(self.offset, zip(self.strides, index, strict=True))

    def load(self, body: Body, index: Index) -> Scalar:
        return body.read(self.buffer, self.place(index))

    @property
    def dense(self) -> bool:
        """Whether the elements lie one after the other, in C order."""
        return all(s == c for s, c, n in zip(self.strides, contiguous(self.shape), self.shape, strict=True) if n != 1)


class Computed(Value):
    """A pointwise operation that is not evaluated yet, or `stored` since."""

    def __init__(self, fn: ScalarFunction, args: Sequence[Value], shape: tuple[int, ...], kind: Kind) -> None:
        self.fn, self.args, self.shape, self.kind = fn, args, shape, kind
        self.stored: Stored | None = None
        graph = ScalarGraph()
        symbols = [graph.symbol(f"a{i}") for i in range(len(args))]
        out = run_scalar(graph, fn, [x.kind for x in args], symbols)
        operations = graph.reachable([out])
        used = [x for i, x in enumerate(args) if symbols[i].id in operations]
        self.cost = sum(_COSTS.get(graph.ops[i], _TRANSCENDENTAL) for i in operations) + sum(x.cost for x in used)
        self.n_reads = sum(x.n_reads for x in used)

    def load(self, body: Body, index: Index) -> Scalar:
        if self.stored is not None:
            return self.stored.load(body, index)
        return run_scalar(body.graph, self.fn, [x.kind for x in self.args], [x.load(body, index) for x in self.args])


class Viewed(Value):
    """An affine view of a value that may still be unevaluated."""

    def __init__(self, base: Value, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> None:
        self.base, self.shape, self.maps, self.kind = base, shape, tuple(maps), base.kind

    @property
    def cost(self) -> int:  # type: ignore[override]
        return self.base.cost

    @property
    def n_reads(self) -> int:  # type: ignore[override]
        return self.base.n_reads

    def load(self, body: Body, index: Index) -> Scalar:
        return self.base.load(body, tuple(mapped(m, index) for m in self.maps))


class Taken(Value):
    """A gather: the elements of a stored array at coordinates that are axes or stored integers."""

    cost = 2

    def __init__(self, base: Stored, coordinates: Sequence[int | Stored], shape: tuple[int, ...]) -> None:
        self.base, self.coordinates, self.shape, self.kind = base, coordinates, shape, base.kind

    def load(self, body: Body, index: Index) -> Scalar:
        return self.base.load(body, at_index(self.coordinates, index))


def mapped(axis_map: AxisMap, index: Index) -> Affine:
    constant, terms = axis_map
    return Affine.combine(constant, ((c, index[a]) for a, c in terms))


def at_index(coordinates: Sequence[int | Stored], index: Index) -> Index:
    return tuple(index[c] if isinstance(c, int) else Affine(0, ((Indirect(c.buffer, c.place(index)), 1),)) for c in coordinates)


def axes_of(n: int) -> Index:
    return tuple(Affine.axis(a) for a in range(n))
