"""The continuous adjoint on the embedded engine."""

from __future__ import annotations

from typing import Any

import torch
from torchdiffeq import odeint

from ...errors import GradientFailed
from ..torch_rhs import FlatRhs
from .recorder import SolverStopped, check_step

ADVICE = (
    "The dynamics may be unstable backwards in time, as dissipative ones are: save at more times, which restarts the "
    "states there, or use another sensealg (ReverseDiffAdjoint() on this engine)"
)


@torch.autocast("cpu", enabled=False)
def backsolve(
    rhs: FlatRhs,
    p: torch.Tensor,
    times: torch.Tensor,
    states: torch.Tensor,
    du: torch.Tensor,
    maxiters: int,
    counts: dict[str, int],
    **odeint_options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients to `u0` and `p`, with states and adjoint solved backwards together.

    Chen et al., "Neural Ordinary Differential Equations" (2018), algorithm 1; the states restart from the saved ones at each
    saved time. Where they have not come back to these, the gradient is refused rather than returned.

    Parameters
    ----------
    times, states
        From the start on, shapes ``(k,)`` and ``(k, n)``.
    du
        The cotangents of the states, shape ``(k, n)``.
    maxiters
        Steps at most, in all.
    counts
        Where ``nf_reverse`` and ``nvjp`` are noted.
    odeint_options
        Further arguments of ``torchdiffeq.odeint``.

    Raises
    ------
    GradientFailed
        If a backward solve stops early or its states drift.
    """
    backwards = _Backwards(rhs, p, maxiters)
    atol = odeint_options["atol"]
    if isinstance(atol, torch.Tensor):
        # One tolerance for each part of the backward state; the parameters' part has the strictest.
        odeint_options["atol"] = (atol, atol, atol.min())
    lam, mu = du[-1], torch.zeros_like(p)
    for i in range(len(times) - 1, 0, -1):
        span = times[[i, i - 1]]
        try:
            u, lam, mu = (x[-1] for x in odeint(backwards, (states[i], lam, mu), span, **odeint_options))
        except SolverStopped as stop:
            raise GradientFailed(
                "BacksolveAdjoint", f"the backward solve stopped near t = {stop.t:g} with retcode {stop.retcode}", ADVICE
            ) from None
        _check_return(u, states[i - 1], times[i - 1].item(), odeint_options["rtol"], atol)
        lam = lam + du[i - 1]
    counts.update(nf_reverse=backwards.evaluations, nvjp=backwards.evaluations)
    return lam, mu


class _Backwards:
    """``u' = f``, ``λ' = -(∂f/∂u)ᵀ λ``, ``μ' = -(∂f/∂p)ᵀ λ``."""

    def __init__(self, rhs: FlatRhs, p: torch.Tensor, maxiters: int) -> None:
        self.rhs = rhs
        self.p = p.detach().requires_grad_()
        self.left = maxiters
        self.evaluations = 0

    def __call__(self, t: torch.Tensor, z: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self.evaluations += 1
        with torch.enable_grad():
            u = z[0].detach().requires_grad_()
            f = self.rhs(u, self.p, t)
            dlam, dmu = torch.autograd.grad(f, (u, self.p), -z[1], allow_unused=True, materialize_grads=True)
        return f.detach(), dlam, dmu

    def callback_step(self, t: torch.Tensor, z: tuple[torch.Tensor, ...], dt: torch.Tensor) -> None:
        self.left -= 1
        if self.left < 0:
            raise SolverStopped("MaxIters", float(t))
        check_step(float(t), float(dt), z)


def _check_return(found: torch.Tensor, forward: torch.Tensor, t: float, rtol: float, atol: Any) -> None:
    drift = (found - forward).square().mean().sqrt()
    scale = forward.square().mean().sqrt()
    allowed = 1e-3 * scale + 1000 * (torch.as_tensor(atol).max() + rtol * scale)
    if not drift <= allowed:
        raise GradientFailed(
            "BacksolveAdjoint",
            f"the states solved backwards are off by {drift.item():.2g} from the forward ones at t = {t:g}",
            ADVICE,
        )
