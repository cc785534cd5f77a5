"""Scripts in processes of their own, each with a limit of time, so that what hangs fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent

MODELS = '''
import gc, os, signal, sys, threading, time
import numpy as np
import torch
import pysciode as ps

F64 = torch.float64


def decay(u, p, t):
    return [-p[0] * u[0]]


def check_numbers():
    """A solve and its gradient are right."""
    p = torch.ones(1, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(decay, torch.ones(1, dtype=F64), (0.0, 1.0), p)
    solution = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine="julia")
    (slope,) = torch.autograd.grad(solution.u.sum(), p)
    assert abs(solution.u.item() - np.exp(-1)) < 1e-7 and abs(slope.item() + np.exp(-1)) < 1e-6


def swing(u, p, t):
    return [u[1], -u[0]]


# It would go on for hours.
ENDLESS = dict(saveat=[1e9], maxiters=10**12, engine="julia")
swinging = ps.ODEProblem(swing, [1.0, 0.0], (0.0, 1e9))
swinging_in_python = ps.ODEProblem(lambda u, p, t: np.array(swing(u, p, t)), [1.0, 0.0], (0.0, 1e9), capture="callback")
'''


def run_script(code: str, *flags: str, timeout: float = 200, expected: int = 0, **environment: str) -> str:
    """What the script prints; fails unless it ends in time, with the status `expected` (of a signal, minus its number)."""
    # A group of its own: whatever it left behind can be ended with it.
    process = subprocess.Popen(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | environment, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s:\n{out}\n{err}") from None
    assert process.returncode == expected, f"status {process.returncode}\n{out}\n{err}"
    return out


def check_script(code: str, timeout: float = 200) -> None:
    """The script runs to its end and prints nothing of its own."""
    out = run_script(f"{code}\nprint('finished')", timeout=timeout)
    assert out.split() == ["finished"], out
