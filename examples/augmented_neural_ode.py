"""What a neural ODE can't learn, and one in more dimensions can: losses and evaluations of both.

Dupont, Doucet, Teh, "Augmented Neural ODEs" (NeurIPS 2019, arXiv:1904.01681): the two functions of its propositions 1
and 2, and its comparison of losses and of numbers of evaluations over training.

- Crossing: -1 goes to 1 and 1 to -1. Paths on a line can't cross, so the mean squared error stays above 1.
- Spheres: a ball is told from the shell around it, by a linear layer behind the ODE. In the plane the flow can't take
  the ball out of the shell, only through the gaps between the samples, which needs more and more evaluations.

Run: python examples/augmented_neural_ode.py [--quick]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from torch import nn

from pysciode.fitting import Training, train
from pysciode.nn import AugmentedNeuralODE, NeuralODE

SPHERES_AUGMENTED_BY = 5


@dataclass
class Fit:
    """A trained model and how its training went."""

    problem: str
    name: str
    block: NeuralODE | AugmentedNeuralODE
    training: Training


def network(width: int, hidden: int = 32) -> nn.Module:
    layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)]
    return nn.Sequential(*layers)


def crossing() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.tensor([[-1.0], [1.0]])
    return x, -x


def spheres(count: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """A third of the points within radius 1/2, labelled -1, the others between 1 and 3/2, labelled 1."""
    direction = torch.nn.functional.normalize(torch.randn(count, 2))
    inner = torch.arange(count) < count // 3
    area = torch.rand(count)
    radius = torch.where(inner, 0.25 * area, 1.0 + 1.25 * area).sqrt()
    return direction * radius[:, None], torch.where(inner, -1.0, 1.0)[:, None]


def crossing_models(options: dict) -> dict[str, Callable[[], tuple[nn.Module, nn.Module]]]:
    """By name, what makes an ODE block and the model around it: here the block alone."""

    def plain() -> tuple[nn.Module, nn.Module]:
        block = NeuralODE(network(1), **options)
        return block, block

    def augmented(**lift) -> tuple[nn.Module, nn.Module]:
        block = AugmentedNeuralODE(network(2), 1, project="drop", **lift, **options)
        return block, block

    return {"plain": plain, "augmented by 1": augmented, "learned lift by 1": lambda: augmented(lift=nn.Linear(1, 1))}


def spheres_models(options: dict) -> dict[str, Callable[[], tuple[nn.Module, nn.Module]]]:
    """The same with a linear layer behind the block."""
    more = SPHERES_AUGMENTED_BY

    def with_layer(block: nn.Module, width: int) -> tuple[nn.Module, nn.Module]:
        return block, nn.Sequential(block, nn.Linear(width, 1))

    return {
        "plain": lambda: with_layer(NeuralODE(network(2), **options), 2),
        f"augmented by {more}": lambda: with_layer(AugmentedNeuralODE(network(2 + more), more, **options), 2 + more),
        f"learned lift by {more}": lambda: with_layer(
            AugmentedNeuralODE(network(2 + more), more, lift=nn.Linear(2, more), **options), 2 + more
        ),
    }


def fit(problem: str, data: tuple[torch.Tensor, torch.Tensor], models: dict, steps: int, rate: float, seed: int) -> list[Fit]:
    fits = []
    for name, make in models.items():
        torch.manual_seed(seed)
        block, model = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        result = train(model, lambda model, xy: (model(xy[0]) - xy[1]).square().mean(), data, optimizer, steps=steps)
        fits.append(Fit(problem, name, block, result))
    return fits


def draw_curves(fits: list[Fit], losses: Axes, evaluations: Axes) -> None:
    for x in fits:
        history = x.training.history
        losses.plot(history["step"], history["loss"], lw=1, label=x.name)
        evaluations.plot(history["step"], history["nfe_forward"], lw=1, label=x.name)
    losses.set(ylabel=f"{fits[0].problem}: loss", xlabel="step", yscale="log")
    evaluations.set(ylabel="evaluations forward", xlabel="step")
    losses.legend()


@torch.no_grad()
def draw_paths(fits: list[Fit], ax: Axes) -> None:
    """The two points' ways to their goals."""
    times = torch.linspace(0, 1, 50)
    for x, style in zip(fits, ("C0-", "C1-", "C2-"), strict=True):
        block = x.block if isinstance(x.block, NeuralODE) else x.block.block
        block.returns = "trajectory"
        paths = x.block(crossing()[0], times)
        for path in paths[..., 0].T:
            ax.plot(times, path, style)
    ax.set(xlabel="t", ylabel="u", title="paths")


@torch.no_grad()
def draw_features(block: NeuralODE, data: tuple[torch.Tensor, torch.Tensor], ax: Axes) -> None:
    ax.scatter(*block(data[0]).T, c=data[1][:, 0], s=4, cmap="coolwarm")
    ax.set(title="plain: ball and shell at t = 1", aspect="equal")


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few steps, to see that it works.")] = False,
    steps: Annotated[int, typer.Option(help="Training steps of each model.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Of weights and data.")] = 0,
    engine: Annotated[str, typer.Option(help="auto, julia or embedded.")] = "auto",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("augmented_neural_ode.png"),
) -> None:
    """Train plain and augmented neural ODEs, draw losses and evaluations, and print a table."""
    steps = min(steps, 100) if quick else steps
    options = {"rtol": 1e-3, "atol": 1e-3, "engine": engine}
    torch.manual_seed(seed)
    balls = spheres()
    crossed = fit("crossing", crossing(), crossing_models(options), steps // 2, 1e-2, seed)
    separated = fit("spheres", balls, spheres_models(options), steps, 2e-3, seed)

    table = Table(
        "problem",
        "model",
        *(Column(x, justify="right") for x in ("loss", "nfe forward", "backward", "seconds")),
        "engine",
    )
    for x in (*crossed, *separated):
        last = x.training.history.iloc[-1]
        nfe = (f"{last['nfe_forward']:.0f}", f"{last['nfe_backward']:.0f}")
        table.add_row(x.problem, x.name, f"{last['loss']:.1e}", *nfe, f"{x.training.seconds:.1f}", x.block.engine)
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots(2, 3)
    draw_curves(crossed, *axes[0, :2])
    draw_curves(separated, *axes[1, :2])
    axes[0, 0].axhline(1.0, color="0.6", ls=":", zorder=0)
    draw_paths(crossed, axes[0, 2])
    draw_features(separated[0].block, balls, axes[1, 2])
    figure.savefig(output, dpi=130)
    Console().print(table)
    print(f"Saved {output}")


if __name__ == "__main__":
    typer.run(main)
