"""Fresh processes: import, first solve and first gradient, wall time of a whole process; medians of five."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from measure import Result

BARE = "pass"
IMPORT = """
import sys, pysciode
assert "juliacall" not in sys.modules, "Julia's bridge was loaded"
"""

PYSCIODE = """
import pysciode as ps, torch
def f(u, p, t):
    x, y = u
    return [p[0] * x - p[1] * x * y, p[3] * x * y - p[2] * y]
u0 = torch.ones(2, dtype=torch.float64)
p = torch.tensor([1.5, 1.0, 3.0, 1.0], dtype=torch.float64, requires_grad={gradient})
u = ps.solve(ps.ODEProblem(f, u0, (0.0, 10.0), p), ps.{algorithm}(), saveat=0.1, {sensealg}engine="julia").u
if {gradient}:
    u.square().sum().backward()
"""

NUMPY = """
import pysciode as ps, numpy as np, sys
def f(u, p, t):
    x, y = u
    return [p[0] * x - p[1] * x * y, p[3] * x * y - p[2] * y]
ps.solve(ps.ODEProblem(f, np.ones(2), (0.0, 10.0), np.array([1.5, 1.0, 3.0, 1.0])), ps.{algorithm}(), saveat=0.1, engine="julia").u
assert "torch" not in sys.modules
"""

TORCHDIFFEQ = """
import torch, torchdiffeq
p = torch.tensor([1.5, 1.0, 3.0, 1.0], dtype=torch.float64, requires_grad={gradient})
def f(t, u):
    x, y = u
    return torch.stack([p[0] * x - p[1] * x * y, p[3] * x * y - p[2] * y])
u = torchdiffeq.odeint(f, torch.ones(2, dtype=torch.float64), torch.linspace(0, 10, 101, dtype=torch.float64))
if {gradient}:
    u.square().sum().backward()
"""

DIFFRAX = """
import diffrax, jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
def f(t, u, p):
    x, y = u
    return jnp.stack([p[0] * x - p[1] * x * y, p[3] * x * y - p[2] * y])
def solve(p):
    return diffrax.diffeqsolve(diffrax.ODETerm(f), diffrax.Tsit5(), 0.0, 10.0, None, jnp.ones(2), p,
        saveat=diffrax.SaveAt(ts=jnp.linspace(0, 10, 101)),
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-8)).ys
run = jax.jit(jax.grad(lambda p: (solve(p) ** 2).sum()) if {gradient} else solve)
jax.block_until_ready(run(jnp.array([1.5, 1.0, 3.0, 1.0])))
"""


def process_milliseconds(code: str, runs: int = 5) -> float:
    """Median wall time of ``python -c code``, after one run that fills the file cache."""
    times = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        times.append(1e3 * (time.perf_counter() - began))
        if finished.returncode:
            raise RuntimeError(finished.stderr.strip().splitlines()[-1])
    return statistics.median(times[1:])


def results() -> list[Result]:
    """Processes, from nothing to the answer."""
    adjoint = "sensealg=ps.GaussAdjoint(), "
    rows = {
        "process: Python alone": {"pysciode": BARE},
        "process: import": {"pysciode": IMPORT, "torchdiffeq": "import torchdiffeq", "diffrax": "import diffrax"},
        "process: first solve": {
            "pysciode": NUMPY.format(algorithm="Tsit5"),
            "pysciode, with torch": PYSCIODE.format(gradient=False, algorithm="Tsit5", sensealg=""),
            "torchdiffeq": TORCHDIFFEQ.format(gradient=False),
            "diffrax": DIFFRAX.format(gradient=False),
        },
        "process: first stiff solve": {"pysciode": NUMPY.format(algorithm="Rodas5P")},
        "process: first gradient": {
            "pysciode": PYSCIODE.format(gradient=True, algorithm="Tsit5", sensealg=""),
            "pysciode, adjoint": PYSCIODE.format(gradient=True, algorithm="Tsit5", sensealg=adjoint),
            "torchdiffeq": TORCHDIFFEQ.format(gradient=True),
            "diffrax": DIFFRAX.format(gradient=True),
        },
    }
    answers = []
    for task, contestants in rows.items():
        result = Result(task)
        for name, code in contestants.items():
            try:
                result.milliseconds[name] = process_milliseconds(code)
            except RuntimeError as error:
                result.milliseconds[name], result.notes[name] = None, str(error)
        answers.append(result)
    return answers
