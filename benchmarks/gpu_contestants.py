"""Who solves in gpu.py: each library on the same networks, numbers and tolerances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gpu_ensemble import ensemble_run
from torch import nn

RTOL, ATOL = 1e-4, 1e-6


@dataclass(frozen=True)
class Workload:
    """One solve from 0 to 1 of a network ``d → hidden → hidden → d`` with tanh, on a batch.

    Attributes
    ----------
    kind
        ``"forward"``; ``"gradient"``, of the mean square at the end to all weights; or ``"flow"``, that of a continuous
        flow's mean log likelihood with Hutchinson's trace. Or ``"ensemble"``, which has no network: `batch` Lorenz systems.
    """

    kind: str
    d: int
    hidden: int
    batch: int
    device: str
    dtype: str

    @property
    def parameters(self) -> int:
        return (self.d + 1) * self.hidden + (self.hidden + 1) * self.hidden + (self.hidden + 1) * self.d

    @property
    def flops(self) -> float:
        """Of the matrix products in one evaluation of the network."""
        return 2.0 * self.batch * (2 * self.d * self.hidden + self.hidden**2)

    def tensors(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": getattr(torch, self.dtype)}

    def network(self) -> Network:
        """The same weights wherever they are put."""
        torch.manual_seed(0)
        return Network(self.d, self.hidden).to(**self.tensors())

    def start(self) -> torch.Tensor:
        return torch.randn(self.batch, self.d, generator=torch.Generator().manual_seed(1)).to(**self.tensors())

    def noise(self) -> torch.Tensor:
        """Of Hutchinson's estimate: signs, as ContinuousFlow draws them."""
        from pysciode.nn.divergence import draw_noise

        return draw_noise(self.start(), "rademacher", self.generator())

    def generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(2)


class Network(nn.Module):
    """Three layers; of the time nothing is known."""

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(d, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, d)

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return self.third(torch.tanh(self.second(torch.tanh(self.first(u)))))


@dataclass
class Outcome:
    """What a run found: the end or the loss, gradients, and how often the network was evaluated on the way there."""

    value: Any
    gradients: Any = ()
    evaluations: int | None = None

    def norms(self) -> list[float]:
        """By which contestants are compared, in double precision."""
        arrays = [np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x, dtype=np.float64) for x in self.gradients]
        value = self.value.detach().cpu() if isinstance(self.value, torch.Tensor) else self.value
        return [float(np.linalg.norm(np.asarray(value, dtype=np.float64)))] + [float(np.linalg.norm(x)) for x in arrays]


Run = Callable[[], Outcome]


def _differentiated(network: nn.Module, loss: Callable[[], torch.Tensor]) -> Run:
    def run() -> Outcome:
        network.zero_grad()
        value = loss()
        value.backward()
        return Outcome(value, [p.grad for p in network.parameters()])

    return run


def _log_likelihood(z: torch.Tensor, log_det: torch.Tensor) -> torch.Tensor:
    return (torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det).mean()


# ---------------------------------------------------------------------------------------------------------------------


def _pysciode(sensealg_name: str | None = None) -> Callable[[Workload], Run]:
    def prepare(work: Workload) -> Run:
        import pysciode as ps
        from pysciode.nn import ContinuousFlow

        if work.kind == "ensemble":
            return ensemble_run("pysciode", work, RTOL, ATOL)
        network, u0 = work.network(), work.start()
        sensealg = getattr(ps, sensealg_name)() if sensealg_name else None
        options = {"rtol": RTOL, "atol": ATOL, "sensealg": sensealg, "engine": "julia"}
        if work.kind == "flow":
            flow = ContinuousFlow(network, work.d, trace="hutchinson", **options)
            return _differentiated(network, lambda: -flow.log_prob(u0, generator=work.generator()).mean())
        problem = ps.ODEProblem(network, u0, (0.0, 1.0))

        def solve() -> ps.Solution:
            return ps.solve(problem, ps.Tsit5(), saveat=[1.0], **options)

        if work.kind == "gradient":
            return _differentiated(network, lambda: solve().u[-1].square().mean())

        @torch.no_grad()
        def forward() -> Outcome:
            solution = solve()
            return Outcome(solution.u[-1], evaluations=solution.stats.nf)

        return forward

    return prepare


class _Rates(nn.Module):
    """A flow's equations with ``autograd.grad`` inside the right-hand side; counts its evaluations."""

    def __init__(self, work: Workload) -> None:
        super().__init__()
        self.network, self.noise, self.calls = work.network(), work.noise() if work.kind == "flow" else None, 0

    def forward(self, t, state):
        self.calls += 1
        if self.noise is None:
            return self.network(t, state)
        with torch.enable_grad():
            x = state[0].requires_grad_()
            dx = self.network(t, x)
            row = torch.autograd.grad(dx, x, self.noise, create_graph=True)[0]
            return dx, (row * self.noise).sum(1)


