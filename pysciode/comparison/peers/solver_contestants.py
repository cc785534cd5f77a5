"""What takes part in a comparison of solvers: SciML's own, SciPy's, torchdiffeq's and diffrax's, on one model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...engines import get_engine
from ...engines.base import SolveOptions, SolveRequest
from ...errors import EngineUnavailable, PysciodeError, SolveFailed
from ...graphs.captured_model import CallbackModel, JuliaModel, ScalarModel
from ...methods.algorithms import Algorithm
from ...problems.base import Problem
from ...solving.solution import SUCCESS
from ..measure.rows import Counts
from .peer_solvers import peer_solvers, refuse_mass_matrix

SCIPY_METHODS = ("RK45", "DOP853", "Radau", "BDF", "LSODA")


@dataclass(frozen=True)
class SolverTask:
    """What all solvers are given.

    Attributes
    ----------
    saveat
        Times to save at, float64, shape ``(k,)``.
    step_on_times
        Whether SciML's solvers take a step to each of these times, instead of interpolating.
    """

    problem: Problem
    saveat: np.ndarray
    rtol: float
    atol: float
    maxiters: int = 100_000
    step_on_times: bool = False


@dataclass(frozen=True)
class Solved:
    """What came back: states of shape ``(k, n)``, and what it took."""

    states: np.ndarray
    counts: Counts = Counts()
    steps: int | None = None
    rejected: int | None = None


SolverRun = Callable[[], Solved]
"""Solves; timed many times over.  Raises a PysciodeError if the solver gave up."""


@dataclass(frozen=True)
class SolverContestant(ABC):
    """A solver; see :class:`~pysciode.comparison.measure.rows.SolveRow` for the fields."""

    solver: str
    engine: str

    @abstractmethod
    def prepare(self, task: SolverTask) -> SolverRun:
        """Make ready for `task`.

        Raises
        ------
        EngineUnavailable
            If a package is not installed, or the model can't be expressed there.
        """


@dataclass(frozen=True)
class EngineSolver(SolverContestant):
    """One of SciML's algorithms on one of pysciode's engines."""

    algorithm: Algorithm | None = None

    @classmethod
    def of(cls, algorithm: Algorithm | None, engine: str) -> EngineSolver:
        if algorithm is None:
            return cls("default", engine, None)
        plain = not (algorithm.options or algorithm.arguments)
        return cls(algorithm.name if plain else repr(algorithm), engine, algorithm)

    def prepare(self, task: SolverTask) -> SolverRun:
        engine, problem = get_engine(self.engine), task.problem
        tstops = task.saveat if task.step_on_times else None
        options = SolveOptions(task.saveat, tstops, rtol=task.rtol, atol=task.atol, maxiters=task.maxiters)
        request = SolveRequest(problem, problem.flat_values(), problem.tspan, self.algorithm, options)

        def run() -> Solved:
            raw = engine.solve(request)
            if raw.retcode not in SUCCESS:
                raise SolveFailed(raw.retcode, raw.t_reached, None)
            stats = raw.stats
            counts = Counts(f=stats.get("nf") or None, jacobian=stats.get("njacs"))
            return Solved(raw.u, counts, stats.get("naccept") or None, stats.get("nreject"))

        return run


@dataclass(frozen=True)
class ScipySolver(SolverContestant):
    """``scipy.integrate.solve_ivp`` on the captured model, evaluated in Python; `solver` is SciPy's name."""

    def prepare(self, task: SolverTask) -> SolverRun:
        from scipy.integrate import solve_ivp

        refuse_mass_matrix(task.problem, "scipy")
        f, u0, method = _numpy_rhs(task.problem), np.array(task.problem.flat_u0(), np.float64), self.solver

        def run() -> Solved:
            evaluations = 0

            def counted(t: float, u: np.ndarray) -> np.ndarray:
                nonlocal evaluations
                evaluations += 1
                if evaluations > 10 * task.maxiters:
                    raise PysciodeError(f"SciPy's {method} gave up at t = {t:g} after {evaluations - 1} evaluations")
                return f(t, u)

            with np.errstate(all="ignore"):
                found = solve_ivp(counted, task.problem.tspan, u0, method, t_eval=task.saveat, rtol=task.rtol, atol=task.atol)
            if not found.success:
                raise PysciodeError(f"SciPy's {method}: {found.message}")
            return Solved(found.y.T, Counts(f=evaluations, jacobian=found.njev))

        return run


