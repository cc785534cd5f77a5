"""The engine without Julia: torchdiffeq, explicit methods in pure torch.

It offers by SciML's names only the methods that are the same as SciML's; anything else raises
:class:`~pysciode.errors.EngineUnavailable`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torchdiffeq import odeint

from ...errors import EngineUnavailable, GradientFailed
from ...graphs.captured_model import CallbackModel
from ...methods.adjoints import SensitivityAlgorithm
from ..base import Engine, Gradients, Pullback, RawSolution, SolveRequest
from ..torch_rhs import FlatRhs, torch_rhs
from . import methods as embedded_methods
from .adjoint import backsolve
from .recorder import Recorder, SolverStopped, first_step, hermite, partial_states

ADAPTIVE = {"Tsit5": embedded_methods.TSIT5, "DP5": "dopri5", "BS3": "bosh3"}
"""SciML's name -> torchdiffeq's, for methods with step size control. Its ``adaptive_heun`` isn't SciML's Heun: it starts
the next step from the slope at the predictor."""

ORDERS = {"Tsit5": 5, "DP5": 5, "BS3": 3}

FIXED = {"Euler": "euler", "Midpoint": "midpoint", "Heun": "heun2", "RK4": embedded_methods.RK4}
"""The same with ``adaptive=False``. torchdiffeq's ``rk4`` is the 3/8 rule, and its ``dopri8`` not SciML's DP8."""

DEFAULT = "Tsit5"


@dataclass(frozen=True)
class _Run:
    """One call of torchdiffeq.

    Attributes
    ----------
    times
        Start of the time span, then the times to save at; without these the end.
    rows
        Which of these were asked for.
    """

    method: str
    adaptive: bool
    order: int
    name: str
    options: dict[str, Any]
    times: torch.Tensor
    rows: slice


class EmbeddedEngine(Engine):
    """torchdiffeq behind the engine's contract."""

    name = "embedded"

    def rhs(self, request: SolveRequest, u: np.ndarray, t: float) -> np.ndarray:
        with torch.no_grad():
            p = torch.from_numpy(np.array(request.p))
            return torch_rhs(request.problem)(torch.from_numpy(np.array(u)), p, torch.tensor(t, dtype=p.dtype)).numpy()

    def solve(self, request: SolveRequest) -> RawSolution:
        run, rhs = _plan(request), torch_rhs(request.problem)
        with torch.no_grad():
            return _integrate(request, run, rhs, *_tensors(request), keep_graph=False)[0]

    def solve_with_pullback(self, request: SolveRequest) -> tuple[RawSolution, Pullback]:
        sensealg = _check_sensealg(request.sensealg, request.problem.model)
        run, rhs = _plan(request), torch_rhs(request.problem)
        u0, p = _tensors(request)
        if sensealg.embedded == "adjoint":
            with torch.no_grad():
                raw, states, counts = _integrate(request, run, rhs, u0, p, keep_graph=False)
            # The raw solution shares the states' memory, and the caller owns it.
            return raw, partial(_backsolve, request, run, rhs, u0, p, raw.t, states.clone(), counts)
        with torch.enable_grad():
            raw, states, _ = _integrate(request, run, rhs, u0.requires_grad_(), p.requires_grad_(), keep_graph=True)
        return raw, partial(_through_the_solver, states, u0, p)


@torch.autocast("cpu", enabled=False)  # a solver's arithmetic is not the place to save bits
def _integrate(
    request: SolveRequest, run: _Run, rhs: FlatRhs, u0: torch.Tensor, p: torch.Tensor, *, keep_graph: bool
) -> tuple[RawSolution, torch.Tensor, dict[str, int]]:
    """The raw solution, the whole states at its times as a tensor, with its graph if wanted, and the solution's statistics."""
    options = request.options
    every_step = options.saveat is None
    recorder = Recorder.make(run.adaptive, rhs, p, u0, run.times[0].item(), request, keep_graph)
    retcode = "Success"
    solver_options = run.options
    if run.adaptive and options.dt is None:
        # Chosen here, so that no gradient flows through the choice of the steps.
        solver_options = solver_options | {"first_step": first_step(recorder, u0, request, run.order)}
    try:
        states: Any = odeint(recorder, u0, run.times, **_tolerances(request), method=run.method, options=solver_options)
    except SolverStopped as stop:
        retcode = stop.retcode
        recorder.forget_last_if_bad()
        times, states = partial_states(recorder, run.times[run.rows], every_step)
    else:
        last = states[-1]
        if every_step:
            times = torch.tensor([*recorder.times, run.times[-1].item()], dtype=torch.float64)
            states = torch.cat([torch.stack(recorder.states), last[None]])
        else:
            times, states = run.times[run.rows], states[run.rows]
        recorder.finish(run.times[-1].item(), last)
        finite = torch.isfinite(states.detach()).all(1)
        if not finite.all():
            # A fixed step goes on through overflow; what came before it is the partial solution.
            retcode = "Unstable"
            good = int((~finite).nonzero()[0])
            recorder.cut(times[good].item())
            times, states = times[:good], states[:good]
    saved = states if options.save_idxs is None else states[:, torch.from_numpy(options.save_idxs)]
    counts = recorder.stats()
    raw = RawSolution(
        t=times.numpy().copy(),
        u=np.ascontiguousarray(saved.detach().numpy()),
        retcode=retcode,
        stats=counts,
        t_reached=recorder.times[-1],
        interpolant=hermite(recorder) if options.dense else None,
        algorithm=run.name,
    )
    return raw, states, counts


