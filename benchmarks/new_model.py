"""A new model in a running process: from its Python function to its first solve and first gradient; median of seven models."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import Result

SOURCE = """
def f(u, p, t):
    x, y = u
    return [p[0] * x - p[1] * x * y + {constant} * x * x, p[3] * x * y - p[2] * y]
"""


def _model(constant: float) -> Callable[..., Any]:
    """A function that no cache can know: its constant is new."""
    names: dict[str, Any] = {}
    exec(SOURCE.format(constant=constant), names)
    return names["f"]


def _pysciode(constant: float, algorithm: str, sensealg: str | None, gradient: bool) -> None:
    import pysciode as ps

    p = torch.tensor([1.5, 1.0, 3.0, 1.0], dtype=torch.float64, requires_grad=gradient)
    problem = ps.ODEProblem(_model(constant), torch.ones(2, dtype=torch.float64), (0.0, 10.0), p)
    options = {"sensealg": getattr(ps, sensealg)()} if sensealg else {}
    u = ps.solve(problem, getattr(ps, algorithm)(), saveat=0.1, engine="julia", **options).u
    if gradient:
        u.square().sum().backward()


def _network(width: int) -> None:
    import pysciode as ps

    net = torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2))
    problem = ps.ODEProblem(net, torch.ones(4, 2), (0.0, 1.0))
    ps.solve(problem, ps.Tsit5(), saveat=0.1, engine="julia", sensealg=ps.GaussAdjoint()).u.square().sum().backward()


def _diffrax(constant: float) -> None:
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    f = _model(constant)

    def loss(p):
        ys = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, u, p: jnp.stack(f(u, p, t))),
            diffrax.Tsit5(),
            0.0,
            10.0,
            None,
            jnp.ones(2),
            p,
            saveat=diffrax.SaveAt(ts=jnp.linspace(0, 10, 101)),
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-8),
        ).ys
        return (ys**2).sum()

    jax.block_until_ready(jax.jit(jax.grad(loss))(jnp.array([1.5, 1.0, 3.0, 1.0])))


def _median_of_new(run: Callable[[int], None], count: int = 7) -> float:
    """Median milliseconds over models never seen before; the first one warms the process up and doesn't count."""
    times = []
    for k in range(count + 1):
        began = time.perf_counter()
        run(k)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[1:])


def results() -> list[Result]:
    """First solves and first gradients of new models."""
    constants = [-0.001 * (k + 1) for k in range(100)]
    rows: dict[str, dict[str, Callable[[int], None]]] = {
        "new model: first solve": {"pysciode": lambda k: _pysciode(constants[k], "Tsit5", None, False)},
        "new model: first stiff solve": {"pysciode": lambda k: _pysciode(constants[10 + k], "Rodas5P", None, False)},
        "new model: first gradient": {
            "pysciode": lambda k: _pysciode(constants[20 + k], "Tsit5", None, True),
            "pysciode, adjoint": lambda k: _pysciode(constants[30 + k], "Tsit5", "GaussAdjoint", True),
            "diffrax": lambda k: _diffrax(constants[40 + k]),
        },
        "new network: first gradient": {"pysciode, adjoint": lambda k: _network(20 + k)},
    }
    answers = []
    for task, contestants in rows.items():
        result = Result(task)
        for name, run in contestants.items():
            try:
                result.milliseconds[name] = _median_of_new(run)
            except Exception as error:
                result.milliseconds[name], result.notes[name] = None, f"{type(error).__name__}: {error}"
        answers.append(result)
    return answers
