"""Medians after a warm-up, and tables of them with ratios."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.table import Table

Run = Callable[[], object]
Prepare = Callable[[], Run]
"""Builds models and compiles; what it returns is timed."""


@dataclass
class Result:
    """One row: median milliseconds by contestant, None where it can't run (the reason is in `notes`)."""

    task: str
    milliseconds: dict[str, float | None] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def median_milliseconds(run: Run, *, budget: float = 2.0, warm_up: float = 1.0) -> float:
    """Median wall time of `run` over `budget` seconds and at least five calls, after `warm_up` seconds and at least two calls.

    A garbage collector's heap (Julia's here) first grows page by page: short runs are in their stride only after some thousand calls.
    """
    for seconds, least in ((warm_up, 2), (budget, 5)):
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < least or time.perf_counter() < end:
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def compare(task: str, contestants: dict[str, Prepare], *, budget: float = 2.0) -> Result:
    """Time every contestant that can run here, one after the other in this process."""
    result = Result(task)
    for name, prepare in contestants.items():
        try:
            run = prepare()
            # A contestant may time itself, where the call from Python would be part of the figure.
            result.milliseconds[name] = run.milliseconds() if isinstance(run, TimesItself) else median_milliseconds(run, budget=budget)
        except Exception as error:
            result.milliseconds[name] = None
            result.notes[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return result


@dataclass(frozen=True)
class TimesItself:
    """A contestant whose median is taken on its own side."""

    milliseconds: Callable[[], float]

    def __call__(self) -> float:
        return self.milliseconds()


def report(results: list[Result], *, as_json: bool, ours: str = "pysciode") -> None:
    """Print the results; ratios are how many times longer than `ours` a contestant takes."""
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return
    names = list(dict.fromkeys(name for result in results for name in result.milliseconds))
    table = Table("task", *names)
    for result in results:
        reference = result.milliseconds.get(ours)
        cells = []
        for name in names:
            value = result.milliseconds.get(name)
            cell = "–" if value is None else f"{value:.3g} ms"
            if value is not None and reference and name != ours:
                cell += f" ({value / reference:.2g}×)"
            cells.append(cell)
        table.add_row(result.task, *cells)
    console = Console()
    console.print(table)
    for result in results:
        for name, note in result.notes.items():
            console.print(f"{result.task}, {name}: {note}", highlight=False, markup=False)
