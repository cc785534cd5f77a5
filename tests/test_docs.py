"""The code of the documentation runs, theirs and ours give the same numbers, and its tables are those of the code."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pysciode as ps
from pysciode import engines

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "coming_from.md").read_text()


@dataclass(frozen=True)
class Block:
    kind: str
    code: str
    line: int


def blocks(text: str, first_line: int) -> list[Block]:
    found = re.finditer(r"^```(\w+)([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [
        Block(x[2].strip() if x[1] == "python" else "another language", x[3], first_line + text.count("\n", 0, x.start())) for x in found
    ]


def sections() -> dict[str, list[Block]]:
    parts = re.split(r"^## (.*)$", PAGE, flags=re.MULTILINE)
    out, line = {}, parts[0].count("\n")
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        out[title] = blocks(text, line + 1)
        line += text.count("\n")
    return out


SECTIONS = {title: found for title, found in sections().items() if found}
KINDS = {"setup", "ours", "julia", "another language"}


def run(block: Block, names: dict[str, Any]) -> None:
    # The blank lines let tracebacks show the page's own line numbers.
    code = compile("\n" * block.line + block.code, str(DOCS / "coming_from.md"), "exec")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        exec(code, names)


def is_here(kind: str) -> bool:
    library = kind.removeprefix("theirs ")
    return library != "diffeqpy" and find_spec(library) is not None  # diffeqpy would install a Julia of its own


def numbers(names: dict[str, Any]) -> dict[str, np.ndarray]:
    found = {}
    for name, x in names.items():
        if isinstance(x, torch.Tensor):
            x = x.detach().numpy()
        if isinstance(x, (float, int, np.ndarray, np.floating)) and not isinstance(x, bool):
            found[name] = np.asarray(x, float)
    return found


def test_every_block_has_a_kind():
    for title, found in SECTIONS.items():
        for block in found:
            known = block.kind in KINDS or block.kind.startswith("theirs ")
            assert known, f"{title}, line {block.line}: {block.kind!r}"


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_code_runs_and_agrees(title, engine, monkeypatch):
    """Names that a pair of blocks both define hold the same numbers."""
    monkeypatch.setattr(engines, "_chosen", engine)
    theirs: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    compared = 0
    fresh: dict[str, np.ndarray] = {}
    torch.manual_seed(0)
    for block in SECTIONS[title]:
        if block.kind == "setup":
            run(block, ours)
            theirs = dict(ours)  # the same objects
        elif block.kind.startswith("theirs"):
            if is_here(block.kind):
                before = dict(theirs)
                run(block, theirs)
                fresh = numbers({name: x for name, x in theirs.items() if before.get(name) is not x})
        elif block.kind == "ours" or (block.kind == "julia" and engine == "julia"):
            run(block, ours)
            found = numbers(ours)
            for name in fresh.keys() & found.keys():
                np.testing.assert_allclose(found[name], fresh[name], rtol=2e-4, atol=1e-6, err_msg=f"{name}, line {block.line}")
                compared += 1
            fresh = {}
    if title in ("torchdiffeq", "SciPy"):
        assert compared >= 6


def rows(heading: str) -> dict[str, str]:
    """``{first column: second}`` of the table under a heading cell, read as two pairs a line."""
    table = PAGE[PAGE.index(heading) :].split("\n\n")[0]
    found: dict[str, str] = {}
    for line in table.splitlines()[2:]:
        cells = [x.strip() for x in line.strip("|").split("|")]
        for names, algorithm in zip(cells[::2], cells[1::2], strict=True):
            for name in re.findall(r"`(\w+)`", names):
                found[name] = algorithm.strip("`")
    return found


def test_tables_of_methods():
    from pysciode.compat.scipy import methods as scipy_methods
    from pysciode.compat.torchdiffeq import methods as torchdiffeq_methods

    expected = {**torchdiffeq_methods.ADAPTIVE, **torchdiffeq_methods.FIXED}
    found = rows("| method | SciML's |")
    assert found.pop("scipy_solver").startswith("see")
    assert found == expected
    assert rows("| SciPy's method | SciML's |") == scipy_methods.NAMES


def test_names_and_links():
    """Every ``ps.name``, ``nn.name`` and ``fitting.name`` in the text is there, and so is what is linked to."""
    from pysciode import fitting, nn

    text = re.sub(r"^```.*?^```", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r"\bps\.(\w+)", PAGE):
        assert hasattr(ps, name), name
    for module, found in ((nn, r"\bnn\.(\w+)"), (fitting, r"\bfitting\.(\w+)")):
        for name in set(re.findall(found, text)) - {"Module"}:
            assert hasattr(module, name), name
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        assert (DOCS / link).exists(), link
    anchors = {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_defaults_that_the_page_names():
    import inspect

    import torchdiffeq
    from scipy.integrate import RK45

    from pysciode.methods.adjoints import FORWARD_LIMIT
    from pysciode.solving.options import DEFAULT_TOLERANCES

    assert DEFAULT_TOLERANCES[np.dtype(np.float64)] == (1e-6, 1e-8) and DEFAULT_TOLERANCES[np.dtype(np.float32)] == (1e-4, 1e-6)
    for f in (ps.odeint, torchdiffeq.odeint):
        assert [inspect.signature(f).parameters[x].default for x in ("rtol", "atol")] == [1e-7, 1e-9]
    assert [inspect.signature(RK45).parameters[x].default for x in ("rtol", "atol")] == [1e-3, 1e-6]
    assert inspect.signature(ps.solve).parameters["maxiters"].default == 100_000
    assert FORWARD_LIMIT == 40
