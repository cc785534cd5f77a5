"""Ensembles of Lorenz systems on the processor: rho in 0…28, t = 0…1, 11 saves, tolerances 1e-6 and 1e-8, float64.

``python benchmarks/run.py ensembles``; diffrax where it is installed. Each of our members takes its own steps, as diffrax's do
under vmap; torchdiffeq solves all of them as one state, in steps that suit all.
"""

from __future__ import annotations

import numpy as np
from measure import Prepare, Result, compare

SIZES = (10_000, 100_000)
# Solved one by one; the larger ensemble takes as much longer as it has more members.
ONE_BY_ONE = 10_000
TIMES, RTOL, ATOL = np.linspace(0.0, 1.0, 11), 1e-6, 1e-8


def parameters(size: int) -> np.ndarray:
    rho = np.random.default_rng(0).uniform(0.0, 28.0, size)
    return np.stack([np.full(size, 10.0), rho, np.full(size, 8 / 3)], axis=1)


def lorenz(u, p, t):
    x, y, z = u
    return [p[0] * (y - x), x * (p[1] - z) - y, x * y - p[2] * z]


def _pysciode(way: str, size: int) -> Prepare:
    def prepare():
        import pysciode as ps

        if way != "EnsembleGPUKernel" and size > ONE_BY_ONE:
            raise ValueError("one by one, see the smaller ensemble")
        problem = ps.ODEProblem(lorenz, [1.0, 0.0, 0.0], (0.0, 1.0), [10.0, 28.0, 8 / 3])
        ensemble = ps.EnsembleProblem(problem, p=parameters(size))
        options = dict(ensemblealg=getattr(ps, way)(), saveat=TIMES, rtol=RTOL, atol=ATOL, engine="julia")
        return lambda: ps.solve(ensemble, ps.Tsit5(), **options).u

    return prepare


def _torchdiffeq(size: int) -> Prepare:
    def prepare():
        import torch
        from torchdiffeq import odeint

        p, t = torch.from_numpy(parameters(size)).T, torch.from_numpy(TIMES)
        u0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(size, 3)

        def f(t, u):
            x, y, z = u.unbind(-1)
            return torch.stack([p[0] * (y - x), x * (p[1] - z) - y, x * y - p[2] * z], dim=-1)

        return lambda: odeint(f, u0, t, rtol=RTOL, atol=ATOL, method="dopri5")

    return prepare


def _diffrax(size: int) -> Prepare:
    def prepare():
        import diffrax
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        p, saveat = jnp.asarray(parameters(size)), diffrax.SaveAt(ts=jnp.asarray(TIMES))
        term = diffrax.ODETerm(lambda t, u, p: jnp.stack(lorenz(u, p, t)))
        steps = diffrax.PIDController(rtol=RTOL, atol=ATOL)

        def one(p):
            u0 = jnp.array([1.0, 0.0, 0.0])
            return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, None, u0, p, saveat=saveat, stepsize_controller=steps).ys

        solve = jax.jit(jax.vmap(one))
        return lambda: solve(p).block_until_ready()

    return prepare


def results() -> list[Result]:
    found = []
    for size in SIZES:
        contestants = {
            "pysciode": _pysciode("EnsembleGPUKernel", size),
            "EnsembleThreads": _pysciode("EnsembleThreads", size),
            "EnsembleSerial": _pysciode("EnsembleSerial", size),
            "torchdiffeq, one state": _torchdiffeq(size),
            "diffrax, vmap": _diffrax(size),
        }
        found.append(compare(f"{size} Lorenz systems", contestants))
    return found
