"""ODE-Net against a residual network, an RK-Net and a perceptron on handwritten digits.

Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations" (NeurIPS 2018, arXiv:1806.07366), table
1 and figure 3, in small: the same four models on the 8x8 digits of scikit-learn. The paper's table, on MNIST:

=========  ==========  ==========  ======
model      test error  parameters  memory
=========  ==========  ==========  ======
1-layer    1.60 %      0.24 M      –
ResNet     0.41 %      0.60 M      O(L)
RK-Net     0.47 %      0.22 M      O(L~)
ODE-Net    0.42 %      0.22 M      O(1)
=========  ==========  ==========  ======

Here memory is measured: the bytes kept between the forward and the backward pass of one batch, parameters aside. An
RK-Net is the ODE-Net differentiated through the solver's steps, in torch; the ODE-Net uses the adjoint.

Run: python examples/ode_net_digits.py [--quick] [--data mnist] (needs scikit-learn, for MNIST torchvision)
"""

from __future__ import annotations

import statistics
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchdiffeq import odeint, odeint_adjoint

import pysciode as ps
from pysciode.fitting import train
from pysciode.nn import NeuralODE

BATCH = 128


class Data(str, Enum):
    digits = "digits"
    mnist = "mnist"


def load(data: Data) -> tuple[TensorDataset, TensorDataset, int]:
    """Training and test set, and how often the stem halves the images."""
    if data is Data.mnist:
        from torchvision.datasets import MNIST

        parts = [MNIST("data", train=part, download=True) for part in (True, False)]
        sets = [TensorDataset(part.data[:, None].float() / 255, part.targets) for part in parts]
        return sets[0], sets[1], 2
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images[:, None], dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, training = order[: 4 * BATCH], order[4 * BATCH :]
    return TensorDataset(images[training], labels[training]), TensorDataset(images[test], labels[test]), 1


class Block(nn.Module):
    """Two convolutions with group norms; the time is a further channel where there is one."""

    def __init__(self, width: int, timed: bool) -> None:
        super().__init__()
        self.timed = timed
        self.norms = nn.ModuleList(nn.GroupNorm(min(8, width), width) for _ in range(3))
        self.convolutions = nn.ModuleList(nn.Conv2d(width + timed, width, 3, padding=1) for _ in range(2))

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        for norm, convolution in zip(self.norms[:2], self.convolutions, strict=True):
            u = torch.relu(norm(u))
            if self.timed:
                u = torch.cat([t.expand(len(u), 1, *u.shape[2:]), u], 1)
            u = convolution(u)
        return self.norms[2](u) if self.timed else u


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = Block(width, timed=False)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return u + self.block(None, u)


def with_stem_and_head(middle: nn.Module, width: int, halvings: int) -> nn.Sequential:
    """Images to features, `middle`, features to classes."""
    stem: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1)]
    for _ in range(halvings):
        stem += [nn.GroupNorm(min(8, width), width), nn.ReLU(), nn.Conv2d(width, width, 4, stride=2, padding=1)]
    head = [
        nn.GroupNorm(min(8, width), width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16 * width, 10),
    ]
    return nn.Sequential(*stem, middle, *head)


def ode_net(width: int, halvings: int, **options) -> nn.Sequential:
    return with_stem_and_head(NeuralODE(Block(width, timed=True), **options), width, halvings)


def res_net(width: int, halvings: int, depth: int = 6) -> nn.Sequential:
    return with_stem_and_head(nn.Sequential(*(Residual(width) for _ in range(depth))), width, halvings)


def block_of(model: nn.Module) -> NeuralODE | None:
    return next((module for module in model.modules() if isinstance(module, NeuralODE)), None)


def bytes_kept(model: nn.Module, images: torch.Tensor) -> int:
    """Bytes that a forward pass leaves for the backward one: torch's saved tensors and all that the solve allocated."""
    model(images)  # compiles
    kept: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = model(images).square().sum()
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), images)}
    total = sum(size for place, size in kept.items() if place not in own)
    block = block_of(model)
    if block is not None:
        total += sum(x.get("allocated", 0) for x in block.statistics)
    loss.backward()
    return total


@torch.no_grad()
def test_error(model: nn.Module, data: DataLoader) -> float:
    model.eval()
    wrong = sum((model(x).argmax(1) != y).sum().item() for x, y in data)
    return wrong / (BATCH * len(data))


