"""The process's resident memory at its highest, while something runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")


def peak_growth(call: Callable[[], object]) -> int | None:
    """Bytes by which resident memory rose above where it stood, at its highest, during `call`.

    Memory that was free but not given back to the system is not seen when it is used again, so small runs show 0. None where
    the system has no resettable high-water mark (Linux has: proc(5), ``/proc/pid/clear_refs``).
    """
    try:
        (_PROCESS / "clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, KeyError):
        call()
        return None
    call()
    return max(_status("VmHWM") - before, 0)


def _status(key: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[key].split()[0]) * 1024
