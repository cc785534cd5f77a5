"""Dynamics whose states and rates differ by orders of magnitude, scaled so that the network's inputs and outputs are near one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..capture.torch.arguments import infer_signature


class ScaledField(nn.Module):
    """``du/dt = scale_u / scale_t * net(t, u / scale_u)``.

    Kim, Ji, Deng, Ma, Rackauckas, "Stiff Neural Ordinary Differential Equations" (Chaos 31, 2021, arXiv:2103.15341), equation
    scaling: a network's outputs start near one, so the length of the experiment as `scale_t` lets training begin with a
    solution that moves by about its own size, whatever the units. The paper scales the output only; here the input is scaled
    too, without which a species of 1e-5 is invisible to the network.

    Parameters
    ----------
    net
        Any module with ``forward(t, u)`` or ``forward(u)`` that returns the shape of `u`. It gets the time unscaled.
    scale_u
        Sizes of the states, positive: a number, or an array that broadcasts with the state (its last axes).
    scale_t
        The time in which they change by about as much, positive; likewise, one for each state where they differ.

    Attributes
    ----------
    net
        The module given.
    scale_u, scale_t
        Buffers: saved with the module and not trained.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.

    See Also
    --------
    pysciode.nn.NeuralODE : solves it; take ``Rodas5P()`` and ``atol`` in proportion to `scale_u`.
    """

    scale_u: torch.Tensor
    scale_t: torch.Tensor

    def __init__(self, net: nn.Module, scale_u: Any, scale_t: Any = 1.0) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be an nn.Module, not {type(net).__name__}")
        roles = infer_signature(net)
        if set(roles) - {"t", "u"}:
            raise TypeError(f"net must take (t, u) or (u), but its forward takes {roles}")
        self.net = net
        self._roles = roles
        dtype = next((x.dtype for x in net.parameters()), torch.get_default_dtype())
        self.register_buffer("scale_u", _positive(scale_u, "scale_u", dtype))
        self.register_buffer("scale_t", _positive(scale_t, "scale_t", dtype))

    @classmethod
    def from_data(cls, net: nn.Module, t: Any, u: Any) -> ScaledField:
        """With the largest absolute value of each state, and the time from the first observation to the last.

        Parameters
        ----------
        net
            Any module, as for :class:`ScaledField`.
        t
            Times, shape ``(k,)``, k at least 2, monotone.
        u
            States at these times, shape ``(k, …)``; entries that are NaN are missing.

        Raises
        ------
        TypeError, ValueError
            Where shapes disagree, or a state is never seen or always zero.
        """
        times, states = _tensor(t, "t"), _tensor(u, "u")
        if times.ndim != 1 or len(times) < 2:
            raise ValueError(f"t has shape {tuple(times.shape)}; it must have shape (k,), with k at least 2")
        if states.ndim < 1 or len(states) != len(times):
            raise ValueError(f"u has shape {tuple(states.shape)}, but there are {len(times)} times")
        steps = torch.diff(times)
        if not (torch.all(steps > 0) or torch.all(steps < 0)):
            raise ValueError("t must strictly increase or strictly decrease")
        if torch.isinf(states).any():
            raise ValueError("u must be finite, or NaN where it is missing")
        largest = states.abs().nan_to_num(nan=0.0).amax(0)
        if not torch.all(largest > 0):
            raise ValueError("u has states that are zero, or missing, at all times: give their scale to ScaledField itself")
        return cls(net, largest, (times[-1] - times[0]).abs())

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        given = {"t": t, "u": u / self.scale_u}
        return self.net(*(given[role] for role in self._roles)) * (self.scale_u / self.scale_t)

    def extra_repr(self) -> str:
        return f"scale_u={self.scale_u.tolist()}, scale_t={self.scale_t.tolist()}"


def _tensor(x: Any, name: str) -> torch.Tensor:
    try:
        return torch.as_tensor(x, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be an array of numbers, not {type(x).__name__}") from None


def _positive(x: Any, name: str, dtype: torch.dtype) -> torch.Tensor:
    values = _tensor(x, name).to(dtype).clone()
    if not torch.all(torch.isfinite(values) & (values > 0)):
        raise ValueError(f"{name} must be positive and finite, not {values.tolist()}")
    return values
