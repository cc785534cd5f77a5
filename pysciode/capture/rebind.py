"""Run a user's function with NumPy and ``math`` standing in for themselves.

``np.zeros(2)`` makes an array of floats, into which a symbol can't be written, and ``math.sin`` wants a float.  Both are
common in models, so the function under capture gets substitutes for them, through its own globals and closure and only there:
nothing is patched, and other threads see nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from ..graphs.numpy_protocol import ScalarArray, apply_op, scalar_method
from ..graphs.scalar_graph import Scalar
from .code_reads import is_users_class, is_users_function, reads_of
from .sparse import SparseOperator, is_sparse


def _holds_scalars(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return any(map(_holds_scalars, x))
    return isinstance(x, Scalar) or (isinstance(x, np.ndarray) and x.dtype == object)


def _array_maker(original: Callable[..., Any]) -> Callable[..., Any]:
    """``np.array`` and its like: Scalars stay Scalars whatever dtype is asked for."""

    @functools.wraps(original)
    def make(x, *args, **kwargs):
        if not _holds_scalars(x):
            return original(x, *args, **kwargs)
        copy = original is np.array
        array = np.array(x, object) if copy or not isinstance(x, np.ndarray) else x
        minimum = kwargs.get("ndmin", 0)
        return array.reshape((1,) * (minimum - array.ndim) + array.shape).view(ScalarArray)

    return make


def _filler(original: Callable[..., Any], value: Any) -> Callable[..., Any]:
    """``np.zeros`` and its like, of objects unless integers or truth values are asked for."""

    @functools.wraps(original)
    def make(shape, *args, **kwargs):
        dtype = args[0] if args else kwargs.get("dtype")
        if dtype is not None and np.dtype(dtype).kind not in "fO":
            return original(shape, *args, **kwargs)
        out = np.empty(shape, object).view(ScalarArray)
        out[...] = value
        return out

    return make


def _full(shape, fill_value, dtype=None, **kwargs):
    return _filler(np.full, fill_value)(shape, dtype)


def _eye(*args, **kwargs):
    return np.eye(*args, **kwargs).astype(object).view(ScalarArray)


_NUMPY: dict[str, Callable[..., Any]] = {
    **{name: _array_maker(getattr(np, name)) for name in ("array", "asarray", "asanyarray", "ascontiguousarray")},
    "zeros": _filler(np.zeros, 0.0),
    "ones": _filler(np.ones, 1.0),
    "empty": _filler(np.empty, 0.0),
    "full": _full,
    "eye": _eye,
    "identity": _eye,
}


def _math(name: str, ours: Callable[..., Any]) -> Callable[..., Any]:
    original = getattr(math, name)

    @functools.wraps(original)
    def function(*args):
        return ours(*args) if any(isinstance(x, Scalar) for x in args) else original(*args)

    return function


def _method(name: str) -> Callable[..., Any]:
    rule = scalar_method(name)
    assert rule is not None
    return rule


def _log(x: Any, base: Any = None) -> Any:
    return apply_op("log", x) if base is None else apply_op("log", x) / apply_op("log", base)


_MATH: dict[str, Callable[..., Any]] = {
    **{
        name: _math(name, _method(ours))
        for name, ours in {
            "sin": "sin", "cos": "cos", "tan": "tan", "asin": "arcsin", "acos": "arccos", "atan": "arctan",
            "atan2": "arctan2", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "arcsinh", "acosh": "arccosh",
            "atanh": "arctanh", "exp": "exp", "expm1": "expm1", "log2": "log2", "log10": "log10", "log1p": "log1p",
            "sqrt": "sqrt", "fabs": "fabs", "pow": "power", "fmod": "fmod", "erf": "erf", "erfc": "erfc",
            "lgamma": "gammaln", "radians": "radians", "degrees": "degrees", "isnan": "isnan", "isinf": "isinf",
            "isfinite": "isfinite", "copysign": "copysign", "floor": "floor", "ceil": "ceil", "trunc": "trunc",
        }.items()
    },
    "log": _math("log", _log),
    "hypot": _math("hypot", lambda *x: apply_op("sqrt", sum(a * a for a in x))),
}  # fmt: skip


def _extreme(original: Callable[..., Any], op: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def function(*args, **kwargs):
        values = list(args[0]) if len(args) == 1 else args
        if kwargs or not any(isinstance(x, Scalar) for x in values):
            return original(values, **kwargs) if len(args) == 1 else original(*args, **kwargs)
        return functools.reduce(lambda a, b: apply_op(op, a, b), values)

    return function


_BUILTINS: dict[str, Callable[..., Any]] = {"min": _extreme(min, "min"), "max": _extreme(max, "max")}


class _Substitute:
    """A module with some of its functions replaced."""

    def __init__(self, module: ModuleType, replaced: dict[str, Callable[..., Any]]) -> None:
        self.__module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__module, name)


_MODULES: dict[ModuleType, Any] = {np: _Substitute(np, _NUMPY), math: _Substitute(math, _MATH)}
_FUNCTIONS: dict[Any, Any] = {
    **{getattr(np, name): ours for name, ours in _NUMPY.items()},
    **{getattr(math, name): ours for name, ours in _MATH.items()},
}


def rebind(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with the substitutes; `f` itself where it can't be rebuilt."""
    return _Rebinder().callable(f)


