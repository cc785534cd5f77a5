"""Advice on the method for a model: rules on the measured figures; each reason has its figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.jupyter import JupyterMixin

from ...methods.adjoints import SENSITIVITY_ALGORITHMS
from ..measure.rows import GradientRow, Reference, Timing
from .quantities import duration, error, size, tolerance

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

    from .reports import AdjointReport

MARGIN = 10.0
"""By default an error suffices that is this many times the tightest tolerance, or the best error."""

WORST = 0.1
"""But no larger one: a gradient that is further off is not recommended unless the user says that it does."""

FORWARD_METHODS = frozenset({name for name, x in SENSITIVITY_ALGORITHMS.items() if x.forward} | {"ForwardMode"})
"""Methods whose cost grows with the number of parameters: one direction each; `ForwardMode` is diffrax's."""

BACKSOLVE_METHODS = frozenset({name for name, x in SENSITIVITY_ALGORITHMS.items() if x.solves_states_backwards} | {"odeint_adjoint"})
"""Methods that solve the states backwards too; `odeint_adjoint` is torchdiffeq's."""


@dataclass(frozen=True)
class Recommendation(JupyterMixin):
    """A method for the model that was compared, and why.

    Attributes
    ----------
    method, row
        Its name and its best row; None where no method can be recommended, and `reasons` says why.
    expression
        What to paste: ``solve``'s arguments, or the call of the peer's function.
    reasons, caveats
        Sentences with figures of the table, and what to beware of.
    runner_up
        The next best method.
    """

    method: str | None
    row: GradientRow | None = None
    expression: str | None = None
    reasons: tuple[str, ...] = ()
    runner_up: GradientRow | None = None
    caveats: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """The method, or that there is none."""
        return f"Recommended: {self.row.label}" if self.row else "No method can be recommended."

    def __str__(self) -> str:
        expression = [f"  {self.expression}"] if self.expression else []
        points = [*self.reasons, *(f"Beware: {text}" for text in self.caveats)]
        return "\n".join([self.heading, *expression, *(f"- {text}" for text in points)])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from .rendering import advice_to_rich

        return advice_to_rich(self)


class _Nothing(Exception):
    """No row can be recommended; the message says why."""


