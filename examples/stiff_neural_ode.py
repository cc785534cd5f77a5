"""A neural ODE for stiff chemistry: what fails on Robertson's reactions, and what learns them.

Kim, Ji, Deng, Ma, Rackauckas, "Stiff Neural Ordinary Differential Equations" (Chaos 31, 2021, arXiv:2103.15341): 50 times
evenly spaced in log t from 1e-5 to 1e5, six hidden layers of five units with GELU, errors divided by each species' largest
value. Three networks are trained:

- unscaled: ``du/dt = net(u)``. Its outputs near one are to be integrated over 1e5 seconds.
- scaled: the paper's ``du/dt = scale_u / T net``, with the inputs scaled too. The paper takes 50 000 steps of Adam to a mean
  absolute error of about 0.005 (its repository's curve).
- production and consumption: ``du/dt = scale_u / T (exp(a) - u/scale_u exp(b))``, ``a, b = net(log u)``. Rates of eight orders
  of magnitude are then numbers between -20 and 20, and time scales are set from the data before training begins.

All are solved by Rodas5P and differentiated by ForwardDiffSensitivity; SciPy's least squares train them, the first two after
some steps of Adam as in the paper (the third doesn't need them). Afterwards other solvers and adjoints are tried on the
learned network.

Run: python examples/stiff_neural_ode.py [--quick]
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import scipy.optimize
import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from torch import nn

import pysciode as ps
from pysciode.nn import ScaledField

TIMES = np.logspace(-5, 5, 50)
START = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
KINETICS = "production and consumption"
SPECIES = ("y1", "y2", "y3")
RTOL, RELATIVE_ATOL = 1e-5, 1e-6
PATIENCE = 20


def robertson(u, p, t):
    a, b, c = u
    slow, fast, back = p[0] * a, p[1] * b * b, p[2] * b * c
    return [back - slow, slow - back - fast, fast]


def observations() -> torch.Tensor:
    """Shape ``(times, 3)``."""
    problem = ps.ODEProblem(robertson, START, (0.0, 1e5), [0.04, 3e7, 1e4])
    return ps.solve(problem, ps.Rodas5P(), saveat=TIMES, rtol=1e-10, atol=1e-14).u


def network(outputs: int = 3) -> nn.Sequential:
    widths = (3, *[5] * 6)
    layers = [x for a, b in zip(widths, widths[1:], strict=False) for x in (nn.Linear(a, b), nn.GELU("tanh"))]
    net = nn.Sequential(*layers, nn.Linear(widths[-1], outputs)).double()
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=1.4 if outputs > 3 else 1.0)
            nn.init.zeros_(layer.bias)
    return net


class Kinetics(nn.Module):
    """Production minus consumption, of states that :class:`ScaledField` has scaled.

    Parameters
    ----------
    net
        From the logarithms of the states to those of the rates of production, then of the frequencies of consumption.
    """

    FLOOR = 1e-4  # of what is told apart from nothing

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        production, consumption = self.net(torch.log(x.abs() + self.FLOOR) / 4).exp().chunk(2)
        return production - x * consumption


def half_times(seen: torch.Tensor) -> torch.Tensor:
    """When each species has first gone half the way that it will have gone in all."""
    moved = (seen - START).abs()
    return torch.from_numpy(TIMES)[(moved >= moved.amax(0) / 2).to(torch.int8).argmax(0)]


def models(seen: torch.Tensor) -> dict[str, Callable[[], nn.Module]]:
    def kinetics() -> nn.Module:
        net = network(6)
        with torch.no_grad():
            net[-1].bias.copy_(torch.log(TIMES[-1] / half_times(seen)).repeat(2))
        return ScaledField.from_data(Kinetics(net), TIMES, seen)

    return {
        "unscaled": network,
        "scaled": lambda: ScaledField.from_data(network(), TIMES, seen),
        KINETICS: kinetics,
    }


@dataclass
class Trial:
    """A network in training: its error, the mean of ``|u - seen| / scale`` as in the paper, after each evaluation."""

    model: nn.Module
    seen: torch.Tensor
    engine: str
    errors: list[float] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""

    def __post_init__(self) -> None:
        self.scale = self.seen.abs().amax(0)
        self.parameters = list(self.model.parameters())
        self.best, self.best_parameters = np.inf, self.vector()

    def vector(self) -> np.ndarray:
        return nn.utils.parameters_to_vector(self.parameters).detach().numpy().copy()

    def set(self, x: np.ndarray) -> None:
        nn.utils.vector_to_parameters(torch.from_numpy(x.copy()), self.parameters)

    def solution(self, algorithm: ps.Algorithm | None = None, sensealg=None, **options) -> ps.Solution:
        options = {"saveat": TIMES, "rtol": RTOL, "atol": RELATIVE_ATOL * self.scale, "maxiters": 1000, **options}
        return ps.solve(
            ps.ODEProblem(self.model, START, (0.0, TIMES[-1])),
            algorithm or ps.Rodas5P(),
            sensealg=sensealg or ps.ForwardDiffSensitivity(),
            engine=self.engine,
            **options,
        )

    def residuals(self, **options) -> torch.Tensor:
        """Scaled errors, flat."""
        residuals = ((self.solution(**options).u - self.seen) / self.scale).flatten()
        error = residuals.detach().abs().mean().item()
        self.errors.append(error)
        if error < self.best:
            self.best, self.best_parameters = error, self.vector()
        return residuals

    def gradient(self, **options) -> np.ndarray:
        """Of the sum of squares of the scaled states, flat: that of the misfit vanishes where all is learned."""
        size = (self.solution(**options).u / self.scale).square().sum()
        return torch.cat([x.flatten() for x in torch.autograd.grad(size, self.parameters)]).numpy()


def adam(trial: Trial, steps: int, limit: float) -> None:
    optimizer = torch.optim.Adam(trial.parameters, lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        trial.residuals().abs().mean().backward()
        optimizer.step()
        if time.perf_counter() > limit:
            return


class _Enough(Exception):
    """The time is over, or nothing is gained any more."""


def least_squares(trial: Trial, evaluations: int, limit: float) -> None:
    """By SciPy's trust-region method: the network has more parameters than there are observations."""
    best: list[float] = []

    def residuals(x: np.ndarray) -> np.ndarray:
        best.append(trial.best)
        if time.perf_counter() > limit or (len(best) > PATIENCE and trial.best > 0.99 * best[-PATIENCE]):
            raise _Enough
        trial.set(x)
        try:
            with torch.no_grad():  # a solve without sensitivities is much the cheaper one
                return trial.residuals().numpy()
        except ps.SolveFailed:
            if len(best) == 1:
                raise
            return np.full(trial.seen.numel(), 1e3)  # the region of trust shrinks

    def jacobian(x: np.ndarray) -> np.ndarray:
        trial.set(x)
        rows = [torch.autograd.grad(r, trial.parameters, retain_graph=True) for r in trial.residuals()]
        return torch.stack([torch.cat([y.flatten() for y in row]) for row in rows]).numpy()

    with contextlib.suppress(_Enough):
        scipy.optimize.least_squares(residuals, trial.vector(), jacobian, x_scale="jac", max_nfev=evaluations)


