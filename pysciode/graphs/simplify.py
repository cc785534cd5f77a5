"""Identities by which the scalar graph shrinks while it is built.

All hold for finite operands.  With infinities they may be kinder than IEEE (``0 * inf`` is 0): a derivative that
is structurally zero stays zero, also next to a pole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .scalar_graph import Scalar, ScalarGraph

Values = Sequence[float | bool | None]


def _args(g: ScalarGraph, x: Scalar) -> tuple[Scalar, ...]:
    return tuple(type(x)(g, i) for i in g.args[x.id])


def simplify(g: ScalarGraph, op: str, x: Sequence[Scalar], v: Values) -> Scalar | None:
    """A simpler node for `op` of `x`, whose constant values are `v`; None where there is none."""
    rule = _RULES.get(op)
    return None if rule is None else rule(g, x, v)


def _add(g: ScalarGraph, x: Sequence[Scalar], v: Values) -> Scalar | None:
    if v[0] == 0:
        return x[1]
    if v[1] == 0:
        return x[0]
    if x[0].id == x[1].id:
        return g.apply("mul", g.const(2.0), x[0])
    if g.ops[x[1].id] == "neg":
        return g.apply("sub", x[0], _args(g, x[1])[0])
    if g.ops[x[0].id] == "neg":
        return g.apply("sub", x[1], _args(g, x[0])[0])
    return None


def _sub(g: ScalarGraph, x: Sequence[Scalar], v: Values) -> Scalar | None:
    if x[0].id == x[1].id:
        return g.const(0.0)
    if v[1] == 0:
        return x[0]
    if v[0] == 0:
        return g.apply("neg", x[1])
    if g.ops[x[1].id] == "neg":
        return g.apply("add", x[0], _args(g, x[1])[0])
    # Differences in both directions, as pairs of bodies have them, are one up to the sign.
    opposite = g.known("sub", x[1], x[0])
    return None if opposite is None else g.apply("neg", opposite)


def _mul(g: ScalarGraph, x: Sequence[Scalar], v: Values) -> Scalar | None:
    for a, b, value in ((x[0], x[1], v[1]), (x[1], x[0], v[0])):
        if value == 0:
            return g.const(0.0)
        if value == 1:
            return a
        if value == -1:
            return g.apply("neg", a)
        if g.ops[b.id] == "neg":
            return g.apply("neg", g.apply("mul", a, _args(g, b)[0]))
        chosen = _into_choice(g, "mul", b, a)
        if chosen is not None:
            return chosen
    return None


def _div(g: ScalarGraph, x: Sequence[Scalar], v: Values) -> Scalar | None:
    if v[0] == 0 and v[1] != 0:
        return g.const(0.0)
    if v[1] == 1:
        return x[0]
    if v[1] == -1:
        return g.apply("neg", x[0])
    if g.ops[x[0].id] == "neg":
        return g.apply("neg", g.apply("div", _args(g, x[0])[0], x[1]))
    return _into_choice(g, "div", x[0], x[1])


def _into_choice(g: ScalarGraph, op: str, choice: Scalar, other: Scalar) -> Scalar | None:
    """``select(c, x, 0) * a`` as ``select(c, x * a, 0)``.

    The derivative of a choice: where the branch not taken has a pole, its derivative is 0, not ``0 * inf``.
    """
    if g.ops[choice.id] != "select":
        return None
    c, yes, no = _args(g, choice)
    zero = g.const(0.0)
    if no.constant == 0:
        return g.apply("select", c, g.apply(op, yes, other), zero)
    if yes.constant == 0:
        return g.apply("select", c, zero, g.apply(op, no, other))
    return None


def _neg(g: ScalarGraph, x: Sequence[Scalar], v: Values) -> Scalar | None:
    return _args(g, x[0])[0] if g.ops[x[0].id] == "neg" else None


def _pow(g: ScalarGraph, x: Sequence[Scalar], v: Values) -> Scalar | None:
    n = v[1]
    if n is None:
        return None
    if n == 0:
        return g.const(1.0)
    if n == 1:
        return x[0]
    if n == 0.5:
        return g.apply("sqrt", x[0])
    if n == -0.5:
        return g.apply("div", g.const(1.0), g.apply("sqrt", x[0]))
    if float(n).is_integer() and abs(n) <= 8:
        power = _integer_power(g, x[0], int(abs(n)))
        return power if n > 0 else g.apply("div", g.const(1.0), power)
    return None


def _integer_power(g: ScalarGraph, x: Scalar, n: int) -> Scalar:
    """x**n by squaring, shared through the graph."""
    if n == 1:
        return x
    half = _integer_power(g, x, n // 2)
    square = g.apply("mul", half, half)
    return g.apply("mul", square, x) if n % 2 else square


def _select(g: ScalarGraph, x: Sequence[Scalar], v: Values) -> Scalar | None:
    if v[0] is not None:
        return x[1] if v[0] else x[2]
    if x[1].id == x[2].id:
        return x[1]
    return None


def _and(g: ScalarGraph, x: Sequence[Scalar], v: Values) -> Scalar | None:
    for a, value in ((x[0], v[1]), (x[1], v[0])):
        if value is not None:
            return a if value else g.const(False)
    return x[0] if x[0].id == x[1].id else None


def _or(g: ScalarGraph, x: Sequence[Scalar], v: Values) -> Scalar | None:
    for a, value in ((x[0], v[1]), (x[1], v[0])):
        if value is not None:
            return g.const(True) if value else a
    return x[0] if x[0].id == x[1].id else None


def _not(g: ScalarGraph, x: Sequence[Scalar], v: Values) -> Scalar | None:
    return _args(g, x[0])[0] if g.ops[x[0].id] == "not" else None


_RULES = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "pow": _pow,
    "select": _select,
    "and": _and,
    "or": _or,
    "not": _not,
}
