"""Which method to take for this model: rules that go by the figures that were measured, each reason with its figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ...methods.adjoints import SENSITIVITY_ALGORITHMS
from ..measure.rows import GradientRow, Timing
from . import quantities
from .ranking import BACKSOLVE_METHODS, FORWARD_METHODS, below_reference, memory, proven_error, seconds

if TYPE_CHECKING:
    from .reports import AdjointReport

MARGIN = 10.0
"""By default an error suffices that is this many times the tightest tolerance, or the best error."""

WORST = 0.1
"""But no larger one: a gradient that is further off is not recommended unless the user says that it does."""


@dataclass(frozen=True)
class Recommendation:
    """A method for the model that was compared, and why.

    Attributes
    ----------
    method
        Its name; None where none can be recommended, and `reasons` says why.
    row
        The row that speaks for it.
    expression
        What to paste: ``solve``'s arguments, or the call of the peer's function.
    reasons
        Sentences, each with a figure of the table.
    runner_up
        The next best method.
    caveats
        What to beware of.
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
        lines = [self.heading]
        if self.expression:
            lines.append(f"  {self.expression}")
        lines += [f"- {text}" for text in self.reasons]
        lines += [f"- Beware: {text}" for text in self.caveats]
        return "\n".join(lines)

    def __rich__(self) -> object:
        from .rendering import advice_to_rich

        return advice_to_rich(self)

    def _repr_html_(self) -> str:
        from .rendering import advice_to_html

        return advice_to_html(self)


