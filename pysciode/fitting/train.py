"""A training loop for torch models: progress, early stopping, checkpoints that resume exactly, logs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..arrays.real_values import whole_number
from .batches import Batches
from .checkpoint import load, seed_all
from .loop import Loop, Loss
from .train_result import EarlyStopping, Training


def train(
    model: nn.Module,
    loss: Loss,
    data: Any,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    scheduler: Any = None,
    validation: Any = None,
    every: int | None = None,
    early_stopping: EarlyStopping | int | None = None,
    clip_norm: float | None = None,
    on_failure: Literal["raise", "skip"] = "raise",
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = True,
    seed: int | None = None,
    progress: bool = True,
    log: Any = None,
) -> Training:
    """Train a model.

    Ctrl-C ends the run as if it were over: a checkpoint is written, where one is asked for, and what there is returned.

    Parameters
    ----------
    model
        Any torch module; it is trained in training mode, validated in evaluation mode and left in the mode that it came
        in.
    loss
        ``loss(model, batch)`` to the loss, a tensor of one number, or to the pair of it and a dict of further numbers.
    data
        A torch ``DataLoader``, a list of batches or anything else that can be gone through again and again; a tensor,
        or a tuple of tensors, which is one batch; None, if the loss draws its own data.
    optimizer
        Any of torch's.
    epochs, steps
        How long: passes through the data, or steps of the optimiser. One of the two.
    scheduler
        A scheduler of learning rates, stepped after each step of the optimiser; ``ReduceLROnPlateau``, after each
        validation.
    validation
        Data for the same loss, or a function of the model to a number. It runs without gradients, in evaluation mode,
        and the random numbers that it draws don't change those of the training.
    every
        Steps between validations and checkpoints; by default a pass through `data`, or 100 steps where that is one
        batch.
    early_stopping
        An `EarlyStopping`, or its patience.
    clip_norm
        Largest norm of the gradient of all parameters; longer ones are scaled down.
    on_failure
        What happens where a solve or gradient fails, or the loss is not finite: ``"skip"`` passes the batch over, with
        a warning, as long as not `FAILURES_IN_A_ROW` of them fail.
    checkpoint
        A file to write the state of the run to, as a whole: model, optimiser, scheduler, random numbers, history.
    resume
        Whether to go on from that file, if it exists. The numbers are then those of a run without interruption, if the
        order of the data depends on torch's, NumPy's or Python's random numbers or the loader's own generator.
    seed
        Seed of these random numbers; not used where a run is resumed.
    progress
        Whether to show a bar with the loss and, where the model counts them, evaluations of the dynamics.
    log
        A folder for TensorBoard, or a ``SummaryWriter``.

    Returns
    -------
    Training
        Its `history` has a row for each step.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.
    ImportError
        If `log` names a folder and TensorBoard is not installed.
    SolveFailed, GradientFailed, FloatingPointError
        See `on_failure`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, not {type(model).__name__}")
    if not callable(loss):
        raise TypeError(f"loss must be a function of model and batch, not {type(loss).__name__}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be one of torch's optimisers, not {type(optimizer).__name__}")
    if (epochs is None) == (steps is None):
        raise ValueError("give epochs or steps, one of the two")
    for name, value in (("epochs", epochs), ("steps", steps), ("every", every)):
        if value is not None:
            whole_number(value, name, 1)
    if on_failure not in ("raise", "skip"):
        raise ValueError(f"on_failure must be 'raise' or 'skip', not {on_failure!r}")
    if isinstance(early_stopping, int):
        early_stopping = EarlyStopping(early_stopping)
    if early_stopping is not None and validation is None:
        raise ValueError("early_stopping goes by a validation loss: give validation")
    loop = Loop(
        model=model,
        loss=loss,
        data=Batches(data, "data"),
        optimizer=optimizer,
        scheduler=scheduler,
        validation=validation if validation is None or _is_function(validation) else Batches(validation, "validation"),
        epochs=epochs,
        steps=steps,
        every=every,
        early_stopping=early_stopping,
        clip_norm=clip_norm,
        skip=on_failure == "skip",
        checkpoint=None if checkpoint is None else Path(checkpoint),
        writer=_writer(log),
    )
    if loop.checkpoint is not None and resume and loop.checkpoint.exists():
        loop.restore(load(loop.checkpoint))
    elif seed is not None:
        seed_all(seed)
    mode = model.training
    try:
        return loop.run(progress)
    finally:
        model.train(mode)
        if log is not None and loop.writer is not log:
            loop.writer.close()


def _is_function(x: Any) -> bool:
    return callable(x) and not isinstance(x, (torch.Tensor, Iterable))


def _writer(log: Any) -> Any:
    if log is None or hasattr(log, "add_scalar"):
        return log
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("log needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter(str(log))
