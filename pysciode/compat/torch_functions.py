"""A function ``func(t, y)`` as a model ``f(u, p, t)``, kept with the function, so that it is captured once for all calls."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch

from ..errors import CallbackWarning, CaptureError, FallbackWarning
from ..model_cache import ADAPTER, _Same, store
from ..problems import ODEProblem, posed
from .torch_reach import Place, Reached, counted, number_at, place_id, put_number
from .torch_states import Form

_CAPTURES = 8
"""So many captures of a function are kept; one that is given other constants at every call would fill the memory."""


class Adapter:
    """`func` on states of one form.

    Attributes
    ----------
    f
        ``f(u, p, t)`` on the real tensor of the form; what problems are posed of.
    not_here
        Why `func` can't be solved by Julia; None if it can.
    """

    def __init__(self, func: Callable[..., Any], form: Form) -> None:
        self.func = func
        self.form = form
        self.f = _model(func, form)
        setattr(self.f, ADAPTER, self)
        self.not_here: str | None = None
        self.reached: Reached | None = None
        self._counters: list[tuple[Place, int]] = []
        self._counting: frozenset[Hashable] = frozenset()
        self._unused: frozenset[str] = frozenset()
        self._in_python: set[bool | None] = set()
        self._tried = False
        self._lock = threading.RLock()

    @classmethod
    def of(cls, func: Callable[..., Any], form: Form) -> Adapter:
        """The adapter kept with `func`."""
        kept = store(func)
        found = kept.get(("adapter", form))
        if found is None:
            found = kept.setdefault(("adapter", form), cls(func, form))
        return found

    @property
    def in_python(self) -> bool:
        """Whether `func` can't be captured and is called from the solver, in its present mode of training."""
        return getattr(self.func, "training", None) in self._in_python

    def fingerprint(self) -> Hashable:
        if self.in_python:
            # Python sees everything else as it is.
            return tuple(map(_Same, self.reached.tensors.values()))
        return self.reached.key

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.reached.tensors

    def look(self, t0: float, u0: torch.Tensor) -> None:
        """See what `func` is now; at first, evaluate it, so that it raises what is wrong with itself.

        Raises
        ------
        Exception
            Whatever `func` raises.
        """
        self.reached = Reached(self.func, self._counting)
        if not self._tried:
            with self._lock:
                if not self._tried:
                    self._try_out(t0, u0)
                    self._tried = True

    def _try_out(self, t0: float, u0: torch.Tensor) -> None:
        t, u = torch.tensor(t0, dtype=u0.dtype), u0.detach().clone()
        _, self._counters = counted(self.reached.numbers, lambda: self.f(u, None, t))
        if self._counters:
            self._counting = frozenset(place_id(place) for place, _ in self._counters)
            self.reached = Reached(self.func, self._counting)
        self.not_here = self._unsolvable(u0)
        if self.not_here is None and self.reached.tensors:
            counted(self.reached.numbers, lambda: self._follow_gradients(t, u))

    def _unsolvable(self, u0: torch.Tensor) -> str | None:
        for name, x in self.reached.tensors.items():
            if x.dtype != u0.dtype or x.device.type != "cpu":
                return f"{name} is of {x.dtype} on {x.device}, but the state of {u0.dtype} on {u0.device}"
        return None

    def _follow_gradients(self, t: torch.Tensor, u: torch.Tensor) -> None:
        """Which of the tensors `func` does not use, and whether it uses others."""
        tensors = self.reached.tensors
        try:
            with torch.enable_grad():
                out = self.f(u.requires_grad_(), None, t)
        except Exception:
            return  # it works without gradients, and is asked for none
        if not out.requires_grad:
            return
        names = list(tensors)
        grads = torch.autograd.grad(out.sum(), [tensors[name] for name in names], allow_unused=True, retain_graph=True)
        self._unused = frozenset(name for name, grad in zip(names, grads, strict=True) if grad is None)
        known = {id(x) for x in (*tensors.values(), u)}
        if any(id(x) not in known for x in _leaves(out, [x.grad_fn for x in tensors.values() if x.grad_fn is not None])):
            self.not_here = "it uses a trainable tensor that pysciode can't find from it; make it an attribute of func"

    def pose(self, u0: torch.Tensor, tspan: Any, trained: frozenset[int] | None) -> ODEProblem:
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
        python = self.in_python
        if trained is None:
            unused = frozenset() if python else self._unused
            modules = [(name, x.detach() if name in unused else x) for name, x in self.reached.tensors.items()]
        else:
            modules = [(name, x if id(x) in trained else x.detach()) for name, x in self.reached.tensors.items()]
        problem = posed(self.f, u0, tspan, modules, "callback" if python else "auto")
        captures = store(self.f)
        if problem._key() not in captures:
            self._capture(problem)
            while len(captures) > _CAPTURES:
                captures.pop(next(iter(captures)))
        problem._capture()
        return problem

    def _capture(self, problem: ODEProblem) -> None:
        def run() -> None:
            problem.model

        counted(self.reached.numbers, run)

    def leave_in_python(self, error: CaptureError) -> None:
        """From now on `func` is called from the solver; said once."""
        self._in_python.add(getattr(self.func, "training", None))
        where = f"\n  at {error.where}" if error.where else ""
        warn_once(
            self.func,
            "callback",
            CallbackWarning,
            f"{_name(self.func)} can't be compiled for Julia, so the solver calls Python: right, but 10 to 100 times slower than it "
            f"could be. {error.reason}{where}\nWithout that, it is compiled.",
        )

    def count(self, evaluations: int) -> None:
        """Bring the numbers with which `func` counts its evaluations up to date; in Python they do that themselves."""
        if not self.in_python:
            for place, step in self._counters:
                put_number(place, number_at(place) + step * evaluations)

    @property
    def counts(self) -> bool:
        return bool(self._counters) and not self.in_python


def warn_once(func: Any, about: str, category: type[Warning], message: str) -> None:
    """Warn, but of `func` only once."""
    told = store(func).setdefault("told", set())
    if about not in told:
        told.add(about)
        warnings.warn(message, category, stacklevel=_depth_of_user())


def warn_handed_over(func: Any, reason: str) -> None:
    """Say that torchdiffeq itself solves."""
    warn_once(func, reason, FallbackWarning, f"{_name(func)} is solved by torchdiffeq itself, not by Julia: {reason}")


def _depth_of_user() -> int:
    """For `warnings.warn`: the nearest frame that is not this package's."""
    import sys

    root, depth = __name__.partition(".")[0], 1
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == root:
        frame, depth = frame.f_back, depth + 1
    return depth - 1


def _name(func: Any) -> str:
    return getattr(func, "__qualname__", None) or type(func).__name__


def _model(func: Callable[..., Any], form: Form) -> Callable[..., torch.Tensor]:
    if form.is_plain:
        shape, dtype = form.shape, form.dtype

        def f(u, p, t):
            du = func(t, u)
            # Symbols go through as they are, and most tensors too.
            if not hasattr(du, "requires_grad") or (du.shape == shape and du.dtype == dtype):
                return du
            return form.real(du)

    else:

        def f(u, p, t):
            return form.real(func(t, form.user(u)))

    return f


def _leaves(x: torch.Tensor, stops: list[Any]) -> Iterator[torch.Tensor]:
    """The leaves of the graph behind `x` that are reached without passing one of `stops`."""
    waiting, seen = [x.grad_fn], set(stops)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [following for following, _ in node.next_functions]
