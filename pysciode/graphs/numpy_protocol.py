"""NumPy's functions on :class:`~pysciode.graphs.scalar_graph.Scalar` and on arrays of them.

NumPy alone runs a part of its functions on arrays of Python objects; comparisons, ``maximum``, ``where`` and their like ask
each object for its truth value, though.  :class:`ScalarArray` answers those with graph nodes instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import repeat
from typing import Any

import numpy as np

from ..errors import CaptureError
from .scalar_graph import Scalar, clamp
from .scalar_ops import SCALAR_OPS
from .user_code import user_line


def apply_op(op: str, *operands: Any) -> Any:
    """`op` on Scalars and numbers mixed; on numbers alone its value."""
    for x in operands:
        if isinstance(x, Scalar):
            lifted = [x.graph.lift(y) for y in operands]
            if any(y is NotImplemented for y in lifted):
                bad = next(y for y, z in zip(operands, lifted, strict=True) if z is NotImplemented)
                raise CaptureError(f"{op} of a {type(bad).__name__}", operation=op, where=user_line())
            return x.graph.apply(op, *lifted)
    value = SCALAR_OPS[op].value
    assert value is not None  # operations without one are made only from Scalars
    return value(*operands)


def _op(op: str) -> Callable[..., Any]:
    return lambda *operands: apply_op(op, *operands)


def where(condition: Any, a: Any, b: Any) -> Any:
    """``a if condition else b`` for scalars."""
    return apply_op("select", condition, a, b) if isinstance(condition, Scalar) else (a if condition else b)


def clip(x: Any, low: Any = None, high: Any = None) -> Any:
    for op, bound in (("max", low), ("min", high)):
        if bound is None:
            continue
        if isinstance(x, Scalar) or isinstance(bound, Scalar):
            graph = (x if isinstance(x, Scalar) else bound).graph
            x = clamp(graph, op, graph.lift(x), graph.lift(bound))
        else:
            x = apply_op(op, x, bound)
    return x


def _number(x: Any) -> Any:
    return x.graph.as_number(x) if isinstance(x, Scalar) else x


def _hypot(a, b):
    return apply_op("sqrt", a * a + b * b)


def _logaddexp(a, b):
    return apply_op("max", a, b) + apply_op("log1p", apply_op("exp", -abs(a - b)))


def _logaddexp2(a, b):
    return _logaddexp(a * math.log(2.0), b * math.log(2.0)) / math.log(2.0)


def _heaviside(x, at_zero):
    return where(x < 0, 0.0, where(x > 0, 1.0, at_zero))


def _fmax(a, b):
    return where(_isnan(a), b, where(_isnan(b), a, apply_op("max", a, b)))


def _fmin(a, b):
    return where(_isnan(a), b, where(_isnan(b), a, apply_op("min", a, b)))


def _isnan(x):
    return apply_op("isnan", x)


def _isfinite(x):
    return apply_op("not", apply_op("or", apply_op("isnan", x), apply_op("isinf", x)))


def _cbrt(x):
    return apply_op("sign", x) * abs(x) ** (1.0 / 3.0)


def _floor_divide(a, b):
    return apply_op("floor", a / b)


def _modf(x):
    whole = apply_op("trunc", x)
    return x - whole, whole


def _copysign(a, b):
    return where(b < 0, -abs(a), abs(a))


def _xor(a, b):
    return apply_op("ne", apply_op("not", apply_op("not", a)), apply_op("not", apply_op("not", b)))


UFUNCS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "true_divide": lambda a, b: a / b,
    "floor_divide": _floor_divide,
    "remainder": _op("mod"),
    "fmod": _op("fmod"),
    "divmod": lambda a, b: (_floor_divide(a, b), apply_op("mod", a, b)),
    "modf": _modf,
    "power": lambda a, b: a**b,
    "float_power": lambda a, b: a**b,
    "negative": lambda a: -a,
    "positive": lambda a: a,
    "conjugate": lambda a: a,
    "real": lambda a: a,
    "absolute": abs,
    "fabs": abs,
    "sign": _op("sign"),
    "copysign": _copysign,
    "heaviside": _heaviside,
    "square": lambda a: a * a,
    "reciprocal": lambda a: 1.0 / a,
    "sqrt": _op("sqrt"),
    "cbrt": _cbrt,
    "exp": _op("exp"),
    "exp2": _op("exp2"),
    "expm1": _op("expm1"),
    "log": _op("log"),
    "log2": _op("log2"),
    "log10": _op("log10"),
    "log1p": _op("log1p"),
    "logaddexp": _logaddexp,
    "logaddexp2": _logaddexp2,
    "sin": _op("sin"),
    "cos": _op("cos"),
    "tan": _op("tan"),
    "arcsin": _op("asin"),
    "arccos": _op("acos"),
    "arctan": _op("atan"),
    "arctan2": _op("atan2"),
    "hypot": _hypot,
    "sinh": _op("sinh"),
    "cosh": _op("cosh"),
    "tanh": _op("tanh"),
    "arcsinh": _op("asinh"),
    "arccosh": _op("acosh"),
    "arctanh": _op("atanh"),
    "deg2rad": lambda a: a * (math.pi / 180.0),
    "radians": lambda a: a * (math.pi / 180.0),
    "rad2deg": lambda a: a * (180.0 / math.pi),
    "degrees": lambda a: a * (180.0 / math.pi),
    "maximum": _op("max"),
    "minimum": _op("min"),
    "fmax": _fmax,
    "fmin": _fmin,
    "clip": clip,
    "floor": _op("floor"),
    "ceil": _op("ceil"),
    "trunc": _op("trunc"),
    "rint": _op("round"),
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "logical_and": _op("and"),
    "logical_or": _op("or"),
    "logical_not": _op("not"),
    "logical_xor": _xor,
    "bitwise_and": _op("and"),
    "bitwise_or": _op("or"),
    "invert": _op("not"),
    "bitwise_xor": _xor,
    "isnan": _isnan,
    "isinf": _op("isinf"),
    "isfinite": _isfinite,
    "signbit": lambda a: a < 0,
    # SciPy's ufuncs of the same names
    "erf": _op("erf"),
    "erfc": _op("erfc"),
    "gammaln": _op("lgamma"),
    "expit": _op("sigmoid"),
    "logit": lambda a: apply_op("log", a / (1.0 - a)),
    "xlogy": lambda a, b: where(a == 0, 0.0, a * apply_op("log", b)),
    "xlog1py": lambda a, b: where(a == 0, 0.0, a * apply_op("log1p", b)),
    "psi": _op("digamma"),
}

_SINGLE = (Scalar, float, int, np.generic)
_IDENTITIES: dict[str, Any] = {"add": 0.0, "multiply": 1.0, "logical_and": True, "logical_or": False}

_SCALAR_METHODS: dict[str, Callable[..., Any]] = {
    **{name: rule for name, rule in UFUNCS.items() if name not in ("divmod", "clip", "real")},
    "clip": lambda x, min=None, max=None: clip(x, min, max),
    "item": lambda x: x,
    "copy": lambda x: x,
    "conj": lambda x: x,
    "sum": lambda x, *a, **k: x,
    "mean": lambda x, *a, **k: x,
    "squeeze": lambda x, *a, **k: x,
    "astype": lambda x, *a, **k: x,
    "round": lambda x, decimals=0: x.__round__(decimals),
    "reshape": lambda x, *shape, **k: wrap(x).reshape(*shape),
    "flatten": lambda x: wrap(x).reshape(1),
    "ravel": lambda x: wrap(x).reshape(1),
}


def scalar_method(name: str) -> Callable[..., Any] | None:
    """What NumPy's object loops, and users, call on an element: ``x.sin()``, ``x.clip(0, 1)``."""
    return _SCALAR_METHODS.get(name)


