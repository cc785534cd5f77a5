"""Problems whose right-hand side has two parts: second-order, partitioned and split ones."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..arrays.parameters import is_tensor
from ..arrays.torch_compile import opaque
from ..capture.model_cache import Captured, store
from .ode import ODEProblem


class _TwoParts(ODEProblem):
    """What the problems here share: how they are captured, and how :func:`~pysciode.problems.ode.remake` gets at their arguments."""

    _velocity: ClassVar[str | None] = None
    """The argument that is stacked on ``u0`` in the state, if there is one."""

    def _new_capture(self) -> Captured:
        whole, first, second = (self._capturing(f) for f in _first_order(self))
        return Captured(whole, lambda: (first(), second()))

    def _argument(self, key: str) -> Any:
        """An argument of the class, as it can be passed again."""
        if key in ("f", "f1", "f2"):
            return self.functions[1 if key == "f2" else 0]
        if self._velocity is not None and key in (self._velocity, "u0"):
            return self.u0[1 if key == "u0" else 0]
        return self.span if key == "tspan" else getattr(self, key)

    def _changed_state(self, changes: dict[str, Any]) -> Any:
        velocity = self._velocity
        if velocity is None:
            return changes.get("u0", self.u0)
        if velocity not in changes and "u0" not in changes:
            return self.u0
        return _stacked(changes.get(velocity, self.u0[0]), changes.get("u0", self.u0[1]), velocity)


class SecondOrderODEProblem(_TwoParts):
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

    kind = "second_order"
    _velocity = "du0"
    _arguments = ("f", "du0", "u0", "tspan", "p", "capture", "name")

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
        _check_python(f, "f")
        self.__dict__["functions"] = (f,)
        self._prepare(_first_order(self)[0], _stacked(du0, u0, "du0"), tspan, p, capture, None, None, name)


class DynamicalODEProblem(_TwoParts):
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

    kind = "dynamical"
    _velocity = "v0"
    _arguments = ("f1", "f2", "v0", "u0", "tspan", "p", "capture", "name")

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
        _check_python(f1, "f1")
        _check_python(f2, "f2")
        self.__dict__["functions"] = (f1, f2)
        self._prepare(_first_order(self)[0], _stacked(v0, u0, "v0"), tspan, p, capture, None, None, name)


class SplitODEProblem(_TwoParts):
    """The problem ``du/dt = f1(u, p, t) + f2(u, p, t)``, of which IMEX methods treat `f1` implicitly and `f2` explicitly.

    Parameters
    ----------
    f1, f2
        The stiff and the other part; out of place, or in place with the result as a first argument.
    u0, tspan, p, capture, name
        As for :class:`ODEProblem`.
    """

    kind = "split"
    _arguments = ("f1", "f2", "u0", "tspan", "p", "capture", "name")

    @opaque
    def __init__(
        self,
        f1: Callable[..., Any],
        f2: Callable[..., Any],
        u0: Any,
        tspan: Any,
        p: Any = None,
        *,
        capture: str = "auto",
        name: str | None = None,
    ) -> None:
        _check_python(f1, "f1")
        _check_python(f2, "f2")
        self.__dict__["functions"] = (f1, f2)
        self._prepare(_first_order(self)[0], u0, tspan, p, capture, None, None, name)


def _check_python(f: Any, name: str) -> None:
    if not callable(f):
        raise TypeError(f"{name} must be a Python function for this kind of problem, not {type(f).__name__}")


def _out_of_place(f: Callable[..., Any], n_arguments: int) -> Callable[..., Any]:
    """`f` itself, or where it takes one argument more, a function that returns what `f` writes into it."""
    try:
        positional = [x for x in inspect.signature(f).parameters.values() if x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):
        return f
    if len(positional) != n_arguments + 1 or positional[-1].default is not inspect.Parameter.empty:
        return f

    def out_of_place(*arguments: Any) -> Any:
        like = arguments[0]
        out = like.new_zeros(like.shape) if is_tensor(like) else np.zeros_like(like)
        f(out, *arguments)
        return out

    return out_of_place


def _stack(a: Any, b: Any) -> Any:
    if is_tensor(a) or is_tensor(b):
        torch = sys.modules["torch"]  # not imported: what reads a model would take one for NumPy as one for torch
        return torch.stack((torch.as_tensor(a), torch.as_tensor(b)))
    return np.stack([np.asarray(a), np.asarray(b)])


def _partitioned(f1: Callable[..., Any], f2: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """The whole right-hand side on ``x = [v, u]``, and its two parts with zeros for the other."""

    def whole(x: Any, p: Any, t: Any) -> Any:
        return _stack(f1(x[0], x[1], p, t), f2(x[0], x[1], p, t))

    def first(x: Any, p: Any, t: Any) -> Any:
        return _stack(f1(x[0], x[1], p, t), 0 * x[1])

    def second(x: Any, p: Any, t: Any) -> Any:
        return _stack(0 * x[0], f2(x[0], x[1], p, t))

    return whole, first, second


def _sum_of(f1: Callable[..., Any], f2: Callable[..., Any]) -> Callable[..., Any]:
    def whole(u: Any, p: Any, t: Any) -> Any:
        a, b = f1(u, p, t), f2(u, p, t)
        # Lists would be concatenated.
        return (a if hasattr(a, "shape") else np.asarray(a)) + (b if hasattr(b, "shape") else np.asarray(b))

    return whole


def _first_order(problem: ODEProblem) -> tuple[Callable[..., Any], ...]:
    """The whole right-hand side ``f(x, p, t)`` and its two parts; the same functions each time, so that captures are shared."""
    shared = store(problem.functions[0])
    key = (problem.kind, problem.functions[1:])
    found = shared.get(key)
    if found is None:
        if problem.kind == "split":
            a, b = (_out_of_place(f, 3) for f in problem.functions)
            found = (_sum_of(a, b), a, b)
        elif problem.kind == "dynamical":
            found = _partitioned(*(_out_of_place(f, 4) for f in problem.functions))
        else:
            found = _partitioned(_out_of_place(problem.functions[0], 4), lambda v, u, p, t: v)
        shared[key] = found
    return found


def _stacked(v0: Any, u0: Any, velocity: str) -> Any:
    """``[v0, u0]`` as one state."""
    for x, name in ((v0, velocity), (u0, "u0")):
        if x is None:
            raise TypeError(f"{name} is missing")
    if tuple(np.shape(v0)) != tuple(np.shape(u0)):
        raise ValueError(f"{velocity} has shape {tuple(np.shape(v0))} and u0 {tuple(np.shape(u0))}; they must be the same")
    if is_tensor(v0) and is_tensor(u0) and v0.dtype != u0.dtype:
        raise TypeError(f"{velocity} is {v0.dtype} and u0 {u0.dtype}; they must be the same")
    if is_tensor(v0) or is_tensor(u0):
        return _stack(v0, u0)
    return np.stack([np.asarray(v0), np.asarray(u0)])
