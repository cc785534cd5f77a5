"""A report as text cells: the source of the terminal's, the notebook's and the paper's tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..measure.rows import GradientRow, Reference, SolveRow, Timing
from .quantities import duration, error, size, tolerance

if TYPE_CHECKING:
    from .reports import AdjointReport, SolverReport

Row = TypeVar("Row", bound=GradientRow | SolveRow)

MISSING = "–"
_MACHINE = ("cpu", "cores", "torch_threads", "versions")
_SHOWN_APART = ("loss", "states", "parameters")


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By tolerance, loosest first; then the fastest first, the failed and at last the unavailable."""

    def key(row: Row) -> tuple[Any, ...]:
        status = ("ok", "failed", "unavailable").index(row.status)
        return -row.rtol, -row.atol, status, row.timing.median if row.timing else math.inf, row.label, row.solver

    return sorted(rows, key=key)


def names(rows: Sequence[Row]) -> Callable[[Row], str]:
    """Return names that distinguish the methods of `rows`: their labels, with the solver where several took part."""
    several = len({row.solver for row in rows if isinstance(row, GradientRow)}) > 1
    return lambda row: f"{row.label} with {row.solver}" if several and isinstance(row, GradientRow) else row.label


@dataclass(frozen=True)
class Column:
    """One column; those of a higher `rank` go first where the width does not suffice for all, those of rank 0 always stay."""

    title: str
    value: Callable[[Any], Any]
    write: Callable[[Any], str] = str
    rank: int = 0
    right: bool = True

    def cell(self, row: Any) -> str:
        value = self.value(row)
        return MISSING if value is None else self.write(value)


@dataclass(frozen=True)
class Table:
    """A report as text: facts under the heading, warnings, the rows, and below them the failures with their reasons."""

    heading: str
    facts: Mapping[str, str]
    warnings: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[GradientRow | SolveRow]
    notes: Sequence[str]

    @property
    def titles(self) -> list[str]:
        return [column.title for column in self.columns]

    def cells(self, row: GradientRow | SolveRow) -> list[str]:
        return [column.cell(row) for column in self.columns]

    def starts_group(self, k: int) -> bool:
        """Whether row `k` is the first of its tolerances; also beyond the last."""
        return k in (0, len(self.rows)) or (self.rows[k].rtol, self.rows[k].atol) != (self.rows[k - 1].rtol, self.rows[k - 1].atol)


def gradient_table(report: AdjointReport) -> Table:
    """The table of a comparison of sensitivity methods."""
    reference, settings = report.reference, report.settings
    known = {key: settings[key] for key in ("states", "parameters") if key in settings}
    sizes = [f"{n} {key.removesuffix('s') if n == 1 else key}" for key, n in known.items()]
    if reference is None:
        words = "none: errors are unknown" if report.rows else "none"
    else:
        blocks = [f"{name} ({n})" for name, n in reference.blocks.items()]
        sizes.append(f"gradient to {', '.join(blocks if len(blocks) <= 6 else [*blocks[:5], f'{len(blocks) - 5} more'])}")
        words = f"{reference.method}; own relative error about {error(reference.estimated_error)}"
        words += f" ({reference.check})" if reference.check else ""
    facts = {"problem": report.problem, "loss": str(settings.get("loss", "")), "sizes": ", ".join(sizes), "reference": words}
    return _table("Sensitivity methods", facts | {"stiff": "yes" if report.stiff else ""}, report, _gradient_columns(reference))


def solve_table(report: SolverReport) -> Table:
    """The table of a comparison of solvers."""
    return _table("Solvers", {"problem": report.problem, "reference": report.reference}, report, _SOLVE_COLUMNS)


def _table(heading: str, facts: Mapping[str, str], report: AdjointReport | SolverReport, columns: Sequence[Column]) -> Table:
    rows = [row for row in in_order(report.rows) if row.status != "unavailable"]
    solvers = {row.solver for row in rows if isinstance(row, GradientRow)}
    facts = {"problem": facts["problem"], "solver": solvers.pop() if len(solvers) == 1 else "", **facts}
    columns = [x for x in columns if x.title != "solver" or not facts["solver"]]
    columns = [x for x in columns if x.rank == 0 or any(x.value(row) is not None for row in rows)]
    settings = {key: x for key, x in report.settings.items() if key not in _SHOWN_APART}
    machine = {key: settings.pop(key) for key in _MACHINE if key in settings}
    facts |= {"settings": _in_words(settings), "machine": _in_words(machine)}
    warnings = getattr(report, "warnings", ())
    return Table(heading, {name: text for name, text in facts.items() if text}, warnings, columns, rows, _notes(report.rows))


