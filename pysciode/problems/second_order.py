"""Problems of second order, and their generalisation, partitioned ones: the state is ``[v, u]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..arrays.torch_compile import opaque
from ..methods.algorithms import PARTITIONED
from .base import Problem
from .declarations import Form, Signature
from .functions import stack, stacked

PARTITIONED_FORM = Form("partitioned", PARTITIONED)
_HALF = Signature(("v", "u", "p", "t"), "half")


class SecondOrderODEProblem(Problem):
    """The problem ``d²u/dt² = f(du, u, p, t)`` with ``du(t0) = du0`` and ``u(t0) = u0``.

    Solved by the symplectic and Nyström methods as it stands, and by every other algorithm as a first-order system in
    ``[du, u]``. A solution's ``u`` holds the positions, its ``v`` the velocities.

    Parameters
    ----------
    f
        ``f(du, u, p, t) -> ddu``, or in place ``f(ddu, du, u, p, t)``.
    du0, u0
        Velocity and position at the start, of one shape.
    tspan, p, capture, name
        As for :class:`ODEProblem`.
    """

    signatures: ClassVar[Mapping[str, Signature]] = {"f": Signature(("du", "u", "p", "t"), "half")}
    form: ClassVar[Form] = PARTITIONED_FORM
    velocity: ClassVar[str | None] = "du0"
    _arguments: ClassVar[tuple[str, ...]] = ("f", "du0", "u0", "tspan", "p", "capture", "name")

    @opaque
    def __init__(
        self,
        f: Callable[..., Any],
        du0: Any,
        u0: Any,
        tspan: Any,
        p: Any = None,
        *,
        capture: str = "auto",
        name: str | None = None,
    ) -> None:
        self._prepare({"f": f}, stacked(du0, u0, "du0"), tspan, p, capture=capture, name=name)

    @staticmethod
    def _first_order(f: Callable[..., Any]) -> Callable[..., Any]:
        return _partitioned(f, lambda v, u, p, t: v)


class DynamicalODEProblem(Problem):
    """The partitioned problem ``dv/dt = f1(v, u, p, t)``, ``du/dt = f2(v, u, p, t)``.

    Parameters
    ----------
    f1, f2
        Out of place, or in place with the result as a first argument.
    v0, u0
        Both parts of the state at the start, of one shape.
    tspan, p, capture, name
        As for :class:`ODEProblem`.
    """

    signatures: ClassVar[Mapping[str, Signature]] = {"f1": _HALF, "f2": _HALF}
    form: ClassVar[Form] = PARTITIONED_FORM
    velocity: ClassVar[str | None] = "v0"
    second_order: ClassVar[bool | None] = None
    _arguments: ClassVar[tuple[str, ...]] = ("f1", "f2", "v0", "u0", "tspan", "p", "capture", "name")

    @opaque
    def __init__(
        self,
        f1: Callable[..., Any],
        f2: Callable[..., Any],
        v0: Any,
        u0: Any,
        tspan: Any,
        p: Any = None,
        *,
        capture: str = "auto",
        name: str | None = None,
    ) -> None:
        self._prepare({"f1": f1, "f2": f2}, stacked(v0, u0, "v0"), tspan, p, capture=capture, name=name)

    @staticmethod
    def _first_order(f1: Callable[..., Any], f2: Callable[..., Any]) -> Callable[..., Any]:
        return _partitioned(f1, f2)


def _partitioned(f1: Callable[..., Any], f2: Callable[..., Any]) -> Callable[..., Any]:
    """The whole right-hand side on ``x = [v, u]``."""

    def whole(x: Any, p: Any, t: Any) -> Any:
        return stack(f1(x[0], x[1], p, t), f2(x[0], x[1], p, t))

    return whole
