"""Density estimation on tables: a continuous flow against affine coupling layers of the same number of parameters.

The tabular part of table 2 in Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, "FFJORD" (ICLR 2019,
arXiv:1810.01367), in small: held-out log likelihoods on data that scikit-learn brings along. Affine coupling: Dinh,
Sohl-Dickstein, Bengio, "Density estimation using Real NVP" (ICLR 2017, arXiv:1605.08803), section 3. The tables are
small, so both are stopped early, and a Gaussian with all correlations, from which both start, is a strong third.

Run: python examples/flow_tabular.py [--quick] [--data wine] (needs scikit-learn)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn import datasets
from torch import nn

from pysciode.fitting import EarlyStopping, train
from pysciode.nn import ConcatSquashNetwork, ContinuousFlow, Regularization

DATA = {"iris": datasets.load_iris, "wine": datasets.load_wine, "diabetes": datasets.load_diabetes,
        "breast_cancer": datasets.load_breast_cancer}  # fmt: skip


class Split(NamedTuple):
    """Rows to train on, to stop by and to report, whitened; `log_det` takes densities back to standardised columns."""

    train: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor
    log_det: float


def split(name: str, seed: int) -> Split:
    """60, 20 and 20 per cent, whitened by the Gaussian that the validation rows like best: all models start from it."""
    rng = np.random.default_rng(seed)
    x = np.asarray(DATA[name]().data, dtype=np.float64)
    for column in x.T:
        # Rounded values are spread over their last digit: a density could grow without bound there.
        values = np.unique(column)
        if len(values) < len(column) / 2:
            column += np.diff(values).min() * (rng.random(len(column)) - 0.5)
    x = x[rng.permutation(len(x))]
    first, second = int(0.6 * len(x)), int(0.8 * len(x))
    x = (x - x[:first].mean(0)) / x[:first].std(0)
    correlations, identity = np.corrcoef(x[:first].T), np.eye(x.shape[1])

    def whitened(weight: float) -> Split:
        factor = np.linalg.inv(np.linalg.cholesky((1 - weight) * correlations + weight * identity))
        parts = np.split((x @ factor.T).astype(np.float32), [first, second])
        return Split(*map(torch.from_numpy, parts), np.linalg.slogdet(factor)[1])

    return max(map(whitened, (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)), key=lambda rows: gaussian(rows, rows.validation))


def gaussian(rows: Split, x: torch.Tensor) -> float:
    return torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1).mean().item() + rows.log_det


class AffineCoupling(nn.Module):
    """Half of the entries scale and shift the other half, in turns."""

    def __init__(self, dim: int, layers: int, hidden: int) -> None:
        super().__init__()
        masks = [(torch.arange(dim) % 2 == i % 2).float() for i in range(layers)]
        self.register_buffer("masks", torch.stack(masks))
        self.networks = nn.ModuleList(self.network(dim, hidden) for _ in masks)

    @staticmethod
    def network(dim: int, hidden: int) -> nn.Module:
        inner = nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
        return nn.Sequential(*inner, nn.Linear(hidden, 2 * dim))

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        log_det = x.new_zeros(len(x))
        for mask, network in zip(self.masks, self.networks, strict=True):
            scale, shift = network(x * mask).chunk(2, 1)
            scale = 2 * torch.tanh(scale / 2) * (1 - mask)
            x = x * torch.exp(scale) + shift * (1 - mask)
            log_det = log_det + scale.sum(1)
        return torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1) + log_det


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def coupling_of_size(dim: int, wanted: int, seed: int, layers: int = 6) -> AffineCoupling:
    """Coupling layers whose width brings them closest to so many parameters."""
    width = min(range(2, 200), key=lambda hidden: abs(size(AffineCoupling(dim, layers, hidden)) - wanted))
    torch.manual_seed(seed)
    return AffineCoupling(dim, layers, width)


def fit(model: nn.Module, rows: Split, steps: int, batch: int) -> float:
    """Maximum likelihood by AdamW, keeping the weights that were best on the validation rows; the seconds taken."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-3)

    def loss(model: nn.Module, _: None) -> torch.Tensor:
        # Noise of a tenth of a standard deviation keeps so few rows from being learnt by heart.
        x = rows.train[torch.randint(0, len(rows.train), (batch,))] + 0.1 * torch.randn(batch, rows.train.shape[1])
        nll = -model.log_prob(x).mean()
        return nll + model.regularization.mean() if isinstance(model, ContinuousFlow) else nll

    return train(
        model,
        loss,
        None,
        optimiser,
        steps=steps,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=2e-4),
        validation=lambda model: -evaluate(model, rows, rows.validation),
        every=10,
        early_stopping=EarlyStopping(patience=30),
    ).seconds


