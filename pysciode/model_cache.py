"""One capture for each function and structure, shared by all problems that use them."""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .parameters import is_module, is_tensor

if TYPE_CHECKING:
    from .capture.model import CapturedModel

_ATTRIBUTE = "_pysciode_models"
_SIMPLE = (int, float, complex, str, bool, type(None))


@dataclass(eq=False)
class Captured:
    """A model that is captured when it is first wanted.

    Attributes
    ----------
    build, build_parts
        Capture the whole right-hand side; its two parts, for a problem that has them.
    compiled
        What engines made of the model, kept here by keys of theirs so that it lives as long as the model.
    latest_call
        See :mod:`pysciode.latest_call`.
    """

    build: Callable[[], CapturedModel]
    build_parts: Callable[[], tuple[CapturedModel, CapturedModel]] | None = None
    _model: CapturedModel | None = None
    compiled: dict[Hashable, Any] = field(default_factory=dict)
    _parts: tuple[CapturedModel, CapturedModel] | None = None
    latest_call: Any = None

    def __deepcopy__(self, memo: dict) -> Captured:
        return self  # copies of a problem share it: what is compiled goes when this model does

    @property
    def model(self) -> CapturedModel:
        if self._model is None:
            self._model = self.build()
        return self._model

    @property
    def parts(self) -> tuple[CapturedModel, CapturedModel] | None:
        if self._parts is None and self.build_parts is not None:
            self._parts = self.build_parts()
        return self._parts


class _Store(dict):
    """A function's latest captures. Copies of the function start without: they may lead other lives."""

    limit = 32

    def __setitem__(self, key: Hashable, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > self.limit:
            self.pop(list(self)[0], None)

    def __copy__(self) -> _Store:
        return _Store()

    def __deepcopy__(self, memo: dict) -> _Store:
        return _Store()

    def __reduce__(self) -> tuple:
        return (_Store, ())


_by_value = _Store()
_by_value.limit = 256


def store(f: Any) -> _Store:
    """What is kept for `f`. It lives on `f` itself, so both go together."""
    if isinstance(f, types.MethodType):
        owner = store(f.__self__)
        return owner.setdefault(f.__func__, _Store())
    found = getattr(f, "__dict__", {}).get(_ATTRIBUTE)
    if found is None:
        found = _Store()
        try:
            object.__setattr__(f, _ATTRIBUTE, found)  # not Module.__setattr__, which would look for parameters
        except (AttributeError, TypeError):
            # A string or a tuple of SymPy expressions: equal ones are the same model.
            try:
                known = _by_value.get(f)
                if known is not None:
                    return known
                _by_value[f] = found
            except TypeError:
                pass  # neither attributes nor a hash: nothing is shared
    return found


ADAPTER = "_pysciode_adapter"
"""Attribute of a function that only brings another one into the form ``f(u, p, t)``: an object with `func`, the other function,
``fingerprint()`` and ``tensors()``, which say what `func` depends on."""


def adapter_of(f: Any) -> Any:
    """The :data:`ADAPTER` of `f`, or None."""
    return getattr(f, "__dict__", {}).get(ADAPTER)


def share(f: Any, captures: _Store) -> None:
    """Have `f` keep its captures in a store that others use too: functions that can be told apart by their fingerprints alone."""
    setattr(f, _ATTRIBUTE, captures)


class _Same:
    """An object that equals itself alone; held, so that no other one can come to have its number."""

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing


def fingerprint(f: Any) -> Hashable:
    """What a capture of `f` bakes in and can be seen cheaply: globals, closure cells and default arguments of a function,
    and the layers of a module, their modes, hooks, buffers and frozen parameters, and their attributes that are floats, bools or
    strings (integers may count calls).

    A plain number is compared by value and a tensor by its version too; so ``K = 0.3`` changed to ``K = 0.4`` between two
    problems gives a new capture, as do new weights in a frozen network. Other things are compared by identity: arrays and
    attributes of objects changed in place are not noticed, see `clear_models`.
    """
    if is_module(f):
        return _seen(f)
    adapter = adapter_of(f)
    if adapter is not None:
        return adapter.fingerprint()
    if isinstance(f, types.MethodType):
        return (_seen(f.__self__), fingerprint(f.__func__))
    code = getattr(f, "__code__", None)
    if code is None:
        return None
    scope = f.__globals__
    seen = [_seen(scope[name]) for name in code.co_names if name in scope]
    for cell in f.__closure__ or ():
        try:
            seen.append(_seen(cell.cell_contents))
        except ValueError:  # a cell that is not filled yet
            seen.append(None)
    if f.__defaults__:
        seen.extend(map(_seen, f.__defaults__))
    return tuple(seen)


def _seen(value: Any) -> Hashable:
    if isinstance(value, _SIMPLE):
        return (type(value).__name__, repr(value))
    if is_module(value):
        frozen = [_version(x) for x in value.parameters() if not x.requires_grad]
        layers = [y for x in value.modules() for y in (_Same(x), *_state_of(x))]
        return (*layers, *frozen, *(_version(x) for x in value.buffers()))
    if is_tensor(value):
        return (_Same(value), value.requires_grad, 0 if value.requires_grad else _version(value))
    return _Same(value)


def _state_of(module: Any) -> Iterator[Hashable]:
    """Of one layer: its mode, numbers and strings among its attributes, and its hooks."""
    for name, value in module.__dict__.items():
        kind = type(value)
        if kind is bool or kind is str:
            yield name, value
        elif kind is float:  # not integers: many modules count their calls
            yield name, repr(value)
        elif name in ("_forward_hooks", "_forward_pre_hooks", "forward"):
            yield from map(_Same, value.values() if isinstance(value, dict) else (value,))


def _version(x: Any) -> int:
    """How often a tensor was changed in place; inference tensors can't be, outside of inference mode."""
    return 0 if x.is_inference() else x._version


def is_plain(f: Any) -> bool:
    """Whether `f` is a function that reaches nothing but numbers, strings and Python modules: then it reaches no tensors."""
    if type(f) is not types.FunctionType or f.__defaults__ or f.__kwdefaults__ or hasattr(f, "__wrapped__"):
        return False
    code, scope = f.__code__, f.__globals__
    if any(isinstance(x, types.CodeType) for x in code.co_consts):
        return False
    reached = [scope[name] for name in code.co_names if name in scope]
    for cell in f.__closure__ or ():
        try:
            reached.append(cell.cell_contents)
        except ValueError:
            return False
    return all(isinstance(x, (*_SIMPLE, types.ModuleType)) for x in reached)


def clear_models(f: Any) -> None:
    """Forget the captures of `f`: after an array or attribute that the model uses as a constant was changed in place.

    Problems that exist already keep their model.
    """
    store(f).clear()
