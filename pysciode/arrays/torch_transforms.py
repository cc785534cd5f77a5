"""Support for torch.func's transformations (grad, vmap, jacrev, …)."""

from __future__ import annotations

import torch
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.jit._trace import is_tracing


def transforming() -> bool:
    """Whether a torch.func transformation is running."""
    return torch._C._are_functorch_transforms_active()


def is_wrapped(x: torch.Tensor) -> bool:
    """Whether `x` stands for another tensor inside a transformation, so that its values can't be looked at."""
    return is_functorch_wrapped_tensor(x)


def refuse_tracing(x: torch.Tensor) -> None:
    """Refuse torch's exporters and tracers: they pass tensors without values, or record operations, and a solve can't be recorded.

    Raises
    ------
    TypeError
        Naming what can be done instead.
    """
    symbolic = type(x).__name__ in ("FakeTensor", "FunctionalTensor")
    if symbolic or is_tracing():
        raise TypeError(
            "a solve can't be traced (torch.export, torch.jit.trace, make_fx): it runs outside of torch. torch.compile works, "
            "without fullgraph=True; to export a model, replace the solve by fixed steps"
        )