@torch.no_grad()
def evaluate(model: nn.Module, rows: Split, x: torch.Tensor) -> float:
    """Mean log likelihood of rows, in standardised columns."""
    model.eval()
    return model.log_prob(x).mean().item() + rows.log_det


class Row(NamedTuple):
    model: str
    log_likelihoods: list[float]
    parameters: int
    seconds: float


def compare(name: str, splits: int, steps: int, hidden: int, batch: int, engine: str) -> tuple[list[Row], str]:
    """The models' rows of the table, and the engine that ran."""
    models = ("continuous flow", "affine coupling", "Gaussian")
    found: dict[str, list[tuple[float, int, float]]] = {name: [] for name in models}
    for seed in range(splits):
        rows = split(name, seed)
        dim = rows.train.shape[1]
        torch.manual_seed(seed)
        flow = ContinuousFlow(
            ConcatSquashNetwork(dim, (hidden, hidden)),
            dim,
            trace="hutchinson",
            rtol=1e-4,
            atol=1e-4,
            regularization=Regularization(kinetic=0.02, jacobian=0.02),
            engine=engine,
        )
        seconds = fit(flow, rows, steps, batch)
        flow.trace = "exact"
        found["continuous flow"].append((evaluate(flow, rows, rows.test), size(flow), seconds))
        coupling = coupling_of_size(dim, size(flow), seed)
        seconds = fit(coupling, rows, steps, batch)
        found["affine coupling"].append((evaluate(coupling, rows, rows.test), size(coupling), seconds))
        found["Gaussian"].append((gaussian(rows, rows.test), dim * (dim + 3) // 2, 0.0))
    rows = [Row(model, [x[0] for x in runs], runs[0][1], sum(x[2] for x in runs) / splits) for model, runs in found.items()]
    return rows, str(flow.engine)


def table(rows: list[Row], name: str) -> Table:
    """Splits differ more than models do, so models are also compared split by split."""
    out = Table(title=f"{name}: log likelihood of held-out rows, in nats", caption="mean ± standard error over splits")
    for column in ("model", "log likelihood", "flow ahead by", "parameters", "seconds"):
        out.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    flow = np.array(rows[0].log_likelihoods)
    for row in rows:
        ahead = "" if row is rows[0] else mean_and_error(flow - row.log_likelihoods)
        cells = (mean_and_error(np.array(row.log_likelihoods)), ahead, str(row.parameters), f"{row.seconds:.1f}")
        out.add_row(row.model, *cells)
    return out


def mean_and_error(values: np.ndarray) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{values.mean():.2f} ± {values.std(ddof=1) / math.sqrt(len(values)):.2f}"


def draw(rows: list[Row], name: str, output: Path) -> None:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    ax = figure.subplots()
    for points in zip(*(row.log_likelihoods for row in rows), strict=True):
        ax.plot(points, "o-", color="#8080c0", lw=0.8)
    ax.plot([np.mean(row.log_likelihoods) for row in rows], "_", color="#303060", ms=40, mew=2)
    ax.margins(x=0.25)
    ax.set_xticks(range(len(rows)), [row.model for row in rows])
    ax.set(ylabel="held-out log likelihood (nats)", title=name)
    figure.savefig(output, dpi=110)


def main(
    data: Annotated[str, typer.Option(help=f"One of {', '.join(DATA)}.")] = "breast_cancer",
    splits: Annotated[int, typer.Option(help="Random splits to average over.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Training steps at most.", min=10)] = 1000,
    hidden: Annotated[int, typer.Option(help="Width of the flow's two hidden layers.", min=1)] = 48,
    batch: Annotated[int, typer.Option(help="Rows in a step.", min=1)] = 128,
    engine: Annotated[str, typer.Option(help="auto, julia or embedded.")] = "auto",
    output: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("flow_tabular.png"),
    quick: Annotated[bool, typer.Option("--quick", help="One split and few steps, to see that it works.")] = False,
) -> None:
    """Fit three densities to the rows of a table and compare them on rows held out."""
    if data not in DATA:
        raise typer.BadParameter(f"--data must be one of {', '.join(DATA)}, not {data}")
    if quick:
        splits, steps = 1, 40
    rows, engine = compare(data, splits, steps, hidden, batch, engine)
    draw(rows, data, output)
    Console().print(table(rows, data))
    print(f"The {engine} engine solved the flow. Saved {output}")


if __name__ == "__main__":
    typer.run(main)