def train(trial: Trial, steps: int, refinements: int, limit: float) -> None:
    """The best parameters are kept; a solve that fails ends the training and is noted."""
    began = time.perf_counter()
    try:
        adam(trial, steps, began + limit)
        if refinements:
            least_squares(trial, refinements, began + limit)
    except (ps.SolveFailed, ps.GradientFailed) as error:
        trial.failure = _short(error)
    trial.set(trial.best_parameters)
    trial.seconds = time.perf_counter() - began


def _short(error: ps.SolveFailed | ps.GradientFailed) -> str:
    if isinstance(error, ps.SolveFailed):
        return f"{error.retcode} at t = {error.t:.3g}"
    return error.reason.splitlines()[0][:70]


def try_methods(trial: Trial, quick: bool) -> Table:
    """Gradients at the learned network, against those of ForwardDiffSensitivity at tighter tolerances."""
    table = Table("solver", "adjoint", Column("error of gradient", justify="right"), "s, first call", "outcome")
    tight = {"rtol": 1e-9, "atol": 1e-10 * trial.scale, "maxiters": 100_000}
    right = trial.gradient(**tight)
    stiff, explicit = ps.Rodas5P(), ps.Tsit5()
    methods = (
        (stiff, ps.ForwardDiffSensitivity()),
        (stiff, ps.GaussAdjoint()),
        (stiff, ps.InterpolatingAdjoint()),
        (stiff, ps.QuadratureAdjoint(abstol=1e-10, reltol=1e-8)),
        (stiff, ps.BacksolveAdjoint()),
        (explicit, ps.ForwardDiffSensitivity()),
    )
    for algorithm, sensealg in methods[:2] if quick else methods:
        began = time.perf_counter()
        error, outcome = "–", "ok"
        try:
            options = {"algorithm": algorithm, "sensealg": sensealg, "maxiters": 100_000}
            found = trial.gradient(rtol=1e-7, atol=1e-8 * trial.scale, **options)
            error = f"{np.linalg.norm(found - right) / np.linalg.norm(right):.1e}"
        except (ps.SolveFailed, ps.GradientFailed) as failed:
            outcome = _short(failed)
        table.add_row(algorithm.name, type(sensealg).__name__, error, f"{time.perf_counter() - began:.2g}", outcome)
    table.add_row("torchdiffeq dopri5", "–", "–", *explicit_peer(trial, 1.0 if quick else 5.0))
    return table


