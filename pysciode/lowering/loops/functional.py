"""Array models as Julia functions without mutation: broadcasts, products and reductions of whole arrays.

For automatic differentiation by Zygote, Tracker and ReverseDiff.  A torch array of shape ``(a, b, c)`` is a
Julia array of size ``(c, b, a)`` over the same memory; a single number is a vector of length one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ...graphs.captured_model import ArrayModel
from ...graphs.scalar_graph import ScalarGraph
from ..ops.backend import Array, AxisMap, Backend, Kind, ScalarFunction, kind_of, run_scalar
from ..ops.interpreter import interpret
from ..scalars.straight_line import straight_line
from ..scalars.unroll import grid
from .constants import Constants


class Named(Array):
    """A Julia variable; `static` holds the value where it is known, `number` says that it is no array."""

    def __init__(self, name: str, shape: tuple[int, ...], kind: Kind, *, static: np.ndarray | None = None, number: bool = False) -> None:
        self.name, self.shape, self.kind, self.static, self.number = name, shape, kind, static, number


class Unsupported(Exception):
    """An operation that has no form without mutation."""


def _size(shape: Sequence[int]) -> str:
    return ", ".join(map(str, reversed(shape))) if shape else "1"


class FunctionalBackend(Backend[Named]):
    """Writes one statement for each primitive."""

    def __init__(self, constants: Constants) -> None:
        self.constants = constants
        self.lines: list[str] = []

    def _let(self, expression: str, shape: tuple[int, ...], kind: Kind) -> Named:
        name = f"a{len(self.lines) + 1}"
        self.lines.append(f"{name} = {expression}")
        return Named(name, shape, kind)

    def _array(self, x: Named) -> Named:
        """`x` as an array of its own shape."""
        if x.number:
            return self._let(f"({x.name}) .+ zero.(u[1:1])", (), x.kind)
        if x.static is None and not x.name:
            raise Unsupported("an index that is computed from the state")
        if x.static is not None and not x.name:
            value = torch.from_numpy(np.ascontiguousarray(x.static))
            buffer = self.constants.buffer(value, x.kind)
            return Named(f"reshape(Kernels.like(u, {buffer.name}), {_size(x.shape)})", x.shape, x.kind, static=x.static)
        return x

    def constant(self, value: torch.Tensor) -> Named:
        return Named("", tuple(value.shape), kind_of(value.dtype), static=value.numpy())

    def full(self, shape: Sequence[int], value: float | bool, kind: Kind) -> Named:
        types = {"float": np.float64, "int": np.int64, "bool": np.bool_}
        return Named("", tuple(shape), kind, static=np.full(tuple(shape), value, types[kind]))

    def pointwise(self, fn: ScalarFunction, args: Sequence[Named], shape: tuple[int, ...], kind: Kind) -> Named:
        static = [x.static for x in args if x.static is not None]
        if args and len(static) == len(args):
            known = self._folded(fn, [x.kind for x in args], static, shape, kind)
            if known is not None:
                return known
        graph = ScalarGraph()
        scalars, names, sources, present, numbers = [], [], [], [], True
        for i, x in enumerate(args):
            if x.static is not None and x.static.size and (x.static == x.static.flat[0]).all():
                value = x.static.flat[0].item()
                scalars.append(graph.const(value if x.kind == "bool" else float(value)))
                continue
            names.append(f"x_{i}")
            present.append(x.shape)
            numbers = numbers and x.number
            sources.append(x.name if x.number else self._array(x).name)
            scalars.append(graph.symbol(names[-1]))
        out = run_scalar(graph, fn, [x.kind for x in args], scalars)
        if out.constant is not None:
            return self.full(shape, out.constant, kind)
        code = straight_line(graph, [out], self.constants.dtype)
        body = "; ".join([*code.statements, code.values[0]])
        result = self._let(f"(({', '.join(names)}) -> ({body})).({', '.join(sources)})", shape, kind)
        covered = tuple(torch.broadcast_shapes(*present))
        result.number = numbers and covered == ()
        return result if result.number or covered == shape else self._spread(result, covered, shape)

    def _folded(
        self, fn: ScalarFunction, kinds: Sequence[Kind], args: Sequence[np.ndarray], shape: tuple[int, ...], kind: Kind
    ) -> Named | None:
        """The operation on known values, such as indices, if it can be done now."""
        graph = ScalarGraph()
        values = []
        for row in zip(*(np.broadcast_to(x, shape).reshape(-1).tolist() for x in args), strict=True):
            value = run_scalar(graph, fn, kinds, [graph.const(v) for v in row]).constant
            if value is None:
                return None
            values.append(value)
        types = {"float": np.float64, "int": np.int64, "bool": np.bool_}
        return Named("", shape, kind, static=np.array(values).astype(types[kind]).reshape(shape))

    def _spread(self, x: Named, old: tuple[int, ...], shape: tuple[int, ...]) -> Named:
        old = (1,) * (len(shape) - len(old)) + old
        counts = [n // m if m else 1 for m, n in zip(old, shape, strict=True)]
        return self._let(f"repeat(reshape({x.name}, {_size(old)}), {', '.join(map(str, reversed(counts)))})", shape, x.kind)

    def expand(self, x: Named, shape: tuple[int, ...]) -> Named:
        if x.shape == shape:
            return x
        if x.static is not None:
            return Named("", shape, x.kind, static=np.broadcast_to(x.static, shape))
        return self._spread(self._array(x), x.shape, shape)

    def _gather(self, x: Named, places: np.ndarray) -> Named:
        """The elements of `x` at flat places, counted from zero in C order."""
        shape = places.shape
        if x.static is not None:
            return Named("", shape, x.kind, static=x.static.reshape(-1)[places])
        index = self.constants.buffer(torch.from_numpy(np.ascontiguousarray(places.reshape(-1) + 1)), "int")
        return self._let(f"reshape(vec({self._array(x).name})[Kernels.like(u, {index.name})], {_size(shape)})", shape, x.kind)

    def affine(self, x: Named, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> Named:
        where = grid(shape, maps)
        return self._gather(x, np.ravel_multi_index(where, x.shape) if x.ndim else np.zeros(shape, int))

    def permute(self, x: Named, axes: Sequence[int]) -> Named:
        n = x.ndim
        shape = tuple(x.shape[a] for a in axes)
        if x.static is not None:
            return Named("", shape, x.kind, static=x.static.transpose(axes))
        order = [n - axes[n - d] for d in range(1, n + 1)]
        if order == list(range(1, n + 1)):
            return x
        return self._let(f"permutedims({x.name}, ({', '.join(map(str, order))},))", shape, x.kind)

    def slice(self, x: Named, axis: int, start: int, stop: int, step: int = 1) -> Named:
        length = max(0, -(-(stop - start) // step))
        if length == x.shape[axis]:
            return x
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        if x.static is not None:
            return Named("", shape, x.kind, static=x.static[(slice(None),) * axis + (slice(start, stop, step),)])
        span = f"{start + 1}:{start + length}" if step == 1 else f"{start + 1}:{step}:{start + (length - 1) * step + 1}"
        picks = [span if a == axis else ":" for a in range(x.ndim)]
        return self._let(f"{x.name}[{', '.join(reversed(picks))}]", shape, x.kind)

    def reshape(self, x: Named, shape: tuple[int, ...]) -> Named:
        if x.shape == shape:
            return x
        if x.static is not None:
            return Named("", shape, x.kind, static=x.static.reshape(shape))
        return self._let(f"reshape({self._array(x).name}, {_size(shape)})", shape, x.kind)

    def accumulate(self, x: Named, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> Named:
        where = np.ravel_multi_index(grid(x.shape, maps), shape).reshape(-1)
        return self._added(x, where, shape)

    def _added(self, x: Named, where: np.ndarray, shape: tuple[int, ...]) -> Named:
        """Zeros with the elements of `x` added at flat places: each place gathers what belongs there, padded with zeros."""
        order = np.argsort(where, kind="stable")
        counts = np.bincount(where, minlength=math.prod(shape))
        most = int(counts.max(initial=0))
        sources = np.full((most, math.prod(shape)), where.size, np.int64)
        starts = np.cumsum(counts) - counts
        for k in range(most):
            has = counts > k
            sources[k, has] = order[starts[has] + k]
        flat = self.reshape(x, (math.prod(x.shape),))
        padded = self.cat([flat, self.full((1,), 0.0, x.kind)], 0)
        return self.reshape(self.reduce("sum", self._gather(padded, sources), (0,)), shape)

    def cat(self, xs: Sequence[Named], axis: int) -> Named:
        length = sum(x.shape[axis] for x in xs)
        shape = (*xs[0].shape[:axis], length, *xs[0].shape[axis + 1 :])
        static = [x.static for x in xs if x.static is not None]
        if len(static) == len(xs):
            return Named("", shape, xs[0].kind, static=np.concatenate(static, axis))
        names = ", ".join(self._array(x).name for x in xs)
        place = len(shape) - axis
        joined = {1: f"vcat({names})", 2: f"hcat({names})"}.get(place, f"cat({names}; dims={place})")
        return self._let(joined, shape, xs[0].kind)

    def reduce(self, how: str, x: Named, axes: tuple[int, ...]) -> Named:
        x = self._array(x)
        shape = tuple(n for a, n in enumerate(x.shape) if a not in axes)
        function = {"max": "maximum", "min": "minimum"}.get(how.removeprefix("first_"), how)
        places = ", ".join(str(x.ndim - a) for a in axes)
        return self._let(f"reshape({function}({x.name}; dims=({places},)), {_size(shape)})", shape, x.kind)

    def arg_reduce(self, how: str, x: Named, axis: int) -> Named:
        # Often only the extreme itself is used; an index that is used is refused.
        return Named("", x.shape[:axis] + x.shape[axis + 1 :], "int")

    def matmul(self, a: Named, b: Named) -> Named:
        a, b = self._array(a), self._array(b)
        shape = (*a.shape[:-1], b.shape[-1])
        if a.ndim == 2:
            return self._let(f"{b.name} * {a.name}", shape, "float")
        pages = f"[vec({b.name}[:, :, i] * {a.name}[:, :, i]) for i in 1:{shape[0]}]"
        return self._let(f"reshape(reduce(hcat, {pages}), {_size(shape)})", shape, "float")

    def solve(self, a: Named, b: Named) -> Named:
        a, b = self._array(a), self._array(b)
        if a.ndim == 2:
            return self._let(f"{b.name} / {a.name}", b.shape, "float")
        pages = f"[vec({b.name}[:, :, i] / {a.name}[:, :, i]) for i in 1:{b.shape[0]}]"
        return self._let(f"reshape(reduce(hcat, {pages}), {_size(b.shape)})", b.shape, "float")

    def _places(self, coordinates: Sequence[int | Named], shape: tuple[int, ...], base: tuple[int, ...]) -> np.ndarray:
        axes = np.indices(shape, sparse=True)
        where: list[np.ndarray] = []
        for c in coordinates:
            place = axes[c] if isinstance(c, int) else c.static
            if place is None:
                raise Unsupported("an index that is computed from the state")
            where.append(np.broadcast_to(place, shape))
        return np.ravel_multi_index(tuple(where), base)

    def take(self, x: Named, coordinates: Sequence[int | Named], shape: tuple[int, ...]) -> Named:
        return self._gather(x, self._places(coordinates, shape, x.shape))

    def put(self, base: Named, coordinates: Sequence[int | Named], values: Named, accumulate: bool) -> Named:
        where = self._places(coordinates, values.shape, base.shape).reshape(-1)
        if accumulate:
            added = self._added(values, where, base.shape)
            return self.pointwise(lambda g, x, y: x + y, [base, added], base.shape, base.kind)
        both = self.cat([self.reshape(x, (math.prod(x.shape),)) for x in (base, values)], 0)
        sources = np.arange(math.prod(base.shape))
        sources[where] = sources.size + np.arange(where.size)
        return self._gather(both, sources.reshape(base.shape))

    def scan(self, how: str, x: Named, axis: int) -> Named:
        x = self._array(x)
        function = {"sum": "cumsum", "prod": "cumprod"}[how]
        return self._let(f"{function}({x.name}; dims={x.ndim - axis})", x.shape, x.kind)


def lower_functional(model: ArrayModel, constants: Constants) -> str | None:
    """The source of ``f_oop(u, p, t)``; None if the model needs what can't be done without mutation."""
    backend = FunctionalBackend(constants)
    inputs = [
        Named("t", (), "float", number=True),
        backend._let(f"reshape(u, {_size(model.u_shape)})", model.u_shape, "float"),
    ]
    start = 0
    for shape in model.param_shapes:
        stop = start + math.prod(shape)
        inputs.append(backend._let(f"reshape(p[{start + 1}:{stop}], {_size(shape)})", shape, "float"))
        start = stop
    try:
        (out,) = interpret(model.f, backend, inputs)
    except Unsupported:
        return None
    if out.static is not None:
        result = f"zero.(u) .+ {backend._array(out).name}" if out.ndim == 1 else f"zero.(u) .+ vec({backend._array(out).name})"
    else:
        # A truth value counts as 0 or 1.
        result = f"vec({backend._array(out).name})" + (" .+ zero(eltype(u))" if out.kind != "float" else "")
    used = "\n    ".join([*backend.lines, f"return {result}"])
    return f"function f_oop(u, p, t)\n    {used}\nend"
