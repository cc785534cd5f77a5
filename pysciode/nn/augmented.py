"""Neural ODEs in more dimensions than their input has.

Dupont, Doucet, Teh, "Augmented Neural ODEs" (NeurIPS 2019, arXiv:1904.01681); the learned lift is the input-layer
augmentation of Massaroli, Poli, Park, Yamashita, Asama, "Dissecting Neural ODEs" (NeurIPS 2020, arXiv:2002.08071).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from ..arrays.real_values import whole_number
from .neural_ode import NeuralODE


class AugmentedNeuralODE(nn.Module):
    """A :class:`NeuralODE` whose states have further entries beside those of the input.

    Paths of an ODE don't cross, so a neural ODE on the input's own space can't map ``-1`` to ``1`` and ``1`` to ``-1``,
    nor pull a ball out of a shell around it; with one more dimension they go past each other (Dupont et al.,
    propositions 1 and 2).

    Parameters
    ----------
    dynamics
        As in `NeuralODE`, on the augmented states.
    augment
        How many entries (of images, channels) are added behind those of the input, along axis 1.
    lift
        ``"zero"``: they start from zero (Dupont et al.). A module: with ``augment=k`` it gives their ``k`` starting
        values from the input; with ``augment=0`` it gives the whole state (IL-NODE of Massaroli et al.).
    project
        None: the whole state is returned; ``"drop"``: the added entries are dropped; a module is applied to every
        state.
    options
        Further arguments of `NeuralODE`.

    Attributes
    ----------
    block
        The `NeuralODE`.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.
    """

    def __init__(
        self,
        dynamics: nn.Module,
        augment: int = 0,
        *,
        lift: nn.Module | Literal["zero"] = "zero",
        project: nn.Module | Literal["drop"] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        whole_number(augment, "augment", 0)
        if not isinstance(lift, nn.Module) and lift != "zero":
            raise TypeError(f"lift must be 'zero' or an nn.Module, not {lift!r}")
        if not isinstance(project, nn.Module) and project not in (None, "drop"):
            raise TypeError(f"project must be None, 'drop' or an nn.Module, not {project!r}")
        if augment == 0 and lift == "zero":
            raise ValueError("augment must be positive where lift is 'zero'")
        if augment == 0 and project == "drop":
            raise ValueError("project can't be 'drop' where lift gives the whole state: nothing of it is the input's")
        self.block = NeuralODE(dynamics, **options)
        self.augment = augment
        self.lift = lift
        self.project = project

    def forward(self, x: torch.Tensor, times: Any = None) -> Any:
        """As `NeuralODE.forward`, from inputs of shape ``(batch, n, …)``.

        Raises
        ------
        TypeError, ValueError
            If the input or what `lift` made of it has a wrong shape.
        """
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"x must be a tensor, not {type(x).__name__}")
        if x.ndim < 2:
            raise ValueError(f"x has shape {tuple(x.shape)}; it must be (batch, n, …)")
        out, width = self.block(self._augmented(x), times), x.shape[1]
        match self.block.returns:
            case "end":
                return self._projected(out, width)
            case "trajectory":
                return self._projected_path(out, width)
        return self._projected(out[0], width), self._projected_path(out[1], width)

    def _augmented(self, x: torch.Tensor) -> torch.Tensor:
        wanted = (x.shape[0], self.augment, *x.shape[2:])
        if not isinstance(self.lift, nn.Module):
            return torch.cat([x, x.new_zeros(wanted)], 1)
        lifted = self.lift(x)
        if self.augment == 0:
            return lifted
        if tuple(lifted.shape) != wanted:
            raise ValueError(f"lift returned the shape {tuple(lifted.shape)}; with augment={self.augment} it must be {wanted}")
        return torch.cat([x, lifted], 1)

    def _projected(self, u: torch.Tensor, width: int) -> torch.Tensor:
        if self.project is None:
            return u
        return self.project(u) if isinstance(self.project, nn.Module) else u[:, :width]

    def _projected_path(self, u: torch.Tensor, width: int) -> torch.Tensor:
        """States of all times as one batch."""
        return self._projected(u.flatten(0, 1), width).unflatten(0, u.shape[:2])

    @property
    def nfe_forward(self) -> int:
        """As `NeuralODE.nfe_forward`."""
        return self.block.nfe_forward

    @property
    def nfe_backward(self) -> int:
        """As `NeuralODE.nfe_backward`."""
        return self.block.nfe_backward

    @property
    def engine(self) -> str | None:
        """Which engine solved the latest call."""
        return self.block.engine

    @property
    def regularization(self) -> torch.Tensor | None:
        """As `NeuralODE.regularization`."""
        return self.block.regularization
