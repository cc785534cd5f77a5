"""The solution of a problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.parameters import is_tensor
from ..errors import require_extra_package
from ..methods.algorithm_table import COARSE
from .method_fit import warn_of_coarse_output

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ..engines.base import RawSolution
    from ..problems.base import Problem

SUCCESS = frozenset({"Success", "Terminated", "ExactSolutionLeft", "ExactSolutionRight", "FloatingPointLimit"})
"""SciML's return codes of a solve that reached its end."""

ADVICE = {
    "MaxIters": "raise maxiters, loosen rtol and atol, or if the problem is stiff use a stiff algorithm such as Rodas5P() or FBDF()",
    "DtLessThanMin": "the step became too small: the solution may have a singularity there, or be too stiff for this algorithm "
    "(try Rodas5P() or FBDF())",
    "DtNaN": "the error estimate is not a number: look for a division by zero, a logarithm or a root of something negative in "
    "the model near that time",
    "Unstable": "the states left the range of finite numbers: check the model and its parameters there, or use a stiff algorithm "
    "such as Rodas5P(), or a smaller step",
    "ConvergenceFailure": "Newton's iterations did not converge: try another stiff algorithm (Rodas5P() needs none), a smaller dtmax "
    "or tighter tolerances",
    "InitialFailure": "no consistent initial state was found for the algebraic equations: check u0, or let initializealg=BrownFullBasicInit() "
    "or ShampineCollocationInit() find one",
}
"""What to do about each return code."""


@dataclass(frozen=True)
class Occurrences:
    """When an event occurred, and in which states.

    Attributes
    ----------
    t
        Times in their order, shape ``(k,)``.
    u
        The states then, before what the event did to them, shape ``(k, …)``; of a second-order or dynamical problem
        ``(k, 2, …)``, velocities first.
    """

    t: Any
    u: Any

    def __len__(self) -> int:
        return len(self.t)


@dataclass(frozen=True)
class Statistics(Mapping[str, int]):
    """Counts of a solve, in SciML's names; also a mapping of all that the engine reported.

    Attributes
    ----------
    nf
        Evaluations of the right-hand side.
    njacs
        Jacobians.
    nsolve
        Linear systems solved.
    naccept, nreject
        Steps accepted and rejected.
    """

    nf: int = 0
    njacs: int = 0
    nsolve: int = 0
    naccept: int = 0
    nreject: int = 0
    all: Mapping[str, int] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Statistics:
        names = ("nf", "njacs", "nsolve", "naccept", "nreject")
        return cls(*(counts.get(name, 0) for name in names), all=counts)

    def __getitem__(self, key: str) -> int:
        return self.all[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)


