"""A hash-consed graph of scalar operations: what every captured model with few states becomes.

Nodes are numbered in the order of creation, which is a topological order; equal nodes are the same node, so common
subexpressions are shared by construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .scalar_ops import SCALAR_OPS


class Scalar:
    """A handle on one node of a :class:`ScalarGraph`, with Python's arithmetic."""

    __slots__ = ("graph", "id")
    # NumPy must leave `array * Scalar` to the elements of an object array, not try to convert this.
    __array_ufunc__ = None

    def __init__(self, graph: ScalarGraph, id: int) -> None:
        self.graph = graph
        self.id = id

    def _lift(self, other: object) -> Scalar:
        return other if isinstance(other, Scalar) else self.graph.const(other)

    def __add__(self, other):
        return self.graph.apply("add", self, self._lift(other))

    __radd__ = __add__

    def __sub__(self, other):
        return self.graph.apply("sub", self, self._lift(other))

    def __rsub__(self, other):
        return self.graph.apply("sub", self._lift(other), self)

    def __mul__(self, other):
        return self.graph.apply("mul", self, self._lift(other))

    __rmul__ = __mul__

    def __truediv__(self, other):
        return self.graph.apply("div", self, self._lift(other))

    def __rtruediv__(self, other):
        return self.graph.apply("div", self._lift(other), self)

    def __pow__(self, other):
        return self.graph.apply("pow", self, self._lift(other))

    def __rpow__(self, other):
        return self.graph.apply("pow", self._lift(other), self)

    def __neg__(self):
        return self.graph.apply("neg", self)

    @property
    def constant(self) -> float | bool | None:
        """The value if this node is a constant, else None."""
        return self.graph.constant(self)

    def __repr__(self) -> str:
        return f"Scalar({self.graph.ops[self.id]}, {self.graph.args[self.id]})"


class ScalarGraph:
    """Scalar operations with common subexpressions shared.

    ``ops[i]`` is ``"symbol"`` (``args[i] = (name,)``), ``"const"`` (``args[i] = (value,)``) or a key of
    :data:`~pysciode.capture.scalar_ops.SCALAR_OPS` (``args[i]`` the operands' numbers, all below ``i``).
    """

    def __init__(self) -> None:
        self.ops: list[str] = []
        self.args: list[tuple] = []
        self._known: dict[tuple, int] = {}

    def _node(self, op: str, args: tuple, key: tuple | None = None) -> Scalar:
        key = (op, *args) if key is None else key
        found = self._known.get(key)
        if found is None:
            found = len(self.ops)
            self.ops.append(op)
            self.args.append(args)
            self._known[key] = found
        return Scalar(self, found)

    def symbol(self, name: str) -> Scalar:
        """The input called `name`; printed as it stands (a Julia expression such as ``u[1]``)."""
        return self._node("symbol", (name,))

    def const(self, value: object) -> Scalar:
        """A constant: a bool stays a truth value, every other number becomes a float."""
        value = bool(value) if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        # repr tells -0.0 from 0.0 and makes NaN equal to itself.
        return self._node("const", (value,), ("const", type(value).__name__, repr(value)))

    def constant(self, x: Scalar) -> float | bool | None:
        return self.args[x.id][0] if self.ops[x.id] == "const" else None

    def apply(self, op: str, *operands: Scalar) -> Scalar:
        """The node for `op` of `operands`, simplified where that is exact."""
        row = SCALAR_OPS[op]
        values = [self.constant(x) for x in operands]
        if row.value is not None and all(v is not None for v in values):
            try:
                folded = row.value(*values)
                if isinstance(folded, complex):
                    folded = math.nan
                return self.const(folded)
            except (ValueError, OverflowError, ZeroDivisionError):
                pass  # leave it to the machine's arithmetic: it knows inf and NaN
        simpler = _simplify(self, op, operands, values)
        if simpler is not None:
            return simpler
        ids = tuple(x.id for x in operands)
        if row.commutative and ids[0] > ids[1]:
            ids = (ids[1], ids[0])
        return self._node(op, ids)

    def reachable(self, roots: Iterable[Scalar]) -> list[int]:
        """Numbers of all nodes that `roots` depend on, in topological order."""
        seen: set[int] = set()
        stack = [r.id for r in roots]
        while stack:
            i = stack.pop()
            if i in seen:
                continue
            seen.add(i)
            if self.ops[i] not in ("symbol", "const"):
                stack.extend(self.args[i])
        return sorted(seen)

    def total(self, terms: Sequence[Scalar]) -> Scalar:
        """The sum of `terms`, 0 if there are none."""
        if not terms:
            return self.const(0.0)
        out = terms[0]
        for term in terms[1:]:
            out = out + term
        return out


