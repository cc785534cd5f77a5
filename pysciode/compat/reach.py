"""What a Python function computes with beside its arguments: closure, globals, defaults, attributes, helper functions.

A library that calls the function sees each of these as it is at that moment. A captured model must too, and at a price of
microseconds: the numbers that are reached become parameters, so that other values (or a new closure made in a loop) need no new
capture; everything else goes into a key, so that a change of it does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np

from ..capture.rebind import _global_names, _is_model_class, _is_model_code, _is_users_module
from ..capture.sparse import is_sparse
from ..model_cache import _Same

NUMBERS, FLOATS, NOTHING = range(3)
"""What becomes a parameter: all numbers; floats only, since integers may be sizes; nothing, since code may branch on it."""

LARGE = 64
"""Arrays with more entries are constants: structural zeros count, and they seldom change."""

_CONSTANTS = (str, bytes, bool, type(None), complex, np.bool_, np.complexfloating)


class Reached:
    """What `f` reaches now.

    Parameters
    ----------
    f, args
        The function, and what it is given beside time and state.
    level
        One of `NUMBERS`, `FLOATS`, `NOTHING`.

    Attributes
    ----------
    key
        Equal for functions that compute the same from equal `values`.
    values
        Floats, integers and float arrays, in an order that the key determines.
    opaque
        Whether there is an object among the rest that can't be looked into; it counts as unchanged while it is the same one.
    """

    def __init__(self, f: Any, args: tuple[Any, ...] = (), level: int = NUMBERS) -> None:
        self.values: list[Any] = []
        self.opaque = False
        self._cyclic = False
        self._level = level
        self._done: dict[tuple, tuple[int, Any]] = {}
        key = (self._read(f, (), level), self._read(args, (), level))
        if self._cyclic and level != NOTHING:
            self.__init__(f, args, NOTHING)  # type: ignore[misc]
        else:
            self.level = level
            self.key = (level, key)

    def flat(self) -> np.ndarray:
        """The values as one vector, arrays in C order."""
        values = self.values
        if any(isinstance(x, np.ndarray) for x in values):
            return np.concatenate([np.ravel(x) for x in values]).astype(float, copy=False)
        return np.array(values, float)

    def _read(self, x: Any, names: tuple[str, ...], level: int) -> Hashable:
        kind = type(x)
        if _is_parameter(x, level):
            self.values.append(x)
            return "x" if kind is not np.ndarray else ("array", x.shape)
        if kind is float or isinstance(x, np.floating):
            return ("float", repr(float(x)))
        if kind is int or isinstance(x, np.integer):
            return ("int", int(x))
        if isinstance(x, _CONSTANTS):
            return (kind, repr(x))
        if kind is np.ndarray and x.dtype != object:
            return (x.dtype.str, x.shape, x.tobytes())
        place = (id(x), names, level)
        number, _ = self._done.get(place, (None, None))
        if number is not None:
            self._cyclic |= number < 0
            return ("again", number)
        described = describe(x, names)
        if described is None:
            self.opaque |= not _is_code(x)
            return _Same(x)
        self._done[place] = (-1, x)  # held, so that no other object comes to have its number
        head, parts, _ = described
        out = (head, *[self._read(part, inner, max(level, least)) for part, inner, least in parts])
        self._done[place] = (len(self._done), x)
        return out


class Substituted:
    """`f` and `args` with other values, in the order of `Reached.values`: symbols, while a model is captured."""

    def __init__(self, f: Any, args: tuple[Any, ...], level: int, values: Sequence[Any]) -> None:
        self._values = iter(values)
        self._done: dict[tuple, tuple[Any, Any]] = {}
        self.f = self._rebuild(f, (), level)
        self.args = self._rebuild(args, (), level)

    def _rebuild(self, x: Any, names: tuple[str, ...], level: int) -> Any:
        if level == NOTHING:
            return x
        if _is_parameter(x, level):
            return next(self._values)
        if isinstance(x, _CONSTANTS) or (type(x) is np.ndarray and x.dtype != object):
            return x
        place = (id(x), names, level)
        if place in self._done:
            return self._done[place][0]
        described = describe(x, names)
        out = x
        if described is not None:
            _, parts, remake = described
            inside = [self._rebuild(part, inner, max(level, least)) for part, inner, least in parts]
            if any(new is not part for new, (part, _, _) in zip(inside, parts, strict=True)):
                out = remake(x, inside)
        self._done[place] = (out, x)
        return out


def _is_parameter(x: Any, level: int) -> bool:
    """Whether `x` is a value that becomes a parameter at this level."""
    kind = type(x)
    if kind is float or isinstance(x, np.floating):
        return level != NOTHING
    if kind is int or isinstance(x, np.integer):
        return level == NUMBERS
    return kind is np.ndarray and level != NOTHING and x.dtype.kind == "f" and x.size <= LARGE


Part = tuple[Any, tuple[str, ...], int]
"""Something reached, the attributes that are read of it, and the least level for it."""


def describe(x: Any, names: tuple[str, ...]) -> tuple[Hashable, list[Part], Callable[[Any, list[Any]], Any]] | None:
    """What `x` is, its parts, and how to make another with other parts; None for what can't be looked into."""
    if isinstance(x, FunctionType):
        return _function(x) if _is_model_code(x) else None
    if isinstance(x, MethodType):
        part = (x.__self__, (x.__func__.__name__,), NUMBERS)
        return (MethodType, ref(x.__func__)), [part], lambda x, new: MethodType(x.__func__, *new)
    if isinstance(x, functools.partial):
        parts = [x.func, *x.args, *x.keywords.values()]
        return (functools.partial, len(x.args), tuple(x.keywords)), _all(parts, names), _remake_partial
    if isinstance(x, (tuple, list)):
        return (type(x), len(x)), _all(x, names), _remake_sequence
    if type(x) is dict:
        return (dict, tuple(map(_hashable, x))), _all(x.values(), names), lambda x, new: dict(zip(x, new, strict=True))
    if isinstance(x, np.ndarray):
        return (object, x.shape), _all(x.ravel(), names), _remake_array
    if isinstance(getattr(x, "py_func", None), FunctionType):  # compiled by Numba
        return "py_func", [(x.py_func, (), NUMBERS)], lambda x, new: new[0]
    if is_sparse(x):
        compressed = x.tocsr()
        return (type(x), x.shape), _all((compressed.data, compressed.indices, compressed.indptr), (), NOTHING), _same
    if isinstance(x, ModuleType):
        found = [(name, vars(x)[name]) for name in names if name in vars(x)] if _is_users_module(x.__name__) else []
        return (_Same(x), tuple(name for name, _ in found)), _all([y for _, y in found], names, NOTHING), _same
    if (_is_model_class(type(x)) and hasattr(x, "__dict__")) or type(x) is SimpleNamespace:
        return _instance(x, names)
    return None


