"""Rows as a pandas data frame: one row a measurement, typed columns, units in the names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..measure.rows import GradientRow, Reference, SolveRow, Timing
from .ranking import below_reference, label
from .serialisation import plain

if TYPE_CHECKING:
    import pandas

_TEXT = ("solver", "method", "label", "vjp", "options", "engine", "status", "reason")
_WHOLE = (
    "peak_memory_bytes kept_memory_bytes allocated_bytes f_forward f_backward vjp_forward vjp_backward "
    "jacobian_forward jacobian_backward f jacobian steps rejected repeats"
).split()


def gradient_frame(rows: Sequence[GradientRow], reference: Reference | None) -> pandas.DataFrame:
    """See :meth:`~pysciode.comparison.report.reports.AdjointReport.to_dataframe`."""
    blocks = list(dict.fromkeys(name for row in rows for name in row.block_errors))
    return _frame([_gradient_record(row, reference, blocks) for row in rows], _gradient_columns(blocks))


def solve_frame(rows: Sequence[SolveRow]) -> pandas.DataFrame:
    """See :meth:`~pysciode.comparison.report.reports.SolverReport.to_dataframe`."""
    return _frame([_solve_record(row) for row in rows], list(_solve_record(SolveRow("", "", 0.0, 0.0))))


def _gradient_columns(blocks: Sequence[str]) -> list[str]:
    return list(_gradient_record(GradientRow("", "", None, "", 0.0, 0.0), None, blocks))


def _gradient_record(row: GradientRow, reference: Reference | None, blocks: Iterable[str]) -> dict[str, Any]:
    return {
        "solver": row.solver,
        "method": row.method,
        "vjp": row.vjp,
        "options": json.dumps(plain(row.options)),
        "label": label(row),
        "engine": row.engine,
        "rtol": row.rtol,
        "atol": row.atol,
        "status": row.status,
        "reason": row.reason,
        "error": row.error,
        "below_reference": None if row.error is None else below_reference(row, reference),
        **{f"error[{name}]": row.block_errors.get(name) for name in blocks},
        "loss": row.loss,
        "repeats": None if row.total is None else len(row.total.seconds),
        **_times("total", row.total),
        **_times("forward", row.forward),
        **_times("backward", row.backward),
        "first_call_s": row.first_call,
        "peak_memory_bytes": row.peak_memory,
        "kept_memory_bytes": row.kept_memory,
        "allocated_bytes": row.allocated,
        "f_forward": row.forward_counts.f,
        "f_backward": row.backward_counts.f,
        "vjp_forward": row.forward_counts.vjp,
        "vjp_backward": row.backward_counts.vjp,
        "jacobian_forward": row.forward_counts.jacobian,
        "jacobian_backward": row.backward_counts.jacobian,
        "steps": row.steps,
    }


def _solve_record(row: SolveRow) -> dict[str, Any]:
    return {
        "solver": row.solver,
        "label": label(row),
        "engine": row.engine,
        "rtol": row.rtol,
        "atol": row.atol,
        "status": row.status,
        "reason": row.reason,
        "error": row.error,
        "repeats": None if row.time is None else len(row.time.seconds),
        **_times("time", row.time),
        "first_call_s": row.first_call,
        "f": row.counts.f,
        "jacobian": row.counts.jacobian,
        "steps": row.steps,
        "rejected": row.rejected,
    }


def _times(name: str, timing: Timing | None) -> dict[str, float | None]:
    low, high = (None, None) if timing is None else timing.quartiles
    return {f"{name}_s": None if timing is None else timing.median, f"{name}_q1_s": low, f"{name}_q3_s": high}


def _frame(records: list[dict[str, Any]], columns: list[str]) -> pandas.DataFrame:
    import pandas

    frame = pandas.DataFrame(records, columns=columns)
    return frame.astype({name: _dtype(name) for name in columns})


def _dtype(column: str) -> str:
    if column in _TEXT:
        return "string"
    if column == "below_reference":
        return "boolean"
    return "Int64" if column in _WHOLE else "float64"
