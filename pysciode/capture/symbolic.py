"""SymPy expressions as scalar graphs, and scalar graphs as SymPy expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import TYPE_CHECKING, Any

from ..errors import CaptureError
from ..graphs.captured_model import ScalarModel
from ..graphs.scalar_graph import Scalar, ScalarGraph

if TYPE_CHECKING:
    import sympy


@dataclass(frozen=True, eq=False)
class SymbolicModel:
    """A right-hand side as SymPy expressions; passes wherever a model ``f(u, p, t)`` does.

    Attributes
    ----------
    rhs
        One expression for each state: a list, a tuple or a SymPy matrix.
    states
        The states: symbols, functions of time such as ``x(t)``, or any other atoms that `rhs` contains.
    parameters
        The parameters, in the order in which the problem's `p` lists them.
    t
        The time; a symbol called ``t`` if it isn't given.

    Examples
    --------
    >>> import sympy
    >>> x, k = sympy.symbols("x k")
    >>> decay = SymbolicModel([-k * x], [x], [k])
    """

    rhs: Sequence[Any]
    states: Sequence[Any]
    parameters: Sequence[Any] = ()
    t: Any = None

    def __call__(self, u: Any, p: Any, t: Any) -> Any:
        """The value of the right-hand side at NumPy `u` and `p`."""
        return self._function(u, p, t)

    @cached_property
    def captured(self) -> ScalarModel:
        return capture_sympy(self)

    @cached_property
    def _function(self) -> Callable[..., Any]:
        from ..lowering.scalars.python_function import python_function

        return python_function(self.captured)


def is_sympy(f: Any) -> bool:
    """Whether `f` is a :class:`SymbolicModel`, or a tuple ``(rhs, states, parameters[, t])`` of SymPy expressions."""
    if isinstance(f, SymbolicModel):
        return True
    return isinstance(f, (tuple, list)) and 2 <= len(f) <= 4 and all(map(_holds_expressions, f[:2]))


def _holds_expressions(x: Any) -> bool:
    try:
        return all(hasattr(e, "free_symbols") or isinstance(e, (int, float)) for e in x) and len(list(x)) > 0
    except TypeError:
        return False


def as_symbolic_model(f: Any) -> SymbolicModel:
    return f if isinstance(f, SymbolicModel) else SymbolicModel(*f)


def capture_sympy(model: SymbolicModel) -> ScalarModel:
    """The scalar graph of a SymPy model.

    Raises
    ------
    CaptureError
        For a function without a rule here, named in the message.
    ValueError
        If an expression has a symbol that is neither state, parameter nor time.
    """
    import sympy

    rhs, states, parameters = list(model.rhs), list(model.states), list(model.parameters)
    if len(rhs) != len(states):
        raise ValueError(f"{len(rhs)} expressions for {len(states)} states")
    graph = ScalarGraph()
    u = tuple(graph.symbol(f"u[{i}]") for i in range(1, len(states) + 1))
    p = tuple(graph.symbol(f"p[{i}]") for i in range(1, len(parameters) + 1))
    t = graph.symbol("t")
    known: dict[Any, Scalar] = {}
    for name, node in [*zip(states, u, strict=True), *zip(parameters, p, strict=True)]:
        if name in known:
            raise ValueError(f"{name} is named twice among the states and parameters")
        known[name] = node
    time = sympy.Symbol("t") if model.t is None else model.t
    if time in known:
        raise ValueError(f"{time} is the time, and also a state or a parameter")
    known[time] = t
    convert = _FromSympy(graph, known)
    return ScalarModel(graph, u, p, t, tuple(graph.as_number(convert(sympy.sympify(e))) for e in rhs))


class _FromSympy:
    def __init__(self, graph: ScalarGraph, known: dict[Any, Scalar]) -> None:
        self.graph = graph
        self.known = known

    def __call__(self, e: Any) -> Scalar:
        found = self.known.get(e)
        if found is None:
            found = self.known[e] = self._convert(e)
        return found

    def _convert(self, e: Any) -> Scalar:
        g = self.graph
        if e.is_Symbol:
            names = ", ".join(sorted(str(x) for x in self.known if getattr(x, "is_Symbol", False)))
            raise ValueError(f"the symbol {e} is neither a state, a parameter nor the time (these are {names})")
        if e.is_number and not e.args:
            try:
                return g.const(float(e))
            except TypeError:
                raise CaptureError(f"{e} is not a real number", operation=str(e)) from None
        name = type(e).__name__
        if name in ("BooleanTrue", "BooleanFalse"):
            return g.const(name == "BooleanTrue")
        if name == "Mul":
            return self._product(e)
        if name == "Piecewise":
            out = g.const(float("nan"))
            for value, condition in reversed(e.args):
                out = g.apply("select", self(condition), self(value), out)
            return out
        operands = [self(a) for a in e.args if name != "Tuple"]
        rule = _from_rules().get(name)
        if rule is None:
            raise CaptureError(f"the SymPy function {name} has no rule here", operation=name, where=str(e))
        try:
            return rule(g, *operands)
        except TypeError:
            raise CaptureError(f"{name} of {len(operands)} arguments", operation=name, where=str(e)) from None

    def _product(self, e: Any) -> Scalar:
        """A quotient where SymPy has negative powers."""
        numerator, denominator = [], []
        for factor in e.args:
            if factor.is_Pow and factor.exp.is_number and factor.exp.is_negative and factor not in self.known:
                denominator.append(factor.base ** (-factor.exp))
            else:
                numerator.append(factor)
        g = self.graph
        top = reduce(lambda a, b: a * b, map(self, numerator), g.const(1.0))
        return top / reduce(lambda a, b: a * b, map(self, denominator)) if denominator else top


def _gamma(g: ScalarGraph, x: Scalar) -> Scalar:
    odd = g.apply("mod", g.apply("floor", x), g.const(2.0))
    sign = g.apply("select", x > 0, g.const(1.0), 1 - 2 * odd)
    return sign * g.apply("exp", g.apply("lgamma", x))


def _heaviside(g: ScalarGraph, x: Scalar, at_zero: Scalar | None = None) -> Scalar:
    at_zero = g.const(0.5) if at_zero is None else at_zero
    return g.apply("select", x < 0, g.const(0.0), g.apply("select", x > 0, g.const(1.0), at_zero))


def _polygamma(g: ScalarGraph, n: Scalar, x: Scalar) -> Scalar:
    if n.constant not in (0.0, 1.0):
        raise CaptureError("polygamma of an order above 1", operation="polygamma")
    return g.apply("digamma" if n.constant == 0 else "trigamma", x)


def _folded(op: str) -> Callable[..., Scalar]:
    return lambda g, *x: reduce(lambda a, b: g.apply(op, a, b), x)


# SymPy's class -> our operation, for those that correspond one to one.
_SAME = {
    "Pow": "pow", "exp": "exp", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos",
    "atan": "atan", "atan2": "atan2", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "asinh", "acosh": "acosh",
    "atanh": "atanh", "erf": "erf", "erfc": "erfc", "erfinv": "erfinv", "loggamma": "lgamma", "digamma": "digamma",
    "trigamma": "trigamma", "Abs": "abs", "sign": "sign", "floor": "floor", "ceiling": "ceil", "Mod": "mod", "Not": "not",
    "StrictLessThan": "lt", "LessThan": "le", "StrictGreaterThan": "gt", "GreaterThan": "ge", "Equality": "eq",
    "Unequality": "ne", "ITE": "select",
}  # fmt: skip


@lru_cache(maxsize=1)
def _from_rules() -> dict[str, Callable[..., Scalar]]:
    def same(op: str) -> Callable[..., Scalar]:
        return lambda g, *x: g.apply(op, *x)

    def over(op: str) -> Callable[..., Scalar]:
        return lambda g, x: 1 / g.apply(op, x)

    def inverse(op: str) -> Callable[..., Scalar]:
        return lambda g, x: g.apply(op, 1 / x)

    return {
        **{name: same(op) for name, op in _SAME.items()},
        "Add": lambda g, *x: g.total(x),
        "Max": _folded("max"),
        "Min": _folded("min"),
        "And": _folded("and"),
        "Or": _folded("or"),
        "Xor": _folded("ne"),
        "log": lambda g, x, base=None: g.apply("log", x) / (1 if base is None else g.apply("log", base)),
        "sec": over("cos"),
        "csc": over("sin"),
        "cot": over("tan"),
        "sech": over("cosh"),
        "csch": over("sinh"),
        "coth": over("tanh"),
        "asec": inverse("acos"),
        "acsc": inverse("asin"),
        "acot": inverse("atan"),
        "asech": inverse("acosh"),
        "acsch": inverse("asinh"),
        "acoth": inverse("atanh"),
        "sinc": lambda g, x: g.apply("select", x == 0, g.const(1.0), g.apply("sin", x) / x),
        "Heaviside": _heaviside,
        "gamma": _gamma,
        "polygamma": _polygamma,
        "factorial": lambda g, x: _gamma(g, x + 1),
        "frac": lambda g, x: x - g.apply("floor", x),
        "re": lambda g, x: x,
        "im": lambda g, x: g.const(0.0),
        "conjugate": lambda g, x: x,
        "ExprCondPair": lambda g, x, c: x,
        # sympy.codegen and the classes that C printers like
        "expm1": lambda g, x: g.apply("expm1", x),
        "log1p": lambda g, x: g.apply("log1p", x),
        "exp2": lambda g, x: g.apply("exp2", x),
        "log2": lambda g, x: g.apply("log2", x),
        "log10": lambda g, x: g.apply("log10", x),
        "Sqrt": lambda g, x: g.apply("sqrt", x),
        "hypot": lambda g, x, y: g.apply("sqrt", x * x + y * y),
    }


def to_sympy(
    model: ScalarModel,
    states: Sequence[sympy.Expr | str] | None = None,
    parameters: Sequence[sympy.Expr | str] | None = None,
    t: sympy.Symbol | None = None,
) -> list[sympy.Expr]:
    """The right-hand side of `model` as SymPy expressions, one per state.

    Parameters
    ----------
    states, parameters
        Symbols or names to use; ``u_0`` …, ``p_0`` … by default. Names make real symbols.
    t
        The time; the symbol ``t`` by default.
    """
    import sympy

    def symbols(names: Sequence[Any] | None, prefix: str, n: int) -> list[Any]:
        names = [f"{prefix}_{i}" for i in range(n)] if names is None else list(names)
        if len(names) != n:
            raise ValueError(f"{len(names)} names for {n} {'states' if prefix == 'u' else 'parameters'}")
        return [sympy.Symbol(x, real=True) if isinstance(x, str) else x for x in names]

    graph = model.graph
    known: dict[int, Any] = {model.t.id: sympy.Symbol("t", real=True) if t is None else t}
    known.update((x.id, s) for x, s in zip(model.u, symbols(states, "u", len(model.u)), strict=True))
    known.update((x.id, s) for x, s in zip(model.p, symbols(parameters, "p", len(model.p)), strict=True))
    rules = _to_rules()
    for i in graph.reachable(model.rhs):
        if i in known:
            continue
        op, args = graph.ops[i], graph.args[i]
        known[i] = _sympy_number(args[0]) if op == "const" else rules[op](*(known[a] for a in args))
    return [known[x.id] for x in model.rhs]


def _sympy_number(value: float | bool) -> Any:
    import sympy

    if isinstance(value, bool):
        return sympy.true if value else sympy.false
    return sympy.Integer(int(value)) if float(value).is_integer() and abs(value) < 2**53 else sympy.Float(value)


@lru_cache(maxsize=1)
def _to_rules() -> dict[str, Callable[..., Any]]:
    import sympy as sp

    return {
        **{op: getattr(sp, {"Equality": "Eq", "Unequality": "Ne"}.get(name, name)) for name, op in _SAME.items()
           if hasattr(sp, {"Equality": "Eq", "Unequality": "Ne"}.get(name, name))},
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "neg": lambda a: -a,
        "fmod": lambda a, b: a - b * sp.sign(a / b) * sp.floor(sp.Abs(a / b)),
        "exp2": lambda a: sp.Integer(2) ** a,
        "expm1": lambda a: sp.exp(a) - 1,
        "log": sp.log,
        "log2": lambda a: sp.log(a) / sp.log(2),
        "log10": lambda a: sp.log(a) / sp.log(10),
        "log1p": lambda a: sp.log(1 + a),
        "sqrt": sp.sqrt,
        "sigmoid": lambda a: 1 / (1 + sp.exp(-a)),
        # ours is log|gamma|, SymPy's goes on into the complex plane
        "lgamma": lambda a: sp.loggamma(a) if a.is_positive else sp.log(sp.Abs(sp.gamma(a))),
        "digamma": lambda a: sp.polygamma(0, a),
        "trigamma": lambda a: sp.polygamma(1, a),
        "max": sp.Max,
        "min": sp.Min,
        "trunc": lambda a: sp.sign(a) * sp.floor(sp.Abs(a)),
        "round": lambda a: sp.floor(a + sp.Rational(1, 2)),
        "and": sp.And,
        "or": sp.Or,
        "ne": lambda a, b: sp.Xor(a, b) if getattr(a, "is_Boolean", False) else sp.Ne(a, b),
        "isnan": lambda a: sp.Ne(a, a, evaluate=False),
        "isinf": lambda a: sp.Eq(sp.Abs(a), sp.oo),
        "select": lambda c, a, b: sp.Piecewise((a, c), (b, True)),
    }  # fmt: skip
