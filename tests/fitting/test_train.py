"""The training loop: the numbers are those of a loop by hand, a resumed run is the same as one without a break."""

from __future__ import annotations

import os
import random
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pysciode as ps
from pysciode.fitting import EarlyStopping, train
from pysciode.nn import NeuralODE

X = torch.linspace(-1, 1, 24).reshape(12, 2)
Y = X.square().sum(1, keepdim=True)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))


def squares(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def noisy(model, batch):
    """Draws from every source of random numbers."""
    x, y = batch
    noise = torch.randn(()).item() + np.random.normal() + random.gauss(0, 1)
    return (model(x) - y - 0.1 * noise).square().mean()


def parameters(model):
    return torch.cat([x.detach().reshape(-1) for x in model.parameters()])


def test_the_steps_are_those_of_a_loop_by_hand():
    ours, hand = network(), network()
    optimizer = torch.optim.Adam(hand.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    expected = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = squares(hand, (X, Y))
        loss.backward()
        nn.utils.clip_grad_norm_(hand.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        expected.append(loss.item())
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    result = train(ours, squares, (X, Y), optimizer, steps=20, scheduler=scheduler, clip_norm=0.5, progress=False)
    assert result.history["loss"].tolist() == expected
    np.testing.assert_allclose(result.history["learning_rate"], 0.01 * 0.9 ** np.arange(20))
    torch.testing.assert_close(parameters(ours), parameters(hand), rtol=0, atol=0)
    assert (result.steps, result.epochs, result.stopped) == (20, 20, "finished")


def test_lbfgs():
    model = nn.Linear(2, 1)
    y = X @ torch.tensor([[2.0], [-1.0]])
    train(model, squares, (X[:5] ** 3, y[:5] ** 3), torch.optim.LBFGS(model.parameters(), lr=1), steps=15, progress=False)
    solution = torch.linalg.lstsq(torch.cat([X[:5] ** 3, torch.ones(5, 1)], 1), y[:5] ** 3).solution
    residual = torch.cat([X[:5] ** 3, torch.ones(5, 1)], 1) @ solution - y[:5] ** 3
    assert squares(model, (X[:5] ** 3, y[:5] ** 3)) < residual.square().mean() + 1e-6


def loader(own: bool) -> DataLoader:
    generator = torch.Generator().manual_seed(7) if own else None
    return DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True, generator=generator)


def run(model, steps=None, epochs=None, own=False, loss=noisy, **options):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.7)
    return train(
        model, loss, loader(own), optimizer, steps=steps, epochs=epochs, scheduler=scheduler, seed=3, progress=False,
        validation=(X, Y), **options,
    )  # fmt: skip


def assert_same(one, other):
    drop = lambda result: result.history.drop(columns="seconds")  # noqa: E731
    pd.testing.assert_frame_equal(drop(one), drop(other), check_exact=True)
    assert (one.steps, one.epochs, one.best, one.best_step) == (other.steps, other.epochs, other.best, other.best_step)


@pytest.mark.parametrize("own", [False, True], ids=["global", "own generator"])
@pytest.mark.parametrize("stop", [{"epochs": 2}, {"steps": 4}], ids=["between epochs", "within an epoch"])
def test_resumed_is_the_same_as_never_stopped(tmp_path, own, stop):
    whole, broken, fresh = network(), network(), network(seed=9)
    expected = run(whole, epochs=4, own=own)
    path = tmp_path / "deep" / "run.pt"
    run(broken, own=own, checkpoint=path, every=None, **stop)
    for source in (torch.manual_seed, np.random.seed, random.seed):
        source(99)  # whatever happens in between
    found = run(fresh, epochs=4, own=own, checkpoint=path)
    # A run that ends within an epoch is validated there, too.
    if "steps" in stop:
        found.rows[3].pop("validation")
    assert_same(found, expected)
    torch.testing.assert_close(parameters(fresh), parameters(whole), rtol=0, atol=0)
    assert found.resumed_at == next(iter(stop.values())) * (3 if "epochs" in stop else 1)
    assert os.listdir(path.parent) == ["run.pt"]
    again = run(network(), epochs=4, own=own, checkpoint=path)
    assert again.resumed_at == again.steps == 12


@pytest.mark.parametrize(("place", "steps_done"), [("loss", 6), ("signal while stepping", 5), ("validation", 3)])
def test_interrupted_is_resumed_where_it_stopped(tmp_path, place, steps_done):
    expected = run(network(), epochs=3)
    model, path, calls = network(), tmp_path / "run.pt", iter(range(100))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    def loss(model, batch):
        value = noisy(model, batch)
        # After three steps comes a validation; so the fourth call is that, and the eighth is in the seventh step.
        if place != "signal while stepping" and next(calls) == {"loss": 7, "validation": 3}[place]:
            raise KeyboardInterrupt
        return value

    def send_signal(*_):
        if place == "signal while stepping" and next(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    optimizer.register_step_pre_hook(send_signal)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.7)
    options = {
        "epochs": 3,
        "scheduler": scheduler,
        "seed": 3,
        "validation": (X, Y),
        "checkpoint": path,
        "progress": False,
    }
    first = train(model, loss, loader(False), optimizer, **options)
    assert (first.stopped, first.steps) == ("interrupted", steps_done)
    assert_same(run(network(seed=5), epochs=3, checkpoint=path), expected)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    run(network(), steps=1, checkpoint=path)
    other = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="run.pt"):
        run(other, steps=2, checkpoint=path)
    assert run(other, steps=2, checkpoint=path, resume=False).resumed_at == 0
    path.write_bytes(b"half a file")
    with pytest.raises(ValueError, match="run.pt"):
        run(other, steps=2, checkpoint=path)


