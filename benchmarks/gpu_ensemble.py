"""Who solves an ensemble of Lorenz systems in gpu.py: each from (1, 0, 0), with a rho of its own in 0…28, t from 0 to 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from gpu_contestants import Run, Workload

SIGMA, BETA = 10.0, 8 / 3
START = [1.0, 0.0, 0.0]


def lorenz(x, y, z, rho):
    return [SIGMA * (y - x), x * (rho - z) - y, x * y - BETA * z]


def rhos(work: Workload) -> torch.Tensor:
    return torch.linspace(0.0, 28.0, work.batch, **work.tensors())


def ensemble_run(library: str, work: Workload, rtol: float, atol: float) -> Run:
    """What is timed: the states at the end. torchdiffeq solves all of them as one state, the others each in steps of its own."""
    return {"pysciode": _pysciode, "torchdiffeq": _torchdiffeq, "torchode": _torchode, "diffrax": _diffrax}[library](work, rtol, atol)


def _pysciode(work: Workload, rtol: float, atol: float) -> Run:
    from gpu_contestants import Outcome

    import pysciode as ps

    rho = rhos(work)
    problem = ps.ODEProblem(lambda u, p, t: lorenz(*u, p[0]), torch.tensor(START, **work.tensors()), (0.0, 1.0), rho[:1])
    ensemble = ps.EnsembleProblem(problem, p=rho[:, None])
    options = {"ensemblealg": ps.EnsembleGPUKernel(), "saveat": [1.0], "rtol": rtol, "atol": atol, "engine": "julia"}
    return lambda: Outcome(ps.solve(ensemble, ps.Tsit5(), **options).u[:, -1])


def _slopes(rho: torch.Tensor):
    return lambda t, u: torch.stack(lorenz(*u.unbind(-1), rho), dim=-1)


def _states(work: Workload) -> torch.Tensor:
    return torch.tensor(START, **work.tensors()).expand(work.batch, 3).contiguous()


def _torchdiffeq(work: Workload, rtol: float, atol: float) -> Run:
    from gpu_contestants import Outcome
    from torchdiffeq import odeint

    f, u0, times = _slopes(rhos(work)), _states(work), torch.tensor([0.0, 1.0], **work.tensors())
    return torch.no_grad()(lambda: Outcome(odeint(f, u0, times, rtol=rtol, atol=atol, method="dopri5")[-1]))


def _torchode(work: Workload, rtol: float, atol: float) -> Run:
    import torchode
    from gpu_contestants import Outcome

    term = torchode.ODETerm(_slopes(rhos(work)))
    controller = torchode.IntegralController(atol=atol, rtol=rtol, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), controller)
    times = torch.tensor([[0.0, 1.0]], **work.tensors()).expand(work.batch, 2)
    problem = torchode.InitialValueProblem(y0=_states(work), t_eval=times)
    return torch.no_grad()(lambda: Outcome(solver.solve(problem).ys[:, -1]))


def _diffrax(work: Workload, rtol: float, atol: float) -> Run:
    import diffrax
    import jax
    import jax.numpy as jnp
    from gpu_contestants import Outcome

    jax.config.update("jax_enable_x64", work.dtype == "float64")
    device = jax.devices("gpu" if work.device.startswith("cuda") else "cpu")[0]
    rho = jax.device_put(rhos(work).cpu().numpy(), device)
    term = diffrax.ODETerm(lambda t, u, rho: jnp.stack(lorenz(*u, rho)))
    steps = diffrax.PIDController(rtol=rtol, atol=atol)
    start = jnp.array(START, dtype=np.dtype(work.dtype))

    def one(rho):
        return diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, None, start, rho, stepsize_controller=steps).ys[-1]

    solve = jax.jit(jax.vmap(one))
    return lambda: Outcome(jax.block_until_ready(solve(rho)))
