"""Users' functions brought to one form: out of place, on the whole state."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays.parameters import is_tensor


def check_python(f: Any, name: str) -> None:
    if not callable(f):
        raise TypeError(f"{name} must be a Python function for this kind of problem, not {type(f).__name__}")


def out_of_place(f: Callable[..., Any], n_arguments: int) -> Callable[..., Any]:
    """`f` itself, or where it takes one argument more, a function that returns what `f` writes into it."""
    try:
        positional = [x for x in inspect.signature(f).parameters.values() if x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):
        return f
    if len(positional) != n_arguments + 1 or positional[-1].default is not inspect.Parameter.empty:
        return f

    def out_of_place(*arguments: Any) -> Any:
        like = arguments[0]
        out = like.new_zeros(like.shape) if is_tensor(like) else np.zeros_like(like)
        f(out, *arguments)
        return out

    return out_of_place


def stack(a: Any, b: Any) -> Any:
    if is_tensor(a) or is_tensor(b):
        torch = sys.modules["torch"]  # not imported: what reads a model would take one for NumPy as one for torch
        return torch.stack((torch.as_tensor(a), torch.as_tensor(b)))
    return np.stack([np.asarray(a), np.asarray(b)])


def stacked(v0: Any, u0: Any, velocity: str) -> Any:
    """``[v0, u0]`` as one state."""
    for x, name in ((v0, velocity), (u0, "u0")):
        if x is None:
            raise TypeError(f"{name} is missing")
    if tuple(np.shape(v0)) != tuple(np.shape(u0)):
        raise ValueError(f"{velocity} has shape {tuple(np.shape(v0))} and u0 {tuple(np.shape(u0))}; they must be the same")
    if is_tensor(v0) and is_tensor(u0) and v0.dtype != u0.dtype:
        raise TypeError(f"{velocity} is {v0.dtype} and u0 {u0.dtype}; they must be the same")
    return stack(v0, u0)
