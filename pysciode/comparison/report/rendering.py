"""A table in terminals and notebooks, in Markdown and in LaTeX; advice in the first two."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from io import StringIO
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from .tables import Table

if TYPE_CHECKING:
    from .advice import Recommendation

FILE_WIDTH = 160
"""Width of text that goes to a file or a pipe, in characters."""


def to_text(renderable: RenderableType, width: int | None = None) -> str:
    """`renderable` as plain text without colours, as wide as the terminal unless `width` says otherwise.

    ``COLUMNS`` in the environment overrules the terminal's width.
    """
    if width is None:
        terminal = sys.stdout is not None and sys.stdout.isatty()
        width = shutil.get_terminal_size((80 if terminal else FILE_WIDTH, 24)).columns
    stream = StringIO()
    Console(file=stream, width=width, no_color=True, highlight=False, legacy_windows=False).print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def table_to_rich(table: Table, width: int) -> Iterator[RenderableType]:
    """The table for a console `width` characters wide; columns that don't fit are left out and named."""
    yield Text(table.heading, style="bold")
    for name, text in table.facts.items():
        yield Text.assemble((f"{name}: ", "dim"), text)
    for text in table.warnings:
        yield Text.assemble(("Warning: ", "bold yellow"), (text, "yellow"))
    if not table.rows:
        yield Text("\nNothing was compared." if not table.notes else "\nNothing ran.", style="bold")
    else:
        shown = _columns_that_fit(table, width)
        yield Text()
        yield _grid(table, shown)
        left_out = [title for i, title in enumerate(table.titles) if i not in shown]
        if left_out:
            yield Text(f"Left out for width: {', '.join(left_out)}.", style="dim")
    for note in table.notes:
        yield Text(note, style="red" if note.startswith("Failed") else "dim")


def _grid(table: Table, shown: list[int]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
    for i in shown:
        right = table.columns[i].right
        grid.add_column(table.titles[i], justify="right" if right else "left", no_wrap=right, overflow="fold")
    for k, row in enumerate(table.rows):
        cells = table.cells(row)
        grid.add_row(*(Text(cells[i]) for i in shown), style=None if row.status == "ok" else "red", end_section=table.starts_group(k + 1))
    return grid


def _columns_that_fit(table: Table, width: int) -> list[int]:
    """Indices of the columns; the most dispensable go until the rest fits."""
    needed = [max(map(cell_len, cells)) + 3 for cells in zip(table.titles, *map(table.cells, table.rows), strict=True)]
    ranks = [column.rank for column in table.columns]
    shown = list(range(len(ranks)))
    while sum(needed[i] for i in shown) > width and any(ranks[i] > 0 for i in shown):
        shown.remove(max(shown, key=lambda i: (ranks[i], i)))
    return shown


def advice_to_rich(advice: Recommendation) -> Iterator[RenderableType]:
    """The method, what to paste, and the reasons as a list."""
    yield Text(advice.heading, style="bold green" if advice.row else "bold red")
    if advice.expression:
        yield Padding(Text(advice.expression, style="cyan"), (0, 0, 0, 2))
    grid = Grid.grid(padding=(0, 1))
    for text in advice.reasons:
        grid.add_row("•", Text(text))
    for text in advice.caveats:
        grid.add_row("•", Text.assemble(("Beware: ", "bold yellow"), text))
    yield grid


def table_to_markdown(table: Table) -> str:
    """Facts, warnings, the table with all its columns and the notes, in GitHub's Markdown."""

    def escaped(text: str) -> str:
        return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", " ".join(text.split()))

    def row(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    facts = [f"- {escaped(name)}: {escaped(text)}" for name, text in table.facts.items()]
    facts += [f"- **Warning:** {escaped(text)}" for text in table.warnings]
    grid = [row(map(escaped, table.titles)), row("---:" if column.right else ":---" for column in table.columns)]
    grid += [row(map(escaped, table.cells(x))) for x in table.rows]
    notes = [f"- {escaped(note)}" for note in table.notes]
    blocks = [[f"**{escaped(table.heading)}**"], facts, grid if table.rows else ["Nothing was compared."], notes]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def table_to_latex(table: Table, caption: str | None = None, label: str | None = None) -> str:
    r"""The table with all its columns; needs ``\usepackage{booktabs}``. Warnings and failures stand below it; the facts about
    the comparison stand above as comments, for the caption."""
    lines = [f"% {name}: {' '.join(text.split())}" for name, text in table.facts.items()] + [r"\begin{table}", r"  \centering"]
    lines += [rf"  \caption{{{_latex(caption)}}}"] if caption else []
    lines += [rf"  \label{{{label}}}"] if label else []
    alignment = "".join("r" if column.right else "l" for column in table.columns)
    lines += [rf"  \begin{{tabular}}{{{alignment}}}", r"    \toprule", rf"    {' & '.join(map(_latex, table.titles))} \\"]
    for k, row in enumerate(table.rows):
        lines += [r"    \midrule"] if table.starts_group(k) else []
        lines.append(rf"    {' & '.join(map(_latex, table.cells(row)))} \\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    below = [f"Warning: {text}" for text in table.warnings] + list(table.notes)
    lines += [rf"  \par\smallskip {{\footnotesize {_latex(' '.join(text.split()))}\par}}" for text in below]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


# Greek letters, as models name their parameters, are no text in LaTeX's usual fonts. Those like Latin ones have no command.
_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρςστυφχψωΓΔΘΛΞΠΣΥΦΨΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho varsigma sigma tau upsilon phi chi psi omega "
        "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split(),
        strict=True,
    )
)
_SYMBOLS = _GREEK | {"≤": "leq", "≥": "geq", "×": "times", "→": "rightarrow", "∂": "partial", "‖": "|", "µ": "mu"}
_NAMES = {"\\": "textbackslash", "~": "textasciitilde", "^": "textasciicircum", "<": "textless", ">": "textgreater", "…": "ldots"}
_ESCAPES = str.maketrans(
    {x: rf"$\{name}$" for x, name in _SYMBOLS.items()}
    | {x: rf"\{name}{{}}" for x, name in _NAMES.items()}
    | {x: rf"\{x}" for x in "{}&%$#_"}
    | {x: f"$_{i}$" for i, x in enumerate("₀₁₂₃₄₅₆₇₈₉")}
    | {x: f"$^{{{digit}}}$" for x, digit in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True)}
    | {"–": "--", "—": "---", "ο": "$o$"}
)
_POWER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)e(-?\d+)(?!\w)")


def _latex(text: str) -> str:
    def power(match: re.Match[str]) -> str:
        mantissa, exponent = match.groups()
        factor = "" if mantissa == "1" else rf"{mantissa}\times "
        return f"${factor}10^{{{exponent}}}$"

    return _POWER.sub(power, text.translate(_ESCAPES))
