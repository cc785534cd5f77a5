"""Array models as Julia loops over flat buffers.

Shapes are static, so every value is a view (buffer, offset, strides in C order): reshaping, permuting, slicing and expanding cost no
code.  Pointwise values stay unevaluated until something needs them in memory; then they become one loop, with all that
they are made of inside it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
import torch.fx

from ..capture.graph import Scalar, ScalarGraph
from ..capture.model import ArrayModel
from .constants import Constants
from .functional import lower_functional
from .interpreter import Array, AxisMap, Backend, Kind, ScalarFunction, as_number, interpret, kind_of, run_scalar
from .loops import (
    Affine,
    ArgReduction,
    Body,
    Buffer,
    Indirect,
    Loop,
    Matrix,
    Product,
    Program,
    Reduction,
    Scan,
    Solve,
    Workspace,
    contiguous,
)
from .model import LoweredModel
from .sparsity import SparseJacobian, sparse_jacobian

# What a scalar operation costs, in units of an addition; others are transcendental.
_COSTS = {
    "symbol": 0, "const": 0, "stop": 0, "add": 1, "sub": 1, "mul": 1, "neg": 1, "max": 1, "min": 1, "select": 1, "abs": 1,
    "lt": 1, "le": 1, "gt": 1, "ge": 1, "eq": 1, "ne": 1, "and": 1, "or": 1, "not": 1, "isnan": 1, "isinf": 1,
    "floor": 1, "ceil": 1, "trunc": 1, "round": 1, "sign": 2, "div": 4, "sqrt": 4,
}  # fmt: skip
_TRANSCENDENTAL = 20
# A value used more than once is kept in memory from this cost on.
_SHARED_COST = 3
# Beyond these, a pointwise value is evaluated to memory: loops stay short enough to compile quickly.
_MAX_COST, _MAX_READS = 400, 24
# Products with so few terms are written out and fused with what follows.
_SHORT_PRODUCT = 4

Index = tuple[Affine, ...]


class Value(Array):
    """An array whose elements can be had inside a loop body."""

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
        return self.base.load(body, tuple(_mapped(m, index) for m in self.maps))


class Taken(Value):
    """A gather: the elements of a stored array at coordinates that are axes or stored integers."""

    cost = 2

    def __init__(self, base: Stored, coordinates: Sequence[int | Stored], shape: tuple[int, ...]) -> None:
        self.base, self.coordinates, self.shape, self.kind = base, coordinates, shape, base.kind

    def load(self, body: Body, index: Index) -> Scalar:
        return self.base.load(body, _at(self.coordinates, index))


def _mapped(axis_map: AxisMap, index: Index) -> Affine:
    constant, terms = axis_map
    return Affine.combine(constant, ((c, index[a]) for a, c in terms))


def _at(coordinates: Sequence[int | Stored], index: Index) -> Index:
    return tuple(
        index[c] if isinstance(c, int) else Affine(0, ((Indirect(c.buffer, c.place(index)), 1),)) for c in coordinates
    )


def _axes(n: int) -> Index:
    return tuple(Affine.axis(a) for a in range(n))


class LoopBackend(Backend):
    """Builds the program of one function."""

    def __init__(self, constants: Constants) -> None:
        self.program = Program()
        self.constants = constants

    # --- evaluation ---

    def store(self, x: Value, target: Stored) -> None:
        """Evaluate `x` into `target`."""
        body = Body()
        index = _axes(x.ndim)
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
            return self.affine(self.memory(x.base), x.shape, x.maps)
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

    def shared(self, x: Array) -> None:
        """`x` is used several times: keep it in memory, if it is not quicker to compute it again."""
        base = x.base if isinstance(x, Viewed) else x
        if isinstance(base, Computed) and base.stored is None and base.cost >= _SHARED_COST:
            self.memory(base)

    # --- primitives ---

    def constant(self, value: torch.Tensor) -> Value:
        kind = kind_of(value.dtype)
        return Stored(self.constants.buffer(value, kind), tuple(value.shape))

    def full(self, shape: Sequence[int], value: float | bool, kind: Kind) -> Value:
        return Filled(tuple(shape), value, kind)

    def pointwise(self, fn: ScalarFunction, args: Sequence[Value], shape: tuple[int, ...], kind: Kind) -> Value:
        for x in args:
            # What is spread over a larger shape is computed once, not for each copy.
            if x.cost >= _SHARED_COST and math.prod(x.shape) < math.prod(shape):
                self.shared(x)
        args = [self.expand(x, shape) for x in args]
        if all(isinstance(x, Filled) for x in args):
            graph = ScalarGraph()
            scalars = [graph.const(bool(x.value) if x.kind == "bool" else float(x.value)) for x in args]
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
            composed = [_mapped(m, tuple(inner)) for m in x.maps]
            return self.affine(x.base, shape, [(m.constant, m.terms) for m in composed])
        if isinstance(x, Computed) and x.stored is not None:
            x = x.stored
        if isinstance(x, Stored):
            offset = x.offset + sum(s * c for s, (c, _) in zip(x.strides, maps, strict=True))
            strides = [0] * len(shape)
            for s, (_, terms) in zip(x.strides, maps, strict=True):
                for a, k in terms:
                    strides[a] += s * k
            return Stored(x.buffer, shape, tuple(strides), offset)
        if math.prod(shape) > math.prod(x.shape) and x.cost >= _SHARED_COST:
            return self.affine(self.memory(x), shape, maps)
        return Viewed(x, shape, maps)

    def accumulate(self, x: Value, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> Value:
        target = self.temporary(shape, x.kind)
        self.store(Filled(shape, 0.0, x.kind), target)
        body, index = Body(), _axes(x.ndim)
        place = target.place(tuple(_mapped(m, index) for m in maps))
        value = x.load(body, index)
        # Each element has its own place if no two axes meet: then the order does not matter.
        apart = all(len(terms) <= 1 for _, terms in maps)
        used = {a for _, terms in maps for a, _ in terms}
        apart = apart and all(a in used or n == 1 for a, n in enumerate(x.shape)) and len(used) == sum(len(t) for _, t in maps)
        self.program.statements.append(Loop(x.shape, body, [(target.buffer, place, value)], accumulate=not apart, ordered=not apart))
        return target

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        if x.shape == shape:
            return x
        if isinstance(x, Filled):
            return Filled(shape, x.value, x.kind)
        if isinstance(x, Computed) and x.stored is not None:
            x = x.stored
        if isinstance(x, Stored):
            strides = _reshaped(x.shape, x.strides, shape)
            if strides is not None:
                return Stored(x.buffer, shape, strides, x.offset)
            return self.reshape(self.packed(x), shape)
        maps = _split_maps(x.shape, shape)
        if maps is not None:
            return self.affine(x, shape, maps)
        if isinstance(x, Computed) and all(self._reshapes(a, shape) for a in x.args):
            return Computed(x.fn, [self.reshape(a, shape) for a in x.args], shape, x.kind)
        return self.reshape(self.memory(x), shape)

    def _reshapes(self, x: Value, shape: tuple[int, ...]) -> bool:
        """Whether `x` can be seen in another shape without being moved."""
        if isinstance(x, Computed) and x.stored is None:
            return _split_maps(x.shape, shape) is not None
        if isinstance(x, Filled):
            return True
        x = x.stored if isinstance(x, Computed) else x
        return isinstance(x, Stored) and _reshaped(x.shape, x.strides, shape) is not None

    def cat(self, xs: Sequence[Value], axis: int) -> Value:
        length = sum(x.shape[axis] for x in xs)
        shape = (*xs[0].shape[:axis], length, *xs[0].shape[axis + 1 :])
        target = self.temporary(shape, xs[0].kind)
        start = 0
        for x in xs:
            part = self.slice(target, axis, start, start + x.shape[axis])
            self.store(x, part)
            start += x.shape[axis]
        return target

    def _source(self, x: Value) -> tuple[Body, Scalar]:
        body = Body()
        return body, x.load(body, _axes(x.ndim))

    def _kept(self, x: Value, axes: Sequence[int], kind: Kind) -> tuple[Stored, Affine]:
        """Memory for `x` without `axes`, and the place in it of an index of `x`."""
        index = _axes(x.ndim)
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
        place = (target.buffer, target.place(_axes(x.ndim)))
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
        # A matrix that is spread or reversed is copied; rows or columns must be dense.
        rows, columns = out.strides[-2:]
        if min(out.strides) < 0 or (rows != 1 and columns != 1 and 1 not in out.shape[-2:]):
            return self.packed(self._copy(out))
        return out

    def _copy(self, x: Stored) -> Stored:
        target = self.temporary(x.shape, x.kind)
        self.store(x, target)
        return target

    @staticmethod
    def _matrix(x: Stored) -> Matrix:
        return Matrix(x.buffer, x.offset, (x.strides[0] if x.ndim == 3 else 0, *x.strides[-2:]))

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

    def _place(self, index: Value) -> Stored:
        return self.memory(index)

    def put(self, base: Value, coordinates: Sequence[int | Value], values: Value, accumulate: bool) -> Value:
        at = [c if isinstance(c, int) else self._place(c) for c in coordinates]
        target = self.temporary(base.shape, base.kind)
        body, index = Body(), _axes(values.ndim)
        value = values.load(body, index)
        if values.kind == "bool" and base.kind != "bool":
            value = as_number(body.graph, value)
        self.store(base, target)
        place = target.place(_at(at, index))
        self.program.statements.append(
            Loop(values.shape, body, [(target.buffer, place, value)], accumulate=accumulate, ordered=True)
        )
        return target


def _reshaped(old: Sequence[int], strides: Sequence[int], new: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of a view in another shape; None if its elements would have to be moved."""
    if 0 in new:
        return contiguous(new)
    axes = [(n, s) for n, s in zip(old, strides, strict=True) if n != 1]
    out: list[int] = []
    i = 0
    at = 0
    while i < len(axes):
        # The smallest runs of old and new axes with the same number of elements.
        count, j = axes[i][0], i + 1
        size, k = 1, at
        while True:
            while size < count and k < len(new):
                size *= new[k]
                k += 1
            if size == count:
                break
            if j == len(axes):
                return None
            count *= axes[j][0]
            j += 1
        for x, y in zip(axes[i : j - 1], axes[i + 1 : j], strict=True):
            if x[1] != y[0] * y[1]:
                return None
        step = axes[j - 1][1]
        run = list(new[at:k])
        out += [step * math.prod(run[r + 1 :]) for r in range(len(run))]
        i, at = j, k
    return (*out, *(1 for _ in new[at:]))