@cache
def _elementwise(name: str, nin: int, nout: int) -> np.ufunc:
    identity = {"identity": _IDENTITIES[name]} if name in _IDENTITIES else {}
    return np.frompyfunc(UFUNCS[name], nin, nout, **identity)


def wrap(x: Any) -> Any:
    """A :class:`ScalarArray` over a Scalar or an object array; anything else as it is."""
    if isinstance(x, Scalar):
        cell = np.empty((), object)
        cell[()] = x
        return cell.view(ScalarArray)
    if isinstance(x, np.ndarray) and x.dtype == object and not isinstance(x, ScalarArray):
        return x.view(ScalarArray)
    return x


def _wrap_deep(x: Any) -> Any:
    if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
        # A (nested) list of numbers is an array to NumPy, but it would not see the Scalars in it.
        if _holds(x, Scalar) and not _holds(x, np.ndarray):
            try:
                return np.array(x, object).view(ScalarArray)
            except ValueError:  # rows of different lengths
                pass
        return type(x)(_wrap_deep(y) for y in x)
    return wrap(x)


def _holds(x: Any, kind: type) -> bool:
    return any(map(_holds, x, repeat(kind))) if isinstance(x, (list, tuple)) else isinstance(x, kind)


def _unwrap(x: Any) -> Any:
    """Plain object array for NumPy's own loops."""
    return x.view(np.ndarray) if isinstance(x, ScalarArray) else x


