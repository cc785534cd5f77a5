"""A captured model as a JAX function: :class:`JaxBackend` supplies the primitives by which the table of
:mod:`pysciode.lowering.ops.table` expresses every ATen operation, and JAX differentiates the result by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np
import torch

from ..graphs.captured_model import ArrayModel, ScalarModel
from ..graphs.scalar_graph import Scalar, ScalarGraph
from .ops.backend import Array, AxisMap, Backend, Kind, ScalarFunction, kind_of, run_scalar
from .ops.interpreter import interpret
from .scalars.python_function import DIRECT, NUMPY_NAMES, walk
from .scalars.unroll import grid

JaxFunction = Callable[[Any, Any, Any], Any]
"""``f(t, u, p) -> du`` on flat JAX arrays."""


def jax_function(model: ScalarModel | ArrayModel) -> JaxFunction:
    """The right-hand side in JAX, on the flat state and the flat parameters.

    Call it with x64 enabled where the model is in double precision. An operation without a JAX form raises CaptureError when the
    function is first traced.
    """
    return _scalar_rhs(model) if isinstance(model, ScalarModel) else _array_rhs(model)


def _scalar_rhs(model: ScalarModel) -> JaxFunction:
    def rhs(t: Any, u: Any, p: Any) -> Any:
        values = {model.t.id: jnp.asarray(t, u.dtype)}
        values |= {x.id: given[i] for symbols, given in ((model.u, u), (model.p, p)) for i, x in enumerate(symbols)}
        return jnp.stack([jnp.asarray(x, u.dtype) for x in _evaluate(model.graph, model.rhs, values)])

    return rhs


def _array_rhs(model: ArrayModel) -> JaxFunction:
    ends = np.cumsum([prod(shape) for shape in model.param_shapes])[:-1]

    def rhs(t: Any, u: Any, p: Any) -> Any:
        params = jnp.split(p, ends) if model.param_shapes else []
        params = [x.reshape(shape) for x, shape in zip(params, model.param_shapes, strict=True)]
        inputs = [Value(x, "float") for x in (jnp.asarray(t, u.dtype), u.reshape(model.u_shape), *params)]
        (out,) = interpret(model.f, JaxBackend(u.dtype), inputs)
        return jnp.asarray(out.data, u.dtype).reshape(-1)

    return rhs


class Value(Array):
    """A JAX array and its kind."""

    def __init__(self, data: Any, kind: Kind) -> None:
        self.data = data
        self.kind = kind

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.data.shape)


class JaxBackend(Backend):
    """The primitives of the lowering as calls of ``jax.numpy``."""

    def __init__(self, dtype: Any) -> None:
        self._dtypes = {"float": dtype, "int": np.int64, "bool": np.bool_}

    def constant(self, value: torch.Tensor) -> Value:
        kind = kind_of(value.dtype)
        return Value(jnp.asarray(value.numpy(), self._dtypes[kind]), kind)

    def full(self, shape: Sequence[int], value: float | bool, kind: Kind) -> Value:
        return Value(jnp.full(tuple(shape), value, self._dtypes[kind]), kind)

    def pointwise(self, fn: ScalarFunction, args: Sequence[Value], shape: tuple[int, ...], kind: Kind) -> Value:
        if self.node is not None and self.node.target is torch.ops.aten.relu.default:
            return Value(jax.nn.relu(args[0].data), kind)  # whose derivative at 0 is 0, as torch's; that of max is 1/2
        graph = ScalarGraph()
        symbols = [graph.symbol(f"x{i}") for i in range(len(args))]
        out = run_scalar(graph, fn, [x.kind for x in args], symbols)
        (value,) = _evaluate(graph, [out], {s.id: x.data for s, x in zip(symbols, args, strict=True)})
        return Value(jnp.broadcast_to(jnp.asarray(value, self._dtypes[kind]), shape), kind)

    def affine(self, x: Value, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> Value:
        return Value(x.data[grid(shape, maps)] if x.ndim else jnp.broadcast_to(x.data, shape), x.kind)

    def accumulate(self, x: Value, shape: tuple[int, ...], maps: Sequence[AxisMap]) -> Value:
        return Value(jnp.zeros(shape, x.data.dtype).at[grid(x.shape, maps)].add(x.data), x.kind)

    def permute(self, x: Value, axes: Sequence[int]) -> Value:
        return Value(jnp.transpose(x.data, tuple(axes)), x.kind)

    def expand(self, x: Value, shape: tuple[int, ...]) -> Value:
        return Value(jnp.broadcast_to(x.data, shape), x.kind)

    def slice(self, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        return Value(x.data[(slice(None),) * axis + (slice(start, stop, step),)], x.kind)

    def flip(self, x: Value, axes: Sequence[int]) -> Value:
        return Value(jnp.flip(x.data, tuple(axes)), x.kind)

    def reshape(self, x: Value, shape: tuple[int, ...]) -> Value:
        return Value(x.data.reshape(shape), x.kind)

    def cat(self, xs: Sequence[Value], axis: int) -> Value:
        return Value(jnp.concatenate([x.data for x in xs], axis), xs[0].kind)

    def reduce(self, how: str, x: Value, axes: tuple[int, ...]) -> Value:
        return Value(getattr(jnp, how.removeprefix("first_"))(x.data, axis=axes), x.kind)

    def arg_reduce(self, how: str, x: Value, axis: int) -> Value:
        return Value({"max": jnp.argmax, "min": jnp.argmin}[how](x.data, axis=axis), "int")

    def matmul(self, a: Value, b: Value) -> Value:
        return Value(a.data @ b.data, "float")

    def solve(self, a: Value, b: Value) -> Value:
        return Value(jnp.linalg.solve(a.data, b.data), "float")

    def _coordinates(self, coordinates: Sequence[int | Value], shape: tuple[int, ...]) -> tuple[Any, ...]:
        axes = np.indices(shape, sparse=True)
        return tuple(axes[c] if isinstance(c, int) else jnp.broadcast_to(c.data, shape) for c in coordinates)

    def take(self, x: Value, coordinates: Sequence[int | Value], shape: tuple[int, ...]) -> Value:
        if not coordinates:
            return self.expand(x, shape)
        return Value(jnp.broadcast_to(x.data[self._coordinates(coordinates, shape)], shape), x.kind)

    def put(self, base: Value, coordinates: Sequence[int | Value], values: Value, accumulate: bool) -> Value:
        places = base.data.at[self._coordinates(coordinates, values.shape)]
        return Value(places.add(values.data) if accumulate else places.set(values.data), base.kind)

    def scan(self, how: str, x: Value, axis: int) -> Value:
        return Value({"sum": jnp.cumsum, "prod": jnp.cumprod}[how](x.data, axis=axis), x.kind)


def _power(a: Any, b: Any) -> Any:
    # Whole powers become multiplications, as where one writes y**3.
    return jnp.power(a, int(b) if isinstance(b, float) and b.is_integer() and abs(b) <= 64 else b)


_SPECIAL: dict[str, Callable[..., Any]] = {
    "pow": _power,
    "select": jnp.where,
    "stop": jax.lax.stop_gradient,
    "sigmoid": jax.nn.sigmoid,
    "erf": jax.scipy.special.erf,
    "erfc": jax.scipy.special.erfc,
    "erfinv": jax.scipy.special.erfinv,
    "lgamma": jax.scipy.special.gammaln,
    "digamma": jax.scipy.special.digamma,
    "trigamma": lambda x: jax.scipy.special.polygamma(1, x),
}
"""Scalar operations that ``jax.numpy`` has not."""


def _evaluate(graph: ScalarGraph, outputs: Sequence[Scalar], values: dict[int, Any]) -> list[Any]:
    """The values of `outputs`; numbers stay Python's, so that they take the arrays' precision."""

    def function(op: str) -> Callable[..., Any]:
        return _SPECIAL.get(op) or DIRECT.get(op) or getattr(jnp, NUMPY_NAMES.get(op, op))

    return walk(graph, outputs, values, function, lambda x: x)