def _split_maps(old: Sequence[int], new: Sequence[int]) -> list[AxisMap] | None:
    """Maps for a reshape that only splits axes, or adds and drops ones; None for another."""
    if 0 in new:
        return None
    maps: list[AxisMap] = []
    k = 0
    for n in old:
        if n == 1:
            maps.append((0, ()))
            continue
        size, terms = 1, []
        while size < n:
            if k == len(new):
                return None
            size *= new[k]
            terms.append(k)
            k += 1
        if size != n:
            return None
        maps.append((0, tuple((a, math.prod(new[a + 1 : k])) for a in terms if new[a] != 1)))
    return maps if math.prod(new[k:]) == 1 else None


# --- the functions of a model ----------------------------------------------------------------------------------------

# name of the Julia function -> (graph to trace, outputs, inputs in the order of the graph)
_TRACED = {
    "f!": ("f", ("du",), ("t", "u", "p")),
    "vjp!": ("vjp", ("dlam",), ("lam", "t", "u", "p")),
    "vjp_p!": ("vjp_p", ("dp",), ("lam", "t", "u", "p")),
    "vjp_both!": ("vjp_both", ("dlam", "dp"), ("lam", "t", "u", "p")),
    "jvp!": ("jvp", ("dv",), ("v", "t", "u", "p")),
    "tgrad!": ("tgrad", ("dT",), ("t", "u", "p")),
}
# row by row, because the vector-Jacobian products are mostly wanted anyway
_NEEDS = {"jac!": "vjp!", "paramjac!": "vjp_p!", "jac_sparse!": "jvp!"}
FUNCTIONS = (*_TRACED, *_NEEDS, "f_oop")
"""What can be generated."""


