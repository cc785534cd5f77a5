"""diffrax's solvers and adjoints on the same model and loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import torch

from ...arrays.parameters import flat_array, is_tensor
from ...capture.torch.array_capture import capture_torch
from ...capture.torch.transforms import captured_outside
from ...errors import CaptureError, EngineUnavailable, PysciodeError
from ...graphs.captured_model import ArrayModel, JuliaModel, ScalarModel
from ...lowering.jax_function import jax_function
from ...problems.base import Problem
from ..measure.blocks import STATE, Blocks
from ..measure.contestants import Run, Task
from .torchdiffeq_run import torch_function

FIRST_MAX_STEPS = 4096
"""diffrax's own default. Checkpoints are laid out for this many steps, so it is raised only where it does not do."""


def precision(problem: Problem) -> AbstractContextManager:
    """What JAX must run in: its double precision is off by default, and others in this process may want it so."""
    return jax.enable_x64(problem.dtype == np.float64)


class DiffraxRun(Run):
    """Forward is ``jax.vjp`` of the solve, backward its pullback, each compiled by itself; a solve alone where `method` is None."""

    def __init__(self, task: Task, solver: str, method: str | None) -> None:
        problem = task.problem
        jax_rhs(problem)
        self._problem, self._solver, self._method = problem, solver, method
        self._maxiters = task.maxiters
        self._max_steps = min(FIRST_MAX_STEPS, task.maxiters)
        wanted = [] if method is None else [i for i, x in enumerate(problem.leaves) if is_tensor(x) and x.requires_grad]
        with precision(problem):
            parts = [jnp.asarray(flat_array([x], problem.dtype)) for x in problem.leaves]
            inputs = (jnp.asarray(problem.flat_u0()), *(parts[i] for i in wanted))
            constants = tuple(None if i in wanted else x for i, x in enumerate(parts))
            settings = (jnp.asarray([*problem.tspan, *task.saveat]), jnp.asarray(task.rtol), jnp.asarray(task.atol))
        self._inputs = inputs, constants, settings
        self._pull: Any = None

    def forward(self) -> torch.Tensor:
        """Solve; 16 times as many steps are allowed while they do not do."""
        self._pull = None
        while True:
            with precision(self._problem):
                forward, _ = self._programs()
                states, pull, (result, stats) = _guard(lambda: jax.block_until_ready(forward(*self._inputs)))  # noqa: B023  (called at once)
            if result == diffrax.RESULTS.successful:
                break
            if result != diffrax.RESULTS.max_steps_reached:
                raise PysciodeError(f"diffrax's {self._solver}: {' '.join(str(diffrax.RESULTS[result]).split())[:150]}")
            if self._max_steps >= self._maxiters:
                raise PysciodeError(f"diffrax's {self._solver}: gave up after {self._max_steps} steps")
            self._max_steps = min(16 * self._max_steps, self._maxiters)
        self._pull = pull
        self.steps, self.rejected = int(stats["num_accepted_steps"]), int(stats["num_rejected_steps"])
        return torch.from_numpy(np.array(states)).reshape(len(states), *self._problem.u0.shape)

    def backward(self, cotangent: torch.Tensor) -> dict[str, np.ndarray]:
        with precision(self._problem):
            weights = jnp.asarray(cotangent.detach().reshape(len(cotangent), -1).numpy())
            _, backward = self._programs()
            found = _guard(lambda: jax.block_until_ready(backward(self._pull, weights)))
        blocks = Blocks.of(self._problem)
        gradients = dict(zip((STATE, *blocks.places), found, strict=True))
        return {name: np.array(gradients[name], np.float64) for name in blocks.sizes}

    def kept_memory(self) -> int:
        """Bytes of all that the pullback holds."""
        return sum(x.nbytes for x in jax.tree_util.tree_leaves(self._pull) if hasattr(x, "nbytes"))

    def _programs(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Forward and backward, compiled when first called; all tolerances and tasks on one model share them."""
        key = ("diffrax", self._solver, self._method, self._max_steps)
        found = self._problem.compiled.get(key)
        if found is None:
            found = self._problem.compiled[key] = _programs(self._problem, self._solver, self._method, self._max_steps)
        return found


def jax_rhs(problem: Problem) -> Callable[..., Any]:
    """The right-hand side in JAX, ``f(t, u, p)`` on flat arrays, made once for a model; raises EngineUnavailable if it has no form there.

    A small torch model, which was unrolled into scalars for Julia, is taken as the arrays that its JAX twin would be written in.
    """
    found = problem.compiled.get("jax")
    if found is not None:
        return found
    model, f = problem.model, torch_function(problem)
    if f is not None and isinstance(model, ScalarModel):
        p = problem.layout.rebuild(problem.leaves[: problem.layout.n_leaves])
        with suppress(CaptureError, TypeError):
            model = captured_outside(lambda u0, p: capture_torch(f, u0, p, problem.tspan[0]), f, problem.u0, p)
    if not isinstance(model, (ScalarModel, ArrayModel)):
        given = "Julia source" if isinstance(model, JuliaModel) else "a Python callback"
        raise EngineUnavailable("diffrax", f"no JAX form of a model given as {given}", mend=None)
    found = jax_function(model)
    with precision(problem):
        u, p = (jax.ShapeDtypeStruct((n,), problem.dtype) for n in (problem.n, problem.layout.size))
        try:
            jax.eval_shape(found, 0.0, u, p)  # an operation without a JAX form shows here
        except CaptureError as error:
            raise EngineUnavailable("diffrax", f"no JAX form of {error.operation or error.reason}", mend=None) from error
    problem.compiled["jax"] = found
    return found


def _programs(problem: Problem, solver: str, method: str | None, max_steps: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``forward(inputs, constants, settings) -> states, pullback, (result, statistics)`` and ``backward(pullback, cotangent)``.

    `inputs` are the state and the parameters that are differentiated, `constants` those that are not, with None in the place of the
    former; the settings are start, end and what to save at in one array, and the tolerances.
    """
    term = diffrax.ODETerm(jax_rhs(problem))
    # The reverse solve of BacksolveAdjoint would fail in silence.
    options = {"throw": True} if method == "BacksolveAdjoint" else {}
    adjoint = {} if method is None else {"adjoint": getattr(diffrax, method)(**options)}

    def solve(inputs: Any, constants: Any, settings: Any) -> Any:
        (u0, *wanted), (times, rtol, atol) = inputs, settings
        given = iter(wanted)
        parts = [next(given) if x is None else x for x in constants]
        p = jnp.concatenate(parts) if parts else jnp.zeros(0, u0.dtype)
        control = {"stepsize_controller": diffrax.PIDController(rtol=rtol, atol=atol), "max_steps": max_steps, "throw": False, **adjoint}
        saveat = diffrax.SaveAt(ts=times[2:])
        solution = diffrax.diffeqsolve(term, getattr(diffrax, solver)(), times[0], times[1], None, u0, p, saveat=saveat, **control)
        return solution.ys, (solution.result, solution.stats)

    def alone(inputs: Any, constants: Any, settings: Any) -> Any:
        states, rest = solve(inputs, constants, settings)
        return states, None, rest

    def reverse(inputs: Any, constants: Any, settings: Any) -> Any:
        return jax.vjp(lambda x: solve(x, constants, settings), inputs, has_aux=True)

    def all_tangents(inputs: Any, constants: Any, settings: Any) -> Any:
        def with_states(x: Any) -> Any:
            states, rest = solve(x, constants, settings)
            return states, (states, rest)

        jacobians, (states, rest) = jax.jacfwd(with_states, has_aux=True)(inputs)
        return states, jacobians, rest

    def contract(jacobians: Any, cotangent: Any) -> Any:
        return tuple(jnp.einsum("kn,knj->j", cotangent, jacobian) for jacobian in jacobians)

    if method == "ForwardMode":
        return jax.jit(all_tangents), jax.jit(contract)
    return jax.jit(alone if method is None else reverse), jax.jit(lambda pull, cotangent: pull(cotangent)[0])


def _guard(run: Callable[[], Any]) -> Any:
    """``run()``; JAX's errors while running become one line of ours, the one that says what happened, without XLA's stack."""
    try:
        return run()
    except (jax.errors.JaxRuntimeError, NotImplementedError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        telling = [line for line in lines if "maximum number of solver steps" in line or line.startswith("Error:")]
        raise PysciodeError(f"diffrax: {(telling or lines or [type(error).__name__])[0][:200]}") from error
