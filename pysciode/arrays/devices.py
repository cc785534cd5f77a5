"""Where a problem's tensors lie: in main memory, or on a device, where its solve then happens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .parameters import is_tensor
from .real_values import check_storage

STAND_IN = "stand_in:0"
"""The device that tests use where there is no GPU; see :func:`stand_in`."""

_standing_in: ContextVar[bool] = ContextVar("standing_in", default=False)


@contextmanager
def stand_in() -> Iterator[None]:
    """Have problems with tensors in main memory, posed in this block, go the way of those on a GPU, over JLArrays.

    Code that reads single entries of an array, or needs an array in main memory, fails there, as it would be slow or fail on
    a GPU. For tests of models and of this package; needs ``python -m pysciode install jlarrays``.
    """
    token = _standing_in.set(True)
    try:
        yield
    finally:
        _standing_in.reset(token)


def device_of(named: Iterable[tuple[str, Any]]) -> str | None:
    """The device of the tensors among named values, such as ``"cuda:0"``; None for main memory.

    Raises
    ------
    ValueError
        If they lie on several devices, or on one of a kind that the solvers don't know.
    """
    found: dict[str, str] = {}
    for name, x in named:
        if is_tensor(x):
            found.setdefault(_place(x, name), name)
    if len(found) > 1:
        (device, name), (other, other_name) = list(found.items())[:2]
        raise ValueError(
            f"{name} is on {device} but {other_name} is on {other}: move one of them, for instance {other_name}.to({device!r})"
        )
    place = next(iter(found), "cpu")
    if place != "cpu":
        return place
    return STAND_IN if found and _standing_in.get() else None


def _place(x: Any, name: str) -> str:
    check_storage(x, name)
    return "cpu" if x.device.type == "cpu" else f"cuda:{x.device.index}"


def torch_device(device: str | None) -> str:
    """torch's name of the device where tensors of a problem lie."""
    return "cpu" if device is None or device == STAND_IN else device
