"""The functions of events, beside the problem whose solve looks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from .base import Problem
from .declarations import Signature


class EventFunction(Problem):
    """A function ``f(u, p, t)`` of another problem's state and parameters, captured and kept as models are."""

    _arguments: ClassVar[tuple[str, ...]] = ("f", "u0", "tspan", "p")

    def __init__(self, f: Callable[..., Any], u0: Any, tspan: Any, p: Any = None) -> None:
        self._prepare({"f": f}, u0, tspan, p)


class EventCondition(EventFunction):
    """A number, whose sign changes at the event."""

    signatures: ClassVar[Mapping[str, Signature]] = {"f": Signature(output="number")}


class EventAffect(EventFunction):
    """The state after the event."""
