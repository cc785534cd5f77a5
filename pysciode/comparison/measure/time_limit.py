"""A limit on the time of one call, also of one into Julia, which looks for signals ten times a second while it solves."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(Exception):
    """The call ran over its limit."""


class _Watch:
    """A timer that presses Ctrl-C, and remembers that it was not the user."""

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._undelivered = False
        self._over = False
        self._lock = threading.Lock()
        self._previous = signal.signal(signal.SIGINT, self._handle)
        self._timer = threading.Timer(seconds, self._press)
        self._timer.daemon = True
        self._timer.start()

    def _press(self) -> None:
        with self._lock:
            if self._over:
                return
            self.expired = self._undelivered = True
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # ends a sleep, too
            else:
                _thread.interrupt_main()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._undelivered:
            self._undelivered = False
            raise KeyboardInterrupt
        if callable(self._previous):
            self._previous(number, frame)
        elif self._previous is not signal.SIG_IGN:
            raise KeyboardInterrupt

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._over = True
        try:
            # Pressed, but not yet handled: that takes no more than a few instructions of Python.
            for _ in range(1000):
                if not self._undelivered:
                    break
                time.sleep(0.001)
        except KeyboardInterrupt:
            pass
        signal.signal(signal.SIGINT, self._previous)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Stop what runs inside after so many seconds.

    What can't be interrupted (Julia's compiler) runs on, and counts as over the limit when it ends. Signals reach only the main
    thread: in others there is no limit.

    Raises
    ------
    OutOfTime
        If the limit was passed.
    KeyboardInterrupt
        If the user pressed Ctrl-C.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch(seconds)
    try:
        yield
    except KeyboardInterrupt:
        if not watch.expired:
            raise
    finally:
        watch.close()
    if watch.expired:
        raise OutOfTime(f"over the time limit of {seconds:g} s")
