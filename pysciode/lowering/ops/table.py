"""The table of operations: what every ATen operation means, and what its rows are written with.

A row is a function ``row(backend, *args, **kwargs)`` that expresses its operation by the primitives of
:class:`~pysciode.lowering.ops.backend.Backend`. The modules of this folder whose names end in ``_ops`` enter the rows; operations
that torch itself can decompose into these need none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...graphs.scalar_graph import Scalar, ScalarGraph
from .backend import Array, Backend, Kind, ScalarFunction, kind_of

aten = torch.ops.aten
prims = torch.ops.prims

Row = Callable[..., Any]
ROWS: dict[Any, Row] = {}


def row(*operations: Any) -> Callable[[Row], Row]:
    """Make the decorated function the row of `operations`."""

    def enter(function: Row) -> Row:
        for operation in operations:
            ROWS[operation] = function
        return function

    return enter


# --- helpers for rows ------------------------------------------------------------------------------------------------


def node_kind(b: Backend) -> Kind:
    """The kind that torch says the result of the node at hand has."""
    value = b.node.meta["val"]
    return kind_of((value[0] if isinstance(value, (tuple, list)) else value).dtype)


def operation_name(b: Backend) -> str:
    """Of the node at hand, such as ``"aten::index_put"``."""
    operation: Any = b.node.target
    return operation._schema.name


def takes_bool(fn: ScalarFunction) -> ScalarFunction:
    """Mark `fn` as taking truth values as they are, not as numbers."""
    fn.takes_bool = True  # type: ignore[attr-defined]
    return fn


def pointwise(b: Backend, fn: ScalarFunction, *args: Array | float | bool, kind: Kind | None = None) -> Array:
    """`fn` on the elements of `args`, numbers among them, broadcast against each other."""
    arrays = [x for x in args if isinstance(x, Array)]
    shape = tuple(torch.broadcast_shapes(*(x.shape for x in arrays)))
    if len(arrays) < len(args):
        fn = _with_numbers(fn, args)
    return b.pointwise(fn, arrays, shape, kind or node_kind(b))


def _with_numbers(fn: ScalarFunction, args: Sequence[Array | float | bool]) -> ScalarFunction:
    """`fn` of the arrays among `args` alone."""

    def of_arrays(g: ScalarGraph, *scalars: Scalar) -> Scalar:
        rest = iter(scalars)
        return fn(g, *(next(rest) if isinstance(x, Array) else g.const(x) for x in args))

    return takes_bool(of_arrays) if getattr(fn, "takes_bool", False) else of_arrays


def to_bool(b: Backend, x: Array) -> Array:
    if x.kind == "bool":
        return x
    return pointwise(b, lambda g, x: g.apply("ne", x, g.const(0.0)), x, kind="bool")


def cast(b: Backend, x: Array, kind: Kind) -> Array:
    """`x` as another kind, as torch's ``.to``."""
    if x.kind == kind:
        return x
    if kind == "bool":
        return to_bool(b, x)
    if kind == "int" and x.kind == "float":
        return pointwise(b, lambda g, x: g.apply("trunc", x), x, kind="int")
    return pointwise(b, lambda g, x: x, x, kind=kind)


def apply(op: str) -> ScalarFunction:
    return lambda g, *x: g.apply(op, *x)


def total(b: Backend, x: Array, axes: Sequence[int], keepdim: bool = False) -> Array:
    """The sum over `axes`, truth values counted."""
    return reduce(b, "sum", cast(b, x, "int") if x.kind == "bool" else x, axes, keepdim)


def reduce(b: Backend, how: str, x: Array, axes: Sequence[int], keepdim: bool = False) -> Array:
    axes = tuple(sorted({a % x.ndim for a in axes})) if x.ndim else ()
    out = b.reduce(how, x, axes) if axes else x
    if keepdim and axes:
        out = b.reshape(out, tuple(1 if a in axes else n for a, n in enumerate(x.shape)))
    return out


def axis_of(axis: int, ndim: int) -> int:
    return axis % ndim if ndim else 0


def choose(g: ScalarGraph, comparison: str, x: Scalar, y: Scalar, then: Scalar, otherwise: Scalar) -> Scalar:
    """``then if x <comparison> y else otherwise``: at a kink the derivative is that of the branch taken, as torch chooses them."""
    return g.apply("select", g.apply(comparison, x, y), then, otherwise)


def safe_root(g: ScalarGraph, x: Scalar, root: ScalarFunction) -> Scalar:
    """``root(x)``, whose derivative is 0 where `x` is, as torch has it for norms and deviations."""
    zero = g.apply("eq", x, g.const(0.0))
    return g.apply("select", zero, g.const(0.0), root(g, g.apply("select", zero, g.const(1.0), x)))
