"""From a contestant and a task to a row: errors, times, counts and memory, or how it failed."""

from __future__ import annotations

import gc
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ...errors import EngineUnavailable, GradientFailed, PysciodeError, SolveFailed
from .contestants import Contestant, Run, Task
from .losses import LossFunction
from .process import OutOfTime, peak_growth, time_limit
from .rows import GradientRow, SolveRow, Timing

Row = TypeVar("Row", bound=GradientRow | SolveRow)
T = TypeVar("T")

WORTHLESS = 1.0
"""A gradient with this relative error is as far from the right one as no gradient at all."""

CERTAIN = 0.1
"""Up to this estimated error of the reference, a gradient that is far from it is wrong."""


@dataclass(frozen=True)
class Target:
    """The reference gradient, a flat array for each block, and its own relative error."""

    blocks: Mapping[str, np.ndarray]
    estimated_error: float

    def errors(self, gradient: Mapping[str, np.ndarray]) -> tuple[float, dict[str, float]]:
        """Relative errors of the whole gradient and of each block, in the 2-norm.

        A block that the loss does not depend on has no error relative to itself: its error is relative to the whole.
        """
        if {name: x.size for name, x in gradient.items()} != {name: x.size for name, x in self.blocks.items()}:
            raise ValueError(f"a contestant gave gradients of {sorted(gradient)}, the reference has {sorted(self.blocks)}")
        off = {name: float(np.linalg.norm(gradient[name] - x)) for name, x in self.blocks.items()}
        size = {name: float(np.linalg.norm(x)) for name, x in self.blocks.items()}
        whole = math.hypot(*size.values())

        def relative(off: float, size: float) -> float:
            return off / size if size > 0 else 0.0 if off == 0 else math.inf

        return relative(math.hypot(*off.values()), whole), {name: relative(off[name], size[name] or whole) for name in off}


@dataclass(frozen=True)
class Effort:
    """How much to measure: timed runs after the warm-up, and seconds for the first call and again for all that follows it.

    Memory takes two more solves and two full collections of Julia's garbage for each row.
    """

    repeats: int
    time_limit: float | None
    memory: bool = False


def unmeasured(contestant: Contestant, task: Task) -> GradientRow:
    """The contestant's row, without figures."""
    x = contestant
    return GradientRow(x.solver, x.method or "", x.vjp, x.engine, task.rtol, float(np.min(task.atol)), dict(x.options))


def measure(contestant: Contestant, task: Task, loss: LossFunction, target: Target | None, effort: Effort) -> GradientRow:
    """Return the contestant's row, with the reason where the contestant fails."""

    def stages(row: GradientRow) -> Iterator[GradientRow]:
        run = contestant.prepare(task)
        with time_limit(effort.time_limit):
            began = time.perf_counter()
            value, cotangent = loss(run.forward())
            gradient = run.backward(cotangent)
            first_call = time.perf_counter() - began
        row = replace(row, first_call=first_call, loss=value, steps=run.steps, **_judged(gradient, target))
        row = replace(row, forward_counts=run.forward_counts, backward_counts=run.backward_counts)
        yield row
        with time_limit(effort.time_limit):
            if effort.memory:
                # A run of its own: collections of garbage and the counting of pages would disturb the times.
                row = replace(row, peak_memory=peak_growth(lambda: run.backward(loss(run.forward())[1])), allocated=run.allocated)
                run.forward()
                row = replace(row, kept_memory=run.kept_memory())
            laps = repeated(lambda: _lap(run, loss), effort.repeats, math.inf if effort.time_limit is None else effort.time_limit / 2)
        forward, backward, total = (Timing(seconds) for seconds in zip(*laps, strict=True))
        yield replace(row, forward=forward, backward=backward, total=total)

    gc.collect()  # solutions that others kept
    return last_row(unmeasured(contestant, task), stages)


def _judged(gradient: Mapping[str, np.ndarray], target: Target | None) -> dict[str, Any]:
    """The fields of a row about its gradient's accuracy."""
    if not all(np.isfinite(x).all() for x in gradient.values()):
        return {"status": "failed", "reason": "the gradient is not finite"}
    if target is None:
        return {}
    error, blocks = target.errors(gradient)
    judged: dict[str, Any] = {"error": error, "block_errors": blocks}
    if error >= WORTHLESS and target.estimated_error <= CERTAIN:
        judged |= {"status": "failed", "reason": f"the gradient is wrong: its relative error is {error:.2g}"}
    return judged


def _lap(run: Run, loss: LossFunction) -> tuple[float, float, float]:
    began = time.perf_counter()
    states = run.forward()
    solved = time.perf_counter()
    _, cotangent = loss(states)
    pulling = time.perf_counter()
    run.backward(cotangent)
    ended = time.perf_counter()
    return solved - began, ended - pulling, ended - began


def last_row(row: Row, stages: Callable[[Row], Iterator[Row]]) -> Row:
    """The last of the rows that the stages of a measurement give; where a stage fails, the row before it with the reason."""
    try:
        for row in stages(row):  # noqa: B007, B020  (each stage adds to the row)
            pass
    except Exception as error:  # whatever a solver may throw: the others go on
        said = isinstance(error, PysciodeError) and any(text in str(error) for text in _NOT_OFFERED)
        unavailable = said or isinstance(error, (EngineUnavailable, ImportError))
        return replace(row, status="unavailable" if unavailable else "failed", reason=one_line(error))
    return row


def repeated(lap: Callable[[], T], repeats: int, seconds: float) -> list[T]:
    """Call `lap` up to `repeats` times, at least once, for at most `seconds`; return the results."""
    found: list[T] = []
    stop = time.perf_counter() + seconds
    while len(found) < repeats and (not found or time.perf_counter() < stop):
        found.append(lap())
    return found


_NOT_OFFERED = ("is not supported by", "is not installed in this Julia environment", "is loaded. Install the package")
"""SciMLSensitivity's messages for an unsupported combination or a missing package."""


def one_line(error: BaseException) -> str:
    """The message of an error, in at most 250 characters and without advice."""
    if isinstance(error, GradientFailed):
        text = error.reason
    elif isinstance(error, SolveFailed):
        text = f"the solver stopped at t = {error.t:g} with retcode {error.retcode}"
    else:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        if not isinstance(error, (PysciodeError, OutOfTime)):
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    # SciML's logging puts something before its messages.
    text = " ".join(re.sub(r"Verbosity toggle: \w+", "", text).split())
    return text if len(text) <= 250 else text[:249] + "…"
