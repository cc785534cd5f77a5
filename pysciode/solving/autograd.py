"""torch's autograd over an engine's solve and pullback."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..arrays.checks import check_finite
from ..arrays.flat import InMainMemory, OnDevice
from ..arrays.parameters import is_tensor
from ..arrays.torch_transforms import transforming
from ..engines.base import Engine, Gradients, Pullback, RawSolution, SolveOptions, SolveRequest, UnstableSteps
from ..errors import AccuracyWarning, GradientFailed, SolveFailed, depth_of_user
from ..graphs.captured_model import CallbackModel
from ..methods.adjoints import GaussAdjoint, SensitivityAlgorithm
from ..methods.algorithms import Algorithm
from ..methods.initialization import Initialization, ShampineCollocationInit, dense
from ..problems.base import Problem
from .method_fit import warn_of_gradients
from .prepare import choose_sensealg
from .run import algorithm_name
from .solution import SUCCESS, Solution
from .step_gradients import warn_of_steps


def run_with_autograd(
    problem: Problem,
    algorithm: Algorithm | None,
    options: SolveOptions,
    sensealg: SensitivityAlgorithm | None,
    engine: Engine,
    saveat: Any,
) -> Solution:
    """Solve a torch problem; the states carry a gradient where one of the inputs asks for it."""
    span, leaves = problem.span, problem.tensors
    saved = saveat if isinstance(saveat, torch.Tensor) and saveat.ndim == 1 else None
    if saved is not None and saved.device != problem.u0.device:
        saved = saved.to(problem.u0.device)
    times = (span.start_tensor, span.end_tensor, saved if saved is not None and saved.requires_grad else None)
    in_transform = transforming()
    wants_u0 = in_transform or problem.u0.requires_grad
    wants_p = in_transform or any([x.requires_grad for x in leaves])  # noqa: C419  (a generator takes longer)
    wants_t = times[0] is not None or times[1] is not None or times[2] is not None
    save_idxs = options.save_idxs
    if not ((wants_u0 or wants_p or wants_t) and torch.is_grad_enabled()):
        call = _Call(problem, algorithm, options, None, engine, _NOTHING)
        call.run()
        states = call.states()
    else:
        if options.events:
            _check_events(options, in_transform)
        if options.initializealg is not None:
            _check_initialization(problem, options.initializealg, wants_t)
        chosen = sensealg is not None
        sensealg = choose_sensealg(sensealg, problem, algorithm, engine)
        if engine.name != "embedded":
            warn_of_gradients(problem, algorithm, sensealg, options.rtol)
        if wants_p:
            warn_of_steps(problem, in_transform)
        if save_idxs is not None:
            # Adjoints are of whole states; which of them are wanted is torch's matter then.
            options = replace(options, save_idxs=None)
        wants = _WANTS[wants_u0 or wants_t, wants_p]
        times_given = saveat is not None and np.ndim(saveat) > 0
        call = _Call(problem, algorithm, options, sensealg, engine, wants, times_given, wants_t, chosen)
        function = _TransformedSolve if in_transform else _Solve
        states = function.apply(call, problem.u0, *times, *leaves)
        if save_idxs is not options.save_idxs:
            states = states.reshape(len(states), -1)[:, torch.from_numpy(save_idxs).to(states.device)]
    raw = call.raw
    t = saved.to(problem.u0.dtype) if saved is not None and len(saved) == len(raw.t) else None
    return Solution(problem, raw, states, t, engine.name, algorithm_name(algorithm, raw), call.sensealg, save_idxs)


_NOTHING: frozenset[str] = frozenset()
_WANTS = {
    (True, True): frozenset(("u0", "p")),
    (True, False): frozenset(("u0",)),
    (False, True): frozenset(("p",)),
    (False, False): _NOTHING,
}


class _Call:
    """One solve: its inputs, and after the forward pass what the backward pass needs."""

    __slots__ = (
        "problem", "arrays", "algorithm", "options", "sensealg", "engine", "wants", "times_given", "times_move", "members", "request", "raw",
        "pullback", "method", "chosen", "differentiated",
    )  # fmt: skip

    request: SolveRequest
    differentiated: SolveRequest  # up to an event that ends the solve
    raw: RawSolution
    pullback: Pullback

    def __init__(
        self,
        problem: Problem,
        algorithm: Algorithm | None,
        options: SolveOptions,
        sensealg: SensitivityAlgorithm | None,
        engine: Engine,
        wants: frozenset[str],
        times_given: bool = True,
        times_move: bool = False,
        chosen: bool = True,
    ) -> None:
        self.problem = problem
        self.arrays = InMainMemory if problem.device is None else OnDevice
        self.algorithm = algorithm
        self.options = options
        self.sensealg = sensealg
        self.method = "" if sensealg is None else sensealg.name
        self.engine = engine
        self.wants = wants
        self.times_given = times_given
        self.times_move = times_move
        self.chosen = chosen  # whether the user named the method
        self.members: Sequence[_Call] = ()  # inside vmap, one for each member of the batch

    def copy(self) -> _Call:
        """Another call of the same kind, not yet made."""
        return _Call(
            self.problem,
            self.algorithm,
            self.options,
            self.sensealg,
            self.engine,
            self.wants,
            self.times_given,
            self.times_move,
            self.chosen,
        )

    def run(self) -> None:
        """Solve with the values that the problem's tensors have now."""
        problem = self.problem
        self._solve(problem.flat_u0(), problem.flat_p(), problem.u0, problem.tensors)

    def run_with(self, u0: torch.Tensor, leaves: Sequence[torch.Tensor]) -> None:
        """Solve with the values of these tensors, which inside torch.func are not those of the problem."""
        problem, given = self.problem, iter(leaves)
        values = [next(given) if is_tensor(x) else x for x in problem.leaves]
        self._solve(*self.arrays.values(u0, values, problem.dtype), u0, leaves)

    def _solve(self, flat_u0: Any, p: Any, u0: torch.Tensor, leaves: Sequence[torch.Tensor]) -> None:
        problem = self.problem
        # An optimiser may have changed them since the problem was made.
        if not self.arrays.all_finite(p):
            _name_bad_leaf(problem, leaves)
        if not self.arrays.all_finite(flat_u0):
            check_finite(u0, "u0")
        if not self.chosen and self.sensealg is not None and self.sensealg.goes_back_through_steps:
            # Another method may have to solve again, after an optimiser has changed the tensors.
            flat_u0, p = self.arrays.copy(flat_u0), self.arrays.copy(p)
        self.request = SolveRequest(
            problem, {"u0": flat_u0, "p": p}, problem.tspan, self.algorithm, self.options, self.sensealg, self.wants
        )
        self.differentiated = self.request
        if self.sensealg is None:
            self.raw = self.engine.solve(self.request)
        elif self.options.events:
            self._solve_up_to_event()
        else:
            self.raw, self.pullback = self.engine.solve_with_pullback(self.request)
            if self.raw.retcode not in SUCCESS and not self.sensealg.continuous:
                self._try_without_derivatives()

    def _solve_up_to_event(self) -> None:
        """Find the events first: up to the last time that was saved then, they change nothing."""
        found = self.raw = self.engine.solve(self.request.again(sensealg=None, wants=frozenset()))
        if found.retcode not in SUCCESS:
            return
        if not len(found.t):
            self.pullback = lambda du: self._zeros()
            return
        # Times are in the solve's precision.
        end = max(found.t[-1], found.t_reached, key=lambda t: abs(t - self.request.tspan[0]))
        options = replace(self.options, saveat=found.t, events=(), steps=())
        request = self.request.again(tspan=(self.request.tspan[0], end), options=options)
        self.differentiated = request
        again, self.pullback = self.engine.solve_with_pullback(request)
        self.raw = replace(again, retcode=found.retcode, events=found.events) if again.retcode in SUCCESS else again

    def _try_without_derivatives(self) -> None:
        """A method that carries derivatives through the solve may fail by them alone: then the solution still counts."""
        plain = self.engine.solve(self.request.again(sensealg=None, wants=frozenset()))
        if plain.retcode not in SUCCESS:
            return
        name, retcode = self.method, self.raw.retcode

        def refuse(du: Any) -> Gradients:
            raise GradientFailed(
                name,
                f"the solve that carries derivatives stopped with retcode {retcode}, though the one without succeeds",
                "The model may have no derivative at a state that it visits (a root at 0, say), or it needs a larger maxiters",
            )

        self.raw, self.pullback = plain, refuse

    def _pull_otherwise(self, grad: torch.Tensor) -> Gradients:
        """By an adjoint that takes steps of its own, for the one that was chosen here; so from now on for this model."""
        self.problem.compiled.setdefault(UnstableSteps, set()).add(self.algorithm)
        # The steps, where these were saved, may be others.
        options = replace(self.differentiated.options, saveat=np.asarray(self.raw.t))
        again = _Call(self.problem, self.algorithm, options, GaussAdjoint(), self.engine, self.wants, self.times_given, self.times_move)
        again.request = self.differentiated.again(sensealg=again.sensealg, options=options)
        again.raw, again.pullback = self.engine.solve_with_pullback(again.request)
        return again.pull(grad)

    def _zeros(self) -> Gradients:
        return {name: self.arrays.zeros_like(x) for name, x in self.request.values.items()}

    def states(self) -> torch.Tensor:
        u, shape = self.raw.u, self.problem.shape
        if self.times_move:
            u = self.arrays.copy(u)  # what the user does to the states must not reach the time gradients
        return self.arrays.tensor(u if self.options.save_idxs is not None or len(shape) == 1 else u.reshape(-1, *shape))

    def pull(self, grad: torch.Tensor) -> Gradients:
        """Gradients to the flat values, by name.

        Raises
        ------
        GradientFailed
            If the forward solve gave up, or something is not finite.
        """
        name = self.method
        if self.raw.retcode not in SUCCESS:
            raise GradientFailed(name, f"the solve itself stopped with retcode {self.raw.retcode}", "A partial solution has no gradient")
        cotangent = self.arrays.like(grad, self.raw.u)
        # A finite sum has finite terms, and is quicker to have; the sum of finite terms may overflow.
        total = grad.sum().item()
        if not math.isfinite(total) and not self.arrays.all_finite(cotangent.reshape(-1)):
            raise GradientFailed(name, "the gradient that comes in is not finite", "Look at what the loss does with the solution")
        atol = self.options.atol
        enough = 0.1 * (atol if isinstance(atol, float) else np.min(atol))
        small = self.sensealg is not None and self.sensealg.continuous and abs(total) <= enough * grad.numel()
        try:
            gradients = self._pull_small(cotangent, enough) if small else self.pullback(cotangent)
        except UnstableSteps as found:
            if not self.chosen:
                return self._pull_otherwise(grad)
            warnings.warn(
                f"{name}: the adjoint changes faster than the steps of {algorithm_name(self.algorithm, self.raw)} follow, so the gradient of "
                "these steps may be far from that of the solution: the problem is stiff, or the tolerances are loose. Take GaussAdjoint(), a "
                "Rosenbrock method such as Rodas5P(), or tighter tolerances",
                AccuracyWarning,
                stacklevel=depth_of_user(),
            )
            gradients = found.gradients
        except GradientFailed:
            if self.chosen or self.sensealg is None or not self.sensealg.goes_back_through_steps:
                raise
            return self._pull_otherwise(grad)
        for value, gradient in gradients.items():
            if value in self.wants and not self.arrays.all_finite(gradient):
                raise GradientFailed(
                    name,
                    f"the gradient with respect to {value} is not finite",
                    "The backward solve may be unstable, or the model has no derivative there: try another sensealg, "
                    "tighter tolerances, or rewrite the model",
                )
        return gradients

    def _pull_small(self, cotangent: Any, enough: float) -> Gradients:
        """The pullback is linear, but reverse solves find no first step where all lies far below their tolerance, as with a
        gradient that vanishes on its way through a long recurrent model."""
        largest = self.arrays.largest(cotangent)
        if largest > enough:
            return self.pullback(cotangent)
        dtype = self.problem.dtype
        tiny = float(np.finfo(dtype).tiny)
        if largest < tiny:
            return self._zeros()
        scale = dtype.type(min(10 * enough / largest, 0.1 / tiny)).item()
        return {name: gradient / scale for name, gradient in self.pullback(cotangent * scale).items()}

    def split(self, dp: Any, wanted: Sequence[bool]) -> list[torch.Tensor]:
        """The gradients of those tensors among the parameters that are wanted."""
        problem, turn = self.problem, iter(wanted)
        return [
            self.arrays.tensor(dp[place].reshape(leaf.shape))
            for leaf, place in zip(problem.leaves, problem.layout.slices, strict=True)
            if is_tensor(leaf) and next(turn)
        ]

    def _slope(self, u: Any, t: float) -> Any:
        du = self.engine.rhs(self.request, u, t)
        mass_matrix = self.problem.mass_matrix
        return du if mass_matrix is None else np.linalg.solve(dense(mass_matrix), du)

    def time_gradients(self, grad: torch.Tensor, du0: Any, moves: Sequence[bool]) -> list[torch.Tensor]:
        """Gradients with respect to those of the start, the end and the saved times that move."""
        span, at, rhs, saveat = self.problem.span, self.raw.t, self._slope, self.options.saveat
        g = self.arrays.like(grad, self.raw.u)

        def flow(i: int) -> float:
            return float(g[i] @ rhs(self.raw.u[i], float(at[i])))

        found = []
        if moves[0]:
            sensitivity = du0
            if not self.times_given and at[0] == span.start:
                sensitivity = du0 - g[0]  # a state saved at the start moves with it
            slope = rhs(self.request.u0, span.start)
            found.append(span.start_tensor.new_tensor(-float(sensitivity @ slope)))
        if moves[1]:
            last = flow(len(at) - 1) if not self.times_given and at[-1] == span.end else 0.0
            found.append(span.end_tensor.new_tensor(last))
        if moves[2] and saveat is not None:
            later = [0.0] * (len(saveat) - len(at))  # than an event that ended the solve
            found.append(self.problem.u0.new_tensor([*(flow(i) for i in range(len(at))), *later]))
        return found


