"""Work on many members, part by part, in threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import nullcontext
from time import perf_counter
from typing import Any

_SECONDS = 0.1
"""What a thread does at a time: less would be spent on handing it over, more on waiting where one thread has too much."""


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(
    count: int,
    run: Callable[[int, int], None],
    mode: Callable[[], Any] | None,
    workers: int,
    report: Callable[[int], object],
    first: int = 1,
) -> None:
    """Have threads do ``run(start, stop)`` for all of ``0 … count``, part by part.

    Parameters
    ----------
    mode
        Makes the context in which other threads work; None: only this thread does.
    report
        Called with the number of members done, in this thread.
    first
        Members of the first part, which is this thread's own: what is made once for all members is made there.
    """
    parts = _Parts(count, workers)
    part = parts.take(first)
    if part is None:
        return
    start, stop = part
    run(start, stop)
    parts.finish(stop - start)
    report(parts.done)
    if workers == 1 or mode is None:
        _work(parts, run, nullcontext, first, report)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pysciode-ensemble")
    try:
        pending = {pool.submit(_work, parts, run, mode, first) for _ in range(workers)}
        while pending:
            ready, pending = wait(pending, timeout=_SECONDS, return_when=FIRST_COMPLETED)
            for x in ready:
                x.result()
            report(parts.done)
    finally:
        parts.stop()  # after Ctrl-C or an error: parts under way come to their end by themselves
        pool.shutdown(wait=False)


def _work(
    parts: _Parts,
    run: Callable[[int, int], None],
    mode: Callable[[], Any],
    size: int,
    report: Callable[[int], object] | None = None,
) -> None:
    """Do parts while there are any, each of about the time that is worth its handing out."""
    with mode():
        while (part := parts.take(size)) is not None:
            began = perf_counter()
            run(*part)
            length = part[1] - part[0]
            each = max(perf_counter() - began, 1e-9) / length
            size = max(1, min(int(_SECONDS / each), 4 * size))
            parts.finish(length)
            if report is not None:
                report(parts.done)


class _Parts:
    """The members of an ensemble, handed out to threads."""

    def __init__(self, count: int, workers: int) -> None:
        self.done = 0
        self._count = count
        self._workers = workers
        self._next = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> tuple[int, int] | None:
        """The next part, of at most `size` members; None where none are left."""
        with self._lock:
            start, left = self._next, self._count - self._next
            self._next += min(size, -(-left // self._workers))
            return (start, self._next) if left else None

    def finish(self, length: int) -> None:
        with self._lock:
            self.done += length

    def stop(self) -> None:
        with self._lock:
            self._next = self._count
