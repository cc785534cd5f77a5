"""Julia inside Python, each time in a fresh process: import orders, signals, fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SOLVE = """
import numpy as np
def decay(u, p, t):
    return [-p[0] * u[0]]
solution = pysciode.solve(pysciode.ODEProblem(decay, [1.0], (0.0, 1.0), [2.0]), engine="julia")
assert abs(solution.u[-1, 0] - np.exp(-2.0)) < 1e-5
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=600, env=os.environ | environment)


def test_importing_pysciode_starts_nothing_and_is_quick():
    shown = run(
        "import sys, time; began = time.perf_counter(); import pysciode; print(time.perf_counter() - began); "
        "assert not {'juliacall', 'matplotlib.pyplot', 'pandas', 'torchdiffeq'} & sys.modules.keys()"
    )
    assert shown.returncode == 0, shown.stderr
    # The goal is one second; a loaded test machine may take several times that.
    assert float(shown.stdout) < 5


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize(
    "imports",
    ["import torch, pysciode", "import pysciode, torch", "import juliacall, torch, pysciode", "import torch, juliacall, pysciode"],
)
def test_every_import_order_works(imports):
    multiplied = "assert (torch.ones(300, 300) @ torch.ones(300, 300)).sum() == 300**3"
    shown = run("\n".join([imports, multiplied, SOLVE, multiplied]))
    assert shown.returncode == 0, shown.stderr
    if "juliacall" not in imports:
        assert "Warning" not in shown.stderr


@pytest.mark.slow
@pytest.mark.julia
def test_ctrl_c_stays_pythons_and_the_session_goes_on():
    shown = run(
        f"""
import os, signal, threading, time
import pysciode
{SOLVE}
def press():
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press).start()
began = time.monotonic()
try:
    time.sleep(20)
except KeyboardInterrupt:
    assert time.monotonic() - began < 10
    print("interrupted")
{SOLVE}
"""
    )
    assert shown.returncode == 0, shown.stderr
    assert "interrupted" in shown.stdout


@pytest.mark.slow
@pytest.mark.julia
def test_handlers_of_the_user_survive_the_start_of_julia():
    shown = run(
        f"""
import os, signal
import pysciode
signal.signal(signal.SIGTERM, lambda number, frame: print("saved a checkpoint"))
{SOLVE}
os.kill(os.getpid(), signal.SIGTERM)
"""
    )
    assert shown.returncode == 0, shown.stderr
    assert "saved a checkpoint" in shown.stdout


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_told_so():
    shown = run(
        f"""
import os
import pysciode
{SOLVE}
child = os.fork()
if child == 0:
    try:
        pysciode.solve(pysciode.ODEProblem(decay, [1.0], (0.0, 1.0), [2.0]), engine="julia")
    except RuntimeError as error:
        os._exit(7 if "spawn" in str(error) else 8)
    os._exit(9)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    )
    assert shown.returncode == 0, shown.stderr


def test_without_julia_the_error_names_the_command(tmp_path):
    shown = run(
        """
from pysciode.engines.julia.runtime import start_julia
from pysciode.errors import INSTALL_COMMAND, EngineUnavailable
try:
    start_julia()
except EngineUnavailable as error:
    assert INSTALL_COMMAND in str(error)
    print("said so")
""",
        PYTHON_JULIACALL_EXE=str(tmp_path / "julia"),
        PYTHON_JULIACALL_PROJECT=str(tmp_path),
    )
    assert "said so" in shown.stdout, shown.stderr


WORKERS_WHILE_THE_MAIN_THREAD_WAITS = """
import threading
import numpy as np, torch
import pysciode as ps

def f(u, p, t):
    return [p[0] * u[0] - p[1] * u[0] * u[1], p[1] * u[0] * u[1] - p[2] * u[1]]

p = torch.tensor([1.5, 1.0, 3.0], dtype=torch.float64)
u0 = torch.tensor([1.0, 1.0], dtype=torch.float64)
problem = ps.ODEProblem(f, u0, (0.0, 10.0), p.requires_grad_())
found = []

def work():
    for _ in range(1500):
        solution = ps.solve(problem, ps.Tsit5(), saveat=0.1, rtol=1e-8, atol=1e-8, engine="julia")
        (gradient,) = torch.autograd.grad(solution.u.sum(), p)
    found.append(gradient.numpy())

work()
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()  # Python blocks here without running any of Julia's code
assert len(found) == 4 and all(np.array_equal(x, found[0]) for x in found)
print("finished")
"""


@pytest.mark.slow
@pytest.mark.julia
def test_threads_solve_while_the_one_that_started_julia_waits():
    """Julia's garbage collector waits for the thread that started it, which is blocked in Python."""
    done = subprocess.run([sys.executable, "-c", WORKERS_WHILE_THE_MAIN_THREAD_WAITS], capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "finished", done.stderr
