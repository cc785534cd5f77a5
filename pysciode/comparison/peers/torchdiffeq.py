"""torchdiffeq as its users run it: ``odeint_adjoint``, and backpropagation through ``odeint``, on the user's own function.

The embedded engine runs torchdiffeq too, but refuses a continuous adjoint whose states drift; here the library speaks for
itself, so that a comparison shows what it gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchdiffeq import odeint, odeint_adjoint

from ...arrays.parameters import is_module, is_tensor
from ...engines.torch_rhs import torch_rhs
from ...errors import PysciodeError
from ...methods.algorithms import Algorithm
from ...problems.base import Problem
from ...problems.declarations import FIRST_ORDER
from ..measure.blocks import STATE, Blocks
from ..measure.contestants import Contestant, GradientRun, Task
from ..measure.rows import Counts
from .peer_solvers import peer_solvers, refuse_mass_matrix

MAX_STEPS = 10_000
"""Steps at most in one direction: a stiff problem would keep an explicit solver busy for hours, and backpropagation keeps
all of them in memory."""

TorchRhs = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def embedded_contestants(problem: Problem, algorithms: Sequence[Algorithm | None]) -> list[Contestant]:
    """torchdiffeq's two ways to a gradient, with its solvers that are nearest to `algorithms`.

    It has no stiff solver: what stands for one is its dopri5, so that the table shows what happens then.
    """
    return [
        EmbeddedContestant(label, method, None, "embedded", peer=solver)
        for solver, label in peer_solvers("torchdiffeq", algorithms)
        for method in ("odeint_adjoint", "odeint")
    ]


@dataclass(frozen=True)
class EmbeddedContestant(Contestant):
    """One of torchdiffeq's functions.

    Attributes
    ----------
    peer
        torchdiffeq's name of the solver.
    """

    peer: str = "dopri5"

    def prepare(self, task: Task) -> GradientRun:
        refuse_mass_matrix(task.problem, "torchdiffeq")
        return _Run(self, task)


class _Run(GradientRun):
    def __init__(self, contestant: EmbeddedContestant, task: Task) -> None:
        problem = task.problem
        self._through_solver = contestant.method == "odeint"
        self._u0 = problem.u0.detach().clone().requires_grad_(problem.u0.requires_grad)
        leaves = own_leaves(problem)
        differentiated = [x for x in leaves if x.requires_grad]
        self._wanted = dict(zip(Blocks.of(problem).places, differentiated, strict=True))
        self._rhs = CountedRhs(user_rhs(problem, leaves), min(MAX_STEPS, task.maxiters), contestant.peer)
        start = problem.tspan[0]
        self._skip = int(task.saveat[0] != start)
        self._times = torch.from_numpy(np.concatenate([[start] * self._skip, task.saveat]))
        self._options = {"rtol": task.rtol, "atol": float(np.min(task.atol)), "method": contestant.peer}
        self._states: torch.Tensor | None = None
        self._forward_counts = self._backward_counts = Counts()
        self._steps: int | None = None

    def forward(self) -> torch.Tensor:
        self._states = None  # frees the last graph
        self._rhs.restart()
        self._states = self._rhs.guard(self._solve)[self._skip :]
        self._forward_counts = Counts(f=self._rhs.nf)
        self._steps = self._rhs.accepted
        return self._states.detach()

    def _solve(self) -> torch.Tensor:
        if len(self._times) == 1:
            return self._u0[None] * 1
        if self._through_solver:
            with torch.enable_grad():
                return odeint(self._rhs, self._u0, self._times, **self._options)
        with torch.enable_grad():
            parameters = tuple(self._wanted.values())
            return odeint_adjoint(self._rhs, self._u0, self._times, adjoint_params=parameters, **self._options)

    def backward(self, cotangent: torch.Tensor) -> dict[str, np.ndarray]:
        wanted = dict(self._wanted)
        if self._u0.requires_grad:
            wanted[STATE] = self._u0
        self._rhs.restart()

        def pull() -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(self._states, list(wanted.values()), cotangent, allow_unused=True, materialize_grads=True)

        found = self._rhs.guard(pull)
        self._backward_counts = Counts(f=self._rhs.nf, vjp=self._rhs.pulled)
        gradients = {name: np.array(x.reshape(-1).numpy(), np.float64) for name, x in zip(wanted, found, strict=True)}
        for name, gradient in gradients.items():
            if not np.isfinite(gradient).all():
                raise PysciodeError(f"torchdiffeq: the gradient with respect to {name} is not finite")
        return gradients

    def counts(self) -> tuple[Counts, Counts]:
        return self._forward_counts, self._backward_counts

    def steps(self) -> int | None:
        return self._steps

    def kept_memory(self) -> int:
        """Bytes of the tensors that the graph saves for its backward pass, each once; solves once more to see them."""
        storages: dict[int, int] = {}

        def see(x: torch.Tensor) -> torch.Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x.detach()  # with its history a node that saves its own result would be kept for ever

        with torch.autograd.graph.saved_tensors_hooks(see, lambda x: x):
            self.forward()
        return sum(storages.values())


class CountedRhs:
    """A right-hand side ``f(t, u)`` that counts, with the callbacks by which torchdiffeq tells of its steps.

    Attributes
    ----------
    nf, pulled, accepted, rejected
        Evaluations, of these the ones that a vector-Jacobian product went through, and steps.
    """

    def __init__(self, f: TorchRhs, max_steps: int, solver: str) -> None:
        self._f = f
        self._max_steps = max_steps
        self._solver = solver
        self.restart()

    def restart(self) -> None:
        self.nf = self.pulled = self.accepted = self.rejected = self._tried = 0
        self._t: torch.Tensor | float = math.nan  # of the latest evaluation: torchdiffeq's own runs backwards as -t

    def __call__(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        self.nf += 1
        self._t = t
        du = self._f(t, u)
        if du.requires_grad:
            du.register_hook(self._count_pull)
        return du

    def _count_pull(self, grad: torch.Tensor) -> None:
        self.pulled += 1

    def callback_step(self, t: torch.Tensor, u: Any, dt: torch.Tensor) -> None:
        if self._tried >= self._max_steps:
            raise PysciodeError(
                f"torchdiffeq's {self._solver} gave up near t = {float(self._t):g} after {self._tried} steps; it has no "
                "method for stiff problems"
            )
        self._tried += 1

    callback_step_adjoint = callback_step

    def callback_accept_step(self, t: torch.Tensor, u: Any, dt: torch.Tensor) -> None:
        self.accepted += 1

    def callback_reject_step(self, t: torch.Tensor, u: Any, dt: torch.Tensor) -> None:
        self.rejected += 1

    def guard(self, run: Callable[[], Any]) -> Any:
        """``run()``; torchdiffeq's failed assertions become errors of ours.

        Raises
        ------
        PysciodeError
            If the solver gave up.
        """
        try:
            return run()
        except AssertionError as error:
            reason = str(error).splitlines()[0] if str(error) else "a failed assertion"
            raise PysciodeError(f"torchdiffeq's {self._solver} gave up: {reason[:100]}") from None


def user_rhs(problem: Problem, leaves: Sequence[torch.Tensor]) -> TorchRhs:
    """``f(t, u)`` on tensors of the state's own shape.

    The user's own function where it is written in torch, and otherwise the captured model printed as torch.

    Parameters
    ----------
    leaves
        Tensors for the problem's parameters, those of modules being the modules' own.
    """
    from ...capture.reach import mentions_torch
    from ...capture.torch.arguments import infer_signature

    f, shape = problem.f, tuple(problem.u0.shape)
    if problem.form is FIRST_ORDER and callable(f) and (is_module(f) or mentions_torch(f)):
        roles = infer_signature(f)
        p = problem.layout.rebuild(leaves[: problem.layout.n_leaves])

        def own(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            given = {"t": t, "u": u, "p": p}
            if roles[0] == "du":
                given["du"] = torch.zeros_like(u)
            out = f(*(given[role] for role in roles))
            if out is None:
                out = given["du"]
            if isinstance(out, (list, tuple)):
                out = torch.stack([torch.as_tensor(x, dtype=u.dtype) for x in out])
            return out

        return own
    flat_rhs = torch_rhs(problem)

    def printed(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        p = torch.cat([x.reshape(-1) for x in leaves]) if leaves else u.new_zeros(0)
        return flat_rhs(u.reshape(-1), p, t).reshape(shape)

    return printed


def own_leaves(problem: Problem) -> list[torch.Tensor]:
    """The problem's parameters as tensors without history; those of modules are the ones that the user's function reaches."""
    return [_own_leaf(x, problem, i) for i, x in enumerate(problem.leaves)]


def _own_leaf(x: Any, problem: Problem, i: int) -> torch.Tensor:
    if i >= problem.layout.n_leaves:
        return x
    if is_tensor(x):
        return x.detach().clone().requires_grad_(x.requires_grad)
    return torch.from_numpy(np.array(x, problem.dtype))
