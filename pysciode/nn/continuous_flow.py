"""Continuous normalizing flows: densities and samples by an ODE.

Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations" (NeurIPS 2018, arXiv:1806.07366),
section 4; Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, "FFJORD: Free-form Continuous Dynamics for Scalable
Reversible Generative Models" (ICLR 2019, arXiv:1810.01367).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal

from ..arrays.torch_compile import opaque
from ..capture.torch.arguments import infer_signature
from ..engines.base import Engine
from ..methods.adjoints import SensitivityAlgorithm, check_sensealg
from ..methods.algorithms import Algorithm, Tsit5, check_algorithm
from ..problems.ode import ODEProblem
from ..solving.options import check_reserved
from ..solving.solution import Solution
from ..solving.solve import solve
from .call_record import LatestCall
from .divergence import Divergence, Noise, draw_noise, exact_divergence, hutchinson_divergence
from .flow_batch import FlowBatch
from .flow_distribution import FlowDistribution
from .regularization import Regularization

Trace = Literal["exact", "hutchinson"]


class ContinuousFlow(LatestCall, nn.Module):
    """``dx/dt = f(t, x)`` carries a simple distribution at the first time to that of the data at the last.

    The logarithm of the density changes along a path by ``-tr ∂f/∂x`` (Chen et al., theorem 1), which is integrated
    beside it.

    Parameters
    ----------
    dynamics
        Any module with ``forward(t, x)``, ``forward(x)`` or ``forward(t, x, context)`` that returns the shape of `x`,
        each sample for itself; `t` is a tensor without dimensions. Without a third argument, a context follows `x`
        along the first axis after the batch. It should be smooth: take tanh or softplus, not ReLU, whose divergence
        jumps.
    shape
        Shape of one sample: a number of entries, or ``(channels, height, width)`` and the like.
    trace
        ``"exact"`` costs about one evaluation of the dynamics for each entry of a sample, ``"hutchinson"`` one in all
        but makes the density noisy (without bias, as its gradient). An attribute, which may be set: estimates to
        train with, exact values to report.
    noise
        Distribution of Hutchinson's noise: ``"rademacher"`` or ``"gaussian"``, drawn once for a solve. In training mode it comes from
        torch's random numbers, in evaluation mode from `seed`, so that log densities are the same from call to call.
    base
        The distribution at the first time, with samples of `shape`; by default standard normal.
    t_span
        First and last time.
    algorithm
        By default ``Tsit5()``, on both engines.
    rtol, atol, sensealg, engine
        As in :func:`pysciode.solve`; `atol` is one number.
    regularization
        What to integrate beside the states, in training mode only; see :attr:`regularization`. Its Jacobian term comes
        with the trace at no cost, with the same noise, or exactly beside an exact trace (Finlay et al. 2020,
        arXiv:2002.02798).
    seed
        Seed of the noise in evaluation mode.
    solver_options
        Further arguments of :func:`pysciode.solve`, such as ``maxiters``.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.

    Notes
    -----
    The dynamics with their divergence are compiled once for each size of batch and each mode, which takes a second or
    two: a data loader should drop its last batch where that is a smaller one.

    Examples
    --------
    >>> flow = ContinuousFlow(ConcatSquashNetwork(2), 2)
    >>> loss = -flow.log_prob(data).mean()
    >>> samples = flow.sample(1000)
    """

    def __init__(
        self,
        dynamics: nn.Module,
        shape: int | Sequence[int],
        *,
        trace: Trace = "exact",
        noise: Noise = "rademacher",
        base: Distribution | None = None,
        t_span: tuple[float, float] = (0.0, 1.0),
        algorithm: Algorithm | str | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        sensealg: SensitivityAlgorithm | None = None,
        regularization: Regularization | None = None,
        seed: int = 0,
        engine: str | Engine | None = None,
        **solver_options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(dynamics, nn.Module):
            raise TypeError(f"dynamics must be an nn.Module, not {type(dynamics).__name__}")
        self._roles = infer_signature(dynamics)
        if "u" not in self._roles or "du" in self._roles:
            raise TypeError(f"dynamics must take (t, x), (x) or (t, x, context), but its forward takes {self._roles}")
        if noise not in get_args(Noise):
            raise ValueError(f"noise must be 'rademacher' or 'gaussian', not {noise!r}")
        if regularization is not None and not isinstance(regularization, Regularization):
            raise TypeError(f"regularization must be a Regularization, not {type(regularization).__name__}")
        if atol is not None and np.ndim(atol):
            raise ValueError("atol must be one number")
        check_reserved(solver_options, "a flow returns whole samples at its end or raises SolveFailed")
        check_sensealg(sensealg)
        self.dynamics = dynamics
        self.shape = _shape(shape)
        self.trace = trace
        self.noise: Noise = noise
        self.seed = seed
        self.t_span = _time_span(t_span)
        self.algorithm = Tsit5() if algorithm is None else check_algorithm(algorithm)
        self.options = {"rtol": rtol, "atol": atol, "sensealg": sensealg, "engine": engine, **solver_options}
        self._base = None if base is None else _check_base(base, self.shape)
        self.regularizer = regularization
        self._forget()

    @property
    def trace(self) -> Trace:
        return self._trace

    @trace.setter
    def trace(self, value: Trace) -> None:
        if value not in get_args(Trace):
            raise ValueError(f"trace must be 'exact' or 'hutchinson', not {value!r}")
        self._trace: Trace = value

    @property
    def base(self) -> Distribution:
        """The distribution at the first time."""
        if self._base is not None:
            return self._base
        like = next((x for x in self.parameters() if x.is_floating_point()), torch.empty(()))
        zeros = torch.zeros(self.shape, dtype=like.dtype, device=like.device)
        return Independent(Normal(zeros, torch.ones_like(zeros)), len(self.shape))

    # --- maps and densities ------------------------------------------------------------------------------------------

    @opaque
    def forward(
        self, z: torch.Tensor, context: torch.Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map samples of the base to data.

        Parameters
        ----------
        z
            Shape ``(…, *shape)``.
        context
            Input of the dynamics beside time and state, constant throughout the solve: shape ``(…, k)`` or, for
            samples of more axes than one, ``(…, k, *shape[1:])``. Its batch and that of `z` are broadcast.
        generator
            Source of Hutchinson's noise.

        Returns
        -------
        x, log_det
            Samples of shape ``(…, *shape)``, and ``log |det ∂x/∂z|`` of shape ``(…)``.

        Raises
        ------
        TypeError, ValueError
            If an input is invalid; the message names it.
        SolveFailed
            If the solver gave up.
        """
        return self._transport(FlowBatch.of(z, context, self.shape, "z"), *self.t_span, generator)

    @opaque
    def inverse(
        self, x: torch.Tensor, context: torch.Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map data to the base, backwards in time: return `z` and ``log |det ∂z/∂x|``; see `forward`."""
        start, end = self.t_span
        return self._transport(FlowBatch.of(x, context, self.shape, "x"), end, start, generator)

    @opaque
    def log_prob(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        *,
        time: float | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Logarithm of the density at `x`, shape ``(…)``; see `forward`.

        Parameters
        ----------
        time
            Of the flow, by default its last: earlier ones give the densities on the way.
        """
        start, end = self.t_span
        time = end if time is None else float(time)
        if not min(start, end) <= time <= max(start, end):
            raise ValueError(f"time must lie between {start:g} and {end:g}, not {time!r}")
        batch = FlowBatch.of(x, context, self.shape, "x")
        if time == start:
            self._forget()
            return self.base.log_prob(batch.unflatten(batch.x))
        z, log_det = self._transport(batch, time, start, generator)
        return self.base.log_prob(z) + log_det

    @opaque
    def trajectory(self, z: torch.Tensor, times: Any, context: torch.Tensor | None = None) -> torch.Tensor:
        """Return the path of `z` at these times, shape ``(k, …, *shape)``.

        Parameters
        ----------
        times
            Shape ``(k,)``, strictly monotone from the first time of the flow towards its last.
        """
        start, end = self.t_span
        times = np.array(times, np.float64)
        direction = 1 if end > start else -1
        if times.ndim != 1 or not len(times) or (np.diff(times) * direction <= 0).any():
            raise ValueError(f"times must be a list that goes strictly from {start:g} towards {end:g}")
        if not (min(start, end) <= times.min() and times.max() <= max(start, end)):
            raise ValueError(f"times must lie between {start:g} and {end:g}")
        batch = FlowBatch.of(z, context, self.shape, "z")
        if len(times) == 1 and times[0] == start:
            self._forget()
            return batch.unflatten(batch.x)[None]
        return batch.unflatten(self._move(batch, (start, float(times[-1])), times))

    # --- samples -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    @opaque
    def sample(self, n: int | Sequence[int] = (), context: torch.Tensor | None = None, *, seed: int | None = None) -> torch.Tensor:
        """`n` samples for each context, shape ``(n, …, *shape)`` where ``…`` is the batch of `context`.

        Parameters
        ----------
        n
            A number, or a shape.
        seed
            Seed of this draw; torch's random state stays as it was.
        """
        return self._draw(n, context, seed, differentiable=False)

    @opaque
    def rsample(self, n: int | Sequence[int] = (), context: torch.Tensor | None = None, *, seed: int | None = None) -> torch.Tensor:
        """As `sample`, with gradients to the dynamics, to the context, and to the base if it has them."""
        if not self.base.has_rsample:
            raise NotImplementedError(f"base: {type(self.base).__name__} has no rsample")
        return self._draw(n, context, seed, differentiable=True)

    def distribution(self, context: torch.Tensor | None = None) -> FlowDistribution:
        """The flow as one of torch's distributions; the batch of `context` is its ``batch_shape``."""
        return FlowDistribution(self, context)

    def _draw(self, n: int | Sequence[int], context: torch.Tensor | None, seed: int | None, differentiable: bool) -> torch.Tensor:
        size = torch.Size((n,) if isinstance(n, int) else n)
        if context is not None:
            size += FlowBatch.batch_of(context, self.shape)
        # A seed reseeds the GPUs' generators too.
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=devices, enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            z = self.base.rsample(size) if differentiable else self.base.sample(size)
        like = next(self.parameters(), z)
        batch = FlowBatch.of(z.to(like.dtype), context, self.shape, "base")
        return batch.unflatten(self._move(batch, self.t_span, self.t_span[1:])[0])

    # --- solves ------------------------------------------------------------------------------------------------------

    def _move(self, batch: FlowBatch, span: tuple[float, float], times: Any) -> torch.Tensor:
        """The samples alone at `times`, without their densities."""
        self._forget()
        return self._solve(self._velocity, batch.x, span, batch.parameters, np.array(times)).u

    def _transport(
        self, batch: FlowBatch, start: float, end: float, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples and the logarithm of their Jacobian's determinant."""
        self._forget()
        x, parameters = batch.x, dict(batch.parameters)
        if self.trace == "hutchinson":
            if generator is None and not self.training:
                generator = torch.Generator(x.device).manual_seed(self.seed)
            parameters["noise"] = draw_noise(x, self.noise, generator)
        state = torch.cat([x.flatten(1), x.new_zeros(len(x), 1 + len(self._terms))], 1)
        last = self._solve(self._rates, state, (start, end), parameters, np.array([end])).u[0]
        n = math.prod(self.shape)
        if self._terms:
            # Solved from the data to the base, an integral over time comes with the other sign.
            self._integrals = last[:, n + 1 :] * (1.0 if end > start else -1.0)
        return batch.unflatten(last[:, :n].reshape(x.shape)), last[:, n].reshape(batch.shape)

    def _solve(self, f: Any, u0: torch.Tensor, span: tuple[float, float], parameters: dict[str, torch.Tensor], saveat: Any) -> Solution:
        solution = solve(ODEProblem(f, u0, span, parameters), self.algorithm, saveat=saveat, **self.options)
        self._note(solution)
        return solution

    @property
    def _terms(self) -> tuple[str, ...]:
        return self.regularizer.terms if self.regularizer is not None and self.training else ()

    # What is compiled. These are methods, so that they go with copies of the flow.

    def _velocity(self, t: torch.Tensor, x: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        context = p.get("context")
        if "p" in self._roles:
            given = {"t": t, "u": x, "p": context}
        else:
            given = {"t": t, "u": x if context is None else torch.cat([x, context], 1)}
        out = self.dynamics(*(given[role] for role in self._roles))
        if not isinstance(out, torch.Tensor) or out.shape != x.shape:
            found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            raise TypeError(f"dynamics returned {found}, but the samples have shape {tuple(x.shape)}")
        return out

    def _rates(self, t: torch.Tensor, u: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        """The derivative of ``[x, log det, integrals]``, a row for each sample."""

        def field(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return self._velocity(t, x, p)

        x = u[:, : math.prod(self.shape)].reshape(-1, *self.shape)
        found = hutchinson_divergence(lambda x: field(t, x), x, p["noise"]) if "noise" in p else exact_divergence(lambda x: field(t, x), x)
        regularizer = self.regularizer
        columns = [] if regularizer is None else [self._integrand(regularizer, name, field, t, x, found) for name in self._terms]
        return torch.cat([found.value.flatten(1), found.trace[:, None], *columns], 1)

    def _integrand(
        self, regularizer: Regularization, name: str, field: Any, t: torch.Tensor, x: torch.Tensor, found: Divergence
    ) -> torch.Tensor:
        """Of one term of the regularisation, shape ``(batch, 1)``."""
        match name:
            case "kinetic":
                return found.value.flatten(1).square().sum(1, keepdim=True)
            case "jacobian":
                return found.squared_norm[:, None]
        return replace(regularizer, kinetic=0.0, jacobian=0.0).rates(field, t, x, None)[1]

    def extra_repr(self) -> str:
        start, end = self.t_span
        trace = f"trace={self.trace!r}" + (f", noise={self.noise!r}" if self.trace == "hutchinson" else "")
        given = [f"{name}={value!r}" for name, value in self.options.items() if value is not None]
        return ", ".join([f"shape={self.shape}", trace, f"t from {start:g} to {end:g}", repr(self.algorithm), *given])


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not sizes or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise ValueError(f"shape must be a positive number of entries or a list of such, not {shape!r}")
    return sizes


def _time_span(t_span: Any) -> tuple[float, float]:
    start, end = (float(t) for t in t_span)
    if not (math.isfinite(start) and math.isfinite(end)) or start == end:
        raise ValueError(f"t_span must be two different finite times, not {t_span!r}")
    return start, end


def _check_base(base: Any, shape: tuple[int, ...]) -> Distribution:
    if not isinstance(base, Distribution):
        raise TypeError(f"base must be a torch distribution, not {type(base).__name__}")
    if tuple(base.event_shape) != shape or tuple(base.batch_shape):
        raise ValueError(
            f"base has batch shape {tuple(base.batch_shape)} and event shape {tuple(base.event_shape)}; it must be () "
            f"and {shape}: torch.distributions.Independent makes a batch an event"
        )
    return base
