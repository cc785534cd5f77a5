"""Gradients that are interrupted, fail or run in worker processes: what the user sees, and the session goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

import pysciode as ps

F64 = torch.float64


def decay(u, p, t):
    return [-p * u[0]]


def gradient_of_the_end(k, engine, sensealg=None):
    p = torch.tensor(k, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(decay, torch.ones(1, dtype=F64), (0.0, 1.0), p)
    ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, sensealg=sensealg, engine=engine).u.sum().backward()
    return p.grad.item()


@pytest.mark.parametrize(
    "engine, sensealg",
    [
        pytest.param("julia", ps.GaussAdjoint(), marks=pytest.mark.julia),
        pytest.param("julia", ps.InterpolatingAdjoint(), marks=pytest.mark.julia),
        ("embedded", ps.BacksolveAdjoint()),
    ],
    ids=str,
)
def test_ctrl_c_in_a_backward_pass(engine, sensealg):
    # At rest, so that the way there is a few steps; the adjoint decays at a rate of 1e7, which would take hours.
    p = torch.tensor(1e7, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(decay, torch.zeros(1, dtype=F64), (0.0, 1e3), p)
    gradient_of_the_end(2.0, engine, sensealg)
    sol = ps.solve(problem, ps.Tsit5(), saveat=[1e3], maxiters=10**12, sensealg=sensealg, engine=engine)
    timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    timer.start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            sol.u.sum().backward()
    finally:
        timer.cancel()
    assert time.monotonic() - began < 30
    assert p.grad is None and p.item() == 1e7 and sol.u.item() == 0.0
    assert gradient_of_the_end(2.0, engine, sensealg) == pytest.approx(-np.exp(-2.0), rel=1e-6)


def test_after_a_gradient_that_failed(engine):
    p = torch.tensor(1.0, dtype=F64, requires_grad=True)
    u0 = torch.zeros(1, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [p * u[0] ** 0.5], u0, (0.0, 1.0), p)
    sol = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine)
    states = sol.u.detach().clone()
    with pytest.raises(ps.GradientFailed):
        sol.u.sum().backward()
    assert p.grad is None and u0.grad is None
    torch.testing.assert_close(sol.u.detach(), states, rtol=0, atol=0)
    assert gradient_of_the_end(2.0, engine) == pytest.approx(-np.exp(-2.0), rel=1e-6)


def test_a_failure_in_one_thread_leaves_the_others_alone(engine):
    gradient_of_the_end(1.0, engine)
    found: dict[int, float] = {}
    failures: list[Exception] = []

    def work(k):
        try:
            if k % 2:
                problem = ps.ODEProblem(lambda u, p, t: [u[0] ** 2], [1.0], (0.0, 2.0))
                ps.solve(problem, ps.Tsit5(), saveat=[2.0], engine=engine)
            else:
                found[k] = gradient_of_the_end(float(k), engine)
        except ps.SolveFailed as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 3
    assert found == {k: pytest.approx(-np.exp(-k), rel=1e-6) for k in (0, 2, 4)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_data_loader_workers(engine, tmp_path):
    """Workers that are forked solve, or say that they must be spawned; spawned ones solve."""
    script = tmp_path / "workers.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import torch
            import pysciode as ps

            def decay(u, p, t):
                return [-p * u[0]]

            class Solutions(torch.utils.data.Dataset):
                def __len__(self):
                    return 2

                def __getitem__(self, k):
                    problem = ps.ODEProblem(decay, [1.0], (0.0, 1.0), float(k))
                    return ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine={engine!r}).u[0, 0]

            if __name__ == "__main__":
                here = [Solutions()[k] for k in range(2)]
                for context in ("fork", "spawn"):
                    loader = torch.utils.data.DataLoader(Solutions(), num_workers=1, multiprocessing_context=context)
                    try:
                        print(context, [x.item() for x in loader] == here)
                    except RuntimeError as error:
                        print(context, "told" if "multiprocessing_context='spawn'" in str(error) else error)
            """
        )
    )
    out = subprocess.run([sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines() == [f"fork {'True' if engine == 'embedded' else 'told'}", "spawn True"]
