"""A table for a paper or a page: LaTeX with booktabs, Markdown."""

from __future__ import annotations

import re

from .tables import MISSING, Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "∂": r"$\partial$",
    "‖": r"$\|$",
    "µ": r"$\mu$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
}
# Greek letters, as models name their parameters, are no text in LaTeX's usual fonts. Those like Latin ones have no command.
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi o pi rho varsigma sigma tau upsilon phi chi psi omega"
).split()
_CAPITALS = {"Γ", "Δ", "Θ", "Λ", "Ξ", "Π", "Σ", "Υ", "Φ", "Ψ", "Ω"}
_GREEK = {chr(ord("α") + i): ("$o$" if name == "o" else rf"$\{name}$") for i, name in enumerate(_GREEK_NAMES)} | {
    x: rf"$\{_GREEK_NAMES[ord(x) - ord('Α')].capitalize()}$" for x in _CAPITALS
}

_POWER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)e(-?\d+)(?!\w)")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def to_markdown(table: Table) -> str:
    """Facts, warnings, the table with all its columns and the notes, in GitHub's Markdown."""
    blocks = [f"**{_markdown(table.heading)}**"]
    facts = [f"- {_markdown(name)}: {_markdown(text)}" for name, text in table.facts]
    facts += [f"- **Warning:** {_markdown(text)}" for text in table.warnings]
    if facts:
        blocks.append("\n".join(facts))
    if table.lines:
        rule = ["---:" if right else ":---" for right in table.right]
        rows = [[_markdown(x) for x in cells] for cells in (table.titles, *(line.cells for line in table.lines))]
        blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in (rows[0], rule, *rows[1:])))
    else:
        blocks.append("Nothing was compared.")
    if table.notes:
        blocks.append("\n".join(f"- {_markdown(note)}" for note in table.notes))
    return "\n\n".join(blocks) + "\n"


def to_latex(table: Table, caption: str | None = None, label: str | None = None) -> str:
    r"""The table with all its columns; needs ``\usepackage{booktabs}``. Warnings and failures stand below it; the facts about
    the comparison stand above as comments, for the caption."""
    lines = [
        *(f"% {name}: {' '.join(text.split())}" for name, text in table.facts),
        r"\begin{table}",
        r"  \centering",
        *([rf"  \caption{{{_latex(caption)}}}"] if caption else []),
        *([rf"  \label{{{label}}}"] if label else []),
        rf"  \begin{{tabular}}{{{''.join('r' if right else 'l' for right in table.right)}}}",
        r"    \toprule",
        f"    {' & '.join(_latex(title) for title in table.titles)} \\\\",
        r"    \midrule",
    ]
    for k, line in enumerate(table.lines):
        if line.first and k:
            lines.append(r"    \midrule")
        lines.append(f"    {' & '.join(_latex(cell) for cell in line.cells)} \\\\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    below = [f"Warning: {text}" for text in table.warnings] + list(table.notes)
    lines += [rf"  \par\smallskip {{\footnotesize {_latex(' '.join(text.split()))}\par}}" for text in below]
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", " ".join(text.split()))


def _latex(text: str) -> str:
    if text == MISSING:
        return "--"
    pieces, at = [], 0
    for match in _POWER.finditer(text):
        pieces.append(_latex_text(text[at : match.start()]))
        mantissa, exponent = match.groups()
        power = rf"10^{{{exponent}}}"
        pieces.append(f"${power}$" if mantissa == "1" else rf"${mantissa}\times {power}$")
        at = match.end()
    pieces.append(_latex_text(text[at:]))
    return "".join(pieces)


def _latex_text(text: str) -> str:
    return "".join(_latex_character(x) for x in text)


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if character in _GREEK:
        return _GREEK[character]
    if (digit := character.translate(_SUBSCRIPTS)) != character:
        return f"$_{digit}$"
    if (digit := character.translate(_SUPERSCRIPTS)) != character:
        return f"$^{{{digit}}}$"
    return character