def recommend(report: AdjointReport, accuracy: float | None = None, memory_limit: float | None = None) -> Recommendation:
    """See :meth:`~pysciode.comparison.report.reports.AdjointReport.recommend`."""
    for name, value in (("accuracy", accuracy), ("memory_limit", memory_limit)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, not {value!r}")
    reasons = []
    if report.growth is not None:
        reasons.append(
            f"The gradient grows by 10^{report.growth:.0f} over the time span, as those of chaotic systems do: no method's is useful "
            "for optimisation over so long a time."
        )
    try:
        reference, candidates = _candidates(report, accuracy, memory_limit)
    except _Nothing as nothing:
        return Recommendation(None, reasons=(*reasons, str(nothing)))
    fastest, best = candidates[0], _best(candidates, reference)
    n = len({row.label for row in candidates})
    rank = "the only method that is accurate enough" if n == 1 else f"the best of {n} methods that are accurate enough"
    timing = _timing(best)
    spread = f" (quartiles {duration(*timing.quartiles)})" if len(timing.seconds) > 1 else ""
    reasons.append(f"{_name(best)} is {rank}: {duration(_seconds(best))}{spread} for solve and gradient, error {_error(best, reference)}.")
    if best is not fastest:
        memories = ""
        if fastest.memory is not None and best.memory is not None:
            memories = f", its memory {size(fastest.memory)} against {size(best.memory)}"
        reasons.append(
            f"{_name(fastest)} takes {duration(_seconds(fastest))} against {duration(_seconds(best))}, which is within the spread of the measurements; its "
            f"error is {_error(fastest, reference)} against {_error(best, reference)}{memories}."
        )
    reasons += _why_not_others(best, candidates, report, reference)
    runner_up = next((row for row in candidates if row.label != best.label), None)
    if runner_up is not None and (best is fastest or runner_up.label != fastest.label):
        reasons.append(f"Runner-up: {_name(runner_up)} takes {_longer(runner_up, best)}, with error {_error(runner_up, reference)}.")
    return Recommendation(best.method, best, expression(best), tuple(reasons), runner_up, tuple(_caveats(best, reference)))


def expression(row: GradientRow) -> str:
    """What to paste for the method of `row`: arguments of ``solve``, or for a peer what to pass to its own function."""
    if row.engine != "julia":
        return f"{row.engine}: {row.method}, {row.solver}, rtol={row.rtol:g}, atol={row.atol:g}"
    arguments = {} if row.vjp in (None, "generated") else {"autojacvec": row.vjp}
    inside = ", ".join(f"{key}={value!r}" for key, value in {**arguments, **row.options}.items())
    return f"sensealg=ps.{row.method}({inside}), rtol={row.rtol:g}, atol={row.atol:g}"


def _candidates(report: AdjointReport, accuracy: float | None, memory_limit: float | None) -> tuple[Reference, list[GradientRow]]:
    """The reference, and the rows that may be recommended, the fastest first."""
    if not report.rows:
        raise _Nothing("Nothing was compared.")
    if not any(row.status == "ok" for row in report.rows):
        raise _Nothing(f"All {len(report.rows)} rows failed or could not run.")
    reference = report.reference
    if reference is None:
        raise _Nothing("There is no reference to hold the gradients against, so their errors are unknown.")
    proven = reference.proven_error
    known = [row for row in report.rows if proven(row) < math.inf and row.total is not None]
    if not known:
        raise _Nothing("No method has both an error and a time.")
    closest = min(known, key=proven)
    if accuracy is None:
        accuracy = min(WORST, MARGIN * max(min(row.rtol for row in known), proven(closest)))
    found = sorted((row for row in known if proven(row) <= accuracy), key=_seconds)
    if not found:
        reached = f"the closest is {_name(closest)} with {_error(closest, reference)}"
        raise _Nothing(f"No method is known to reach an error of {error(accuracy)}: {reached}.")
    if memory_limit is None:
        return reference, found
    measured = [(row.memory, row) for row in found if row.memory is not None]
    if not measured:
        raise _Nothing(f"The memory of no accurate method was measured, so none is known to hold {size(memory_limit)}.")
    memory, least = min(measured, key=lambda x: x[0])
    if memory > memory_limit:
        raise _Nothing(f"No accurate method holds {size(memory_limit)} or less: {_name(least)} holds {size(memory)}.")
    return reference, [row for memory, row in measured if memory <= memory_limit]


def _best(candidates: Sequence[GradientRow], reference: Reference) -> GradientRow:
    """The fastest, or one within its noise that is twice as accurate, or as accurate in half the memory."""
    best = candidates[0]
    low, high = _timing(best).quartiles
    for row in candidates[1:]:
        faster, slower = _timing(row).quartiles
        if faster <= high and low <= slower:
            closer = reference.proven_error(row) / reference.proven_error(best)
            leaner = row.memory is not None and best.memory is not None and 2 * row.memory < best.memory
            if closer < 0.5 or (closer <= 1 and leaner):
                best = row
    return best


def _why_not_others(best: GradientRow, candidates: Sequence[GradientRow], report: AdjointReport, reference: Reference) -> Iterator[str]:
    """One sentence for each kind of method that could have been expected; `candidates` has the fastest first."""
    if best.engine != "julia":
        own = next((row for row in candidates if row.engine == "julia"), None)
        said = (
            f"the best of this package, {_name(own)}, takes {_longer(own, best)}"
            if own
            else "0 methods of this package were accurate enough"
        )
        yield f"It is a peer's: {said}."
    is_forward = best.method in FORWARD_METHODS
    other = next((row for row in candidates if (row.method in FORWARD_METHODS) != is_forward), None)
    if other is not None and _seconds(other) >= _seconds(best):
        kind = "a forward method costs least" if is_forward else "an adjoint costs less than forward mode"
        n = sum(reference.blocks.values())
        yield f"The gradient has {n} entries, and {kind}: {_name(other)} takes {_longer(other, best)}."
    failed = next((row for row in report.rows if row.method in BACKSOLVE_METHODS and row.status == "failed"), None)
    if failed is not None and best.method not in BACKSOLVE_METHODS:
        yield f"{'The problem is stiff: ' if report.stiff else ''}{_name(failed)} failed ({failed.reason or 'no reason given'})."
    left_out = [row for row in report.rows if row.rtol == best.rtol and row.status == "ok" and row not in candidates]
    quickest = min(left_out, key=_seconds, default=best)
    if _seconds(quickest) < _seconds(best) and quickest.error is not None:
        yield f"{_name(quickest)} is quicker ({duration(_seconds(quickest))}), but left out with an error of {_error(quickest, reference)}."


def _caveats(best: GradientRow, reference: Reference) -> Iterator[str]:
    if best.method in BACKSOLVE_METHODS:
        yield "it solves the states backwards, which grows unstable where the model turns stiff or dissipative."
    if reference.hides(best):
        yield f"its error is below the reference's own, {error(reference.estimated_error)}."
    if len(_timing(best).seconds) < 2:
        yield "it was timed once, so the spread is unknown."
    if best.first_call is not None and best.first_call > max(1.0, 100 * _seconds(best)):
        yield f"its first call takes {duration(best.first_call)}, compilation included."
    name, worst = max(best.block_errors.items(), key=lambda x: x[1], default=("", 0.0))
    if worst > MARGIN * reference.proven_error(best):
        yield f"the error of block {name} is {error(worst)}, above that of the whole gradient."


def _timing(row: GradientRow) -> Timing:
    return row.total or Timing((math.inf,))


def _seconds(row: GradientRow) -> float:
    return _timing(row).median


def _name(row: GradientRow) -> str:
    return f"{row.label} with {row.solver} at rtol {tolerance(row.rtol)}"


def _longer(slow: GradientRow, fast: GradientRow) -> str:
    ratio = _seconds(slow) / _seconds(fast)
    return f"{duration(_seconds(slow))}, {f'{ratio:.1f}' if ratio < 10 else f'{ratio:.0f}'} times as long"


def _error(row: GradientRow, reference: Reference) -> str:
    return f"{'≤ ' if reference.hides(row) else ''}{error(reference.proven_error(row))}"
