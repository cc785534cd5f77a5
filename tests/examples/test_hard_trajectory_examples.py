"""The examples of hard trajectories and of the lynx and hares: what they compute besides fitting, and that they run."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

NAMES = ("hard_trajectories", "ude_hudson_bay")


@pytest.fixture
def example(monkeypatch):
    """An example as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    threads = torch.get_num_threads()
    yield import_module
    torch.set_num_threads(threads)
    for name in NAMES:
        sys.modules.pop(name, None)


def test_hard_trajectories_run(example, tmp_path, capsys):
    output = tmp_path / "hard.png"
    example("hard_trajectories").main(quick=True, seeds=1, engine="embedded", output=output)
    printed = capsys.readouterr().out
    assert output.stat().st_size > 10_000
    for method in ("single", "multiple", "growing"):
        assert method in printed
    assert "Left out: collocation" in printed and "embedded" in printed


@pytest.mark.julia
@pytest.mark.extra("diffeqflux")
def test_hard_trajectories_run_with_collocation(example, tmp_path, capsys):
    example("hard_trajectories").main(quick=True, seeds=1, engine="julia", output=tmp_path / "hard.png")
    assert "Left out: collocation" not in capsys.readouterr().out


def test_errors_and_amplitudes_of_a_flat_line_and_of_the_data(example, monkeypatch):
    module = example("hard_trajectories")
    times = torch.linspace(0.0, 10.0, 21, dtype=torch.float64)
    observed = torch.stack([torch.sin(3 * times), torch.cos(3 * times)], 1)
    task = module.Task(times, observed, {})
    scale = (observed.square().mean(0) / observed.var(0)).mean().sqrt().item()
    monkeypatch.setattr(module.Task, "predict", lambda self, model, times: torch.zeros_like(observed))
    assert task.errors(None) == (pytest.approx(scale), 0.0)
    monkeypatch.setattr(module.Task, "predict", lambda self, model, times: 0.5 * self.observed)
    assert task.errors(None) == (pytest.approx(0.5 * scale), pytest.approx(0.5))


def test_lynx_and_hares_run(example, tmp_path, capsys):
    output = tmp_path / "hudson.png"
    example("ude_hudson_bay").main(quick=True, seeds=1, steps=1, engine="embedded", output=output)
    printed = capsys.readouterr().out
    assert output.stat().st_size > 10_000
    assert "classic" in printed and "universal" in printed and "1900–1915" in printed


def test_regressions_give_back_the_classic_rates_in_pelts(example):
    """Of Lotka and Volterra's own equations, along any orbit."""
    module = example("ude_hudson_bay")
    scale = np.array([77.4, 59.4])
    alpha, beta, gamma, delta = module.PUBLISHED.values()
    growth = module.Classic()
    with torch.no_grad():
        growth.log_rates.copy_(torch.tensor([alpha, beta * scale[1], gamma, delta * scale[0]]).log())
    start = torch.tensor(np.log(np.array([30.0, 4.0]) / scale))
    options = {"engine": "embedded", "rtol": 1e-6, "atol": 1e-6}
    population = module.Population(growth, start, options)
    fit = module.Fit("classic", population, 21, 0.0, 0.0, 0.0)
    hare, lynx = module.regressions(fit, torch.arange(21.0, dtype=torch.float64), scale)
    np.testing.assert_allclose([hare.first, hare.second], [alpha, -beta], rtol=1e-6)
    np.testing.assert_allclose([lynx.first, lynx.second], [-gamma, delta], rtol=1e-6)
    assert hare.r2 == pytest.approx(1.0) and lynx.r2 == pytest.approx(1.0)