def recommend(report: AdjointReport, accuracy: float | None = None, memory_limit: float | None = None) -> Recommendation:
    """The fastest method that is accurate enough, and of those within its noise the more accurate or the smaller one.

    Parameters
    ----------
    accuracy
        Relative error of the gradient that suffices. By default `MARGIN` times the tightest tolerance compared, or `MARGIN`
        times the best error where that is larger, but at most `WORST`.
    memory_limit
        Bytes that it may hold; methods whose memory was not measured are left out then.

    Raises
    ------
    ValueError
        If `accuracy` or `memory_limit` is not positive.
    """
    for name, value in (("accuracy", accuracy), ("memory_limit", memory_limit)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, not {value!r}")
    opening = _explosion(report)
    candidates, problem = _candidates(report, accuracy, memory_limit)
    if not candidates:
        return Recommendation(None, reasons=(*opening, problem))
    best, tie = _best(candidates, report)
    others = [row for row in sorted(candidates, key=seconds) if row.label != best.label]
    runner_up = others[0] if others else None
    reasons = [*opening, _why_best(best, report, len({row.label for row in candidates}))]
    reasons += [tie] if tie else []
    reasons += _why_not_others(best, candidates, report)
    if runner_up is not None and not (tie and runner_up.label in tie):
        reasons.append(
            f"Runner-up: {_name(runner_up)} takes {_time(runner_up)}, {_times(runner_up, best)}, with error {_error(runner_up, report)}."
        )
    return Recommendation(best.method, best, expression(best), tuple(reasons), runner_up, tuple(_caveats(best, report)))


def expression(row: GradientRow) -> str:
    """What to paste for the method of `row`: arguments of ``solve``, or for a peer what to pass to its own function."""
    if row.engine != "julia":
        return f"{row.engine}: {row.method}, {row.solver}, rtol={row.rtol:g}, atol={row.atol:g}"
    arguments = dict(row.options)
    known = SENSITIVITY_ALGORITHMS.get(row.method)
    takes_vjp = known is not None and any(x.name == "autojacvec" for x in fields(known))
    if takes_vjp and row.vjp not in (None, "generated"):
        arguments = {"autojacvec": row.vjp, **arguments}
    inside = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"sensealg=ps.{row.method}({inside}), rtol={row.rtol:g}, atol={row.atol:g}"


def _candidates(report: AdjointReport, accuracy: float | None, memory_limit: float | None) -> tuple[list[GradientRow], str]:
    """Rows that may be recommended, or a sentence that says why there are none."""
    if not report.rows:
        return [], "Nothing was compared."
    if not any(row.status == "ok" for row in report.rows):
        return [], f"All {len(report.rows)} rows failed or could not run."
    if report.reference is None:
        return [], "There is no reference to hold the gradients against, so none can be vouched for."
    errors = {id(row): proven_error(row, report.reference) for row in report.rows}
    known = [row for row in report.rows if errors[id(row)] is not None and seconds(row) is not None]
    if not known:
        return [], "No method has both an error and a time."
    closest = min(known, key=lambda row: errors[id(row)])
    if accuracy is None:
        accuracy = min(WORST, MARGIN * max(min(row.rtol for row in known), errors[id(closest)]))
    found = [row for row in known if errors[id(row)] <= accuracy]
    if not found:
        return [], (
            f"No method is known to reach an error of {quantities.error(accuracy)}: the closest is {_name(closest)} with "
            f"{_error(closest, report)}."
        )
    if memory_limit is None:
        return found, ""
    small = [row for row in found if (held := memory(row)) is not None and held <= memory_limit]
    if small:
        return small, ""
    held = [(memory(row), row) for row in found if memory(row) is not None]
    if not held:
        return [], f"The memory of no accurate method was measured, so none is known to hold {quantities.size(memory_limit)}."
    least, row = min(held, key=lambda x: x[0])
    return [], f"No accurate method holds {quantities.size(memory_limit)} or less: {_name(row)} holds {quantities.size(least)}."


def _best(candidates: Sequence[GradientRow], report: AdjointReport) -> tuple[GradientRow, str | None]:
    """The fastest, or one within its noise that is twice as accurate, or as accurate in half the memory; with the reason."""
    fastest = best = min(candidates, key=seconds)
    for row in sorted(candidates, key=seconds):
        if row is fastest or not _overlap(row.total, fastest.total):
            continue
        ratio = proven_error(row, report.reference) / proven_error(best, report.reference)
        held, least = memory(row), memory(best)
        leaner = held is not None and least is not None and 2 * held < least
        if ratio < 0.5 or (ratio <= 1 and leaner):
            best = row
    if best is fastest:
        return best, None
    return best, (
        f"{_name(fastest)} takes {_time(fastest)} against {_time(best)}, which is within the spread of the measurements; its "
        f"error is {_error(fastest, report)} against {_error(best, report)}{_memories(fastest, best)}."
    )


def _overlap(one: Timing, other: Timing) -> bool:
    return one.quartiles[0] <= other.quartiles[1] and other.quartiles[0] <= one.quartiles[1]


def _why_best(best: GradientRow, report: AdjointReport, n: int) -> str:
    spread = ""
    if len(best.total.seconds) > 1:
        spread = f" (quartiles {quantities.duration_range(*best.total.quartiles)})"
    rank = "the only method that is accurate enough" if n == 1 else f"the best of {n} methods that are accurate enough"
    return f"{_name(best)} is {rank}: {_time(best)}{spread} for solve and gradient, error {_error(best, report)}."


def _why_not_others(best: GradientRow, candidates: Sequence[GradientRow], report: AdjointReport) -> list[str]:
    reasons = []
    if best.engine != "julia":
        ours = [row for row in candidates if row.engine == "julia"]
        if ours:
            own = min(ours, key=seconds)
            reasons.append(f"It is a peer's: the best of this package, {_name(own)}, takes {_time(own)}, {_times(own, best)}.")
        else:
            reasons.append("It is a peer's: 0 methods of this package were accurate enough.")
    reasons += _forward_or_adjoint(best, candidates, report)
    reasons += _backsolve(best, report)
    quicker = [
        row
        for row in report.rows
        if row.rtol == best.rtol and row.status == "ok" and row not in candidates and (seconds(row) or math.inf) < seconds(best)
    ]
    for row in sorted(quicker, key=seconds)[:1]:
        if row.error is not None:
            reasons.append(f"{_name(row)} is quicker ({_time(row)}), but left out with an error of {_error(row, report)}.")
    return reasons


def _forward_or_adjoint(best: GradientRow, candidates: Sequence[GradientRow], report: AdjointReport) -> list[str]:
    n = sum(report.reference.blocks.values())
    is_forward = best.method in FORWARD_METHODS
    others = [row for row in candidates if (row.method in FORWARD_METHODS) != is_forward]
    if not others:
        return []
    other = min(others, key=seconds)
    if seconds(other) < seconds(best):
        return []
    kind = "a forward method costs least" if is_forward else "an adjoint costs less than forward mode"
    return [f"The gradient has {n} entries, and {kind}: {_name(other)} takes {_time(other)}, {_times(other, best)}."]


def _backsolve(best: GradientRow, report: AdjointReport) -> list[str]:
    if best.method in BACKSOLVE_METHODS:
        return []
    failed = [row for row in report.rows if row.method in BACKSOLVE_METHODS and row.status == "failed"]
    if not failed:
        return []
    stiff = "The problem is stiff: " if report.stiff else ""
    return [f"{stiff}{_name(failed[0])} failed ({failed[0].reason or 'no reason given'})."]


def _caveats(best: GradientRow, report: AdjointReport) -> list[str]:
    caveats = []
    if best.method in BACKSOLVE_METHODS:
        caveats.append("it solves the states backwards, which grows unstable where the model turns stiff or dissipative.")
    if below_reference(best, report.reference):
        caveats.append(f"its error is below the reference's own, {quantities.error(report.reference.estimated_error)}.")
    if len(best.total.seconds) < 2:
        caveats.append("it was timed once, so the spread is unknown.")
    if best.first_call is not None and best.first_call > max(1.0, 100 * seconds(best)):
        caveats.append(f"its first call takes {quantities.duration(best.first_call)}, compilation included.")
    error = proven_error(best, report.reference)
    for name, value in sorted(best.block_errors.items(), key=lambda x: -x[1])[:1]:
        if value > MARGIN * error:
            caveats.append(f"the error of block {name} is {quantities.error(value)}, above that of the whole gradient.")
    return caveats


def _explosion(report: AdjointReport) -> tuple[str, ...]:
    if report.growth is None:
        return ()
    return (
        f"The gradient grows by 10^{report.growth:.0f} over the time span, as those of chaotic systems do: no method's is useful "
        "for optimisation over so long a time.",
    )


def _name(row: GradientRow) -> str:
    return f"{row.label} with {row.solver} at rtol {quantities.tolerance(row.rtol)}"


def _time(row: GradientRow) -> str:
    return quantities.duration(seconds(row))


def _times(slow: GradientRow, fast: GradientRow) -> str:
    return f"{quantities.ratio(seconds(slow) / seconds(fast))} times as long"


def _error(row: GradientRow, report: AdjointReport) -> str:
    if below_reference(row, report.reference):
        return f"≤ {quantities.error(report.reference.estimated_error)}"
    return quantities.error(row.error)


def _memories(one: GradientRow, other: GradientRow) -> str:
    if memory(one) is None or memory(other) is None:
        return ""
    return f", its memory {quantities.size(memory(one))} against {quantities.size(memory(other))}"
