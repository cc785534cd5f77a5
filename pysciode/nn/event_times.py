"""Observation times as a Poisson process whose rate depends on the latent state.

Chen, Rubanova, Bettencourt, Duvenaud (NeurIPS 2018, arXiv:1806.07366), section 5, "Poisson Process likelihoods".
"""

from __future__ import annotations

from typing import Any

import torch

from .time_series import Observations, check_times


def event_log_likelihood(log_rates: torch.Tensor, integrals: torch.Tensor, observations: Observations) -> torch.Tensor:
    """``Σ log λ(z(tᵢ)) - ∫ λ(z(t)) dt``, shape ``(samples, batch)``.

    Parameters
    ----------
    log_rates
        ``log λ`` at the times of the observations, shape ``(samples, batch, n, m)``: one rate for whole rows, or one for
        each entry.
    integrals
        Integrals of the rates over the window, shape ``(samples, batch, m)``.

    Raises
    ------
    ValueError
        If `m` is neither 1 nor the number of entries of an observation.
    """
    m, d = log_rates.shape[-1], observations.values.shape[-1]
    if m not in (1, d):
        raise ValueError(f"intensity returns {m} entries; it must be {' or '.join(sorted({'1', str(d)}))}")
    happened = observations.rows[..., None] if m == 1 else observations.mask
    return torch.where(happened, log_rates, 0).sum((-2, -1)) - integrals.sum(-1)


def check_window(window: Any, observations: Observations) -> torch.Tensor:
    """The window as a tensor of shape ``(2,)`` or ``(batch, 2)``.

    Raises
    ------
    TypeError, ValueError
        If it is missing, not finite, reversed, or leaves out times of observations.
    """
    if window is None:
        raise ValueError("window is needed with an intensity: from when to when the observations were made")
    watched = check_times(window, "window", observations.values.dtype, len(observations.values), 2)
    if not (torch.isfinite(watched).all() and (watched[..., 0] <= watched[..., 1]).all()):
        raise ValueError("window must be finite, its start before its end")
    times = observations.times.expand(observations.rows.shape)
    if (((times < watched[..., :1]) | (times > watched[..., 1:])) & observations.rows).any():
        raise ValueError("window must hold all times of observations")
    return watched
