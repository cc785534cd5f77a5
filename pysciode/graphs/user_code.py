"""Where in the user's own code an error arose."""

from __future__ import annotations

import linecache
import os
import sys
import traceback
from types import FrameType, TracebackType

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _is_users(filename: str) -> bool:
    libraries = [sys.modules[name].__file__ for name in ("numpy", "scipy", "sympy", "torch") if name in sys.modules]
    folders = [os.path.dirname(file) + os.sep for file in libraries if file]
    return not filename.startswith((_PACKAGE, "<frozen", "<__array_function__", *folders))


def _describe(filename: str, line: int) -> str:
    text = linecache.getline(filename, line).strip()
    return f"{filename}:{line}: {text}" if text else f"{filename}:{line}"


def user_line(frame: FrameType | None = None) -> str | None:
    """``"file.py:12: the line"`` of the innermost frame outside this package and NumPy; None if there is none."""
    frame = sys._getframe(1) if frame is None else frame
    while frame is not None:
        filename = frame.f_code.co_filename
        if _is_users(filename):
            return _describe(filename, frame.f_lineno)
        frame = frame.f_back
    return None


def user_line_of(tb: TracebackType | None) -> str | None:
    """The same for an exception that has been caught."""
    found = None
    for entry in traceback.extract_tb(tb):
        if _is_users(entry.filename):
            found = _describe(entry.filename, entry.lineno or 0)
    return found
