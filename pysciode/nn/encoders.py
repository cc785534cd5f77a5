"""From irregular observations to a distribution of the latent state: recognition networks of latent ODEs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import softplus
from torch.nn.utils.rnn import pack_padded_sequence

from ..arrays.real_values import whole_number
from ..arrays.torch_compile import opaque
from ..methods.algorithms import Algorithm
from ..solving.solution import Statistics
from .neural_ode import NeuralODE
from .time_series import Observations, Steps

_SMALLEST_SD = 1e-4


class RNNEncoder(nn.Module):
    """A GRU that reads the observations backwards in time, with the gaps between them and the mask.

    Chen, Rubanova, Bettencourt, Duvenaud (NeurIPS 2018, arXiv:1806.07366), section 5; gaps and masks as inputs after Che,
    Purushotham, Cho, Sontag, Liu, "Recurrent Neural Networks for Multivariate Time Series with Missing Values" (2018,
    arXiv:1606.01865). The gap that comes with an observation is the time since the one before it, that of the first since
    the time of the latent state: so the network knows the distance to it.

    Parameters
    ----------
    input_dim, hidden_dim, latent_dim
        Entries of an observation, of the GRU's state and of the latent state.
    gaps, masks
        Whether the network's inputs include the gaps, and the mask of observed entries. Without `masks` a missing value in a row
        that was observed reads as zero.
    """

    def __init__(self, input_dim: int, hidden_dim: int, latent_dim: int, *, gaps: bool = True, masks: bool = True) -> None:
        super().__init__()
        _check_widths(input_dim=input_dim, hidden_dim=hidden_dim, latent_dim=latent_dim)
        self.gaps = gaps
        self.masks = masks
        self.rnn = nn.GRU(input_dim * (1 + masks) + gaps, hidden_dim, batch_first=True)
        self.head = nn.Linear(hidden_dim, 2 * latent_dim)

    def forward(self, observations: Observations, t0: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latent state at `t0`, each of shape ``(batch, latent_dim)``."""
        steps = observations.backwards()
        inputs = [steps.values, *([steps.mask] if self.masks else [])]
        if self.gaps:
            earlier = torch.cat([steps.times[:, 1:], steps.times.new_full((len(steps.times), 1), t0)], 1)
            last = steps.observed.sum(1, keepdim=True) - 1
            earlier = earlier.scatter(1, last.clamp(min=0), t0)
            inputs.append((steps.times - earlier)[..., None])
        lengths = steps.observed.sum(1)
        sequence = torch.cat(inputs, 2)
        if (lengths < sequence.shape[1]).any():
            lengths = lengths.clamp(min=1)
            sequence = pack_padded_sequence(sequence, lengths, batch_first=True, enforce_sorted=False)
        hidden = self.rnn(sequence)[1][0]
        return _mean_and_sd(self.head(torch.where(steps.observed[:, :1], hidden, 0)))


class ODERNNEncoder(nn.Module):
    """A GRU whose state follows an ODE between observations, backwards in time: the ODE-RNN.

    Rubanova, Chen, Duvenaud, "Latent ODEs for Irregularly-Sampled Time Series" (NeurIPS 2019, arXiv:1907.03907), sections
    3.1 and 3.2. Each sample has its own times: between two of its observations its time runs from 0 to 1, so that a solve
    serves the whole batch, and there are as many as the longest sample has observations, not as there are different times.

    Parameters
    ----------
    input_dim, hidden_dim, latent_dim
        Entries of an observation, of the GRU's state and of the latent state.
    dynamics
        ``forward(h)`` or ``forward(t, h)`` on states of shape ``(batch, hidden_dim)``.
    masks
        Whether the GRU's input includes the mask of observed entries.
    algorithm, rtol, atol
        By default ``Tsit5()``.
    dt
        First step, as a part of the interval between two observations; by default the whole of it.
    solver_options
        Further arguments of :class:`NeuralODE`, such as `sensealg` or `engine`.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        latent_dim: int,
        dynamics: nn.Module,
        *,
        masks: bool = True,
        algorithm: Algorithm | str | None = None,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        dt: float = 1.0,
        **solver_options: Any,
    ) -> None:
        super().__init__()
        _check_widths(input_dim=input_dim, hidden_dim=hidden_dim, latent_dim=latent_dim)
        for name in ("returns", "regularization", "t_span"):
            if name in solver_options:
                raise TypeError(f"{name} can't be given: the encoder solves from one observation to the next")
        self.masks = masks
        self.flow = NeuralODE(dynamics, algorithm=algorithm, rtol=rtol, atol=atol, dt=dt, **solver_options)
        self.cell = nn.GRUCell(input_dim * (1 + masks), hidden_dim)
        self.head = nn.Linear(hidden_dim, 2 * latent_dim)
        self._statistics: list[Statistics] = []

    def forward(self, observations: Observations, t0: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latent state at `t0`, each of shape ``(batch, latent_dim)``."""
        steps = observations.backwards()
        self._statistics = []
        return _mean_and_sd(self.head(self.hidden(steps, t0)))

    @opaque
    def hidden(self, steps: Steps, t0: float) -> torch.Tensor:
        """The GRU's state at `t0`, shape ``(batch, hidden_dim)``; zero where nothing was observed."""
        inputs = torch.cat([steps.values, steps.mask], 2) if self.masks else steps.values
        hidden = inputs.new_zeros(len(inputs), self.cell.hidden_size)
        before = steps.times[:, 0]
        for x, time, observed in zip(inputs.unbind(1), steps.times.unbind(1), steps.observed.unbind(1), strict=True):
            updated = self.cell(x, self._flow(hidden, before, time))
            hidden = torch.where(observed[:, None], updated, hidden)
            before = time
        empty = ~steps.observed[:, 0]
        end = torch.where(empty, before, torch.full_like(before, t0))
        return self._flow(hidden, before, end)

    def _flow(self, hidden: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        if torch.equal(start, end):
            return hidden
        hidden = self.flow(hidden, torch.stack([start, end], 1))
        self._statistics += self.flow.statistics
        return hidden

    @property
    def statistics(self) -> list[Statistics]:
        """The statistics of the latest call's solves."""
        return self._statistics


def _mean_and_sd(raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, sd = raw.chunk(2, -1)
    return mean, softplus(sd) + _SMALLEST_SD


def _check_widths(**widths: int) -> None:
    for name, width in widths.items():
        whole_number(width, name, 1)
