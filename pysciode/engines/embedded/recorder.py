"""Torchdiffeq's steps, recorded through its callbacks: statistics, limits, partial and dense solutions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from ..base import SolveRequest
from ..torch_rhs import FlatRhs


class SolverStopped(Exception):
    """The integration ends here, with SciML's return code."""

    def __init__(self, retcode: str, t: float) -> None:
        self.retcode = retcode
        self.t = t
        super().__init__(retcode)


def check_step(t: float, dt: float, states: tuple[torch.Tensor, ...], dtmin: float = 0.0) -> None:
    """Stop where a step from `t` can't succeed; torchdiffeq itself would fail an assertion, or never end.

    Raises
    ------
    SolverStopped
        If not.
    """
    if not all(np.isfinite(x.detach().numpy()).all() for x in states):
        raise SolverStopped("Unstable", t)
    if dt == 0 or dt != dt:
        raise SolverStopped("DtNaN", t)  # the error estimate was not a number
    if t + dt == t or dt < dtmin:
        raise SolverStopped("DtLessThanMin", t)


class Recorder:
    """The right-hand side as torchdiffeq calls it, which also keeps each accepted point.

    Attributes
    ----------
    times, states
        Points that the solver stood on, in order; the start is the first. All of them where every step is saved or dense
        output wanted, and otherwise those beside the times to save at.
    """

    def __init__(self, rhs: FlatRhs, p: torch.Tensor, u0: torch.Tensor, start: float, request: SolveRequest, keep_graph: bool) -> None:
        self.rhs, self.p = rhs, p
        self.keep_graph = keep_graph
        self.direction = 1.0 if request.tspan[1] > request.tspan[0] else -1.0
        self.end = request.tspan[1]
        self.maxiters = request.options.maxiters
        self.dtmin = abs(request.options.dtmin or 0.0)
        self.progress = request.options.progress
        self.times: list[float] = [start]
        self.states: list[torch.Tensor] = [u0]
        saveat = request.options.saveat
        self._wanted = None if saveat is None or request.options.dense else self.direction * saveat
        self.nf = self.naccept = self.nreject = self.steps = 0
        self._last_report = time.monotonic()

    @staticmethod
    def make(adaptive: bool, *arguments) -> Recorder:
        """One with the callbacks that the solver knows; others would make it warn."""
        return (AdaptiveRecorder if adaptive else Recorder)(*arguments)

    def __call__(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        self.nf += 1
        return self.rhs(u, self.p, t)

    def callback_step(self, t: torch.Tensor, u: torch.Tensor, dt: torch.Tensor) -> None:
        """Before each attempt of a step from an accepted point."""
        now, step = float(t.detach()), float(dt.detach())
        if (now - self.times[-1]) * self.direction > 0:
            self._append(now, u if self.keep_graph else u.detach())
        if self.steps >= self.maxiters:
            raise SolverStopped("MaxIters", now)
        self.steps += 1
        check_step(now, step, (u,), self.dtmin)
        if self.progress is not None and time.monotonic() - self._last_report > 0.1:
            self._last_report = time.monotonic()
            self.progress(now)

    def _append(self, t: float, u: torch.Tensor) -> None:
        """Keep the point; drop the one before it if no time to save at lies beside it, so that memory stays flat."""
        times = self.times
        if self._wanted is not None and len(times) > 1:
            left, right = np.searchsorted(self._wanted, (self.direction * times[-2], self.direction * t))
            if left == right:
                times.pop()
                self.states.pop()
        times.append(t)
        self.states.append(u)

    def finish(self, t: float, u: torch.Tensor) -> None:
        """The end was reached; the solver may have stood beyond it."""
        while len(self.times) > 1 and (self.times[-1] - t) * self.direction >= 0:
            self.times.pop()
            self.states.pop()
        if not isinstance(self, AdaptiveRecorder):
            self.naccept = self.steps
        self.times.append(t)
        self.states.append(u)

    def forget_last_if_bad(self) -> None:
        """Drop points that are not finite."""
        while len(self.times) > 1 and not torch.isfinite(self.states[-1].detach()).all():
            self.times.pop()
            self.states.pop()

    def cut(self, t: float) -> None:
        """Drop the points from `t` on."""
        while len(self.times) > 1 and (self.times[-1] - t) * self.direction >= 0:
            self.times.pop()
            self.states.pop()
        self.forget_last_if_bad()

    def stats(self) -> dict[str, int]:
        return {"nf": self.nf, "njacs": 0, "nsolve": 0, "naccept": self.naccept, "nreject": self.nreject}


class AdaptiveRecorder(Recorder):
    """With the callbacks of solvers that control their step."""

    def callback_accept_step(self, t: torch.Tensor, u: torch.Tensor, dt: torch.Tensor) -> None:
        self.naccept += 1

    def callback_reject_step(self, t: torch.Tensor, u: torch.Tensor, dt: torch.Tensor) -> None:
        self.nreject += 1


def first_step(recorder: Recorder, u0: torch.Tensor, request: SolveRequest, order: int) -> float:
    """A first step for a method of `order`: Hairer, Nørsett, Wanner, *Solving Ordinary Differential Equations I*, 2nd ed.,
    sec. II.4."""
    start, end = request.tspan
    length = abs(end - start)
    scale = torch.as_tensor(request.options.atol) + request.options.rtol * u0.detach().abs()

    def size(x: torch.Tensor) -> float:
        return (x / scale).square().mean().sqrt().item()

    with torch.no_grad():
        f0 = recorder(torch.tensor(start, dtype=u0.dtype), u0)
        d0, d1 = size(u0), size(f0)
        if not math.isfinite(d1):
            return min(1e-6, length)  # the solver's first step ends there
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        h0 = min(h0, length)
        f1 = recorder(torch.tensor(start + recorder.direction * h0, dtype=u0.dtype), u0 + recorder.direction * h0 * f0)
        d2 = size(f1 - f0) / h0
    h1 = max(1e-6, 1e-3 * h0) if max(d1, d2) <= 1e-15 else (0.01 / max(d1, d2)) ** (1 / order)
    return min(100 * h0, h1, length) if h1 == h1 else h0


# Rows: the value at 0, 1/2 and 1 and the slope there, of 1, s, …, s^5.
_CONDITIONS = np.array(
    [[s**k for k in range(6)] for s in (0.0, 0.5, 1.0)] + [[k * s ** max(k - 1, 0) for k in range(6)] for s in (0.0, 0.5, 1.0)]
)
_COEFFICIENTS = np.linalg.inv(_CONDITIONS)


def hermite(recorder: Recorder) -> Callable[[np.ndarray, int], np.ndarray]:
    """Quintic Hermite interpolation through the accepted points and the middles of the steps.

    The middles come from two classical Runge-Kutta steps of a quarter length, when the interpolant is first used; so the
    interpolation error is of sixth order (Hairer, Nørsett, Wanner, *Solving Ordinary Differential Equations I*, 2nd ed.,
    sec. II.6), and the right-hand side is called 12 times for each step.
    """
    times = np.array(recorder.times)
    u = torch.stack([x.detach() for x in recorder.states])
    rhs, p = recorder.rhs, recorder.p.detach()
    pieces: list[np.ndarray] = []

    def slope(t: float, x: torch.Tensor) -> torch.Tensor:
        return rhs(x, p, torch.tensor(t, dtype=p.dtype))

    def step(t: float, x: torch.Tensor, h: float) -> torch.Tensor:
        k1 = slope(t, x)
        k2 = slope(t + h / 2, x + h / 2 * k1)
        k3 = slope(t + h / 2, x + h / 2 * k2)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(t + h, x + h * k3))

    def build() -> np.ndarray:
        """Coefficients, shape (steps, 6, n)."""
        with torch.no_grad():
            f = torch.stack([slope(t, x) for x, t in zip(u, times.tolist(), strict=True)])
            h = np.diff(times)
            middles = []
            for i, length in enumerate(h.tolist()):
                quarter = step(times[i], u[i], length / 4)
                middles.append(step(times[i] + length / 4, quarter, length / 4))
            m = torch.stack(middles)
            fm = torch.stack([slope(t, x) for x, t in zip(m, (times[:-1] + h / 2).tolist(), strict=True)])
        scale = h[:, None]
        conditions = [u[:-1].numpy(), m.numpy(), u[1:].numpy(), *(scale * x.numpy() for x in (f[:-1], fm, f[1:]))]
        return np.einsum("kc,csn->skn", _COEFFICIENTS, np.stack(conditions))

    def interpolant(at: np.ndarray, derivative: int) -> np.ndarray:
        if len(times) == 1:
            only = u[0] if derivative == 0 else slope(times[0], u[0])
            return np.broadcast_to(only.numpy(), (len(at), u.shape[1])).copy()
        if not pieces:
            pieces.append(build())
        sign = recorder.direction
        i = np.clip(np.searchsorted(sign * times, sign * at, side="right") - 1, 0, len(times) - 2)
        h = times[i + 1] - times[i]
        s = (at - times[i]) / h
        powers = np.arange(6)
        if derivative == 0:
            basis = s[:, None] ** powers
        else:
            basis = powers * s[:, None] ** np.maximum(powers - 1, 0) / h[:, None]
        return np.einsum("ik,ikn->in", basis, pieces[0][i]).astype(u.numpy().dtype)

    return interpolant


def partial_states(recorder: Recorder, wanted: torch.Tensor, every_step: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the times and states asked for, as far as the solver came."""
    if every_step:
        return torch.tensor(recorder.times, dtype=torch.float64), torch.stack([x.detach() for x in recorder.states])
    times = wanted.numpy()
    times = times[(times - recorder.times[-1]) * recorder.direction <= 0]
    return torch.from_numpy(times.copy()), torch.from_numpy(hermite(recorder)(times, 0))
