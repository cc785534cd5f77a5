"""The parts of an object that a function can read, and how to make a like object from other parts."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)  # fmt: skip
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from .code_reads import is_users_class, is_users_function, is_users_module, reads_of
from .sparse import is_sparse

NUMBERS, FLOATS, NOTHING = range(3)
"""Which numbers become values: all; floats only, since integers may be sizes; none, since code may branch on them."""

ANY = "*"
"""Among names of attributes: all of them are read."""

ADAPTER = "_pysciode_adapter"
"""Attribute of a function that only brings another one into the form ``f(u, p, t)``: an object with `func`, the other function,
and ``reached()``, what that reaches."""

MODELS = "_pysciode_models"
"""Attribute of a function with the models that were captured of it."""

NOTES = "_pysciode_notes"
"""Attribute of a class with the names of attributes that note what happened, and that no model reads."""

OURS = frozenset({MODELS, ADAPTER, "__wrapped__", "__signature__"})
"""Attributes that hold nothing of the user's, or what is found otherwise."""

_UNREAD = frozenset(sys.stdlib_module_names) | {"torch", "numpy", "sympy", "jax", "jaxlib", "pandas", "juliacall"}
"""Packages whose objects are not looked into: they don't change, or can't be understood from outside."""

_NEVER_CALLED = frozenset(
    {"__init__", "__new__", "__post_init__", "__repr__", "__str__", "__eq__", "__hash__", "__init_subclass__", "__del__",
     "__getstate__", "__setstate__", "__reduce__", "__copy__", "__deepcopy__", "__class_getitem__", "__annotate__"}
)  # fmt: skip


class Same:
    """An object that equals itself alone, and is not kept alive where it can be told that it is gone."""

    __slots__ = ("_number", "_thing")

    def __init__(self, thing: Any) -> None:
        self._number = id(thing)
        try:
            self._thing = ref(thing)
        except TypeError:
            self._thing = lambda: thing

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Same) and other._number == self._number and other._thing() is self._thing() is not None


class Part(NamedTuple):
    """A part of an object.

    Attributes
    ----------
    name
        What the part is called: an attribute, a key, a variable; ``""`` where the name of the whole serves.
    value
        The part itself.
    level
        The least level for it.
    where
        Where it is kept: the cell of a closure, the dict of attributes, the dict or list itself; None elsewhere.
    """

    name: Any
    value: Any
    level: int = NUMBERS
    where: Any = None


Remake = Callable[[Any, list[Part], list[Any]], Any]
"""``remake(x, parts, new)``: like `x`, with `new` for its `parts`."""


def describe(x: Any, names: AbstractSet[str]) -> tuple[Hashable, list[Part], Remake] | None:
    """What `x` is, its parts, and how to make another one of other parts; None for what can't be looked into.

    Parameters
    ----------
    names
        The attributes that are read of objects.
    """
    kind = type(x)
    if kind is FunctionType:
        return reads_of(x.__code__), parts_of_function(x), _remake_function
    if kind is list:
        return (list, len(x)), [Part(i, y, NUMBERS, x) for i, y in enumerate(x)], lambda x, parts, new: new
    if kind is tuple or (issubclass(kind, tuple) and hasattr(x, "_fields")):
        return (kind, len(x)), _numbered(x), _remake_tuple
    if kind is dict:
        return (dict, tuple(map(_hashable, x))), _named(x, NUMBERS, x), _remake_dict
    if kind is MethodType:
        return (MethodType, reads_of_method(x)), [Part("", x.__self__), Part("", x.__func__, NOTHING)], _remake_method
    if kind is functools.partial:
        parts = [Part("", x.func), *_numbered(x.args), *_named(x.keywords)]
        return (functools.partial, len(x.args), tuple(x.keywords)), parts, _remake_partial
    if kind is np.ndarray:
        return (object, x.shape), _numbered(x.ravel()), _remake_array
    if kind is SimpleNamespace:
        return (SimpleNamespace, tuple(vars(x))), _named(vars(x), NUMBERS, vars(x)), _remake_namespace
    if isinstance(getattr(x, "py_func", None), FunctionType):  # compiled by Numba
        return "py_func", [Part("", x.py_func)], lambda x, parts, new: new[0]
    found = _fixed(x, names)
    return (*found, _same) if found is not None else None if isinstance(x, Enum) else _instance(x, names)


def reads_of_method(x: MethodType) -> Hashable:
    """What tells the method's code apart."""
    return reads_of(x.__func__.__code__) if isinstance(x.__func__, FunctionType) else Same(x.__func__)


