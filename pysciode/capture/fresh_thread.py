"""Tracing in a thread without the caller's torch modes."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_here = threading.local()


def apart(work: Callable[[], T]) -> T:
    """``work()`` in a thread of its own.

    Torch's modes (torch.func's transformations, checkpoints, autocast, inference mode, torch.compile) belong to one thread. A model
    is the same with and without them, so it is traced in a thread without any.
    """
    if getattr(_here, "apart", False):
        return work()
    outcome: list[Any] = []

    def run() -> None:
        _here.apart = True
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.extend((None, error))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="pysciode capture", daemon=True)
    thread.start()
    thread.join()
    if len(outcome) == 2:
        raise outcome[1]
    return outcome[0]
