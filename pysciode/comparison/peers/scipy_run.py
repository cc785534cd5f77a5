"""SciPy's solvers on the captured model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp

from ...engines.torch_rhs import torch_rhs
from ...errors import EngineUnavailable, PysciodeError
from ...graphs.captured_model import CallbackModel, JuliaModel, ScalarModel
from ...lowering.scalars.python_function import python_function
from ...problems.base import Problem
from ..measure.contestants import Run, Task
from ..measure.rows import Counts


class ScipyRun(Run):
    """``scipy.integrate.solve_ivp`` on the captured model, evaluated in Python."""

    def __init__(self, task: Task, solver: str, method: None) -> None:
        self._task, self._solver = task, solver
        self._f = _numpy_rhs(task.problem)

    def forward(self) -> torch.Tensor:
        task, evaluations = self._task, 0

        def counted(t: float, u: np.ndarray) -> np.ndarray:
            nonlocal evaluations
            evaluations += 1
            if evaluations > 10 * task.maxiters:
                raise PysciodeError(f"SciPy's {self._solver} gave up at t = {t:g} after {evaluations - 1} evaluations")
            return self._f(t, u)

        u0 = np.array(task.problem.flat_u0(), np.float64)
        with np.errstate(all="ignore"):
            found = solve_ivp(counted, task.problem.tspan, u0, self._solver, t_eval=task.saveat, rtol=task.rtol, atol=task.atol)
        if not found.success:
            raise PysciodeError(f"SciPy's {self._solver}: {found.message}")
        self.forward_counts = Counts(f=evaluations, jacobian=found.njev)
        return torch.from_numpy(found.y.T.copy()).reshape(len(task.saveat), *task.problem.u0.shape)


def _numpy_rhs(problem: Problem) -> Callable[[float, np.ndarray], np.ndarray]:
    """``f(t, u)`` on flat NumPy arrays."""
    model, p = problem.model, problem.flat_p()
    if isinstance(model, JuliaModel):
        raise EngineUnavailable("scipy", "no Python form of a model given as Julia source", mend=None)
    if isinstance(model, ScalarModel):
        scalars = python_function(model)
        return lambda t, u: scalars(u, p, t)
    if isinstance(model, CallbackModel):
        shape = tuple(problem.u0.shape)
        return lambda t, u: np.asarray(model.f(u.reshape(shape), p, t)).reshape(-1)
    rhs, parameters = torch_rhs(problem), torch.from_numpy(np.array(p))

    def arrays(t: float, u: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return rhs(torch.from_numpy(np.asarray(u, problem.dtype)), parameters, torch.tensor(t, dtype=parameters.dtype)).numpy()

    return arrays
