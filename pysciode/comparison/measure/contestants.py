"""What takes part in a comparison: a solver, alone or with a sensitivity method, of SciML or of a peer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from ...problems.ode import ODEProblem
from .rows import Counts


@dataclass(frozen=True)
class Task:
    """What all contestants are given; for gradients, a torch problem in which what is differentiated requires grad.

    Times to save at are float64; with `step_on_times` SciML's solvers take a step to each of them, instead of interpolating.
    """

    problem: ODEProblem
    saveat: np.ndarray
    rtol: float
    atol: float
    maxiters: int = 100_000
    step_on_times: bool = False


class Run(ABC):
    """A contestant made ready for one task. `forward` and, for gradients, `backward` are timed, in this order, many times over.

    The attributes are about the last of each: evaluations, steps accepted and rejected, and bytes that Julia allocated.
    """

    forward_counts: Counts = Counts()
    backward_counts: Counts = Counts()
    steps: int | None = None
    rejected: int | None = None
    allocated: int | None = None

    @abstractmethod
    def forward(self) -> torch.Tensor:
        """Solve; the states, detached, shape ``(k, *shape of u0)``. Raises a PysciodeError if the solver gave up."""

    def backward(self, cotangent: torch.Tensor) -> dict[str, np.ndarray]:
        """The gradient for ``cotangent = ∂L/∂u`` of the last `forward`: a flat float64 array for each block.

        Raises a PysciodeError if the method can't vouch for it.
        """
        raise NotImplementedError

    def kept_memory(self) -> int | None:
        """Bytes that are held now, between `forward` and `backward`."""
        return None


@dataclass(frozen=True)
class Contestant(ABC):
    """A solver, a sensitivity method (None: a solve alone) and a choice of VJP; the fields are those of a `GradientRow`."""

    solver: str
    method: str | None
    vjp: str | None
    engine: str
    options: Mapping[str, object] = field(default_factory=dict)

    @abstractmethod
    def prepare(self, task: Task) -> Run:
        """Make ready for `task`; cheap, nothing is solved or compiled yet.

        Raises EngineUnavailable if a package is not installed, or this engine can't express the model.
        """
