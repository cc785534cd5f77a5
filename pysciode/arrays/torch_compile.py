"""Solves under torch.compile: a graph break, since a solve holds no torch operations to compile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

REASON = (
    "pysciode solves outside of torch, so torch.compile can't put a solve into its graph: compile without fullgraph=True (and "
    "without torch.export); what stands before and after the solve is compiled all the same"
)


def opaque(f: Callable[P, T]) -> Callable[P, T]:
    """`f`, which torch.compile calls as it stands, with all that it calls.

    ``torch.compiler.disable`` does the same, but takes a second to import, also for users who compile nothing.
    """

    @wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if "torch._dynamo" in sys.modules:
            return _uncompiled(f, call)(*args, **kwargs)
        return f(*args, **kwargs)

    # The marks that ``torch.compiler.disable`` leaves.
    vars(call).update(_torchdynamo_disable=True, _torchdynamo_disable_msg=REASON)
    return call


@cache
def _uncompiled(f: Callable[P, T], wrapper: Callable[P, T]) -> Callable[P, T]:
    import torch
    from torch._C._dynamo.eval_frame import get_eval_frame_callback

    torch._dynamo.eval_frame.skip_code(wrapper.__code__)  # the same of all wrappers, and not worth compiling either

    disabled: Any = torch.compiler.disable(f)

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return f(*args, **kwargs) if get_eval_frame_callback() is None else disabled(*args, **kwargs)

    return call
