"""A universal differential equation finds the interaction of Lotka-Volterra, as an equation.

Rackauckas et al., "Universal Differential Equations for Scientific Machine Learning" (2020, arXiv:2001.04385), its
first scenario: growth of the prey and death of the predator are known, a small network stands in for both
interactions, and is trained through the solver on 31 noisy samples of t from 0 to 3. From the trained network sparse
regression proposes terms, the data choose among them, and the coefficients are fitted through the solver. The
equation then goes on far beyond the data, which neither the network in it nor a network for all of the dynamics can
do.

Run: python examples/ude_lotka_volterra.py [--quick]
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pysindy
import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

import pysciode as ps
from pysciode.discovery import DiscoveredEquations, Physics, discover, select
from pysciode.nn import NeuralODE

# The paper's values: growth, both interactions, death; initial state; standard deviation of the noise over the mean.
ALPHA, BETA, GAMMA, DELTA = 1.3, 0.9, 0.8, 1.8
U0 = np.array([0.44249296, 4.6280594])
TIMES = np.linspace(0.0, 3.0, 31)
NOISE = 5e-3
LIBRARY = pysindy.ConcatLibrary([pysindy.PolynomialLibrary(degree=5), pysindy.FourierLibrary(n_frequencies=1, include_cos=False)])
TOLERANCE = 1e-6
HORIZONS = (20.0, 50.0)


def lotka_volterra(u, p, t):
    x, y = u
    return [ALPHA * x - BETA * x * y, GAMMA * x * y - DELTA * y]


def truth(times: np.ndarray) -> np.ndarray:
    problem = ps.ODEProblem(lotka_volterra, U0, (0.0, float(times[-1])))
    return np.asarray(ps.solve(problem, ps.Tsit5(), saveat=times, rtol=1e-11, atol=1e-11).u)


def noisy_data(seed: int) -> np.ndarray:
    clean = truth(TIMES)
    return clean + NOISE * clean.mean(0) * np.random.default_rng(seed).standard_normal(clean.shape)


class RBF(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(x**2))


def network(width: int = 5) -> nn.Sequential:
    widths = (2, width, width, width)
    layers = [x for a, b in zip(widths, widths[1:], strict=False) for x in (nn.Linear(a, b), RBF())]
    return nn.Sequential(*layers, nn.Linear(width, 2)).double()


class Universal(nn.Module):
    """What is known of the dynamics, and a network for the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = torch.tensor([ALPHA, -DELTA], dtype=torch.float64)
        self.unknown = network()

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return self.rates * u + self.unknown(u)