def _gradient_columns(reference: Reference | None) -> list[Column]:
    def error_cell(row: GradientRow) -> str | None:
        if row.status == "ok" and reference is not None and reference.hides(row):
            return f"≤ {error(reference.estimated_error)}"
        return _error(row)

    def worst_block(row: GradientRow) -> str | None:
        name, value = max(row.block_errors.items(), key=lambda x: x[1], default=("", 0.0))
        return f"{name} {error(value)}" if len(row.block_errors) > 1 else None

    return [
        *_TOLERANCES,
        Column("solver", lambda row: row.solver, rank=1, right=False),
        Column("method", lambda row: row.label, right=False),
        Column("error", error_cell),
        Column("worst block", worst_block, rank=8, right=False),
        Column("total", lambda row: row.total, _median),
        _QUARTILES,
        Column("forward", lambda row: row.forward, _median, rank=3),
        Column("backward", lambda row: row.backward, _median, rank=3),
        _FIRST_CALL,
        Column("kept", lambda row: row.kept_memory, size, rank=2),
        Column("peak", lambda row: row.peak_memory, size, rank=6),
        Column("allocated", lambda row: row.allocated, size, rank=7),
        Column("f", lambda row: _both(row.forward_counts.f, row.backward_counts.f), rank=5),
        Column("vjp", lambda row: _both(row.forward_counts.vjp, row.backward_counts.vjp), rank=5),
        Column("Jacobians", lambda row: _both(row.forward_counts.jacobian, row.backward_counts.jacobian), rank=7),
        Column("steps", lambda row: row.steps, rank=8),
    ]


def _error(row: GradientRow | SolveRow) -> str | None:
    return row.status if row.status != "ok" else None if row.error is None else error(row.error)


def _quartiles(row: GradientRow | SolveRow) -> tuple[float, float] | None:
    return None if row.timing is None or len(row.timing.seconds) < 2 else row.timing.quartiles


def _median(timing: Timing) -> str:
    return duration(timing.median)


def _both(forward: int | None, backward: int | None) -> str | None:
    if forward is None:
        return None if backward is None else f"{backward} back"
    return f"{forward} + {MISSING if backward is None else backward}"


_TOLERANCES = (Column("rtol", lambda row: row.rtol, tolerance), Column("atol", lambda row: row.atol, tolerance, rank=9))
_QUARTILES = Column("quartiles", _quartiles, lambda x: duration(*x), rank=4)
_FIRST_CALL = Column("first call", lambda row: row.first_call, duration, rank=5)
_SOLVE_COLUMNS = (
    *_TOLERANCES,
    Column("solver", lambda row: row.label, right=False),
    Column("error", _error),
    Column("time", lambda row: row.time, _median),
    _QUARTILES,
    _FIRST_CALL,
    Column("f", lambda row: row.counts.f, rank=2),
    Column("Jacobians", lambda row: row.counts.jacobian, rank=6),
    Column("steps", lambda row: row.steps, rank=3),
    Column("rejected", lambda row: row.rejected, rank=7),
)


def _in_words(values: Mapping[str, object]) -> str:
    parts = []
    for key, value in values.items():
        found = value if isinstance(value, Mapping) else {key.replace("_", " "): value}
        parts.append(", ".join(f"{name} {x:g}" if isinstance(x, float) else f"{name} {x}" for name, x in found.items()))
    return "; ".join(parts)


def _notes(rows: Sequence[GradientRow | SolveRow]) -> list[str]:
    """One line for each reason, with the methods and tolerances that it stopped."""
    name = names(rows)
    tolerances: dict[tuple[str, ...], dict[str, None]] = {}
    for row in in_order(rows):
        if row.status != "ok":
            tolerances.setdefault((row.status, row.reason or "no reason given", name(row)), {})[tolerance(row.rtol)] = None
    methods: dict[tuple[str, str], list[str]] = {}
    for (status, reason, method), found in tolerances.items():
        at = f" at rtol {', '.join(found)}" if status == "failed" else ""
        methods.setdefault(("Failed" if status == "failed" else "Not run", f"{at}: {reason}"), []).append(method)
    return sorted(f"{what}: {', '.join(found)}{reason}" for (what, reason), found in methods.items())
