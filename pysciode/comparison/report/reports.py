"""Reports of a comparison: the rows with what one must know to read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from ..measure.rows import GradientRow, Reference, SolveRow
from . import serialisation

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from .advice import Recommendation
    from .tables import Table


class _Shown:
    """Terminal, notebook and paper, for a report that can make a table."""

    def _table(self) -> Table:
        raise NotImplementedError

    def to_text(self, width: int | None = None) -> str:
        """The report as plain text, as wide as the terminal unless `width` (characters) says otherwise."""
        from .rendering import Rendered, to_text

        return to_text(Rendered(self._table()), width)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.rows)} rows; print it for the table>"

    def __rich__(self) -> object:
        from .rendering import Rendered

        return Rendered(self._table())

    def _repr_html_(self) -> str:
        from .rendering import to_html

        return to_html(self._table())

    def to_markdown(self) -> str:
        """The report in Markdown: facts, warnings, a table with all columns, and failures with their reasons."""
        from .documents import to_markdown

        return to_markdown(self._table())

    def to_latex(self, caption: str | None = None, label: str | None = None) -> str:
        r"""The table in LaTeX, with all its columns; needs ``\usepackage{booktabs}``.

        Parameters
        ----------
        caption
            Plain text; its special characters are escaped.
        label
            For ``\ref``; taken as it is.
        """
        from .documents import to_latex

        return to_latex(self._table(), caption, label)

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        raise NotImplementedError

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON, from which :meth:`from_json` makes it again.

        Times are in seconds, memory in bytes. Numbers that JSON lacks are the texts ``"NaN"``, ``"Infinity"`` and
        ``"-Infinity"``; tuples in `settings` come back as lists.
        """
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, repr=False)
class AdjointReport(_Shown):
    """Sensitivity methods side by side on one model and loss.

    Printed, it is as wide as the terminal; errors below the reference's own are shown as ``≤`` that and are not ranked.

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
    stiff
        Whether SciML's default solver takes an implicit method.
    growth
        Decades by which the gradient grows over the time span, where it does so exponentially; otherwise None.
    """

    rows: tuple[GradientRow, ...]
    reference: Reference | None = None
    warnings: tuple[str, ...] = ()
    problem: str = ""
    settings: dict[str, object] = field(default_factory=dict)
    stiff: bool = False
    growth: float | None = None

    def _table(self) -> Table:
        from .tables import gradient_table

        return gradient_table(self)

    def recommend(self, accuracy: float | None = None, memory_limit: float | None = None) -> Recommendation:
        """One method for this model, with reasons from the table; see :func:`pysciode.comparison.report.advice.recommend`.

        Parameters
        ----------
        accuracy
            Relative error of the gradient that suffices. By default ten times the tightest tolerance compared, or ten times
            the best error where that is larger, but at most 0.1.
        memory_limit
            Bytes that the method may hold.

        Raises
        ------
        ValueError
            If either is not positive.
        """
        from .advice import recommend

        return recommend(self, accuracy, memory_limit)

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Work–precision diagram (error against time, one line a method) beside the memory of each method.

        Parameters
        ----------
        path
            Where to save it; the suffix chooses the format.
        """
        from .figures import adjoint_figure, save

        return save(adjoint_figure(self), path)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row for each of `rows`: times in seconds (``total_s`` with quartiles ``total_q1_s``, ``total_q3_s``), memory in
        bytes, errors by block as ``error[name]``; ``below_reference`` tells errors that mean no more than "at most"."""
        from .frames import gradient_frame

        return gradient_frame(self.rows, self.reference)

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return {
            "kind": "AdjointReport",
            "problem": self.problem,
            "settings": serialisation.plain(self.settings),
            "reference": None if self.reference is None else serialisation.row_to_dict(self.reference),
            "warnings": list(self.warnings),
            "stiff": self.stiff,
            "growth": serialisation.plain(self.growth),
            "rows": [serialisation.row_to_dict(row) for row in self.rows],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AdjointReport:
        """The report that :meth:`to_dict` made `data` from.

        Raises
        ------
        ValueError
            If `data` is something else.
        """
        data = serialisation.check_kind(data, "AdjointReport")
        return cls(
            rows=tuple(serialisation.gradient_row(x) for x in data["rows"]),
            reference=serialisation.reference(data["reference"]),
            warnings=tuple(data["warnings"]),
            problem=data["problem"],
            settings=dict(data["settings"]),
            stiff=data["stiff"],
            growth=data["growth"],
        )

    @classmethod
    def from_json(cls, text: str) -> AdjointReport:
        """The report that :meth:`to_json` wrote; raises ValueError as :meth:`from_dict`."""
        return cls.from_dict(json.loads(text))


@dataclass(frozen=True, repr=False)
class SolverReport(_Shown):
    """Solvers side by side on one model, without derivatives; `reference` says in words what the errors are held against."""

    rows: tuple[SolveRow, ...]
    reference: str = ""
    problem: str = ""
    settings: dict[str, object] = field(default_factory=dict)

    def _table(self) -> Table:
        from .tables import solve_table

        return solve_table(self)

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Work–precision diagram (error against time, one line a solver) beside the evaluations of the model.

        Parameters
        ----------
        path
            Where to save it; the suffix chooses the format.
        """
        from .figures import save, solver_figure

        return save(solver_figure(self), path)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row for each of `rows`, times in seconds (``time_s`` with quartiles ``time_q1_s``, ``time_q3_s``)."""
        from .frames import solve_frame

        return solve_frame(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return {
            "kind": "SolverReport",
            "problem": self.problem,
            "settings": serialisation.plain(self.settings),
            "reference": self.reference,
            "rows": [serialisation.row_to_dict(row) for row in self.rows],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SolverReport:
        """The report that :meth:`to_dict` made `data` from; raises ValueError if `data` is something else."""
        data = serialisation.check_kind(data, "SolverReport")
        return cls(
            rows=tuple(serialisation.solve_row(x) for x in data["rows"]),
            reference=data["reference"],
            problem=data["problem"],
            settings=dict(data["settings"]),
        )

    @classmethod
    def from_json(cls, text: str) -> SolverReport:
        """The report that :meth:`to_json` wrote; raises ValueError as :meth:`from_dict`."""
        return cls.from_dict(json.loads(text))
