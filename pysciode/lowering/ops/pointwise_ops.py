"""Rows of operations on single elements: arithmetic, comparisons, activations, casts, fills."""

from __future__ import annotations

import math
from typing import Any

from ...graphs.node_source import stops_gradient
from ...graphs.scalar_graph import Scalar, ScalarGraph, clamp
from .backend import Array, Backend, ScalarFunction
from .table import ROWS, Row, apply, aten, axis_of, cast, choose, node_kind, operation_name, pointwise, prims, row, takes_bool, to_bool

# --- one operand: by the name of the scalar operation ----------------------------------------------------------------

_UNARY = {
    "neg": "neg", "exp": "exp", "exp2": "exp2", "expm1": "expm1",
    "log": "log", "log2": "log2", "log10": "log10", "log1p": "log1p", "sqrt": "sqrt",
    "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan",
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh",
    "sigmoid": "sigmoid", "erf": "erf", "erfinv": "erfinv", "erfc": "erfc", "lgamma": "lgamma", "digamma": "digamma",
    "abs": "abs", "sign": "sign", "sgn": "sign",
    "floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "round",
    "isnan": "isnan", "isinf": "isinf",
}  # fmt: skip


def _unary(op: str) -> Row:
    fn = apply(op)
    return lambda b, x: pointwise(b, fn, x)


for _name, _op in _UNARY.items():
    ROWS[getattr(aten, _name).default] = _unary(_op)


def _simple(fn: ScalarFunction) -> Row:
    return lambda b, *x: pointwise(b, fn, *x)


ROWS[aten.reciprocal.default] = _simple(lambda g, x: 1 / x)
ROWS[aten.rsqrt.default] = _simple(lambda g, x: 1 / g.apply("sqrt", x))
ROWS[aten.square.default] = _simple(lambda g, x: x * x)
ROWS[aten.relu.default] = _simple(lambda g, x: choose(g, "le", x, g.const(0.0), g.const(0.0), x))


def _sinc(g: ScalarGraph, x: Scalar) -> Scalar:
    zero = g.apply("eq", x, g.const(0.0))
    y = math.pi * g.apply("select", zero, g.const(1.0), x)
    return g.apply("select", zero, g.const(1.0), g.apply("sin", y) / y)


ROWS[aten.sinc.default] = _simple(_sinc)
ROWS[aten.frac.default] = _simple(lambda g, x: x - g.apply("trunc", x))
ROWS[aten.logical_not.default] = lambda b, x: pointwise(b, takes_bool(apply("not")), to_bool(b, x), kind="bool")


@row(aten.bitwise_not.default)
def _bitwise_not(b: Backend, x: Array) -> Array:
    if x.kind != "bool":
        raise NotImplementedError("bit operations on integers")
    return pointwise(b, takes_bool(apply("not")), x, kind="bool")


@row(aten.polygamma.default)
def _polygamma(b: Backend, n: int, x: Array) -> Array:
    if n not in (0, 1):
        raise NotImplementedError(f"polygamma of order {n}")
    return pointwise(b, apply("trigamma" if n else "digamma"), x)


# --- two operands ----------------------------------------------------------------------------------------------------


@row(aten.add.Tensor, aten.add.Scalar)
def _add(b: Backend, x: Any, y: Any, alpha: float = 1) -> Array:
    if node_kind(b) == "bool":
        return pointwise(b, takes_bool(apply("or")), to_bool(b, x), to_bool(b, y))
    return pointwise(b, lambda g, x, y: x + y * alpha, x, y)


@row(aten.sub.Tensor, aten.sub.Scalar)
def _sub(b: Backend, x: Any, y: Any, alpha: float = 1) -> Array:
    return pointwise(b, lambda g, x, y: x - y * alpha, x, y)


@row(aten.rsub.Tensor, aten.rsub.Scalar)
def _rsub(b: Backend, x: Any, y: Any, alpha: float = 1) -> Array:
    return pointwise(b, lambda g, x, y: y - x * alpha, x, y)


def _divide(g: ScalarGraph, x: Scalar, y: Scalar) -> Scalar:
    # A constant divisor becomes a factor where that is exact.
    if y.constant and abs(math.frexp(y.constant)[0]) == 0.5 and math.isfinite(1 / y.constant):
        return x * (1 / y.constant)
    return x / y


@row(aten.div.Tensor, aten.div.Scalar, aten.true_divide.Tensor)
def _div(b: Backend, x: Any, y: Any) -> Array:
    return pointwise(b, _divide, x, y)


@row(aten.div.Tensor_mode, aten.div.Scalar_mode)
def _div_mode(b: Backend, x: Any, y: Any, rounding_mode: str | None = None) -> Array:
    if rounding_mode is None:
        return pointwise(b, _divide, x, y)
    return pointwise(b, lambda g, x, y: g.apply(rounding_mode, x / y), x, y)


