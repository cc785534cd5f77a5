"""Models that stay in Python: C function pointers that Julia calls from inside a solve."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..capture.model import CallbackModel

# One thread solves one problem at a time; its exception waits here until the solve has unwound.
_raised = threading.local()


def take_exception() -> BaseException:
    """The exception that a model raised during the last solve of this thread."""
    error = getattr(_raised, "error", None)
    _raised.error = None
    return error if error is not None else RuntimeError("a Python model failed, and its exception was lost")


def step_function(steps: Sequence[Callable[[np.ndarray, float], None]], n: int, dtype: np.dtype) -> Any:
    """Python's functions of every step as one C function; must outlive the solve."""
    pointer = _pointer(dtype)

    def step(t: float, u: Any) -> int:
        try:
            for function in steps:
                function(np.ctypeslib.as_array(u, (n,)).copy(), t)
            return 0
        except BaseException as error:
            _raised.error = error
            return 1

    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_double, pointer)(step)


def norm_function(norm: Callable[[np.ndarray], float], dtype: np.dtype) -> Any:
    """Python's norm as a C function; must outlive the solve."""

    def c_norm(u: Any, n: int, out: Any) -> int:
        try:
            out[0] = float(norm(np.ctypeslib.as_array(u, (n,)).copy()))
            return 0
        except BaseException as error:
            _raised.error = error
            return 1

    arguments = (_pointer(dtype), ctypes.c_int64, ctypes.POINTER(ctypes.c_double))
    return ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(c_norm)


def _pointer(dtype: np.dtype) -> Any:
    return ctypes.POINTER(ctypes.c_double if dtype == np.float64 else ctypes.c_float)


class PythonFunctions:
    """`f` and `vjp` of a callback model as C functions; must outlive every solve that uses them.

    Parameters
    ----------
    model
        The captured model.
    shape
        The state's own shape.
    n_params
        Length of the flat parameter vector.
    """

    def __init__(self, model: CallbackModel, shape: tuple[int, ...], n_params: int, dtype: np.dtype) -> None:
        pointer = _pointer(dtype)
        n = int(np.prod(shape))

        def state(address: Any) -> np.ndarray:
            return np.ctypeslib.as_array(address, (n,)).reshape(shape)

        def parameters(address: Any) -> np.ndarray:
            return np.ctypeslib.as_array(address, (n_params,)) if n_params else np.empty(0, dtype)

        def f(du: Any, u: Any, p: Any, t: float) -> int:
            try:
                state(du)[...] = model.f(state(u), parameters(p), t)
                return 0
            except BaseException as error:  # Julia must unwind before Python may raise
                _raised.error = error
                return 1

        def vjp(dlam: Any, dp: Any, lam: Any, u: Any, p: Any, t: float) -> int:
            try:
                du_bar, p_bar = model.vjp(state(lam), state(u), parameters(p), t)
                state(dlam)[...] = du_bar
                if n_params:
                    parameters(dp)[...] = p_bar
                return 0
            except BaseException as error:
                _raised.error = error
                return 1

        self._f = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, ctypes.c_double)(f)
        self._vjp = None
        if model.vjp is not None:
            self._vjp = ctypes.CFUNCTYPE(ctypes.c_int, *[pointer] * 5, ctypes.c_double)(vjp)

    @property
    def addresses(self) -> tuple[int, int]:
        """Of `f` and `vjp`; 0 where there is no `vjp`."""
        f = ctypes.cast(self._f, ctypes.c_void_p).value
        return f, 0 if self._vjp is None else ctypes.cast(self._vjp, ctypes.c_void_p).value
