"""The scalar operations: one row each, with its Julia text, its value and its partial derivatives.

Everything that is lowered, a few unrolled states or the body of a fused loop over a network's activations, ends up as these.
The conventions at kinks are torch's: ``abs'(0) = 0``, and the operands of ``max`` and ``min`` share the
derivative where they are equal.  Where an operation of torch has another (``relu``, ``clamp``, ``norm``), its row is a choice.

Domain errors follow IEEE and torch (``log(-1)`` is NaN, an exception is not raised): an adaptive solver that steps too far must
be able to reject the step.  On the Julia side NaNMath supplies these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .scalar_graph import Scalar

Partials = tuple[Callable[..., "Scalar"], ...]


@dataclass(frozen=True)
class ScalarOp:
    """One scalar operation.

    Attributes
    ----------
    julia
        Template of the Julia expression; ``{0}``, ``{1}``, … are the operands.
    value
        The same operation on Python floats, used to fold constants; None where folding is not worth it.
    partials
        One function per operand, called as ``partial(graph, out, *operands)``; None for an operation without derivative
        (comparisons, rounding: the derivative is zero almost everywhere).
    commutative
        Whether the two operands may be swapped, for sharing common subexpressions.
    boolean
        Whether the result is a truth value.
    """

    julia: str
    value: Callable[..., Any] | None = None
    partials: Partials | None = None
    commutative: bool = False
    boolean: bool = False


def _c(value: float) -> Callable[..., Scalar]:
    return lambda g, y, *x: g.const(value)


_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)
_LN2 = math.log(2.0)
_LN10 = math.log(10.0)


def _round_half_even(x: float) -> float:
    return float(round(x))


def _where(g: Any, comparison: str, x: Scalar, bound: float, then: Scalar | float, otherwise: Scalar) -> Scalar:
    """``then if x <comparison> bound else otherwise``."""
    then = g.const(then) if isinstance(then, float) else then
    return g.apply("select", g.apply(comparison, x, g.const(bound)), then, otherwise)


def _pow_base(g: Any, y: Scalar, a: Scalar, b: Scalar) -> Scalar:
    slope = b * a ** (b - 1)
    # As torch: d(0**0)/da is 0, not 0 * inf = NaN.
    return slope if b.constant is not None and b.constant != 0 else _where(g, "eq", b, 0.0, 0.0, slope)


def _pow_exponent(g: Any, y: Scalar, a: Scalar, b: Scalar) -> Scalar:
    # As torch: d(0**b)/db is 0, not 0 * log(0) = NaN.
    constant = g.apply("and", g.apply("eq", a, g.const(0.0)), g.apply("ge", b, g.const(0.0)))
    return g.apply("select", constant, g.const(0.0), y * g.apply("log", a))


def _over_square(g: Any, x: Scalar, a: Scalar, b: Scalar) -> Scalar:
    """``x / (a² + b²)``, and 0 at the origin, as torch has it."""
    square = a * a + b * b
    return _where(g, "eq", square, 0.0, 0.0, x / square)


def _winner(g: Any, comparison: str, a: Scalar, b: Scalar) -> Scalar:
    """1 where `a` wins, 0 where `b` does, one half where they tie."""
    tie = g.apply("select", g.apply("eq", a, b), g.const(0.5), g.const(0.0))
    return g.apply("select", g.apply(comparison, a, b), g.const(1.0), tie)


SCALAR_OPS: dict[str, ScalarOp] = {
    # arithmetic
    "add": ScalarOp("({0} + {1})", lambda a, b: a + b, (_c(1.0), _c(1.0)), commutative=True),
    "sub": ScalarOp("({0} - {1})", lambda a, b: a - b, (_c(1.0), _c(-1.0))),
    "mul": ScalarOp("({0} * {1})", lambda a, b: a * b, (lambda g, y, a, b: b, lambda g, y, a, b: a), commutative=True),
    "div": ScalarOp("({0} / {1})", lambda a, b: a / b, (lambda g, y, a, b: 1 / b, lambda g, y, a, b: -(y / b))),
    "neg": ScalarOp("(-{0})", lambda a: -a, (_c(-1.0),)),
    "pow": ScalarOp("Kernels.power({0}, {1})", lambda a, b: a**b, (_pow_base, _pow_exponent)),
    "mod": ScalarOp("Kernels.modulo({0}, {1})", None, (_c(1.0), lambda g, y, a, b: -g.apply("floor", a / b))),
    "fmod": ScalarOp("Kernels.remainder({0}, {1})", math.fmod, (_c(1.0), lambda g, y, a, b: -g.apply("trunc", a / b))),
    # exponentials and logarithms
    "exp": ScalarOp("exp({0})", math.exp, (lambda g, y, a: y,)),
    "exp2": ScalarOp("exp2({0})", lambda a: 2.0**a, (lambda g, y, a: y * _LN2,)),
    "expm1": ScalarOp("expm1({0})", math.expm1, (lambda g, y, a: y + 1,)),
    "log": ScalarOp("NaNMath.log({0})", math.log, (lambda g, y, a: 1 / a,)),
    "log2": ScalarOp("NaNMath.log2({0})", math.log2, (lambda g, y, a: 1 / (a * _LN2),)),
    "log10": ScalarOp("NaNMath.log10({0})", math.log10, (lambda g, y, a: 1 / (a * _LN10),)),
    "log1p": ScalarOp("NaNMath.log1p({0})", math.log1p, (lambda g, y, a: 1 / (a + 1),)),
    "sqrt": ScalarOp("NaNMath.sqrt({0})", math.sqrt, (lambda g, y, a: 0.5 / y,)),
    # trigonometric and hyperbolic
    "sin": ScalarOp("NaNMath.sin({0})", math.sin, (lambda g, y, a: g.apply("cos", a),)),
    "cos": ScalarOp("NaNMath.cos({0})", math.cos, (lambda g, y, a: -g.apply("sin", a),)),
    "tan": ScalarOp("NaNMath.tan({0})", math.tan, (lambda g, y, a: 1 + y * y,)),
    "asin": ScalarOp("NaNMath.asin({0})", math.asin, (lambda g, y, a: 1 / g.apply("sqrt", 1 - a * a),)),
    "acos": ScalarOp("NaNMath.acos({0})", math.acos, (lambda g, y, a: -1 / g.apply("sqrt", 1 - a * a),)),
    "atan": ScalarOp("atan({0})", math.atan, (lambda g, y, a: 1 / (1 + a * a),)),
    "atan2": ScalarOp(
        "Kernels.angle({0}, {1})",
        math.atan2,
        (lambda g, y, a, b: _over_square(g, b, a, b), lambda g, y, a, b: _over_square(g, -a, a, b)),
    ),
    "sinh": ScalarOp("sinh({0})", math.sinh, (lambda g, y, a: g.apply("cosh", a),)),
    "cosh": ScalarOp("cosh({0})", math.cosh, (lambda g, y, a: g.apply("sinh", a),)),
    "tanh": ScalarOp("Kernels.fast_tanh({0})", math.tanh, (lambda g, y, a: 1 - y * y,)),
    "asinh": ScalarOp("asinh({0})", math.asinh, (lambda g, y, a: 1 / g.apply("sqrt", a * a + 1),)),
    "acosh": ScalarOp("NaNMath.acosh({0})", math.acosh, (lambda g, y, a: 1 / g.apply("sqrt", a * a - 1),)),
    "atanh": ScalarOp("NaNMath.atanh({0})", math.atanh, (lambda g, y, a: 1 / (1 - a * a),)),
    # special functions
    "sigmoid": ScalarOp("Kernels.sigmoid({0})", None, (lambda g, y, a: y * (1 - y),)),
    "erf": ScalarOp("Kernels.erf({0})", math.erf, (lambda g, y, a: _TWO_OVER_SQRT_PI * g.apply("exp", -(a * a)),)),
    "erfc": ScalarOp("Kernels.erfc({0})", math.erfc, (lambda g, y, a: -_TWO_OVER_SQRT_PI * g.apply("exp", -(a * a)),)),
    "erfinv": ScalarOp("Kernels.erfinv({0})", None, (lambda g, y, a: g.apply("exp", y * y) * (1 / _TWO_OVER_SQRT_PI),)),
    "lgamma": ScalarOp("Kernels.lgamma({0})", math.lgamma, (lambda g, y, a: g.apply("digamma", a),)),
    "digamma": ScalarOp("Kernels.digamma({0})", None, (lambda g, y, a: g.apply("trigamma", a),)),
    "trigamma": ScalarOp("Kernels.trigamma({0})"),
    # absolute value, extremes, rounding
    "abs": ScalarOp("Kernels.magnitude({0})", abs, (lambda g, y, a: g.apply("sign", a),)),
    "sign": ScalarOp("Kernels.sign({0})", lambda a: math.nan if math.isnan(a) else float((a > 0) - (a < 0))),
    "max": ScalarOp(
        "Kernels.larger({0}, {1})",
        lambda a, b: math.nan if math.isnan(a) or math.isnan(b) else max(a, b),
        (
            lambda g, y, a, b: _winner(g, "gt", a, b),
            lambda g, y, a, b: _winner(g, "gt", b, a),
        ),
    ),
    "min": ScalarOp(
        "Kernels.smaller({0}, {1})",
        lambda a, b: math.nan if math.isnan(a) or math.isnan(b) else min(a, b),
        (
            lambda g, y, a, b: _winner(g, "lt", a, b),
            lambda g, y, a, b: _winner(g, "lt", b, a),
        ),
    ),
    "floor": ScalarOp("floor({0})", lambda a: float(math.floor(a))),
    "ceil": ScalarOp("ceil({0})", lambda a: float(math.ceil(a))),
    "trunc": ScalarOp("trunc({0})", lambda a: float(math.trunc(a))),
    "round": ScalarOp("round({0})", _round_half_even),
    # its operand, with derivative zero: where a model stops gradients
    "stop": ScalarOp("Kernels.stop({0})", lambda a: a),
    # truth values
    "lt": ScalarOp("Kernels.lt({0}, {1})", lambda a, b: a < b, boolean=True),
    "le": ScalarOp("Kernels.le({0}, {1})", lambda a, b: a <= b, boolean=True),
    "gt": ScalarOp("Kernels.gt({0}, {1})", lambda a, b: a > b, boolean=True),
    "ge": ScalarOp("Kernels.ge({0}, {1})", lambda a, b: a >= b, boolean=True),
    "eq": ScalarOp("Kernels.eq({0}, {1})", lambda a, b: a == b, commutative=True, boolean=True),
    "ne": ScalarOp("Kernels.ne({0}, {1})", lambda a, b: a != b, commutative=True, boolean=True),
    "and": ScalarOp("({0} & {1})", lambda a, b: bool(a) and bool(b), commutative=True, boolean=True),
    "or": ScalarOp("({0} | {1})", lambda a, b: bool(a) or bool(b), commutative=True, boolean=True),
    "not": ScalarOp("(!{0})", lambda a: not a, boolean=True),
    "isnan": ScalarOp("Kernels.isnan({0})", math.isnan, boolean=True),
    "isinf": ScalarOp("Kernels.isinf({0})", math.isinf, boolean=True),
    # a choice; only the two values carry derivatives
    "select": ScalarOp(
        "ifelse({0}, {1}, {2})",
        lambda c, a, b: a if c else b,
        (
            _c(0.0),
            lambda g, y, c, a, b: g.apply("select", c, g.const(1.0), g.const(0.0)),
            lambda g, y, c, a, b: g.apply("select", c, g.const(0.0), g.const(1.0)),
        ),
    ),
}

STEPS = frozenset("lt le gt ge eq ne floor ceil trunc round sign".split())
"""Operations whose value is constant but for jumps."""
