"""The spiral neural ODE: y³ → 50 tanh → 2, batch 20, 10 times on 0…0.25, 1e-7/1e-9, float32: one step of gradient descent."""

from __future__ import annotations

import numpy as np
import torch
from by_hand import julia
from measure import Result, compare
from scipy.integrate import solve_ivp

BATCH, TIMES, RTOL, ATOL, RATE = 20, np.linspace(0.0, 0.25, 10, dtype=np.float32), 1e-7, 1e-9, 1e-3


class Spiral(torch.nn.Module):
    """The network of torchdiffeq's first example, with torch's own initial weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 50), torch.nn.Tanh(), torch.nn.Linear(50, 2))

    def forward(self, t, y):
        return self.net(y**3)


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    """Short stretches of the true spiral ``y' = A y³``, from 20 places along it."""
    rotation = np.array([[-0.1, 2.0], [-2.0, -0.1]])
    path = solve_ivp(lambda t, y: y**3 @ rotation, (0.0, 25.3), [2.0, 0.0], dense_output=True, rtol=1e-8, atol=1e-8).sol
    starts = np.sort(np.random.default_rng(0).uniform(0.0, 25.0, BATCH))
    stretches = np.stack([path(starts + t).T for t in TIMES]).astype(np.float32)
    return torch.from_numpy(stretches[0]), torch.from_numpy(stretches)


def _train(model: Spiral, predict, u0: torch.Tensor, target: torch.Tensor) -> None:
    for parameter in model.parameters():
        parameter.grad = None
    (predict(u0) - target).abs().mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= RATE * parameter.grad


def _pysciode(sensealg_name: str | None = None):
    def prepare():
        import pysciode as ps

        model, data = Spiral(), _data()
        options = {"sensealg": getattr(ps, sensealg_name)()} if sensealg_name else {}

        problem = ps.ODEProblem(model, data[0], (0.0, float(TIMES[-1])))

        def predict(u0):
            return ps.solve(problem, ps.Tsit5(), saveat=TIMES, rtol=RTOL, atol=ATOL, engine="julia", **options).u

        return lambda: _train(model, predict, *data)

    return prepare


def _torchdiffeq(solver_name: str):
    def prepare():
        import torchdiffeq

        solver = getattr(torchdiffeq, solver_name)
        model, data, times = Spiral(), _data(), torch.from_numpy(TIMES)
        return lambda: _train(model, lambda u0: solver(model, u0, times, rtol=RTOL, atol=ATOL, method="dopri5"), *data)

    return prepare


def _diffrax():
    import diffrax
    import jax
    import jax.numpy as jnp

    parameters = [jnp.asarray(p.detach().numpy()) for p in Spiral().parameters()]
    u0, target = (jnp.asarray(x.numpy()) for x in _data())
    times = jnp.asarray(TIMES)

    def f(t, y, p):
        return jnp.tanh(y**3 @ p[0].T + p[1]) @ p[2].T + p[3]

    def loss(p):
        ys = diffrax.diffeqsolve(
            diffrax.ODETerm(f),
            diffrax.Tsit5(),
            times[0],
            times[-1],
            None,
            u0,
            p,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
        ).ys
        return jnp.abs(ys - target).mean()

    @jax.jit
    def step(p):
        return jax.tree_util.tree_map(lambda value, gradient: value - RATE * gradient, p, jax.grad(loss)(p))

    return lambda: jax.block_until_ready(step(parameters))


def _julia():
    first, last = (layer for layer in Spiral().net if isinstance(layer, torch.nn.Linear))
    # by_hand.jl keeps its weights as Julia's columns.
    weights = [array.detach().reshape(-1) for array in (first.weight.T, first.bias, last.weight.T, last.bias)]
    u0, target = _data()
    return julia("spiral_gradient", u0.reshape(-1).numpy(), torch.cat(weights).numpy(), target.reshape(-1).numpy())


def results() -> list[Result]:
    """One training step."""
    return [
        compare(
            "spiral training step",
            {
                "pysciode": _pysciode(),
                "pysciode, adjoint": _pysciode("InterpolatingAdjoint"),
                "torchdiffeq": _torchdiffeq("odeint"),
                "torchdiffeq, adjoint": _torchdiffeq("odeint_adjoint"),
                "diffrax": _diffrax,
                "Julia by hand, adjoint": _julia,
            },
        )
    ]
