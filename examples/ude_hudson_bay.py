"""A universal differential equation for lynx and hares: births and deaths known, their interaction learnt.

After the supplement of Rackauckas et al. 2020 (arXiv:2001.04385): the Hudson Bay pelts of 1900 to 1920, normalised; linear birth
of hares and death of lynx with positive rates, and in the place of the interaction a small network of radial basis functions;
multiple shooting first, then BFGS through one solve of all years. As pelts can't be negative and their noise is a factor (Carpenter
2018), the network says here how much the interaction adds to each species' rate of growth,

    x' = x (a + U1(x, y)),    y' = y (-b + U2(x, y)),

which is solved for the logarithms of the populations; the classic model has U1 = -beta y and U2 = delta x. It is fitted in the
same way, for comparison. Each is fitted to all years, and to those before 1916 to predict the rest.

A constant can move between a and U1, and between b and U2: only their sums are determined, and only near the one orbit that the
populations went along. So the interaction is held against x y with the linear term free: the regression of x U1 + a x on x and x y
gives alpha and beta, and its R² says how well the classic form describes what was learnt. Sparse regression of the derivatives
(:func:`pysciode.discovery.discover`) finds the classic equations among polynomials of degree 2.

The universal model fits closer than the classic one and predicts no better: 21 years don't determine a network.

Run: python examples/ude_hudson_bay.py [--quick]
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from torch import nn

import pysciode as ps
from pysciode.discovery import discover
from pysciode.fitting import train
from pysciode.fitting.lotka_volterra import load_pelts
from pysciode.fitting.multiple_shooting import MultipleShooting

SEEN = 16
"""Years before the held-out ones: 1900 to 1915."""
PUBLISHED = {"alpha": 0.55, "beta": 0.028, "gamma": 0.80, "delta": 0.024}
"""Posterior means of Carpenter (2018), for pelts in thousands."""
SPECIES = ("hare", "lynx")


class Classic(nn.Module):
    """Lotka and Volterra's equations for the logarithms of the populations."""

    def __init__(self) -> None:
        super().__init__()
        self.log_rates = nn.Parameter(torch.log(torch.tensor([0.5, 1.0, 0.8, 1.0], dtype=torch.float64)))

    def forward(self, logs: torch.Tensor) -> torch.Tensor:
        alpha, beta, gamma, delta = self.log_rates.exp()
        x, y = logs.exp()
        return torch.stack([alpha - beta * y, delta * x - gamma])

    def penalty(self) -> torch.Tensor:
        return torch.zeros((), dtype=torch.float64)


class RadialBasis(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(x**2))


class Universal(nn.Module):
    """Birth and death, and a network of the paper's size for the interaction."""

    def __init__(self) -> None:
        super().__init__()
        self.log_rates = nn.Parameter(torch.log(torch.tensor([0.5, 0.8], dtype=torch.float64)))
        layers = [nn.Linear(2, 5), RadialBasis(), nn.Linear(5, 5), RadialBasis(), nn.Linear(5, 5), nn.Tanh()]
        self.interaction = nn.Sequential(*layers, nn.Linear(5, 2)).double()

    def forward(self, logs: torch.Tensor) -> torch.Tensor:
        birth, death = self.log_rates.exp()
        return torch.stack([birth, -death]) + self.interaction(logs.exp())

    def penalty(self) -> torch.Tensor:
        """The paper's: a thousandth of the mean square of the weights."""
        weights = torch.cat([x.reshape(-1) for x in self.interaction.parameters()])
        return 1e-3 * weights.square().mean()


class Population(nn.Module):
    """Rates of growth and the state that they start from, trained together."""

    def __init__(self, growth: nn.Module, start: torch.Tensor, options: dict) -> None:
        super().__init__()
        self.growth = growth
        self.start = nn.Parameter(start.clone())
        self.options = options

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        """Logarithms of the populations at `times`, the first of which is that of the start."""
        problem = ps.ODEProblem(self.growth, self.start, (times[0].item(), times[-1].item()))
        return ps.solve(problem, saveat=times, **self.options).u


@dataclass
class Fit:
    """A model fitted to the first `seen` years.

    Attributes
    ----------
    fitted, predicted
        Root mean square errors of the logarithms in the years seen, and in the others (NaN if there are none).
    """

    name: str
    population: Population
    seen: int
    fitted: float
    predicted: float
    seconds: float


