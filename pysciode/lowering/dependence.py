"""The inputs that a right-hand side depends on: by its values, by its derivatives, and through steps.

A step is where a comparison or a rounding turns from one value to another: what reaches a result through steps alone has the derivative
zero almost everywhere, though it moves the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..graphs.captured_model import ArrayModel, ScalarModel
from ..graphs.node_source import user_line
from ..graphs.scalar_graph import Scalar, ScalarGraph
from ..graphs.scalar_ops import SCALAR_OPS, STEPS
from .ops.backend import Kind, ScalarFunction, run_scalar
from .ops.interpreter import interpret
from .sparsity import Dependencies, DependencyBackend, _as_objects, _none, _union

_STEPS_OF_ARRAYS = STEPS | frozenset("heaviside searchsorted bucketize sgn argmax argmin _to_copy to convert_element_type".split())
_MANY = 64
"""Entries of a parameter: with more, they are followed as one."""


@dataclass(frozen=True)
class Sets:
    """Of one value, the inputs that it depends on: at all, smoothly, and through a step that time or state may take."""

    any: int = 0
    smooth: int = 0
    stepped: int = 0


_NOTHING = Sets()


def _flow(graph: ScalarGraph, roots: Sequence[Scalar], seeds: Mapping[int, int], moving: int) -> dict[int, Sets]:
    """The sets of all nodes below `roots`; `seeds` are those of the inputs, `moving` the inputs that change during a solve."""
    found: dict[int, Sets] = {}
    for i in graph.reachable(roots):
        op = graph.ops[i]
        if i in seeds:
            found[i] = Sets(seeds[i], seeds[i])
        elif op in ("symbol", "const"):
            found[i] = _NOTHING
        else:
            below = [found[a] for a in graph.args[i]]
            whole = smooth = stepped = 0
            for k, x in enumerate(below):
                whole, stepped = whole | x.any, stepped | x.stepped
                if SCALAR_OPS[op].partials is not None and not (op == "select" and k == 0):
                    smooth |= x.smooth
            if op in STEPS and whole & moving:
                stepped |= whole
            found[i] = Sets(whole, smooth, stepped)
    return found


class _DependenceBackend(DependencyBackend):
    """The three sets of each element, side by side in one integer."""

    def __init__(self, width: int, moving: int) -> None:
        self.width, self.moving, self.mask = width, moving, (1 << width) - 1
        self.steps: list[tuple[int, str | None]] = []
        """Which inputs a step depends on, and the line that takes it."""

    def _packed(self, any_: int, smooth: int, stepped: int) -> int:
        return any_ | smooth << self.width | stepped << 2 * self.width

    def unpacked(self, x: int) -> Sets:
        return Sets(x & self.mask, x >> self.width & self.mask, x >> 2 * self.width)

    def seed(self, sets: np.ndarray) -> Dependencies:
        return Dependencies(_as_objects(sets * (1 | 1 << self.width)), "float")

    def _without_slope(self, x: int) -> int:
        return x & ~(self.mask << self.width)

    def pointwise(self, fn: ScalarFunction, args: Sequence[Dependencies], shape: tuple[int, ...], kind: Kind) -> Dependencies:
        graph = ScalarGraph()
        symbols = [graph.symbol(f"a{i}") for i in range(len(args))]
        root = run_scalar(graph, fn, [x.kind for x in args], symbols)
        local = _flow(graph, [root], {x.id: 1 << k for k, x in enumerate(symbols)}, -1)[root.id]
        stepped_by = local.stepped
        if kind != "float":
            stepped_by |= sum(1 << k for k, x in enumerate(args) if x.kind == "float" and local.any >> k & 1)

        def combined(*below: int) -> int:
            whole = smooth = stepped = here = 0
            for k, x in enumerate(map(self.unpacked, below)):
                if local.any >> k & 1:
                    whole, stepped = whole | x.any, stepped | x.stepped
                if local.smooth >> k & 1 and kind == "float":
                    smooth |= x.smooth
                if stepped_by >> k & 1:
                    here |= x.any
            return self._packed(whole, smooth, stepped | here if here & self.moving else stepped)

        if not args:
            return Dependencies(_none(shape), kind)
        out: Any = np.frompyfunc(combined, len(args), 1)(*(x.sets for x in args))
        out = _as_objects(np.broadcast_to(_as_objects(out), shape))
        if stepped_by and self.moving:
            self.steps.append((self.unpacked(int(_union(out))).stepped, user_line(self.node)))
        return Dependencies(out, kind)

    def arg_reduce(self, how: str, x: Dependencies, axis: int) -> Dependencies:
        return Dependencies(_as_objects(self._stepping(_union(x.sets, axis))), "int")

    def _stepping(self, sets: np.ndarray) -> np.ndarray:
        def step(x: int) -> int:
            found = self.unpacked(x)
            return self._packed(found.any, 0, found.stepped | (found.any if found.any & self.moving else 0))

        stepping: Any = np.frompyfunc(step, 1, 1)
        return stepping(sets)

    def _of_coordinates(self, coordinates: Sequence[int | Dependencies]) -> int:
        out = 0
        for c in coordinates:
            if not isinstance(c, int):
                out |= int(_union(c.sets))
        return self._without_slope(out)

    def take(self, x: Dependencies, coordinates: Sequence[int | Dependencies], shape: tuple[int, ...]) -> Dependencies:
        out = super().take(x, coordinates, shape)
        return Dependencies(_as_objects(out.sets | self._of_coordinates(coordinates)), out.kind, out.known)

    def put(self, base: Dependencies, coordinates: Sequence[int | Dependencies], values: Dependencies, accumulate: bool) -> Dependencies:
        out = super().put(base, coordinates, values, accumulate)
        return Dependencies(_as_objects(out.sets | self._of_coordinates(coordinates)), out.kind)


TIME, FIRST, SECOND = 1, 2, 4
"""Bits of the time, and of the first and the second half of the state."""


def of_halves(model: ScalarModel | ArrayModel) -> tuple[int, int]:
    """What the first and the second half of the right-hand side depend on, as a union of `TIME`, `FIRST` and `SECOND`."""
    if isinstance(model, ScalarModel):
        half = len(model.u) // 2
        seeds = {x.id: FIRST if i < half else SECOND for i, x in enumerate(model.u)} | {model.t.id: TIME}
        found = _flow(model.graph, model.rhs, seeds, 0)
        parts = [[found[x.id].any for x in rhs] for rhs in (model.rhs[:half], model.rhs[half:])]
    else:
        backend = _DependenceBackend(3, 0)
        n = math.prod(model.u_shape)
        states = np.array([FIRST] * (n // 2) + [SECOND] * (n // 2), object).reshape(model.u_shape)
        inputs = [backend.seed(np.array(TIME, object)), backend.seed(states)]
        inputs += [Dependencies(_none(shape), "float") for shape in model.param_shapes]
        (du,) = interpret(model.f, backend, inputs)
        flat = [backend.unpacked(x).any for x in du.sets.reshape(-1)]
        parts = [flat[: n // 2], flat[n // 2 :]]
    first, second = (int(np.bitwise_or.reduce(np.array(x or [0], object))) for x in parts)
    return first, second


def second_is_first(model: ScalarModel | ArrayModel) -> bool:
    """Whether the second half of the right-hand side is the first half of the state."""
    if isinstance(model, ScalarModel):
        half = len(model.u) // 2
        return all(x.id == y.id for x, y in zip(model.rhs[half:], model.u[:half], strict=True))
    random = torch.Generator().manual_seed(0)
    t, u, *params = (torch.randn(shape, generator=random, dtype=model.dtype) for shape in ((), model.u_shape, *model.param_shapes))
    with torch.no_grad():
        out = model.f(t, u, *params)
    out = out[0] if isinstance(out, (tuple, list)) else out
    return torch.equal(out[1], u[0])


def only_through_steps(model: ScalarModel | ArrayModel) -> dict[int, str | None]:
    """The flat parameters that reach the right-hand side through steps alone, with the line that takes the step where it is known.

    A step that neither time nor state moves, such as ``p > 0``, does not count: its derivative is zero.
    """
    if isinstance(model, ScalarModel):
        graph = model.graph
        if not any(op in STEPS for op in graph.ops):
            return {}
        seeds = {x.id: 1 for x in (model.t, *model.u)} | {x.id: 2 << k for k, x in enumerate(model.p)}
        found = _flow(graph, model.rhs, seeds, 1)
        total = [found[x.id] for x in model.rhs]
        lines = [(found[i].any, graph.lines.get(i)) for i in found if graph.ops[i] in STEPS and found[i].any & 1]
        return _stepped(total, len(model.p), lines)
    names = {str(getattr(x.target, "__name__", x.target)).split(".")[0] for x in model.f.graph.nodes if x.op == "call_function"}
    if names.isdisjoint(_STEPS_OF_ARRAYS):
        return {}
    sizes = [math.prod(shape) for shape in model.param_shapes]
    bits: list[np.ndarray] = []
    meaning: list[list[int]] = []
    start = 0
    for shape, size in zip(model.param_shapes, sizes, strict=True):
        whole = size > _MANY
        bits.append(np.array([2 << len(meaning) + (0 if whole else i) for i in range(size)], object).reshape(shape))
        meaning += [list(range(start, start + size))] if whole else [[start + i] for i in range(size)]
        start += size
    backend = _DependenceBackend(1 + len(meaning), 1)
    inputs = [backend.seed(np.array(1, object)), backend.seed(np.full(model.u_shape, 1, object))]
    inputs += [backend.seed(_as_objects(x)) for x in bits]
    (du,) = interpret(model.f, backend, inputs)
    found = _stepped([backend.unpacked(x) for x in du.sets.reshape(-1)], len(meaning), backend.steps)
    return {entry: line for k, line in found.items() for entry in meaning[k]}


def _stepped(outputs: Sequence[Sets], count: int, lines: Sequence[tuple[int, str | None]]) -> dict[int, str | None]:
    smooth = stepped = 0
    for x in outputs:
        smooth, stepped = smooth | x.smooth, stepped | x.stepped
    alone = stepped & ~smooth
    return {k: next((line for sets, line in lines if line and sets & 2 << k), None) for k in range(count) if alone & 2 << k}