class Black(nn.Module):
    """A plain neural ODE: a network for all of the dynamics."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(8)

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return self.net(u)


@dataclass
class Trained:
    """Dynamics after training, with the seconds of each gradient and of it all."""

    dynamics: nn.Module
    loss: float
    gradients: list[float]
    seconds: float

    def solve(self, times: np.ndarray) -> np.ndarray:
        """States at `times`; NaN after the solver gave up."""
        problem = ps.ODEProblem(self.dynamics, torch.from_numpy(U0), (0.0, float(times[-1])))
        with torch.no_grad():
            found = ps.solve(problem, ps.Tsit5(), saveat=times, rtol=TOLERANCE, atol=TOLERANCE, throw=False)
        out = np.full((len(times), 2), np.nan)
        out[: len(found.u)] = found.u.numpy()
        return out


def paths(dynamics: nn.Module, solver: str):
    """The solve that is trained through, by name of the package."""
    if solver == "torchdiffeq":
        from torchdiffeq import odeint

        times = torch.from_numpy(TIMES)
        return lambda u0: odeint(dynamics, u0, times, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")
    return NeuralODE(dynamics, TIMES, returns="trajectory", rtol=TOLERANCE, atol=TOLERANCE)


def train(dynamics: nn.Module, data: np.ndarray, adam: int, lbfgs: int, solver: str = "pysciode") -> Trained:
    """Sum of squares by Adam, then by L-BFGS, as the paper does with BFGS."""
    observed, path = torch.from_numpy(data), paths(dynamics, solver)
    parameters = list(dynamics.parameters())
    gradients: list[float] = []

    def loss_with_gradient(optimizer: torch.optim.Optimizer) -> torch.Tensor:
        began = time.perf_counter()
        optimizer.zero_grad()
        try:
            loss = (path(observed[0]) - observed).square().sum()
        except (ps.SolveFailed, ps.GradientFailed):
            return torch.tensor(1e9, dtype=torch.float64)  # a step too far: the line search goes back
        loss.backward()
        gradients.append(time.perf_counter() - began)
        return loss

    began = time.perf_counter()
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    for _ in range(adam):
        optimizer.step(lambda: loss_with_gradient(optimizer))
    if lbfgs:
        search = torch.optim.LBFGS(
            parameters, max_iter=lbfgs, max_eval=2 * lbfgs, history_size=50, line_search_fn="strong_wolfe",
            tolerance_grad=1e-9, tolerance_change=1e-12,
        )  # fmt: skip
        search.step(lambda: loss_with_gradient(search))
    seconds = time.perf_counter() - began
    with torch.no_grad():
        loss = (path(observed[0]) - observed).square().sum().item()
    return Trained(dynamics, loss, gradients, seconds)


def trained_many(make: type[nn.Module], data: np.ndarray, restarts: int, adam: int, lbfgs: int, seed: int) -> list[Trained]:
    """From several random weights, best first."""
    out = []
    for i in range(restarts):
        torch.manual_seed(seed + i)
        out.append(train(make(), data, adam, lbfgs))
    return sorted(out, key=lambda x: x.loss)


def recover(networks: list[Trained], data: np.ndarray) -> tuple[DiscoveredEquations, DiscoveredEquations]:
    """Equations by regression on the best network's outputs, and those that the data choose, refitted."""
    best = networks[0]
    states = best.solve(np.linspace(0.0, TIMES[-1], 61))
    with torch.no_grad():
        outputs = best.dynamics.unknown(torch.from_numpy(states)).numpy()
    physics = Physics(["alpha*x + U1", "U2 - delta*y"], "U1 U2", "x y", {"alpha": ALPHA, "delta": DELTA})
    found = discover(states, outputs, symbols="x y", outputs=["U1", "U2"], library=LIBRARY, max_terms=3).inside(physics)
    return found, select(found, (TIMES, data))


def errors(states: np.ndarray, times: np.ndarray) -> list[str]:
    """Root mean square error over that of the true states, from the end of the data to each horizon."""
    right, out = truth(times), []
    for horizon in HORIZONS:
        part = (times > TIMES[-1]) & (times <= horizon)
        error = np.sqrt(np.mean((states[part] - right[part]) ** 2) / np.mean(right[part] ** 2))
        out.append(f"{100 * error:.3g} %" if error < 100 else "diverges")
    return out


def solved(equations: DiscoveredEquations, times: np.ndarray) -> np.ndarray:
    problem = equations.problem(equations.fit.problem.u0, (0.0, float(times[-1])))
    return np.asarray(ps.solve(problem, ps.Tsit5(), saveat=times, rtol=1e-9, atol=1e-9).u)


