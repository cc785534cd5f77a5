"""torchdiffeq as its users run it: ``odeint_adjoint``, and backpropagation through ``odeint``, on the user's own function.

The embedded engine runs torchdiffeq too, but refuses a continuous adjoint whose states drift; here the library runs
unguarded, so that a comparison shows its own results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torchdiffeq import odeint, odeint_adjoint

from ...arrays.parameters import is_module, is_tensor
from ...capture.reach import mentions_torch
from ...capture.torch.arguments import infer_signature
from ...engines.torch_rhs import torch_rhs
from ...errors import PysciodeError
from ...problems.base import Problem
from ...problems.declarations import FIRST_ORDER
from ..measure.blocks import STATE, Blocks
from ..measure.contestants import Run, Task
from ..measure.rows import Counts

MAX_STEPS = 10_000
"""Steps at most in one direction: a stiff problem would keep an explicit solver busy for hours, and backpropagation keeps
all of them in memory."""

TorchRhs = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TorchdiffeqRun(Run):
    """One of torchdiffeq's functions, or where that is None ``odeint`` without gradients.

    torchdiffeq gets the run itself as the right-hand side: it counts, and knows the callbacks that tell of steps.
    """

    steps: int = 0
    rejected: int = 0

    def __init__(self, task: Task, solver: str, method: str | None) -> None:
        problem, start = task.problem, task.problem.tspan[0]
        leaves = _own_leaves(problem)
        self._u0 = torch.from_numpy(problem.flat_u0().copy()).reshape(tuple(problem.u0.shape))
        self._method, self._solver, self._max_steps = method, solver, min(MAX_STEPS, task.maxiters)
        self._wanted: dict[str, torch.Tensor] = {}
        if method is not None:
            blocks = Blocks.of(problem)
            self._wanted = dict(zip(blocks.places, (x for x in leaves if x.requires_grad), strict=True))
            self._u0.requires_grad_(blocks.wants_u0)
        self._f = user_rhs(problem, leaves)
        self._skip = int(task.saveat[0] != start)
        self._times = torch.from_numpy(np.concatenate([[start] * self._skip, task.saveat]))
        self._options = {"rtol": task.rtol, "atol": task.atol, "method": solver}
        self._states = torch.empty(0)

    def forward(self) -> torch.Tensor:
        self._states = torch.empty(0)  # frees the last graph
        self.steps = self.rejected = 0
        self._states, self.forward_counts = self._counted(self._solve)
        return self._states.detach()[self._skip :]

    def _solve(self) -> Any:
        with torch.set_grad_enabled(self._method is not None):
            if len(self._times) == 1:
                return self._u0[None] * 1
            if self._method == "odeint_adjoint":
                parameters = tuple(self._wanted.values())
                return odeint_adjoint(self, self._u0, self._times, adjoint_params=parameters, **self._options)
            return odeint(self, self._u0, self._times, **self._options)

    def backward(self, cotangent: torch.Tensor) -> dict[str, np.ndarray]:
        wanted = self._wanted | ({STATE: self._u0} if self._u0.requires_grad else {})

        def pull() -> tuple[torch.Tensor, ...]:
            states, options = self._states[self._skip :], {"allow_unused": True, "materialize_grads": True}
            return torch.autograd.grad(states, list(wanted.values()), cotangent, **options)

        found, counts = self._counted(pull)
        self.backward_counts = replace(counts, vjp=self._pulled)
        return {name: np.array(x.reshape(-1).numpy(), np.float64) for name, x in zip(wanted, found, strict=True)}

    def kept_memory(self) -> int:
        """Bytes of the tensors that the graph saves for its backward pass, each once; solves once more to see them."""
        storages: dict[int, int] = {}

        def see(x: torch.Tensor) -> torch.Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x.detach()  # with its history a node that saves its own result would be kept for ever

        with torch.autograd.graph.saved_tensors_hooks(see, lambda x: x):
            self.forward()
        return sum(storages.values())

    def _counted(self, run: Callable[[], Any]) -> tuple[Any, Counts]:
        """``run()`` with its evaluations; torchdiffeq's failed assertions, by which its solvers give up, become errors of ours."""
        self._nf = self._pulled = self._tried = 0
        try:
            return run(), Counts(f=self._nf)
        except AssertionError as error:
            reason = str(error).splitlines()[0] if str(error) else "a failed assertion"
            raise PysciodeError(f"torchdiffeq's {self._solver} gave up: {reason[:100]}") from None

    def __call__(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        self._nf += 1
        self._t = t
        du = self._f(t, u)
        if du.requires_grad:
            du.register_hook(self._count_pull)
        return du

    def _count_pull(self, grad: torch.Tensor) -> None:
        self._pulled += 1

    def callback_step(self, t: torch.Tensor, u: Any, dt: torch.Tensor) -> None:
        if self._tried >= self._max_steps:
            raise PysciodeError(  # near the latest evaluation: torchdiffeq's own time runs backwards as -t
                f"torchdiffeq's {self._solver} gave up near t = {float(self._t):g} after {self._tried} steps; it has no "
                "method for stiff problems"
            )
        self._tried += 1

    callback_step_adjoint = callback_step

    def callback_accept_step(self, t: torch.Tensor, u: Any, dt: torch.Tensor) -> None:
        self.steps += 1

    def callback_reject_step(self, t: torch.Tensor, u: Any, dt: torch.Tensor) -> None:
        self.rejected += 1


def torch_function(problem: Problem) -> Callable[..., Any] | None:
    """The user's own function, where it is written in torch."""
    f = problem.f
    return f if problem.form is FIRST_ORDER and callable(f) and (is_module(f) or mentions_torch(f)) else None


def user_rhs(problem: Problem, leaves: Sequence[torch.Tensor]) -> TorchRhs:
    """``f(t, u)`` on tensors of the state's own shape, with `leaves` for the problem's parameters.

    The user's own function where it is written in torch, and otherwise the captured model printed as torch.
    """
    f, shape = torch_function(problem), tuple(problem.u0.shape)
    if f is None:
        flat_rhs = torch_rhs(problem)

        def printed(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
            p = torch.cat([x.reshape(-1) for x in leaves]) if leaves else u.new_zeros(0)
            return flat_rhs(u.reshape(-1), p, t).reshape(shape)

        return printed
    roles = infer_signature(f)
    p = problem.layout.rebuild(leaves[: problem.layout.n_leaves])

    def own(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        given = {"t": t, "u": u, "p": p} | ({"du": torch.zeros_like(u)} if "du" in roles else {})
        out = f(*(given[role] for role in roles))
        if out is None:
            out = given["du"]
        return torch.stack([torch.as_tensor(x, dtype=u.dtype) for x in out]) if isinstance(out, (list, tuple)) else out

    return own


def _own_leaves(problem: Problem) -> list[torch.Tensor]:
    """The problem's parameters as tensors without history; those of modules are the ones that the user's function reaches."""
    n, found = problem.layout.n_leaves, []
    for x in problem.leaves[:n]:
        found.append(x.detach().clone().requires_grad_(x.requires_grad) if is_tensor(x) else torch.from_numpy(np.array(x, problem.dtype)))
    return [*found, *problem.leaves[n:]]
