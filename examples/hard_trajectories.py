"""A neural ODE on many periods of an oscillation: where single shooting ends flat, and three ways around that.

Predators and prey (Lotka-Volterra) over eleven periods, with 2 % noise. The loss of one solve over the whole horizon falls
fastest where the trajectory lies flat through the mean of the data: Adam goes there from random weights, and stays. Three ways
begin with something easier: multiple shooting (Turan, Jäschke 2022), matching the slopes of smoothed data (collocation: Roesch,
Rackauckas, Stumpf 2021), and a horizon that grows. All train the same networks with Adam, and then some more on the whole
horizon. The table has root mean square errors in standard deviations of the data (flat: 1), and the amplitude over the
second half of the horizon as a part of that of the data (flat: 0). Then L-BFGS goes on with what each has found: the flat line is
no minimum that holds its line search for ever, as its columns for single shooting show.

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


def lotka_volterra(u, p, t):
    x, y = u
    return [1.5 * x - x * y, x * y - 3.0 * y]


@dataclass
class Task:
    """Data in units of their standard deviation, and how to solve.

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
    def draw(cls, horizon: float, points: int, engine: str, noise: float = 0.02) -> Task:
        options = {"algorithm": ps.Tsit5(), "engine": engine}
        times = np.linspace(0.0, horizon, points)
        problem = ps.ODEProblem(lotka_volterra, [1.0, 1.0], (0.0, horizon))
        states = ps.solve(problem, saveat=times, rtol=1e-9, atol=1e-9, **options).u
        states = (states - states.mean(0)) / states.std(0)
        states += noise * np.random.default_rng(0).standard_normal(states.shape)
        return cls(torch.tensor(times), torch.tensor(states), options | {"rtol": 1e-5, "atol": 1e-5, "maxiters": 3000})

    def problem(self, net: nn.Module) -> ps.ODEProblem:
        return ps.ODEProblem(net, self.observed[0], (0.0, self.times[-1].item()))

    def predict(self, net: nn.Module, times: torch.Tensor) -> torch.Tensor:
        problem = ps.remake(self.problem(net), tspan=(0.0, times[-1].item()))
        return ps.solve(problem, saveat=times, **self.options).u

    def misfit(self, net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The loss of single shooting, over the times of the batch."""
        times, observed = batch
        return (self.predict(net, times) - observed).square().mean()

    def errors(self, net: nn.Module) -> tuple[float, float]:
        """Root mean square error, and amplitude over the second half as a part of the data's."""
        with torch.no_grad():
            states = self.predict(net, self.times)
        half = len(self.times) // 2
        amplitude = (states[half:].std(0) / self.observed[half:].std(0)).mean().item()
        return (states - self.observed).square().mean().sqrt().item(), amplitude


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 2)).double()


