"""Other libraries as contestants: which of a peer's solvers stands for one of SciML's, and what a peer is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...arrays.parameters import is_module
from ...capture.reach import mentions_torch
from ...errors import EngineUnavailable
from ...methods.algorithms import Algorithm
from ...problems.ode import ODEProblem
from ..measure.contestants import Contestant, Run, Task

Peer = Literal["torchdiffeq", "diffrax"]

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
_EXPLICIT: dict[Peer, str] = {"torchdiffeq": "dopri5", "diffrax": "Tsit5"}
# torchdiffeq has no stiff method of its own: its users have dopri5.
_STIFF: dict[Peer, str] = {"torchdiffeq": "dopri5", "diffrax": "Kvaerno5"}


def nearest_solver(peer: Peer, algorithm: Algorithm | None) -> str:
    """The peer's solver that is nearest to `algorithm` in kind and order; None is SciML's default."""
    if algorithm is not None and algorithm.name in _BY_NAME[peer]:
        return _BY_NAME[peer][algorithm.name]
    return (_STIFF if algorithm is not None and (algorithm.is_stiff or algorithm.family == "auto") else _EXPLICIT)[peer]


def peer_solvers(peer: Peer, algorithms: Sequence[Algorithm | None]) -> list[tuple[str, str]]:
    """``(solver, label)`` of the peer's solvers for `algorithms`, each once.

    The label says what it stands for where the names differ: ``"Kvaerno5 (for Rodas5P, FBDF)"``.
    """
    found: dict[str, dict[str, None]] = {}
    for algorithm in algorithms:
        found.setdefault(nearest_solver(peer, algorithm), {})["the default" if algorithm is None else algorithm.name] = None
    few = {solver: [*names] if len(names) <= 3 else [*names][:2] + ["…"] for solver, names in found.items()}
    return [(solver, solver if names == [solver] else f"{solver} (for {', '.join(names)})") for solver, names in few.items()]


@dataclass(frozen=True)
class PeerContestant(Contestant):
    """One of a peer's solvers, alone or with one of its ways to a gradient.

    Attributes
    ----------
    peer
        The peer's name of the solver.
    make
        ``make(task, peer, method)`` makes it ready.
    """

    peer: str = ""
    make: Callable[[Task, str, str | None], Run] | None = None

    def prepare(self, task: Task) -> Run:
        if task.problem.mass_matrix is not None:
            raise EngineUnavailable(self.engine, "it takes no mass matrix", mend=None)
        return self.make(task, self.peer, self.method)


def torch_function(problem: ODEProblem) -> Callable[..., Any] | None:
    """The user's own function, where it is written in torch."""
    f = problem.f
    return f if problem.kind == "ode" and callable(f) and (is_module(f) or mentions_torch(f)) else None
