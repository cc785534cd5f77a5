"""Starting Julia inside the Python process, once, with the options that make the two get along."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import EngineUnavailable
from ..installation import JULIA_PACKAGE, julia_environment_is_resolved, resolve

_lock = threading.Lock()
_started: tuple[int, Any] | None = None


def start_julia() -> Any:
    """The Julia package as a juliacall module; starts Julia at the first call.

    Where the environment isn't resolved it is installed first, with progress on stderr.

    Raises
    ------
    EngineUnavailable
        If Julia or its packages can't be had or loaded.
    RuntimeError
        In a forked child of a process that runs Julia.
    """
    global _started
    with _lock:
        if _started is None:
            _started = (os.getpid(), _start())
        pid, module = _started
        if pid != os.getpid():
            raise RuntimeError(
                "Julia was started before this process was forked, and doesn't survive that. Start worker processes with "
                "'spawn' (DataLoader(multiprocessing_context='spawn'), multiprocessing.set_start_method('spawn'))."
            )
        return module


def _start() -> Any:
    # A user's own juliacall keeps the options that it was imported with.
    if "juliacall" not in sys.modules:
        if not julia_environment_is_resolved():
            resolve(progress=lambda line: print(line, file=sys.stderr, flush=True))
        _set_options()
    try:
        with warnings.catch_warnings(), _pythons_signal_handlers():
            # juliacall warns whenever torch came first. That was an OpenMP clash of old; both orders are tested here.
            warnings.filterwarnings("ignore", message="torch was imported before juliacall")
            import juliacall
    except Exception as error:
        raise EngineUnavailable("The Julia engine", f"juliacall did not start ({error})") from error
    try:
        module = juliacall.Main.seval(f"import {JULIA_PACKAGE}; {JULIA_PACKAGE}")
    except juliacall.JuliaError as error:
        reason = str(error).strip().splitlines()[0]
        raise EngineUnavailable("The Julia engine", f"{JULIA_PACKAGE} does not load ({reason})") from error
    _rest_safe(juliacall.Main.seval)
    return module


def _rest_safe(seval: Callable[[str], Any]) -> None:
    """Let other threads' garbage collections go on while this one, which started Julia, is outside of it.

    Julia waits for all its threads before it collects garbage. It takes the one that started it for one that runs Julia code
    at all times, and would wait for ever while that is in Python, blocked in a join, say. Functions that Julia hands out to be
    called, as all of juliacall's and ours are, change to running code and back by themselves.
    """
    thread, enter, leave = (
        seval(f"Int({x})")
        for x in ("ccall(:jl_get_ptls_states, Ptr{Cvoid}, ())", "cglobal(:jl_gc_safe_enter)", "cglobal(:jl_gc_safe_leave)")
    )
    before = ctypes.PYFUNCTYPE(ctypes.c_int8, ctypes.c_void_p)(enter)(thread)
    back = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int8)(leave)
    atexit.register(back, thread, before)  # runs before juliacall's own, which ends Julia by a plain call


def _set_options() -> None:
    """juliacall reads these when it is imported; what the user has set stays."""
    # With Julia's own handlers for its internal signals, garbage collection survives calls from several threads.
    os.environ.setdefault("PYTHON_JULIACALL_HANDLE_SIGNALS", "yes")
    os.environ.setdefault("PYTHON_JULIACALL_THREADS", os.environ.get("JULIA_NUM_THREADS", "1"))
    os.environ.setdefault("PYTHON_JULIACALL_STARTUP_FILE", "no")
    os.environ.setdefault("PYTHON_JULIACALL_AUTOLOAD_IPYTHON_EXTENSION", "no")


@contextmanager
def _pythons_signal_handlers() -> Iterator[None]:
    """Keep what Python handles, Ctrl-C above all.

    Julia blocks SIGINT, SIGTERM and others in every thread, replaces their handlers, and waits for them in a thread of
    its own, which would end the process.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    for number in signal.pthread_sigmask(signal.SIG_BLOCK, ()) - mask:
        if callable(handlers.get(number)):
            signal.signal(number, handlers[number])
    # All of it, also what has no handler: child processes inherit the mask, and one that blocks SIGTERM can't be ended.
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
