"""What a comparison measures, one row for each method at one tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Literal

Status = Literal["ok", "failed", "unavailable"]


@dataclass(frozen=True)
class Timing:
    """Wall times of repeated runs after a warm-up, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile; both the one time where there is only one."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Counts:
    """Evaluations of the model; None where an engine does not count them."""

    f: int | None = None
    vjp: int | None = None
    jacobian: int | None = None


@dataclass(frozen=True)
class GradientRow:
    """One sensitivity method, with one solver, one choice of VJP and one tolerance.

    Attributes
    ----------
    solver, method, vjp
        Names: of the algorithm (``"Tsit5"``), of SciML's sensitivity method (``"GaussAdjoint"``) or a peer's function
        (``"odeint_adjoint"``), and of what makes vector-Jacobian products (``"generated"``, ``"ZygoteVJP"``), None where none is needed.
    engine
        What ran: ``"julia"``, ``"embedded"`` (torchdiffeq) or ``"diffrax"``.
    rtol, atol
        Tolerances of the solve (and of the reverse solve).
    options
        The method's other options that differ from its defaults, as ``{"checkpointing": True}``.
    status, reason
        ``"ok"``, ``"failed"`` (an error, or no gradient that can be trusted) or ``"unavailable"`` (a package that does not load, a
        model that this peer can't express), and one line that says why.
    error
        Relative error of the whole gradient in the 2-norm, ``‖g - g_ref‖ / ‖g_ref‖``.
    block_errors
        The same for each block of parameters, and for ``"u0"`` where it is differentiated.
    loss
        Value of the loss.
    forward, backward, total
        Wall times of the solve, of its pullback, and of both with the loss between them.
    first_call
        Seconds that the first call took, compilation included.
    peak_memory, kept_memory, allocated
        Bytes: growth of the process's resident memory at its highest, what is held between the passes where the engine can say,
        and what Julia allocated in both.
    forward_counts, backward_counts
        Evaluations in each pass.
    steps
        Accepted steps of the forward solve.
    """

    solver: str
    method: str
    vjp: str | None
    engine: str
    rtol: float
    atol: float
    options: Mapping[str, object] = field(default_factory=dict)
    status: Status = "ok"
    reason: str | None = None
    error: float | None = None
    block_errors: Mapping[str, float] = field(default_factory=dict)
    loss: float | None = None
    forward: Timing | None = None
    backward: Timing | None = None
    total: Timing | None = None
    first_call: float | None = None
    peak_memory: int | None = None
    kept_memory: int | None = None
    allocated: int | None = None
    forward_counts: Counts = Counts()
    backward_counts: Counts = Counts()
    steps: int | None = None

    @property
    def label(self) -> str:
        """The method with what sets it apart, as ``"GaussAdjoint(ZygoteVJP)"``; for legends and tables."""
        inside = [self.vjp] if self.vjp not in (None, "generated") else []
        inside += [f"{key}={value}" for key, value in self.options.items()]
        name = self.method if self.engine == "julia" else f"{self.engine}: {self.method}"
        return f"{name}({', '.join(inside)})" if inside else name

    @property
    def timing(self) -> Timing | None:
        return self.total

    @property
    def memory(self) -> int | None:
        """Bytes kept between the passes, or the peak where those are unknown."""
        return self.peak_memory if self.kept_memory is None else self.kept_memory


@dataclass(frozen=True)
class SolveRow:
    """One solver at one tolerance, without derivatives; the fields are those of `GradientRow`.

    The error is the largest relative one of the saved states, ``max |u - u_ref| / max |u_ref|`` per entry of the state.
    """

    solver: str
    engine: str
    rtol: float
    atol: float
    status: Status = "ok"
    reason: str | None = None
    error: float | None = None
    time: Timing | None = None
    first_call: float | None = None
    counts: Counts = Counts()
    steps: int | None = None
    rejected: int | None = None

    @property
    def label(self) -> str:
        """The solver, with a peer's name before it."""
        return self.solver if self.engine == "julia" else f"{self.engine}: {self.solver}"

    @property
    def timing(self) -> Timing | None:
        return self.time


@dataclass(frozen=True)
class Reference:
    """The reference gradient of the rows.

    Attributes
    ----------
    method, check
        How it was made and what it was cross-checked by, in words.
    estimated_error
        Its own relative error as that check shows it; errors of rows below it mean nothing.
    blocks, norm
        Names and sizes of the blocks of parameters, and the 2-norm of the whole.
    """

    method: str
    check: str
    estimated_error: float
    blocks: Mapping[str, int]
    norm: float

    def hides(self, row: GradientRow | SolveRow) -> bool:
        """Whether the row's error is less than the reference's own, so that it says nothing but "at most"."""
        return row.error is not None and row.error < self.estimated_error

    def proven_error(self, row: GradientRow) -> float:
        """The error that is proven: the row's, or the reference's own where that is larger; infinite if unknown."""
        if row.status != "ok" or row.error is None or not math.isfinite(row.error):
            return math.inf
        return max(row.error, self.estimated_error)
