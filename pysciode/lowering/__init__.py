"""Captured models -> Julia source."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from ..graphs.captured_model import ArrayModel, CapturedModel, JuliaModel, ScalarModel
from .lowered_model import LoweredModel

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["LoweredModel", "lower"]


def lower(model: CapturedModel, dtype: DTypeLike, *, n: int, n_params: int, want: Collection[str], device: bool = False) -> LoweredModel:
    """Julia source of `model` with at least the functions `want`; see :class:`LoweredModel` for their names.

    Parameters
    ----------
    dtype
        ``float32`` or ``float64``.
    n, n_params
        Lengths of the flat state and of the flat parameter vector.
    device
        Whether the vectors lie on a device, such as a GPU: the form ``"device"``, which leaves out ``jac_sparse!`` and ``f_oop``.

    Raises
    ------
    ValueError
        If the model has another number of states or parameters than the problem.
    TypeError
        For a model that stays in Python.
    """
    dtype = np.dtype(dtype)
    if isinstance(model, ScalarModel):
        if (len(model.u), len(model.p)) != (n, n_params):
            raise ValueError(f"the model has {len(model.u)} states and {len(model.p)} parameters, the problem {n} and {n_params}")
        if device:
            from .device.device_functions import lower_scalar_to_device

            return lower_scalar_to_device(model, dtype, want)
        from .scalars.scalar_functions import lower_scalar

        return lower_scalar(model, dtype, want)
    if isinstance(model, ArrayModel):
        if device:
            from .device.device_functions import lower_array_to_device

            return lower_array_to_device(model, want)
        from .loops.array_functions import lower_array

        return lower_array(model, want)
    if isinstance(model, JuliaModel):
        from .julia_functions import lower_julia

        return lower_julia(model, dtype, n, n_params, device=device)
    raise TypeError(f"a {type(model).__name__} stays in Python: it is called, not lowered")