def against_tolerance(model: nn.Module, images: torch.Tensor) -> list[dict[str, float]]:
    """For a trained ODE-Net: evaluations forward and backward, and the error of the features, at several tolerances."""
    block = block_of(model)
    features = model[: list(model).index(block)](images).detach()
    given = dict(block.options)
    block.options |= {"rtol": 1e-6, "atol": 1e-6}
    exact = block(features).detach()
    rows = []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        block.options |= {"rtol": tolerance, "atol": tolerance}
        began = time.perf_counter()
        out = block(features.requires_grad_())
        out.square().mean().backward()
        error = ((out.detach() - exact).norm() / exact.norm()).item()
        rows.append(
            {"tolerance": tolerance, "forward": block.nfe_forward, "backward": block.nfe_backward, "error": error,
             "seconds": time.perf_counter() - began}
        )  # fmt: skip
    block.options = given
    return rows


def step_seconds(width: int, halvings: int, images: torch.Tensor, engine: str) -> dict[str, tuple[float, str]]:
    """Seconds of a training step of the block, on the same weights, here and in torchdiffeq; and evaluations."""
    torch.manual_seed(0)
    model = ode_net(width, halvings, rtol=1e-3, atol=1e-3, engine=engine)
    block = block_of(model)
    features = model[: list(model).index(block)](images).detach()
    backsolve = NeuralODE(block.dynamics, **(block.options | {"sensealg": ps.BacksolveAdjoint()}))
    times, calls = torch.tensor([0.0, 1.0]), Calls(block.dynamics)
    tolerances = {"rtol": 1e-3, "atol": 1e-3}
    steps = {
        "pysciode, default adjoint": block,
        "pysciode, BacksolveAdjoint": backsolve,
        "torchdiffeq, through the solver": lambda u: odeint(calls, u, times, **tolerances)[-1],
        "torchdiffeq, adjoint": lambda u: odeint_adjoint(calls, u, times, **tolerances)[-1],
    }
    found: dict[str, list[float]] = {name: [] for name in steps}
    counts = {}
    for _ in range(6):  # in turn, so that all see the machine in the same mood
        for name, step in steps.items():
            calls.count = 0
            began = time.perf_counter()
            out = step(features)
            forward = calls.count
            out.square().mean().backward()
            found[name].append(time.perf_counter() - began)
            nfe = (step.nfe_forward, step.nfe_backward) if isinstance(step, NeuralODE) else (forward, calls.count - forward)
            counts[name] = f"{nfe[0]} + {nfe[1]}"
    return {name: (statistics.median(seconds[1:]), counts[name]) for name, seconds in found.items()}


class Calls(nn.Module):
    """Counts how often the dynamics are evaluated."""

    def __init__(self, dynamics: nn.Module) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.count = 0

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return self.dynamics(t, u)


def memory_against_depth(
    width: int, halvings: int, images: torch.Tensor, tolerances: list[float], engine: str
) -> dict[str, list[tuple[int, float]]]:
    """``(evaluations or blocks, megabytes)`` of each kind of model; ODEs are as deep as tolerances make them."""
    found: dict[str, list[tuple[int, float]]] = {"ResNet": [], "RK-Net": [], "ODE-Net": []}
    for depth in (2, 6, 12, 24, 48):
        found["ResNet"].append((depth, bytes_kept(res_net(width, halvings, depth), images) / 1e6))
    for tolerance in tolerances:
        options = {"rtol": tolerance, "atol": tolerance}
        rk = ode_net(width, halvings, sensealg=ps.ReverseDiffAdjoint(), engine="embedded", **options)
        ode = ode_net(width, halvings, sensealg=ps.BacksolveAdjoint(), engine=engine, **options)
        for name, model in (("RK-Net", rk), ("ODE-Net", ode)):
            size = bytes_kept(model, images) / 1e6
            found[name].append((block_of(model).nfe_forward, size))
    return found