class _Rebinder:
    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.classes: dict[type, type | None] = {}

    def callable(self, f: Any) -> Any:
        if isinstance(f, FunctionType):
            return self.function(f)
        if isinstance(f, MethodType):
            return MethodType(self.callable(f.__func__), self.value(f.__self__))
        if isinstance(f, functools.partial):
            return functools.partial(self.callable(f.func), *f.args, **f.keywords)
        compiled = getattr(f, "py_func", None)  # a function compiled by Numba
        if isinstance(compiled, FunctionType):
            return self.function(compiled)
        call = getattr(type(f), "__call__", None)
        if isinstance(call, FunctionType) and not isinstance(f, type):
            return MethodType(self.function(call), self.value(f))
        return f

    def function(self, f: FunctionType) -> FunctionType:
        if id(f) in self.done:
            return self.done[id(f)]
        reads = reads_of(f.__code__)
        if reads.writes_globals or f.__code__.co_filename.startswith("<__array_function__"):
            return f
        scope = dict(f.__globals__)
        copy = FunctionType(f.__code__, scope, f.__name__, f.__defaults__, f.__closure__)
        copy.__kwdefaults__ = f.__kwdefaults__
        copy.__qualname__ = f.__qualname__
        copy.__dict__.update(f.__dict__)
        self.done[id(f)] = copy
        for name in reads.globals:
            if name in scope:
                scope[name] = self.value(scope[name])
            elif name in _BUILTINS:
                scope[name] = _BUILTINS[name]
        if f.__closure__:
            cells = tuple(map(self.cell, f.__closure__))
            closed = FunctionType(f.__code__, scope, f.__name__, f.__defaults__, cells)
            closed.__kwdefaults__ = f.__kwdefaults__
            closed.__qualname__ = f.__qualname__
            closed.__dict__.update(f.__dict__)
            self.done[id(f)] = closed
            return closed
        return copy

    def value(self, x: Any) -> Any:
        if isinstance(x, ModuleType):
            return _MODULES.get(x, x)
        if isinstance(x, FunctionType):
            if x in _FUNCTIONS:
                return _FUNCTIONS[x]
            return self.function(x) if is_users_function(x) else x
        if isinstance(x, BuiltinFunctionType):
            return _FUNCTIONS.get(x, x)
        if isinstance(getattr(x, "py_func", None), FunctionType):
            return self.function(x.py_func)
        if is_sparse(x):
            return SparseOperator(x)
        return self.instance(x)

    def instance(self, x: Any) -> Any:
        """An object of a user's class with rebuilt methods, and the attributes of `x`."""
        cls = type(x)
        if not _is_model_class(cls) or not hasattr(x, "__dict__"):
            return x
        if id(x) not in self.done:
            if cls not in self.classes:
                self.classes[cls] = None  # while its methods are rebuilt: they may name objects of the same class
                self.classes[cls] = type(cls.__name__, (cls,), self.methods(cls))
            if self.classes[cls] is None:
                return x
            twin = object.__new__(self.classes[cls])
            self.done[id(x)] = twin
            sparse = {name: SparseOperator(y) for name, y in x.__dict__.items() if is_sparse(y)}
            # One and the same dictionary where nothing is replaced, so that what the model notes down is not lost.
            twin.__dict__ = {**x.__dict__, **sparse} if sparse else x.__dict__
        return self.done[id(x)]

    def methods(self, cls: type) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for base in reversed(cls.__mro__[:-1]):
            for name, x in vars(base).items():
                if name.startswith("__") and name != "__call__":
                    continue
                if isinstance(x, FunctionType):
                    found[name] = self.function(x)
                elif isinstance(x, staticmethod):
                    found[name] = staticmethod(self.callable(x.__func__))
                elif isinstance(x, property) and x.fget is not None:
                    found[name] = property(self.callable(x.fget), x.fset, x.fdel)
        return found

    def cell(self, cell: CellType) -> CellType:
        try:
            content = cell.cell_contents
        except ValueError:
            return cell
        replaced = self.value(content)
        # A cell whose content stays is shared, so that `nonlocal` goes on working.
        return cell if replaced is content else CellType(replaced)


def _is_model_class(cls: type) -> bool:
    """Whether `cls` and all that it inherits from is ordinary Python of the user's."""
    return (
        cls.__mro__[1:] != ()
        and type(cls) is type
        and all(is_users_class(base) for base in cls.__mro__[:-1])
        and not hasattr(cls, "__slots__")
    )
