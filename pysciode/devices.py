"""Where a problem's tensors lie: in main memory, or on a device, where its solve then happens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .errors import INSTALL_COMMAND, EngineUnavailable, OutOfDeviceMemory
from .parameters import is_tensor
from .real_values import check_storage

STAND_IN = "stand_in:0"
"""The device that tests use where there is no GPU; see :func:`stand_in`."""

_standing_in: ContextVar[bool] = ContextVar("standing_in", default=False)


@contextmanager
def stand_in() -> Iterator[None]:
    """Have problems with tensors in main memory, posed in this block, go the way of those on a GPU, over JLArrays.

    What reads an entry of an array on its own, or needs an array in main memory, fails there as it would be slow or fail on
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


def empty_cache() -> None:
    """Give the memory of GPUs that CUDA.jl keeps for later solves back, as ``torch.cuda.empty_cache()`` does with torch's.

    Where nothing was solved on a GPU, nothing happens. It collects Julia's garbage, which takes some tenths of a second.
    """
    from .engines import get_engine

    get_engine("julia").empty_device_caches()


_ON_THE_MACHINE = f"Install it on the machine that has the GPU: {INSTALL_COMMAND} cuda --update"
_ADVICE = {
    "driver too old": "Update NVIDIA's driver: CUDA.jl needs one for CUDA 12 or newer, which is version 525 or later",
    "driver not": "See to NVIDIA's driver: nvidia-smi must show the GPU",
    "runtime not found": _ON_THE_MACHINE,
    "without CUDA toolkit": _ON_THE_MACHINE,
    "No CUDA-capable device": "See whether CUDA_VISIBLE_DEVICES hides it, and whether nvidia-smi shows it",
    "is not among them": "Julia's and torch's view of the GPUs differ: set CUDA_VISIBLE_DEVICES before the process starts",
}
"""What to do, by a part of the reason that CUDA.jl gives."""


def require_cuda() -> None:
    """See that what solves on GPUs is installed; whether it works is only known once Julia has loaded it.

    Raises
    ------
    EngineUnavailable
        With the command that installs it.
    """
    from .installation import require_extra

    require_extra("cuda", "a problem on a GPU")


def device_unavailable(device: str, reason: str) -> EngineUnavailable:
    """The error for a device that Julia can't use, `reason` being what it says."""
    mend = next((advice for part, advice in _ADVICE.items() if part in reason), "python -m pysciode doctor shows what torch sees")
    return EngineUnavailable(f"a problem on {device}", f"Julia can't use that device ({reason})", mend=mend)


def out_of_device_memory(device: str, said: str) -> OutOfDeviceMemory:
    """The error for a solve that found no memory on `device`, with who holds what there; `said` is CUDA.jl's message."""
    memory = {name: _bytes(re.search(pattern, said)) for name, pattern in _SIZES.items()}
    wanted, used = memory.pop("wanted"), memory.pop("used")
    if used is not None and memory["total"] is not None:
        memory["free"] = memory["total"] - used
    if device.startswith("cuda"):
        import torch

        if memory["total"] is None:
            memory["free"], memory["total"] = torch.cuda.mem_get_info(device)
        memory["torch_allocated"] = torch.cuda.memory_allocated(device)
        memory["torch_reserved"] = torch.cuda.memory_reserved(device)
    return OutOfDeviceMemory(device, wanted, {name: size for name, size in memory.items() if size is not None})


_SIZE = r"([\d.]+ \w+)"
_SIZES = {
    "wanted": f"trying to allocate {_SIZE}",
    "used": rf"memory usage: [\d.]+% \({_SIZE}/",
    "total": rf"memory usage: [\d.]+% \([\d.]+ \w+/{_SIZE}\)",
    "julia_reserved": rf"\({_SIZE} reserved\)",
    "julia_limit": f"hard = {_SIZE}",
}
"""Where CUDA.jl's message, which is made at once when memory is short, has what sizes."""
_UNITS = {"byte": 1, "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def _bytes(found: re.Match[str] | None) -> int | None:
    """A size as Julia's ``Base.format_bytes`` writes it."""
    if found is None:
        return None
    number, unit = found[1].split()
    return round(float(number) * _UNITS[unit])