def _check_initialization(problem: Problem, initializealg: Initialization, wants_t: bool) -> None:
    """Refuse gradients that are not supported with algebraic equations.

    Raises
    ------
    ValueError
        For gradients with respect to times, through ShampineCollocationInit, and of models that stay in Python.
    """
    if isinstance(problem.model, CallbackModel):
        raise ValueError("mass_matrix: where it is singular, a model that stays in Python (capture='callback') has no gradient")
    if wants_t:
        raise ValueError("mass_matrix: where it is singular, there are no gradients with respect to times; detach tspan and saveat")
    if isinstance(initializealg, ShampineCollocationInit):
        raise ValueError("initializealg: no gradient goes through ShampineCollocationInit(); take BrownFullBasicInit()")


def _check_events(options: SolveOptions, in_transform: bool) -> None:
    """Refuse events that a gradient can't pass.

    Raises
    ------
    ValueError
        For events that change the state, and inside torch.func.
    """
    if any(event.affect is not None for event in options.events):
        raise ValueError(
            "callback: no gradient passes through an event that changes the state. Solve up to the event "
            "(terminal=True, or odeint_event, whose time has a gradient too), change the state in torch, and go on from there"
        )
    if in_transform:
        raise ValueError("callback: events can't be used inside torch.func transformations")


