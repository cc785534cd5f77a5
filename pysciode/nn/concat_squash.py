"""The usual networks for the dynamics of continuous flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn


class ConcatSquash(nn.Module):
    """A linear layer that time gates and shifts: ``(W x + b) σ(w₁ t + b₁) + w₂ t``.

    The layer of the experiments in Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, "FFJORD: Free-form Continuous
    Dynamics for Scalable Reversible Generative Models" (ICLR 2019, arXiv:1810.01367).
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.gate = nn.Linear(1, n_out)
        self.shift = nn.Linear(1, n_out, bias=False)

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        time = t.reshape(1)
        return self.linear(x) * torch.sigmoid(self.gate(time)) + self.shift(time)


class ConcatSquashNetwork(nn.Module):
    """Concat-squash layers with a smooth activation between them: a time-dependent vector field ``f(t, x)``.

    Parameters
    ----------
    dim
        Entries of `x` that move, and of the field.
    hidden
        Widths of the hidden layers.
    context
        Entries of a context, which follow those of `x` in the input.
    activation
        Between the layers; it has to have a second derivative, because the divergence takes the first.

    Raises
    ------
    ValueError
        For a width that is not positive, or no hidden layer.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64, 64),
        *,
        context: int = 0,
        activation: Callable[[torch.Tensor], torch.Tensor] = torch.tanh,
    ) -> None:
        super().__init__()
        if not hidden or min(dim, *hidden) < 1 or context < 0:
            raise ValueError(f"dim, hidden and context must be positive, not {dim!r}, {hidden!r} and {context!r}")
        widths = [dim + context, *hidden, dim]
        self.layers = nn.ModuleList(ConcatSquash(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.activation = activation

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        *inner, last = self.layers
        for layer in inner:
            x = self.activation(layer(t, x))
        return last(t, x)
