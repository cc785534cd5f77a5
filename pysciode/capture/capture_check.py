"""Check that the captured model computes the same as the user's function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CaptureError
from ..graphs.captured_model import ScalarModel
from .scalar_trace import argument_roles, call_model

if TYPE_CHECKING:
    from ..arrays.parameters import ParameterLayout


def check_capture(
    model: ScalarModel, f: Callable[..., Any], u0: Any, layout: ParameterLayout, leaves: list[Any], t0: float, output: tuple[int, ...]
) -> None:
    """Call `f` once at `u0`, on NumPy arrays or tensors as `u0` is, and compare.

    A function that runs on symbols may still be another one on numbers: one that counts its calls, draws random numbers, or
    branches on the type of its arguments.

    Raises
    ------
    CaptureError
        If both are finite and differ; also if `u0` is a tensor and `f` fails on it.
    """
    from ..arrays.parameters import flat_array, is_tensor
    from ..lowering.scalars.python_function import evaluate

    flat = np.array(flat_array(leaves, np.float64), float)
    if is_tensor(u0):
        u = u0.detach().double().cpu().numpy()
        expected = _call_torch(f, u, layout, flat, t0, output)
    else:
        u = np.array(u0, float)
        expected = _call(f, u.copy(), layout.unflatten(flat.copy()), float(t0), output)
    if expected is None:
        return
    found = evaluate(model, u, flat, float(t0)).reshape(output)
    scale = np.maximum(np.abs(expected), np.abs(found))
    # Cancellation leaves errors of the size of the largest entry.
    tolerance = 1e-6 * (scale + scale[np.isfinite(scale)].max(initial=0.0))
    with np.errstate(all="ignore"):
        wrong = np.isfinite(expected) & np.isfinite(found) & (np.abs(expected - found) > tolerance)
    if wrong.any():
        index = tuple(int(k) for k in np.argwhere(wrong)[0])
        raise CaptureError(
            f"at the initial state the model gives du{list(index)} = {expected[index]:g}, but the formula captured from it "
            f"gives {found[index]:g}: does it use random numbers, count its calls, or look at the type of its arguments?"
        )


def _call(f: Callable[..., Any], u: np.ndarray, p: Any, t: float, output: tuple[int, ...]) -> np.ndarray | None:
    """What `f` returns on numbers, None where it can't be called so."""
    state = u if u.ndim else u[()]
    try:
        with np.errstate(all="ignore"):
            result = call_model(f, argument_roles(f), state, p, t, np.zeros(output))
            return np.asarray(result, float).reshape(output)
    except Exception:
        # Python's own functions raise where the formula gives NaN, such as math.log(-1).
        return None


def _call_torch(
    f: Callable[..., Any], u: np.ndarray, layout: ParameterLayout, flat: np.ndarray, t: float, output: tuple[int, ...]
) -> np.ndarray:
    import torch

    with torch.no_grad():
        state, p, time = torch.tensor(u), layout.unflatten(torch.tensor(flat)), torch.tensor(t, dtype=torch.float64)
        try:
            result = call_model(f, argument_roles(f), state, p, time, state.new_zeros(output))
            result = result.numpy() if isinstance(result, torch.Tensor) else np.array(result, float)
        except Exception as error:
            raise CaptureError(f"the model fails on tensors: {error}") from error
    return result.reshape(output)