class Solution:
    """A solution: times, states and how they were found.

    ``len(sol)`` is the number of saved times, ``sol[i]`` the state at the `i`-th of them (a slice gives several), and
    iterating gives pairs ``(t, u)``. ``sol(t)`` is the solution at any time.

    Attributes
    ----------
    t
        Saved times, shape ``(k,)``.
    u
        Saved states, shape ``(k, *shape of u0)``, or ``(k, m)`` for `m` saved entries. For a second-order or dynamical
        problem these are the positions, and `v` holds the velocities.
    retcode, success
        SciML's return code, and whether it means that the end was reached.
    stats
        :class:`Statistics`.
    engine
        ``"julia"`` or ``"embedded"``.
    algorithm
        Name of the algorithm.
    sensealg
        The sensitivity method that differentiates it; None where no gradient is wanted.
    problem
        The problem solved.
    """

    def __init__(
        self,
        problem: Problem,
        raw: RawSolution,
        states: Any,
        times: Any,
        engine: str,
        algorithm: str,
        sensealg: Any,
        save_idxs: np.ndarray | None,
    ) -> None:
        self.problem = problem
        self._times = times
        self.retcode = raw.retcode
        self.engine = engine
        self.algorithm = algorithm
        self.sensealg = sensealg
        self._raw = raw
        self._states = states
        self._save_idxs = save_idxs

    @property
    def t(self) -> Any:
        if self._times is None:  # made when asked for, since many losses don't
            times = np.array(self._raw.t, dtype=self.problem.dtype)
            if self.problem.is_torch:
                import torch

                times = torch.from_numpy(times).to(self.problem.u0.device)
            self._times = times
        return self._times

    @property
    def u(self) -> Any:
        return self._states[:, 1] if self._partitioned else self._states

    @property
    def states(self) -> Any:
        """The saved states, whole: of second-order and dynamical problems shape ``(k, 2, …)``, velocities before positions."""
        return self._states

    @property
    def v(self) -> Any:
        """Velocities of a second-order problem, first part of a dynamical one.

        Raises
        ------
        AttributeError
            For other problems.
        """
        if not self._partitioned:
            raise AttributeError(f"the solution of a {type(self.problem).__name__} has no v")
        return self._states[:, 0]

    @property
    def _partitioned(self) -> bool:
        return self.problem.velocity is not None

    @property
    def events(self) -> tuple[Occurrences, ...]:
        """The occurrences of each :class:`~pysciode.solving.callbacks.ContinuousCallback`, in the order in which they were given."""
        return tuple(self._occurrences(t, u) for t, u in self._raw.events)

    def _occurrences(self, t: np.ndarray, u: np.ndarray) -> Occurrences:
        t, u = t.astype(self.problem.dtype), u.reshape(-1, *self.problem.shape)
        if self.problem.is_torch:
            import torch

            return Occurrences(torch.from_numpy(t), torch.from_numpy(u))
        return Occurrences(t, u)

    @property
    def success(self) -> bool:
        return self.retcode in SUCCESS

    @property
    def stats(self) -> Statistics:
        return Statistics.of(self._raw.stats)

    @property
    def t_reached(self) -> float:
        """The last time that the solver accepted; on success the end of the time span."""
        return self._raw.t_reached

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the numbers. Gradients and dense output stay in the process that solved."""
        raw = replace(self._raw, u=self._raw.u[:0], stats=dict(self._raw.stats), interpolant=None)
        return self.__dict__ | {"_raw": raw, "_times": _detached(self.t), "_states": _detached(self._states)}

    def __copy__(self) -> Solution:
        out = object.__new__(type(self))
        out.__dict__.update(self.__dict__)
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> Solution:
        """Like a pickle, but with dense output, and over the same problem, which does not change."""
        memo[id(self.problem)] = self.problem
        out = memo[id(self)] = object.__new__(type(self))
        out.__dict__.update(deepcopy(self.__getstate__(), memo))
        out._raw.interpolant = self._raw.interpolant
        return out

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, i: Any) -> Any:
        return self.u[i]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(zip(self.t, self.u, strict=True))

    def __repr__(self) -> str:
        outcome = "" if self.success else f", stopped at t = {self.t_reached:g}"
        span = f"t {float(self.t[0]):g} … {float(self.t[-1]):g}" if len(self) else "no times"
        return (
            f"<Solution {self.retcode}{outcome}: {len(self)} times, {span}, states {tuple(self.u.shape[1:])}, "
            f"{self.algorithm} on the {self.engine} engine, nf = {self.stats.nf}>"
        )

    def __call__(self, t: Any, derivative: int = 0) -> Any:
        """The solution, or its time derivative, at any time of the solved span.

        Parameters
        ----------
        t
            A time, or an array of them.
        derivative
            0 or 1.

        Returns
        -------
        array or tensor
            Of the state's shape, behind the shape of `t`. A tensor carries no gradient: for that, name the times in
            ``saveat``. Of a second-order problem, the positions.

        Raises
        ------
        ValueError
            If no dense output was kept, or a time lies outside.
        """
        if derivative not in (0, 1):
            raise ValueError(f"derivative must be 0 or 1, not {derivative!r}")
        interpolant = self._raw.interpolant
        if interpolant is None:
            raise ValueError("no dense output was kept: solve with dense=True (the default only where saveat is None); pickles have none")
        if self.algorithm in COARSE and self.engine != "embedded":
            warn_of_coarse_output(self.problem, self.algorithm, "sol(t) gives")
        times = np.asarray(t.numpy(force=True) if is_tensor(t) else t, dtype=np.float64)
        low, high = sorted((self.problem.tspan[0], self.t_reached))
        slack = 1e-12 * max(abs(low), abs(high))
        if times.size and not (low - slack <= times.min() and times.max() <= high + slack):
            raise ValueError(f"t must lie between {low:g} and {high:g}, where the solution is known")
        flat = interpolant(np.clip(times.reshape(-1), low, high), derivative)
        if self._save_idxs is not None and flat.shape[1] == self.problem.n:
            flat = flat[:, self._save_idxs]
        shape = tuple(self._states.shape[1:])
        out = flat.reshape((*times.shape, *shape))
        if self._partitioned:
            out = out[(slice(None),) * times.ndim + (1,)]
        if self.problem.is_torch:
            import torch

            return out if is_tensor(out) else torch.from_numpy(np.ascontiguousarray(out))
        return out

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each entry of a row of `u`."""
        if self._partitioned:
            shape = tuple(self.u.shape[1:])
            return tuple(f"u[{','.join(map(str, i))}]" for i in np.ndindex(*shape)) if shape else ("u",)
        names = self.problem.state_names
        return names if self._save_idxs is None else tuple(names[i] for i in self._save_idxs)

    def to_numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """`t` and `u` as NumPy arrays."""
        return _numpy(self.t), _numpy(self.u)

    def to_dataframe(self) -> pd.DataFrame:
        """A pandas DataFrame: column ``t``, then one for each entry of the state (of `v` too, where there is one).

        Raises
        ------
        ImportError
            Without pandas.
        """
        require_extra_package("pandas", "Solution.to_dataframe", "analysis")
        import pandas as pd

        t, u = self.to_numpy()
        columns = dict(zip(self.names, u.reshape(len(t), -1).T, strict=True))
        if self._partitioned:
            v = _numpy(self.v).reshape(len(t), -1).T
            columns |= {"v" + name[1:]: column for name, column in zip(self.names, v, strict=True)}
        return pd.DataFrame({"t": t, **columns})

    def plot(self, ax: Axes | None = None, *, points: int = 400, **style: Any) -> Axes:
        """Draw the states over time with matplotlib.

        Parameters
        ----------
        ax
            Where to draw; by default a new figure.
        points
            Times at which the curve is drawn, where dense output was kept; otherwise the saved points are joined.
        style
            Further arguments of ``Axes.plot``.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        require_extra_package("matplotlib", "Solution.plot", "analysis")
        import matplotlib.pyplot as plt

        if ax is None:
            ax = plt.figure().add_subplot()
        t, u = self.to_numpy()
        if self._raw.interpolant is not None and len(t):
            t = np.linspace(self.problem.tspan[0], self.t_reached, points)
            u = _numpy(self(t))
        names = self.names
        for name, column in zip(names, u.reshape(len(t), -1).T, strict=True):
            ax.plot(t, column, label=name, **style)
        ax.set_xlabel("t")
        ax.set_title(self.problem.name or "")
        if len(names) <= 12:
            ax.legend()
        return ax


def _detached(x: Any) -> Any:
    return x.detach() if is_tensor(x) else x


def _numpy(x: Any) -> np.ndarray:
    return x.numpy(force=True) if is_tensor(x) else x
