"""``fun(t, y, *args)`` as a model: captured once for each code and what it reaches, or called from the solver."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from ...arrays.checks import TimeSpan
from ...arrays.parameters import ParameterLayout
from ...capture.capture_check import check_capture
from ...capture.compiled_model import store
from ...capture.parts import NOTHING, NUMBERS
from ...capture.reach import Reached
from ...capture.rebind import rebind
from ...capture.scalar_trace import trace_roles
from ...capture.substituted import Substituted
from ...errors import CallbackWarning, CaptureError
from ...graphs.captured_model import CallbackModel, CapturedModel, ScalarModel
from ...problems.base import Problem
from ...problems.ode import posed
from .complex_states import Complex, pairs, parts, whole

KEPT = 64
"""Captures of one function, with different constants, that are kept; the one not used for longest goes first."""

IN_PYTHON = NOTHING + 1
"""After the levels of capture."""

_ROLES = ("u", "p", "t")


@dataclass(frozen=True)
class Form:
    """How a function is called, and the form of its result.

    Attributes
    ----------
    n
        Number of states.
    is_complex
        Whether they are complex.
    vectorized
        Whether the function takes them as a column.
    event
        Whether it gives one number instead of a derivative, which as a model is put in front of zeros.
    """

    n: int
    is_complex: bool
    vectorized: bool = False
    event: bool = False

    def call(self, fun: Callable[..., Any], t: Any, y: Any, args: tuple[Any, ...]) -> np.ndarray:
        """``fun(t, y, *args)`` on numbers, of shape ``(n,)``; what is smaller is broadcast, as SciPy does.

        Raises
        ------
        ValueError
            If the shapes don't fit.
        TypeError
            If complex numbers would lose their imaginary parts.
        """
        return self._vector(fun(t, y[:, None] if self.vectorized else y, *args), complex if self.is_complex else float)

    def call_on_symbols(self, fun: Callable[..., Any], t: Any, y: Any, args: tuple[Any, ...]) -> np.ndarray:
        """The same on symbols, of which the array is."""
        return self._vector(fun(t, y[:, None] if self.vectorized else y, *args), object)

    def _vector(self, result: Any, dtype: type) -> np.ndarray:
        if dtype is float and getattr(getattr(result, "dtype", None), "kind", None) == "c":
            name = "the event" if self.event else "`fun`"
            raise TypeError(
                f"{name} returned complex numbers, but "
                + (
                    "an event is a real number"
                    if self.event
                    else "`y0` is real: start from a complex one, such as y0 + 0j, or return the real part"
                )
            )
        if self.event:
            out = np.zeros(self.n, dtype)
            out[0] = np.asarray(result, dtype).item()
            return out
        if result is None:
            raise TypeError("`fun` returned None: it must return the derivative of y")
        out = np.asarray(result, dtype)
        if self.vectorized:
            out = out.ravel()
        while out.ndim > 1 and out.shape[0] == 1:
            out = out[0]
        return out if out.shape == (self.n,) else np.broadcast_to(out, (self.n,))


@dataclass(eq=False)
class Model:
    """A captured function, or one that stays in Python, as a problem whose values are filled in for each solve."""

    problem: Problem
    form: Form
    in_python: bool

    def pose(self, y0: np.ndarray, span: tuple[float, float], p: np.ndarray, sparse: bool = False) -> Problem:
        """The problem with these values; nothing is captured or checked again."""
        return self.problem._copy(
            u0=y0,
            tspan=span,
            span=TimeSpan(*span),
            p=p,
            leaves=[p],
            _flat_p=p,
            jac_sparsity=True if sparse and not self.in_python else None,
        )


class _Latest(OrderedDict):
    """A dictionary that keeps what was used last."""

    def find(self, key: Hashable) -> Any:
        found = self.get(key)
        if found is not None:
            self.move_to_end(key)
        return found

    def keep(self, key: Hashable, value: Any) -> None:
        self[key] = value
        if len(self) > KEPT:
            self.popitem(last=False)


@dataclass(eq=False)
class _Function:
    """What is kept for one code: at which level it can be captured, and the models."""

    levels: _Latest = field(default_factory=_Latest)
    models: _Latest = field(default_factory=_Latest)
    reason: str = ""
    warned: bool = False


_functions: weakref.WeakKeyDictionary[CodeType, _Function] = weakref.WeakKeyDictionary()
_lock = threading.RLock()
_current = threading.local()


def model_of(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    y0: np.ndarray,
    t0: float,
    form: Form,
    *,
    position: int = 0,
    has_jac: bool = False,
) -> tuple[Model, np.ndarray]:
    """The model of `fun`, and the values of its parameters now.

    Parameters
    ----------
    position
        Tells functions of one solve from each other that share their code, if they stay in Python.
    has_jac
        Whether a Jacobian goes with it, for a model that stays in Python.

    Raises
    ------
    Exception
        Any error of `fun` at `t0` and `y0`, if it must be captured.
    """
    with _lock:
        known = _known(fun)
        reached = Reached(fun, args, NUMBERS)
        outline = (form, reached.key)
        level = known.levels.find(outline)
        if level is None:
            found = _capture(known, fun, args, y0, t0, form, NUMBERS)
            known.levels.keep(outline, IN_PYTHON if found is None else found[1].level)
        elif level == IN_PYTHON:
            found = None
        else:
            reached = reached if level == NUMBERS else Reached(fun, args, level)
            model = known.models.find((form, reached.key))
            if model is None or (reached.opaque and _differs(model, fun, args, y0, t0, reached)):
                found = _capture(known, fun, args, y0, t0, form, level)
            else:
                found = model, reached
        if found is not None:
            model, reached = found
            return model, reached.flat()
        if not known.warned:
            known.warned = True
            _warn(fun, known.reason, 4 + (position > 0))
        return _in_python(known, form, position, has_jac), np.zeros(0)


@dataclass(frozen=True)
class Call:
    """The functions behind a model that stayed in Python, in one solve."""

    fun: Callable[..., Any]
    args: tuple[Any, ...]
    jac: Any = None

    def jacobian(self, t: float, y: np.ndarray) -> np.ndarray:
        """`jac`, a function or a matrix, as a matrix of real numbers."""
        matrix: Any = self.jac(t, y, *self.args) if callable(self.jac) else self.jac
        matrix = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
        if y.dtype.kind != "c":
            return matrix.reshape(y.size, y.size)
        out = np.empty((y.size, 2, y.size, 2))
        out[:, 0, :, 0] = out[:, 1, :, 1] = matrix.real
        out[:, 1, :, 0] = matrix.imag
        out[:, 0, :, 1] = -matrix.imag
        return out.reshape(2 * y.size, 2 * y.size)


class Calls:
    """While it lasts, models of this thread that stayed in Python call these functions, at times from `start` to `end`.

    A solver may overshoot the end by a rounding error, and difference the time across it; SciPy's don't.
    """

    def __init__(self, calls: dict[Model, Call], start: float, end: float) -> None:
        self._now = (calls, min(start, end), max(start, end))

    def __enter__(self) -> None:
        self._before = getattr(_current, "calls", None)
        _current.calls = self._now

    def __exit__(self, *error: object) -> None:
        _current.calls = self._before


def _known(fun: Any) -> _Function:
    code = _code(fun)
    if code is not None:
        found = _functions.get(code)
        if found is None:
            found = _functions[code] = _Function()
        return found
    return store(fun).setdefault("solve_ivp", _Function())


def _code(fun: Any) -> CodeType | None:
    """The code that runs when `fun` is called, which functions made in a loop share."""
    while True:
        if isinstance(fun, FunctionType):
            return fun.__code__
        inner = getattr(fun, "__func__", None) or getattr(fun, "func", None) or getattr(fun, "py_func", None)
        if inner is None:
            inner = getattr(type(fun), "__call__", None)
            if not isinstance(inner, FunctionType):
                return None
        fun = inner


def _capture(
    known: _Function, fun: Any, args: tuple[Any, ...], y0: np.ndarray, t0: float, form: Form, least: int
) -> tuple[Model, Reached] | None:
    """The model at the first level that will do, with what was reached; None if `fun` must stay in Python."""
    form.call(fun, t0, y0.copy(), args)  # what is wrong with `fun` itself comes out here
    for level in range(least, IN_PYTHON):
        reached = Reached(fun, args, level)
        if reached.level != level:
            continue
        try:
            captured = _trace(fun, args, y0, t0, form, reached)
        except Exception as error:
            known.reason = _reason(error)  # `fun` works on numbers: what it can't do is run on symbols
            continue
        model = Model(_problem(form, captured, len(reached.flat())), form, False)
        known.models.keep((form, reached.key), model)
        return model, reached
    return None


def _trace(fun: Any, args: tuple[Any, ...], y0: np.ndarray, t0: float, form: Form, reached: Reached) -> ScalarModel:
    """`fun` as a formula of real numbers: complex states are pairs of them.

    Raises
    ------
    Exception
        If that is not possible, or the formula disagrees with `fun`.
    """
    values = reached.flat()

    def on_symbols(u: Any, p: Any, t: Any) -> list[Any]:
        if form.is_complex:
            u, p, t = pairs(u), whole(p), Complex(t)
        changed = Substituted(fun, args, reached, _like(reached.values, p))
        out = form.call_on_symbols(rebind(changed.f), t, u, changed.args)
        return parts(out) if form.is_complex else list(out)

    def on_numbers(u: np.ndarray, p: Any, t: float) -> np.ndarray:
        return _floats(form.call(fun, t, u.view(y0.dtype), args))

    start = y0.view(float)
    model = trace_roles(on_symbols, _ROLES, start.shape, values.size)
    layout, leaves = ParameterLayout.of(values)
    # Beside the start, where much may happen to vanish, a point near it.
    near = start + (0.1 * np.abs(start) + 0.01) * np.random.default_rng(0).uniform(-1.0, 1.0, start.shape)
    for u in (start, near):
        check_capture(model, on_numbers, u, layout, leaves, t0, start.shape)
    return model


def _floats(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(float)


def _like(values: Sequence[Any], p: Any) -> list[Any]:
    """The symbols of `p` in the shapes of `values`."""
    out, start = [], 0
    for x in values:
        if isinstance(x, np.ndarray):
            out.append(p[start : start + x.size].reshape(x.shape))
            start += x.size
        else:
            out.append(p[start])
            start += 1
    return out


def _in_python(known: _Function, form: Form, position: int, has_jac: bool) -> Model:
    key = (form, position, has_jac)
    model = known.models.find(key)
    if model is not None:
        return model

    def call_now(u: np.ndarray, t: float) -> tuple[Call, float, np.ndarray]:
        calls, first, last = _current.calls
        u = np.array(u)  # which it may keep or change
        return calls[model], min(max(t, first), last), u.view(complex) if form.is_complex else u

    def f(u: np.ndarray, p: np.ndarray, t: float) -> np.ndarray:
        call, t, y = call_now(u, t)
        out = form.call(call.fun, t, y, call.args)
        return _floats(out) if form.is_complex else out

    def jac(u: np.ndarray, p: np.ndarray, t: float) -> np.ndarray:
        call, t, y = call_now(u, t)
        return call.jacobian(t, y)

    model = Model(_problem(form, CallbackModel(f, None, jac if has_jac else None), 0), form, True)
    known.models.keep(key, model)
    return model


def _placeholder(u: Any, p: Any, t: Any) -> Any:
    raise NotImplementedError  # the captured model is given; holding `fun` itself would keep it alive


def _problem(form: Form, model: CapturedModel, n_params: int) -> Problem:
    n = 2 * form.n if form.is_complex else form.n
    return posed(_placeholder, np.zeros(n), TimeSpan(0.0, 1.0), [], p=np.zeros(n_params), model=model)


def _differs(model: Model, fun: Any, args: tuple[Any, ...], y0: np.ndarray, t0: float, reached: Reached) -> bool:
    """Whether a model made from an object that can't be looked into gives something else than `fun` does now."""
    from ...lowering.scalars.python_function import evaluate

    captured = model.problem.model
    if not isinstance(captured, ScalarModel):
        return True
    found = evaluate(captured, y0.view(float), reached.flat(), t0)
    expected = _floats(model.form.call(fun, t0, y0.copy(), args))
    return not np.allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max(initial=0.0), equal_nan=True)


def _reason(error: Exception) -> str:
    if isinstance(error, CaptureError):
        return error.reason + (f"\n  at {error.where}" if error.where else "")
    return f"{type(error).__name__}: {error}"


def _warn(fun: Any, reason: str, stacklevel: int) -> None:
    name = getattr(fun, "__qualname__", type(fun).__name__)
    warnings.warn(
        f"{name} stays in Python, where the solver calls it: right, but 10 to 100 times slower than a captured one. {reason}",
        CallbackWarning,
        stacklevel=stacklevel,
    )
