"""Lower bounds of the log likelihood of latent variable models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.distributions import Normal, kl_divergence


@dataclass(frozen=True)
class ELBO:
    """A lower bound of the log likelihood of each series, and its parts: tensors of shape ``(batch,)``.

    Attributes
    ----------
    value
        The bound: what is maximised.
    log_likelihood
        ``E log p(x | z)``, of the observed values.
    event_log_likelihood
        ``E log p(times | z)``; zero without an intensity.
    kl
        ``KL(q(z) ‖ p(z))``, unweighted.
    """

    value: torch.Tensor
    log_likelihood: torch.Tensor
    event_log_likelihood: torch.Tensor
    kl: torch.Tensor

    @classmethod
    def of(
        cls,
        posterior: Normal,
        z: torch.Tensor,
        log_likelihood: torch.Tensor,
        event_log_likelihood: torch.Tensor,
        kl_weight: float = 1.0,
        importance_weighted: bool = False,
    ) -> ELBO:
        """From samples of a latent state whose prior is standard normal.

        Parameters
        ----------
        posterior
            The approximate posterior, of shape ``(batch, latent_dim)``.
        z
            Its samples, shape ``(samples, batch, latent_dim)``.
        log_likelihood, event_log_likelihood
            Of what was seen, given each sample: shape ``(samples, batch)``.
        kl_weight
            Weight of the Kullback–Leibler divergence from the prior.
        importance_weighted
            Whether `value` is the bound of Burda, Grosse, Salakhutdinov, "Importance Weighted Autoencoders" (ICLR 2016,
            arXiv:1509.00519), equation 8.
        """
        prior = Normal(torch.zeros_like(posterior.mean), torch.ones_like(posterior.mean))
        kl = kl_divergence(posterior, prior).sum(-1)
        joint = log_likelihood + event_log_likelihood
        if importance_weighted:
            log_weights = joint + (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
            value = torch.logsumexp(log_weights, 0) - math.log(len(z))
        else:
            value = joint.mean(0) - kl_weight * kl
        return cls(value, log_likelihood.mean(0), event_log_likelihood.mean(0), kl)


def check_weight(kl_weight: float, importance_weighted: bool) -> None:
    """Refuse invalid weights.

    Raises
    ------
    ValueError
        If it is negative or not finite, or not 1 where the bound is importance-weighted.
    """
    if not (math.isfinite(kl_weight) and kl_weight >= 0):
        raise ValueError(f"kl_weight must be finite and not negative, not {kl_weight!r}")
    if importance_weighted and kl_weight != 1:
        raise ValueError("kl_weight must be 1 for the importance-weighted bound")
