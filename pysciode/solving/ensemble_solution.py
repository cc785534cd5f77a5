"""The solution of an ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays.parameters import is_tensor
from ..engines.base import RawSolution
from ..problems.ensemble import EnsembleProblem
from .solution import SUCCESS, Solution


@dataclass(frozen=True)
class EnsembleSummary:
    """Mean and standard deviation over the members.

    Attributes
    ----------
    t
        Times, shape ``(k,)``.
    mean, std
        Shape ``(k, *shape of a state)``. Of a single member the standard deviation is NaN.
    count
        How many members took part: those that reached the end.
    """

    t: Any
    mean: Any
    std: Any
    count: int


class EnsembleSolution:
    """The solutions of all members, at the same times.

    ``len(sol)`` is the number of members, ``sol[i]`` the :class:`~pysciode.Solution` of one, and iterating gives all of these.

    Attributes
    ----------
    t
        Times, shape ``(k,)``: those of `saveat`; without, the end of the time span alone.
    u
        States, shape ``(N, k, *shape of a state)`` or ``(N, k, m)`` for `m` saved entries: a tensor where the problem is torch's,
        on its device and with its gradients. NaN at times that a member did not reach; no gradient passes to members that failed.
        For second-order and dynamical problems these are the positions, and `v` holds the velocities.
    retcodes
        SciML's return code of each member, an array of strings of shape ``(N,)``.
    t_reached
        The last time that each member's solver accepted, shape ``(N,)``.
    failed
        Indices of the members that did not reach the end, an array.
    success
        Whether all members reached the end.
    problem, algorithm, ensemblealg, engine
        The ensemble, the name of the algorithm, the ensemble algorithm, and the engine's name.
    """

    def __init__(
        self,
        problem: EnsembleProblem,
        t: np.ndarray,
        states: Any,
        retcodes: np.ndarray,
        t_reached: np.ndarray,
        algorithm: str,
        ensemblealg: Any,
        engine: str,
        save_idxs: np.ndarray | None,
        members: Sequence[Solution] | None = None,
    ) -> None:
        self.problem = problem
        self.retcodes = retcodes
        self.t_reached = t_reached
        self.failed = np.flatnonzero(~np.isin(retcodes, list(SUCCESS)))
        self.algorithm = algorithm
        self.ensemblealg = ensemblealg
        self.engine = engine
        self._times = np.array(t, problem.problem.dtype)
        self._states = states
        self._save_idxs = save_idxs
        self._members = members

    @property
    def t(self) -> Any:
        return self._states.new_tensor(self._times) if is_tensor(self._states) else self._times

    @property
    def u(self) -> Any:
        return self._states[:, :, 1] if self._partitioned else self._states

    @property
    def v(self) -> Any:
        """Velocities of second-order problems, first part of dynamical ones.

        Raises
        ------
        AttributeError
            For other problems.
        """
        if not self._partitioned:
            raise AttributeError(f"the solution of a {type(self.problem.problem).__name__} has no v")
        return self._states[:, :, 0]

    @property
    def _partitioned(self) -> bool:
        return self.problem.problem.velocity is not None

    @property
    def success(self) -> bool:
        return not len(self.failed)

    def summary(self) -> EnsembleSummary:
        """Mean and standard deviation (of the sample) of `u` over the members that reached the end."""
        u = self.u
        if len(self.failed):
            u = u[np.setdiff1d(np.arange(len(self)), self.failed)]
        count = len(u)
        if is_tensor(u):
            std = u.std(dim=0) if count > 1 else u.new_full(u.shape[1:], float("nan"))
            return EnsembleSummary(self.t, u.mean(dim=0), std, count)
        nothing = np.full(u.shape[1:], np.nan, u.dtype)
        mean = u.mean(axis=0) if count else nothing
        return EnsembleSummary(self.t, mean, u.std(axis=0, ddof=1) if count > 1 else nothing, count)

    def to_numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """`t` and `u` as NumPy arrays."""
        u = self.u
        return self._times, u.numpy(force=True) if is_tensor(u) else u

    def __len__(self) -> int:
        return len(self.retcodes)

    def __getitem__(self, i: int) -> Solution:
        i = range(len(self))[i]
        if self._members is not None:
            return self._members[i]
        states = self._states[i]
        flat = (states.numpy(force=True) if is_tensor(states) else states).reshape(len(self._times), -1)
        count = int((~np.isnan(flat).any(axis=1)).sum())  # the times that it reached are the first ones
        raw = RawSolution(self._times[:count].astype(np.float64), flat[:count], str(self.retcodes[i]), {}, float(self.t_reached[i]))
        return Solution(self.problem[i], raw, states[:count], self.t[:count], self.engine, self.algorithm, None, self._save_idxs)

    def __iter__(self) -> Iterator[Solution]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        outcome = "all came to their end" if self.success else f"{len(self.failed)} failed"
        return (
            f"<EnsembleSolution: {len(self)} members at {len(self._times)} times, states {tuple(self.u.shape[2:])}, {outcome}, "
            f"{self.algorithm} by {type(self.ensemblealg).__name__} on the {self.engine} engine>"
        )