def test_early_stopping_leaves_the_best_parameters():
    """The validation loss falls and rises again: 'training' moves a number through its optimum at 5."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    result = train(
        model, lambda model, _: -model.weight.sum(), None, torch.optim.SGD(model.parameters(), lr=1.0), steps=100,
        every=1, validation=lambda model: (model.weight.item() - 5) ** 2, early_stopping=EarlyStopping(patience=3),
        progress=False,
    )  # fmt: skip
    assert result.stopped == "early stopping"
    assert (result.steps, result.best_step, result.best) == (8, 5, 0.0)
    assert model.weight.item() == 5.0
    assert result.history["validation"].tolist() == [16, 9, 4, 1, 0, 1, 4, 9]
    assert model.training


def test_validation_is_the_mean_over_samples_in_evaluation_mode():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1)).eval()
    batches = [(X[:5], Y[:5]), (X[5:], Y[5:])]
    seen = []

    def loss(model, batch):
        seen.append(model.training)
        return squares(model, batch)

    expected_before = squares(model, (X, Y)).item()
    result = train(
        model,
        loss,
        batches[:1],
        torch.optim.SGD(model.parameters(), lr=0.0),
        epochs=1,
        validation=batches,
        progress=False,
    )
    assert result.history["validation"].iloc[-1] == pytest.approx(expected_before, rel=1e-6)
    assert seen == [True, False, False] and not model.training


class Blowup(nn.Module):
    """``u' = a u²`` reaches infinity at time ``1/(a u0)``."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0))

    def forward(self, u):
        return self.rate * u**2


@pytest.mark.slow
def test_failed_batches_raise_or_are_skipped():
    """From 0.5 the block has a solution up to time 1, from 2 it has none."""
    batches = [torch.full((1, 1), x) for x in (0.5, 2.0, 0.25)]
    block = NeuralODE(Blowup(), engine="embedded")
    optimizer = torch.optim.SGD(block.parameters(), lr=1e-3)
    loss = lambda model, u: model(u).sum()  # noqa: E731
    with pytest.raises(ps.SolveFailed):
        train(block, loss, batches, optimizer, epochs=1, progress=False)
    with pytest.warns(RuntimeWarning, match="step 2 is skipped"):
        result = train(block, loss, batches, optimizer, epochs=1, on_failure="skip", progress=False)
    assert result.skipped == 1
    assert result.history["loss"].isna().tolist() == [False, True, False]
    with pytest.raises(FloatingPointError):
        train(block, lambda model, u: model(u).sum() * float("nan"), batches[:1], optimizer, epochs=1, progress=False)
    with pytest.raises(ps.SolveFailed), pytest.warns(RuntimeWarning):
        train(block, loss, batches[1:2], optimizer, epochs=20, on_failure="skip", progress=False)


def test_history_counts_evaluations_and_draws_them(engine):
    import matplotlib

    matplotlib.use("Agg")
    model = nn.Sequential(NeuralODE(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2)), engine=engine), nn.Linear(2, 1))
    loss = lambda model, batch: (squares(model, batch), {"count": 2})  # noqa: E731
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    result = train(model, loss, (X, Y), optimizer, steps=3, validation=(X, Y), progress=False)
    history = result.history
    assert (history["nfe_forward"] > 6).all() and (history["count"] == 2).all()
    if engine == "julia":
        assert (history["nfe_backward"] > 0).all()
    axes = result.plot().figure.axes
    np.testing.assert_array_equal(axes[0].lines[0].get_ydata(), history["loss"])
    np.testing.assert_array_equal(axes[1].lines[0].get_ydata(), history["nfe_forward"])


def test_the_bar_shows_loss_and_evaluations(capsys):
    model = NeuralODE(nn.Linear(2, 2), engine="embedded")
    train(model, lambda model, x: model(x).square().sum(), X, torch.optim.SGD(model.parameters(), lr=0.0), steps=2)
    shown = capsys.readouterr().err
    assert "2/2" in shown and "loss=" in shown and "nfe=" in shown


class Writer:
    def __init__(self):
        self.rows = []

    def add_scalar(self, name, value, step):
        self.rows.append((name, value, step))


def test_logs(monkeypatch, tmp_path):
    writer, model = Writer(), network()
    result = train(model, squares, (X, Y), torch.optim.SGD(model.parameters(), lr=0.1), steps=2, log=writer, progress=False)
    losses = [(value, step) for name, value, step in writer.rows if name == "loss"]
    assert losses == list(zip(result.history["loss"], (1, 2), strict=True))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train(model, squares, (X, Y), torch.optim.SGD(model.parameters(), lr=0.1), steps=2, log=tmp_path)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"model": squares}, "model"),
        ({"loss": 3}, "loss"),
        ({"data": 3}, "data"),
        ({"data": iter([X])}, "data"),
        ({"data": []}, "data"),
        ({"optimizer": "Adam"}, "optimizer"),
        ({"steps": None}, "epochs"),
        ({"epochs": 1}, "epochs"),
        ({"steps": 0}, "steps"),
        ({"every": 0.5}, "every"),
        ({"on_failure": "ignore"}, "on_failure"),
        ({"early_stopping": 3}, "early_stopping"),
        ({"loss": lambda model, batch: 3.0}, "loss"),
    ],
)
def test_bad_arguments_are_named(change, named):
    model = network()
    arguments = {
        "model": model,
        "loss": squares,
        "data": (X, Y),
        "optimizer": torch.optim.SGD(model.parameters()),
        "steps": 1,
    }
    with pytest.raises((TypeError, ValueError), match=named):
        train(**{**arguments, "progress": False, **change})