def _fixed(x: Any, names: AbstractSet[str]) -> tuple[Hashable, list[Part]] | None:
    """What `x` is and its parts, of what is never made again with other parts."""
    if isinstance(x, ModuleType):
        if not is_users_module(x.__name__):
            return None
        own = vars(x)
        read = own.keys() if ANY in names else names & own.keys()
        found = [Part(name, own[name], NOTHING) for name in sorted(read) if not name.startswith("__")]
        return (Same(x), tuple(part.name for part in found)), found
    if isinstance(x, type):
        users = () if issubclass(x, Enum) else users_bases(x)
        return (Same(x), parts_of_class(users, names)) if users else None
    if isinstance(x, BuiltinFunctionType):  # a method of something built in: ``table.get``
        owner = x.__self__
        return None if owner is None or isinstance(owner, (ModuleType, type)) else (x.__name__, [Part("", owner, NOTHING)])
    if is_sparse(x):
        compressed = x.tocsr()
        return (type(x), x.shape), _numbered((compressed.data, compressed.indices, compressed.indptr), NOTHING)
    inner = _INNER.get(type(x))
    if inner is not None:
        return type(x), [Part("", inner(x), NOTHING)]
    if users_bases(type(x)):
        return None
    if isinstance(x, (list, tuple, deque)):
        return (type(x), len(x)), _numbered(x, NOTHING)
    if isinstance(x, (dict, MappingProxyType)):
        return (type(x), tuple(map(_hashable, x))), _named(x, NOTHING)
    if isinstance(x, (set, frozenset)):
        return (type(x), len(x)), _numbered(sorted(x, key=repr), NOTHING)
    return None


_INNER: dict[type, Callable[[Any], Any]] = {
    staticmethod: lambda x: x.__func__,
    classmethod: lambda x: x.__func__,
    property: lambda x: x.fget,
    functools.cached_property: lambda x: x.func,
    functools.partialmethod: lambda x: (x.func, x.args, x.keywords),
    functools._lru_cache_wrapper: lambda x: x.__wrapped__,
}


def _instance(x: Any, names: AbstractSet[str]) -> tuple[Hashable, list[Part], Remake] | None:
    cls = type(x)
    own = getattr(x, "__dict__", None) or {}
    users = users_bases(cls)
    if not users:
        # Of a library, of whose code nothing is known: all that it keeps.
        if not own or ((cls.__module__ or "").partition(".")[0] in _UNREAD and not _is_users_class(cls)):
            return None
        return (Same(x), tuple(own)), _named(own, NOTHING, own), _same
    whole = _is_all_users(cls)
    anything = ANY in names or not whole
    level = NUMBERS if whole and not _slots(cls) else NOTHING
    parts = [Part(name, y, level, own) for name, y in own.items() if (anything or name in names) and name not in OURS]
    kept = tuple(part.name for part in parts)
    parts += [Part(name, getattr(x, name), NOTHING) for name in _slots(cls) if (anything or name in names) and hasattr(x, name)]
    if isinstance(x, (list, tuple, set, frozenset, deque)):
        parts.append(Part("", list(x), NOTHING))
    elif isinstance(x, dict):
        parts.append(Part("", dict(x), NOTHING))
    # What belongs to the class, and what its methods reach elsewhere, stays as it is in a capture.
    parts += [part for part in parts_of_class(users, names) if part.name not in kept]
    head = (ref(cls), tuple(part.name for part in parts))
    return (head if whole else (head, Same(x))), parts, _remake_instance if level == NUMBERS else _same


def parts_of_class(users: tuple[type, ...], names: AbstractSet[str]) -> list[Part]:
    """What is read of the user's classes: functions by the names of the attributes that they are, and other attributes."""
    parts: list[Part] = []
    anything = ANY in names
    for base in users:
        for name, value in vars(base).items():
            special = name.startswith("__") and name.endswith("__")
            if special and (name in _NEVER_CALLED or not isinstance(value, FunctionType)):
                continue
            if special or name in names or name == "forward" or (anything and not isinstance(value, FunctionType)):
                parts.append(Part(name, value, NOTHING))
    return parts


def parts_of_function(f: FunctionType) -> list[Part]:
    """Closure, globals, modules that are imported in it, defaults, and attributes of the function itself."""
    reads = reads_of(f.__code__)
    users = is_users_function(f)
    level = NUMBERS if users else NOTHING
    parts: list[Part] = []
    if f.__closure__:
        for name, cell in zip(f.__code__.co_freevars, f.__closure__, strict=True):
            try:
                parts.append(Part(name, cell.cell_contents, level, cell))
            except ValueError:  # a cell that is not filled yet
                continue
    if users and not _is_ours(f.__module__):  # nothing of this package's files changes, and one reaches all others
        scope = f.__globals__
        # Integers of a file are seldom anything but sizes.
        parts += [Part(name, scope[name], FLOATS, scope) for name in reads.globals if name in scope]
        if reads.any_global:
            parts += [Part(name, scope[name], NOTHING) for name in sorted(scope) if _is_data(scope[name], name)]
        if reads.imports:
            parts += [Part(name, sys.modules[name], NOTHING) for name in reads.imports if name in sys.modules]
    if f.__defaults__:
        parts += [Part(f"default{i}", value, level, f.__defaults__) for i, value in enumerate(f.__defaults__)]
    if f.__kwdefaults__:
        parts += _named(f.__kwdefaults__, level, f.__kwdefaults__)
    if f.__dict__:
        parts += [Part(name, value, NOTHING) for name, value in f.__dict__.items() if name not in OURS]
        wrapped = f.__dict__.get("__wrapped__")
        if wrapped is not None:
            parts.append(Part("", wrapped, NOTHING))
    return parts


