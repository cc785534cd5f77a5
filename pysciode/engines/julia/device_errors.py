"""Errors of devices, with advice."""

from __future__ import annotations

import re

from ...errors import INSTALL_COMMAND, EngineUnavailable, OutOfDeviceMemory

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


def device_unavailable(device: str, reason: str) -> EngineUnavailable:
    """The error for a device that Julia can't use, `reason` being what it says."""
    mend = next((advice for part, advice in _ADVICE.items() if part in reason), "python -m pysciode doctor shows what torch sees")
    return EngineUnavailable(f"a problem on {device}", f"Julia can't use that device ({reason})", mend=mend)


def out_of_device_memory(device: str, said: str) -> OutOfDeviceMemory:
    """The error for a solve that found no memory on `device`, with the holders of its memory; `said` is CUDA.jl's message."""
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