def draw(data: np.ndarray, best: Trained, black: Trained, equations: DiscoveredEquations, output: Path, times: np.ndarray) -> None:
    """Fit, missing terms, extrapolation."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplot_mosaic([["fit", "terms"], ["far", "far"]])
    fine = np.linspace(0.0, TIMES[-1], 121)
    right, states = truth(fine), best.solve(fine)
    with torch.no_grad():
        outputs = best.dynamics.unknown(torch.from_numpy(states)).numpy()
    interaction = right[:, :1] * right[:, 1:] * [-BETA, GAMMA]
    for j, (name, colour) in enumerate((("prey", "C0"), ("predator", "C1"))):
        axes["fit"].plot(TIMES, data[:, j], ".", color=colour, label=f"{name}, data")
        axes["fit"].plot(fine, states[:, j], color=colour, label=f"{name}, fitted")
        axes["terms"].plot(fine, interaction[:, j], color="0.6", lw=4, label="truth" if j == 0 else None)
        axes["terms"].plot(fine, outputs[:, j], color=colour, label=f"network, {name}")
    far, found = truth(times), solved(equations, times)
    curves = (
        (far, "0.7", 4, "-", "truth"),
        (found, "C2", 1.2, "-", "recovered equation"),
        (best.solve(times), "C3", 1, "--", "trained network"),
        (black.solve(times), "C4", 1, ":", "neural ODE"),
    )
    for states, colour, width, style, label in curves:
        axes["far"].plot(times, states[:, 0], style, color=colour, lw=width, label=label)
    axes["far"].axvspan(0.0, TIMES[-1], color="0.92", zorder=0)
    axes["far"].set(xlabel="t", ylabel="prey", ylim=(-0.5, 1.6 * far[:, 0].max()), title="beyond the data (shaded)")
    axes["fit"].set(xlabel="t", title="fit")
    axes["terms"].set(xlabel="t", title="missing terms")
    for ax in axes.values():
        ax.legend(fontsize=8)
    figure.savefig(output, dpi=110)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One network and a short training.")] = False,
    restarts: Annotated[int, typer.Option(help="Networks trained from different weights.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Of noise and weights.")] = 0,
    peer: Annotated[str, typer.Option(help="torchdiffeq's job: steps, whole or none.")] = "steps",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("ude_lotka_volterra.png"),
) -> None:
    """Train, recover, extrapolate, and print a table."""
    if peer not in ("steps", "whole", "none"):
        raise typer.BadParameter(f"--peer must be steps, whole or none, not {peer}")
    torch.set_num_threads(1)
    adam, lbfgs, restarts = (200, 300, 1) if quick else (200, 1000, restarts)
    data = noisy_data(seed)
    train(Universal(), data, 1, 0)  # starts the engine, so that no training pays for that
    networks = trained_many(Universal, data, restarts, adam, lbfgs, seed)
    black = trained_many(Black, data, restarts, adam, lbfgs, seed)[0]
    began = time.perf_counter()
    regression, equations = recover(networks, data)
    discovery_seconds = time.perf_counter() - began

    times = np.linspace(0.0, HORIZONS[-1], 1001)
    best, console = networks[0], Console()
    columns = (f"error, t from 3 to {h:g}" for h in HORIZONS)
    table = Table("model", "loss", *columns, "seconds", "engine", title="Extrapolation")
    engine = ps.get_engine().name
    rows = (
        ("recovered equation", None, solved(equations, times), discovery_seconds),
        ("universal differential equation", best.loss, best.solve(times), best.seconds),
        ("neural ODE", black.loss, black.solve(times), black.seconds),
    )
    for name, loss, states, seconds in rows:
        table.add_row(name, "" if loss is None else f"{loss:.2e}", *errors(states, times), f"{seconds:.1f}", engine)
    console.print(table)

    coefficients = Table("coefficient", "truth", "network", "data, through the solver", title="Recovered")
    right = {"U1[x*y]": -BETA, "U2[x*y]": GAMMA}
    direct = network_coefficients(regression)
    for name, value in equations.coefficients.items():
        known, before = right.get(name), direct.get(name)
        coefficients.add_row(
            escape(name),
            "0" if known is None else f"{known:g}",
            "" if before is None else f"{before:.4f}",
            f"{value:.4f} ± {equations.standard_errors[name]:.4f}",
        )
    console.print(coefficients)
    print(equations)
    if peer != "none":
        compare(data, adam, lbfgs, best, seed, None if peer == "whole" else 5 if quick else 40, console)
    draw(data, best, black, equations, output, times)
    print(f"Saved {output}")


def network_coefficients(equations: DiscoveredEquations) -> dict[str, float]:
    """Coefficients of the candidates of one term."""
    return {k: v for front in equations.alternatives for c in front if c.count == 1 for k, v in c.coefficients.items()}


def compare(data: np.ndarray, adam: int, lbfgs: int, best: Trained, seed: int, steps: int | None, console: Console) -> None:
    """The same steps of the same optimisers through torchdiffeq: all, or as many as tell the time of a gradient."""
    table = Table("training", "gradients", "ms for one, median", "seconds", title="The same job in torchdiffeq")
    for solver in ("pysciode", "torchdiffeq"):
        torch.manual_seed(seed)
        dynamics = Universal()
        start = {name: x.clone() for name, x in dynamics.state_dict().items()}
        train(dynamics, data, 1, 0, solver=solver)  # compiles
        dynamics.load_state_dict(start)
        run = train(dynamics, data, *((adam, lbfgs) if steps is None else (steps, 0)), solver=solver)
        typical = float(np.median(run.gradients))
        row = [str(len(run.gradients)), f"{1e3 * typical:.2f}", f"{run.seconds:.2f}"]
        if steps is not None:
            row[2] += f"; {len(best.gradients)} take {typical * len(best.gradients):.1f}"
        table.add_row(solver, *row)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
