"""Steps, validations and checkpoints, in the order that makes a resumed run the same as one without a break."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import GradientFailed, SolveFailed
from .batches import Batches, samples
from .checkpoint import random_states, save, set_random_states, without_interrupts
from .train_result import EarlyStopping, Training

Loss = Callable[[nn.Module, Any], Any]
"""``loss(model, batch)`` to a tensor of one number, or to the pair of it and a dict of further numbers to record."""

FAILURES_IN_A_ROW = 10
"""So many failed batches, one after the other, end a run that skips them."""

_FAILURES = (SolveFailed, GradientFailed, FloatingPointError)

_PLACE = ("batch", "due", "waited", "failures", "best_parameters", "random_at_epoch", "random_at_step")
"""Attributes of the loop that say where it is."""

_END = object()


@dataclass
class Loop:
    """A run of :func:`pysciode.fitting.train`, whose arguments these are, checked."""

    model: nn.Module
    loss: Loss
    data: Batches
    optimizer: torch.optim.Optimizer
    scheduler: Any
    validation: Any
    epochs: int | None
    steps: int | None
    every: int | None
    early_stopping: EarlyStopping | None
    clip_norm: float | None
    skip: bool
    checkpoint: Path | None
    writer: Any

    def __post_init__(self) -> None:
        self.training = Training()
        self.batch = 0  # of the present epoch, batches done
        self.waited = 0  # validations since the best one
        self.best_parameters: dict[str, torch.Tensor] | None = None
        self.failures = 0  # in a row
        self.due = False  # a validation and a checkpoint
        self.by_step = self.every or (100 if self.data.single else None)
        self.plateau = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        self.random_at_epoch: dict[str, Any] | None = None
        self.random_at_step: dict[str, Any] | None = None

    # --- running ---

    def run(self, progress: bool) -> Training:
        """Train until the end, a lack of progress or Ctrl-C."""
        from tqdm.auto import tqdm

        training = self.training
        self.began = time.perf_counter() - training.seconds
        total, count = self.steps, self.data.count()
        if total is None and self.epochs is not None and count is not None:
            total = self.epochs * count
        self.bar = tqdm(total=total, initial=training.steps, disable=not progress, unit="step")
        training.stopped = "finished"
        try:
            with self.bar:
                if self.due:
                    self._after_some_steps()
                while not self._done():
                    self._epoch()
                self._after_some_steps()
        except KeyboardInterrupt:
            training.stopped = "interrupted"
            # What was begun and not finished is done again when the run is resumed.
            self.optimizer.zero_grad()
            self._save()
        restore = self.early_stopping is not None and self.early_stopping.restore_best
        if restore and self.best_parameters and training.stopped != "interrupted":
            self.model.load_state_dict(self.best_parameters)
        return training

    def _done(self) -> bool:
        training, stopping = self.training, self.early_stopping
        if stopping is not None and self.waited >= stopping.patience:
            training.stopped = "early stopping"
            return True
        if self.steps is not None:
            return training.steps >= self.steps
        return self.epochs is not None and training.epochs >= self.epochs

    def _epoch(self) -> None:
        self.model.train()
        batches = self._start_epoch()
        while (batch := next(batches, _END)) is not _END:
            self._step(batch)
            if self.by_step and self.training.steps % self.by_step == 0:
                self._after_some_steps()
            if self._done() and self.batch != self.data.count():
                return
        if self.batch == 0:
            raise ValueError("data has no batches")
        with without_interrupts():
            self.training.epochs += 1
            self.batch = 0
            self.random_at_step = self._random_states()
        if not self.by_step:
            self._after_some_steps()

    def _random_states(self) -> dict[str, Any] | None:
        return random_states(self.data.generators) if self.checkpoint is not None else None

    def _start_epoch(self) -> Iterator[Any]:
        generators = self.data.generators
        if self.batch == 0:
            self.random_at_epoch = self.random_at_step = self._random_states()
            return iter(self.data)
        # Resumed within an epoch: its order is drawn again, and what is done passed over.
        before, here = self.random_at_epoch, self.random_at_step
        if before is not None:
            set_random_states(before, generators)
        batches = iter(self.data)
        for _ in range(self.batch):
            next(batches)
        if here is not None:
            set_random_states(here, generators)
        return batches

    def _step(self, batch: Any) -> None:
        training = self.training
        row = {"step": training.steps + 1, "epoch": training.epochs + 1, "loss": math.nan}
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        try:
            closure = isinstance(self.optimizer, torch.optim.LBFGS)
            value, further = self._evaluate_gradient(batch) if not closure else (None, {})
            with without_interrupts():
                if closure:
                    value, further = self._closure_step(batch)
                else:
                    self.optimizer.step()
                self.failures = 0
                self._finish_step(row | {"loss": value} | further)
        except _FAILURES as error:
            if not self.skip or self.failures + 1 >= FAILURES_IN_A_ROW:
                raise
            warnings.warn(f"the batch of step {row['step']} is skipped: {error}", RuntimeWarning, stacklevel=2)
            with without_interrupts():
                self.optimizer.zero_grad()
                self.failures += 1
                training.skipped += 1
                self._finish_step(row)

    def _evaluate_gradient(self, batch: Any) -> tuple[float, dict[str, float]]:
        self.optimizer.zero_grad()
        loss, further = _split(self.loss(self.model, batch))
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {self.training.steps + 1}")
        loss.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        return value, further

    def _closure_step(self, batch: Any) -> tuple[float, dict[str, float]]:
        found: list[tuple[float, dict[str, float]]] = []

        def closure() -> float:
            found.append(self._evaluate_gradient(batch))
            return found[-1][0]

        self.optimizer.step(closure)
        return found[0]

    def _finish_step(self, row: dict[str, Any]) -> None:
        training = self.training
        if self.scheduler is not None and not self.plateau:
            self.scheduler.step()
        counts = evaluations(self.model)
        if counts is not None:
            row |= {"nfe_forward": counts[0], "nfe_backward": counts[1]}
        row["seconds"] = time.perf_counter() - self.began
        training.rows.append(row)
        training.steps += 1
        self.batch += 1
        self.random_at_step = self._random_states()
        self._show(row)
        self._log(row)

    # --- between steps ---

    def _after_some_steps(self) -> None:
        """Validate, then write a checkpoint."""
        self.due = True
        rows = self.training.rows
        if self.validation is not None and rows and "validation" not in rows[-1]:
            value = self._validation_loss()
            with without_interrupts():
                self._judge(value)
        self.due = False
        self._save()

    def _judge(self, value: float) -> None:
        """Note a validation loss."""
        training, stopping = self.training, self.early_stopping
        row = training.rows[-1]
        row["validation"] = value
        if training.best is None or value < training.best - (stopping.min_delta if stopping else 0.0):
            training.best, training.best_step, self.waited = value, training.steps, 0
            if stopping is not None:
                self.best_parameters = deepcopy(self.model.state_dict())
        else:
            self.waited += 1
        if self.plateau:
            self.scheduler.step(value)
        self._show(row)
        if self.writer is not None:
            self.writer.add_scalar("validation", value, training.steps)

    def _validation_loss(self) -> float:
        self.model.eval()
        here = random_states(self.data.generators)
        try:
            with torch.no_grad():
                if not isinstance(self.validation, Batches):
                    return float(self.validation(self.model))
                total = weight = 0.0
                for batch in self.validation:
                    size = samples(batch)
                    total += size * _split(self.loss(self.model, batch))[0].item()
                    weight += size
                return total / weight
        finally:
            self.model.train()
            # Training goes on as if nothing had been drawn: where it is validated doesn't change its numbers.
            set_random_states(here, self.data.generators)

    def _show(self, row: dict[str, Any]) -> None:
        if self.bar.disable:
            return
        shown = {name: f"{row[name]:.4g}" for name in ("loss", "validation") if name in row}
        if "nfe_forward" in row:
            shown["nfe"] = f"{row['nfe_forward']}/{row['nfe_backward']}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(self.training.steps - self.bar.n)

    def _log(self, row: dict[str, Any]) -> None:
        if self.writer is not None:
            for name, value in row.items():
                if name not in ("step", "epoch", "seconds"):
                    self.writer.add_scalar(name.replace("nfe_", "nfe/"), value, row["step"])

    # --- checkpoints ---

    def _save(self) -> None:
        self.training.seconds = time.perf_counter() - self.began
        if self.checkpoint is None:
            return
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "training": asdict(self.training),
            **{name: getattr(self, name) for name in _PLACE},
        }
        with without_interrupts():
            save(self.checkpoint, content)

    def restore(self, content: dict[str, Any]) -> None:
        """Go back to what a checkpoint holds.

        Raises
        ------
        ValueError
            If it is not this run's.
        """
        try:
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(content["scheduler"])
            self.training = Training(**content["training"])
            for name in _PLACE:
                setattr(self, name, content[name])
            if self.random_at_step is not None:
                set_random_states(self.random_at_step, self.data.generators)
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"checkpoint {self.checkpoint} is not of this model, optimiser, scheduler and data: {error}") from error
        self.training.resumed_at = self.training.steps


def evaluations(model: nn.Module) -> tuple[int, int] | None:
    """Evaluations forward and backward of the latest call of all blocks in `model`; None if it has none that count."""
    if hasattr(model, "nfe_forward"):
        block: Any = model
        return block.nfe_forward, block.nfe_backward
    found = [counts for child in model.children() if (counts := evaluations(child)) is not None]
    return (sum(x[0] for x in found), sum(x[1] for x in found)) if found else None


def _split(result: Any) -> tuple[torch.Tensor, dict[str, float]]:
    value, further = result if isinstance(result, tuple) else (result, {})
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise TypeError("loss must return a tensor of one number, or the pair of it and a dict of numbers")
    return value, {name: float(x) for name, x in further.items()}
