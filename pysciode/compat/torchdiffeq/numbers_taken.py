"""Functions that take numbers out of tensors, seen while they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import CaptureError
from ...graphs.user_code import user_line


class NumbersTaken(TorchDispatchMode):
    """Notices ``.item()``, ``float(x)``, ``if x`` of tensors other than `constants`.

    Attributes
    ----------
    error
        The message of capture for the first of them; None without one.
    """

    def __init__(self, constants: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._constants = set(map(id, constants))
        self.error: CaptureError | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and self.error is None and id(args[0]) not in self._constants:
            reason = "It takes a number out of a tensor (if, while, bool(), float() or .item() of it); torch.where has no need to"
            self.error = CaptureError(reason, operation=str(func), where=user_line())
        return func(*args, **(kwargs or {}))