def _finish(x: Any) -> Any:
    """What the user sees: a Scalar for no dimension, a ScalarArray otherwise."""
    if isinstance(x, tuple):
        return tuple(map(_finish, x))
    if isinstance(x, np.ndarray) and x.dtype == object:
        return x[()] if x.ndim == 0 else x.view(ScalarArray)
    return x


def extreme(op: str, x: np.ndarray, axis: Any = 0, keepdims: bool = False) -> np.ndarray:
    """``np.maximum.reduce``: those that tie share the derivative evenly."""
    axes = range(x.ndim) if axis is None else (axis if isinstance(axis, tuple) else (axis,))
    axes = [a % x.ndim for a in axes] if x.ndim else []
    kept = [a for a in range(x.ndim) if a not in axes]
    rows = x.transpose([*kept, *axes]).reshape(*(x.shape[a] for a in kept), -1)
    out = np.empty(rows.shape[:-1], object)
    for at in np.ndindex(out.shape):
        items = rows[at]
        graph = next((y.graph for y in items if isinstance(y, Scalar)), None)
        if graph is None:
            out[at] = (np.maximum if op == "max" else np.minimum).reduce(items.astype(float))
        else:
            out[at] = graph.extreme(op, [graph.lift(y) for y in items])
    return out.reshape([1 if a in axes else n for a, n in enumerate(x.shape)]) if keepdims else out


def apply_ufunc(ufunc: np.ufunc, method: str, inputs: tuple, kwargs: dict[str, Any]) -> Any:
    """``__array_ufunc__`` of Scalars and of their arrays."""
    name = ufunc.__name__
    if method == "__call__" and not kwargs and name in UFUNCS and all(isinstance(x, _SINGLE) for x in inputs):
        return UFUNCS[name](*(x.item() if isinstance(x, np.generic) else x for x in inputs))
    arrays = [_unwrap(x) for x in inputs]
    out = kwargs.pop("out", None)
    kwargs = {k: _unwrap(v) for k, v in kwargs.items() if k not in ("dtype", "casting", "order", "subok")}
    mask = kwargs.get("where", True)
    if isinstance(mask, (np.ndarray, Scalar)) and np.asarray(mask).dtype == object:
        raise CaptureError("where= with a condition on the state: use np.where", operation=name, where=user_line())
    if out is not None:
        if any(isinstance(x, np.ndarray) and x.dtype != object for x in out):
            raise CaptureError(
                "out= is an array of numbers, which can't hold the model's formulas: make it with np.zeros_like(u)",
                operation=name,
                where=user_line(),
            )
        kwargs["out"] = tuple(map(_unwrap, out))
    if name in ("matmul", "vecdot", "matvec", "vecmat") and method == "__call__":
        result = ufunc(*(np.asarray(x, object) for x in arrays), **kwargs)
    elif name in ("maximum", "minimum") and method == "reduce" and mask is True and not kwargs.keys() & {"out", "initial"}:
        kwargs.pop("where", None)
        result = extreme(name[:3], np.asarray(arrays[0], object), *arrays[1:], **kwargs)
    elif name in UFUNCS:
        rule = _elementwise(name, ufunc.nin, ufunc.nout)
        result = getattr(rule, method)(*(_as_objects(x) for x in arrays), **kwargs)
    else:
        raise CaptureError(f"np.{name} has no rule here", operation=f"np.{name}", where=user_line())
    return out[0] if out is not None and len(out) == 1 else _finish(result)


