"""Other libraries as contestants: their solvers nearest to SciML's, their methods, and SciPy's runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from scipy.integrate import solve_ivp

from ...engines.torch_rhs import torch_rhs
from ...errors import EngineUnavailable, PysciodeError
from ...graphs.captured_model import CallbackModel, JuliaModel, ScalarModel
from ...lowering.scalars.python_function import python_function
from ...methods.algorithms import Algorithm
from ...problems.base import Problem
from ..measure.contestants import Contestant, Run, Task
from ..measure.rows import Counts
from .torchdiffeq_run import TorchdiffeqRun

Peer = Literal["torchdiffeq", "diffrax"]
Algorithms = Sequence[Algorithm | None]
MakeRun = Callable[[Task, str, str | None], Run]
"""``make(task, solver, method)``: a peer's solver made ready, alone where there is no method."""

FORWARD_LIMIT = 1000
"""Scalars up to which diffrax's forward mode takes part."""

_HIGH_ORDER = ("Vern7", "Vern8", "Vern9", "TsitPap8", "DP8")
_BY_NAME: dict[Peer, dict[str, str]] = {
    "torchdiffeq": {"BS3": "bosh3", **dict.fromkeys(_HIGH_ORDER, "dopri8")},
    "diffrax": {
        "DP5": "Dopri5",
        "BS3": "Bosh3",
        **dict.fromkeys(_HIGH_ORDER, "Dopri8"),
        **dict.fromkeys(("Kvaerno3", "KenCarp3", "TRBDF2", "Rosenbrock23", "Rosenbrock32", "Rodas3"), "Kvaerno3"),
        **dict.fromkeys(("Kvaerno4", "KenCarp4", "Rodas4", "Rodas42", "Rodas4P"), "Kvaerno4"),
    },
}
# Explicit and stiff; torchdiffeq has no stiff method of its own: its users have dopri5.
_BY_KIND: dict[Peer, tuple[str, str]] = {"torchdiffeq": ("dopri5", "dopri5"), "diffrax": ("Tsit5", "Kvaerno5")}


def nearest_solver(peer: Peer, algorithm: Algorithm | None) -> str:
    """The peer's solver that is nearest to `algorithm` in kind and order; None is SciML's default."""
    if algorithm is not None and algorithm.name in _BY_NAME[peer]:
        return _BY_NAME[peer][algorithm.name]
    return _BY_KIND[peer][algorithm is not None and (algorithm.is_stiff or algorithm.family == "auto")]


def peer_solvers(peer: Peer, algorithms: Algorithms) -> list[tuple[str, str]]:
    """``(solver, label)`` of the peer's solvers for `algorithms`, each once.

    The label names SciML's algorithms where the names differ: ``"Kvaerno5 (for Rodas5P, FBDF)"``.
    """
    found: dict[str, dict[str, None]] = {}
    for algorithm in algorithms:
        found.setdefault(nearest_solver(peer, algorithm), {})["the default" if algorithm is None else algorithm.name] = None
    few = {solver: [*names] if len(names) <= 3 else [*names][:2] + ["…"] for solver, names in found.items()}
    return [(solver, solver if names == [solver] else f"{solver} (for {', '.join(names)})") for solver, names in few.items()]


@dataclass(frozen=True)
class PeerContestant(Contestant):
    """One of a peer's solvers, by the peer's name for it, alone or with one of its ways to a gradient."""

    peer: str = field(kw_only=True)
    make: MakeRun = field(kw_only=True)

    def prepare(self, task: Task) -> Run:
        if task.problem.mass_matrix is not None:
            raise EngineUnavailable(self.engine, "it takes no mass matrix", mend=None)
        return self.make(task, self.peer, self.method)


def diffrax_is_installed() -> bool:
    """Whether jax and diffrax can be imported (``pip install pysciode[bench]``)."""
    return find_spec("jax") is not None and find_spec("diffrax") is not None


def embedded_contestants(problem: Problem, algorithms: Algorithms) -> list[Contestant]:
    """torchdiffeq's two ways to a gradient, with its solvers that are nearest to `algorithms`.

    It has no stiff solver: its dopri5 takes part instead, so that the table shows the result.
    """
    return _contestants("torchdiffeq", "embedded", algorithms, ("odeint_adjoint", "odeint"), TorchdiffeqRun)


def diffrax_contestants(problem: Problem, algorithms: Algorithms) -> list[Contestant]:
    """diffrax's adjoints with its solvers that are nearest to `algorithms`; none where it is not installed."""
    if not diffrax_is_installed():
        return []
    from .diffrax_run import DiffraxRun

    # Forward mode carries one tangent for each scalar.
    forward = ("ForwardMode",) if problem.n + problem.layout.size <= FORWARD_LIMIT else ()
    methods = ("RecursiveCheckpointAdjoint", "BacksolveAdjoint", "DirectAdjoint", *forward)
    return _contestants("diffrax", "diffrax", algorithms, methods, DiffraxRun)


def solver_peers(algorithms: Algorithms) -> list[Contestant]:
    """SciPy's methods, and torchdiffeq's and (where it is installed) diffrax's that are nearest to `algorithms`."""
    found = [scipy_solver(method) for method in ("RK45", "DOP853", "Radau", "BDF", "LSODA")]
    found += _contestants("torchdiffeq", "torchdiffeq", algorithms, (None,), TorchdiffeqRun)
    if diffrax_is_installed():
        from .diffrax_run import DiffraxRun

        found += _contestants("diffrax", "diffrax", algorithms, (None,), DiffraxRun)
    return found


def scipy_solver(method: str) -> Contestant:
    """``scipy.integrate.solve_ivp`` by one of its methods."""
    return PeerContestant(method, None, None, "scipy", peer=method, make=ScipyRun)


def _contestants(peer: Peer, engine: str, algorithms: Algorithms, methods: Sequence[str | None], make: MakeRun) -> list[Contestant]:
    solvers = peer_solvers(peer, algorithms)
    return [
        PeerContestant(label if method else solver, method, None, engine, peer=solver, make=make)
        for solver, label in solvers
        for method in methods
    ]


class ScipyRun(Run):
    """``scipy.integrate.solve_ivp`` on the captured model, evaluated in Python."""

    def __init__(self, task: Task, solver: str, method: str | None) -> None:
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
    rhs, parameters = torch.no_grad()(torch_rhs(problem)), torch.from_numpy(np.array(p))
    return lambda t, u: rhs(torch.from_numpy(np.asarray(u, problem.dtype)), parameters, torch.tensor(t, dtype=parameters.dtype)).numpy()