ROWS[aten.floor_divide.default] = lambda b, x, y: _div_mode(b, x, y, "floor")

for _op, _name in {"mul": "mul", "pow": "pow", "fmod": "fmod", "mod": "remainder", "atan2": "atan2",
                   "max": "maximum", "min": "minimum"}.items():  # fmt: skip
    for _overload in ("default", "Tensor", "Scalar", "Tensor_Tensor", "Tensor_Scalar", "Scalar_Tensor"):
        if hasattr(getattr(aten, _name), _overload):
            ROWS[getattr(getattr(aten, _name), _overload)] = _simple(apply(_op))
ROWS[aten.pow.Scalar] = _simple(apply("pow"))


def _f_extreme(comparison: str) -> ScalarFunction:
    """The extreme that ignores NaN, and of equals takes the first."""

    def fn(g: ScalarGraph, x: Scalar, y: Scalar) -> Scalar:
        return g.apply("select", g.apply("or", g.apply(comparison, x, y), g.apply("isnan", y)), x, y)

    return fn


ROWS[aten.fmax.default] = _simple(_f_extreme("ge"))
ROWS[aten.fmin.default] = _simple(_f_extreme("le"))
ROWS[aten.hypot.default] = _simple(lambda g, x, y: g.apply("sqrt", x * x + y * y))


def _comparison(op: str) -> Row:
    return lambda b, x, y: pointwise(b, apply(op), x, y, kind="bool")


for _op in ("lt", "le", "gt", "ge", "eq", "ne"):
    for _overload in ("Tensor", "Scalar"):
        ROWS[getattr(getattr(aten, _op), _overload)] = _comparison(_op)


def _logical(op: str) -> Row:
    fn = takes_bool(apply(op))

    def rule(b: Backend, x: Any, y: Any) -> Array:
        x, y = (to_bool(b, v) if isinstance(v, Array) else bool(v) for v in (x, y))
        return pointwise(b, fn, x, y, kind="bool")

    return rule


ROWS[aten.logical_and.default] = _logical("and")
ROWS[aten.logical_or.default] = _logical("or")
ROWS[aten.logical_xor.default] = _logical("ne")


def _bitwise(op: str) -> Row:
    logical = _logical(op)

    def rule(b: Backend, x: Any, y: Any) -> Array:
        if node_kind(b) != "bool":
            raise NotImplementedError("bit operations on integers")
        return logical(b, x, y)

    return rule