def _all(parts: Any, names: tuple[str, ...], level: int = NUMBERS) -> list[Part]:
    return [(x, names, level) for x in parts]


def _same(x: Any, new: list[Any]) -> Any:
    return x


def _hashable(key: Any) -> Hashable:
    return key if isinstance(key, (str, int, float)) else _Same(key)


def _remake_sequence(x: Any, new: list[Any]) -> Any:
    return type(x)(*new) if hasattr(x, "_fields") else type(x)(new)


def _remake_partial(x: functools.partial, new: list[Any]) -> functools.partial:
    split = 1 + len(x.args)
    return functools.partial(new[0], *new[1:split], **dict(zip(x.keywords, new[split:], strict=True)))


def _remake_array(x: np.ndarray, new: list[Any]) -> np.ndarray:
    out = np.empty(x.size, object)
    out[:] = new
    return out.reshape(x.shape)


def _function(f: FunctionType) -> tuple[Hashable, list[Part], Callable[[Any, list[Any]], Any]]:
    scope, names = f.__globals__, _attributes(f.__code__)
    present = tuple(name for name in _globals(f.__code__) if name in scope)
    # Integers of a module are seldom anything but sizes.
    parts: list[Part] = [(scope[name], names, FLOATS) for name in present]
    cells = _filled_cells(f)
    parts += _all((f.__closure__[i].cell_contents for i in cells), names)
    parts += _all(f.__defaults__ or (), names)
    keywords = f.__kwdefaults__ or {}
    parts += _all(keywords.values(), names)
    # Weakly, or what is kept for a code, with this among its keys, would keep it alive.
    return (ref(f.__code__), present, cells, tuple(keywords)), parts, _remake_function


