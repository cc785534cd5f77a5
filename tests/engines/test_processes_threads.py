"""Threads that solve and differentiate at once, start Julia, die, or are left behind: right numbers, and no process hangs or crashes."""

from __future__ import annotations

import sys

import pytest
from processes import MODELS, check_script, run_script

pytestmark = [pytest.mark.slow, pytest.mark.julia]


def test_eight_threads_with_the_same_and_with_other_models():
    """Julia is first used in a thread that isn't the main one; garbage is collected on both sides meanwhile."""
    check_script(
        MODELS
        + """
from concurrent.futures import ThreadPoolExecutor

def volterra(u, p, t):
    return [p[0] * u[0] - p[1] * u[0] * u[1], p[1] * u[0] * u[1] - p[2] * u[1]]

def same(_):
    p = torch.tensor([1.5, 1.0, 3.0], dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(volterra, torch.ones(2, dtype=F64), (0.0, 5.0), p)
    solution = ps.solve(problem, ps.Tsit5(), saveat=0.1, rtol=1e-8, atol=1e-8, engine="julia")
    (gradient,) = torch.autograd.grad(solution.u.sum(), p)
    return solution.u.detach().numpy(), gradient.numpy()

def other(k):
    p = torch.tensor([1 + k / 100], dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [-(p[0] + k) * u[0]], torch.ones(1, dtype=F64), (0.0, 1.0), p)
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine="julia").u
    (slope,) = torch.autograd.grad(u.sum(), p)
    exact = np.exp(-k - 1 - k / 100)
    assert abs(u.item() - exact) < 1e-7 and abs(slope.item() + exact) < 1e-7, k

def in_python(k):
    problem = ps.ODEProblem(lambda u, p, t: -p[0] * (k + 1) * u, np.ones(3), (0.0, 1.0), [1.0], capture="callback")
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-8, atol=1e-8, engine="julia").u
    assert np.allclose(u, np.exp(-k - 1), atol=1e-6), k
    gc.collect(0)

def stiff(k):
    problem = ps.ODEProblem(lambda u, p, t: [-1e4 * (u[0] - k), u[0] - u[1]], [0.0, 0.0], (0.0, 1.0))
    u = ps.solve(problem, ps.Rodas5P(), saveat=[1.0], rtol=1e-8, atol=1e-8, engine="julia").u
    assert np.allclose(u, [[k, k * (1 - np.exp(-1))]], rtol=1e-3, atol=1e-6), k

def fails(k):
    try:
        ps.solve(ps.ODEProblem(lambda u, p, t: [u[0] ** 2], [1.0], (0.0, 2.0)), ps.Tsit5(), engine="julia")
    except ps.SolveFailed:
        return
    raise AssertionError

with ThreadPoolExecutor(8) as pool:
    first = pool.submit(same, 0).result()
    work = [pool.submit(same, k) for k in range(120)]
    for function in (other, stiff, fails):
        work += [pool.submit(function, k) for k in range(16)]
    work += [pool.submit(in_python, k) for k in range(6)]
    found = [future.result() for future in work]
for u, gradient in found[:120]:
    assert np.array_equal(u, first[0]) and np.array_equal(gradient, first[1])
check_numbers()
"""
    )


def test_models_are_dropped_while_threads_solve():
    """Garbage collection gives models back to Julia from any thread, also inside a model that stays in Python."""
    check_script(
        MODELS
        + """
def solve(k):
    def f(u, p, t):
        gc.collect(0)
        return -(1 + k / 10) * u

    f.itself = f  # a cycle, so that only garbage collection finds it
    for capture in ("auto", "callback"):
        problem = ps.ODEProblem(f if capture == "callback" else lambda u, p, t: [-(1 + k / 10) * u[0]], np.ones(1), (0.0, 1.0), capture=capture)
        u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-8, atol=1e-8, engine="julia").u
        assert abs(u[0, 0] - np.exp(-1 - k / 10)) < 1e-6

check_numbers()
gc.set_threshold(50, 2, 2)
threads = [threading.Thread(target=lambda first=first: [solve(first + k) for k in range(8)]) for first in range(0, 32, 8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    )


ENDS = {
    # name: (what runs, status of the process, what is printed)
    "julia was started by a thread that is gone": ("t = threading.Thread(target=check_numbers); t.start(); t.join()", 0, ""),
    "the same, and the main thread solved too": (
        "t = threading.Thread(target=check_numbers); t.start(); t.join(); gc.collect(); check_numbers()", 0, "",
    ),
    "a thread solves for ever": (
        "check_numbers()\nfor problem in (swinging, swinging_in_python):\n"
        "    threading.Thread(target=ps.solve, args=(problem, ps.Tsit5()), kwargs=ENDLESS | {'progress': print}, daemon=True).start()\n"
        "time.sleep(1); check_numbers(); sys.stdout = None; sys.exit(5)", 5, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("ending", ENDS)
def test_the_process_ends(ending):
    code, status, printed = ENDS[ending]
    out = run_script(MODELS + code, expected=status, timeout=100)
    assert printed is None or out == printed


def test_threads_that_die_and_an_interrupt_of_the_one_that_waits():
    out = run_script(
        MODELS
        + """
check_numbers()
stopped = threading.Event()

def stop(t):
    if stopped.is_set():
        raise SystemExit

def work():
    ps.solve(swinging, ps.Tsit5(), progress=stop, **ENDLESS)

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
threading.Timer(0.5, os.kill, (os.getpid(), 2)).start()
try:
    for thread in threads: thread.join()
except KeyboardInterrupt:
    print("interrupted")
stopped.set()
for thread in threads: thread.join()
check_numbers()
"""
    )
    assert out.split() == ["interrupted"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_faulthandler_switched_on_and_off_after_the_start_of_julia():
    """It takes the signal by which Julia stops threads for garbage collection."""
    check_script(
        MODELS
        + """
import faulthandler

check_numbers()
problem = ps.ODEProblem(swing, [1.0, 0.0], (0.0, 1.0))

def work():
    for _ in range(1500):
        ps.solve(problem, ps.Tsit5(), saveat=0.001, engine="julia")

for switch in (faulthandler.enable, faulthandler.disable):
    switch()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
check_numbers()
""",
    )
