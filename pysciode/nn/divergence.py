"""The divergence of a vector field, ``tr ∂f/∂x``: exact, or estimated without bias from one random direction.

Both are written with torch's own function transforms, so that they are captured together with the field, and
differentiated again for gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

Noise = Literal["rademacher", "gaussian"]
VectorField = Callable[[torch.Tensor], torch.Tensor]
"""``f(x)`` on a batch of points, shape ``(batch, …)`` to the same, each sample for itself."""


class Divergence(NamedTuple):
    """A field, its divergence, and the Jacobian's norm, which costs nothing more.

    Attributes
    ----------
    value
        ``f(x)``, the shape of `x`.
    trace
        ``tr ∂f/∂x`` or its estimate, shape ``(batch,)``.
    squared_norm
        ``‖∂f/∂x‖²`` in the Frobenius norm, or its estimate, shape ``(batch,)``.
    """

    value: torch.Tensor
    trace: torch.Tensor
    squared_norm: torch.Tensor


def exact_divergence(f: VectorField, x: torch.Tensor) -> Divergence:
    """All rows of the Jacobian, by one vectorised reverse pass over a unit vector for each of a sample's `n` entries.

    It costs about as much as ``n + 1`` evaluations of `f`, in the memory of ``n``.
    """
    value, pullback = torch.func.vjp(f, x)[:2]
    batch, event = x.shape[0], x.shape[1:]
    n = event.numel()
    unit = torch.eye(n, dtype=x.dtype, device=x.device).reshape(n, 1, *event).expand(n, *x.shape).contiguous()
    rows = torch.vmap(pullback)(unit)[0]
    trace = (rows * unit).reshape(n, batch, n).sum((0, 2))
    return Divergence(value, trace, rows.square().reshape(n, batch, n).sum((0, 2)))


def hutchinson_divergence(f: VectorField, x: torch.Tensor, noise: torch.Tensor) -> Divergence:
    """``εᵀ ∂f/∂x ε`` and ``‖εᵀ ∂f/∂x‖²`` by one vector-Jacobian product.

    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines"
    (Communications in Statistics 18, 1989). Grathwohl et al., "FFJORD" (2019, arXiv:1810.01367), section 3.1: with the
    same noise throughout a solve, the integral of the estimate is unbiased too. Finlay et al., "How to Train Your
    Neural ODE" (2020, arXiv:2002.02798): the squared length of the same row estimates the Jacobian's squared Frobenius
    norm.

    Parameters
    ----------
    noise
        Noise of the shape of `x`, with mean 0 and unit covariance; no gradient goes to it.
    """
    noise = noise.detach()
    value, pullback = torch.func.vjp(f, x)[:2]
    (row,) = pullback(noise)
    return Divergence(value, (row * noise).flatten(1).sum(1), row.square().flatten(1).sum(1))


def draw_noise(x: torch.Tensor, noise: Noise, generator: torch.Generator | None = None) -> torch.Tensor:
    """A direction for each sample.

    ``"rademacher"`` signs give the estimate the lowest variance among independent entries.
    """
    like = {"dtype": x.dtype, "device": x.device}
    if noise == "gaussian":
        return torch.randn(x.shape, generator=generator, **like)
    return torch.randint(0, 2, x.shape, generator=generator, **like) * 2 - 1