def _filled_cells(f: FunctionType) -> tuple[int, ...]:
    filled = []
    for i, cell in enumerate(f.__closure__ or ()):
        try:
            cell.cell_contents
        except ValueError:
            continue
        filled.append(i)
    return tuple(filled)


def _remake_function(f: FunctionType, new: list[Any]) -> FunctionType:
    parts: Iterator[Any] = iter(new)
    scope = dict(f.__globals__)
    for name in _globals(f.__code__):
        if name in scope:
            scope[name] = next(parts)
    cells = list(f.__closure__ or ())
    for i in _filled_cells(f):
        cells[i] = CellType(next(parts))
    defaults = tuple(next(parts) for _ in f.__defaults__ or ())
    out = FunctionType(f.__code__, scope, f.__name__, defaults, tuple(cells))
    out.__kwdefaults__ = {key: next(parts) for key in f.__kwdefaults__ or {}}
    out.__qualname__ = f.__qualname__
    return out


def _instance(x: Any, names: tuple[str, ...]) -> tuple[Hashable, list[Part], Callable[[Any, list[Any]], Any]]:
    cls = type(x)
    wanted, code = _used(cls, names)
    own = tuple(x.__dict__ if not _ANYTHING.isdisjoint(wanted) else (name for name in wanted if name in x.__dict__))
    parts: list[Part] = [(x.__dict__[name], wanted, NUMBERS) for name in own]
    # What belongs to the class, and what its methods reach elsewhere, stays as it is in the capture.
    shared = [_of_class(cls, name) for name in wanted if name not in own and name not in code]
    parts += _all((*code.values(), *shared), wanted, NOTHING)

    def remake(x: Any, new: list[Any]) -> Any:
        out = object.__new__(cls)
        out.__dict__.update(x.__dict__)
        out.__dict__.update(zip(own, new))
        return out

    return (ref(cls), own, tuple(code)), parts, remake


_ANYTHING = frozenset({"__dict__", "__getattr__", "getattr", "vars"})
"""Names that give access to attributes whose names are not in the code."""
_NEVER_CALLED = frozenset(
    {"__init__", "__new__", "__post_init__", "__repr__", "__str__", "__eq__", "__hash__", "__init_subclass__"}
)


def _of_class(cls: type, name: str) -> Any:
    return next((vars(base)[name] for base in cls.__mro__[:-1] if name in vars(base)), None)


def _used(cls: type, names: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, FunctionType]]:
    """The attributes that are read when `names` are used of an object, and those of them that are code of the class."""
    code: dict[str, FunctionType] = {}
    operators = [
        name
        for base in cls.__mro__[:-1]
        for name, x in vars(base).items()
        if isinstance(x, FunctionType) and name.startswith("__") and name not in _NEVER_CALLED
    ]
    seen = dict.fromkeys((*names, *operators))
    waiting = list(seen)
    while waiting:
        name = waiting.pop()
        found = _of_class(cls, name)
        function = getattr(found, "fget", None) or getattr(found, "func", None) or getattr(found, "__func__", found)
        if isinstance(function, FunctionType):
            code[name] = function
            new = [y for y in _attributes(function.__code__) if y not in seen]
            seen.update(dict.fromkeys(new))
            waiting += new
    return tuple(seen), code


def _is_code(x: Any) -> bool:
    """Functions of libraries and classes: they don't hold values that change."""
    compiled = type(x).__name__.startswith(("builtin_", "_ArrayFunction"))
    return callable(x) and (compiled or isinstance(x, (FunctionType, type, np.ufunc)))


@functools.lru_cache(maxsize=1024)
def _globals(code: CodeType) -> tuple[str, ...]:
    names = _global_names(code)
    return tuple(sorted(names if names is not None else _all_names(code)))


@functools.lru_cache(maxsize=1024)
def _attributes(code: CodeType) -> tuple[str, ...]:
    return tuple(sorted(_all_names(code)))


def _all_names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _all_names(constant)
    return names
