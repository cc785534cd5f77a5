"""What a torch function computes with beside its arguments: parameters, attributes, closure, globals, helper functions.

Code written for torchdiffeq sees each of these as it is at every evaluation: it sets ``self.context`` before a solve, or counts
in ``self.nfe``. So all that a function reaches is looked at before every solve: trainable tensors are parameters of the model,
the rest is a key, and another key needs another capture.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from ..capture.rebind import _is_users_file
from ..capture.torch_parameters import _global_names
from ..model_cache import _Same

Place = tuple[Any, Any]
"""Where a number is kept: a dict and a key, a list and an index, or a cell of a closure and None."""

_MODULE_ATTRIBUTES = frozenset(vars(torch.nn.Module()))
_FOREIGN = frozenset({"torch", "numpy", "scipy", "builtins", "sympy", "functools", "typing", "collections", "pysciode"})
_MANY = 64  # Longer containers are looked at as a whole, and larger arrays too.
_DEEP = 10


class Reached:
    """What `func` reaches now.

    Parameters
    ----------
    func
        Anything that can be called.
    counting
        Identities of places, as :func:`place_id` gives them, whose numbers count evaluations and are not part of the key.
    changing
        Names of tensors that are not trained and yet count among `tensors`, since their values change from solve to solve.

    Attributes
    ----------
    tensors
        Trainable tensors, each once, by a name that says where.
    constants
        Other floating tensors and their versions, by such names; part of the key.
    key
        Equal as long as `func` computes the same from equal `tensors`.
    numbers
        Places of integers.
    """

    def __init__(
        self, func: Any, counting: frozenset[Hashable] = frozenset(), changing: frozenset[str] = frozenset()
    ) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.constants: dict[str, tuple[torch.Tensor, int]] = {}
        self.numbers: list[Place] = []
        self._counting = counting
        self._changing = changing
        self._key: list[Hashable] = []
        self._seen: set[int] = set()
        self._visit(func, "", 0)
        self.key = tuple(self._key)

    def _visit(self, x: Any, name: str, depth: int) -> None:
        note = self._key.append
        if isinstance(x, torch.Tensor):
            self._tensor(x, name)
        elif isinstance(x, (str, bytes, bool, float, complex, int, type(None), torch.dtype, torch.device, torch.Size)):
            note((type(x), repr(x)))
        elif isinstance(x, (ModuleType, BuiltinFunctionType, type)):
            note(_Same(x))
        elif isinstance(x, np.ndarray):
            note((x.dtype.str, x.shape, x.tobytes()) if x.size <= _MANY**2 and x.dtype != object else _Same(x))
        elif id(x) in self._seen or depth > _DEEP:
            note(_Same(x))
        else:
            self._seen.add(id(x))
            self._look_into(x, name, depth + 1)

    def _look_into(self, x: Any, name: str, depth: int) -> None:
        note = self._key.append
        if isinstance(x, torch.nn.Module):
            for inner, module in x.named_modules():
                self._seen.add(id(module))
                self._module(module, _join(name, inner), depth)
        elif isinstance(x, FunctionType):
            self._function(x, name, depth)
        elif isinstance(x, MethodType):
            self._visit(x.__self__, name, depth)
            self._visit(x.__func__, name, depth)
        elif isinstance(x, functools.partial):
            self._visit(x.func, name, depth)
            self._visit(x.args, name, depth)
            self._visit(x.keywords, name, depth)
        elif isinstance(x, dict):
            self._items(x, x.items(), name, depth)
        elif isinstance(x, list):
            self._items(x, enumerate(x), name, depth)
        elif isinstance(x, (tuple, set, frozenset)):
            note(len(x))
            for i, value in enumerate(x if len(x) <= _MANY else ()):
                self._visit(value, _join(name, i), depth)
        else:
            note(_Same(x))
            if (type(x).__module__ or "").partition(".")[0] not in _FOREIGN:
                for function in _code_of(type(x)):
                    self._visit(function, name, depth)
                own = getattr(x, "__dict__", {})
                self._items(own, own.items(), name, depth)

    def _tensor(self, x: torch.Tensor, name: str) -> None:
        again = id(x) in self._seen
        self._seen.add(id(x))
        if x.requires_grad or name in self._changing:
            self._key.append((name, tuple(x.shape), x.dtype, again))
            if not again:
                self.tensors[_free(name or "parameter", self.tensors)] = x
        else:
            version = 0 if x.is_inference() else x._version
            self._key.append((_Same(x), version))
            if x.is_floating_point():
                self.constants.setdefault(name, (x, version))

    def _module(self, module: torch.nn.Module, name: str, depth: int) -> None:
        self._key.append((_Same(module), module.training))
        for kept in (module._parameters, module._buffers):
            for inner, x in kept.items():
                if x is not None:
                    self._tensor(x, _join(name, inner))
        own = vars(module)
        if len(own) > len(_MODULE_ATTRIBUTES):
            self._items(own, [(key, own[key]) for key in own if key not in _MODULE_ATTRIBUTES], name, depth)
        for function in _code_of(type(module)):
            self._visit(function, name, depth)

    def _items(self, container: Any, items: Any, name: str, depth: int) -> None:
        if type(container) is list and len(container) > _MANY:
            self._key.append((_Same(container), len(container)))
            return
        for key, value in list(items):
            if key == "_pysciode_models":
                continue
            self._key.append(key if isinstance(key, (str, int)) else _Same(key))
            self._number_or(value, container, key, name, depth)

    def _number_or(self, value: Any, container: Any, key: Any, name: str, depth: int) -> None:
        if type(value) is int:
            self.numbers.append((container, key))
            if place_id((container, key)) in self._counting:
                return
        self._visit(value, _join(name, key), depth)

    def _function(self, f: FunctionType, name: str, depth: int) -> None:
        self._key.append(_Same(f.__code__))
        for variable, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # a cell that is not filled yet
                continue
            if type(value) is int:
                self._number_or(value, cell, None, _join(name, variable), depth)
            else:
                self._visit(value, _join(name, variable), depth)
        if _is_users_file(f.__code__.co_filename):
            scope = f.__globals__
            for variable in _global_names(f.__code__):
                if variable in scope:
                    self._number_or(scope[variable], scope, variable, "", depth)
        for values in (f.__defaults__, f.__kwdefaults__):
            if values:
                self._visit(values, name, depth)


def _free(name: str, taken: dict[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def _join(name: str, part: object) -> str:
    return f"{name}.{part}" if name and part != "" else name or str(part)


@functools.lru_cache(maxsize=1000)
def _code_of(cls: type) -> tuple[FunctionType, ...]:
    """The functions in the body of a user's class, and of those that it inherits from."""
    bases = [base for base in cls.__mro__ if (base.__module__ or "").partition(".")[0] not in _FOREIGN]
    return tuple(x for base in bases for x in _functions(vars(base).values()) if _is_users_file(x.__code__.co_filename))


def _functions(values: Any) -> Iterator[FunctionType]:
    for x in values:
        x = getattr(x, "fget", None) or getattr(x, "__func__", x)
        if isinstance(x, FunctionType):
            yield x


def place_id(place: Place) -> Hashable:
    """Tells places apart without keeping what they hold alive."""
    container, key = place
    return (id(container), key)


def number_at(place: Place) -> int:
    """The number kept there."""
    container, key = place
    return container.cell_contents if isinstance(container, CellType) else container[key]


def put_number(place: Place, value: int) -> None:
    """Keep another number there."""
    container, key = place
    if isinstance(container, CellType):
        container.cell_contents = value
    else:
        container[key] = value


def counted(numbers: list[Place], run: Callable[[], Any]) -> tuple[Any, list[tuple[Place, int]]]:
    """What `run` returns, and which of the numbers it changed and by how much; they are put back."""
    before = [number_at(place) for place in numbers]
    changes: list[tuple[Place, int]] = []
    try:
        result = run()
    finally:
        for place, old in zip(numbers, before, strict=True):
            try:
                new = number_at(place)
            except (KeyError, IndexError, ValueError):
                continue
            if type(new) is int and new != old:
                changes.append((place, new - old))
                put_number(place, old)
    return result, changes
