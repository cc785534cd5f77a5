"""The contract between problems and engines: flat arrays in, flat arrays out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..methods.adjoints import SensitivityAlgorithm
    from ..methods.algorithms import Algorithm
    from ..methods.initialization import Initialization
    from ..problems.base import Problem


FlatArray = Any
"""What crosses this border: a NumPy array, or a torch tensor where the problem lies on a device."""


@dataclass(frozen=True)
class EventRequest:
    """An event: the first entry of a model's output changes its sign.

    Attributes
    ----------
    condition
        The problem of that model, on the state and time of the solved problem, and with parameters of its own.
    affect
        A problem whose model gives the state after the event; None where the state goes on.
    direction
        +1, -1, or 0 for both.
    stop_after
        The number of the occurrence that ends the solve; 0: none does.
    """

    condition: Problem
    affect: Problem | None
    direction: int
    stop_after: int

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The condition, and the affect where there is one."""
        return (self.condition,) if self.affect is None else (self.condition, self.affect)


@dataclass(frozen=True)
class SolveOptions:
    """Options of one solve, in SciML's names; None means SciML's default.

    Attributes
    ----------
    saveat
        Times to save at, contiguous float64, monotone in the direction of the time span, never written to; None saves
        every step.
    rtol, atol
        Relative and absolute tolerance; `atol` may be an array of the state's flat size.
    save_idxs
        Zero-based flat indices of the states to save; None saves all.
    progress
        Called as ``progress(t)`` about ten times a second with the time reached; None for none.
    events
        Events to look for.
    steps
        Called as ``step(u, t)`` with the flat state, at the start and after every accepted step.
    norm
        ``norm(x)`` of a flat array; it replaces the root mean square of the scaled error.
    initializealg
        How consistent initial values are found; None where all are.
    extra
        Further keywords of SciML's ``solve``, passed as they are.
    """

    saveat: np.ndarray | None = None
    tstops: np.ndarray | None = None
    rtol: float = 1e-6
    atol: float | np.ndarray = 1e-8
    dt: float | None = None
    dtmin: float | None = None
    dtmax: float | None = None
    maxiters: int = 100_000
    adaptive: bool = True
    dense: bool = False
    save_idxs: np.ndarray | None = None
    progress: Callable[[float], object] | None = None
    events: tuple[EventRequest, ...] = ()
    steps: tuple[Callable[[np.ndarray, float], None], ...] = ()
    norm: Callable[[np.ndarray], float] | None = None
    initializealg: Initialization | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)  # not frozen: one is made for every solve, and that takes four times as long
class SolveRequest:
    """One solve, as an engine gets it; not changed once it is made.

    Attributes
    ----------
    problem
        The problem, whose ``model`` is the captured right-hand side (a :data:`~pysciode.graphs.captured_model.CapturedModel`).
    values
        What the problem's functions are given, by name (``"u0"``, ``"p"``): flat, C-contiguous arrays of one floating dtype, tensors
        where the problem is on a device; not kept or written to by the engine.
    tspan
        Start and end; the end may lie before the start.
    algorithm
        The algorithm; None leaves the choice to SciML's default.
    sensealg
        The sensitivity method; None where no gradient is wanted.
    wants
        Names of the values that need a gradient.
    """

    problem: Problem
    values: dict[str, FlatArray]
    tspan: tuple[float, float]
    algorithm: Algorithm | None
    options: SolveOptions
    sensealg: SensitivityAlgorithm | None = None
    wants: frozenset[str] = frozenset()

    @property
    def u0(self) -> FlatArray:
        """The flat initial state."""
        return self.values["u0"]

    @property
    def p(self) -> FlatArray:
        """The flat parameters."""
        return self.values["p"]

    def again(self, **changes: Any) -> SolveRequest:
        """Return the request of a second solve that must repeat the first.

        Raises
        ------
        ValueError
            If the problem is not deterministic: then a second solve is another path.
        """
        if not self.problem.deterministic:
            raise ValueError(f"a {type(self.problem).__name__} can't be solved a second time for what the first solve left out")
        return replace(self, **changes)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the arrays; a reference may be computed in another one than the problem's."""
        return self.u0.dtype if isinstance(self.u0, np.ndarray) else self.problem.dtype


@dataclass(slots=True, eq=False)
class RawSolution:
    """An engine's answer; not changed once it is made.

    Attributes
    ----------
    t
        Times, shape ``(k,)``; never written to, since they may be those of the options.
    u
        States, shape ``(k, n)``, C-contiguous (``(k, len(save_idxs))`` with `save_idxs`).
    retcode
        SciML's name: ``"Success"``, ``"MaxIters"``, …
    stats
        Counts in SciML's names: ``nf``, ``njacs``, ``nsolve``, ``naccept``, ``nreject``, …; a pullback adds its own.
    t_reached
        The last time that the solver accepted.
    interpolant
        ``interpolant(times, derivative) -> (len(times), n)``; None unless ``dense`` was asked for.
    algorithm
        Name of the algorithm that ran, where the request left the choice to the engine.
    events
        For each event asked for, its times and the whole states, shapes ``(k,)`` and ``(k, n)``.

    The engine makes a new `u` for each answer; the caller owns it.
    """

    t: np.ndarray
    u: FlatArray
    retcode: str
    stats: Mapping[str, int]
    t_reached: float
    interpolant: Callable[[np.ndarray, int], FlatArray] | None = None
    algorithm: str | None = None
    events: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    def __reduce__(self) -> tuple:
        return (type(self), tuple(getattr(self, x.name) for x in fields(self)))  # older protocols know no slots


Gradients = dict[str, FlatArray]
"""Gradients to a request's values, by their names."""

Pullback = Callable[[FlatArray], Gradients]


class UnstableSteps(Exception):
    """A pullback through steps in which the adjoint changes too fast for them.

    Attributes
    ----------
    gradients
        Those of the steps.
    """

    def __init__(self, gradients: Gradients) -> None:
        super().__init__()
        self.gradients = gradients


"""``pullback(du)``, with the cotangent of ``RawSolution.u``, gives the gradients to the request's values in new arrays; may be called
again."""


class Engine(ABC):
    """The base of what solves problems: see :mod:`pysciode.engines.julia.engine` and :mod:`pysciode.engines.embedded.engine`."""

    name: str

    def require(self, sensealg: SensitivityAlgorithm) -> None:  # noqa: B027
        """Refuse a sensitivity method for which a package is missing.

        Raises
        ------
        EngineUnavailable
            Naming it, and the command that brings it.
        """

    @abstractmethod
    def solve(self, request: SolveRequest) -> RawSolution:
        """Solve. A solver that gives up raises nothing here: its retcode tells."""

    @abstractmethod
    def solve_with_pullback(self, request: SolveRequest) -> tuple[RawSolution, Pullback]:
        """Solve, and return the solution with its pullback. The saved states are whole: ``save_idxs`` is None here.

        Raises
        ------
        GradientFailed
            From the pullback, where the gradient can't be trusted.
        """

    @abstractmethod
    def rhs(self, request: SolveRequest, u: FlatArray, t: float) -> FlatArray:
        """The right-hand side at flat `u` and time `t`, with the request's parameters."""
