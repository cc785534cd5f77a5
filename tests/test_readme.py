"""The code of the README and of the pages of examples runs as it stands, page by page from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pysciode import engines

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *(f"docs/{page}.md" for page in ("quick_start", "models", "comparing", "fitting", "discovery", "neural_families"))]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def run(page: str, count: int | None = None) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in blocks(page)[:count]:
        exec(compile(block, page, "exec"), names)
    return names


def test_the_first_example_needs_no_julia(monkeypatch):
    monkeypatch.setattr(engines, "_chosen", "embedded")
    names = run("README.md", 1)
    assert names["loss"].item() < 0.5


@pytest.mark.julia
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_all_examples_run_with_julia(page, monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "_chosen", "julia")
    monkeypatch.chdir(tmp_path)
    names = run(page)
    if page == "README.md":
        assert names["loss"].item() < 0.5
        assert names["result"].estimates["birth"] == pytest.approx(0.55, abs=0.02)
        assert names["report"].recommend().row is not None
    if page == "docs/discovery.md":
        # Lotka-Volterra, found again in its own trajectory.
        found = names["found"].coefficients
        assert sorted(found.values()) == pytest.approx([-3.0, -1.0, 1.0, 1.5], rel=0.02)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"https?://", target):
            assert (page.parent / target).is_file(), target


def test_the_sites_menu_has_every_page():
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert re.search(rf"\b{page.name}$", menu, re.MULTILINE), page.name


def test_the_readme_fits_on_a_screen_and_a_half():
    assert len((ROOT / "README.md").read_text().split()) < 900
