"""Python models, SymPy expressions and Julia source -> captured models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CaptureError
from ..graphs.captured_model import ArrayModel, CallbackModel, CapturedModel, JuliaModel, ScalarModel
from .reach import mentions_torch

if TYPE_CHECKING:
    from ..arrays.parameters import ParameterLayout

__all__ = ["ArrayModel", "CallbackModel", "CapturedModel", "JuliaModel", "ScalarModel", "capture"]

CHOICES = ("auto", "symbolic", "torch", "julia", "callback")


def capture(
    f: Any, u0: Any, p: Any = None, t0: float = 0.0, *, capture: str = "auto", output: tuple[int, ...] | None = None
) -> CapturedModel:
    """Capture a model: trace its function into a form that can be compiled.

    Parameters
    ----------
    f
        A plain Python or NumPy function, a torch function or ``nn.Module``, a
        :class:`~pysciode.capture.symbolic.SymbolicModel` (or a tuple ``(rhs, states, parameters[, t])`` of SymPy
        expressions), Julia source or the path of a ``.jl`` file.
    u0
        An initial state: an array or a tensor of the state's shape and dtype.
    p
        Parameters in the user's structure; their values count only for a check of what was captured.
    t0
        A time at which the model can be evaluated.
    capture
        ``"auto"`` chooses by the types of `f`, `u0` and `p`; ``"symbolic"``, ``"torch"``, ``"julia"`` and ``"callback"`` force a form.
    output
        Shape of what `f` returns; None is that of the state.

    Raises
    ------
    CaptureError
        If the model does what can't be turned into Julia.
    ValueError, TypeError
        If arguments don't fit together.
    """
    from ..arrays.parameters import ParameterLayout, is_module, is_tensor
    from .symbolic import is_sympy

    if capture not in CHOICES:
        raise ValueError(f"capture={capture!r}; it is one of {', '.join(map(repr, CHOICES))}")
    if output is None:
        output = tuple(np.shape(u0))
    layout, leaves = ParameterLayout.of(p)
    is_torch = is_tensor(u0) or is_module(f) or any(map(is_tensor, leaves)) or _uses_torch(f)
    kind = capture
    if kind == "auto":
        if isinstance(f, (str, os.PathLike)):
            kind = "julia"
        elif is_sympy(f):
            kind = "symbolic"
        else:
            kind = "torch" if is_torch else "python"
    if kind == "julia":
        return _julia(f)
    if kind == "symbolic" and is_sympy(f):
        return _sympy(f, u0, layout)
    if not callable(f):
        raise TypeError(
            f"a model is a function f(u, p, t), an nn.Module, (rhs, states, parameters) in SymPy, or Julia source; "
            f"not a {type(f).__name__} with capture={capture!r}"
        )
    if kind == "callback":
        return _callback(f, u0, layout, leaves, is_torch, output)
    if kind == "torch":
        return _torch(f, u0, layout, leaves, t0, output, plain=capture == "auto")
    return _python(f, u0, layout, leaves, t0, output)


def _uses_torch(f: Any) -> bool:
    return "torch" in sys.modules and callable(f) and mentions_torch(f)


def _julia(f: Any) -> JuliaModel:
    from .julia_source import capture_julia

    if not isinstance(f, (str, os.PathLike)):
        raise TypeError(f"capture='julia' needs Julia source or a path, not a {type(f).__name__}")
    return capture_julia(f)


def _sympy(f: Any, u0: Any, layout: ParameterLayout) -> ScalarModel:
    from .symbolic import as_symbolic_model

    model = as_symbolic_model(f).captured
    n = int(np.prod(np.shape(u0)))
    if len(model.u) != n:
        raise ValueError(f"the expressions have {len(model.u)} states, but u0 has {n} entries")
    if len(model.p) != layout.size:
        raise ValueError(f"the expressions have {len(model.p)} parameters, but p has {layout.size} entries")
    return model


def _python(f: Callable[..., Any], u0: Any, layout: ParameterLayout, leaves: list[Any], t0: float, output: tuple[int, ...]) -> ScalarModel:
    from .capture_check import check_capture
    from .scalar_trace import trace_function

    model = trace_function(f, tuple(np.shape(u0)), layout.size, layout.unflatten, output=output)
    check_capture(model, f, u0, layout, leaves, t0, output)
    return model


def _torch(
    f: Callable[..., Any],
    u0: Any,
    layout: ParameterLayout,
    leaves: list[Any],
    t0: float,
    output: tuple[int, ...],
    *,
    plain: bool,
) -> CapturedModel:
    """Capture as scalars where the model is small, and otherwise as arrays."""
    import torch

    state = u0 if isinstance(u0, torch.Tensor) else torch.as_tensor(np.asarray(u0))
    if plain and not isinstance(f, torch.nn.Module) and not mentions_torch(f):
        # Arithmetic that knows nothing of torch is captured a hundred times quicker as it stands.
        try:
            return _python(f, state, layout, leaves, t0, output)
        except Exception:
            pass  # it may use methods that only tensors have: torch decides, and its message is better
    from ..lowering.scalars.unroll import unroll
    from .torch.array_capture import capture_torch

    model = capture_torch(f, state, layout.rebuild(leaves), t0, output=output)
    return unroll(model) or model


def _callback(
    f: Callable[..., Any], u0: Any, layout: ParameterLayout, leaves: list[Any], is_torch: bool, output: tuple[int, ...]
) -> CallbackModel:
    if output != tuple(np.shape(u0)):
        raise CaptureError("a function that stays in Python must return what has the state's shape")
    from .callback import capture_callback, capture_torch_callback

    if is_torch:
        import torch

        if any(isinstance(x, torch.Tensor) and x.device.type != "cpu" for x in (u0, *leaves)):
            raise CaptureError("a model on another device than the CPU can't be called from the solver")
        return capture_torch_callback(f, layout, u0 if isinstance(u0, torch.Tensor) else torch.as_tensor(np.asarray(u0)))
    return capture_callback(f, layout, np.asarray(u0).dtype if np.asarray(u0).dtype.kind == "f" else np.float64)
