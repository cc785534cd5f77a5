"""Python functions that Julia calls during a solve, and their exceptions.

Julia must unwind before Python may raise. So an exception of a model that stays in Python, of a progress function or of a signal
handler waits here, for its thread, until the call into Julia has returned.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from typing import Any

_waiting = threading.local()


def callable_from_julia(prototype: Any, function: Callable[..., object]) -> Any:
    """`function` as a C function that returns 0, or 1 after an exception, which is kept; while one waits nothing is called.

    Parameters
    ----------
    prototype
        Of :func:`ctypes.CFUNCTYPE`, with an integer result or none.
    """

    def called_by_julia(*arguments: Any) -> int:
        if exception_waits():
            return 1
        try:
            function(*arguments)
            return 0
        except BaseException as error:
            _waiting.error = error
            return 1

    return prototype(called_by_julia)


def exception_waits() -> bool:
    """Whether an exception of this thread waits to be raised."""
    return getattr(_waiting, "error", None) is not None


def raise_what_waits() -> None:
    """Raise the exception of this thread that waits, if there is one."""
    error = getattr(_waiting, "error", None)
    if error is not None:
        _waiting.error = None
        try:
            raise error
        finally:
            del error  # its traceback holds this frame


def catch_what_ctypes_drops() -> None:
    """Keep exceptions that arise in front of the first line of a function that Julia calls; cheap where that is done already.

    Python handles a signal that has come meanwhile as it enters a function, before any ``try`` of it. ctypes reports what the
    handler raises (KeyboardInterrupt above all) to ``sys.unraisablehook``, and Julia goes on with an uninitialised result.
    """
    if getattr(sys.unraisablehook, "keeps_for_julia", False):
        return
    previous = sys.unraisablehook

    def keep(unraisable: Any, /) -> None:
        # Python 3.13 names the function in the message alone.
        if "called_by_julia" in f"{unraisable.object!r} {unraisable.err_msg}" and unraisable.exc_value is not None:
            _waiting.error = unraisable.exc_value
        else:
            previous(unraisable)

    keep.keeps_for_julia = True  # type: ignore[attr-defined]
    sys.unraisablehook = keep


def _handle_signals() -> None:
    ctypes.pythonapi.PyErr_CheckSignals()  # raises what a handler raises; in the main thread only


check_signals = callable_from_julia(ctypes.CFUNCTYPE(ctypes.c_int), _handle_signals)
"""What Julia calls some ten times a second: not 0 where an exception waits, after the handlers of signals that have come."""
