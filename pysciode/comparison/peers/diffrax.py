"""diffrax's adjoints on the same model and loss, where diffrax is installed (``pip install pysciode[bench]``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from ...arrays.parameters import flat_array, is_tensor
from ...errors import PysciodeError
from ...methods.algorithms import Algorithm
from ...problems.base import Problem
from ..measure.blocks import STATE, Blocks
from ..measure.contestants import Contestant, GradientRun, Task
from .peer_solvers import peer_solvers, refuse_mass_matrix

ADJOINTS = ("RecursiveCheckpointAdjoint", "BacksolveAdjoint", "DirectAdjoint")

FORWARD_LIMIT = 1000
"""Scalars up to which forward mode takes part: it carries one tangent for each."""

FIRST_MAX_STEPS = 4096
"""diffrax's own default. Checkpoints are laid out for this many steps, so it is raised only where it does not do."""


def diffrax_is_installed() -> bool:
    """Whether jax and diffrax can be imported."""
    return find_spec("jax") is not None and find_spec("diffrax") is not None


def diffrax_contestants(problem: Problem, algorithms: Sequence[Algorithm | None]) -> list[Contestant]:
    """diffrax's adjoints with its solvers that are nearest to `algorithms`; none where it is not installed."""
    if not diffrax_is_installed():
        return []
    methods = [*ADJOINTS]
    if problem.n + problem.layout.size <= FORWARD_LIMIT:
        methods.append("ForwardMode")
    return [
        DiffraxContestant(label, method, None, "diffrax", peer=solver)
        for solver, label in peer_solvers("diffrax", algorithms)
        for method in methods
    ]


@dataclass(frozen=True)
class DiffraxContestant(Contestant):
    """One of diffrax's adjoints.

    Attributes
    ----------
    peer
        diffrax's name of the solver.
    """

    peer: str = "Tsit5"

    def prepare(self, task: Task) -> GradientRun:
        return DiffraxRun(task, self.peer, self.method)


def precision(problem: Problem) -> AbstractContextManager:
    """What JAX must run in: its double precision is off by default, and others in this process may want it so."""
    import jax

    return jax.enable_x64(problem.dtype == np.float64)


