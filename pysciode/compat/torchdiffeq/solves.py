"""Solves with torchdiffeq's semantics by Julia's solvers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...arrays.torch_transforms import transforming
from ...engines.base import Engine
from ...errors import CaptureError, SolveFailed
from ...methods.adjoints import SensitivityAlgorithm
from ...solving.solution import Solution
from ...solving.solve import solve
from .errors import StepsFailed
from .functions import Adapter
from .inputs import numbers
from .methods import Method


@dataclass(frozen=True)
class Adjoint:
    """How :func:`odeint_adjoint` differentiates.

    Attributes
    ----------
    sensealg
        With the tolerances of the reverse solve.
    parameters
        Tensors that get gradients, zeros where they are not used.
    """

    sensealg: SensitivityAlgorithm
    parameters: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Job:
    """What stays the same from one solve of a call to the next.

    Attributes
    ----------
    rtol, atol
        As :func:`pysciode.solve` takes them.
    adjoint
        None for :func:`odeint`.
    """

    adapter: Adapter
    method: Method
    rtol: float
    atol: Any
    adjoint: Adjoint | None
    engine: Engine

    def states(self, u0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The real states at the times `t`, shape ``(len(t), *u0.shape)``; they carry gradients."""
        steps = self.method.steps
        if len(t) == 1:
            states = u0[None]
        elif u0.numel() == 0:
            states = u0.expand(len(t), *u0.shape)
        elif steps is not None and self.method.linear:
            states = self._on_lines(u0, t, steps)
        elif self.method.jumps:
            states = self._over_jumps(u0, t)
        else:
            states = self._solve(u0, (t[0], t[-1].item()), saveat=t).u
        # torch.func has zeros by itself.
        if self.adjoint is not None and torch.is_grad_enabled() and self.adjoint.parameters and not transforming():
            states = ZeroGradients.apply(states, *self.adjoint.parameters)
        return states

    def every_step(self, u0: torch.Tensor, start: float, end: float) -> Solution:
        """A solution with all steps and dense output, without gradients, and maybe partial."""
        with torch.no_grad():
            return self._solve(u0.detach(), (start, end), saveat=None, dense=True, throw=False)

    def _on_lines(self, u0: torch.Tensor, t: torch.Tensor, steps: np.ndarray) -> torch.Tensor:
        """States on a fixed grid, with straight lines between."""
        times = numbers(t).astype(np.float64)
        if len(steps) == len(times) and (steps == times).all():
            return self._solve(u0, (t[0], times[-1]), saveat=t).u
        states = self._solve(u0, (t[0], steps[-1]), saveat=steps).u
        direction = 1.0 if steps[-1] > steps[0] else -1.0
        left = np.clip(np.searchsorted(direction * steps, direction * times, side="right") - 1, 0, len(steps) - 2)
        before, after = (torch.from_numpy(steps[i]).to(t) for i in (left, left + 1))
        share = ((t - before) / (after - before)).to(u0).reshape(-1, *[1] * u0.ndim)
        return torch.lerp(states[torch.from_numpy(left)], states[torch.from_numpy(left + 1)], share)

    def _over_jumps(self, u0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """A solve for each smooth piece: up to just before a jump of the right-hand side, and on from just behind it."""
        times, jumps = numbers(t), self.method.jumps
        dtype = np.dtype(str(u0.dtype).removeprefix("torch."))
        ends = [np.nextafter(dtype.type(x), dtype.type(times[0])) for x in jumps]
        starts = [np.nextafter(dtype.type(x), dtype.type(times[-1])) for x in jumps]
        direction = 1.0 if times[-1] > times[0] else -1.0
        bounds = [0, *np.searchsorted(direction * times, direction * np.array(jumps), side="right"), len(times)]
        pieces = []
        for i, start in enumerate([t[0], *map(float, starts)]):
            inside = t[bounds[i] : bounds[i + 1]]
            if i == len(jumps):
                pieces.append(self._solve(u0, (start, t[-1].item()), saveat=inside).u)
                break
            end = float(ends[i])
            # A time at the jump itself is as good as the end.
            saved = inside if len(inside) and inside[-1].item() == jumps[i] else torch.cat([inside, inside.new_tensor([end])])
            states = self._solve(u0, (start, end), saveat=saved).u
            u0 = states[-1]
            pieces.append(states[: len(inside)])
        return torch.cat(pieces)

    def _solve(self, u0: torch.Tensor, tspan: Any, *, saveat: Any, throw: bool = True, **options: Any) -> Solution:
        adapter, adjoint = self.adapter, self.adjoint
        trained = None if adjoint is None else frozenset(map(id, adjoint.parameters))
        keywords, norm = self.method.keywords, self.method.norm
        if norm is not None:
            options["internalnorm"] = lambda error: float(norm(adapter.form.user(error)))
        if "tstops" in keywords:
            keywords = keywords | {"tstops": _between(keywords["tstops"], *map(_number, tspan))}
        while True:
            was_in_python = adapter.in_python
            try:
                solution = solve(
                    adapter.pose(u0, tspan, trained),
                    self.method.algorithm,
                    saveat=saveat,
                    rtol=self.rtol,
                    atol=self.atol,
                    sensealg=None if adjoint is None else adjoint.sensealg,
                    engine=self.engine,
                    throw=throw,
                    **keywords,
                    **options,
                )
                break
            except CaptureError as error:
                if was_in_python:
                    raise
                adapter.leave_in_python(error)
            except SolveFailed as error:
                raise StepsFailed.of(error) from None
        if adapter.counts:
            self._count(solution)
        return solution

    def _count(self, solution: Solution) -> None:
        adapter, raw = self.adapter, solution._raw
        adapter.count(raw.stats["nf"])
        node = solution.states.grad_fn
        if node is not None and solution.sensealg is not None and solution.sensealg.continuous:
            node.register_hook(lambda *_: adapter.count(raw.stats["nvjp"]))


def _number(x: Any) -> float:
    return x.item() if torch.is_tensor(x) else float(x)


def _between(times: np.ndarray, start: float, end: float) -> np.ndarray | None:
    inside = times[(times > min(start, end)) & (times < max(start, end))]
    return inside if len(inside) else None


class ZeroGradients(torch.autograd.Function):
    """`x`, and gradients of zero for tensors that it does not depend on."""

    @staticmethod
    def forward(ctx, x, *tensors):
        ctx.save_for_backward(*tensors)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return (grad, *map(torch.zeros_like, ctx.saved_tensors))