def _is_ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "pysciode"


def _is_data(x: Any, name: str) -> bool:
    return not name.startswith("__") and not isinstance(x, (ModuleType, FunctionType, type))


@functools.lru_cache(maxsize=4096)
def users_bases(cls: type) -> tuple[type, ...]:
    """Those of the classes of `cls` whose code is the user's, or this package's."""
    return tuple(base for base in cls.__mro__[:-1] if _is_users_class(base))


def _is_users_class(cls: type) -> bool:
    root = (cls.__module__ or "").partition(".")[0]
    known = root in _UNREAD and root not in ("__main__", "builtins")
    return _is_ours(cls.__module__) or not known and is_users_class(cls)


@functools.lru_cache(maxsize=4096)
def _is_all_users(cls: type) -> bool:
    """Whether all that `cls` inherits from is the user's, or has no code of its own to read attributes with."""
    plain = (object, list, tuple, dict, set, frozenset, deque)
    return all(
        base in plain or _is_users_class(base) or base.__module__ in ("typing", "abc", "collections.abc", "contextlib")
        for base in cls.__mro__
    )


@functools.lru_cache(maxsize=4096)
def _slots(cls: type) -> tuple[str, ...]:
    slots = [vars(base).get("__slots__", ()) for base in cls.__mro__[:-1]]
    names = [name for x in slots for name in ((x,) if isinstance(x, str) else x)]
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _numbered(values: Any, level: int = NUMBERS) -> list[Part]:
    return [Part(i, x, level) for i, x in enumerate(values)]


def _named(values: Mapping[Any, Any], level: int = NUMBERS, where: Any = None) -> list[Part]:
    return [Part(name, x, level, where) for name, x in values.items()]


def _hashable(key: Any) -> Hashable:
    return (type(key), key) if isinstance(key, (str, int, float, tuple, Enum)) else Same(key)


def _same(x: Any, parts: list[Part], new: list[Any]) -> Any:
    return x


def _remake_tuple(x: tuple, parts: list[Part], new: list[Any]) -> tuple:
    return type(x)(*new) if hasattr(x, "_fields") else tuple(new)


def _remake_dict(x: dict, parts: list[Part], new: list[Any]) -> dict:
    return dict(zip(x, new, strict=True))


def _remake_method(x: MethodType, parts: list[Part], new: list[Any]) -> MethodType:
    return MethodType(x.__func__, new[0])


def _remake_partial(x: functools.partial, parts: list[Part], new: list[Any]) -> functools.partial:
    split = 1 + len(x.args)
    return functools.partial(new[0], *new[1:split], **dict(zip(x.keywords, new[split:], strict=True)))


def _remake_array(x: np.ndarray, parts: list[Part], new: list[Any]) -> np.ndarray:
    out = np.empty(x.size, object)
    out[:] = new
    return out.reshape(x.shape)


def _remake_namespace(x: SimpleNamespace, parts: list[Part], new: list[Any]) -> SimpleNamespace:
    return SimpleNamespace(**dict(zip(vars(x), new, strict=True)))


def _remake_instance(x: Any, parts: list[Part], new: list[Any]) -> Any:
    own = x.__dict__
    out = object.__new__(type(x))
    out.__dict__.update(own)
    out.__dict__.update((part.name, y) for part, y in zip(parts, new, strict=True) if part.where is own)
    return out


def _remake_function(f: FunctionType, parts: list[Part], new: list[Any]) -> FunctionType:
    scope, defaults, keywords = dict(f.__globals__), [], dict(f.__kwdefaults__ or {})
    cells: dict[str, CellType] = {}
    for part, y in zip(parts, new, strict=True):
        if type(part.where) is CellType:
            # A cell whose content stays is shared, so that `nonlocal` goes on working.
            cells[part.name] = part.where if y is part.value else CellType(y)
        elif part.where is f.__globals__:
            scope[part.name] = y
        elif part.where is f.__defaults__ and part.where is not None:
            defaults.append(y)
        elif part.where is f.__kwdefaults__ and part.where is not None:
            keywords[part.name] = y
    closure = tuple(cells.get(name, cell) for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True))
    out = FunctionType(f.__code__, scope, f.__name__, tuple(defaults) or None, closure)
    out.__kwdefaults__ = keywords
    out.__qualname__ = f.__qualname__
    out.__dict__.update(f.__dict__)
    return out