def _name_bad_leaf(problem: Problem, leaves: Sequence[torch.Tensor]) -> None:
    given = iter(leaves)
    for (name, _, _), x in zip(problem.layout.entries, problem.leaves, strict=True):
        check_finite(next(given) if is_tensor(x) else x, name)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, u0, start, end, saved, *leaves):
        ctx.call = call
        # Kept so that torch notices if one of them is changed in place before the backward pass.
        ctx.save_for_backward(u0, *leaves)
        call.run()
        return call.states()

    @staticmethod
    def backward(ctx, grad):
        call, tensors, needs = ctx.call, ctx.saved_tensors, ctx.needs_input_grad
        if torch.is_grad_enabled() or transforming():
            found = iter(_Pullback.apply(call, needs[1:], grad, *tensors))
        else:
            found = iter(_pull(call, needs[1:], grad))
        return tuple([next(found) if needed else None for needed in needs])


class _TransformedSolve(torch.autograd.Function):
    """The same for torch.func, in the form that it asks for; torch takes 30 µs longer to call it."""

    @staticmethod
    def forward(call, u0, start, end, saved, *leaves):
        call.run_with(u0, leaves)
        return call.states()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.call = inputs[0]
        ctx.save_for_backward(inputs[1], *inputs[5:])

    @staticmethod
    def backward(ctx, grad):
        return _Solve.backward(ctx, grad)

    @staticmethod
    def jvp(ctx, *tangents):
        raise NotImplementedError(
            "forward mode (torch.func.jvp, jacfwd, hessian) does not go through a solve: use jacrev, whose gradients "
            "ForwardSensitivity() or ForwardDiffSensitivity() compute in forward mode"
        )

    @staticmethod
    def vmap(info, in_dims, call, *tensors):
        """One solve after the other: each takes its own steps."""
        if call.options.saveat is None:
            raise ValueError("vmap over solve needs saveat: the members of the batch take different steps")
        call.members = [call.copy() for _ in range(info.batch_size)]
        states = [
            _TransformedSolve.apply(member, *(_member(x, dim, i) for x, dim in zip(tensors, in_dims[1:], strict=True)))
            for i, member in enumerate(call.members)
        ]
        raws = [member.raw for member in call.members]
        call.request = call.members[0].request
        call.raw = next((raw for raw in raws if raw.retcode not in SUCCESS), raws[0])
        if call.raw.retcode in SUCCESS:
            return torch.stack(states), 0
        raise SolveFailed(call.raw.retcode, call.raw.t_reached, None, "one member of the batch failed")


