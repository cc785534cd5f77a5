"""Solutions between the solver's steps, differentiable, at times of each sample's own.

A continuous adjoint has to stop at every saved time, since the cotangent jumps there; with a hundred observations it takes
hundreds of small steps where the forward solve took ten. So only the solver's own steps are saved, and between them the state
is the quintic polynomial that agrees with it, its slope and its curvature at both ends (Hairer, Nørsett, Wanner, *Solving
Ordinary Differential Equations I*, 2nd ed., section II.6, on Hermite interpolation). Its cost hardly depends on how many times
are wanted, nor on whether samples share them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.polynomial.polynomial import polyder, polyval

from ..methods.algorithms import Algorithm
from ..problems.base import Problem
from ..problems.ode import ODEProblem
from ..solving.options import DEFAULT_TOLERANCES
from ..solving.solution import Solution
from ..solving.solve import solve

Field = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Of the state, slope and curvature at the left and the right end of the unit interval: powers of s, ascending.
_QUINTIC = (
    ((1, 0, 0, -10, 15, -6), (0, 0, 0, 10, -15, 6)),
    ((0, 1, 0, -6, 8, -3), (0, 0, 0, -4, 7, -3)),
    ((0, 0, 0.5, -1.5, 1.5, -0.5), (0, 0, 0, 0.5, -1, 0.5)),
)
_REFINEMENTS = 6
# Where the slope of a quintic's error is largest, and the error's largest value over that slope and the step.
_DEFECT_AT = 0.5 - 0.5 / 5**0.5
_ERROR_PER_DEFECT = 5**2.5 / 192


@dataclass(frozen=True)
class Trajectory:
    """A piecewise quintic in time.

    Attributes
    ----------
    knots
        Shape ``(k,)``, strictly monotone, float64.
    coefficients
        States, slopes and curvatures at the knots, shape ``(3, k, samples, batch, d)``.
    """

    knots: torch.Tensor
    coefficients: torch.Tensor

    def __call__(self, times: torch.Tensor) -> torch.Tensor:
        """States at `times`, of shape ``(samples, batch, n, d)``; times outside the knots get the nearest end's state.

        Parameters
        ----------
        times
            Shape ``(n,)``, for all samples, or ``(batch, n)``; in any order.
        """
        weights = self._weights(times).to(self.coefficients.dtype)
        shape = "nk" if times.ndim == 1 else "bnk"
        return torch.einsum(f"{shape},ksbd->sbnd", weights, self.coefficients.flatten(0, 1))

    def _weights(self, times: torch.Tensor) -> torch.Tensor:
        """The linear map from the coefficients to the states at `times`, shape ``(*shape of times, 3 k)``."""
        direction = torch.sign(self.knots[-1] - self.knots[0])
        knots = self.knots * direction
        times = (times.detach().to(knots) * direction).contiguous()
        left = (torch.searchsorted(knots, times, right=True) - 1).clamp(0, len(knots) - 2)
        step = knots[left + 1] - knots[left]
        s = ((times - knots[left]) / step).clamp(0, 1)
        weights = torch.zeros(*times.shape, 3, len(knots), dtype=knots.dtype)
        for order, ends in enumerate(_QUINTIC):
            for knot, powers in zip((left, left + 1), ends, strict=True):
                weight: Any = polyval(s, powers) * (step * direction) ** order
                weights[..., order, :].scatter_(-1, knot[..., None], weight[..., None])
        return weights.flatten(-2)


def continuous_solution(
    field: Field,
    u0: torch.Tensor,
    start: float,
    end: float,
    algorithm: Algorithm | None,
    options: Mapping[str, Any],
) -> tuple[Trajectory, list[Solution]]:
    """Solve from `start` to `end`, for states at any time between.

    Parameters
    ----------
    field
        ``f(t, u)``, each row of `u` for itself.
    u0
        Shape ``(samples, batch, d)``.
    options
        Further arguments of :func:`pysciode.solve`.

    Returns
    -------
    Trajectory
        Its interpolation error, which the defect ``P' - f(t, P)`` shows, is within the tolerances in the solver's norm:
        where the solver's steps are too long for that they are divided, and the problem is solved again.
    list of Solution
        The solutions that it interpolates.

    Raises
    ------
    SolveFailed
        If the solver gave up.
    """
    samples, batch, d = u0.shape
    problem = ODEProblem(field, u0.reshape(-1, d), (start, end))
    saveat, solutions = None, []
    for _ in range(_REFINEMENTS):
        solution = solve(problem, algorithm, saveat=saveat, dense=False, **options)
        solutions.append(solution)
        depends_on_time = _depends_on_time(problem)
        knots = (solution.t if saveat is None else saveat).to(torch.float64)
        derivatives = _slopes_and_curvatures(field, solution.t, solution.u, depends_on_time)
        coefficients = torch.stack([solution.u, *derivatives])
        parts = _parts(field, solution.t, coefficients.detach(), options, depends_on_time)
        if (parts == 1).all():
            break
        steps = zip(knots[:-1].tolist(), knots[1:].tolist(), parts.tolist(), strict=True)
        divided = [torch.linspace(a, b, n + 1, dtype=torch.float64)[:-1] for a, b, n in steps]
        saveat = torch.cat([*divided, knots[-1:]])
    else:
        warnings.warn(
            f"the latent path is interpolated less accurately than the tolerances ask, even with {len(knots)} knots: the "
            "dynamics may not be smooth (ReLU); take tanh, ELU or softplus, or looser tolerances",
            stacklevel=3,
        )
    return Trajectory(knots, coefficients.unflatten(2, (samples, batch))), solutions


def _depends_on_time(problem: Problem) -> bool:
    """Whether the model makes use of the time; if not, all knots can be evaluated as one batch."""
    graph = getattr(problem.model, "f", None)
    if not isinstance(graph, torch.fx.GraphModule):
        return True
    return bool(next(iter(graph.graph.nodes)).users)


def _slopes_and_curvatures(
    field: Field, times: torch.Tensor, states: torch.Tensor, depends_on_time: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """``f`` and ``∂f/∂t + (∂f/∂u) f`` at each knot."""
    if not depends_on_time:
        rows, at = states.flatten(0, 1), times[0]
        slopes = field(at, rows)
        curvatures = torch.func.jvp(lambda u: field(at, u), (rows,), (slopes,))[1]
        return slopes.reshape(states.shape), curvatures.reshape(states.shape)
    slopes = [field(t, u) for t, u in zip(times, states, strict=True)]
    one = torch.ones_like(times[0])
    curvatures = [torch.func.jvp(field, (t, u), (one, f))[1] for t, u, f in zip(times, states, slopes, strict=True)]
    return torch.stack(slopes), torch.stack(curvatures)


@torch.no_grad()
def _parts(
    field: Field, times: torch.Tensor, coefficients: torch.Tensor, options: Mapping[str, Any], depends_on_time: bool
) -> torch.Tensor:
    """Return the number of parts to divide each step into, at most 8, so that the interpolation error is within the tolerances.

    A quintic's error in the middle of a step `h` is about ``5^(5/2)/192 h`` times its largest defect, and goes with ``h⁶``.
    """
    step = torch.diff(times)[:, None, None]
    states = slopes = torch.zeros_like(coefficients[0, :-1])
    for order, (at_left, at_right) in enumerate(_QUINTIC):
        left, right = coefficients[order, :-1], coefficients[order, 1:]
        states = states + step**order * (_at_defect(at_left) * left + _at_defect(at_right) * right)
        rates = _at_defect(polyder(at_left)) * left + _at_defect(polyder(at_right)) * right
        slopes = slopes + step ** (order - 1) * rates
    if depends_on_time:
        at = times[:-1] + _DEFECT_AT * torch.diff(times)
        expected = torch.stack([field(t, u) for t, u in zip(at, states, strict=True)])
    else:
        expected = field(times[0], states.flatten(0, 1)).reshape(states.shape)
    rtol, atol = _tolerances(options, states.dtype)
    # Below the rounding error nothing is gained.
    precision = torch.finfo(states.dtype)
    allowed = torch.clamp(atol + rtol * states.abs(), min=10 * precision.eps * states.abs() + precision.tiny)
    error = (_ERROR_PER_DEFECT * step * (slopes - expected) / allowed).square().mean((1, 2)).sqrt()
    return torch.ceil(error.nan_to_num(nan=torch.inf) ** (1 / 6)).clamp(1, 8).to(torch.int64)


def _at_defect(powers: Any) -> float:
    return float(polyval(_DEFECT_AT, powers))


def _tolerances(options: Mapping[str, Any], dtype: torch.dtype) -> tuple[float, float]:
    rtol, atol = DEFAULT_TOLERANCES[np.dtype(str(dtype).removeprefix("torch."))]
    given = options.get("rtol"), options.get("atol")
    return rtol if given[0] is None else given[0], atol if given[1] is None else given[1]
