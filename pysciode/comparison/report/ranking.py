"""What may be ranked, by what error, and in which order rows are shown."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

from ...methods.adjoints import SENSITIVITY_ALGORITHMS
from ..measure.rows import GradientRow, Reference, SolveRow

Row = TypeVar("Row", GradientRow, SolveRow)

FORWARD_METHODS = frozenset({x.__name__ for x in SENSITIVITY_ALGORITHMS.values() if x.forward} | {"ForwardMode"})
"""Methods whose cost grows with the number of parameters: one direction each; `ForwardMode` is diffrax's."""

BACKSOLVE_METHODS = frozenset({x.__name__ for x in SENSITIVITY_ALGORITHMS.values() if x.solves_states_backwards} | {"odeint_adjoint"})
"""Methods that solve the states backwards too; `odeint_adjoint` is torchdiffeq's."""


def below_reference(row: GradientRow, reference: Reference | None) -> bool:
    """Whether the row's error is less than the reference's own, so that it says nothing but "at most"."""
    return reference is not None and row.error is not None and row.error < reference.estimated_error


def proven_error(row: GradientRow, reference: Reference | None) -> float | None:
    """The error that the comparison can vouch for: the row's, or the reference's own where that is larger."""
    if row.status != "ok" or row.error is None or not math.isfinite(row.error):
        return None
    return row.error if reference is None else max(row.error, reference.estimated_error)


def seconds(row: GradientRow | SolveRow) -> float | None:
    """Median time of the whole run: of solve and gradient, or of the solve."""
    timing = row.total if isinstance(row, GradientRow) else row.time
    return None if timing is None else timing.median


def memory(row: GradientRow) -> int | None:
    """Bytes kept between the passes, or the peak where those are unknown."""
    return row.peak_memory if row.kept_memory is None else row.kept_memory


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By tolerance, loosest first; then the fastest first, the failed and at last the unavailable."""

    def key(row: Row) -> tuple[float, float, int, float, str, str]:
        time = seconds(row)
        status = ("ok", "failed", "unavailable").index(row.status)
        return -row.rtol, -row.atol, status, math.inf if time is None else time, label(row), row.solver

    return sorted(rows, key=key)


def label(row: GradientRow | SolveRow) -> str:
    """The name in tables and figures: of the method, or of the solver with a peer's name before it."""
    if isinstance(row, GradientRow):
        return row.label
    return row.solver if row.engine == "julia" else f"{row.engine}: {row.solver}"
