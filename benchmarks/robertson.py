"""Robertson's stiff chemistry: Σu² at 50 log-spaced times 1e-5…1e4 to its 3 rates, 1e-6/1e-8."""

from __future__ import annotations

import numpy as np
import torch
from by_hand import julia
from measure import Result, compare

RATES, START, END, RTOL, ATOL = (0.04, 3e7, 1e4), (1.0, 0.0, 0.0), 1e4, 1e-6, 1e-8
TIMES = np.logspace(-5, 4, 50)


def robertson(u, p, t):
    a, b, c = u
    slow, fast, back = p[0] * a, p[1] * b * b, p[2] * b * c
    return [back - slow, slow - back - fast, fast]


def _pysciode(sensealg_name: str):
    def prepare():
        import pysciode as ps

        p = torch.tensor(RATES, dtype=torch.float64, requires_grad=True)
        problem = ps.ODEProblem(robertson, torch.tensor(START, dtype=torch.float64), (0.0, END), p)
        options = dict(saveat=TIMES, rtol=RTOL, atol=ATOL, sensealg=getattr(ps, sensealg_name)(), engine="julia")

        def gradient():
            return torch.autograd.grad(ps.solve(problem, ps.Rodas5P(), **options).u.square().sum(), p)

        return gradient

    return prepare


def _diffrax():
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    times, u0, rates = jnp.asarray(TIMES), jnp.asarray(START), jnp.asarray(RATES)

    def f(t, u, p):
        return jnp.stack(robertson(u, p, t))

    def loss(p):
        ys = diffrax.diffeqsolve(
            diffrax.ODETerm(f),
            diffrax.Kvaerno5(),
            0.0,
            END,
            1e-6,
            u0,
            p,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
            max_steps=100_000,
        ).ys
        return (ys**2).sum()

    compiled = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(compiled(rates))


def results() -> list[Result]:
    """The gradient."""
    return [
        compare(
            "Robertson gradient",
            {
                "pysciode": _pysciode("ForwardDiffSensitivity"),
                "pysciode, adjoint": _pysciode("GaussAdjoint"),
                "diffrax": _diffrax,
                "Julia by hand": lambda: julia("robertson_gradient"),
                "Julia by hand, adjoint": lambda: julia("robertson_adjoint"),
            },
        )
    ]
