"""A function ``func(t, y)`` as a model ``f(u, p, t)``, kept with the function, so that it is captured once for all calls."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch

from ...capture.code_reads import reads_of
from ...capture.compiled_model import _Store, share, store
from ...capture.parts import ADAPTER
from ...capture.reach import Reached
from ...capture.state_changes import Place, counted, number_at, place_id, put_number
from ...errors import CallbackWarning, CaptureError, FallbackWarning, depth_of_user
from ...graphs.node_source import ScalarIndices
from ...problems.base import Problem
from ...problems.ode import posed
from .numbers_taken import NumbersTaken
from .states import Form, widened

_KEPT = 8
"""So many captures of a function are kept; one that is given other constants at every call would fill the memory."""


@dataclass(frozen=True)
class Findings:
    """The findings of an evaluation.

    Attributes
    ----------
    unused
        Names of tensors that are reached but not used.
    not_here
        Why Julia can't solve; None if it can.
    """

    unused: frozenset[str] = frozenset()
    not_here: str | None = None


@dataclass(eq=False)
class Known:
    """What is kept for a function, and for others with the same code that are made anew at every call."""

    captures: _Store = field(default_factory=_Store)
    findings: dict[Hashable, Findings] = field(default_factory=dict)
    counters: list[tuple[Place, int]] = field(default_factory=list)
    constants: dict[str, tuple[torch.Tensor, int]] = field(default_factory=dict)
    changing: frozenset[str] = frozenset()
    in_python: set[bool | None] = field(default_factory=set)
    lock: Any = field(default_factory=threading.RLock)


class Adapter:
    """`func` on states of one form.

    Attributes
    ----------
    f
        ``f(u, p, t)`` on the real tensor of the form; what problems are posed of.
    """

    _reached: Reached

    def __init__(self, func: Callable[..., Any], form: Form, known: Known) -> None:
        self.func = func
        self.form = form
        self.f = _model(func, form)
        setattr(self.f, ADAPTER, self)
        share(self.f, known.captures)
        self._known = known

    @classmethod
    def of(cls, func: Callable[..., Any], form: Form) -> Adapter:
        """The adapter kept with `func`."""
        kept = store(func)
        found = kept.get(("adapter", form))
        if found is None:
            home, code = _home(func)
            known = Known() if home is None else store(home).setdefault((code, form), Known())
            found = kept.setdefault(("adapter", form), cls(func, form, known))
        return found

    @property
    def in_python(self) -> bool:
        """Whether `func` can't be captured and is called from the solver, in its present mode of training."""
        return getattr(self.func, "training", None) in self._known.in_python

    @property
    def not_here(self) -> str | None:
        """Why Julia can't solve it; None if it can."""
        return self._findings.not_here

    @property
    def _findings(self) -> Findings:
        return self._known.findings.get(self._reached.key, Findings())

    @property
    def reached(self) -> Reached:
        """What `func` reached at the latest look."""
        return self._reached

    def tensors(self) -> dict[str, torch.Tensor]:
        return self._reached.tensors

    def look(self, t0: float, u0: torch.Tensor) -> None:
        """Look at `func` again; where it changed, evaluate it, so that it raises its own errors.

        Raises
        ------
        Exception
            Any error of `func`.
        """
        known = self._known
        self._reached = self._reach()
        changed = [name for name, x in self._reached.constants.items() if _changed(known.constants.get(name), x, u0)]
        known.constants = self._reached.constants
        if changed and not self.in_python:
            # Next time another value needs no other capture.
            known.changing |= set(changed)
            self._reached = self._reach()
        if self._reached.key not in known.findings:
            with known.lock:
                self._try_out(t0, u0)
                _forget_oldest(known.findings)

    def _reach(self) -> Reached:
        known = self._known
        counting = frozenset(place_id(place) for place, _ in known.counters)
        return Reached(self.func, counting=counting, changing=frozenset() if self.in_python else known.changing)

    @contextmanager
    def looking_again(self) -> Iterator[None]:
        """What `func` reaches is what it reaches inside of this, where others stand in for tensors that torch.func transforms."""
        kept, self._reached = self._reached, self._reach()
        try:
            yield
        finally:
            self._reached = kept

    def _try_out(self, t0: float, u0: torch.Tensor) -> None:
        t, u = u0.new_tensor(t0), u0.detach().clone()
        constants = [x for x, _ in self._reached.constants.values()]
        with NumbersTaken(constants) as taken, ScalarIndices():
            _, counters = counted(self._reached.numbers, lambda: self._evaluate(t, u))
        if taken.error is not None and not self.in_python:
            # To trace it would leave what stands for a number in whatever it keeps these in.
            self.leave_in_python(taken.error)
        if counters:
            self._known.counters = counters
            self._reached = self._reach()
        reason, unused = self._unsolvable(u0), frozenset()
        if reason is None and self._reached.tensors:
            (unused, reason), _ = counted(self._reached.numbers, lambda: self._follow_gradients(t, u))
        self._known.findings[self._reached.key] = Findings(unused, reason)

    def _evaluate(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        try:
            return self.f(u, None, t)
        except RuntimeError as error:
            if "require" not in str(error) or "grad" not in str(error):
                raise
        # It takes a derivative by the state itself, as a Hamiltonian net does; in a capture, the state requires a gradient.
        with torch.enable_grad():
            return self.f(u.clone().requires_grad_(), None, t).detach()

    def _unsolvable(self, u0: torch.Tensor) -> str | None:
        for name, x in self.tensors().items():
            if (x.dtype != u0.dtype and not (self.form.is_half and x.dtype == self.form.dtype)) or x.device != u0.device:
                return f"{name} is of {x.dtype} on {x.device}, but the state of {u0.dtype} on {u0.device}"
        return None

    def _follow_gradients(self, t: torch.Tensor, u: torch.Tensor) -> tuple[frozenset[str], str | None]:
        """The tensors that `func` does not use, and whether it uses others."""
        tensors = {name: x for name, x in self.tensors().items() if x.requires_grad}
        try:
            with torch.enable_grad():
                out = self.f(u.requires_grad_(), None, t)
        except Exception:
            return frozenset(), None  # it works without gradients, and will be asked for none
        if not out.requires_grad or not tensors:
            return frozenset(), None
        with torch.enable_grad():
            total = out.sum()
        grads = torch.autograd.grad(total, list(tensors.values()), allow_unused=True, retain_graph=True)
        unused = frozenset(name for name, grad in zip(tensors, grads, strict=True) if grad is None)
        known = {id(x) for x in (*tensors.values(), u)}
        inner = [x.grad_fn for x in tensors.values() if x.grad_fn is not None]
        if any(id(x) not in known for x in _leaves(out, inner)):
            return unused, "it uses a trainable tensor that can't be found from it; make it an attribute of func"
        return unused, None

    def pose(self, u0: torch.Tensor, tspan: Any, trained: frozenset[int] | None) -> Problem:
        """The problem for these values, captured.

        Parameters
        ----------
        trained
            Identities of the tensors that are to have gradients; None for all that are used.

        Raises
        ------
        CaptureError
            If `func` can't be captured; :meth:`leave_in_python` then.
        """
        python, tensors = self.in_python, self.tensors()
        if trained is None:
            still = frozenset() if python else self._findings.unused
            modules = [(name, x.detach() if name in still else x) for name, x in tensors.items()]
        else:
            modules = [(name, x if id(x) in trained else x.detach()) for name, x in tensors.items()]
        modules = [(name, widened(x)) for name, x in modules]
        problem = posed(self.f, u0, tspan, modules, "callback" if python else "auto")
        if problem._key() not in self._known.captures:
            counted(self._reached.numbers, lambda: problem.model)
            _forget_oldest(self._known.captures)
        problem._capture()
        return problem

    def leave_in_python(self, error: CaptureError) -> None:
        """From now on `func` is called from the solver; said once."""
        self._known.in_python.add(getattr(self.func, "training", None))
        self._reached = self._reach()
        where = f"\n  at {error.where}" if error.where else ""
        warn_once(
            self.func,
            "callback",
            CallbackWarning,
            f"{_name(self.func)} can't be compiled for Julia, so the solver calls Python: right, but 10 to 100 times slower than "
            f"it could be. {error.reason}{where}\nWithout that, it is compiled.",
        )

    @property
    def counts(self) -> bool:
        """Whether `func` counts its evaluations, and can't do so itself."""
        return bool(self._known.counters) and not self.in_python

    def count(self, evaluations: int) -> None:
        """Update its counters."""
        for place, step in self._known.counters:
            put_number(place, number_at(place) + step * evaluations)


def warn_once(func: Any, about: str, category: type[Warning], message: str) -> None:
    """Warn, but of `func` only once."""
    home, code = _home(func)
    told = store(func if home is None else home).setdefault(("told", code), set())
    if about not in told:
        told.add(about)
        warnings.warn(message, category, stacklevel=depth_of_user())


def warn_handed_over(func: Any, reason: str) -> None:
    """Say that torchdiffeq itself solves."""
    warn_once(func, reason, FallbackWarning, f"{_name(func)} is solved by torchdiffeq itself, not by Julia: {reason}")


def _name(func: Any) -> str:
    return getattr(func, "__qualname__", None) or type(func).__name__


def _home(func: Any) -> tuple[Any, Hashable]:
    """An object that outlives a function made anew at every call (a lambda, a partial), and what tells its code from others."""
    if isinstance(func, functools.partial):
        return func.func, "partial"
    if not isinstance(func, FunctionType) or "<locals>" not in func.__qualname__ and "<lambda>" not in func.__qualname__:
        return None, None
    reached = [cell.cell_contents for cell in func.__closure__ or () if _is_filled(cell)]
    reached += [func.__globals__[name] for name in reads_of(func.__code__).globals if name in func.__globals__]
    for kind in (torch.nn.Module, torch.Tensor):
        for x in reached:
            if isinstance(x, kind):
                return x, func.__code__
    return None, None


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents
    except ValueError:
        return False
    return True


def _changed(old: tuple[torch.Tensor, int] | None, new: tuple[torch.Tensor, int], u0: torch.Tensor) -> bool:
    """Whether a tensor has got other values, and could be a parameter."""
    if old is None or (old[0] is new[0] and old[1] == new[1]):
        return False
    x = new[0]
    return old[0].shape == x.shape and x.dtype == u0.dtype and x.device == u0.device


def _forget_oldest(kept: dict) -> None:
    while len(kept) > _KEPT:
        kept.pop(next(iter(kept)))


def _model(func: Callable[..., Any], form: Form) -> Callable[..., torch.Tensor]:
    if form.is_plain:
        shape, dtype = form.shape, form.dtype

        def f(u: Any, p: Any, t: Any) -> Any:
            du = func(t, u)
            # Symbols go through as they are, and most tensors too.
            if not hasattr(du, "requires_grad") or (du.shape == shape and du.dtype == dtype):
                return du
            return form.real(du)

    else:

        def f(u: Any, p: Any, t: Any) -> Any:
            return form.real(func(t.to(form.dtype) if form.is_half else t, form.user(u)))

    return f


def _leaves(x: torch.Tensor, stops: list[Any]) -> Iterator[torch.Tensor]:
    """The leaves of the graph behind `x` that are reached without passing one of `stops`."""
    waiting, seen = [x.grad_fn], set(stops)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable
        waiting += [following for following, _ in node.next_functions]