def _as_objects(x: Any) -> Any:
    """An operand of an elementwise rule: Scalars are hidden in arrays, or they would be asked for their rule again."""
    if isinstance(x, np.ndarray):
        return x if x.dtype == object else x.astype(object)
    return np.asarray(x, object) if isinstance(x, (Scalar, list, tuple)) else x


FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""NumPy functions that have a rule of their own, by name; numpy_functions.py enters them."""


def apply_function(function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """``__array_function__`` of Scalars and of their arrays."""
    args = _wrap_deep(args)
    kwargs = {k: _wrap_deep(v) for k, v in kwargs.items()}
    rule = FUNCTIONS.get(function.__name__)
    if rule is not None:
        return _finish(rule(*args, **kwargs))
    implementation = getattr(function, "_implementation", None)
    if implementation is None:
        raise CaptureError(f"np.{function.__name__} has no rule here", operation=f"np.{function.__name__}", where=user_line())
    try:
        return _finish(implementation(*args, **kwargs))
    except TypeError as error:
        if "not supported for the input types" not in str(error) and "dtype('O')" not in str(error):
            raise
        name = f"np.{function.__name__}"
        raise CaptureError(f"{name} does not work on formulas: {error}", operation=name, where=user_line()) from error


class ScalarArray(np.ndarray):
    """An object array of Scalars (and of numbers among them) on which NumPy's functions make graph nodes."""

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return apply_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, function, types, args, kwargs):
        return apply_function(function, args, kwargs)

    def __getitem__(self, key):
        if isinstance(key, np.ndarray) and key.dtype == object:
            raise CaptureError(
                "indexing with a condition on the state picks a number of elements that is not known: use np.where",
                operation="u[condition]",
                where=user_line(),
            )
        return super().__getitem__(key)

    def __setitem__(self, key, value):
        if isinstance(key, Scalar) and key.graph.is_boolean(key):
            key = wrap(key)
        if isinstance(key, np.ndarray) and key.dtype == object:
            # u[u < 0] = 0
            value = np.where(key.view(ScalarArray), value, self)
            key = ...
        super().__setitem__(key, _unwrap(value))

    def astype(self, dtype, *args, **kwargs):
        kind = np.dtype(dtype).kind
        if kind in "fO":
            return self.copy()
        return np.array(self, dtype)  # an integer or a truth value: says why it can't be

    def clip(self, min=None, max=None, out=None, **kwargs):
        return np.clip(self, min, max)

    def mean(self, axis=None, **kwargs):
        return np.mean(self, axis)

    def std(self, axis=None, ddof=0, **kwargs):
        return np.std(self, axis, ddof=ddof)

    def var(self, axis=None, ddof=0, **kwargs):
        return np.var(self, axis, ddof=ddof)

    def round(self, decimals=0, out=None):
        return np.round(self, decimals)

    def __round__(self, decimals=0):
        return np.round(self, decimals)

    def __reduce__(self):
        raise TypeError("values of a model under capture can't be pickled or deep-copied to be used later")


def _scalar_ufunc(self: Scalar, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
    return apply_ufunc(ufunc, method, inputs, kwargs)


def _scalar_function(self: Scalar, function: Callable[..., Any], types: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    return apply_function(function, args, kwargs)


def _scalar_attribute(self: Scalar, name: str) -> Any:
    # np.sin of a plain object array calls the method `sin` of each element.
    method = None if name.startswith("_") else scalar_method(name)
    if method is None:
        raise AttributeError(f"'Scalar' object has no attribute {name!r}")
    return lambda *args, **kwargs: method(self, *args, **kwargs)


# Scalars don't know of NumPy; what NumPy asks them for is added here.
Scalar.__array_ufunc__ = _scalar_ufunc  # type: ignore[attr-defined]
Scalar.__array_function__ = _scalar_function  # type: ignore[attr-defined]
Scalar.__getattr__ = _scalar_attribute  # type: ignore[attr-defined]