def _simplify(g: ScalarGraph, op: str, x: Sequence[Scalar], v: Sequence[float | bool | None]) -> Scalar | None:
    """Identities that hold for all finite operands; None where there is none to use."""
    match op:
        case "add":
            if v[0] == 0:
                return x[1]
            if v[1] == 0:
                return x[0]
            if g.ops[x[1].id] == "neg":
                return g.apply("sub", x[0], Scalar(g, g.args[x[1].id][0]))
            if g.ops[x[0].id] == "neg":
                return g.apply("sub", x[1], Scalar(g, g.args[x[0].id][0]))
        case "sub":
            if v[1] == 0:
                return x[0]
            if v[0] == 0:
                return g.apply("neg", x[1])
            if g.ops[x[1].id] == "neg":
                return g.apply("add", x[0], Scalar(g, g.args[x[1].id][0]))
        case "mul":
            for a, b, value in ((x[0], x[1], v[1]), (x[1], x[0], v[0])):
                if value == 0:
                    return g.const(0.0)
                if value == 1:
                    return a
                if value == -1:
                    return g.apply("neg", a)
                if g.ops[b.id] == "neg":
                    return g.apply("neg", g.apply("mul", a, Scalar(g, g.args[b.id][0])))
                # select(c, 1, 0) * a: the derivative of a choice
                if g.ops[b.id] == "select":
                    c, yes, no = (Scalar(g, i) for i in g.args[b.id])
                    if (yes.constant, no.constant) in ((1.0, 0.0), (0.0, 1.0)):
                        pick = (a, g.const(0.0)) if yes.constant == 1.0 else (g.const(0.0), a)
                        return g.apply("select", c, *pick)
        case "div":
            if v[0] == 0:
                return g.const(0.0)
            if v[1] == 1:
                return x[0]
            if v[1] == -1:
                return g.apply("neg", x[0])
        case "neg":
            if g.ops[x[0].id] == "neg":
                return Scalar(g, g.args[x[0].id][0])
        case "pow":
            if v[1] == 0:
                return g.const(1.0)
            if v[1] == 1:
                return x[0]
            if v[1] == -1:
                return g.apply("div", g.const(1.0), x[0])
            if v[1] == 0.5:
                return g.apply("sqrt", x[0])
            if v[1] == -0.5:
                return g.apply("div", g.const(1.0), g.apply("sqrt", x[0]))
            if v[1] is not None and float(v[1]).is_integer() and 2 <= abs(v[1]) <= 8:
                power = _integer_power(g, x[0], int(abs(v[1])))
                return power if v[1] > 0 else g.apply("div", g.const(1.0), power)
        case "select":
            if v[0] is not None:
                return x[1] if v[0] else x[2]
            if x[1].id == x[2].id:
                return x[1]
    return None


def _integer_power(g: ScalarGraph, x: Scalar, n: int) -> Scalar:
    """x**n by squaring, shared through the graph."""
    if n == 1:
        return x
    half = _integer_power(g, x, n // 2)
    square = g.apply("mul", half, half)
    return g.apply("mul", square, x) if n % 2 else square
