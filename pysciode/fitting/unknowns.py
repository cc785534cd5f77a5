"""What is to be estimated: values with bounds and priors, as one vector without bounds for optimisers and samplers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.distributions import Distribution, TransformedDistribution, biject_to, constraints


@dataclass(frozen=True)
class Parameter:
    """How a value is to be estimated.

    Attributes
    ----------
    start
        Where to begin; None is its value in the problem.
    lower, upper
        Bounds, exclusive; with one of them the optimiser sees ``log(x - lower)`` or ``log(upper - x)``, with both the
        logit. None is no bound.
    prior
        A distribution of torch's, on the value itself. The estimate then maximises the posterior density.
    local
        Whether each experiment has a value of its own.

    Raises
    ------
    TypeError, ValueError
        If an attribute has a wrong type, or bounds and start don't fit together.
    """

    start: float | None = None
    lower: float | None = None
    upper: float | None = None
    prior: Distribution | None = None
    local: bool = False

    def __post_init__(self) -> None:
        for key in ("start", "lower", "upper"):
            value = getattr(self, key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
                raise TypeError(f"{key} must be a number or None, not {value!r}")
            # An infinite bound is no bound.
            value = None if key != "start" and math.isinf(value) else float(value)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{key} must be finite, not {value}")
            object.__setattr__(self, key, value)
        if self.prior is not None and not isinstance(self.prior, Distribution):
            raise TypeError(f"prior must be one of torch.distributions, not {type(self.prior).__name__}")
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise ValueError(f"lower must lie below upper, not {self.lower} and {self.upper}")
        if self.start is not None and not self.contains(self.start):
            raise ValueError(f"start {self.start} must lie between the bounds, {self.lower} and {self.upper}")

    def contains(self, value: float) -> bool:
        """Whether `value` lies between the bounds."""
        return (self.lower is None or value > self.lower) and (self.upper is None or value < self.upper)

    @property
    def constraint(self) -> constraints.Constraint:
        """The bounds, as torch's distributions write them."""
        if self.lower is None:
            return constraints.real if self.upper is None else constraints.less_than(self.upper)
        return constraints.greater_than(self.lower) if self.upper is None else constraints.interval(self.lower, self.upper)


def as_parameter(name: str, given: Any) -> Parameter:
    """A `Parameter` from what users write: one, a pair of bounds, a prior, or None."""
    if given is None:
        return Parameter()
    if isinstance(given, Parameter):
        return given
    if isinstance(given, Distribution):
        return Parameter(prior=given)
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 2:
        return Parameter(lower=given[0], upper=given[1])
    raise TypeError(f"parameters[{name!r}] must be a Parameter, a pair of bounds, a prior or None, not {given!r}")


@dataclass(frozen=True)
class Unknown:
    """One number to be estimated: its name, and a `Parameter` whose start is known."""

    name: str
    parameter: Parameter


