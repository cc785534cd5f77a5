"""Which of a peer's solvers stands for one of SciML's, and what no peer takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...errors import EngineUnavailable
from ...methods.algorithms import Algorithm
from ...problems.base import Problem

Peer = Literal["torchdiffeq", "diffrax", "scipy"]

_BY_NAME: dict[Peer, dict[str, str]] = {
    "torchdiffeq": {"BS3": "bosh3", "DP8": "dopri8", **dict.fromkeys(("Vern7", "Vern8", "Vern9", "TsitPap8"), "dopri8")},
    "diffrax": {
        "DP5": "Dopri5",
        "DP8": "Dopri8",
        "BS3": "Bosh3",
        **dict.fromkeys(("Vern7", "Vern8", "Vern9", "TsitPap8"), "Dopri8"),
        **dict.fromkeys(("Kvaerno3", "KenCarp3", "TRBDF2", "Rosenbrock23", "Rosenbrock32", "Rodas3"), "Kvaerno3"),
        **dict.fromkeys(("Kvaerno4", "KenCarp4", "Rodas4", "Rodas42", "Rodas4P"), "Kvaerno4"),
    },
    "scipy": {"BS3": "RK23", "DP8": "DOP853", **dict.fromkeys(("Vern7", "Vern8", "Vern9", "TsitPap8"), "DOP853")},
}
_EXPLICIT: dict[Peer, str] = {"torchdiffeq": "dopri5", "diffrax": "Tsit5", "scipy": "RK45"}
# torchdiffeq has no stiff method of its own: its users have dopri5.
_STIFF: dict[Peer, str] = {"torchdiffeq": "dopri5", "diffrax": "Kvaerno5", "scipy": "Radau"}
_BDF: dict[Peer, str] = {"torchdiffeq": "dopri5", "diffrax": "Kvaerno5", "scipy": "BDF"}
# Switching between both kinds is known to LSODA alone.
_SWITCHING: dict[Peer, str] = {"torchdiffeq": "dopri5", "diffrax": "Tsit5", "scipy": "LSODA"}


def nearest_solver(peer: Peer, algorithm: Algorithm | None) -> str:
    """The peer's solver that is nearest to `algorithm` in kind and order; None is SciML's default."""
    if algorithm is None:
        return _SWITCHING[peer]
    if algorithm.name in _BY_NAME[peer]:
        return _BY_NAME[peer][algorithm.name]
    if algorithm.family == "auto":
        return _SWITCHING[peer] if peer == "scipy" else _STIFF[peer]
    if algorithm.family == "bdf":
        return _BDF[peer]
    return (_STIFF if algorithm.is_stiff else _EXPLICIT)[peer]


def peer_solvers(peer: Peer, algorithms: Sequence[Algorithm | None]) -> list[tuple[str, str]]:
    """``(solver, label)`` of the peer's solvers for `algorithms`, each once.

    The label says what it stands for where the names differ: ``"Kvaerno5 (for Rodas5P, FBDF)"``.
    """
    stands_for: dict[str, list[str]] = {}
    for algorithm in algorithms:
        names = stands_for.setdefault(nearest_solver(peer, algorithm), [])
        name = "the default" if algorithm is None else algorithm.name
        if name not in names:
            names.append(name)
    return [(solver, solver if names == [solver] else f"{solver} (for {_few(names)})") for solver, names in stands_for.items()]


def _few(names: list[str]) -> str:
    return ", ".join(names if len(names) <= 3 else [*names[:2], "…"])


def refuse_mass_matrix(problem: Problem, peer: str) -> None:
    """Peers solve ``du/dt = f`` alone.

    Raises
    ------
    EngineUnavailable
        If the problem has a mass matrix.
    """
    if problem.mass_matrix is not None:
        raise EngineUnavailable(peer, "it takes no mass matrix", mend=None)