def adam(model: nn.Module, loss: Callable, data: object, steps: int, lr: float = 0.01, **length: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    length = length or {"steps": steps}
    train(
        model, loss, data, optimizer, scheduler=scheduler, clip_norm=10.0, on_failure="skip", progress=False, **length
    )


def single_shooting(task: Task, net: nn.Module, steps: int) -> None:
    adam(net, task.misfit, (task.times, task.observed), steps)


def multiple_shooting(task: Task, net: nn.Module, steps: int) -> None:
    """Half a period in a group. Half as many steps, since twenty short solves take longer than a long one."""
    shooting = MultipleShooting(
        task.problem(net), task.times, task.observed, 7, continuity=1.0, free_states=True, **task.options
    )
    adam(shooting, lambda shooting, _: shooting() / task.observed.numel(), None, max(1, steps // 2))


def collocation(task: Task, net: nn.Module, steps: int) -> None:
    """Parabolas through some five points; the ends, where they are poor, are left out."""
    reach = 3.0 / len(task.times)
    du, u = collocate(task.times, task.observed, bandwidth=reach, engine=task.options["engine"])
    inner = slice(2, -2)
    problem, batch = task.problem(net), (task.times[inner], u[inner], du[inner])
    adam(net, lambda _, batch: collocation_loss(problem, *batch), batch, steps)


def growing_horizon(task: Task, net: nn.Module, steps: int) -> None:
    stages = min(10, steps)
    horizons = GrowingHorizon(task.times, task.observed, stages=stages, steps=steps // stages)
    adam(net, task.misfit, horizons, len(horizons), epochs=1)


METHODS = {
    "single shooting": single_shooting,
    "multiple shooting": multiple_shooting,
    "collocation": collocation,
    "growing horizon": growing_horizon,
}


@dataclass
class Result:
    """Of one network: errors and amplitudes after Adam, by the method and on the whole horizon, and after L-BFGS."""

    method: str
    after_adam: tuple[float, float]
    refined: tuple[float, float]
    before: nn.Module
    net: nn.Module
    seconds: float


def refine(task: Task, net: nn.Module, iterations: int) -> None:
    """L-BFGS on the whole horizon, all iterations of it in one step of the training loop."""
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=iterations, max_eval=2 * iterations, history_size=30, line_search_fn="strong_wolfe"
    )

    def walled(net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        # The line search may try steps where nothing can be solved, and must be turned back.
        try:
            return task.misfit(net, batch)
        except ps.SolveFailed:
            return 1e3 + 0.0 * sum(x.sum() for x in net.parameters())

    train(net, walled, (task.times, task.observed), optimizer, steps=1, progress=False)


def fit(task: Task, method: str, seed: int, steps: int, iterations: int) -> Result:
    net = network(seed)
    began = time.perf_counter()
    METHODS[method](task, net, steps)
    adam(net, task.misfit, (task.times, task.observed), steps, lr=0.003)
    found = task.errors(net)
    before = deepcopy(net)
    refine(task, net, iterations)
    return Result(method, found, task.errors(net), before, net, time.perf_counter() - began)


def table(results: list[Result], engine: str) -> Table:
    """One row for each method: medians over the networks."""
    columns = ("flat", "RMSE", "ampl.", "flat,\nL-BFGS", "RMSE", "ampl.", "seconds")
    out = Table("method", *(Column(x, justify="right") for x in columns), "engine")
    for method in dict.fromkeys(x.method for x in results):
        ours = [x for x in results if x.method == method]
        cells = []
        for stage in ("after_adam", "refined"):
            values = np.array([getattr(x, stage) for x in ours])
            flat = int((values[:, 1] < FLAT).sum())
            cells += [f"{flat}/{len(ours)}", *(f"{x:.2f}" for x in np.median(values, 0))]
        out.add_row(method, *cells, f"{np.median([x.seconds for x in ours]):.1f}", engine)
    return out


def draw(task: Task, results: list[Result]) -> Figure:
    """The prey of the first network of each method after Adam and after L-BFGS, and the errors of all of them."""
    methods = list(dict.fromkeys(x.method for x in results))
    figure = Figure(figsize=(10, 1.5 * len(methods) + 0.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2.4, 1))
    axes = left.subplots(len(methods), 1, sharex=True, squeeze=False)[:, 0]
    grid = torch.linspace(0.0, task.times[-1].item(), 800, dtype=torch.float64)
    for axis, method in zip(axes, methods, strict=True):
        first = next(x for x in results if x.method == method)
        with torch.no_grad():
            axis.plot(grid, task.predict(first.before, grid)[:, 0], "0.6", lw=1.5)
            axis.plot(grid, task.predict(first.net, grid)[:, 0], "C3", lw=1)
        axis.plot(task.times, task.observed[:, 0], ".k", ms=2.5)
        axis.set(title=method, ylabel="prey", ylim=(-2.5, 3))
    axes[-1].set_xlabel("t")
    ax = right.subplots()
    for i, method in enumerate(methods):
        for stage, marker, color in (("after_adam", "o", "0.6"), ("refined", "s", "C3")):
            errors = [getattr(x, stage)[0] for x in results if x.method == method]
            label = ("after Adam" if stage == "after_adam" else "after L-BFGS") if i == 0 else None
            ax.plot(errors, [-i] * len(errors), marker, color=color, ms=5, alpha=0.8, label=label)
    ax.axvline(1.0, color="0.6", ls=":", lw=1)
    ax.set_yticks([-i for i in range(len(methods))], [x.replace(" ", "\n") for x in methods])
    ax.set(xscale="log", xlabel="RMSE (flat: 1)")
    ax.legend(fontsize=8)
    return figure


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A short horizon and few steps, to see that it works.")] = False,
    seeds: Annotated[int, typer.Option(help="Networks for each method.", min=1)] = 5,
    engine: Annotated[str, typer.Option(help="auto, julia or embedded.")] = "auto",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("hard_trajectories.png"),
) -> None:
    """Train by each method from the same random networks, print a table and draw the fits."""
    torch.set_num_threads(1)
    horizon, points, steps, iterations = (2.0, 9, 4, 1) if quick else (40.0, 121, 250, 100)
    seeds = 1 if quick else seeds
    task = Task.draw(horizon, points, engine)
    # So that no method's time includes the compilation of what all of them use.
    task.misfit(network(0), (task.times, task.observed)).backward()
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
