"""Worker processes and forks, before and after Julia's start: they work, or are told what to do, and end without a hang."""

from __future__ import annotations

import os
import sys

import pytest
from processes import ROOT, run_script

pytestmark = [pytest.mark.slow, pytest.mark.julia, pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")]

WORK = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import torch
import pysciode as ps

F64 = torch.float64

def decay(u, p, t):
    return [-p[0] * u[0]]

def solve(k):
    p = torch.tensor([float(k)], dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(decay, torch.ones(1, dtype=F64), (0.0, 1.0), p)
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine="julia").u
    (slope,) = torch.autograd.grad(u.sum(), p)
    return u.item(), slope.item()

def right(found, k):
    return np.allclose(found, [np.exp(-k), -np.exp(-k)], rtol=1e-6)

def square(k):
    return k * k

class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, k):
        return torch.tensor(float(square(k)))

class Solutions(Squares):
    def __getitem__(self, k):
        return torch.tensor(solve(k), dtype=F64)

def load(data, context, **options):
    return torch.utils.data.DataLoader(data, num_workers=2, multiprocessing_context=context, **options)
"""


@pytest.fixture
def work(tmp_path):
    """A script that may start processes which import it."""

    def run(main: str, expected: int = 0) -> str:
        path = tmp_path / "work.py"
        indented = "\n".join("    " + line for line in main.strip().splitlines())
        path.write_text(f"{WORK}\nif __name__ == '__main__':\n{indented}\n")
        code = f"import runpy, sys; sys.argv = [{str(path)!r}]; runpy.run_path({str(path)!r}, run_name='__main__')"
        paths = os.pathsep.join((str(ROOT), str(tmp_path), os.environ.get("PYTHONPATH", "")))
        return run_script(code, "-W", "ignore", expected=expected, PYTHONPATH=paths)

    return run


def test_workers_that_solve_where_the_parent_has_not(work):
    """Each starts a Julia of its own, however it came to be."""
    out = work(
        """
for context in ("fork", "spawn"):
    found = [x[0].tolist() for x in load(Solutions(), context)]
    print(context, len(found), all(right(x, k) for k, x in enumerate(found)))
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as pool:
    print("forkserver", all(right(x, k) for k, x in enumerate(pool.map(solve, range(4)))))
print("engine of the parent", right(solve(1), 1))
"""
    )
    assert out.splitlines() == ["fork 6 True", "spawn 6 True", "forkserver True", "engine of the parent True"]


def test_training_with_workers_that_do_not_solve(work):
    """The parent's Julia runs, and workers are forked from it."""
    out = work(
        """
assert right(solve(1), 1)
for options in ({}, {"persistent_workers": True}):
    loader = load(Squares(), "fork", **options)
    for epoch in range(2):
        assert [x.item() for x in loader if right(solve(2), 2)] == [0, 1, 4, 9, 16, 25]
for method in ("fork", "spawn"):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        assert list(pool.map(square, range(4))) == [0, 1, 4, 9]
process = multiprocessing.get_context("fork").Process(target=square, args=(2,))
process.start()
process.join()
assert process.exitcode == 0
print("finished")
"""
    )
    assert out.split() == ["finished"]


def test_forked_workers_that_solve_are_told(work):
    out = work(
        """
solve(1)
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
    try:
        list(pool.map(solve, range(4)))
    except RuntimeError as error:
        print("set_start_method('spawn')" in str(error))
with multiprocessing.get_context("fork").Pool(2) as pool:
    try:
        pool.map(solve, range(4))
    except RuntimeError as error:
        print("set_start_method('spawn')" in str(error))
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
    print(all(right(x, k) for k, x in enumerate(pool.map(solve, range(4)))))
"""
    )
    assert out.split() == ["True", "True", "True"]


def test_a_child_forked_while_threads_solve_ends(work):
    """Whatever the threads were at: in a lock, or collecting garbage, for which Julia stops everyone who enters it."""
    out = work(
        """
import atexit, gc, threading, time
problem = ps.ODEProblem(decay, [1.0], (0.0, 1.0), [1.0])
kept = [ps.solve(ps.ODEProblem(lambda u, p, t: [-u[0]], [1.0], (0.0, 1.0)), ps.Tsit5(), engine="julia") for _ in range(3)]
done = threading.Event()

def busy():
    while not done.is_set():
        ps.solve(problem, ps.Tsit5(), saveat=0.001, dense=True, engine="julia")

threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads: thread.start()
for k in range(8):
    child = os.fork()
    if child == 0:
        done.set()
        atexit.register(print, "handlers run", file=sys.stderr)
        kept.clear()
        gc.collect()
        try:
            solve(1)
        except RuntimeError:
            sys.exit(3)
        sys.exit(4)
    began = time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - began > 30:
            os.kill(child, 9)
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(status) == 3, status
done.set()
for thread in threads: thread.join()
assert right(solve(1), 1)
print("finished")
"""
    )
    assert out.split() == ["finished"]


def test_joblib(work):
    pytest.importorskip("joblib")
    out = work(
        """
import joblib
solve(1)
print(all(right(x, k) for k, x in enumerate(joblib.Parallel(n_jobs=2)(joblib.delayed(solve)(k) for k in range(4)))))
"""
    )
    assert out.split() == ["True"]


if sys.platform == "darwin":
    pytestmark.append(pytest.mark.skip(reason="macOS does not support forks of processes with threads"))
