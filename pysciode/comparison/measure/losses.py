"""The loss, a function of the saved states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ...errors import PysciodeError


@dataclass(frozen=True)
class SavedStates:
    """The argument of a loss: saved times, shape ``(k,)``, and states, shape ``(k, *shape of u0)``, from any solver.

    Those of a second-order or dynamical problem (`partitioned`) are velocities and positions.
    """

    t: torch.Tensor
    states: torch.Tensor
    partitioned: bool = False

    @property
    def u(self) -> torch.Tensor:
        """Saved states; of a second-order or dynamical problem the positions."""
        return self.states[:, 1] if self.partitioned else self.states

    @property
    def v(self) -> torch.Tensor:
        """Velocities of a second-order problem, first part of a dynamical one."""
        if not self.partitioned:
            raise AttributeError("the solution of this problem has no v")
        return self.states[:, 0]

    def __len__(self) -> int:
        return len(self.t)


Loss = Callable[[SavedStates], torch.Tensor]
"""``loss(solution) -> scalar tensor``."""


def sum_of_squares(solution: SavedStates) -> torch.Tensor:
    """The default loss: the sum of the squares of all saved states."""
    return solution.states.square().sum()


class LossNotFinite(PysciodeError):
    """The loss, or its derivative, is not finite at a contestant's solution."""


@dataclass(frozen=True)
class LossFunction:
    """A user's loss, as a function of the states at `times` with its derivative."""

    loss: Loss
    times: np.ndarray
    partitioned: bool

    def __call__(self, states: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Value and cotangent, of the shape of `states`.

        Raises TypeError or ValueError if the loss does not give one number that depends on the states, and LossNotFinite.
        """
        leaf = states.detach().clone().requires_grad_()
        with torch.enable_grad():
            value = self._of(leaf)
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"loss must return a torch tensor, not {type(value).__name__}: compute it with torch from sol.u")
        if value.numel() != 1:
            raise ValueError(f"loss must return one number, but its result has shape {tuple(value.shape)}")
        if not value.requires_grad:
            raise ValueError("loss must depend on the solution through torch operations, and its result carries no gradient")
        (cotangent,) = torch.autograd.grad(value.reshape(()), leaf, allow_unused=True, materialize_grads=True)
        if not (bool(torch.isfinite(value)) and bool(torch.isfinite(cotangent).all())):
            raise LossNotFinite(f"the loss or its derivative is not finite (loss {value.item():g})")
        return value.item(), cotangent

    def value(self, states: torch.Tensor) -> float:
        """The value alone."""
        with torch.no_grad():
            return float(self._of(states))

    def _of(self, states: torch.Tensor) -> torch.Tensor:
        return self.loss(SavedStates(torch.from_numpy(self.times).to(states.dtype), states, self.partitioned))