def _torchdiffeq(solver_name: str) -> Callable[[Workload], Run]:
    def prepare(work: Workload) -> Run:
        import torchdiffeq

        if work.kind == "ensemble":
            return ensemble_run("torchdiffeq", work, RTOL, ATOL)
        rates, u0 = _Rates(work), work.start()
        times = torch.tensor([1.0, 0.0] if work.kind == "flow" else [0.0, 1.0], **work.tensors())

        def end(state):
            solver = getattr(torchdiffeq, solver_name)
            return solver(rates, state, times, rtol=RTOL, atol=ATOL, method="dopri5")

        if work.kind == "flow":

            def loss() -> torch.Tensor:
                z, log_det = end((u0, u0.new_zeros(work.batch)))
                return -_log_likelihood(z[-1], log_det[-1])

            return _differentiated(rates.network, loss)
        if work.kind == "gradient":
            return _differentiated(rates.network, lambda: end(u0)[-1].square().mean())

        @torch.no_grad()
        def forward() -> Outcome:
            rates.calls = 0
            return Outcome(end(u0)[-1], evaluations=rates.calls)

        return forward

    return prepare


def _torchode(adjoint_name: str) -> Callable[[Workload], Run]:
    """Every sample takes steps of its own."""

    def prepare(work: Workload) -> Run:
        import torchode

        if work.kind == "ensemble":
            return ensemble_run("torchode", work, RTOL, ATOL)
        if work.kind == "flow":
            raise NotImplementedError("not written for torchode, whose states are flat vectors")
        network, u0 = work.network(), work.start()
        term = torchode.ODETerm(network)
        controller = torchode.IntegralController(atol=ATOL, rtol=RTOL, term=term)
        arguments = (torchode.Tsit5(term=term), controller)
        adjoint = getattr(torchode, adjoint_name)
        solver = adjoint(term, *arguments) if adjoint_name == "JointBacksolveAdjoint" else adjoint(*arguments)
        times = torch.tensor([[0.0, 1.0]], **work.tensors()).expand(work.batch, 2)

        def end():
            return solver.solve(torchode.InitialValueProblem(y0=u0, t_eval=times))

        if work.kind == "gradient":
            return _differentiated(network, lambda: end().ys[:, -1].square().mean())

        @torch.no_grad()
        def forward() -> Outcome:
            solution = end()
            return Outcome(solution.ys[:, -1], evaluations=int(solution.stats["n_f_evals"].max()))

        return forward

    return prepare


def _diffrax(adjoint_name: str) -> Callable[[Workload], Run]:
    def prepare(work: Workload) -> Run:
        import diffrax
        import jax
        import jax.numpy as jnp

        if work.kind == "ensemble":
            return ensemble_run("diffrax", work, RTOL, ATOL)
        jax.config.update("jax_enable_x64", work.dtype == "float64")
        exact = torch.get_float32_matmul_precision() == "highest"
        jax.config.update("jax_default_matmul_precision", "float32" if exact else "tensorfloat32")
        device = jax.devices("gpu" if work.device.startswith("cuda") else "cpu")[0]
        put = lambda x: jax.device_put(x.detach().cpu().numpy(), device)  # noqa: E731
        parameters, u0 = [put(p) for p in work.network().parameters()], put(work.start())

        def network(u, p):
            u = jnp.tanh(u @ p[0].T + p[1])
            return jnp.tanh(u @ p[2].T + p[3]) @ p[4].T + p[5]

        def end(f, state, args, times):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(f), diffrax.Tsit5(), *times, None, state, args, adjoint=getattr(diffrax, adjoint_name)(),
                stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
            )  # fmt: skip

        if work.kind == "forward":

            @jax.jit
            def solve(p):
                solution = end(lambda t, u, p: network(u, p), u0, p, (0.0, 1.0))
                return solution.ys[-1], solution.stats["num_steps"]

            def forward() -> Outcome:
                value, steps = jax.block_until_ready(solve(parameters))
                return Outcome(value, evaluations=6 * int(steps) + 1)

            return forward
        if work.kind == "gradient":

            def loss(p):
                return jnp.square(end(lambda t, u, p: network(u, p), u0, p, (0.0, 1.0)).ys[-1]).mean()
        else:
            noise = put(work.noise())

            def rates(t, state, p):
                dx, pullback = jax.vjp(lambda x: network(x, p), state[0])
                return dx, (pullback(noise)[0] * noise).sum(1)

            def loss(p):
                z, log_det = end(rates, (u0, jnp.zeros(work.batch, u0.dtype)), p, (1.0, 0.0)).ys
                density = -0.5 * (jnp.square(z[-1]) + np.log(2 * np.pi)).sum(1)
                return -(density + log_det[-1]).mean()

        step = jax.jit(jax.value_and_grad(loss))
        return lambda: Outcome(*jax.block_until_ready(step(parameters)))

    return prepare


CONTESTANTS = {
    "pysciode": _pysciode(),
    "pysciode, BacksolveAdjoint": _pysciode("BacksolveAdjoint"),
    "torchdiffeq": _torchdiffeq("odeint"),
    "torchdiffeq, adjoint": _torchdiffeq("odeint_adjoint"),
    "diffrax": _diffrax("RecursiveCheckpointAdjoint"),
    "diffrax, adjoint": _diffrax("BacksolveAdjoint"),
    "torchode": _torchode("AutoDiffAdjoint"),
    "torchode, adjoint": _torchode("JointBacksolveAdjoint"),
}
"""By what the table calls them: from a workload to what is timed. The ones with an adjoint take part in gradients only."""
