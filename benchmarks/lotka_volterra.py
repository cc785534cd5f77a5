"""Lotka-Volterra: p = (1.5, 1, 3, 1), u0 = (1, 1), t = 0…10, 101 saves, tolerances 1e-8; the solve, and Σu² to the 4 parameters."""

from __future__ import annotations

import numpy as np
import torch
from by_hand import julia
from measure import Prepare, Result, compare

RATES, START, END, TOLERANCE = (1.5, 1.0, 3.0, 1.0), (1.0, 1.0), 10.0, 1e-8
TIMES = np.linspace(0.0, END, 101)


def lotka_volterra(u, p, t):
    x, y = u
    return [p[0] * x - p[1] * x * y, p[3] * x * y - p[2] * y]


def _pysciode(sensealg_name: str | None) -> Prepare:
    def prepare():
        import pysciode as ps

        sensealg = getattr(ps, sensealg_name)() if sensealg_name else None
        # NumPy for the solve alone, as one would write it; torch for the gradient.
        u0, p = np.array(START), np.array(RATES)
        if sensealg is not None:
            u0, p = torch.from_numpy(u0), torch.from_numpy(p).requires_grad_()
        problem = ps.ODEProblem(lotka_volterra, u0, (0.0, END), p)
        options = dict(saveat=TIMES, rtol=TOLERANCE, atol=TOLERANCE, sensealg=sensealg, engine="julia")

        def solve():
            return ps.solve(problem, ps.Tsit5(), **options).u

        return (lambda: torch.autograd.grad(solve().square().sum(), p)) if sensealg else solve

    return prepare


def _torchdiffeq(gradient: bool) -> Prepare:
    def prepare():
        from torchdiffeq import odeint

        u0 = torch.tensor(START, dtype=torch.float64)
        times = torch.from_numpy(TIMES)

        def solve():
            p = torch.tensor(RATES, dtype=torch.float64, requires_grad=gradient)

            def f(t, u):
                x, y = u
                return torch.stack([p[0] * x - p[1] * x * y, p[3] * x * y - p[2] * y])

            u = odeint(f, u0, times, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")
            return torch.autograd.grad(u.square().sum(), p) if gradient else u

        return solve

    return prepare


def _diffrax(gradient: bool) -> Prepare:
    def prepare():
        import diffrax
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        times, u0, p = jnp.asarray(TIMES), jnp.asarray(START), jnp.asarray(RATES)

        def f(t, u, p):
            x, y = u
            return jnp.stack([p[0] * x - p[1] * x * y, p[3] * x * y - p[2] * y])

        def solve(p):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(f),
                diffrax.Tsit5(),
                0.0,
                END,
                None,
                u0,
                p,
                saveat=diffrax.SaveAt(ts=times),
                stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
            ).ys

        compiled = jax.jit(jax.grad(lambda p: (solve(p) ** 2).sum()) if gradient else solve)
        return lambda: jax.block_until_ready(compiled(p))

    return prepare


def results() -> list[Result]:
    """The solve and the gradient."""
    return [
        compare(
            "Lotka-Volterra solve",
            {
                "pysciode": _pysciode(None),
                "torchdiffeq": _torchdiffeq(False),
                "diffrax": _diffrax(False),
                "Julia by hand": lambda: julia("lotka_volterra_solve"),
            },
        ),
        compare(
            "Lotka-Volterra gradient",
            {
                "pysciode": _pysciode("ForwardDiffSensitivity"),
                "pysciode, adjoint": _pysciode("InterpolatingAdjoint"),
                "torchdiffeq": _torchdiffeq(True),
                "diffrax": _diffrax(True),
                "Julia by hand": lambda: julia("lotka_volterra_gradient"),
                "Julia by hand, adjoint": lambda: julia("lotka_volterra_adjoint"),
            },
        ),
    ]
