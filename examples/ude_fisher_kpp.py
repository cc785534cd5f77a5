"""A universal partial differential equation: growth law and diffusion stencil learned from a travelling front.

Rackauckas et al., "Universal Differential Equations for Scientific Machine Learning" (2020, arXiv:2001.04385), the
Fisher-KPP example: ``∂u/∂t = r u (1 - u) + D ∂²u/∂x²`` on a ring with r = 1, D = 0.01, grid step 0.04, until t = 5, seen at
11 times. The learned model is ``du/dt = net(u) + D0 (w1 u[i-1] + w2 u[i] + w3 u[i+1])``, the same small network at every
point; the loss also asks for ``w1 + w2 + w3 = 0``, without which a part of the growth could hide in the stencil. The paper's
start (w = 1.1, -2.5, 1; D0 = 6.5) and network (hidden layers of 10, 20 and 10); its penalty is on the absolute value of the
sum, here on the square, which L-BFGS can follow.

Run: python examples/ude_fisher_kpp.py [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from torch import nn

import pysciode as ps
from pysciode.fitting import Training, train
from pysciode.nn import NeuralODE

GROWTH, DIFFUSION, STEP = 1.0, 0.01, 0.04
X = torch.linspace(0.0, 1.0, 26, dtype=torch.float64)
TIMES = torch.linspace(0.0, 5.0, 11, dtype=torch.float64)
START = (torch.tanh((X - 0.4) / 0.02) - torch.tanh((X - 0.6) / 0.02)) / 2
TRUE_STENCIL = DIFFUSION / STEP**2 * np.array([1.0, -2.0, 1.0])
PENALTY = 100.0
OPTIONS = {"rtol": 1e-5, "atol": 1e-6}


def fisher_kpp(u, p, t):
    """The truth, with second differences on a ring."""
    return GROWTH * u * (1 - u) + DIFFUSION / STEP**2 * (torch.roll(u, 1) - 2 * u + torch.roll(u, -1))


def observations() -> torch.Tensor:
    """Shape ``(times, points)``; without noise, as in the paper."""
    return ps.solve(ps.ODEProblem(fisher_kpp, START, (0.0, 5.0)), saveat=TIMES, rtol=1e-10, atol=1e-12).u


class UniversalPDE(nn.Module):
    """Growth by a network, the same at every point, and diffusion by three weights and a factor."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 10, 20, 10)
        layers = [x for a, b in zip(widths, widths[1:], strict=False) for x in (nn.Linear(a, b), nn.Tanh())]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], 1)).double()
        self.weights = nn.Parameter(torch.tensor([1.1, -2.5, 1.0], dtype=torch.float64))
        self.factor = nn.Parameter(torch.tensor(6.5, dtype=torch.float64))

    def growth(self, u: torch.Tensor) -> torch.Tensor:
        return self.net(u.unsqueeze(-1)).squeeze(-1)

    def stencil(self) -> torch.Tensor:
        """What multiplies the left neighbour, the point and the right one; only this product can be identified."""
        return self.factor * self.weights

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        left, middle, right = self.stencil().unbind()
        return self.growth(u) + left * torch.roll(u, 1) + middle * u + right * torch.roll(u, -1)


def objective(block: NeuralODE, seen: torch.Tensor) -> torch.Tensor:
    return (block(START) - seen).square().sum() + PENALTY * block.dynamics.weights.sum().square()


@dataclass
class Fit:
    """The trained block, its losses, and its stencil before each step."""

    block: NeuralODE
    stencils: list[np.ndarray] = field(default_factory=list)
    runs: list[Training] = field(default_factory=list)

    @property
    def losses(self) -> np.ndarray:
        return np.concatenate([x.history["loss"] for x in self.runs])

    @property
    def seconds(self) -> float:
        return sum(x.seconds for x in self.runs)


def fit(seen: torch.Tensor, adam: int, lbfgs: int, engine: str, progress: bool = True) -> Fit:
    """`adam` steps of Adam, then `lbfgs` steps of L-BFGS, each of up to 20 iterations."""
    block = NeuralODE(UniversalPDE(), TIMES, returns="trajectory", engine=engine, **OPTIONS)
    found = Fit(block)

    def loss(block: NeuralODE, seen: torch.Tensor) -> torch.Tensor:
        return objective(block, seen)

    def run(optimizer: torch.optim.Optimizer, steps: int) -> None:
        optimizer.register_step_post_hook(lambda *_: found.stencils.append(block.dynamics.stencil().detach().numpy()))
        found.runs.append(train(block, loss, seen, optimizer, steps=steps, progress=progress))

    run(torch.optim.Adam(block.parameters(), lr=5e-3), adam)
    run(torch.optim.LBFGS(block.parameters(), max_iter=20, history_size=50, line_search_fn="strong_wolfe"), lbfgs)
    return found


@torch.no_grad()
def growth_curve(model: UniversalPDE) -> tuple[np.ndarray, np.ndarray]:
    u = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    return u.numpy(), model.growth(u).numpy()


def growth_law(model: UniversalPDE, degree: int = 2) -> np.ndarray:
    """Coefficients, lowest first, of the polynomial nearest to the learned growth on [0, 1]."""
    return np.polynomial.Polynomial.fit(*growth_curve(model), degree).convert().coef


