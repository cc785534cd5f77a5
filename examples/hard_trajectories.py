"""Parameters of an oscillator from a long series: where single shooting ends flat, and three ways around that.

FitzHugh's and Nagumo's equations over six periods, with noise of 5 %, and parameters that start far from the truth, often where
the model does not oscillate at all. From there the loss of one solve over the whole horizon leads to a flat line through the data,
since any oscillation out of phase is worse. Three ways begin with something easier: multiple shooting (Bock, Plitt 1984; Turan,
Jäschke 2022), matching the slopes of smoothed data (collocation: Liang, Wu 2008), and a horizon that grows. All begin from the same
parameters, with Adam; then L-BFGS refines on the whole horizon what each has found. Errors are in standard deviations of the data
(flat: about 1), the amplitude over the second half of the horizon is a part of that of the data (flat: 0).

Of five starts single shooting finds the solution from none, and ends flat from three; each of the other ways finds it from four.

Run: python examples/hard_trajectories.py [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from torch import nn
from tqdm import tqdm

import pysciode as ps
from pysciode.fitting import train
from pysciode.fitting.collocation import collocate, collocation_loss
from pysciode.fitting.growing_horizon import GrowingHorizon
from pysciode.fitting.multiple_shooting import MultipleShooting

FLAT = 0.2
"""An amplitude below this part of the data's counts as flat."""
NOISE = 0.05
FOUND = 2 * NOISE
"""An error below this counts as the right solution."""
TRUTH = (0.2, 0.2, 3.0)


class Oscillator(nn.Module):
    """FitzHugh and Nagumo: ``v' = c (v - v³/3 + w)``, ``w' = -(v - a + b w) / c``; and the state that it starts from."""

    def __init__(self, parameters: tuple[float, float, float], start: torch.Tensor) -> None:
        super().__init__()
        self.constants = nn.Parameter(torch.tensor(parameters, dtype=torch.float64))
        self.start = nn.Parameter(start.clone())

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        a, b, c = self.constants
        v, w = u
        return torch.stack([c * (v - v**3 / 3 + w), -(v - a + b * w) / c])

    @classmethod
    def away_from_the_truth(cls, seed: int, start: torch.Tensor) -> Oscillator:
        generator = np.random.default_rng(seed)
        return cls(tuple(generator.uniform((0.0, 0.0, 1.0), (1.5, 1.5, 5.0))), start)


