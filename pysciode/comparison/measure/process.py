"""The process that measures: a limit on the time of a call, memory at its highest, and the machine that it runs on."""

from __future__ import annotations

import _thread
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import torch


class OutOfTime(Exception):
    """The call ran over its limit."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Stop what runs inside after so many seconds, and raise `OutOfTime`; None is no limit.

    A timer presses Ctrl-C, which ends calls into Julia, too: while it solves it looks for signals ten times a second. What can't be
    interrupted (Julia's compiler) runs on, and counts as over the limit when it ends. Signals reach only the main thread: in others
    there is no limit. The user's own Ctrl-C raises KeyboardInterrupt as usual.
    """
    main_thread = threading.main_thread().ident
    if seconds is None or main_thread is None or threading.get_ident() != main_thread:
        yield
        return
    pressed = delivered = over = False
    lock = threading.Lock()

    def press() -> None:
        nonlocal pressed
        with lock:
            if over:
                return
            pressed = True
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(main_thread, signal.SIGINT)  # ends a sleep, too
            else:
                _thread.interrupt_main()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal delivered
        if pressed and not delivered:
            delivered = True
            raise KeyboardInterrupt
        if callable(previous):
            previous(number, frame)
        elif previous is not signal.SIG_IGN:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, handle)
    timer = threading.Timer(seconds, press)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if not pressed:
            raise
    finally:
        with suppress(KeyboardInterrupt):
            timer.cancel()
            with lock:
                over = True
            # Pressed, but not yet handled: that takes no more than a few instructions of Python.
            for _ in range(1000):
                if delivered or not pressed:
                    break
                time.sleep(0.001)
        signal.signal(signal.SIGINT, previous)
    if pressed:
        raise OutOfTime(f"over the time limit of {seconds:g} s")


def peak_growth(call: Callable[[], object]) -> int | None:
    """Bytes by which resident memory rose above where it stood, at its highest, during `call`.

    Memory that was free but not given back to the system is not seen when it is used again, so small runs show 0. None where
    the system has no resettable high-water mark (Linux has: proc(5), ``/proc/pid/clear_refs``).
    """

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(dict(line.split(":", 1) for line in lines)[key].split()[0]) * 1024

    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
    except (OSError, KeyError):
        call()
        return None
    call()
    return max(status("VmHWM") - before, 0)


def machine() -> dict[str, object]:
    """Processor, cores, threads of torch, and versions; Julia's where it runs."""
    versions = {"pysciode": version("pysciode"), "python": platform.python_version(), "torch": torch.__version__}
    if "juliacall" in sys.modules:
        versions["julia"] = str(sys.modules["juliacall"].Main.VERSION)
    for name in ("torchdiffeq", "diffrax", "jax"):
        if name in sys.modules:
            versions[name] = version(name)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    # Linux tells the name, other systems may.
    cpu = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.processor() or platform.machine())
    return {"cpu": cpu, "cores": os.cpu_count(), "torch_threads": torch.get_num_threads(), "versions": versions}