class _Pullback(torch.autograd.Function):
    """The backward pass where it might be differentiated itself, which it can't, or be vectorised."""

    @staticmethod
    def forward(call, needs, grad, *tensors):
        return _pull(call, needs, grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.sensealg = inputs[0].method

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError(
            f"second derivatives of a solve are not available ({ctx.sensealg}): take the first derivative without "
            "create_graph=True, or difference first derivatives"
        )

    @staticmethod
    def vmap(info, in_dims, call, needs, grad, *tensors):
        """One pullback for each cotangent; of a batch of solves, each member's own."""
        members = call.members or [call] * info.batch_size
        found = [_pull(member, needs, _member(grad, in_dims[2], i)) for i, member in enumerate(members)]
        return tuple(torch.stack(x) for x in zip(*found, strict=True)), (0,) * len(found[0])


def _member(x: Any, dim: int | None, i: int) -> Any:
    return x if dim is None else x.select(dim, i)


def _pull(call: _Call, needs: Sequence[bool], grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The needed gradients, of u0, start, end, saved times and the tensors among the parameters, in this order."""
    gradients = call.pull(grad)
    du0, dp = gradients["u0"], gradients["p"]
    state = [call.arrays.tensor(du0.reshape(call.problem.shape))] if needs[0] else []
    times = call.time_gradients(grad, du0, needs[1:4]) if any(needs[1:4]) else []
    return (*state, *times, *call.split(dp, needs[4:]))
