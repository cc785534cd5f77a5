"""The README's examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pysciode import engines

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run_blocks(count: int) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in BLOCKS[:count]:
        exec(block, names)
    return names


def test_the_first_examples_need_no_julia(monkeypatch):
    monkeypatch.setattr(engines, "_chosen", "embedded")
    names = run_blocks(2)
    assert names["model"].net[0].weight.grad.abs().sum() > 0


@pytest.mark.julia
def test_all_examples_run_with_julia(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "_chosen", "julia")
    monkeypatch.chdir(tmp_path)
    names = run_blocks(len(BLOCKS))
    assert np.isfinite(names["p"].grad.numpy()).all()
    assert names["solution"].retcode == "Success"
    # Lotka-Volterra, found again in its own trajectory.
    found = names["found"].coefficients
    assert sorted(found.values()) == pytest.approx([-3.0, -1.0, 1.0, 1.5], rel=0.02)
