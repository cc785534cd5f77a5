"""Continuous normalizing flows learn densities in the plane: FFJORD's figure 2.

Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, "FFJORD: Free-form Continuous Dynamics for Scalable Reversible
Generative Models" (ICLR 2019, arXiv:1810.01367): the data, the density that the flow finds, and samples from it.
Kinetic and Jacobian regularisation (Finlay et al. 2020, arXiv:2002.02798) keep the paths straight and the evaluations
few.

Run: python examples/flow_2d.py [--quick] [--data spirals] [--animation flow.gif]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from densities_2d import DENSITIES, ENTROPIES
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from pysciode.fitting import train
from pysciode.nn import ConcatSquashNetwork, ContinuousFlow, Regularization

LIMIT = 4.5


@dataclass
class Result:
    """A trained flow and what is told about it."""

    name: str
    flow: ContinuousFlow
    nll: float
    gaussian_nll: float
    nfe: tuple[int, int]
    seconds: float


def fit(name: str, steps: int, batch: int, hidden: int, seed: int, engine: str) -> Result:
    """Maximum likelihood on new samples at every step."""
    torch.manual_seed(seed)
    flow = ContinuousFlow(
        ConcatSquashNetwork(2, (hidden,) * 3),
        2,
        rtol=1e-4,
        atol=1e-4,
        regularization=Regularization(kinetic=0.01, jacobian=0.01),
        engine=engine,
    )
    optimiser = torch.optim.Adam(flow.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=1e-4)

    def loss(flow: ContinuousFlow, _: None) -> tuple[torch.Tensor, dict[str, float]]:
        nll = -flow.log_prob(DENSITIES[name](batch)).mean()
        return nll + flow.regularization.mean(), {"nll": nll.item()}

    run = train(flow, loss, None, optimiser, steps=steps, scheduler=schedule)
    nfe = (flow.nfe_forward, flow.nfe_backward)
    flow.eval()
    held_out = DENSITIES[name](5000)
    with torch.no_grad():
        found = -flow.log_prob(held_out).mean().item()
    gaussian = torch.distributions.MultivariateNormal(held_out.mean(0), torch.cov(held_out.T))
    return Result(name, flow, found, -gaussian.log_prob(held_out).mean().item(), nfe, run.seconds)


def grid(points: int) -> torch.Tensor:
    axis = torch.linspace(-LIMIT, LIMIT, points)
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)


@torch.no_grad()
def draw(results: list[Result], output: Path, points: int) -> None:
    """Data, density and samples, a row for each flow."""
    figure = Figure(figsize=(7.5, 2.6 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), 3, squeeze=False)
    for row, result in zip(axes, results, strict=True):
        density = result.flow.log_prob(grid(points)).exp()
        row[1].imshow(density.numpy(), origin="lower", extent=(-LIMIT, LIMIT) * 2, cmap="magma")
        for ax, samples in ((row[0], DENSITIES[result.name](4000)), (row[2], result.flow.sample(4000, seed=0))):
            ax.scatter(*samples.T.numpy(), s=1, alpha=0.4, linewidths=0, color="#303060")
        row[0].set_ylabel(result.name)
        for ax, title in zip(row, ("data", "density", "samples"), strict=True):
            ax.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=[], yticks=[], aspect="equal")
            if row is axes[0]:
                ax.set_title(title)
    figure.savefig(output, dpi=110)


@torch.no_grad()
def animate(result: Result, output: Path, frames: int, points: int) -> None:
    """How the density and its samples come from the base's, as a GIF."""
    flow = result.flow
    times = np.linspace(*flow.t_span, frames)
    paths = flow.trajectory(flow.base.sample((1500,)), times)
    where = grid(points)
    densities = [flow.log_prob(where, time=t).exp().numpy() for t in times]
    figure = Figure(figsize=(4, 4), layout="constrained")
    ax = figure.subplots()
    ax.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=[], yticks=[], aspect="equal")
    image = ax.imshow(densities[0], origin="lower", extent=(-LIMIT, LIMIT) * 2, cmap="magma")
    dots = ax.scatter(*paths[0].T.numpy(), s=1.5, alpha=0.6, linewidths=0, color="white")

    def show(i: int) -> None:
        image.set_data(densities[i])
        image.set_clim(0, densities[i].max())
        dots.set_offsets(paths[i].numpy())
        ax.set_title(f"{result.name}, t = {times[i]:.2f}")

    order = [*range(frames), *[frames - 1] * 10]  # the end stays for a second
    FuncAnimation(figure, show, order).save(output, PillowWriter(fps=10))


def table(results: list[Result]) -> Table:
    out = Table(title="Negative log likelihood on 5000 new samples, in nats")
    for name in ("data", "flow", "Gaussian", "lowest", "evaluations", "seconds", "engine"):
        out.add_column(name, justify="left" if name == "data" else "right", no_wrap=True)
    for x in results:
        lowest = f"{ENTROPIES[x.name]:.3f}" if x.name in ENTROPIES else "unknown"
        nfe = f"{x.nfe[0]} + {x.nfe[1]}"
        cells = (f"{x.nll:.3f}", f"{x.gaussian_nll:.3f}", lowest, nfe, f"{x.seconds:.0f}", str(x.flow.engine))
        out.add_row(x.name, *cells)
    return out


def main(
    data: Annotated[str, typer.Option(help=f"all, or one of {', '.join(DENSITIES)}")] = "all",
    steps: Annotated[int, typer.Option(help="Training steps for each density.", min=1)] = 1000,
    batch: Annotated[int, typer.Option(help="Samples in a step.", min=1)] = 512,
    hidden: Annotated[int, typer.Option(help="Width of the three hidden layers.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Of weights, data and samples.")] = 0,
    engine: Annotated[str, typer.Option(help="auto, julia or embedded.")] = "auto",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("flow_2d.png"),
    animation: Annotated[Path | None, typer.Option(help="Where a GIF of the last density goes.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One density and few steps, to see that it works.")] = False,
) -> None:
    """Train a flow on each density, draw them, and print a table."""
    if data != "all" and data not in DENSITIES:
        raise typer.BadParameter(f"--data must be all or one of {', '.join(DENSITIES)}, not {data}")
    names = list(DENSITIES) if data == "all" else [data]
    if quick:
        names, steps, batch, hidden = names[-1:], 40, 128, 32
    results = [fit(name, steps, batch, hidden, seed, engine) for name in names]
    draw(results, output, points=40 if quick else 150)
    if animation is not None:
        animate(results[-1], animation, frames=8 if quick else 40, points=40 if quick else 100)
    Console().print(table(results))
    print(f"Saved {output}" + (f" and {animation}" if animation else ""))


if __name__ == "__main__":
    typer.run(main)