def lower_array(model: ArrayModel, want: Collection[str] = FUNCTIONS) -> LoweredModel:
    """Julia source of `model`, with the functions named in `want`.

    ``f_oop`` is left out where the model needs what can't be done without mutation, such as indices computed from the state.

    Raises
    ------
    CaptureError
        If an operation has no translation.
    """
    unknown = set(want) - set(FUNCTIONS)
    if unknown:
        raise ValueError(f"unknown functions {sorted(unknown)}; there are {', '.join(FUNCTIONS)}")
    n = math.prod(model.u_shape)
    n_params = sum(math.prod(s) for s in model.param_shapes)
    dtype = np.dtype(np.float32 if model.dtype == torch.float32 else np.float64)
    constants, workspace = Constants(dtype), Workspace()
    names = [name for name in _TRACED if name in want or name in {_NEEDS.get(w) for w in want}]
    parts = [_function(name, model, constants, workspace) for name in names]
    for name, size in (("jac!", n), ("paramjac!", n_params)):
        if name in want:
            workspace.vector("unit", n)
            workspace.vector("row", size)
            parts.append(_ROWS.format(name=name, product=_NEEDS[name], n=n, columns=size))
    sparsity = None
    if "jac_sparse!" in want:
        jacobian = sparse_jacobian(model)
        sparsity = (jacobian.colptr + 1, jacobian.rowval + 1)
        workspace.vector("unit", n)
        workspace.vector("row", n)
        constants.arrays |= _color_tables(jacobian)
        parts.append(_COLORED.format(n=n, n_colors=jacobian.n_colors))
    functions = {*names, *(set(want) & set(_NEEDS))}
    if "f_oop" in want:
        source = lower_functional(model, constants)
        if source is not None:
            parts.append(source)
            functions.add("f_oop")
    return LoweredModel(
        source="\n".join([workspace.source(), *parts]),
        functions=frozenset(functions),
        form="array",
        n=n,
        n_params=n_params,
        dtype=dtype,
        constants=constants.arrays,
        sparsity=sparsity,
    )