@torch.no_grad()
def explicit_peer(trial: Trial, seconds: float) -> tuple[str, str]:
    """How far torchdiffeq, whose solvers are explicit, gets with the learned network in some seconds."""
    from torchdiffeq import odeint

    reached, calls, began = 0.0, 0, time.perf_counter()

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        nonlocal reached, calls
        reached, calls = max(reached, t.item()), calls + 1
        if time.perf_counter() - began > seconds:
            raise TimeoutError
        return _rates(trial.model, t, u)

    try:
        odeint(f, START, torch.tensor([0.0, TIMES[-1]]).double(), rtol=RTOL, atol=RELATIVE_ATOL * trial.scale)
        outcome = "reached the end"
    except TimeoutError:
        outcome = f"only at t = {reached:.2g} after {calls} evaluations"
    return f"{time.perf_counter() - began:.2g}", outcome


def _rates(model: nn.Module, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return model(t, u) if isinstance(model, ScaledField) else model(u)


def draw(trials: dict[str, Trial], path: Path) -> None:
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    for species, (ax, name) in enumerate(zip(axes, SPECIES, strict=False)):
        for label, trial in trials.items():
            if not trial.failure:
                with torch.no_grad():
                    ax.semilogx(TIMES, trial.solution().u[:, species], label=label)
        ax.semilogx(TIMES, next(iter(trials.values())).seen[:, species], "k.", ms=4, label="truth")
        ax.set(xlabel="t [s]", ylabel=name)
    axes[0].legend()
    for label, trial in trials.items():
        if not trial.failure:
            axes[3].semilogy(np.minimum.accumulate(trial.errors), label=label)
    axes[3].set(xlabel="evaluations of the gradient", ylabel="lowest mean error")
    axes[3].legend()
    figure.savefig(path, dpi=80)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few steps, to see that it works.")] = False,
    steps: Annotated[int, typer.Option(help="Of Adam, for the first two networks.", min=0)] = 300,
    refinements: Annotated[int, typer.Option(help="Evaluations of the least squares.", min=0)] = 400,
    minutes: Annotated[float, typer.Option(help="For each network at most.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
    engine: Annotated[str, typer.Option(help="julia: no other engine has stiff solvers.")] = "julia",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("stiff_neural_ode.png"),
) -> None:
    """Train the three networks, then try solvers and adjoints on the best."""
    torch.set_num_threads(1)
    steps, refinements = (min(steps, 10), min(refinements, 10)) if quick else (steps, refinements)
    seen = observations()
    console = Console()
    trials = {}
    columns = ("evaluations", "first error", "best", "seconds")
    table = Table("network", *(Column(x, justify="right") for x in columns), "outcome")
    for name, make in models(seen).items():
        torch.manual_seed(seed)
        trial = trials[name] = Trial(make(), seen, engine)
        with console.status(f"training: {name}"):
            train(trial, 0 if name == KINETICS else steps, refinements, 60 * minutes)
        errors = (f"{trial.errors[0]:.2g}", f"{trial.best:.2g}") if trial.errors else ("–", "–")
        table.add_row(name, str(len(trial.errors)), *errors, f"{trial.seconds:.0f}", trial.failure)
    console.print(table)
    draw(trials, output)
    print(f"Saved {output}")
    console.print(try_methods(min(trials.values(), key=lambda trial: trial.best), quick))


if __name__ == "__main__":
    typer.run(main)
