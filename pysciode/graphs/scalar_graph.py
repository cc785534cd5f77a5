"""A hash-consed graph of scalar operations: what every captured model with few states becomes.

Nodes are numbered in the order of creation, which is a topological order; equal nodes are the same node, so common
subexpressions are shared by construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Sequence
from numbers import Real
from typing import Any

from ..errors import CaptureError
from .scalar_ops import SCALAR_OPS, STEPS
from .simplify import simplify
from .user_code import user_line


def _binary(op: str, reflected: bool = False) -> Callable[[Scalar, Any], Scalar]:
    def method(self: Scalar, other: Any) -> Scalar:
        graph = self.graph
        other = graph.lift(other)
        if other is NotImplemented:
            return NotImplemented
        return graph.apply(op, other, self) if reflected else graph.apply(op, self, other)

    return method


def _unary(op: str) -> Callable[..., Scalar]:
    return lambda self, *_: self.graph.apply(op, self)


class Scalar:
    """A handle on one node of a :class:`ScalarGraph`, with the arithmetic of a Python or NumPy number.

    What would need the number itself (``if x > 0``, ``float(x)``, an index) raises :class:`~pysciode.errors.CaptureError`.
    """

    __slots__ = ("graph", "id")

    def __init__(self, graph: ScalarGraph, id: int) -> None:
        self.graph = graph
        self.id = id

    __add__, __radd__ = _binary("add"), _binary("add", reflected=True)
    __sub__, __rsub__ = _binary("sub"), _binary("sub", reflected=True)
    __mul__, __rmul__ = _binary("mul"), _binary("mul", reflected=True)
    __truediv__, __rtruediv__ = _binary("div"), _binary("div", reflected=True)
    __pow__, __rpow__ = _binary("pow"), _binary("pow", reflected=True)
    __mod__, __rmod__ = _binary("mod"), _binary("mod", reflected=True)
    __lt__, __le__, __gt__, __ge__ = _binary("lt"), _binary("le"), _binary("gt"), _binary("ge")
    __eq__, __ne__ = _binary("eq"), _binary("ne")  # type: ignore[assignment]
    __and__, __rand__ = _binary("and"), _binary("and")
    __or__, __ror__ = _binary("or"), _binary("or")
    __xor__, __rxor__ = _binary("ne"), _binary("ne")
    __neg__, __abs__, __invert__ = _unary("neg"), _unary("abs"), _unary("not")
    __floor__, __ceil__, __trunc__ = _unary("floor"), _unary("ceil"), _unary("trunc")

    def __pos__(self) -> Scalar:
        return self

    def __floordiv__(self, other):
        quotient = self.__truediv__(other)
        return NotImplemented if quotient is NotImplemented else quotient.__floor__()

    def __rfloordiv__(self, other):
        quotient = self.__rtruediv__(other)
        return NotImplemented if quotient is NotImplemented else quotient.__floor__()

    def __divmod__(self, other):
        return self // other, self % other

    def __round__(self, digits: int = 0) -> Scalar:
        scale = 10.0**digits
        return self.graph.apply("round", self * scale) / scale

    def __hash__(self) -> int:
        return hash((id(self.graph), self.id))

    @property
    def real(self) -> Scalar:
        return self

    @property
    def imag(self) -> float:
        return 0.0

    @property
    def constant(self) -> float | bool | None:
        """The value if this node is a constant, else None."""
        return self.graph.constant(self)

    def _number(self, wanted: str, advice: str) -> float | bool:
        value = self.constant
        if value is None:
            raise CaptureError(
                f"the model needs the value of a state, a parameter or the time as {wanted}, but it runs only once, "
                f"to be written down as a formula: {advice}",
                operation=wanted,
                where=user_line(),
            )
        return value

    def __bool__(self) -> bool:
        return bool(
            self._number(
                "a truth value",
                "use np.where(condition, a, b) for if, and, or, and np.minimum, np.maximum, np.clip for min and max",
            )
        )

    def __float__(self) -> float:
        return float(
            self._number(
                "a float",
                "use np.sin for math.sin (and so on), and np.zeros_like(u), a list or np.stack for arrays to be filled",
            )
        )

    def __int__(self) -> int:
        return int(self._number("an integer", "an index, a range or a loop must not depend on it"))

    def __index__(self) -> int:
        value = self._number("an index", "an index, a range or a loop must not depend on it")
        if not float(value).is_integer():
            raise TypeError(f"{value!r} can't be used as an index")
        return int(value)

    def __complex__(self) -> complex:
        return complex(self._number("a complex number", "split it into its real and imaginary parts"))

    # NumPy's protocols (__array_ufunc__, __array_function__, and methods by their names) are added by numpy_protocol.py.

    def __repr__(self) -> str:
        return f"Scalar({self.graph.ops[self.id]}, {self.graph.args[self.id]})"


class ScalarGraph:
    """Scalar operations with common subexpressions shared.

    ``ops[i]`` is ``"symbol"`` (``args[i] = (name,)``), ``"const"`` (``args[i] = (value,)``) or a key of
    :data:`~pysciode.graphs.scalar_ops.SCALAR_OPS` (``args[i]`` the operands' numbers, all below ``i``).

    Attributes
    ----------
    limit
        Number of nodes above which capture gives up; None for no limit.
    where
        Tells the user's line that is being captured; None after the capture.
    lines
        The user's lines of comparisons and roundings, by the nodes' numbers.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.ops: list[str] = []
        self.args: list[tuple] = []
        self.limit = limit
        self.where: Callable[[], str | None] | None = None
        self.lines: dict[int, str | None] = {}
        self._known: dict[tuple, int] = {}

    def _node(self, op: str, args: tuple, key: tuple | None = None) -> Scalar:
        key = (op, *args) if key is None else key
        found = self._known.get(key)
        if found is None:
            found = len(self.ops)
            if self.limit is not None and found >= self.limit:
                raise CaptureError(
                    f"the model has more than {self.limit} scalar operations; written with torch it is captured as array "
                    "operations, which stay few",
                    where=user_line(),
                )
            self.ops.append(op)
            self.args.append(args)
            self._known[key] = found
        return Scalar(self, found)

    def known(self, op: str, *operands: Scalar) -> Scalar | None:
        """The node for exactly this, if there is one already."""
        found = self._known.get((op, *(x.id for x in operands)))
        return None if found is None else Scalar(self, found)

    def symbol(self, name: str) -> Scalar:
        """The input called `name`; printed as it stands (a Julia expression such as ``u[1]``)."""
        return self._node("symbol", (name,))

    def const(self, value: Any) -> Scalar:
        """A constant: a bool stays a truth value, every other number becomes a float."""
        # np.bool_ is no subclass of bool, but its type has the same kind of name in every NumPy version.
        value = bool(value) if type(value).__name__ in ("bool", "bool_") else float(value)
        # repr tells -0.0 from 0.0 and makes NaN equal to itself.
        return self._node("const", (value,), ("const", type(value).__name__, repr(value)))

    def lift(self, value: Any) -> Scalar:
        """`value` as a node of this graph; ``NotImplemented`` for what isn't a real number."""
        if isinstance(value, Scalar):
            if value.graph is not self:
                raise CaptureError(
                    "the model uses a value that an earlier capture left behind (in a global, an attribute or a cache)",
                    where=user_line(),
                )
            return value
        if isinstance(value, Real):
            return self.const(value)
        if isinstance(value, complex) or getattr(getattr(value, "dtype", None), "kind", "") == "c":
            raise CaptureError("complex numbers are not supported: split them", operation="complex", where=user_line())
        # np.bool_, arrays of no dimension, SymPy numbers: all that is a single number, but no sequence.
        if getattr(value, "shape", None) == () or hasattr(value, "is_number"):
            if hasattr(value, "item"):
                value = value.item()
            if isinstance(value, Scalar):  # a parameter that is an array of no dimension
                return self.lift(value)
            try:
                return self.const(value)
            except (TypeError, ValueError):
                return NotImplemented
        return NotImplemented

    def constant(self, x: Scalar) -> float | bool | None:
        return self.args[x.id][0] if self.ops[x.id] == "const" else None

    def is_boolean(self, x: Scalar) -> bool:
        op = self.ops[x.id]
        if op == "const":
            return isinstance(self.args[x.id][0], bool)
        return op != "symbol" and SCALAR_OPS[op].boolean

    def as_number(self, x: Scalar) -> Scalar:
        """1 for true, 0 for false; numbers as they are."""
        return self.apply("select", x, self.const(1.0), self.const(0.0)) if self.is_boolean(x) else x

    def as_boolean(self, x: Scalar) -> Scalar:
        """Whether `x` is not zero; truth values as they are."""
        return x if self.is_boolean(x) else self.apply("ne", x, self.const(0.0))

    def apply(self, op: str, *operands: Scalar) -> Scalar:
        """The node for `op` of `operands`, simplified where that is exact."""
        if op in ("and", "or", "not"):
            operands = tuple(map(self.as_boolean, operands))
        elif op == "select":
            c, a, b = operands
            if self.is_boolean(a) and self.is_boolean(b):
                c = self.as_boolean(c)
                return self.apply("or", self.apply("and", c, a), self.apply("and", self.apply("not", c), b))
            operands = (self.as_boolean(c), self.as_number(a), self.as_number(b))
        else:
            operands = tuple(map(self.as_number, operands))
        row = SCALAR_OPS[op]
        values = [self.constant(x) for x in operands]
        if row.value is not None and None not in values:
            try:
                folded = row.value(*values)
                return self.const(math.nan if isinstance(folded, complex) else folded)
            except (ValueError, OverflowError, ZeroDivisionError):
                pass  # leave it to the machine's arithmetic: it knows inf and NaN
        simpler = simplify(self, op, operands, values)
        if simpler is not None:
            return simpler
        ids = tuple(x.id for x in operands)
        if row.commutative and ids[0] > ids[1]:
            ids = (ids[1], ids[0])
        node = self._node(op, ids)
        if self.where is not None and op in STEPS and node.id not in self.lines:
            self.lines[node.id] = self.where()
        return node

    def reachable(self, roots: Iterable[Scalar], stop: Container[int] = frozenset()) -> list[int]:
        """Numbers of all nodes that `roots` depend on, in topological order; those in `stop` without what they depend on."""
        seen: set[int] = set()
        stack = [r.id for r in roots]
        while stack:
            i = stack.pop()
            if i in seen:
                continue
            seen.add(i)
            if self.ops[i] not in ("symbol", "const") and i not in stop:
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

    def extreme(self, op: str, items: Sequence[Scalar]) -> Scalar:
        """The ``"max"`` or ``"min"`` of `items`; those that tie share the derivative evenly, as in torch.

        Pairs alone would give three that tie 1/4, 1/4 and 1/2.
        """
        best, count = items[0], self.const(1.0)
        for k, item in enumerate(items[1:], 1):
            larger = self.apply(op, best, item)
            if k == 1 and len(items) == 2:
                return larger
            tie = self.apply("and", self.apply("eq", best, item), self.apply("not", self.apply("isinf", item)))
            wins = self.apply("gt" if op == "max" else "lt", item, best)
            # Where they tie the difference is 0: it is there for its derivative.
            shared = best + (item - best) / (count + 1)
            best = self.apply("select", tie, shared, larger)
            count = self.apply("select", tie, count + 1, self.apply("select", wins, self.const(1.0), count))
        return best


def clamp(graph: ScalarGraph, op: str, x: Scalar, bound: Scalar) -> Scalar:
    """The ``"max"`` or ``"min"`` of `x` and `bound`; at the bound, `x` has the derivative, as torch's ``clamp`` has it."""
    if bound.constant is not None and not math.isnan(bound.constant):
        # NaN is not beyond the bound, and passes.
        return graph.apply("select", graph.apply("lt" if op == "max" else "gt", x, bound), bound, x)
    inside = graph.apply("ge" if op == "max" else "le", x, bound)
    return graph.apply("select", inside, x, graph.apply(op, x, bound))