def _color_tables(jacobian: SparseJacobian) -> dict[str, np.ndarray]:
    """For each colour, its columns and its entries: their places among the non-zeros, and their rows. All from one."""
    columns = np.argsort(jacobian.colors, kind="stable")
    entry_colors = np.repeat(jacobian.colors, np.diff(jacobian.colptr))
    entries = np.argsort(entry_colors, kind="stable")
    count = np.arange(jacobian.n_colors + 1)
    return {
        "color_columns": columns + 1,
        "color_first_column": np.searchsorted(jacobian.colors[columns], count) + 1,
        "color_entries": entries + 1,
        "color_rows": jacobian.rowval[entries] + 1,
        "color_first_entry": np.searchsorted(entry_colors[entries], count) + 1,
    }


def _function(name: str, model: ArrayModel, constants: Constants, workspace: Workspace) -> str:
    traced, outputs, inputs = _TRACED[name]
    graph = model.f if traced == "f" else model.trace(traced)
    backend = LoopBackend(constants)
    results = interpret(graph, backend, _inputs(inputs, model))
    destinations = _destinations(outputs, model)
    for result, (buffer, shift) in zip(results, destinations, strict=True):
        _deliver(backend, result, buffer, shift)
    program = backend.program
    program.fuse()
    workspace.place(program)
    used = [b.name for b in program.buffers()]
    lines = [f"T = eltype({outputs[0]})"]
    lines += [f"{slot} = w.{slot}" for slot in dict.fromkeys(used) if slot in workspace.slots]
    for statement in program.statements:
        lines += statement.emit(constants.dtype)
    arguments = [*outputs, *(x for x in inputs if x not in ("t", "u", "p")), "u", "p", "t", "w"]
    body = "\n".join("        " + line for line in lines)
    return f"function {name}({', '.join(arguments)})\n    @inbounds begin\n{body}\n    end\n    return nothing\nend"


def _inputs(names: Sequence[str], model: ArrayModel) -> list[Value]:
    values: list[Value] = []
    for name in names:
        if name == "t":
            values.append(Time())
        elif name == "p":
            buffer = Buffer(sum(math.prod(s) for s in model.param_shapes), name="p")
            start = 0
            for shape in model.param_shapes:
                values.append(Stored(buffer, shape, None, start))
                start += math.prod(shape)
        else:
            values.append(Stored(Buffer(math.prod(model.u_shape), name=name), model.u_shape))
    return values


def _destinations(outputs: Sequence[str], model: ArrayModel) -> list[tuple[str, int]]:
    places: list[tuple[str, int]] = []
    for name in outputs:
        if name == "dp":
            start = 0
            for shape in model.param_shapes:
                places.append((name, start))
                start += math.prod(shape)
        else:
            places.append((name, 0))
    return places


def _deliver(backend: LoopBackend, result: Value, name: str, shift: int) -> None:
    """Have `result` end up in the vector `name` from `shift` on: by writing it there at once, where it is a buffer of its own."""
    if isinstance(result, Computed) and result.stored is not None:
        result = result.stored
    if (
        isinstance(result, Stored)
        and result.buffer.temporary
        and result.kind == "float"
        and result.dense
        and result.offset == 0
        and math.prod(result.shape) == result.buffer.size
    ):
        result.buffer.name, result.buffer.shift = name, shift
        return
    size = math.prod(result.shape)
    backend.store(result, Stored(Buffer(size, name=name, shift=shift), result.shape))


_ROWS = """function {name}(J, u, p, t, w)
    unit, row = w.unit, w.row
    fill!(unit, 0)
    for i in 1:{n}
        unit[i] = 1
        {product}(row, unit, u, p, t, w)
        unit[i] = 0
        @inbounds for j in 1:{columns}
            J[(j - 1) * {n} + i] = row[j]
        end
    end
    return nothing
end"""

_COLORED = """function jac_sparse!(nz, u, p, t, w)
    unit, row = w.unit, w.row
    for c in 1:{n_colors}
        fill!(unit, 0)
        @inbounds for k in color_first_column[c]:color_first_column[c+1]-1
            unit[color_columns[k]] = 1
        end
        jvp!(row, unit, u, p, t, w)
        @inbounds for k in color_first_entry[c]:color_first_entry[c+1]-1
            nz[color_entries[k]] = row[color_rows[k]]
        end
    end
    return nothing
end"""
