"""Latent ODEs: generative models of irregular time series.

Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations" (NeurIPS 2018, arXiv:1806.07366), section 5;
Rubanova, Chen, Duvenaud, "Latent ODEs for Irregularly-Sampled Time Series" (NeurIPS 2019, arXiv:1907.03907).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributions import Normal

from ..arrays.real_values import whole_number
from ..arrays.torch_compile import opaque
from ..capture.torch.arguments import infer_signature
from ..engines.base import Engine
from ..methods.adjoints import SensitivityAlgorithm, check_sensealg
from ..methods.algorithms import Algorithm, Tsit5, check_algorithm
from ..solving.options import check_reserved
from .call_record import LatestCall
from .elbo import ELBO, check_weight
from .event_times import check_window, event_log_likelihood
from .latent_path import LatentPath, by_rows, follow, latent_field
from .time_series import Observations, check_times
from .trajectory import Field


class LatentODE(LatestCall, nn.Module):
    """A variational autoencoder of time series whose latent state follows an ODE.

    ``z(t0) ~ N(0, 1)``, ``dz/dt = dynamics(z)``, ``x(t) ~ N(decoder(z(t)), sd)``. The encoder gives the approximate
    posterior of ``z(t0)``.

    Parameters
    ----------
    encoder
        :class:`RNNEncoder`, :class:`ODERNNEncoder`, or any module that makes of :class:`Observations` and `t0` a mean and
        a standard deviation of shape ``(batch, latent_dim)``.
    dynamics
        A module with ``forward(z)`` or ``forward(t, z)``, each row of `z` for itself. It should be smooth (tanh, ELU,
        softplus): see `Notes`.
    decoder
        A module from rows of latent states, shape ``(rows, latent_dim)``, to the means of observations, ``(rows, d)``.
    latent_dim
        Entries of `z`.
    t0
        The time of the latent prior, the same for all series. Observations and predictions may lie before it.
    observation_sd
        Standard deviation of the noise: a number, or one for each of the ``d`` entries.
    learn_sd
        Whether to learn it, from that start.
    intensity
        For observation times that tell something themselves (Chen et al., section 5.1): a module from latent states to the
        logarithm of the rate ``λ(z)`` of the Poisson process that they come from, shape ``(rows, 1)``, or ``(rows, d)`` for
        a rate of each entry.
    algorithm
        By default ``Tsit5()``, on both engines.
    rtol, atol, sensealg, engine
        As in :func:`pysciode.solve`; `atol` is one number.
    solver_options
        Further arguments of :func:`pysciode.solve`, such as ``dt``, the first step.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.

    Notes
    -----
    One solve serves a batch, whatever its times: between the solver's steps the path is interpolated, with an error held to
    the tolerances (see :mod:`pysciode.nn.trajectory`), so a hundred observations cost little more than ten. Where the
    dynamics have kinks (ReLU) that takes more steps. Predictions far outside the times of the training follow the dynamics
    wherever they lead, and raise `SolveFailed` where these blow up.

    The dynamics are compiled once for each size of batch, a fraction of a second: a data loader should drop its last batch
    where that is a smaller one.

    Examples
    --------
    >>> encoder = RNNEncoder(input_dim=2, hidden_dim=25, latent_dim=4)
    >>> dynamics = nn.Sequential(nn.Linear(4, 20), nn.ELU(), nn.Linear(20, 4))
    >>> model = LatentODE(encoder, dynamics, nn.Linear(4, 2), latent_dim=4, observation_sd=0.3)
    >>> loss = -model.elbo(x, times, mask).mean()
    >>> future = model.extrapolate(x, times, mask, at=torch.linspace(10, 20, 100))
    """

    def __init__(
        self,
        encoder: nn.Module,
        dynamics: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        *,
        t0: float = 0.0,
        observation_sd: Any = 0.1,
        learn_sd: bool = False,
        intensity: nn.Module | None = None,
        algorithm: Algorithm | str | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        sensealg: SensitivityAlgorithm | None = None,
        engine: str | Engine | None = None,
        **solver_options: Any,
    ) -> None:
        super().__init__()
        modules = {"encoder": encoder, "dynamics": dynamics, "decoder": decoder}
        for name, module in (modules if intensity is None else modules | {"intensity": intensity}).items():
            if not isinstance(module, nn.Module):
                raise TypeError(f"{name} must be an nn.Module, not {type(module).__name__}")
        roles = infer_signature(dynamics)
        if set(roles) - {"t", "u"}:
            raise TypeError(f"dynamics must take (t, z) or (z), but its forward takes {roles}")
        whole_number(latent_dim, "latent_dim", 1)
        if not math.isfinite(t0):
            raise ValueError(f"t0 must be finite, not {t0!r}")
        if atol is not None and np.ndim(atol):
            raise ValueError("atol must be one number")
        check_reserved(solver_options, "the path is wanted at all times, or SolveFailed is raised")
        check_sensealg(sensealg)
        self.encoder = encoder
        self.dynamics = dynamics
        self.decoder = decoder
        self.intensity = intensity
        self.latent_dim = latent_dim
        self.t0 = float(t0)
        self.algorithm = Tsit5() if algorithm is None else check_algorithm(algorithm)
        self.options = {"rtol": rtol, "atol": atol, "sensealg": sensealg, "engine": engine, **solver_options}
        log_sd = _log_sd(observation_sd)
        if learn_sd:
            self.log_sd = nn.Parameter(log_sd)
        else:
            self.register_buffer("log_sd", log_sd)
        self._latest_field: tuple[Any, Field, int] | None = None
        self._forget()

    # --- bounds of the likelihood ------------------------------------------------------------------------------------

    def elbo(self, x: torch.Tensor, times: Any, mask: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
        """A lower bound of the log likelihood of each series, shape ``(batch,)``; for the arguments see `elbo_parts`."""
        return self.elbo_parts(x, times, mask, **options).value

    @opaque
    def elbo_parts(
        self,
        x: torch.Tensor,
        times: Any,
        mask: torch.Tensor | None = None,
        *,
        kl_weight: float = 1.0,
        samples: int = 1,
        importance_weighted: bool = False,
        window: Any = None,
        generator: torch.Generator | None = None,
    ) -> ELBO:
        """The evidence lower bound and its parts.

        Parameters
        ----------
        x, times, mask
            As in :meth:`Observations.of`: values ``(batch, n, d)``, NaN where missing; times ``(n,)`` or ``(batch, n)``.
        kl_weight
            See :class:`KLAnnealing`.
        samples
            Latent samples for each series.
        importance_weighted
            The tighter bound ``E log 1/k Σ p(x, zᵢ) / q(zᵢ)`` of Burda, Grosse, Salakhutdinov, "Importance Weighted
            Autoencoders" (ICLR 2016, arXiv:1509.00519).
        window
            From when to when the Poisson process was watched, needed with an intensity: a pair of times, or shape
            ``(batch, 2)``.
        generator
            Source of the samples.

        Raises
        ------
        TypeError, ValueError
            If an argument is invalid; the message names it.
        SolveFailed
            If the solver gave up.
        """
        self._forget()
        whole_number(samples, "samples", 1)
        check_weight(kl_weight, importance_weighted)
        observations = Observations.of(x, times, mask)
        intensity = self.intensity
        if intensity is None and window is not None:
            raise ValueError("window is for models with an intensity")
        watched = None if intensity is None else check_window(window, observations)
        posterior = self._encode(observations)
        z0 = _draw(posterior, samples, generator)
        path = self._path(z0, observations.observed_times(), *([] if watched is None else [watched]))
        states = path(observations.times)
        log_likelihood = self._log_likelihood(states[..., : self.latent_dim], observations)
        events = torch.zeros_like(log_likelihood)
        if watched is not None and intensity is not None:
            integrals = path(watched)[..., self.latent_dim :].diff(dim=2).squeeze(2)
            log_rates = by_rows(intensity, states[..., : self.latent_dim])
            events = event_log_likelihood(log_rates, integrals, observations)
        return ELBO.of(posterior, z0, log_likelihood, events, kl_weight, importance_weighted)

    def _log_likelihood(self, latent: torch.Tensor, observations: Observations) -> torch.Tensor:
        """Of the observed values, shape ``(samples, batch)``."""
        means = self._decode(latent)
        if means.shape[1:] != observations.values.shape:
            d = observations.values.shape[-1]
            raise ValueError(f"the decoder returns {means.shape[-1]} entries, but x has {d}")
        log_p = Normal(means, self.observation_sd).log_prob(observations.values)
        return torch.where(observations.mask, log_p, 0).sum((-2, -1))

    # --- predictions -------------------------------------------------------------------------------------------------

    @opaque
    def encode(self, x: torch.Tensor, times: Any, mask: torch.Tensor | None = None) -> Normal:
        """The approximate posterior of the latent state at ``t0``, of shape ``(batch, latent_dim)``."""
        self._forget()
        return self._encode(Observations.of(x, times, mask))

    @opaque
    def reconstruct(
        self,
        x: torch.Tensor,
        times: Any,
        mask: torch.Tensor | None = None,
        *,
        samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Means of observations at `times`, missing ones included; see `extrapolate`."""
        observations = Observations.of(x, times, mask)
        return self._predict(observations, observations.times, samples, generator)

    forward = reconstruct

    @opaque
    def interpolate(
        self,
        x: torch.Tensor,
        times: Any,
        mask: torch.Tensor | None = None,
        *,
        at: Any,
        samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Means of observations at times between the first and the last observation of each series; see `extrapolate`.

        Raises
        ------
        ValueError
            For a time outside.
        """
        observations, at = self._asked(x, times, mask, at)
        seen = observations.times.expand(observations.rows.shape)
        first = torch.where(observations.rows, seen, torch.inf).amin(1, keepdim=True)
        last = torch.where(observations.rows, seen, -torch.inf).amax(1, keepdim=True)
        if ((at < first) | (at > last)).any():
            raise ValueError("at must lie between the first and the last observation of each series; use extrapolate")
        return self._predict(observations, at, samples, generator)

    @opaque
    def extrapolate(
        self,
        x: torch.Tensor,
        times: Any,
        mask: torch.Tensor | None = None,
        *,
        at: Any,
        samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Means of observations at any times, before the first observation and before ``t0`` too.

        Parameters
        ----------
        x, times, mask
            The observations, as in `elbo_parts`.
        at
            Shape ``(m,)`` or ``(batch, m)``, in any order.
        samples
            Latent samples for each series; None takes the mean of the posterior.
        generator
            Source of the samples.

        Returns
        -------
        tensor
            ``(batch, m, d)``, with `samples` ``(samples, batch, m, d)``.

        Raises
        ------
        TypeError, ValueError, SolveFailed
            As `elbo_parts`.
        """
        return self._predict(*self._asked(x, times, mask, at), samples, generator)

    @opaque
    def sample_prior(self, count: int, times: Any, *, noise: bool = False, generator: torch.Generator | None = None) -> torch.Tensor:
        """New series, shape ``(count, m, d)``, at `times` of shape ``(m,)``; with `noise`, that of observations is added."""
        self._forget()
        whole_number(count, "count", 1)
        dtype = self.log_sd.dtype
        z0 = torch.randn(1, count, self.latent_dim, dtype=dtype, generator=generator)
        at = _finite(check_times(times, "times", dtype, None), "times")
        means = self._decode(self._path(z0, at)(at)[..., : self.latent_dim])[0]
        if not noise:
            return means
        return means + self.observation_sd * torch.randn(means.shape, dtype=dtype, generator=generator)

    @opaque
    def latent_states(self, z0: torch.Tensor, times: Any) -> torch.Tensor:
        """The path from `z0`, shape ``(batch, latent_dim)``, at `times`: shape ``(batch, m, latent_dim)``."""
        self._forget()
        if not isinstance(z0, torch.Tensor) or z0.ndim != 2 or z0.shape[1] != self.latent_dim:
            raise ValueError(f"z0 must be a tensor of shape (batch, {self.latent_dim})")
        at = _finite(check_times(times, "times", z0.dtype, len(z0)), "times")
        return self._path(z0[None], at)(at)[0, ..., : self.latent_dim]

    def _asked(self, x: Any, times: Any, mask: Any, at: Any) -> tuple[Observations, torch.Tensor]:
        observations = Observations.of(x, times, mask)
        return observations, _finite(check_times(at, "at", x.dtype, len(x)), "at")

    def _predict(
        self, observations: Observations, at: torch.Tensor, samples: int | None, generator: torch.Generator | None
    ) -> torch.Tensor:
        self._forget()
        if samples is not None:
            whole_number(samples, "samples", 1)
        posterior = self._encode(observations)
        z0 = posterior.mean[None] if samples is None else _draw(posterior, samples, generator)
        means = self._decode(self._path(z0, at)(at)[..., : self.latent_dim])
        return means[0] if samples is None else means

    # --- encoder, path, decoder --------------------------------------------------------------------------------------

    def _encode(self, observations: Observations) -> Normal:
        mean, sd = self.encoder(observations, self.t0)
        shape = (len(observations.values), self.latent_dim)
        if mean.shape != shape or sd.shape != shape:
            raise ValueError(f"the encoder must return two tensors of shape {shape}, not {mean.shape} and {sd.shape}")
        self._statistics += getattr(self.encoder, "statistics", [])
        return Normal(mean, sd)

    def _path(self, z0: torch.Tensor, *times: torch.Tensor) -> LatentPath:
        """The path from `z0`, ``(samples, batch, latent_dim)``, over all `times`; with an intensity its integral follows the
        latent state."""
        field, extra = self._field(z0)
        start = torch.cat([z0, z0.new_zeros(*z0.shape[:2], extra)], 2) if extra else z0
        wanted = torch.cat([x.detach().flatten() for x in times])
        path, solutions = follow(field, start, self.t0, wanted, self.algorithm, self.options)
        for solution in solutions:
            self._note(solution)
        return path

    def _field(self, z0: torch.Tensor) -> tuple[Field, int]:
        """The right-hand side ``f(t, u)``, the same object as long as its modules are, and its states beside the latent ones."""
        modules = (self.dynamics, self.intensity)
        if self._latest_field is None or any(a is not b for a, b in zip(self._latest_field[0], modules, strict=True)):
            extra = 0
            if self.intensity is not None:
                with torch.no_grad():
                    extra = self.intensity(z0[0, :1]).shape[-1]
            self._latest_field = modules, latent_field(*modules, self.latent_dim), extra
        return self._latest_field[1:]

    def _decode(self, latent: torch.Tensor) -> torch.Tensor:
        return by_rows(self.decoder, latent)

    @property
    def observation_sd(self) -> torch.Tensor:
        """Standard deviation of the observations' noise, shape ``()`` or ``(d,)``."""
        return self.log_sd.exp()

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles start without a field over the modules of the original, too."""
        return super().__getstate__() | {"_latest_field": None}


def _draw(posterior: Normal, samples: int, generator: torch.Generator | None) -> torch.Tensor:
    mean = posterior.mean
    return mean + posterior.stddev * torch.randn(samples, *mean.shape, dtype=mean.dtype, generator=generator)


def _finite(times: torch.Tensor, name: str) -> torch.Tensor:
    if not torch.isfinite(times).all():
        raise ValueError(f"{name} must be finite")
    return times


def _log_sd(sd: Any) -> torch.Tensor:
    try:
        sd = torch.as_tensor(sd, dtype=torch.get_default_dtype()).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"observation_sd must be a number or one for each entry, not {sd!r}") from None
    if sd.ndim > 1 or not (torch.isfinite(sd) & (sd > 0)).all():
        raise ValueError("observation_sd must be positive and finite: a number, or shape (d,)")
    return sd.log()
