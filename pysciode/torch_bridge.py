"""torch's autograd over an engine's solve and pullback."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .algorithms import Algorithm
from .engines.base import Engine, Pullback, RawSolution, SolveOptions, SolveRequest
from .errors import GradientFailed
from .parameters import flat_array, is_tensor
from .problems import ODEProblem
from .sensitivity import SensitivityAlgorithm
from .solution import SUCCESS, Solution
from .validation import check_finite

_transforming = torch._C._are_functorch_transforms_active


def solve_torch(
    problem: ODEProblem,
    algorithm: Algorithm | None,
    options: SolveOptions,
    sensealg: SensitivityAlgorithm | None,
    engine: Engine,
    saveat: Any,
) -> Solution:
    """Solve a torch problem; the states carry a gradient where one of the inputs asks for it."""
    from .solving import algorithm_name, choose_sensealg

    span = problem.span
    saved = saveat if is_tensor(saveat) and saveat.requires_grad and saveat.ndim == 1 else None
    leaves = [x for x in problem.leaves if is_tensor(x)]
    times = (span.start_tensor, span.end_tensor, saved)
    transforming = _transforming()
    wants_u0 = transforming or problem.u0.requires_grad
    wants_p = transforming or any(x.requires_grad for x in leaves)
    wants_t = any(x is not None for x in times)
    save_idxs = options.save_idxs
    if not ((wants_u0 or wants_p or wants_t) and torch.is_grad_enabled()):
        call = _Call(problem, algorithm, options, None, engine, frozenset())
        call.run(problem.u0, leaves)
        states = call.states()
    else:
        sensealg = choose_sensealg(sensealg, problem, engine)
        if wants_t and save_idxs is not None:
            # The time derivative needs whole states.
            options = _replaced(options, save_idxs=None)
        wants = frozenset(name for name, wanted in (("u0", wants_u0 or wants_t), ("p", wants_p)) if wanted)
        times_given = saveat is not None and np.ndim(saveat) > 0
        call = _Call(problem, algorithm, options, sensealg, engine, wants, times_given)
        states = _Solve.apply(call, problem.u0, *times, *leaves)
        if save_idxs is not options.save_idxs:
            states = states.reshape(len(states), -1)[:, torch.from_numpy(save_idxs)]
    raw = call.raw
    if is_tensor(saveat) and saveat.ndim == 1 and len(saveat) == len(raw.t):
        t = saveat.to(problem.u0.dtype)
    else:
        t = torch.from_numpy(raw.t).to(problem.u0.dtype)
    return Solution(
        problem, raw, states, t, engine.name, algorithm_name(algorithm, raw), call.sensealg, save_idxs
    )


def _replaced(options: SolveOptions, **changes: Any) -> SolveOptions:
    from dataclasses import replace

    return replace(options, **changes)


class _Call:
    """One solve: what goes in, and after the forward pass what is needed for the backward one."""

    __slots__ = (
        "problem", "algorithm", "options", "sensealg", "engine", "wants", "times_given", "request", "raw", "pullback"
    )  # fmt: skip

    def __init__(
        self,
        problem: ODEProblem,
        algorithm: Algorithm | None,
        options: SolveOptions,
        sensealg: SensitivityAlgorithm | None,
        engine: Engine,
        wants: frozenset[str],
        times_given: bool = True,
    ) -> None:
        self.problem = problem
        self.algorithm = algorithm
        self.options = options
        self.sensealg = sensealg
        self.engine = engine
        self.wants = wants
        self.times_given = times_given
        self.request: SolveRequest | None = None
        self.raw: RawSolution | None = None
        self.pullback: Pullback | None = None

    def run(self, u0: torch.Tensor, leaves: list[torch.Tensor]) -> None:
        """Solve with the values of these tensors, which inside torch.func are not those of the problem."""
        problem = self.problem
        given = iter(leaves)
        p = flat_array([next(given) if is_tensor(x) else x for x in problem.leaves], problem.dtype)
        flat_u0 = u0.detach().reshape(-1).numpy()
        # An optimiser may have changed them since the problem was made.
        if not np.isfinite(p).all():
            _name_bad_leaf(problem, leaves)
        if not np.isfinite(flat_u0).all():
            check_finite(u0, "u0")
        self.request = SolveRequest(
            problem, flat_u0, p, problem.tspan, self.algorithm, self.options, self.sensealg, self.wants
        )
        if self.sensealg is None:
            self.raw = self.engine.solve(self.request)
        else:
            self.raw, self.pullback = self.engine.solve_with_pullback(self.request)

    def states(self) -> torch.Tensor:
        raw = self.raw
        states = torch.from_numpy(raw.u)
        return states if self.options.save_idxs is not None else states.view(len(raw.t), *self.problem.u0.shape)

    def pull(self, grad: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Gradients to flat u0 and p.

        Raises
        ------
        GradientFailed
            If the forward solve gave up, or something is not finite.
        """
        name = self.sensealg.name
        if self.raw.retcode not in SUCCESS:
            raise GradientFailed(
                name, f"the solve itself stopped with retcode {self.raw.retcode}", "A partial solution has no gradient"
            )
        cotangent = np.ascontiguousarray(grad.detach().numpy(), self.problem.dtype).reshape(len(self.raw.t), -1)
        if not np.isfinite(cotangent).all():
            raise GradientFailed(
                name, "the gradient that comes in is not finite", "Look at what the loss does with the solution"
            )
        du0, dp = self.pullback(cotangent)
        for gradient, wanted in ((du0, "u0"), (dp, "p")):
            if wanted in self.wants and not np.isfinite(gradient).all():
                raise GradientFailed(
                    name,
                    f"the gradient with respect to {wanted} is not finite",
                    "The backward solve may be unstable, or the model has no derivative there: try another sensealg, "
                    "tighter tolerances, or rewrite the model",
                )
        return du0, dp

    def split(self, dp: np.ndarray) -> list[torch.Tensor]:
        """The gradient of each tensor among the parameters."""
        flat = torch.from_numpy(dp)
        layout = self.problem.layout
        return [
            flat[place].view(leaf.shape)
            for leaf, place in zip(self.problem.leaves, layout.slices, strict=True)
            if is_tensor(leaf)
        ]

    def time_gradients(
        self, grad: torch.Tensor, du0: np.ndarray
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Gradients with respect to the start, the end and the saved times."""
        span = self.problem.span
        g = grad.detach().numpy().reshape(len(self.raw.t), -1)
        at = self.raw.t
        given = self.problem.span.start_tensor, self.problem.span.end_tensor

        def flow(i: int) -> np.ndarray:
            return self.engine.rhs(self.request, self.raw.u[i], float(at[i]))

        start = end = None
        explicit = self.times_given
        if given[0] is not None:
            u0 = self.request.u0
            moving = du0.copy()
            if not explicit and at[0] == span.start:
                moving -= g[0]  # a state saved at the start moves with it
            start = -float(moving @ self.engine.rhs(self.request, u0, span.start))
        if given[1] is not None:
            end = float(g[-1] @ flow(len(at) - 1)) if not explicit and at[-1] == span.end else 0.0
        dtype = self.problem.u0.dtype
        saved = torch.tensor([float(g[i] @ flow(i)) for i in range(len(at))], dtype=dtype)
        return (
            None if start is None else torch.tensor(start, dtype=given[0].dtype).reshape(given[0].shape),
            None if end is None else torch.tensor(end, dtype=given[1].dtype).reshape(given[1].shape),
            saved,
        )


def _name_bad_leaf(problem: ODEProblem, leaves: list[torch.Tensor]) -> None:
    given = iter(leaves)
    for (name, _, _), x in zip(problem.layout.entries, problem.leaves, strict=True):
        check_finite(next(given) if is_tensor(x) else x, name)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(call, u0, start, end, saved, *leaves):
        call.run(u0, leaves)
        return call.states()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.call = inputs[0]
        # Kept so that torch notices if one of them is changed in place before the backward pass.
        ctx.save_for_backward(*(x for x in inputs[1:] if x is not None))

    @staticmethod
    def backward(ctx, grad):
        tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if torch.is_grad_enabled() or _transforming():
            found = _Pullback.apply(ctx.call, any(needs[2:5]), grad, *tensors)
        else:
            found = _pull(ctx.call, any(needs[2:5]), grad)
        return (None, *(x if wanted else None for x, wanted in zip(found, needs[1:], strict=True)))


def _pull(call: _Call, with_times: bool, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    du0, dp = call.pull(grad)
    times = call.time_gradients(grad, du0) if with_times else (None, None, None)
    return (torch.from_numpy(du0).view(call.problem.u0.shape), *times, *call.split(dp))


class _Pullback(torch.autograd.Function):
    """The backward pass where it might be differentiated itself, which it can't."""

    @staticmethod
    def forward(call, with_times, grad, *tensors):
        return _pull(call, with_times, grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.sensealg = inputs[0].sensealg.name

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError(
            f"second derivatives of a solve are not available ({ctx.sensealg}): take the first derivative without "
            "create_graph=True, or difference first derivatives"
        )
