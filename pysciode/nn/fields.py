"""The right-hand side that a block solves: its dynamics, rescaled where samples have their own times, with integrals beside the states."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from types import MethodType

import torch
from torch import nn

from ..capture.torch.arguments import infer_signature
from .regularization import Regularization

Parameters = dict[str, torch.Tensor]
"""``start`` and ``length`` of each sample's time, shape ``(batch,)``, where it is rescaled; ``noise``, where drawn."""


def field_of(
    dynamics: nn.Module, shape: tuple[int, ...], regularizer: Regularization | None
) -> Callable[[torch.Tensor, torch.Tensor, Parameters], torch.Tensor]:
    """``f(t, u, p)`` over `dynamics`; with a regularisation its states are packed, see `pack`.

    It is a method of `dynamics`, with which captures of it are kept then, and the same for the same arguments.
    """
    return MethodType(_field(tuple(shape), regularizer), dynamics)


@cache
def _field(shape: tuple[int, ...], regularizer: Regularization | None) -> Callable[..., torch.Tensor]:
    def field(self: nn.Module, t: torch.Tensor, u: torch.Tensor, p: Parameters) -> torch.Tensor:
        length = p.get("length")
        if length is None:
            flow = _together(self)
        else:
            flow, t = _each(self), p["start"] + t * length
        if regularizer is None:
            du = flow(t, u)
        else:
            # No gradient goes to the noise: none need be computed.
            noise = p["noise"].detach() if "noise" in p else None
            du, rates = regularizer.rates(flow, t, unpack(u, shape)[0], noise)
            du = torch.cat([du.flatten(1), rates], 1)
        return du if length is None else du * length.reshape(-1, *(1,) * (du.ndim - 1))

    return field


def pack(u: torch.Tensor, integrals: torch.Tensor) -> torch.Tensor:
    """States of shape ``(batch, …)`` and integrals of shape ``(batch, terms)`` as one tensor ``(batch, n + terms)``."""
    return torch.cat([u.flatten(1), integrals], 1)


def unpack(packed: torch.Tensor, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The states, of shape ``(…, *shape)``, and the integrals."""
    n = prod(shape[1:])
    return packed[..., :n].reshape(*packed.shape[:-2], *shape), packed[..., n:]


def _together(dynamics: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    roles = infer_signature(dynamics)

    def call(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        given = {"t": t, "u": u}
        return dynamics(*(given[role] for role in roles))

    return call


def _each(dynamics: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The dynamics with a time for each sample: each is a batch of its own, since modules expect one time."""
    call = _together(dynamics)
    if "t" not in infer_signature(dynamics):
        return call
    return torch.vmap(lambda t, u: call(t, u.unsqueeze(0)).squeeze(0))