def seconds_per_step(solve: Callable[[UniversalPDE], torch.Tensor], seen: torch.Tensor, steps: int) -> float:
    """Of Adam, from the start of training; the median after a first step that isn't counted."""
    torch.manual_seed(0)
    model = UniversalPDE()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    taken = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = (solve(model) - seen).square().sum() + PENALTY * model.weights.sum().square()
        loss.backward()
        optimizer.step()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:]))


def contestants(engine: str) -> dict[str, Callable[[UniversalPDE], torch.Tensor]]:
    """The same module, times and tolerances."""
    from torchdiffeq import odeint, odeint_adjoint

    def ours(model: UniversalPDE) -> torch.Tensor:
        problem = ps.ODEProblem(model, START, (0.0, 5.0))
        return ps.solve(problem, ps.Tsit5(), saveat=TIMES, engine=engine, **OPTIONS).u

    return {
        "pysciode": ours,
        "torchdiffeq odeint": lambda model: odeint(model, START, TIMES, method="dopri5", **OPTIONS),
        "torchdiffeq odeint_adjoint": lambda model: odeint_adjoint(model, START, TIMES, method="dopri5", **OPTIONS),
    }


def draw(found: Fit, seen: torch.Tensor, path: Path) -> None:
    with torch.no_grad():
        learned = found.block(START)
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.subplots(2, 3)
    for ax, values, title in zip(axes[0], (seen, learned, (learned - seen).abs()), ("truth", "learned", "|error|"), strict=True):
        image = ax.pcolormesh(X, TIMES, values, shading="nearest")
        ax.set(title=title, xlabel="x", ylabel="t")
        figure.colorbar(image, ax=ax)
    u, growth = growth_curve(found.block.dynamics)
    axes[1, 0].plot(u, GROWTH * u * (1 - u), "k--", label="r u (1 - u)")
    axes[1, 0].plot(u, growth, label="network")
    axes[1, 0].set(xlabel="u", title="growth")
    axes[1, 0].legend()
    for values, true, name in zip(np.array(found.stencils).T, TRUE_STENCIL, ("left", "middle", "right"), strict=True):
        (line,) = axes[1, 1].plot(values, label=name)
        axes[1, 1].axhline(true, color=line.get_color(), ls=":", lw=1)
    axes[1, 1].plot(np.sum(found.stencils, axis=1), "k", lw=1, label="sum")
    axes[1, 1].set(xlabel="step", title="stencil (dotted: D/dx² times 1, -2, 1)")
    axes[1, 1].legend(loc="center")
    axes[1, 2].semilogy(found.losses)
    axes[1, 2].axvline(found.runs[0].steps, color="0.7", ls=":")
    axes[1, 2].set(xlabel="step", title="loss: Adam, then L-BFGS")
    figure.savefig(path, dpi=80)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few steps, to see that it works.")] = False,
    adam: Annotated[int, typer.Option(help="Steps of Adam.", min=1)] = 400,
    lbfgs: Annotated[int, typer.Option(help="Steps of L-BFGS, each of up to 20 iterations.", min=1)] = 30,
    seed: Annotated[int, typer.Option(help="Of the network's weights.")] = 0,
    engine: Annotated[str, typer.Option(help="auto, julia or embedded.")] = "auto",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("ude_fisher_kpp.png"),
) -> None:
    """Learn growth and stencil, print both beside the truth, and time a step beside torchdiffeq."""
    adam, lbfgs = (min(adam, 50), min(lbfgs, 5)) if quick else (adam, lbfgs)
    torch.manual_seed(seed)
    seen = observations()
    found = fit(seen, adam, lbfgs, engine)
    model = found.block.dynamics
    console = Console()

    recovered = Table("quantity", *(Column(x, justify="right") for x in ("true", "learned", "error")))
    learned = model.stencil().detach().numpy()
    for name, true, value in zip(("left", "middle", "right"), TRUE_STENCIL, learned, strict=True):
        recovered.add_row(f"stencil, {name}", f"{true:.3f}", f"{value:.3f}", f"{abs(value / true - 1):.2%}")
    recovered.add_row("stencil, sum", "0", f"{learned.sum():.4f}", "–")
    for power, (true, value) in enumerate(zip((0.0, GROWTH, -GROWTH), growth_law(model), strict=True)):
        recovered.add_row(f"growth, u^{power}", f"{true:g}", f"{value:.4f}", f"{abs(value - true):.4f}")
    u, growth = growth_curve(model)
    largest = abs(growth - GROWTH * u * (1 - u)).max()
    recovered.add_row("growth, largest error on [0, 1]", "–", "–", f"{largest:.4f}")
    console.print(recovered)
    print(f"trained in {found.seconds:.1f} s ({found.block.engine}): {adam} steps of Adam, {lbfgs} of L-BFGS;", end=" ")
    print(f"loss {found.losses[0]:.2g} -> {found.losses[-1]:.2g}")

    times = Table("step of Adam, same module", Column("ms", justify="right"), Column("times ours", justify="right"))
    taken = {name: seconds_per_step(solve, seen, 3 if quick else 10) for name, solve in contestants(engine).items()}
    for name, seconds in taken.items():
        times.add_row(name, f"{seconds * 1e3:.1f}", f"{seconds / taken['pysciode']:.1f}")
    console.print(times)
    draw(found, seen, output)
    print(f"Saved {output}")


if __name__ == "__main__":
    typer.run(main)
