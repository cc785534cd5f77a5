"""Reports of a comparison: the rows with what one must know to read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

from rich.jupyter import JupyterMixin

from ..measure.rows import GradientRow, Reference, SolveRow
from .advice import Recommendation, recommend
from .figures import adjoint_figure, solver_figure
from .plain_values import data_frame, plain, restored
from .rendering import table_to_latex, table_to_markdown, table_to_rich, to_text
from .tables import Table, gradient_table, solve_table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from rich.console import Console, ConsoleOptions, RenderableType
    from typing_extensions import Self


class _Report(JupyterMixin):
    """Terminal, notebook, paper, figure and file, for a report that says what makes its table and its figure."""

    rows: tuple[Any, ...]
    _table: ClassVar[Callable[[Any], Table]]
    _figure: ClassVar[Callable[[Any], Any]]

    def to_text(self, width: int | None = None) -> str:
        """The report as plain text, as wide as the terminal unless `width` (characters) says otherwise."""
        return to_text(self, width)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.rows)} rows; print it for the table>"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        return table_to_rich(self._table(), options.max_width)

    def to_markdown(self) -> str:
        """The report in Markdown: facts, warnings, a table with all columns, and failures with their reasons."""
        return table_to_markdown(self._table())

    def to_latex(self, caption: str | None = None, label: str | None = None) -> str:
        r"""The table in LaTeX, with all its columns; needs ``\usepackage{booktabs}``.

        Special characters of the caption are escaped; the label, for ``\ref``, is taken as it is.
        """
        return table_to_latex(self._table(), caption, label)

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Work–precision diagram (error against time, one line a method) beside what each method takes: the memory of a gradient,
        or a solver's evaluations of the model. It is saved to `path`, whose suffix chooses the format."""
        figure = self._figure()
        if path is not None:
            figure.savefig(path, dpi=160)
        return figure

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return {"kind": type(self).__name__, **plain(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The report that :meth:`to_dict` made `data` from; raises ValueError if `data` is something else."""
        kind = data.get("kind") if isinstance(data, Mapping) else type(data).__name__
        if kind != cls.__name__:
            raise ValueError(f"data: expected a saved {cls.__name__}, not {kind!r}")
        return restored(cls, {name: x for name, x in data.items() if name != "kind"})

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON, from which :meth:`from_json` makes it again.

        Times are in seconds, memory in bytes. Numbers that JSON lacks are the texts ``"NaN"``, ``"Infinity"`` and
        ``"-Infinity"``; tuples in `settings` come back as lists.
        """
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The report that :meth:`to_json` wrote; raises ValueError as :meth:`from_dict`."""
        return cls.from_dict(json.loads(text))


@dataclass(frozen=True, repr=False)
class AdjointReport(_Report):
    """Sensitivity methods side by side on one model and loss.

    Printed, it is as wide as the terminal; errors below the reference's own are shown as ``≤`` that and are not ranked.

    Attributes
    ----------
    rows
        One for each solver, method, VJP and tolerance, failed ones included.
    reference
        The gradient that errors refer to; None where none could be trusted.
    warnings
        Sentences about the problem itself, as that its gradient grows exponentially with time.
    problem, settings
        The model in words; what was asked for and where it ran, as ``{"loss": "sum of squares", "states": 2, "cores": 2}``.
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

    _table, _figure = gradient_table, adjoint_figure

    def recommend(self, accuracy: float | None = None, memory_limit: float | None = None) -> Recommendation:
        """One method for this model, with reasons from the table: the fastest that is accurate enough, and of those within its
        noise the more accurate or the smaller one.

        Parameters
        ----------
        accuracy
            Relative error of the gradient that suffices. By default ten times the tightest tolerance compared, or ten times
            the best error where that is larger, but at most 0.1.
        memory_limit
            Bytes that the method may hold; methods whose memory was not measured are left out then.

        Raises
        ------
        ValueError
            If either is not positive.
        """
        return recommend(self, accuracy, memory_limit)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row for each of `rows`: times in seconds (``total_s`` with quartiles ``total_q1_s``, ``total_q3_s``), memory in
        bytes, errors by block as ``error[name]``; ``below_reference`` tells errors that mean no more than "at most"."""
        return data_frame(GradientRow, self.rows, self.reference)


@dataclass(frozen=True, repr=False)
class SolverReport(_Report):
    """Solvers side by side on one model, without derivatives; `reference` says in words what the errors are held against."""

    rows: tuple[SolveRow, ...]
    reference: str = ""
    problem: str = ""
    settings: dict[str, object] = field(default_factory=dict)

    _table, _figure = solve_table, solver_figure

    def to_dataframe(self) -> pandas.DataFrame:
        """One row for each of `rows`, times in seconds (``time_s`` with quartiles ``time_q1_s``, ``time_q3_s``)."""
        return data_frame(SolveRow, self.rows, None)