@dataclass(frozen=True)
class TorchdiffeqSolver(SolverContestant):
    """``torchdiffeq.odeint`` without gradients; `solver` is its name."""

    def prepare(self, task: SolverTask) -> SolverRun:
        from torchdiffeq import odeint

        from .torchdiffeq import MAX_STEPS, CountedRhs, own_leaves, user_rhs

        problem = task.problem
        refuse_mass_matrix(problem, "torchdiffeq")
        rhs = CountedRhs(user_rhs(problem, own_leaves(problem)), min(MAX_STEPS, task.maxiters), self.solver)
        u0 = torch.from_numpy(problem.flat_u0().copy()).reshape(tuple(problem.u0.shape))
        skip = int(task.saveat[0] != problem.tspan[0])
        times = torch.from_numpy(np.concatenate([[problem.tspan[0]] * skip, task.saveat]))

        def run() -> Solved:
            rhs.restart()
            with torch.no_grad():
                states = rhs.guard(lambda: odeint(rhs, u0, times, rtol=task.rtol, atol=task.atol, method=self.solver))
            return Solved(states[skip:].reshape(len(task.saveat), -1).numpy(), Counts(f=rhs.nf), rhs.accepted, rhs.rejected)

        return run


@dataclass(frozen=True)
class DiffraxSolver(SolverContestant):
    """``diffrax.diffeqsolve``, compiled; `solver` is its name."""

    def prepare(self, task: SolverTask) -> SolverRun:
        from .diffrax import ForwardSolve

        refuse_mass_matrix(task.problem, "diffrax")
        solve = ForwardSolve(task.problem, self.solver, task.saveat, task.rtol, task.atol, task.maxiters)

        def run() -> Solved:
            states, stats = solve()
            return Solved(states, steps=stats["num_accepted_steps"], rejected=stats["num_rejected_steps"])

        return run


def peer_contestants(algorithms: Sequence[Algorithm | None]) -> list[SolverContestant]:
    """SciPy's methods, and torchdiffeq's and (where it is installed) diffrax's that are nearest to `algorithms`."""
    from .diffrax import diffrax_is_installed

    out: list[SolverContestant] = [ScipySolver(method, "scipy") for method in SCIPY_METHODS]
    out += [TorchdiffeqSolver(solver, "torchdiffeq") for solver, _ in peer_solvers("torchdiffeq", algorithms)]
    if diffrax_is_installed():
        out += [DiffraxSolver(solver, "diffrax") for solver, _ in peer_solvers("diffrax", algorithms)]
    return out


def _numpy_rhs(problem: Problem) -> Callable[[float, np.ndarray], np.ndarray]:
    """``f(t, u)`` on flat NumPy arrays."""
    model, p, dtype = problem.model, problem.flat_p(), problem.dtype
    if isinstance(model, JuliaModel):
        raise EngineUnavailable("scipy", "no Python form of a model given as Julia source", mend=None)
    if isinstance(model, ScalarModel):
        from ...lowering.scalars.python_function import python_function

        scalars = python_function(model)
        return lambda t, u: scalars(u, p, t)
    if isinstance(model, CallbackModel):
        shape = tuple(problem.u0.shape)
        return lambda t, u: np.asarray(model.f(u.reshape(shape), p, t)).reshape(-1)
    from ...engines.torch_rhs import torch_rhs

    rhs = torch_rhs(problem)
    parameters = torch.from_numpy(np.array(p))

    def arrays(t: float, u: np.ndarray) -> Any:
        with torch.no_grad():
            state = torch.from_numpy(np.asarray(u, dtype))
            return rhs(state, parameters, torch.tensor(t, dtype=parameters.dtype)).numpy()

    return arrays