def fit(name: str, growth: nn.Module, t: torch.Tensor, logs: torch.Tensor, seen: int, steps: int, options: dict) -> Fit:
    began = time.perf_counter()
    times, observed = t[:seen], logs[:seen]
    problem = ps.ODEProblem(growth, observed[0], (0.0, 1.0))
    shooting = MultipleShooting(problem, times, observed, 5, continuity=1.0, free_states=True, **options)
    optimizer = torch.optim.Adam(shooting.parameters(), lr=0.03)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    train(
        shooting,
        lambda shooting, _: shooting() / observed.numel() + growth.penalty(),
        None,
        optimizer,
        steps=steps,
        scheduler=scheduler,
        clip_norm=10.0,
        progress=False,
    )
    population = Population(growth, shooting.states.detach()[0], options)
    optimizer = torch.optim.LBFGS(
        population.parameters(), max_iter=steps, max_eval=2 * steps, history_size=50, line_search_fn="strong_wolfe"
    )
    train(
        population,
        lambda population, batch: (population(batch[0]) - batch[1]).square().mean() + growth.penalty(),
        (times, observed),
        optimizer,
        steps=1,
        progress=False,
    )
    with torch.no_grad():
        errors = (population(t) - logs).square()
    predicted = errors[seen:].mean().sqrt().item()
    return Fit(name, population, seen, errors[:seen].mean().sqrt().item(), predicted, time.perf_counter() - began)


@dataclass
class Regression:
    """``x' = first · x + second · x y`` in thousands of pelts, from the learnt rates of growth along the orbit."""

    first: float
    second: float
    r2: float


def regressions(found: Fit, t: torch.Tensor, scale: np.ndarray) -> list[Regression]:
    """For each species, of its learnt derivative on itself and on the product of both."""
    populations, derivatives = learnt(found, t)
    product = populations.prod(1)
    out = []
    for i in range(2):
        terms = np.stack([populations[:, i], product], 1)
        coefficients = np.linalg.lstsq(terms, derivatives[:, i], rcond=None)[0]
        interaction = derivatives[:, i] - coefficients[0] * populations[:, i]
        residual = interaction - coefficients[1] * product
        r2 = 1.0 - residual.var() / interaction.var()
        out.append(Regression(coefficients[0], coefficients[1] / scale[1 - i], r2))
    return out