class Unknowns:
    """All numbers to be estimated, in order.

    ``x`` is a vector of values, shape ``(q,)``; ``z`` the same without bounds.

    Attributes
    ----------
    names, parameters
        A name and a `Parameter` for each of them.
    start
        The values to begin with, ``x``.
    """

    def __init__(self, unknowns: Sequence[Unknown]) -> None:
        self.names = tuple(x.name for x in unknowns)
        self.parameters = tuple(x.parameter for x in unknowns)
        self.start = np.array([x.parameter.start for x in unknowns], float)
        bounded: dict[tuple[float | None, float | None], list[int]] = {}
        for i, parameter in enumerate(self.parameters):
            bounded.setdefault((parameter.lower, parameter.upper), []).append(i)
        # One transformation for all with the same bounds; those without need none.
        self._transforms = [
            (torch.tensor(places), biject_to(self.parameters[places[0]].constraint))
            for bounds, places in bounded.items()
            if bounds != (None, None)
        ]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def has_priors(self) -> bool:
        return bool(self._priors)

    @cached_property
    def _priors(self) -> list[tuple[torch.Tensor, Distribution]]:
        """Each prior, with the places of those that have it."""
        found: dict[int, tuple[Distribution, list[int]]] = {}
        for i, parameter in enumerate(self.parameters):
            prior = parameter.prior
            if prior is not None:
                found.setdefault(id(prior), (prior, []))[1].append(i)
        return [(torch.tensor(places), _lenient(prior)) for prior, places in found.values()]

    def values(self, z: torch.Tensor) -> torch.Tensor:
        """``x`` of ``z``, differentiable; of many at once with further dimensions in front."""
        x = z
        for places, transform in self._transforms:
            x = x.index_copy(-1, places, transform(z[..., places]))
        return x

    def unbounded(self, x: np.ndarray) -> np.ndarray:
        """``z`` of ``x``."""
        values = torch.as_tensor(np.asarray(x, float))
        z = values.clone()
        for places, transform in self._transforms:
            z[..., places] = transform.inv(values[..., places])
        return z.numpy()

    def slopes(self, z: np.ndarray) -> np.ndarray:
        """``dx/dz``, shape ``(q,)``."""
        at = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(self.values(at).sum(), at)[0].numpy()

    def log_slopes(self, z: torch.Tensor) -> torch.Tensor:
        """``log |det dx/dz|``, for densities of ``z``."""
        total = z.new_zeros(())
        for places, transform in self._transforms:
            part = z[places]
            total = total + transform.log_abs_det_jacobian(part, transform(part)).sum()
        return total

    def log_prior(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of the log densities of the priors at ``x``; values outside a prior's support have ``-inf``."""
        total = x.new_zeros(())
        for places, prior in self._priors:
            total = total + prior.log_prob(x[places]).sum()
        return total

    def draw_starts(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Where a search from many places begins, ``x``, shape ``(count, q)``; the first is `start`.

        From the prior, where there is one; evenly between bounds, on a logarithmic scale where both are positive and far
        apart; otherwise within a factor, or around the start, of about three. A Latin hypercube spreads them.
        """
        from scipy.stats import norm, qmc

        if count == 1:
            return self.start[None]
        shares = qmc.LatinHypercube(len(self), rng=generator).random(count - 1)
        z0, normal = self.unbounded(self.start), norm.ppf(shares)
        found = np.empty_like(shares)
        for i, parameter in enumerate(self.parameters):
            found[:, i] = _spread(parameter, shares[:, i], normal[:, i], z0[i])
        return np.vstack([self.start, found])


def _spread(parameter: Parameter, shares: np.ndarray, normal: np.ndarray, z0: float) -> np.ndarray:
    lower, upper = parameter.lower, parameter.upper
    if parameter.prior is not None:
        try:
            return parameter.prior.icdf(torch.from_numpy(shares)).numpy().astype(float)
        except NotImplementedError:
            pass  # not every distribution of torch's can be inverted
    if lower is not None and upper is not None:
        if lower > 0 and upper > 10 * lower:
            return lower * (upper / lower) ** shares
        return lower + (upper - lower) * shares
    single = Unknowns([Unknown("", parameter)])
    # One standard deviation is a factor of three of a value with one bound, and of its own size of one without.
    scale = math.log(3) if single._transforms else max(abs(z0), 1.0)
    return single.values(torch.from_numpy((z0 + scale * normal)[:, None])).numpy()[:, 0]


def _lenient(prior: Distribution) -> Distribution:
    """A copy that gives values outside its support a density, instead of raising in the middle of a search."""
    prior = copy(prior)
    prior._validate_args = False
    if isinstance(prior, TransformedDistribution):
        prior.base_dist = _lenient(prior.base_dist)
    return prior


def named_values(names: Sequence[str], x: np.ndarray) -> dict[str, float]:
    """Values by name."""
    return dict(zip(names, map(float, x), strict=True))
