"""Checkpoints from which a training run goes on as if it had never stopped: random states, and files written atomically."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch


def random_states(generators: Sequence[torch.Generator] = ()) -> dict[str, Any]:
    """States of torch's, NumPy's and Python's random numbers and of further generators, as tensors and plain values."""
    numpy_state: Any = np.random.get_state()
    name, keys, *rest = numpy_state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": random.getstate(),
        "generators": [g.get_state() for g in generators],
    }


def set_random_states(states: dict[str, Any], generators: Sequence[torch.Generator] = ()) -> None:
    """Go back to what `random_states` returned."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, inner, gauss = states["python"]
    random.setstate((version, tuple(inner), gauss))
    for generator, state in zip(generators, states["generators"], strict=True):
        generator.set_state(state)


def seed_all(seed: int) -> None:
    """Seed torch's, NumPy's and Python's random numbers."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; a reader finds the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; its pickle may hold only tensors and plain values.

    Raises
    ------
    ValueError
        If it can't be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint {path} can't be read: {error}") from error


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the block is over."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if in_main else None
    if before is None:  # another thread never sees it, and a handler that isn't Python's can't be put back
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda *_: came.append(1))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
