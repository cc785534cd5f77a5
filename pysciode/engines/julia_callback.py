"""Models that stay in Python: C function pointers that Julia calls from inside a solve."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..capture.model import CallbackModel
from .calls_from_julia import callable_from_julia


def step_function(steps: Sequence[Callable[[np.ndarray, float], None]], n: int, dtype: np.dtype) -> Any:
    """Python's functions of every step as one C function; must outlive the solve."""

    def step(t: float, u: Any) -> None:
        for function in steps:
            function(np.ctypeslib.as_array(u, (n,)).copy(), t)

    return callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_double, _pointer(dtype)), step)


def norm_function(norm: Callable[[np.ndarray], float], dtype: np.dtype) -> Any:
    """Python's norm as a C function; must outlive the solve."""

    def c_norm(u: Any, n: int, out: Any) -> None:
        out[0] = float(norm(np.ctypeslib.as_array(u, (n,)).copy()))

    arguments = (_pointer(dtype), ctypes.c_int64, ctypes.POINTER(ctypes.c_double))
    return callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, *arguments), c_norm)


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

        def f(du: Any, u: Any, p: Any, t: float) -> None:
            state(du)[...] = model.f(state(u), parameters(p), t)

        def vjp(dlam: Any, dp: Any, lam: Any, u: Any, p: Any, t: float) -> None:
            du_bar, p_bar = model.vjp(state(lam), state(u), parameters(p), t)
            state(dlam)[...] = du_bar
            if n_params:
                parameters(dp)[...] = p_bar

        def jac(J: Any, u: Any, p: Any, t: float) -> None:
            np.ctypeslib.as_array(J, (n, n)).T[...] = model.jac(state(u), parameters(p), t)  # Julia has columns first

        self._f = callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, ctypes.c_double), f)
        self._jac = None
        if model.jac is not None:
            self._jac = callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, ctypes.c_double), jac)
        self._vjp = None
        if model.vjp is not None:
            self._vjp = callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, *[pointer] * 5, ctypes.c_double), vjp)

    @property
    def addresses(self) -> dict[str, int]:
        """By the function's name; 0 where there is none."""
        functions = {"f": self._f, "vjp": self._vjp, "jac": self._jac}
        return {name: 0 if x is None else ctypes.cast(x, ctypes.c_void_p).value for name, x in functions.items()}
