"""Regularisation of neural ODEs: integrals along the solution, for a loss to add, so that the solver takes fewer steps.

Finlay, Jacobsen, Nurbekyan, Oberman, "How to Train Your Neural ODE: the World of Jacobian and Kinetic Regularization"
(2020, arXiv:2002.02798); Kelly, Bettencourt, Johnson, Duvenaud, "Learning Differential Equations that are Easy to
Solve" (2020, arXiv:2007.04504).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .divergence import Noise, draw_noise

Field = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``f(t, u)`` on a batch of states, sample by sample; `t` is one time, or one for each sample, shape ``(batch,)``."""


@dataclass(frozen=True)
class Regularization:
    """The integrals over the time span that are added for each sample, and their weights.

    All are sums over the entries of the state, as in the papers, not means.

    Attributes
    ----------
    kinetic
        Weight of ``∫ ‖f(t, u)‖² dt`` (Finlay et al.): short, straight paths.
    jacobian
        Weight of ``∫ ‖εᵀ ∂f/∂u‖² dt`` (Finlay et al.), whose expectation over the noise ``ε``, drawn once for a
        solve, is the squared Frobenius norm of the Jacobian.
    derivative
        Weight of ``∫ ‖dᵏu/dtᵏ‖² dt`` with ``k = order`` (Kelly et al.): solutions that a solver of that order finds
        easy.
    order
        The order `k` of that derivative, at least 2. It is taken by nested forward mode, whose cost doubles with each
        order.
    noise
        Distribution of ``ε``.

    Raises
    ------
    ValueError
        For a negative weight, no weight at all, or an order below 2.
    """

    kinetic: float = 0.0
    jacobian: float = 0.0
    derivative: float = 0.0
    order: int = 2
    noise: Noise = "rademacher"

    def __post_init__(self) -> None:
        for name in _TERMS:
            weight = getattr(self, name)
            if not (isinstance(weight, (int, float)) and 0 <= weight < math.inf):
                raise ValueError(f"{name} must be a finite number that is not negative, not {weight!r}")
        if not self.terms:
            raise ValueError(f"a regularisation needs a positive weight: {', '.join(_TERMS)}")
        if not isinstance(self.order, int) or self.order < 2:
            raise ValueError(f"order must be a whole number from 2 on, not {self.order!r}; order 1 is the kinetic term")
        if self.noise not in ("rademacher", "gaussian"):
            raise ValueError(f"noise must be 'rademacher' or 'gaussian', not {self.noise!r}")

    @property
    def terms(self) -> tuple[str, ...]:
        """The integrals taken, in the order of their columns."""
        return tuple(name for name in _TERMS if getattr(self, name) > 0)

    def weights(self, like: torch.Tensor) -> torch.Tensor:
        """The weights of `terms`, with the dtype and device of `like`."""
        return like.new_tensor([getattr(self, name) for name in self.terms])

    def draw_noise(self, u: torch.Tensor) -> dict[str, torch.Tensor]:
        """``{"noise": ε}`` for one solve, shaped as `u`, from torch's random numbers; empty where no term needs it."""
        if not self.jacobian:
            return {}
        return {"noise": draw_noise(u, self.noise)}

    def rates(self, field: Field, t: torch.Tensor, u: torch.Tensor, noise: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """``f(t, u)``, and what is integrated beside it.

        Parameters
        ----------
        field
            The dynamics.
        t, u
            Where; `u` of shape ``(batch, …)``.
        noise
            The noise of `draw_noise`; None where no term needs it.

        Returns
        -------
        du, rates
            The derivative, of the shape of `u`, and the integrands, shape ``(batch, terms)``.
        """
        if self.jacobian:
            du, pullback = torch.func.vjp(lambda u: field(t, u), u)[:2]
        else:
            du = field(t, u)
        columns = []
        if self.kinetic:
            columns.append(_squares(du))
        if self.jacobian:
            columns.append(_squares(pullback(noise)[0]))
        if self.derivative:
            columns.append(_squares(_time_derivative(field, self.order)(t, u)))
        return du, torch.stack(columns, 1)


_TERMS = ("kinetic", "jacobian", "derivative")


def _squares(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(x.shape[0], -1).square().sum(1)


def _time_derivative(field: Field, order: int) -> Field:
    """``dᵏu/dtᵏ`` along solutions: ``g₁ = f`` and ``gₖ₊₁ = ∂gₖ/∂t + ∂gₖ/∂u f``."""
    if order == 1:
        return field
    lower = _time_derivative(field, order - 1)

    def derivative(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        u = u.contiguous()  # under vmap, torch demands of a tangent the strides of its primal
        return torch.func.jvp(lower, (t, u), (torch.ones_like(t), field(t, u).contiguous()))[1]

    return derivative
