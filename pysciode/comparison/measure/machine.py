"""Where a comparison ran, so that its figures can be read."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch


def machine() -> dict[str, object]:
    """Processor, cores, threads of torch, and versions; Julia's where it runs."""
    found: dict[str, object] = {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "versions": {"pysciode": version("pysciode"), "python": platform.python_version(), "torch": torch.__version__},
    }
    if "juliacall" in sys.modules:
        import juliacall

        found["versions"]["julia"] = str(juliacall.Main.VERSION)
    for name in ("torchdiffeq", "diffrax", "jax"):
        if name in sys.modules:
            found["versions"][name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found


def _processor() -> str:
    """Its name where the system tells (Linux does), else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.machine())
