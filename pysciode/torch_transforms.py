"""What torch.func's transformations (grad, vmap, jacrev, …) ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.utils._pytree as pytree

T = TypeVar("T")


def transforming() -> bool:
    """Whether a torch.func transformation is running."""
    return torch._C._are_functorch_transforms_active()


def is_wrapped(x: torch.Tensor) -> bool:
    """Whether `x` stands for another tensor inside a transformation, so that its values can't be looked at."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def captured_outside(capture: Callable[[Any, Any], T], u0: Any, p: Any) -> T:
    """``capture(u0, p)``, outside of any transformation: a model is the same inside and out.

    Tensors of a transformation are stood in for by ones of the same shape.
    """
    if not transforming():
        return capture(u0, p)

    def plain(x: Any) -> Any:
        if isinstance(x, torch.Tensor) and is_wrapped(x):
            return torch.ones(tuple(x.shape), dtype=x.dtype)
        return x

    u0, p = plain(u0), pytree.tree_map(plain, p)
    with torch._C._DisableFuncTorch():
        return capture(u0, p)
