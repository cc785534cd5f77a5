"""What a report shows, as text cells: the one source of the terminal's, the notebook's and the paper's tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from ..measure.rows import GradientRow, Reference, SolveRow, Timing
from . import quantities
from .ranking import Row, below_reference, in_order, label

if TYPE_CHECKING:
    from .reports import AdjointReport, SolverReport

MISSING = "–"
_MACHINE = ("machine", "cpu", "cores", "threads", "platform", "pysciode", "python", "julia", "torch", "versions")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column; those of a higher `rank` go first where the width does not suffice for all."""

    title: str
    cell: Callable[[Row], str]
    rank: int = 0
    right: bool = True


@dataclass(frozen=True)
class Line:
    """One row as text; `first` of its tolerance."""

    cells: tuple[str, ...]
    status: str
    first: bool


@dataclass(frozen=True)
class Table:
    """A report as text.

    Attributes
    ----------
    heading
        Title, with what the table is about.
    facts
        Lines under the title, as ``("reference", "…")``.
    warnings
        What a reader must not overlook.
    titles, right, ranks
        Name, alignment and dispensability of each column.
    lines
        The rows.
    notes
        Lines below the table: failures with their reasons.
    """

    heading: str
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    titles: tuple[str, ...]
    right: tuple[bool, ...]
    ranks: tuple[int, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def gradient_table(report: AdjointReport) -> Table:
    """The table of a comparison of sensitivity methods."""
    reference = report.reference
    facts = [("problem", report.problem), ("loss", str(report.settings.get("loss", ""))), ("sizes", _sizes(report))]
    if reference is None:
        facts.append(("reference", "none: errors are unknown" if report.rows else "none"))
    else:
        facts.append(("reference", _reference_in_words(reference)))
    facts.append(("stiff", "yes" if report.stiff else ""))
    facts += _settings_facts(report.settings)
    columns = _gradient_columns(reference)
    return _table("Sensitivity methods", facts, report.warnings, columns, report.rows)


def solve_table(report: SolverReport) -> Table:
    """The table of a comparison of solvers."""
    facts = [("problem", report.problem), ("reference", report.reference), *_settings_facts(report.settings)]
    return _table("Solvers", facts, (), _solve_columns(), report.rows)


def _table(
    heading: str,
    facts: Sequence[tuple[str, str]],
    warnings: tuple[str, ...],
    columns: Sequence[Column[Row]],
    rows: Sequence[Row],
) -> Table:
    ordered = [row for row in in_order(rows) if row.status != "unavailable"]
    solvers = {row.solver for row in ordered if isinstance(row, GradientRow)}
    facts = list(facts)
    if len(solvers) == 1:
        facts.insert(1, ("solver", *solvers))
        columns = [x for x in columns if x.title != "solver"]
    cells = [tuple(column.cell(row) for column in columns) for row in ordered]
    shown = [i for i, column in enumerate(columns) if column.rank == 0 or any(x[i] != MISSING for x in cells)]
    lines = tuple(
        Line(
            tuple(line[i] for i in shown),
            row.status,
            first=k == 0 or (row.rtol, row.atol) != (ordered[k - 1].rtol, ordered[k - 1].atol),
        )
        for k, (row, line) in enumerate(zip(ordered, cells, strict=True))
    )
    return Table(
        heading=heading,
        facts=tuple((name, text) for name, text in facts if text),
        warnings=tuple(warnings),
        titles=tuple(columns[i].title for i in shown),
        right=tuple(columns[i].right for i in shown),
        ranks=tuple(columns[i].rank for i in shown),
        lines=lines,
        notes=tuple(_notes(rows)),
    )


def _gradient_columns(reference: Reference | None) -> list[Column[GradientRow]]:
    return [
        Column("rtol", lambda row: quantities.tolerance(row.rtol)),
        Column("atol", lambda row: quantities.tolerance(row.atol), rank=9),
        Column("solver", lambda row: row.solver, rank=1, right=False),
        Column("method", label, right=False),
        Column("error", lambda row: _error_cell(row, reference)),
        Column("worst block", _worst_block, rank=8, right=False),
        Column("total", lambda row: _time(row.total)),
        Column("quartiles", lambda row: _spread(row.total), rank=4),
        Column("forward", lambda row: _time(row.forward), rank=3),
        Column("backward", lambda row: _time(row.backward), rank=3),
        Column("first call", lambda row: _seconds(row.first_call), rank=5),
        Column("kept", lambda row: _bytes(row.kept_memory), rank=2),
        Column("peak", lambda row: _bytes(row.peak_memory), rank=6),
        Column("allocated", lambda row: _bytes(row.allocated), rank=7),
        Column("f", lambda row: _counts(row.forward_counts.f, row.backward_counts.f), rank=5),
        Column("vjp", lambda row: _counts(row.forward_counts.vjp, row.backward_counts.vjp), rank=5),
        Column("Jacobians", lambda row: _counts(row.forward_counts.jacobian, row.backward_counts.jacobian), rank=7),
        Column("steps", lambda row: _count(row.steps), rank=8),
    ]


def _solve_columns() -> list[Column[SolveRow]]:
    return [
        Column("rtol", lambda row: quantities.tolerance(row.rtol)),
        Column("atol", lambda row: quantities.tolerance(row.atol), rank=9),
        Column("solver", label, right=False),
        Column("error", lambda row: _error_cell(row, None)),
        Column("time", lambda row: _time(row.time)),
        Column("quartiles", lambda row: _spread(row.time), rank=4),
        Column("first call", lambda row: _seconds(row.first_call), rank=5),
        Column("f", lambda row: _count(row.counts.f), rank=2),
        Column("Jacobians", lambda row: _count(row.counts.jacobian), rank=6),
        Column("steps", lambda row: _count(row.steps), rank=3),
        Column("rejected", lambda row: _count(row.rejected), rank=7),
    ]


def _error_cell(row: GradientRow | SolveRow, reference: Reference | None) -> str:
    if row.status != "ok":
        return row.status
    if row.error is None:
        return MISSING
    if isinstance(row, GradientRow) and below_reference(row, reference):
        return f"≤ {quantities.error(reference.estimated_error)}"
    return quantities.error(row.error)


def _worst_block(row: GradientRow) -> str:
    if len(row.block_errors) < 2:
        return MISSING
    name, value = max(row.block_errors.items(), key=lambda item: item[1])
    return f"{name} {quantities.error(value)}"


def _time(timing: Timing | None) -> str:
    return MISSING if timing is None else quantities.duration(timing.median)


def _spread(timing: Timing | None) -> str:
    if timing is None or len(timing.seconds) < 2:
        return MISSING
    return quantities.duration_range(*timing.quartiles)


def _seconds(value: float | None) -> str:
    return MISSING if value is None else quantities.duration(value)


def _bytes(value: int | None) -> str:
    return MISSING if value is None else quantities.size(value)


def _count(value: int | None) -> str:
    return MISSING if value is None else str(value)


def _counts(forward: int | None, backward: int | None) -> str:
    if forward is None and backward is None:
        return MISSING
    if forward is None:
        return f"{backward} back"
    return f"{_count(forward)} + {_count(backward)}"


def _reference_in_words(reference: Reference) -> str:
    text = f"{reference.method}; own relative error about {quantities.error(reference.estimated_error)}"
    return f"{text} ({reference.check})" if reference.check else text


def _sizes(report: AdjointReport) -> str:
    settings = report.settings
    parts = [_plural(settings[key], key) for key in ("states", "parameters") if key in settings]
    if report.reference is not None:
        blocks = report.reference.blocks
        parts.append(f"gradient to {_some(f'{name} ({n})' for name, n in blocks.items())}")
    return ", ".join(parts)


def _plural(n: object, noun: str) -> str:
    return f"{n} {noun.removesuffix('s') if n == 1 else noun}"


def _some(names: object, most: int = 6) -> str:
    names = list(names)
    return ", ".join(names) if len(names) <= most else ", ".join(names[: most - 1]) + f" and {len(names) - most + 1} more"


def _settings_facts(settings: Mapping[str, object]) -> list[tuple[str, str]]:
    machine = {key: settings[key] for key in _MACHINE if key in settings}
    others = {key: x for key, x in settings.items() if key not in (*_MACHINE, "loss", "states", "parameters")}
    return [("settings", _in_words(others)), ("machine", _in_words(machine))]


def _in_words(values: Mapping[str, object]) -> str:
    parts = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            parts.append(", ".join(f"{name} {x}" for name, x in value.items()))
        elif isinstance(value, (list, tuple)):
            parts.append(f"{key} {', '.join(_setting(x) for x in value)}")
        elif key == "cores":
            parts.append(_plural(value, "cores"))
        elif key in ("machine", "cpu", "platform"):
            parts.append(str(value))
        else:
            parts.append(f"{key.replace('_', ' ')} {_setting(value)}")
    return "; ".join(parts)


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(_setting(x) for x in value)})"
    if isinstance(value, float):
        return quantities.tolerance(value) if 0 < abs(value) < 0.01 else f"{value:g}"
    return str(value)


def _notes(rows: Sequence[GradientRow | SolveRow]) -> list[str]:
    """One line for each reason, with the methods and tolerances that it stopped."""
    ordered = [row for row in in_order(rows) if row.status != "ok"]
    several = len({row.solver for row in rows if isinstance(row, GradientRow)}) > 1
    tolerances: dict[tuple[str, str, str], list[str]] = {}
    for row in ordered:
        name = f"{label(row)} with {row.solver}" if several and isinstance(row, GradientRow) else label(row)
        found = tolerances.setdefault((row.status, row.reason or "no reason given", name), [])
        if (tolerance := quantities.tolerance(row.rtol)) not in found:
            found.append(tolerance)
    names: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (status, reason, name), found in tolerances.items():
        names.setdefault((status, reason, tuple(found)), []).append(name)
    lines = [_note(status, reason, found, whose) for (status, reason, found), whose in names.items()]
    return sorted(lines, key=lambda line: line.startswith("Not run"))


def _note(status: str, reason: str, tolerances: Sequence[str], names: Sequence[str]) -> str:
    if status == "unavailable":
        return f"Not run: {', '.join(names)}: {reason}"
    return f"Failed: {', '.join(names)} at rtol {', '.join(tolerances)}: {reason}"