@dataclass
class Task:
    """Data, and how to solve.

    Attributes
    ----------
    times, observed
        Shapes ``(k,)`` and ``(k, 2)``.
    options
        For ``solve``.
    """

    times: torch.Tensor
    observed: torch.Tensor
    options: dict

    @classmethod
    def draw(cls, horizon: float, points: int, engine: str, noise: float = NOISE) -> Task:
        options = {"algorithm": ps.Tsit5(), "engine": engine}
        times = np.linspace(0.0, horizon, points)
        truth = Oscillator(TRUTH, torch.tensor([-1.0, 1.0], dtype=torch.float64))
        task = cls(torch.tensor(times), torch.empty(0), options | {"rtol": 1e-9, "atol": 1e-9})
        states = task.predict(truth, task.times).detach()
        noise = noise * states.std(0) * torch.tensor(np.random.default_rng(0).standard_normal(states.shape))
        return cls(task.times, states + noise, options | {"rtol": 1e-6, "atol": 1e-6, "maxiters": 3000})

    def problem(self, model: Oscillator) -> ps.ODEProblem:
        return ps.ODEProblem(model, model.start, (0.0, self.times[-1].item()))

    def predict(self, model: Oscillator, times: torch.Tensor) -> torch.Tensor:
        problem = ps.remake(self.problem(model), tspan=(0.0, times[-1].item()))
        return ps.solve(problem, saveat=times, **self.options).u

    def misfit(self, model: Oscillator, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The loss of single shooting, over the times of the batch."""
        times, observed = batch
        return ((self.predict(model, times) - observed) / self.observed.std(0)).square().mean()

    def errors(self, model: Oscillator) -> tuple[float, float]:
        """Root mean square error, and amplitude over the second half as a part of the data's."""
        with torch.no_grad():
            states = self.predict(model, self.times)
        half = len(self.times) // 2
        amplitude = (states[half:].std(0) / self.observed[half:].std(0)).mean().item()
        return ((states - self.observed) / self.observed.std(0)).square().mean().sqrt().item(), amplitude


def adam(model: nn.Module, loss: Callable, data: object, steps: int, **length: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    length = length or {"steps": steps}
    train(model, loss, data, optimizer, scheduler=scheduler, clip_norm=10.0, on_failure="skip", progress=False, **length)


def single_shooting(task: Task, model: Oscillator, steps: int) -> None:
    adam(model, task.misfit, (task.times, task.observed), steps)


def multiple_shooting(task: Task, model: Oscillator, steps: int) -> None:
    """Half a period in a group."""
    shooting = MultipleShooting(task.problem(model), task.times, task.observed, 11, continuity=1.0, free_states=True, **task.options)
    adam(shooting, lambda shooting, _: shooting() / task.observed.numel(), None, steps)
    model.start.data.copy_(shooting.states[0])


def collocation(task: Task, model: Oscillator, steps: int) -> None:
    """Parabolas through some nine points; the ends, where they are poor, are left out."""
    reach = min(1.0, 5.0 / len(task.times))
    du, u = collocate(task.times, task.observed, bandwidth=reach, engine=task.options["engine"])
    inner = slice(3, -3)
    problem, batch = task.problem(model), (task.times[inner], u[inner], du[inner])
    adam(model, lambda _, batch: collocation_loss(problem, *batch), batch, steps)


def growing_horizon(task: Task, model: Oscillator, steps: int) -> None:
    stages = min(10, steps)
    horizons = GrowingHorizon(task.times, task.observed, stages=stages, steps=steps // stages)
    adam(model, task.misfit, horizons, len(horizons), epochs=1)


METHODS = {
    "single shooting": single_shooting,
    "multiple shooting": multiple_shooting,
    "collocation": collocation,
    "growing horizon": growing_horizon,
}


@dataclass
class Result:
    """Of one start: errors and amplitudes after Adam, by the method, and after L-BFGS."""

    method: str
    after_adam: tuple[float, float]
    refined: tuple[float, float]
    before: Oscillator
    model: Oscillator
    seconds: float


def refine(task: Task, model: Oscillator, iterations: int) -> None:
    """L-BFGS on the whole horizon, all iterations of it in one step of the training loop."""
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=iterations, max_eval=2 * iterations, history_size=30, line_search_fn="strong_wolfe"
    )

    def walled(model: Oscillator, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        # The line search may try steps where nothing can be solved, and must be turned back.
        try:
            return task.misfit(model, batch)
        except ps.SolveFailed:
            return 1e3 + 0.0 * sum(x.sum() for x in model.parameters())

    train(model, walled, (task.times, task.observed), optimizer, steps=1, progress=False)


def fit(task: Task, method: str, seed: int, steps: int, iterations: int) -> Result:
    model = Oscillator.away_from_the_truth(seed, task.observed[0])
    began = time.perf_counter()
    METHODS[method](task, model, steps)
    found = task.errors(model)
    before = deepcopy(model)
    refine(task, model, iterations)
    return Result(method, found, task.errors(model), before, model, time.perf_counter() - began)


def table(results: list[Result], engine: str) -> Table:
    """One row for each method: medians over the starts."""
    columns = ("RMSE, Adam", "RMSE", "ampl.", "flat", "found", "s")
    numbers = (Column(x, justify="right") for x in columns)
    out = Table(Column("method", no_wrap=True), *numbers, Column("engine", no_wrap=True))
    for method in dict.fromkeys(x.method for x in results):
        ours = [x for x in results if x.method == method]
        errors, amplitudes = np.array([x.refined for x in ours]).T
        cells = (np.median([x.after_adam[0] for x in ours]), np.median(errors), np.median(amplitudes))
        counts = ((amplitudes < FLAT).sum(), (errors < FOUND).sum())
        seconds = np.median([x.seconds for x in ours])
        out.add_row(method, *(f"{x:.2f}" for x in cells), *(f"{x} of {len(ours)}" for x in counts), f"{seconds:.1f}", engine)
    return out


def draw(task: Task, results: list[Result]) -> Figure:
    """The first start of each method after Adam and after L-BFGS, and the errors of all of them."""
    methods = list(dict.fromkeys(x.method for x in results))
    figure = Figure(figsize=(10, 1.5 * len(methods) + 0.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2.4, 1))
    axes = left.subplots(len(methods), 1, sharex=True, squeeze=False)[:, 0]
    grid = torch.linspace(0.0, task.times[-1].item(), 800, dtype=torch.float64)
    for axis, method in zip(axes, methods, strict=True):
        first = next(x for x in results if x.method == method)
        with torch.no_grad():
            axis.plot(grid, task.predict(first.before, grid)[:, 0], "0.6", lw=1.5)
            axis.plot(grid, task.predict(first.model, grid)[:, 0], "C3", lw=1)
        axis.plot(task.times, task.observed[:, 0], ".k", ms=2.5)
        axis.set(title=method, ylabel="v", ylim=(-3, 3))
    axes[-1].set_xlabel("t")
    ax = right.subplots()
    for i, method in enumerate(methods):
        for stage, marker, color in (("after_adam", "o", "0.6"), ("refined", "s", "C3")):
            errors = [getattr(x, stage)[0] for x in results if x.method == method]
            label = ("after Adam" if stage == "after_adam" else "after L-BFGS") if i == 0 else None
            ax.plot(errors, [-i] * len(errors), marker, color=color, ms=5, alpha=0.8, label=label)
    ax.axvline(1.0, color="0.6", ls=":", lw=1)
    ax.set_yticks([-i for i in range(len(methods))], [x.replace(" ", "\n") for x in methods])
    ax.set(xscale="log", xlabel="RMSE")
    ax.legend(fontsize=8)
    return figure


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A short horizon, few steps: to see that it works.")] = False,
    seeds: Annotated[int, typer.Option(help="Starts for each method.", min=1)] = 5,
    engine: Annotated[str, typer.Option(help="auto, julia or embedded.")] = "auto",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("hard_trajectories.png"),
) -> None:
    """Train by each method from the same parameters, print a table and draw the fits."""
    torch.set_num_threads(1)
    horizon, points, steps, iterations = (4.0, 13, 4, 1) if quick else (60.0, 241, 300, 60)
    seeds = 1 if quick else seeds
    task = Task.draw(horizon, points, engine)
    # So that no method's time includes the compilation of what all of them use.
    model = Oscillator.away_from_the_truth(0, task.observed[0])
    task.misfit(model, (task.times, task.observed)).backward()
    results, missing = [], {}
    runs = [(method, seed) for method in METHODS for seed in range(seeds)]
    for method, seed in tqdm(runs, unit="fit"):
        if method in missing:
            continue
        try:
            results.append(fit(task, method, seed, steps, iterations))
        except ps.EngineUnavailable as error:
            missing[method] = error
    Console().print(table(results, ps.get_engine(engine).name))
    for method, error in missing.items():
        print(f"Left out: {method}. {error}")
    draw(task, results).savefig(output, dpi=120)
    print(f"Saved {output}")


if __name__ == "__main__":
    typer.run(main)