for _name, _op in {"bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "ne"}.items():
    for _overload in ("Tensor", "Scalar"):
        ROWS[getattr(getattr(aten, _name), _overload)] = _bitwise(_op)


# --- choices ---------------------------------------------------------------------------------------------------------


@row(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def _where(b: Backend, condition: Array, x: Any, y: Any) -> Array:
    kind = node_kind(b)
    x, y = (cast(b, v, kind) if isinstance(v, Array) else (bool(v) if kind == "bool" else v) for v in (x, y))
    return pointwise(b, takes_bool(apply("select")), to_bool(b, condition), x, y, kind=kind)


@row(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(b: Backend, x: Array, mask: Array, value: Any) -> Array:
    return _where(b, mask, value, x)


@row(aten.clamp.default, aten.clamp.Tensor)
def _clamp(b: Backend, x: Array, min: Any = None, max: Any = None) -> Array:
    def fn(g: ScalarGraph, x: Scalar, *bounds: Scalar) -> Scalar:
        rest = iter(bounds)
        if len(bounds) == 2 and None in [y.constant for y in bounds]:
            # Where the bounds meet, torch gives the lower one no derivative.
            low, high = bounds
            rest = iter((g.apply("select", g.apply("lt", low, high), low, g.apply("stop", low)), high))
        if min is not None:
            x = _at_least(g, x, next(rest))
        if max is not None:
            x = _at_most(g, x, next(rest))
        return x

    return pointwise(b, fn, x, *(v for v in (min, max) if v is not None))


def _at_least(g: ScalarGraph, x: Scalar, bound: Scalar) -> Scalar:
    return clamp(g, "max", x, bound)


def _at_most(g: ScalarGraph, x: Scalar, bound: Scalar) -> Scalar:
    return clamp(g, "min", x, bound)


ROWS[aten.clamp_min.default] = ROWS[aten.clamp_min.Tensor] = _simple(_at_least)
ROWS[aten.clamp_max.default] = ROWS[aten.clamp_max.Tensor] = _simple(_at_most)


@row(aten.hardtanh.default)
def _hardtanh(b: Backend, x: Array, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    # Unlike clamp's, its derivative is 0 at the bounds.
    def fn(g: ScalarGraph, x: Scalar) -> Scalar:
        low, high = g.const(min_val), g.const(max_val)
        return choose(g, "le", x, low, low, choose(g, "ge", x, high, high, x))

    return pointwise(b, fn, x)


@row(aten.hardsigmoid.default)
def _hardsigmoid(b: Backend, x: Array) -> Array:
    def fn(g: ScalarGraph, x: Scalar) -> Scalar:
        low, high = g.const(-3.0), g.const(3.0)
        return choose(g, "le", x, low, g.const(0.0), choose(g, "ge", x, high, g.const(1.0), (x + 3.0) * (1 / 6)))

    return pointwise(b, fn, x)


@row(aten.hardswish.default)
def _hardswish(b: Backend, x: Array) -> Array:
    def fn(g: ScalarGraph, x: Scalar) -> Scalar:
        low, high = g.const(-3.0), g.const(3.0)
        return choose(g, "le", x, low, g.const(0.0), choose(g, "ge", x, high, x, x * (x + 3.0) * (1 / 6)))

    return pointwise(b, fn, x)


@row(aten.threshold_backward.default)
def _threshold_backward(b: Backend, grad: Array, x: Array, threshold: float) -> Array:
    return pointwise(b, lambda g, grad, x: g.apply("select", g.apply("le", x, g.const(threshold)), g.const(0.0), grad), grad, x)


@row(aten.sigmoid_backward.default)
def _sigmoid_backward(b: Backend, grad: Array, y: Array) -> Array:
    return pointwise(b, lambda g, grad, y: grad * (y * (1 - y)), grad, y)


@row(aten.tanh_backward.default)
def _tanh_backward(b: Backend, grad: Array, y: Array) -> Array:
    return pointwise(b, lambda g, grad, y: grad * (1 - y * y), grad, y)


@row(aten.softplus.default)
def _softplus(b: Backend, x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    def fn(g: ScalarGraph, x: Scalar) -> Scalar:
        z = x * beta
        # log(1 + exp(z)) without overflow: max(z, 0) + log1p(exp(-|z|))
        smooth = g.apply("max", z, g.const(0.0)) + g.apply("log1p", g.apply("exp", -g.apply("abs", z)))
        return g.apply("select", g.apply("gt", z, g.const(threshold)), x, smooth * (1 / beta))

    return pointwise(b, fn, x)


@row(aten.softplus_backward.default)
def _softplus_backward(b: Backend, grad: Array, x: Array, beta: float, threshold: float) -> Array:
    def fn(g: ScalarGraph, grad: Scalar, x: Scalar) -> Scalar:
        z = x * beta
        return g.apply("select", g.apply("gt", z, g.const(threshold)), grad, grad * g.apply("sigmoid", z))

    return pointwise(b, fn, grad, x)


@row(aten.silu.default)
def _silu(b: Backend, x: Array) -> Array:
    return pointwise(b, lambda g, x: x * g.apply("sigmoid", x), x)


@row(aten.silu_backward.default)
def _silu_backward(b: Backend, grad: Array, x: Array) -> Array:
    def fn(g: ScalarGraph, grad: Scalar, x: Scalar) -> Scalar:
        s = g.apply("sigmoid", x)
        return grad * (s * (1 + x * (1 - s)))

    return pointwise(b, fn, grad, x)


@row(aten.log_sigmoid_forward.default)
def _log_sigmoid(b: Backend, x: Array) -> tuple[Array, Array]:
    def fn(g: ScalarGraph, x: Scalar) -> Scalar:
        return g.apply("min", x, g.const(0.0)) - g.apply("log1p", g.apply("exp", -g.apply("abs", x)))

    out = pointwise(b, fn, x, kind="float")
    return out, out  # the second is a buffer that only log_sigmoid_backward takes, and ignores here


@row(aten.log_sigmoid_backward.default)
def _log_sigmoid_backward(b: Backend, grad: Array, x: Array, buffer: Array) -> Array:
    return pointwise(b, lambda g, grad, x: grad * g.apply("sigmoid", -x), grad, x)


@row(aten.hardshrink.default, aten.softshrink.default)
def _shrink(b: Backend, x: Array, width: float = 0.5) -> Array:
    soft = "soft" in operation_name(b)

    def fn(g: ScalarGraph, x: Scalar) -> Scalar:
        low, high = g.apply("lt", x, g.const(-width)), g.apply("gt", x, g.const(width))
        # The last of these choices lets NaN pass.
        zero = g.apply("select", g.apply("isnan", x), x, g.const(0.0))
        if not soft:
            return g.apply("select", g.apply("or", low, high), x, zero)
        return g.apply("select", high, x - width, g.apply("select", low, x + width, zero))

    return pointwise(b, fn, x)


@row(aten.hardshrink_backward.default, aten.softshrink_backward.default)
def _shrink_backward(b: Backend, grad: Array, x: Array, width: float) -> Array:
    def fn(g: ScalarGraph, grad: Scalar, x: Scalar) -> Scalar:
        return g.apply("select", g.apply("gt", g.apply("abs", x), g.const(width)), grad, g.const(0.0))

    return pointwise(b, fn, grad, x)


@row(aten.glu_jvp.default)
def _glu_jvp(b: Backend, y: Array, x: Array, dx: Array, axis: int) -> Array:
    axis = axis_of(axis, x.ndim)
    half = x.shape[axis] // 2
    gate, slope, dgate = b.slice(x, axis, half, 2 * half), b.slice(dx, axis, 0, half), b.slice(dx, axis, half, 2 * half)

    def fn(g: ScalarGraph, y: Scalar, gate: Scalar, da: Scalar, dgate: Scalar) -> Scalar:
        s = g.apply("sigmoid", gate)
        return da * s + y * (1 - s) * dgate

    return pointwise(b, fn, y, gate, slope, dgate)


# --- conversions and copies ------------------------------------------------------------------------------------------


@row(
    aten.alias.default, aten.clone.default, aten.contiguous.default,
    aten.lift_fresh_copy.default, aten.lift_fresh.default, aten.positive.default,
)  # fmt: skip
def _same(b: Backend, x: Array, **options: Any) -> Array:
    return x


@row(aten.detach.default)
def _detach(b: Backend, x: Array) -> Array:
    # Autograd detaches what it saves, too; only the user's stops are marked.
    if x.kind != "float" or not stops_gradient(b.node):
        return x
    return pointwise(b, apply("stop"), x)


@row(aten._to_copy.default, prims.convert_element_type.default)
def _to_copy(b: Backend, x: Array, *dtype: Any, **options: Any) -> Array:
    return cast(b, x, node_kind(b))


@row(aten.copy.default)
def _copy(b: Backend, x: Array, source: Array, non_blocking: bool = False) -> Array:
    return b.expand(cast(b, source, x.kind), x.shape)


@row(aten.fill.Scalar, aten.fill.Tensor)
def _fill(b: Backend, x: Array, value: Any) -> Array:
    return b.expand(cast(b, value, x.kind), x.shape) if isinstance(value, Array) else b.full(x.shape, value, x.kind)


@row(
    aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.empty_like.default,
    aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default,
    aten.new_empty_strided.default, aten._new_zeros_with_same_feature_meta.default,
)  # fmt: skip
def _filled(b: Backend, x: Array, *args: Any, **options: Any) -> Array:
    name = operation_name(b)
    value = args[-1] if "full" in name else float("ones" in name)
    kind = node_kind(b)
    return b.full(tuple(b.node.meta["val"].shape), bool(value) if kind == "bool" else value, kind)


# Some of torch's decompositions end in its primitives, which have other names or none.
for _name in ("abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "cos", "cosh", "digamma", "erf", "erfc",
              "exp", "exp2", "expm1", "floor", "fmod", "isfinite", "lgamma", "log", "log10", "log1p", "log2", "maximum", "minimum",
              "neg", "reciprocal", "remainder", "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "tan", "tanh", "trunc"):  # fmt: skip
    if hasattr(prims, _name) and getattr(aten, _name).default in ROWS:
        ROWS[getattr(prims, _name).default] = ROWS[getattr(aten, _name).default]
for _name in ("add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge", "pow"):
    _overload = "Tensor_Tensor" if _name == "pow" else "Tensor"
    ROWS[getattr(prims, _name).default] = ROWS[getattr(getattr(aten, _name), _overload)]
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not"):
    ROWS[getattr(prims, _name).default] = ROWS[getattr(getattr(aten, _name), "default" if "not" in _name else "Tensor")]
ROWS[prims.where.default] = _where
ROWS[prims.signbit.default] = ROWS[aten.signbit.default] = lambda b, x: pointwise(
    b, lambda g, x: g.apply("lt", x, g.const(0.0)), x, kind="bool"
)
ROWS[prims.erf_inv.default] = ROWS[aten.erfinv.default]
ROWS[prims.clone.default] = ROWS[prims.view_of.default] = _same


@row(aten.atan2.default, prims.atan2.default)
def _atan2(b: Backend, y: Any, x: Any) -> Array:
    return pointwise(b, apply("atan2"), y, x)


@row(aten.copysign.Tensor, aten.copysign.Scalar)
def _copysign(b: Backend, x: Any, y: Any) -> Array:
    def fn(g: ScalarGraph, x: Scalar, y: Scalar) -> Scalar:
        size = g.apply("abs", x)
        return g.apply("select", g.apply("lt", y, g.const(0.0)), -size, size)

    return pointwise(b, fn, x, y)
