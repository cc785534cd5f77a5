"""Reports of a comparison: the rows with what one must know to read them."""

from __future__ import annotations

from dataclasses import dataclass, field

from .rows import GradientRow, Reference, SolveRow


@dataclass(frozen=True)
class AdjointReport:
    """Sensitivity methods side by side on one model and loss.

    Attributes
    ----------
    rows
        One for each solver, method, VJP and tolerance, failed ones included.
    reference
        What the errors are held against; None where no gradient could be trusted as one.
    warnings
        Sentences about the problem itself, as that its gradient grows exponentially with time.
    problem
        The model, in words.
    settings
        What was asked for and where it ran, as ``{"loss": "sum of squares", "states": 2, "parameters": 4, "cores": 2}``.
    """

    rows: tuple[GradientRow, ...]
    reference: Reference | None = None
    warnings: tuple[str, ...] = ()
    problem: str = ""
    settings: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class SolverReport:
    """Solvers side by side on one model, without derivatives; `reference` says in words what the errors are held against."""

    rows: tuple[SolveRow, ...]
    reference: str = ""
    problem: str = ""
    settings: dict[str, object] = field(default_factory=dict)