def _through_the_solver(states: torch.Tensor, u0: torch.Tensor, p: torch.Tensor, du: np.ndarray) -> Gradients:
    grads = torch.autograd.grad(states, (u0, p), torch.from_numpy(du), retain_graph=True, allow_unused=True, materialize_grads=True)
    return {"u0": grads[0].numpy(), "p": grads[1].numpy()}


def _backsolve(
    request: SolveRequest,
    run: _Run,
    rhs: FlatRhs,
    u0: torch.Tensor,
    p: torch.Tensor,
    saved: np.ndarray,
    states: torch.Tensor,
    counts: dict[str, int],
    du: np.ndarray,
) -> Gradients:
    times = torch.from_numpy(saved)
    cotangents = torch.from_numpy(du)
    if saved[0] != request.tspan[0]:
        times = torch.cat([run.times[:1], times])
        states = torch.cat([u0[None], states])
        cotangents = torch.cat([torch.zeros_like(u0)[None], cotangents])
    with torch.no_grad():
        lam, mu = backsolve(
            rhs,
            p,
            times,
            states,
            cotangents,
            request.options.maxiters,
            counts,
            **_tolerances(request),
            method=run.method,
            options=run.options,
        )
    return {"u0": lam.numpy(), "p": mu.numpy()}


def _tolerances(request: SolveRequest) -> dict[str, Any]:
    atol = request.options.atol
    return {"rtol": request.options.rtol, "atol": torch.from_numpy(atol) if isinstance(atol, np.ndarray) else atol}


def _tensors(request: SolveRequest) -> tuple[torch.Tensor, torch.Tensor]:
    # Copies: the request's arrays may change once the solve is over, and the pullback must not see that.
    return torch.from_numpy(np.array(request.u0)), torch.from_numpy(np.array(request.p))


def _plan(request: SolveRequest) -> _Run:
    """Plan the call of torchdiffeq; refuse what it can't do."""
    problem, options = request.problem, request.options
    if problem.device is not None:
        raise EngineUnavailable(f"a solve on {problem.device}")
    if problem.mass_matrix is not None:
        raise EngineUnavailable("a mass matrix")
    if options.events or options.steps:
        raise EngineUnavailable("callbacks")
    if options.norm is not None:
        raise EngineUnavailable("internalnorm")
    if options.extra:
        raise EngineUnavailable(f"the solver option {next(iter(options.extra))!r}")
    algorithm = request.algorithm
    name = DEFAULT if algorithm is None else algorithm.name
    if algorithm is not None and (algorithm.options or algorithm.arguments):
        raise EngineUnavailable(f"{algorithm!r} with options")
    adaptive = options.adaptive and name not in ("Euler",)
    table = ADAPTIVE if adaptive else FIXED
    if name not in table:
        offered = f"the embedded engine has {', '.join(ADAPTIVE)}, and with a fixed step {', '.join(FIXED)}"
        detail = "" if adaptive or name not in ADAPTIVE else " with adaptive=False"
        raise EngineUnavailable(f"the algorithm {name}{detail}", offered)
    start, end = request.tspan
    saveat = options.saveat
    times = np.array([start, end]) if saveat is None else saveat
    rows = slice(None)
    if times[0] != start:
        times, rows = np.concatenate([[start], times]), slice(1, None)
    elif len(times) == 1:
        times, rows = np.array([start, end]), slice(0, 1)
    return _Run(table[name], adaptive, ORDERS.get(name, 0), name, _options(request, adaptive), torch.from_numpy(np.array(times)), rows)


def _options(request: SolveRequest, adaptive: bool) -> dict[str, Any]:
    options = request.options
    if not adaptive:
        if options.tstops is not None:
            raise EngineUnavailable("tstops with a fixed step")
        if options.dt is None:
            raise EngineUnavailable("a fixed step without dt")
        return {"grid_constructor": partial(_grid, options.dt, options.maxiters), "interp": "cubic"}
    out: dict[str, Any] = {}
    if options.dt is not None:
        out["first_step"] = abs(options.dt)
    if options.dtmax is not None:
        out["max_step"] = abs(options.dtmax)
    if options.tstops is not None:
        out["jump_t"] = torch.from_numpy(np.array(options.tstops))
    return out


def _grid(dt: float, maxiters: int, rhs: object, u: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Points of fixed steps from the first time to the last; no more than the solver is let step to."""
    start, length = times[0], times[-1] - times[0]
    count = math.ceil(min(abs(length.item()) / dt * (1 - 1e-12), maxiters + 1))
    return torch.cat([start + torch.sign(length) * dt * torch.arange(count, dtype=times.dtype), times[-1:]])


def _check_sensealg(sensealg: SensitivityAlgorithm | None, model: object) -> SensitivityAlgorithm:
    if sensealg is None or sensealg.embedded is None:
        raise EngineUnavailable(
            f"the sensitivity method {sensealg.name if sensealg else None}",
            "the embedded engine has BacksolveAdjoint and, through the solver, ReverseDiffAdjoint",
        )
    if sensealg.embedded == "adjoint":
        if not sensealg.generated:
            raise EngineUnavailable(f"{sensealg.name}(autojacvec={sensealg.options['autojacvec']!r})")
        if not sensealg.options["checkpointing"]:
            raise EngineUnavailable(f"{sensealg.name}(checkpointing=False)")
    if isinstance(model, CallbackModel) and model.vjp is None:
        raise GradientFailed(sensealg.name, "the model is a Python callback without a derivative", "Write it in torch")
    return sensealg
