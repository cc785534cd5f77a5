"""Models that stay in Python: C function pointers that Julia calls from inside a solve."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ..capture.model import CallbackModel
from .calls_from_julia import callable_from_julia


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
        scalar = ctypes.c_double if dtype == np.float64 else ctypes.c_float
        pointer = ctypes.POINTER(scalar)
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

        self._f = callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, ctypes.c_double), f)
        self._vjp = None
        if model.vjp is not None:
            self._vjp = callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, *[pointer] * 5, ctypes.c_double), vjp)

    @property
    def addresses(self) -> tuple[int, int]:
        """Of `f` and `vjp`; 0 where there is no `vjp`."""
        f = ctypes.cast(self._f, ctypes.c_void_p).value
        return f, 0 if self._vjp is None else ctypes.cast(self._vjp, ctypes.c_void_p).value
