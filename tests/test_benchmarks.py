"""The benchmarks of model families time the same gradient, whoever solves."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch


@pytest.fixture
def task(monkeypatch):
    """A file of the benchmarks as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    yield import_module
    for name in ("measure", "odenet", "latent_ode"):
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize(
    ("name", "settings"),
    [("odenet", {"BATCH": 4, "TOLERANCE": 1e-4}), ("latent_ode", {"RTOL": 1e-4, "ATOL": 1e-5, "TRAINED": 5})],
)
def test_contestants_take_the_same_gradient(task, monkeypatch, name, settings):
    """Without the kinks of ReLU, so that solvers agree."""
    monkeypatch.setattr(torch, "relu", torch.nn.functional.softplus)
    benchmark = task(name)
    for setting, value in settings.items():
        monkeypatch.setattr(benchmark, setting, value)
    found = {who: torch.cat([x.flatten() for x in prepare()()]) for who, prepare in benchmark.CONTESTANTS.items()}
    expected = found["torchdiffeq"]
    for contestant, gradient in found.items():
        error = ((gradient - expected).norm() / expected.norm()).item()
        assert error < 0.01, f"{contestant}: {error:.1e}"
