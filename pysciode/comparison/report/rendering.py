"""A table in the terminal and in a notebook."""

from __future__ import annotations

import html
import shutil
import sys
from io import StringIO
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from .tables import Table

if TYPE_CHECKING:
    from .advice import Recommendation

FILE_WIDTH = 160
"""Width of text that goes to a file or a pipe, in characters."""


def to_text(renderable: RenderableType, width: int | None = None) -> str:
    """`renderable` as plain text without colours, as wide as the terminal unless `width` says otherwise."""
    stream = StringIO()
    console = Console(file=stream, width=width or text_width(), no_color=True, highlight=False, legacy_windows=False)
    console.print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def text_width() -> int:
    """Columns of the terminal; `FILE_WIDTH` where the output is none. ``COLUMNS`` in the environment overrules both."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size((80 if terminal else FILE_WIDTH, 24)).columns


class Rendered:
    """A table that rich prints as wide as its console: columns that don't fit are left out and named."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: object) -> object:
        yield to_rich(self.table, options.max_width)


def to_rich(table: Table, width: int) -> RenderableType:
    """The table for a console `width` characters wide."""
    parts: list[RenderableType] = [Text(table.heading, style="bold")]
    parts += [Text.assemble((f"{name}: ", "dim"), text) for name, text in table.facts]
    parts += [Text.assemble(("Warning: ", "bold yellow"), (text, "yellow")) for text in table.warnings]
    if not table.lines:
        parts.append(Text("\nNothing was compared." if not table.notes else "\nNothing ran.", style="bold"))
    else:
        shown = _columns_that_fit(table, width)
        parts += [Text(), _grid(table, shown)]
        left_out = [title for i, title in enumerate(table.titles) if i not in shown]
        if left_out:
            parts.append(Text(f"Left out for width: {', '.join(left_out)}.", style="dim"))
    parts += [Text(note, style="red" if note.startswith("Failed") else "dim") for note in table.notes]
    return Group(*parts)


def _grid(table: Table, shown: list[int]) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
    for i in shown:
        right = table.right[i]
        grid.add_column(table.titles[i], justify="right" if right else "left", no_wrap=right, overflow="fold")
    for k, line in enumerate(table.lines):
        last = k + 1 < len(table.lines) and table.lines[k + 1].first
        style = None if line.status == "ok" else "red"
        grid.add_row(*(Text(line.cells[i]) for i in shown), style=style, end_section=last)
    return grid


def _columns_that_fit(table: Table, width: int) -> list[int]:
    """Indices of the columns; the most dispensable go until the rest fits."""
    needed = [max([cell_len(title), *(cell_len(line.cells[i]) for line in table.lines)]) + 3 for i, title in enumerate(table.titles)]
    shown = list(range(len(table.titles)))
    while sum(needed[i] for i in shown) > width and any(table.ranks[i] > 0 for i in shown):
        shown.remove(max(shown, key=lambda i: (table.ranks[i], i)))
    return shown


def advice_to_rich(advice: Recommendation) -> RenderableType:
    """The method, what to paste, and the reasons as a list."""
    parts: list[RenderableType] = [Text(advice.heading, style="bold green" if advice.row else "bold red")]
    if advice.expression:
        parts.append(Padding(Text(advice.expression, style="cyan"), (0, 0, 0, 2)))
    points = [Text(x) for x in advice.reasons]
    points += [Text.assemble(("Beware: ", "bold yellow"), x) for x in advice.caveats]
    grid = RichTable.grid(padding=(0, 1))
    for point in points:
        grid.add_row("•", point)
    return Group(*parts, grid)


def advice_to_html(advice: Recommendation) -> str:
    """The same as a fragment of HTML."""
    lines = [_STYLE, '<div class="pysciode">', f"<p><b>{html.escape(advice.heading)}</b></p>"]
    if advice.expression:
        lines.append(f"<pre>{html.escape(advice.expression)}</pre>")
    lines.append("<ul>")
    lines += [f"<li>{html.escape(x)}</li>" for x in advice.reasons]
    lines += [f'<li><span class="warning">Beware:</span> {html.escape(x)}</li>' for x in advice.caveats]
    return "\n".join([*lines, "</ul>", "</div>"])


_STYLE = """<style>
.pysciode table { border-collapse: collapse; font-size: 90%; }
.pysciode th { border-bottom: 1px solid; text-align: left; padding: 2px 8px; }
.pysciode td { padding: 2px 8px; text-align: left; border: none; }
.pysciode .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.pysciode tr.first td { border-top: 1px solid #8884; }
.pysciode li { margin: 2px 0; }
.pysciode tr.failed { color: #c0392b; }
.pysciode .warning { color: #b9770e; font-weight: bold; }
.pysciode p { margin: 2px 0; }
</style>"""


def to_html(table: Table) -> str:
    """The table with all its columns as a fragment of HTML."""
    lines = [_STYLE, '<div class="pysciode">', f"<p><b>{html.escape(table.heading)}</b></p>"]
    lines += [f"<p>{html.escape(name)}: {html.escape(text)}</p>" for name, text in table.facts]
    lines += [f'<p class="warning">Warning: {html.escape(text)}</p>' for text in table.warnings]
    if table.lines:
        kinds = [' class="number"' if right else "" for right in table.right]
        lines.append("<table><thead><tr>")
        lines += [f"<th{kind}>{html.escape(title)}</th>" for kind, title in zip(kinds, table.titles, strict=True)]
        lines.append("</tr></thead><tbody>")
        for line in table.lines:
            lines.append(f'<tr class="{line.status}{" first" if line.first else ""}">')
            lines += [f"<td{kind}>{html.escape(x)}</td>" for kind, x in zip(kinds, line.cells, strict=True)]
            lines.append("</tr>")
        lines.append("</tbody></table>")
    else:
        lines.append("<p>Nothing was compared.</p>")
    lines += [f"<p>{html.escape(note)}</p>" for note in table.notes]
    lines.append("</div>")
    return "\n".join(lines)
