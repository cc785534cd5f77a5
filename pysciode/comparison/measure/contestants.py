"""What takes part in a comparison: a solver with a sensitivity method, on one engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from ...problems.base import Problem
from .rows import Counts


@dataclass(frozen=True)
class Task:
    """What all contestants are given: the same problem, saved times and tolerances.

    Attributes
    ----------
    problem
        A torch problem in which ``u0`` and parameters that are differentiated require grad.
    saveat
        Times to save at, float64, shape ``(k,)``.
    """

    problem: Problem
    saveat: np.ndarray
    rtol: float
    atol: float
    maxiters: int = 100_000


class GradientRun(ABC):
    """A contestant made ready for one task. `forward` and `backward` are timed, in this order, many times over."""

    @abstractmethod
    def forward(self) -> torch.Tensor:
        """Solve; the states, detached, shape ``(k, *shape of u0)``. Keeps what `backward` needs.

        Raises
        ------
        PysciodeError
            If the solver gave up.
        """

    @abstractmethod
    def backward(self, cotangent: torch.Tensor) -> dict[str, np.ndarray]:
        """The gradient ``∂L/∂(u0, p)`` for ``cotangent = ∂L/∂u`` of the last `forward`: a flat float64 array for each block.

        Raises
        ------
        PysciodeError
            If the method can't vouch for a gradient.
        """

    def counts(self) -> tuple[Counts, Counts]:
        """Evaluations in the last `forward` and the last `backward`."""
        return Counts(), Counts()

    def steps(self) -> int | None:
        """Accepted steps of the last `forward`."""
        return None

    def allocated(self) -> int | None:
        """Bytes that Julia allocated in the last `forward` and `backward`."""
        return None

    def kept_memory(self) -> int | None:
        """Bytes that are held now, between `forward` and `backward`."""
        return None


@dataclass(frozen=True)
class Contestant(ABC):
    """A solver, a sensitivity method and a choice of VJP; see :class:`~pysciode.comparison.measure.rows.GradientRow` for the fields."""

    solver: str
    method: str
    vjp: str | None
    engine: str
    options: Mapping[str, object] = field(default_factory=dict)

    @abstractmethod
    def prepare(self, task: Task) -> GradientRun:
        """Make ready for `task`; cheap, nothing is solved or compiled yet.

        Raises
        ------
        EngineUnavailable
            If a package is not installed, or this engine can't express the model; the reason is one line.
        """
