"""The trainable tensors and the modules that a function reaches without being given them."""

from __future__ import annotations

from typing import Any

import torch

from ...errors import CaptureError
from ..reach import reached_by


def discover_parameters(f: Any) -> dict[str, torch.Tensor]:
    """The trainable tensors that `f` reaches without being given them, by name, each once.

    They lie in modules, closures, the globals that the code names, bound objects, default arguments, ``functools.partial`` and
    containers of these.  Tied parameters appear under their first name.
    """
    return dict(reached_by(f).tensors)


def refuse_training_mode(modules: list[torch.nn.Module]) -> None:
    """Refuse modules that draw random numbers, or change, when they are evaluated.

    Raises
    ------
    CaptureError
        Naming the module.
    """
    for module in modules:
        if not module.training:
            continue
        kind = type(module).__name__
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0:
            raise CaptureError(
                f"{kind} in training mode draws random numbers: a right-hand side must be deterministic. "
                "Call .eval() on the model, or leave the dropout out",
                operation=kind,
            )
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            raise CaptureError(
                f"{kind} in training mode changes its running statistics at every evaluation, which an adaptive solver "
                "repeats as it likes. Call .eval() on the model, or use LayerNorm or GroupNorm",
                operation=kind,
            )
