"""Results are the same bit for bit: again, after other work, and in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from determinism_script import hashes

import pysciode as ps

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("determinism_script.py")


def elsewhere(engine: str, only: str | None = None, seed: int = 0) -> dict[str, str]:
    """The hashes from a process of its own, whose sets and dicts of strings are in another order."""
    command = [sys.executable, "-W", "ignore", str(SCRIPT), engine, *([] if only is None else [only])]
    out = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONHASHSEED": str(seed)})
    assert out.returncode == 0, out.stderr
    return dict(line.rsplit(": ", 1) for line in out.stdout.splitlines())


def other_work(engine: str) -> list[np.ndarray]:
    """Solves of other problems, and memory of other sizes than before."""
    for n in (1, 5, 33):
        ps.solve(ps.ODEProblem(lambda u, p, t: -u * np.cos(t), np.linspace(0, 1, n), (0.0, 1.0)), ps.Tsit5(), engine=engine)
    k = torch.tensor(1.0, requires_grad=True)
    ps.solve(ps.ODEProblem(lambda u, p, t: [-p * u[0]], torch.ones(1), (0.0, 1.0), k), ps.Tsit5(), engine=engine).u.sum().backward()
    return [np.ones(n) for n in range(1, 200, 7)]


def test_again_after_other_work_and_elsewhere(engine):
    first = dict(hashes(engine))
    assert len(set(first.values())) == len(first)
    kept = other_work(engine)
    again = dict(hashes(engine))
    del kept
    assert again == first
    assert elsewhere(engine, seed=1) == first
    only = "scalar"
    assert elsewhere(engine, only, seed=2) == {only: first[only]}


def test_one_problem_many_times(engine):
    k = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)
    net = torch.nn.Linear(40, 40).double()
    for f, u0 in ((lambda u, p, t: [p[0] * u[1], -p[1] * np.sin(u[0])], torch.ones(2, dtype=torch.float64)),
                  (lambda u, p, t: p[0] * torch.tanh(net(u)), torch.linspace(0, 1, 40, dtype=torch.float64))):  # fmt: skip
        problem = ps.ODEProblem(f, u0, (0.0, 2.0), k)
        found, kept = set(), []
        for i in range(12):
            u = ps.solve(problem, ps.Tsit5(), saveat=0.1, engine=engine).u
            (slope,) = torch.autograd.grad(u.square().sum(), k)
            found.add((u.detach().numpy().tobytes(), slope.numpy().tobytes()))
            kept.append(np.ones(i + 1))  # moves what comes next to other addresses
        assert len(found) == 1
