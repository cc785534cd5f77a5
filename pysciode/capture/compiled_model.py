"""One capture for each function and structure, shared by all problems that use them."""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .parts import MODELS

if TYPE_CHECKING:
    from ..graphs.captured_model import CapturedModel


@dataclass(eq=False)
class CompiledModel:
    """All that is made of a problem's functions, once: the model, captured when it is first wanted, and what engines compiled of it.

    `docs/architecture.md` says what invalidates it.

    Attributes
    ----------
    build, build_parts
        Capture the whole right-hand side; and the functions that a form of problem takes on their own, by name.
    compiled
        Objects that engines made for the model, by the engines' keys; they live as long as the model.
    latest_call
        See :mod:`pysciode.solving.latest_call`.
    """

    build: Callable[[], CapturedModel]
    build_parts: Mapping[str, Callable[[], CapturedModel]] = field(default_factory=dict)
    _model: CapturedModel | None = None
    compiled: dict[Hashable, Any] = field(default_factory=dict)
    _parts: dict[str, CapturedModel] | None = None
    latest_call: Any = None

    def __deepcopy__(self, memo: dict) -> CompiledModel:
        return self  # copies of a problem share it: what is compiled goes when this model does

    @property
    def model(self) -> CapturedModel:
        if self._model is None:
            self._model = self.build()
        return self._model

    @property
    def parts(self) -> dict[str, CapturedModel]:
        if self._parts is None:
            self._parts = {name: build() for name, build in self.build_parts.items()}
        return self._parts


class _Store(dict):
    """A function's latest captures. Copies of the function start without them, since they may be changed.

    Attributes
    ----------
    counting
        Identities of the places of integers that the function changes when it runs: they are no part of what it depends on.
    """

    limit = 32
    counting: frozenset[Hashable] = frozenset()

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
    found = getattr(f, "__dict__", {}).get(MODELS)
    if found is None:
        found = _Store()
        try:
            object.__setattr__(f, MODELS, found)  # not Module.__setattr__, which would look for parameters
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


def share(f: Any, captures: _Store) -> None:
    """Have `f` keep its captures in a store that others use too: functions that can be told apart by their fingerprints alone."""
    setattr(f, MODELS, captures)


def clear_models(f: Any) -> None:
    """Forget the captures of `f`: needed after a change that Python can't see, such as one inside an object of a compiled library.

    All that Python can see (attributes, globals, closures, arrays and tensors, what helper functions read) is looked at whenever
    a problem is made. Problems that exist already keep their model.
    """
    store(f).clear()