def learnt(found: Fit, t: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Normalised populations on a fine grid of the years, and their derivatives by the model."""
    grid = torch.linspace(t[0].item(), t[-1].item(), 401, dtype=torch.float64)
    with torch.no_grad():
        populations = found.population(grid).exp().numpy()
    return populations, derivatives_of(found, populations)


@torch.no_grad()
def derivatives_of(found: Fit, populations: np.ndarray) -> np.ndarray:
    rates = torch.stack([found.population.growth(x) for x in torch.tensor(populations).log()])
    return populations * rates.numpy()


def equations(best: Fit, others: list[Fit], t: torch.Tensor, scale: np.ndarray) -> str:
    """What sparse regression makes of the learnt derivatives, in thousands of pelts.

    Networks from other random weights, which fit the data as well, tell how far the derivatives are determined.
    """
    populations, derivatives = learnt(best, t)
    spread = np.std([derivatives_of(x, populations) for x in others], 0)
    resolution = float(np.sqrt((spread**2).mean() / (derivatives**2).mean()))
    samples, slopes = populations * scale, derivatives * scale
    found = discover(samples, slopes, symbols="x y", library=2, resolution=max(resolution, 0.01))
    return f"{found}\n(derivatives of {len(others)} networks differ by {resolution:.0%})"


def draw(fits: list[Fit], t: torch.Tensor, pelts: np.ndarray, scale: np.ndarray) -> Figure:
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2, width_ratios=(2, 1))
    years = 1900 + t.numpy()
    for row, seen in zip(axes, (len(t), SEEN), strict=True):
        for name, style in (("classic", "--"), ("universal", "-")):
            chosen = [x for x in fits if x.name == name and x.seen == seen]
            _draw_populations(sorted(chosen, key=lambda x: x.fitted)[0], row[0], style, t, scale)
        for i in range(2):
            row[0].plot(years, pelts[:, i], "o", color=f"C{i}", ms=4)
        row[0].set(ylabel="pelts in thousands", ylim=(0, 1.3 * pelts.max()), xticks=years[::5])
        row[0].legend(fontsize=8, ncols=2)
    axes[0, 0].set_title("fitted to all years")
    axes[1, 0].set_title(f"fitted before {1900 + SEEN}, predicted beyond")
    axes[1, 0].axvspan(1900 + SEEN - 0.5, years[-1], color="0.92", zorder=0)
    best = min((x for x in fits if x.name == "universal" and x.seen == len(t)), key=lambda x: x.fitted)
    populations, derivatives = learnt(best, t)
    for i, (axis, found) in enumerate(zip(axes[:, 1], regressions(best, t, scale), strict=True)):
        product = (populations * scale).prod(1)
        interaction = scale[i] * (derivatives[:, i] - found.first * populations[:, i])
        axis.plot(product, interaction, color=f"C{i}", label="learnt")
        axis.plot(product, found.second * product, "k:", label=f"{found.second:.3f} x y, R² = {found.r2:.2f}")
        axis.set(xlabel="x y", ylabel=f"interaction of {SPECIES[i]}")
        axis.legend(fontsize=8)
    return figure


def _draw_populations(found: Fit, axis: Axes, style: str, t: torch.Tensor, scale: np.ndarray) -> None:
    grid = torch.linspace(t[0].item(), t[-1].item(), 401, dtype=torch.float64)
    with torch.no_grad():
        curve = found.population(grid).exp().numpy() * scale
    for i, species in enumerate(SPECIES):
        axis.plot(1900 + grid, curve[:, i], style, color=f"C{i}", lw=1.2, label=f"{species}, {found.name}")


def table(fits: list[Fit], engine: str) -> Table:
    """A row for each model and choice of years: medians over the networks, and their ranges."""
    columns = ("fitted to", "fits", "RMSE of logs", "of years held out", "seconds")
    out = Table("model", *(Column(x, justify="right") for x in columns), Column("engine", no_wrap=True))
    for seen in dict.fromkeys(x.seen for x in fits):
        for name in dict.fromkeys(x.name for x in fits):
            ours = [x for x in fits if x.seen == seen and x.name == name]
            held_out = "–" if np.isnan(ours[0].predicted) else _spread([x.predicted for x in ours])
            row = (f"1900–{1899 + seen}", str(len(ours)), _spread([x.fitted for x in ours]), held_out)
            out.add_row(name, *row, f"{np.median([x.seconds for x in ours]):.1f}", engine)
    return out


def _spread(values: list[float]) -> str:
    median = f"{np.median(values):.3f}"
    return median if len(values) == 1 else f"{median}\n{min(values):.3f}–{max(values):.3f}"


def interactions(best: Fit, t: torch.Tensor, scale: np.ndarray) -> Table:
    """Coefficients beside the published ones."""
    out = Table("species", *(Column(x, justify="right") for x in ("linear (published)", "x y (published)", "R²")))
    signs = {"hare": ("alpha", 1, "beta", -1), "lynx": ("gamma", -1, "delta", 1)}
    for species, found in zip(SPECIES, regressions(best, t, scale), strict=True):
        linear, sign, product, other = signs[species]
        published = f"({sign * PUBLISHED[linear]:+.2f})", f"({other * PUBLISHED[product]:+.3f})"
        cells = f"{found.first:+.3f} {published[0]}", f"{found.second:+.4f} {published[1]}", f"{found.r2:.3f}"
        out.add_row(species, *cells)
    return out


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One network and few steps, to see that it works.")] = False,
    seeds: Annotated[int, typer.Option(help="Networks.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Of Adam by multiple shooting, then of L-BFGS on all years.", min=1)] = 400,
    engine: Annotated[str, typer.Option(help="auto, julia or embedded.")] = "auto",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("ude_hudson_bay.png"),
) -> None:
    """Fit both models to the pelts, print errors and the learnt interaction, and draw them."""
    torch.set_num_threads(1)
    if quick:
        seeds, steps = 1, min(steps, 5)
    table_of_pelts = load_pelts()
    pelts = table_of_pelts[list(SPECIES)].to_numpy(float)
    scale = pelts.max(0)
    t = torch.tensor((table_of_pelts["year"] - 1900).to_numpy(float))
    logs = torch.tensor(np.log(pelts / scale))
    options = {"algorithm": ps.Tsit5(), "rtol": 1e-6, "atol": 1e-6, "engine": engine}
    for growth in (Classic(), Universal()):  # compiled ahead, so that no fit's time includes it
        fit("", growth, t, logs, SEEN, 1, options)
    fits = []
    for seen in (len(t), SEEN):
        fits.append(fit("classic", Classic(), t, logs, seen, steps, options))
        for seed in range(seeds):
            torch.manual_seed(seed)
            fits.append(fit("universal", Universal(), t, logs, seen, steps, options))
    console = Console()
    console.print(table(fits, ps.get_engine(engine).name))
    best = min((x for x in fits if x.name == "universal" and x.seen == len(t)), key=lambda x: x.fitted)
    console.print(interactions(best, t, scale))
    try:
        print(equations(best, [x for x in fits if x.name == "universal" and x.seen == len(t)], t, scale))
    except ImportError as error:
        print(f"No sparse regression: {error}")
    draw(fits, t, pelts, scale).savefig(output, dpi=120)
    print(f"Saved {output}")


if __name__ == "__main__":
    typer.run(main)
