"""Neural ODE blocks: a module's output is the state that its input flows to.

Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations" (NeurIPS 2018, arXiv:1806.07366),
section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..arrays.torch_compile import opaque
from ..capture.torch.arguments import infer_signature
from ..engines.base import Engine
from ..methods.adjoints import SensitivityAlgorithm, check_sensealg
from ..methods.algorithms import Algorithm, Tsit5, check_algorithm
from ..problems.ode import ODEProblem
from ..solving.options import check_reserved
from ..solving.solve import solve
from .call_record import LatestCall
from .fields import field_of, pack, unpack
from .regularization import Regularization

Returns = Literal["end", "trajectory", "both"]


class NeuralODE(LatestCall, nn.Module):
    """Solve ``du/dt = dynamics(t, u)`` from the input on, as a layer of a larger model.

    Parameters
    ----------
    dynamics
        Any module with ``forward(t, u)`` or ``forward(u)`` that returns the shape of `u`; `t` is a tensor without
        dimensions. It is compiled, once for each shape of input and for training and evaluation mode, so what draws
        random numbers or changes its buffers (dropout and batch normalisation in training mode) raises `CaptureError`.
    t_span
        Times of the input and of the end; times between are saved too where a trajectory is returned.
        Strictly monotone. A ``nn.Parameter`` is learnt.
    returns
        ``"end"``: the state at the last time; ``"trajectory"``: those at all times, time first; ``"both"``: the pair.
    algorithm
        By default ``Tsit5()``, on both engines.
    rtol, atol, sensealg, engine
        As in :func:`pysciode.solve`.
    regularization
        What to integrate beside the states, in training mode only; see :attr:`regularization`.
    solver_options
        Further arguments of :func:`pysciode.solve`, such as ``maxiters`` or, with ``adaptive=False``, ``dt``.

    Attributes
    ----------
    dynamics
        The module given.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it.

    Notes
    -----
    Step sizes are chosen for a batch as a whole, by the root mean square of its errors: so results depend on the batch
    within the tolerances, and one stiff sample slows all.

    Examples
    --------
    >>> block = NeuralODE(nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2)), rtol=1e-3, atol=1e-3)
    >>> classifier = nn.Sequential(nn.Linear(64, 2), block, nn.Linear(2, 10))
    """

    def __init__(
        self,
        dynamics: nn.Module,
        t_span: Any = (0.0, 1.0),
        *,
        returns: Returns = "end",
        algorithm: Algorithm | str | None = None,
        rtol: float | None = None,
        atol: Any = None,
        sensealg: SensitivityAlgorithm | None = None,
        regularization: Regularization | None = None,
        engine: str | Engine | None = None,
        **solver_options: Any,
    ) -> None:
        super().__init__()
        if not isinstance(dynamics, nn.Module):
            raise TypeError(f"dynamics must be an nn.Module, not {type(dynamics).__name__}")
        roles = infer_signature(dynamics)
        if set(roles) - {"t", "u"}:
            raise TypeError(f"dynamics must take (t, u) or (u), but its forward takes {roles}")
        if returns not in ("end", "trajectory", "both"):
            raise ValueError(f"returns must be 'end', 'trajectory' or 'both', not {returns!r}")
        if regularization is not None and not isinstance(regularization, Regularization):
            raise TypeError(f"regularization must be a Regularization, not {type(regularization).__name__}")
        if regularization is not None and np.ndim(atol):
            raise ValueError("atol must be one number where a regularisation is integrated beside the states")
        check_reserved(solver_options, "a block returns whole states at its times, or raises SolveFailed")
        check_sensealg(sensealg)
        self.dynamics = dynamics
        self.t_span = t_span if isinstance(t_span, torch.Tensor) else np.array(t_span, np.float64)
        _check_times(self.t_span, "t_span", dims=(1,))
        self.returns = returns
        self.regularizer = regularization
        self.algorithm = Tsit5() if algorithm is None else check_algorithm(algorithm)
        self.options = {"rtol": rtol, "atol": atol, "sensealg": sensealg, "engine": engine, **solver_options}
        self._forget()

    @opaque
    def forward(self, u0: torch.Tensor, times: Any = None) -> Any:
        """Solve.

        Parameters
        ----------
        u0
            States at the first time: any shape; with a regularisation or times for each sample, the first axis is the
            batch.
        times
            Replaces ``t_span``: shape ``(k,)``, or ``(batch, k)`` for times of each sample's own, monotone in every
            row; a row may repeat its last time to fill up.

        Returns
        -------
        tensor, or a pair of tensors
            ``"end"``: the shape of `u0`; ``"trajectory"``: ``(k, *shape of u0)``, its first entry `u0` itself.

        Raises
        ------
        TypeError, ValueError
            If an input is invalid; the message names it.
        SolveFailed
            If the solver gave up.

        Notes
        -----
        Times of each sample's own are solved in a time common to all: ``du/ds = (tᵢ₁ - tᵢ₀) f(tᵢ₀ + s (tᵢ₁ - tᵢ₀),
        u)``, one solve for each of the ``k - 1`` columns. Dynamics that depend on time are then called under
        ``torch.vmap``, with batches of one sample. Where the rows are drawn from one grid, the union of the times for
        all samples, with the wanted entries picked afterwards, is a single solve and so usually cheaper.
        """
        self._forget()
        times = self.t_span if times is None else times
        if not isinstance(times, torch.Tensor):
            times = np.asarray(times, np.float64)
        if not isinstance(u0, torch.Tensor):
            raise TypeError(f"u0 must be a tensor, not {type(u0).__name__}")
        _check_times(times, "times", dims=(1, 2), batch=u0.shape[0] if u0.ndim else None)
        regularizer = self.regularizer if self.training else None
        if regularizer is not None and u0.ndim < 2:
            raise ValueError(f"u0 has shape {tuple(u0.shape)}: a regularisation needs a batch, (batch, …)")
        noise = {} if regularizer is None else regularizer.draw_noise(u0)
        if times.ndim == 1:
            states, integrals = self._solve_together(u0, times, regularizer, noise)
        else:
            states, integrals = self._solve_each(u0, torch.as_tensor(times, dtype=u0.dtype), regularizer, noise)
        if integrals is not None:
            # Lengths count, not directions.
            direction = torch.sign(torch.as_tensor(times[..., -1] - times[..., 0], dtype=u0.dtype))
            self._integrals = integrals * direction[..., None]
        match self.returns:
            case "end":
                return states[-1]
            case "trajectory":
                return states
        return states[-1], states

    def _solve_together(
        self, u0: torch.Tensor, times: Any, regularizer: Regularization | None, noise: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The states at `times`, or at the last of them; and the integrals, shape ``(batch, terms)``."""
        saveat = times[-1:] if self.returns == "end" else times
        span = (times[0], times[-1].item())
        if regularizer is None:
            return self._solve(self.dynamics, u0, span, None, saveat), None
        field = field_of(self.dynamics, u0.shape, regularizer)
        packed = pack(u0, u0.new_zeros(len(u0), len(regularizer.terms)))
        states, integrals = unpack(self._solve(field, packed, span, noise, saveat), u0.shape)
        return states, integrals[-1]

    def _solve_each(
        self, u0: torch.Tensor, times: torch.Tensor, regularizer: Regularization | None, noise: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same for times of shape ``(batch, k)``, by a solve for each column."""
        field = field_of(self.dynamics, u0.shape, regularizer)
        states = [u0]
        integrals = None if regularizer is None else u0.new_zeros(len(u0), len(regularizer.terms))
        for start, end in zip(times.T[:-1], times.T[1:], strict=True):
            p = {"start": start, "length": end - start, **noise}
            if integrals is None:
                state = self._solve(field, states[-1], (0.0, 1.0), p, _END)[0]
            else:
                state, integrals = unpack(self._solve(field, pack(states[-1], integrals), (0.0, 1.0), p, _END)[0], u0.shape)
            states.append(state)
        return torch.stack(states[-1:] if self.returns == "end" else states), integrals

    def _solve(self, f: Callable[..., Any], u0: torch.Tensor, span: tuple[Any, float], p: Any, saveat: Any) -> torch.Tensor:
        solution = solve(ODEProblem(f, u0, span, p), self.algorithm, saveat=saveat, **self.options)
        self._note(solution)
        return solution.u

    def extra_repr(self) -> str:
        times = self.t_span.tolist()
        given = {name: value for name, value in self.options.items() if value is not None}
        shown = [f"t from {times[0]:g} to {times[-1]:g}", f"returns={self.returns!r}", repr(self.algorithm)]
        return ", ".join(shown + [f"{name}={value!r}" for name, value in given.items()])


_END = np.array([1.0])


def _check_times(times: Any, name: str, dims: tuple[int, ...], batch: int | None = None) -> None:
    values = times.numpy(force=True) if isinstance(times, torch.Tensor) else times
    if values.ndim not in dims or values.shape[-1] < 2:
        shapes = " or ".join(("(k,)", "(batch, k)")[d - 1] for d in dims)
        raise ValueError(f"{name} has shape {values.shape}; it must have shape {shapes}, with k at least 2")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite")
    steps = np.diff(values, axis=-1)
    if values.ndim == 1 and not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError(f"{name} must strictly increase or strictly decrease")
    if values.ndim == 2:
        if values.shape[0] != batch:
            raise ValueError(f"{name} has {values.shape[0]} rows, but u0 holds {batch} samples")
        if not np.all((steps >= 0).all(1) | (steps <= 0).all(1)):
            raise ValueError(f"{name} must be monotone in every row")
