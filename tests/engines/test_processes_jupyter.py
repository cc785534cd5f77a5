"""A Jupyter kernel: a solve, a gradient, a figure, and interrupts of solves, as a notebook sends them."""

from __future__ import annotations

import os
import sys
import time

import pytest
from processes import ROOT

pytest.importorskip("ipykernel")
manager = pytest.importorskip("jupyter_client.manager")
kernelspec = pytest.importorskip("jupyter_client.kernelspec")

pytestmark = [pytest.mark.slow, pytest.mark.julia]
ENDLESS = "ps.Tsit5(), saveat=[1e9], maxiters=10**12, engine='julia'"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    km = manager.KernelManager(connection_file=str(tmp_path_factory.mktemp("kernel") / "connection.json"))
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    km._kernel_spec = kernelspec.KernelSpec(argv=argv, display_name="Python", language="python")
    paths = os.pathsep.join((str(ROOT), *filter(None, sys.path)))
    km.start_kernel(env=os.environ | {"PYTHONPATH": paths, "MPLBACKEND": "Agg"})
    client = km.client()
    client.start_channels()
    client.wait_for_ready(timeout=100)
    yield km, client
    client.stop_channels()
    km.shutdown_kernel(now=False)
    assert not km.is_alive()


def run(kernel, code: str, interrupt_after: float | None = None) -> tuple[str, str]:
    """What a cell prints or shows, and the name of its exception."""
    km, client = kernel
    asked, shown, raised = client.execute(code), "", ""
    began = time.monotonic()
    while True:
        assert time.monotonic() - began < 150, "the cell does not end"
        if interrupt_after is not None and time.monotonic() - began > interrupt_after:
            km.interrupt_kernel()
            interrupt_after = None
        try:
            message = client.get_iopub_msg(timeout=0.2)
        except Exception:  # nothing has come
            continue
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            shown += content["text"]
        elif kind in ("display_data", "execute_result"):
            shown += content["data"].get("text/plain", "")
        elif kind == "error":
            raised = content["ename"]
        elif kind == "status" and content["execution_state"] == "idle":
            return shown, raised


def test_a_notebook(kernel):
    assert run(kernel, "import numpy as np, torch, pysciode as ps\ndef f(u, p, t): return [u[1], -p[0] * u[0]]") == ("", "")
    gradient = """
p = torch.ones(1, dtype=torch.float64, requires_grad=True)
problem = ps.ODEProblem(f, torch.tensor([1.0, 0.0], dtype=torch.float64), (0.0, 3.0), p)
sol = ps.solve(problem, ps.Tsit5(), saveat=0.1, rtol=1e-9, atol=1e-9, engine="julia")
print(abs(torch.autograd.grad(sol.u[-1, 0], p)[0].item() + 1.5 * np.sin(3)) < 1e-6)
"""
    assert run(kernel, gradient) == ("True\n", "")
    assert run(kernel, "sol.plot(); print('drawn')") == ("drawn\n", "")
    assert "Success" in run(kernel, "sol")[0]
    problem = "ps.ODEProblem(f, [1.0, 0.0], (0.0, 1e9), [1.0])"
    for what in (problem, problem[:-1] + ", capture='callback')"):
        shown, raised = run(kernel, f"ps.solve({what}, {ENDLESS}, progress=True)", interrupt_after=2)
        assert raised == "KeyboardInterrupt" and "t = " in shown
        assert run(kernel, gradient) == ("True\n", "")
