"""What an evaluation of a function changes: integers that count evaluations, and what a trace leaves in attributes and lists."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from types import CellType
from typing import Any

Place = tuple[Any, Any]
"""Where an integer is kept: a dict or a list and a key, or the cell of a closure and None."""


def place_id(place: Place) -> Hashable:
    """Tells places apart without keeping what they hold alive."""
    container, key = place
    return (id(container), key)


def number_at(place: Place) -> Any:
    """The number kept there."""
    container, key = place
    return container.cell_contents if isinstance(container, CellType) else container[key]


def put_number(place: Place, value: Any) -> None:
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


@contextmanager
def left_as_they_were(containers: list[Any]) -> Iterator[None]:
    """Put back what changes in lists, dicts and sets: a trace writes symbols, or tensors without values, into what it can reach."""
    before = [(x, x.copy()) for x in containers if type(x) in _COPIED]
    try:
        yield
    finally:
        for x, old in before:
            if isinstance(x, dict):
                _put_back(x, old)
            elif isinstance(x, set):
                if x != old:
                    x.clear()
                    x.update(old)
            elif len(x) != len(old) or any(a is not b for a, b in zip(x, old, strict=True)):
                x.clear()
                x.extend(old)


_COPIED = frozenset({list, dict, set, deque, OrderedDict, defaultdict})


def _put_back(x: dict, old: dict) -> None:
    for key in [key for key in x if key not in old]:
        del x[key]
    for key, value in old.items():
        if key not in x or x[key] is not value:
            x[key] = value