class DiffraxRun(GradientRun):
    """Forward is ``jax.vjp`` of the solve, backward its pullback, each compiled by itself."""

    def __init__(self, task: Task, solver: str, method: str) -> None:
        problem = task.problem
        refuse_mass_matrix(problem, "diffrax")
        problem_rhs(problem)
        self._problem = problem
        self._maxiters = task.maxiters
        self._solver, self._method = solver, method
        self._max_steps = min(FIRST_MAX_STEPS, task.maxiters)
        self._names = [STATE, *Blocks.of(problem).places]
        wanted = [i for i, x in enumerate(problem.leaves) if is_tensor(x) and x.requires_grad]
        with precision(problem):
            import jax.numpy as jnp

            parts = [jnp.asarray(flat_array([x], problem.dtype)) for x in problem.leaves]
            self._inputs = (jnp.asarray(problem.flat_u0()), *(parts[i] for i in wanted))
            self._constants = tuple(None if i in wanted else x for i, x in enumerate(parts))
            times = jnp.asarray([*problem.tspan, *task.saveat])
            self._settings = (times, jnp.asarray(task.rtol), jnp.asarray(float(np.min(task.atol))))
        self._pull: Any = None
        self._steps: int | None = None

    def forward(self) -> torch.Tensor:
        self._pull = None

        def attempt(max_steps: int) -> Any:
            self._max_steps = max_steps
            forward, _ = self._programs()
            return forward(self._inputs, self._constants, self._settings)

        with precision(self._problem):
            states, self._pull, stats = _with_enough_steps(attempt, self._max_steps, self._maxiters, self._solver)
        self._steps = int(stats["num_accepted_steps"])
        return torch.from_numpy(np.array(states)).reshape(len(states), *self._problem.u0.shape)

    def backward(self, cotangent: torch.Tensor) -> dict[str, np.ndarray]:
        import jax
        import jax.numpy as jnp

        with precision(self._problem):
            weights = jnp.asarray(cotangent.detach().reshape(len(cotangent), -1).numpy())
            _, backward = self._programs()
            found = _guard(lambda: jax.block_until_ready(backward(self._pull, weights)))
        gradients = {name: np.array(x, np.float64) for name, x in zip(self._names, found, strict=True)}
        for name, gradient in gradients.items():
            if not np.isfinite(gradient).all():
                raise PysciodeError(f"diffrax's {self._method}: the gradient with respect to {name} is not finite")
        if not self._problem.u0.requires_grad:
            del gradients[STATE]
        return gradients

    def steps(self) -> int | None:
        return self._steps

    def kept_memory(self) -> int | None:
        """Bytes of all that the pullback holds."""
        import jax

        if self._pull is None:
            return None
        return sum(x.nbytes for x in jax.tree_util.tree_leaves(self._pull) if hasattr(x, "nbytes"))

    def _programs(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Compiled when first called; all tolerances and tasks on one model share them."""
        key = ("diffrax", self._solver, self._method, self._max_steps)
        found = self._problem.compiled.get(key)
        if found is None:
            make = _forward_mode if self._method == "ForwardMode" else _reverse_mode
            found = self._problem.compiled[key] = make(self._problem, self._solver, self._method, self._max_steps)
        return found


def problem_rhs(problem: Problem) -> Callable[..., Any]:
    """The right-hand side in JAX, made once for a model.

    Raises
    ------
    EngineUnavailable
        If JAX can't express the model.
    """
    import jax

    from .jax_model import jax_rhs

    found = problem.compiled.get("jax")
    if found is None:
        found = jax_rhs(problem)
        with precision(problem):
            u, p = (jax.ShapeDtypeStruct((n,), problem.dtype) for n in (problem.n, problem.layout.size))
            jax.eval_shape(found, 0.0, u, p)  # an operation without a JAX form shows here
        problem.compiled["jax"] = found
    return found


def diffrax_solve(problem: Problem, solver: str, max_steps: int, adjoint: Any = None) -> Callable[..., Any]:
    """``solve(u0, p, (times, rtol, atol)) -> (states, (result, statistics))``, `times` being start, end and what to save at."""
    import diffrax

    term = diffrax.ODETerm(problem_rhs(problem))
    options = {} if adjoint is None else {"adjoint": adjoint}

    def solve(u0: Any, p: Any, settings: tuple[Any, Any, Any]) -> tuple[Any, tuple[Any, Any]]:
        times, rtol, atol = settings
        solution = diffrax.diffeqsolve(
            term,
            getattr(diffrax, solver)(),
            times[0],
            times[1],
            None,
            u0,
            p,
            saveat=diffrax.SaveAt(ts=times[2:]),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            max_steps=max_steps,
            throw=False,
            **options,
        )
        return solution.ys, (solution.result, solution.stats)

    return solve


class ForwardSolve:
    """A solve without derivatives, compiled when it is first called.

    Calling it gives the states, shape ``(k, n)``, and diffrax's statistics.
    """

    def __init__(self, problem: Problem, solver: str, saveat: np.ndarray, rtol: float, atol: float, maxiters: int) -> None:
        import jax.numpy as jnp

        problem_rhs(problem)
        self._problem, self._solver, self._maxiters = problem, solver, maxiters
        self._max_steps = min(FIRST_MAX_STEPS, maxiters)
        with precision(problem):
            settings = jnp.asarray([*problem.tspan, *saveat]), jnp.asarray(rtol), jnp.asarray(atol)
            self._inputs = jnp.asarray(problem.flat_u0()), jnp.asarray(problem.flat_p()), settings

    def __call__(self) -> tuple[np.ndarray, dict[str, int]]:
        with precision(self._problem):
            states, _, stats = _with_enough_steps(self._attempt, self._max_steps, self._maxiters, self._solver)
        return np.array(states), {name: int(x) for name, x in stats.items()}

    def _attempt(self, max_steps: int) -> Any:
        import jax

        self._max_steps = max_steps
        key = ("diffrax", self._solver, max_steps)
        program = self._problem.compiled.get(key)
        if program is None:
            solve = diffrax_solve(self._problem, self._solver, max_steps)

            def without_pull(*inputs: Any) -> Any:
                states, rest = solve(*inputs)
                return states, None, rest

            program = self._problem.compiled[key] = jax.jit(without_pull)
        return program(*self._inputs)


def _with_enough_steps(attempt: Callable[[int], Any], max_steps: int, maxiters: int, solver: str) -> tuple[Any, Any, Any]:
    """States, pullback and statistics of ``attempt(max_steps)``; 16 times as many steps are allowed while they do not do.

    Raises
    ------
    PysciodeError
        If the solver gave up.
    """
    import diffrax
    import jax

    while True:
        states, pull, (result, stats) = _guard(lambda: jax.block_until_ready(attempt(max_steps)))  # noqa: B023  (called at once)
        if result == diffrax.RESULTS.successful:
            return states, pull, stats
        if result != diffrax.RESULTS.max_steps_reached:
            raise PysciodeError(f"diffrax's {solver}: {' '.join(str(diffrax.RESULTS[result]).split())[:150]}")
        if max_steps >= maxiters:
            raise PysciodeError(f"diffrax's {solver}: gave up after {max_steps} steps")
        max_steps = min(16 * max_steps, maxiters)


def _differentiable(problem: Problem, solver: str, method: str, max_steps: int) -> Callable[..., Any]:
    import diffrax
    import jax.numpy as jnp

    # The reverse solve of this one would fail in silence.
    options = {"throw": True} if method == "BacksolveAdjoint" else {}
    solve = diffrax_solve(problem, solver, max_steps, getattr(diffrax, method)(**options))

    def of_inputs(inputs: tuple[Any, ...], constants: tuple[Any, ...], settings: tuple[Any, Any, Any]) -> Any:
        u0, *wanted = inputs
        given = iter(wanted)
        parts = [next(given) if x is None else x for x in constants]
        return solve(u0, jnp.concatenate(parts) if parts else jnp.zeros(0, u0.dtype), settings)

    return of_inputs


def _reverse_mode(problem: Problem, solver: str, method: str, max_steps: int) -> tuple[Callable, Callable]:
    import jax

    solve = _differentiable(problem, solver, method, max_steps)

    def forward(inputs: Any, constants: Any, settings: Any) -> Any:
        return jax.vjp(lambda x: solve(x, constants, settings), inputs, has_aux=True)

    return jax.jit(forward), jax.jit(lambda pull, cotangent: pull(cotangent)[0])


def _forward_mode(problem: Problem, solver: str, method: str, max_steps: int) -> tuple[Callable, Callable]:
    """All tangents at once in the forward pass; the backward one contracts them."""
    import jax
    import jax.numpy as jnp

    solve = _differentiable(problem, solver, method, max_steps)

    def forward(inputs: Any, constants: Any, settings: Any) -> Any:
        def with_states(x: Any) -> Any:
            states, rest = solve(x, constants, settings)
            return states, (states, rest)

        jacobians, (states, rest) = jax.jacfwd(with_states, has_aux=True)(inputs)
        return states, jacobians, rest

    def backward(jacobians: Any, cotangent: Any) -> Any:
        return tuple(jnp.einsum("kn,knj->j", cotangent, jacobian) for jacobian in jacobians)

    return jax.jit(forward), jax.jit(backward)


def _guard(run: Callable[[], Any]) -> Any:
    """``run()``; JAX's errors while running become one line of ours, those of tracing an unknown operation stay."""
    import jax

    try:
        return run()
    except (jax.errors.JaxRuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise PysciodeError(f"diffrax: {_last_words(error)}") from error


def _last_words(error: BaseException) -> str:
    """The line of a JAX error that says what happened, without the stack that XLA adds."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "maximum number of solver steps" in line or line.startswith("Error:")]
    return (telling or lines or [type(error).__name__])[0][:200]
