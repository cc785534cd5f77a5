"""From a contestant and a task to a row: errors, times, counts and memory, or how it failed."""

from __future__ import annotations

import gc
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...errors import EngineUnavailable, GradientFailed, PysciodeError, SolveFailed
from .contestants import Contestant, GradientRun, Task
from .losses import LossFunction
from .memory import peak_growth
from .rows import GradientRow, Timing
from .time_limit import OutOfTime, time_limit

WORTHLESS = 1.0
"""A gradient with this relative error is as far from the right one as no gradient at all."""

CERTAIN = 0.1
"""Up to this estimated error of the reference, a gradient that is far from it is wrong."""


@dataclass(frozen=True)
class Target:
    """What the gradients of contestants are held against.

    Attributes
    ----------
    blocks
        The reference gradient, a flat array for each block.
    estimated_error
        Its own relative error.
    """

    blocks: Mapping[str, np.ndarray]
    estimated_error: float

    def errors(self, gradient: Mapping[str, np.ndarray]) -> tuple[float, dict[str, float]]:
        """Relative errors of the whole gradient and of each block, in the 2-norm.

        A block that the loss does not depend on has no error relative to itself: its error is relative to the whole.

        Raises
        ------
        ValueError
            If the blocks of `gradient` are others.
        """
        if {name: x.size for name, x in gradient.items()} != {name: x.size for name, x in self.blocks.items()}:
            raise ValueError(f"a contestant gave gradients of {sorted(gradient)}, the reference has {sorted(self.blocks)}")
        off = {name: float(np.linalg.norm(gradient[name] - x)) for name, x in self.blocks.items()}
        size = {name: float(np.linalg.norm(x)) for name, x in self.blocks.items()}
        whole, whole_off = math.hypot(*size.values()), math.hypot(*off.values())
        blocks = {name: _relative(off[name], size[name] or whole) for name in off}
        return _relative(whole_off, whole), blocks


def _relative(off: float, size: float) -> float:
    return off / size if size > 0 else 0.0 if off == 0 else math.inf


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes
    ----------
    repeats
        Timed runs after the warm-up.
    time_limit
        Seconds for the first call, and again for all that follows it; None for no limit.
    memory
        Whether memory is measured, which takes two more solves and two full collections of Julia's garbage for each row.
    """

    repeats: int
    time_limit: float | None
    memory: bool


def measure(contestant: Contestant, task: Task, loss: LossFunction, target: Target | None, effort: Effort) -> GradientRow:
    """The contestant's row; whatever goes wrong with it is told there.

    Raises
    ------
    KeyboardInterrupt
        If the user pressed Ctrl-C.
    """
    row = GradientRow(
        contestant.solver,
        contestant.method,
        contestant.vjp,
        contestant.engine,
        task.rtol,
        float(np.min(task.atol)),
        options=dict(contestant.options),
    )
    gc.collect()  # solutions that others kept
    try:
        run = contestant.prepare(task)
        row = _first_call(row, run, loss, target, effort)
        return _repeated(row, run, loss, effort)
    except EngineUnavailable as error:
        return replace(row, status="unavailable", reason=one_line(error))
    except OutOfTime as error:
        return replace(row, status="failed", reason=str(error))
    except Exception as error:
        status = "unavailable" if _is_not_offered(error) else "failed"
        return replace(row, status=status, reason=one_line(error))


def _first_call(row: GradientRow, run: GradientRun, loss: LossFunction, target: Target | None, effort: Effort) -> GradientRow:
    began = time.perf_counter()
    with time_limit(effort.time_limit):
        states = run.forward()
        value, cotangent = loss(states)
        gradient = run.backward(cotangent)
    row = replace(row, first_call=time.perf_counter() - began, loss=value)
    forward, backward = run.counts()
    row = replace(row, forward_counts=forward, backward_counts=backward, steps=run.steps())
    if not all(np.isfinite(x).all() for x in gradient.values()):
        return replace(row, status="failed", reason="the gradient is not finite")
    if target is None:
        return row
    error, blocks = target.errors(gradient)
    row = replace(row, error=error, block_errors=blocks)
    if error >= WORTHLESS and target.estimated_error <= CERTAIN:
        return replace(row, status="failed", reason=f"the gradient is wrong: its relative error is {error:.2g}")
    return row


def _repeated(row: GradientRow, run: GradientRun, loss: LossFunction, effort: Effort) -> GradientRow:
    """The row with the memory of one more run, and the times of those after it."""
    with time_limit(effort.time_limit):
        if effort.memory:
            # A run of its own: collections of garbage and the counting of pages would disturb the times.
            row = _with_memory(row, run, loss)
        laps: list[tuple[float, float, float]] = []
        stop = time.perf_counter() + (math.inf if effort.time_limit is None else effort.time_limit / 2)
        while len(laps) < effort.repeats and (not laps or time.perf_counter() < stop):
            laps.append(_lap(run, loss))
    forward, backward, total = (Timing(seconds) for seconds in zip(*laps, strict=True))
    return replace(row, forward=forward, backward=backward, total=total)


def _lap(run: GradientRun, loss: LossFunction) -> tuple[float, float, float]:
    began = time.perf_counter()
    states = run.forward()
    solved = time.perf_counter()
    _, cotangent = loss(states)
    pulling = time.perf_counter()
    run.backward(cotangent)
    ended = time.perf_counter()
    return solved - began, ended - pulling, ended - began


def _with_memory(row: GradientRow, run: GradientRun, loss: LossFunction) -> GradientRow:
    def whole_run() -> None:
        run.backward(loss(run.forward())[1])

    peak = peak_growth(whole_run)
    allocated = run.allocated()
    run.forward()
    return replace(row, peak_memory=peak, allocated=allocated, kept_memory=run.kept_memory())


_NOISE = re.compile(r"Verbosity toggle: \w+")
"""What SciML's logging puts before its messages."""

_NOT_OFFERED = ("is not supported by", "is not installed in this Julia environment", "is loaded. Install the package")
"""What SciMLSensitivity says where it has no such combination, or lacks a package."""


def _is_not_offered(error: Exception) -> bool:
    return isinstance(error, PysciodeError) and any(text in str(error) for text in _NOT_OFFERED)


def one_line(error: BaseException) -> str:
    """What an error says, in at most 250 characters and without advice."""
    if isinstance(error, GradientFailed):
        text = error.reason
    elif isinstance(error, SolveFailed):
        text = f"the solver stopped at t = {error.t:g} with retcode {error.retcode}"
    else:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        if not isinstance(error, PysciodeError):
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = " ".join(_NOISE.sub("", text).split())
    return text if len(text) <= 250 else text[:249] + "…"
