"""Models that stay in Python: C function pointers that Julia calls from inside a solve."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...graphs.captured_model import CallbackModel
from .calls_from_julia import callable_from_julia


def step_function(steps: Sequence[Callable[[np.ndarray, float], None]], n: int, dtype: np.dtype) -> Any:
    """Python's functions of every step as one C function; must outlive the solve."""
    state = _Arrays((n,), dtype)

    def step(t: float, u: Any) -> None:
        for function in steps:
            function(state(u).copy(), t)

    return callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_double, ctypes.c_void_p), step)


def norm_function(norm: Callable[[np.ndarray], float], n: int, dtype: np.dtype) -> Any:
    """Python's norm of flat states as a C function; must outlive the solve."""
    state, number = _Arrays((n,), dtype), _Arrays((1,), np.dtype(np.float64))

    def c_norm(u: Any, out: Any) -> None:
        number(out)[0] = norm(state(u).copy())

    return callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p), c_norm)


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
        state = _Arrays(shape, dtype)
        parameters = _Arrays((n_params,), dtype)
        matrix = _Arrays((int(np.prod(shape)),) * 2, dtype)
        pointer = ctypes.c_void_p

        def f(du: Any, u: Any, p: Any, t: float) -> None:
            state(du)[...] = model.f(state(u), parameters(p), t)

        self._f = callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, ctypes.c_double), f)
        self._jac = None
        jacobian = model.jac
        if jacobian is not None:

            def jac(J: Any, u: Any, p: Any, t: float) -> None:
                matrix(J).T[...] = jacobian(state(u), parameters(p), t)  # Julia has columns first

            self._jac = callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer, ctypes.c_double), jac)
        self._vjp = None
        pullback = model.vjp
        if pullback is not None:

            def vjp(dlam: Any, dp: Any, lam: Any, u: Any, p: Any, t: float) -> None:
                du_bar, p_bar = pullback(state(lam), state(u), parameters(p), t)
                state(dlam)[...] = du_bar
                if n_params:
                    parameters(dp)[...] = p_bar

            self._vjp = callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int, *[pointer] * 5, ctypes.c_double), vjp)

    @property
    def addresses(self) -> dict[str, int]:
        """By the function's name; 0 where there is none."""
        functions = {"f": self._f, "vjp": self._vjp, "jac": self._jac}
        return {name: 0 if x is None else ctypes.cast(x, ctypes.c_void_p).value or 0 for name, x in functions.items()}


class _Arrays:
    """Arrays of one shape over Julia's memory.

    A solver passes the same few buffers again and again, and to make an array costs more than a small model does. One that is kept
    is used only when Julia passes its address, where there are then `shape` numbers whatever was there before.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._shape = shape
        self._memory = (ctypes.c_double if dtype == np.float64 else ctypes.c_float) * int(np.prod(shape))
        self._dtype = dtype
        self._kept: dict[int, np.ndarray] = {}

    def __call__(self, address: int | None) -> np.ndarray:
        found = self._kept.get(address)  # type: ignore[arg-type]
        return self._new(address) if found is None else found

    def _new(self, address: int | None) -> np.ndarray:
        if address is None or not self._memory._length_:
            return np.empty(self._shape, self._dtype)
        if len(self._kept) >= 256:
            self._kept.clear()
        found = np.frombuffer(memoryview(self._memory.from_address(address)), self._dtype).reshape(self._shape)
        self._kept[address] = found
        return found