def draw(histories: dict, memory: dict, rows: list[dict[str, float]], output: Path) -> None:
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots(2, 2)
    for name, history in histories.items():
        seen = history.dropna(subset="validation")
        axes[0, 0].plot(seen["epoch"], 100 * seen["validation"], label=name)
    axes[0, 0].set(xlabel="epoch", ylabel="test error (%)", yscale="log")
    for name, points in memory.items():
        axes[0, 1].plot(*zip(*points, strict=True), "o-", label=name)
    axes[0, 1].set(xlabel="residual blocks, or evaluations of the dynamics", ylabel="kept for the backward pass (MB)", yscale="log")
    forward, backward, error = ([row[key] for row in rows] for key in ("forward", "backward", "error"))
    axes[1, 0].plot(forward, error, "o-")
    axes[1, 0].set(xlabel="evaluations forward", ylabel="relative error of the features", yscale="log")
    axes[1, 1].plot(forward, backward, "o-")
    axes[1, 1].set(xlabel="evaluations forward", ylabel="evaluations backward")
    axes[0, 0].legend()
    axes[0, 1].legend()
    figure.savefig(output, dpi=150)


def main(
    quick: Annotated[bool, typer.Option(help="Narrower models and fewer epochs: a minute.")] = False,
    data: Annotated[Data, typer.Option(help="Which digits.")] = Data.digits,
    epochs: Annotated[int, typer.Option(help="Passes through the data; 0 chooses.")] = 0,
    engine: Annotated[str, typer.Option(help="Of the ODE-Net: julia, embedded or auto.")] = "auto",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("ode_net_digits.png"),
) -> None:
    """ODE-Net, RK-Net, residual network and perceptron on handwritten digits."""
    width = 8 if quick else 16
    epochs = epochs or (3 if quick else 30)
    training, test, halvings = load(data)
    # Batches of one size: a model is compiled once for each.
    batches = DataLoader(training, BATCH, shuffle=True, drop_last=True)
    held_out = DataLoader(test, BATCH, drop_last=True)
    images = next(iter(held_out))[0]
    tolerances = {"rtol": 1e-3, "atol": 1e-3}
    discrete = {"sensealg": ps.ReverseDiffAdjoint(), "engine": "embedded"}
    adjoint = {"sensealg": ps.BacksolveAdjoint(), "engine": engine}
    makers = {
        "MLP": lambda: nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 300), nn.ReLU(), nn.Linear(300, 10)),
        "ResNet": lambda: res_net(width, halvings),
        "RK-Net": lambda: ode_net(width, halvings, **tolerances, **discrete),
        "ODE-Net": lambda: ode_net(width, halvings, **tolerances, **adjoint),
    }
    table = Table(
        "model",
        *(Column(x, justify="right") for x in ("test error", "parameters", "memory, MB", "nfe", "s/epoch")),
        "engine",
    )
    histories, trained = {}, {}
    for name, make in makers.items():
        torch.manual_seed(0)
        model = trained[name] = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        result = train(
            model,
            lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
            batches,
            optimizer,
            epochs=epochs,
            scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches)),
            validation=lambda model: test_error(model, held_out),
            seed=0,
        )
        histories[name] = result.history
        block = block_of(model)
        table.add_row(
            name,
            f"{test_error(model, held_out):.2%}",
            f"{sum(x.numel() for x in model.parameters()):,}",
            f"{bytes_kept(model.train(), images) / 1e6:.2f}",
            f"{block.nfe_forward}" if block else "",
            f"{result.seconds / epochs:.2f}",
            block.engine if block else "",
        )
    console = Console()
    console.print(table)

    rows = against_tolerance(trained["ODE-Net"], images)
    table = Table(*(Column(x, justify="right") for x in ("tolerance", "nfe forward", "nfe backward", "error of the features", "seconds")))
    for row in rows:
        table.add_row(
            f"{row['tolerance']:g}",
            f"{row['forward']}",
            f"{row['backward']}",
            f"{row['error']:.1e}",
            f"{row['seconds']:.3f}",
        )
    console.print(table)
    table = Table("training step of the block", Column("seconds", justify="right"), Column("nfe", justify="right"))
    for name, (seconds, nfe) in step_seconds(width, halvings, images, engine).items():
        table.add_row(name, f"{seconds:.3f}", nfe)
    console.print(table)
    levels = [1e-1, 1e-3] if quick else [1e-1, 1e-3, 1e-4, 1e-5]
    draw(histories, memory_against_depth(width, halvings, images, levels, engine), rows, output)
    console.print(f"{output}: test errors, memory against depth, evaluations against accuracy")


if __name__ == "__main__":
    typer.run(main)
