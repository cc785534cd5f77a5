"""Start Julia inside the Python process, once, with the options that both need to run together."""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import INSTALL_COMMAND, EngineUnavailable
from .environment import JULIA_PACKAGE, complete_load_path, existing_directory, julia_environment_is_resolved
from .installation import resolve

_lock = threading.Lock()
_started: tuple[int, Any] | None = None
_cannot: EngineUnavailable | None = None
_MEND = f"python -m pysciode doctor shows each part; {INSTALL_COMMAND} mends what is broken"
_stops_threads: dict[int, bytes] = {}
"""What Julia does at the signals by which it stops threads for garbage collection, as the system has it."""
_faulthandler_was_on: bool | None = None


def start_julia() -> Any:
    """The Julia package as a juliacall module; starts Julia at the first call.

    Where the environment isn't resolved it is installed first, with progress on stderr.

    Raises
    ------
    EngineUnavailable
        If Julia or its packages are not installed or don't load.
    RuntimeError
        In a forked child of a process that runs Julia.
    """
    global _started
    with _lock:
        if _started is None:
            with existing_directory():
                _started = (os.getpid(), _start())
        pid, module = _started
        if pid != os.getpid():
            raise RuntimeError(
                "Julia was started before this process was forked, and doesn't survive that. Start worker processes with "
                "'spawn' (DataLoader(multiprocessing_context='spawn'), multiprocessing.set_start_method('spawn'))."
            )
        return module


def _start() -> Any:
    if _cannot is not None:
        raise _cannot
    # A user's own juliacall keeps the options that it was imported with.
    theirs = "juliacall" in sys.modules
    if not theirs:
        if not julia_environment_is_resolved():
            resolve(progress=lambda line: print(line, file=sys.stderr, flush=True))
        _set_options()
    juliacall = _import_juliacall()
    try:
        module = juliacall.Main.seval(f"import {JULIA_PACKAGE}; {JULIA_PACKAGE}")
    except juliacall.JuliaError as error:
        reason = str(error).strip().splitlines()[0]
        mend = _MEND
        if theirs:
            project = juliacall.CONFIG.get("project")
            reason = f"juliacall was imported before, and runs the project {project}: {reason}"
            mend = "Let pysciode's first solve come before that import, or leave out what sets another project"
        raise EngineUnavailable("The Julia engine", f"{JULIA_PACKAGE} does not load ({reason})", mend=mend) from error
    _rest_safe(juliacall.Main.seval)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leave_julia_alone)
    if hasattr(signal, "pthread_sigmask"):
        _stops_threads.update((number, _action(number)) for number in (signal.SIGSEGV, signal.SIGBUS))
    return module


def _import_juliacall() -> Any:
    global _cannot
    try:
        with warnings.catch_warnings(), _pythons_signal_handlers(), complete_load_path():
            # juliacall warns whenever torch came first. That was an OpenMP clash of old; both orders are tested here.
            warnings.filterwarnings("ignore", message="torch was imported before juliacall")
            import juliacall
    except Exception as error:
        reason, mend = str(error), _MEND
        if isinstance(error, subprocess.CalledProcessError):
            reason = f"{error.cmd[0]} does not run with that project: {(error.stderr or '').strip()[:500]}"
        elif isinstance(error, ValueError):  # one of its variables
            mend = "Set it to one of these, or unset it"
        trouble = EngineUnavailable("The Julia engine", f"juliacall did not start ({reason})", mend=mend)
        if "PythonCall" in reason:
            _cannot = trouble  # by then Julia runs, and starting it again would be the end of the process
        raise trouble from error
    return juliacall


def julia_runs() -> bool:
    """Whether Julia was started in this very process, and not only in one that this was forked from."""
    return _started is not None and _started[0] == os.getpid()


def _leave_julia_alone() -> None:
    """In a forked child nothing may enter Julia, not even to end it: its other threads are gone, with the locks that they held."""
    global _lock
    _lock = threading.Lock()
    juliacall = sys.modules["juliacall"]
    juliacall.CONFIG["lib"].jl_atexit_hook = lambda code: None
    # What refers to Julia objects must never be deallocated.
    for kept in (_started, *vars(juliacall).values()):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


def keep_threads_safe() -> None:
    """Give Julia back the signals that ``faulthandler``, switched on or off since Julia's start, has taken; a crash would follow
    when threads solve and one of them collects garbage. Cheap where nothing was switched."""
    global _faulthandler_was_on
    if faulthandler.is_enabled() is _faulthandler_was_on:
        return
    _faulthandler_was_on = faulthandler.is_enabled()
    for number, action in _stops_threads.items():
        if _action(number) != action:
            _set_action(number, action)


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
    started_by = threading.get_ident()

    def prepare_the_end() -> None:
        if not julia_runs():
            return
        if threading.get_ident() == started_by:
            back(thread, before)
        else:
            seval("nothing")  # makes this thread one of Julia's, which ending it takes for granted

    atexit.register(prepare_the_end)  # runs before juliacall's own, which ends Julia by a plain call


def _set_options() -> None:
    """juliacall reads these when it is imported; what the user has set stays."""
    # With Julia's own handlers for its internal signals, garbage collection survives calls from several threads.
    os.environ.setdefault("PYTHON_JULIACALL_HANDLE_SIGNALS", "yes")
    os.environ.setdefault("PYTHON_JULIACALL_THREADS", os.environ.get("JULIA_NUM_THREADS", "1"))
    os.environ.setdefault("PYTHON_JULIACALL_STARTUP_FILE", "no")
    os.environ.setdefault("PYTHON_JULIACALL_AUTOLOAD_IPYTHON_EXTENSION", "no")


_OF_JULIA = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS", "SIGTRAP", "SIGUSR2")
"""Signals that Julia needs itself: to stop threads for garbage collection, to throw exceptions, and to report crashes."""
_SIZE_OF_SIGACTION = 512  # bytes; at least, on any system


def _action(number: int) -> bytes:
    """What happens at a signal, as the system has it: signal.signal sees Python's part only, and works in the main thread only."""
    action = ctypes.create_string_buffer(_SIZE_OF_SIGACTION)
    ctypes.CDLL(None).sigaction(ctypes.c_int(number), None, action)
    return action.raw


def _set_action(number: int, action: bytes) -> None:
    ctypes.CDLL(None).sigaction(ctypes.c_int(number), action, None)


@contextmanager
def _pythons_signal_handlers() -> Iterator[None]:
    """Keep what Python handles, Ctrl-C above all.

    Julia blocks SIGINT, SIGTERM and others in the thread that starts it and those which that starts, replaces their handlers, and
    waits for them in a thread of its own, which would end the process.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    kept = signal.valid_signals() - {getattr(signal, name, None) for name in _OF_JULIA}
    if callable(signal.getsignal(signal.SIGUSR2)):
        kept.add(signal.SIGUSR2)  # Julia has it for profiles only, and jobs are told to save a checkpoint by it
    actions = {number: _action(number) for number in kept}
    try:
        yield
    finally:
        for number, action in actions.items():
            _set_action(number, action)
        # All of it, also what has no handler: child processes inherit the mask, and one that blocks SIGTERM can't be ended.
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
