"""What torchdiffeq does step by step, seen through its callbacks: statistics, limits, partial and dense solutions."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from .base import SolveRequest
from .torch_rhs import FlatRhs


class SolverStopped(Exception):
    """The integration ends here, with SciML's return code."""

    def __init__(self, retcode: str) -> None:
        self.retcode = retcode
        super().__init__(retcode)


class Recorder:
    """The right-hand side as torchdiffeq calls it, which also keeps each accepted point.

    Attributes
    ----------
    times, states
        The points that the solver stood on, in order; the start is the first.
    """

    def __init__(
        self, rhs: FlatRhs, p: torch.Tensor, u0: torch.Tensor, start: float, request: SolveRequest, keep_graph: bool
    ) -> None:
        self.rhs, self.p = rhs, p
        self.keep_graph = keep_graph
        self.direction = 1.0 if request.tspan[1] > request.tspan[0] else -1.0
        self.end = request.tspan[1]
        self.maxiters = request.options.maxiters
        self.dtmin = abs(request.options.dtmin or 0.0)
        self.progress = request.options.progress
        self.times: list[float] = [start]
        self.states: list[torch.Tensor] = [u0]
        self.nf = self.naccept = self.nreject = self.steps = 0
        self._adjoint_steps = 0
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
            self.times.append(now)
            self.states.append(u if self.keep_graph else u.detach())
        if self.steps >= self.maxiters:
            raise SolverStopped("MaxIters")
        self.steps += 1
        if not torch.isfinite(u).all():
            raise SolverStopped("Unstable")
        if step == 0 or step != step:
            raise SolverStopped("DtNaN")  # the error estimate was not a number
        if now + step == now or step < self.dtmin:
            raise SolverStopped("DtLessThanMin")
        if self.progress is not None and time.monotonic() - self._last_report > 0.1:
            self._last_report = time.monotonic()
            self.progress(now)

    def begin_adjoint(self) -> None:
        self._adjoint_steps = 0

    def callback_step_adjoint(self, t: torch.Tensor, u: object, dt: torch.Tensor) -> None:
        """The same for a step of the backward solve."""
        self._adjoint_steps += 1
        if self._adjoint_steps > self.maxiters:
            raise SolverStopped("MaxIters")
        step = float(dt)
        if step == 0 or step != step:
            raise SolverStopped("DtNaN")
        if float(t) + step == float(t):
            raise SolverStopped("DtLessThanMin")

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


def hermite(recorder: Recorder) -> Callable[[np.ndarray, int], np.ndarray]:
    """Cubic Hermite interpolation through the accepted points, with slopes from the right-hand side.

    Hairer, Nørsett, Wanner, *Solving Ordinary Differential Equations I*, 2nd ed., sec. II.6.
    """
    times = np.array(recorder.times)
    slopes: list[np.ndarray] = []
    u = np.stack([x.detach().numpy() for x in recorder.states])
    rhs, p = recorder.rhs, recorder.p.detach()

    def interpolant(at: np.ndarray, derivative: int) -> np.ndarray:
        if not slopes:
            with torch.no_grad():
                slopes.append(
                    np.stack([rhs(torch.from_numpy(x), p, torch.tensor(t, dtype=p.dtype)).numpy() for x, t in zip(u, times)])
                )
        (f,) = slopes
        if len(times) == 1:
            return np.broadcast_to(u[0] if derivative == 0 else f[0], (len(at), u.shape[1])).copy()
        sign = recorder.direction
        i = np.clip(np.searchsorted(sign * times, sign * at, side="right") - 1, 0, len(times) - 2)
        h = (times[i + 1] - times[i])[:, None]
        s = ((at - times[i])[:, None]) / h
        a, b, fa, fb = u[i], u[i + 1], h * f[i], h * f[i + 1]
        if derivative == 0:
            out = (1 + 2 * s) * (1 - s) ** 2 * a + s * (1 - s) ** 2 * fa + s**2 * (3 - 2 * s) * b + s**2 * (s - 1) * fb
        else:
            out = (6 * s * (s - 1) * (a - b) + (1 - s) * (1 - 3 * s) * fa + s * (3 * s - 2) * fb) / h
        return out.astype(u.dtype)

    return interpolant


def partial_states(recorder: Recorder, wanted: torch.Tensor, every_step: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Times and states of what was asked for, as far as the solver came."""
    if every_step:
        return torch.tensor(recorder.times, dtype=torch.float64), torch.stack([x.detach() for x in recorder.states])
    times = wanted.numpy()
    times = times[(times - recorder.times[-1]) * recorder.direction <= 0]
    return torch.from_numpy(times.copy()), torch.from_numpy(hermite(recorder)(times, 0))
