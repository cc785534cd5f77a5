"""Contestants of a comparison: a solver, alone or with a sensitivity method; here are SciML's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache

import numpy as np
import torch

from ...engines import get_engine
from ...engines.base import Engine, Pullback, RawSolution, SolveOptions, SolveRequest
from ...errors import EngineUnavailable, GradientFailed, SolveFailed
from ...methods.adjoints import SensitivityAlgorithm
from ...methods.algorithms import Algorithm
from ...problems.base import Problem
from ...solving.solution import SUCCESS
from .blocks import Blocks
from .rows import Counts

_COUNTS_MODEL_CALLS = ("generated", "ReverseDiffVJP")
"""VJPs with which the generated functions, which count their calls, are what the solver evaluates."""


@dataclass(frozen=True)
class Task:
    """The task of all contestants; for gradients, a torch problem whose differentiated tensors require grad.

    Times to save at are float64; with `step_on_times` SciML's solvers take a step to each of them, instead of interpolating.
    """

    problem: Problem
    saveat: np.ndarray
    rtol: float
    atol: float
    maxiters: int = 100_000
    step_on_times: bool = False


class Run(ABC):
    """A contestant made ready for one task. `forward` and, for gradients, `backward` are timed, in this order, many times over.

    The attributes are about the last of each: evaluations, steps accepted and rejected, and bytes that Julia allocated.
    """

    forward_counts: Counts = Counts()
    backward_counts: Counts = Counts()
    steps: int | None = None
    rejected: int | None = None
    allocated: int | None = None

    @abstractmethod
    def forward(self) -> torch.Tensor:
        """Solve; the states, detached, shape ``(k, *shape of u0)``. Raises a PysciodeError if the solver gave up."""

    def backward(self, cotangent: torch.Tensor) -> dict[str, np.ndarray]:
        """The gradient for ``cotangent = ∂L/∂u`` of the last `forward`: a flat float64 array for each block.

        Raises a PysciodeError if the method can't compute it reliably.
        """
        raise NotImplementedError

    def kept_memory(self) -> int | None:
        """Bytes that are held now, between `forward` and `backward`."""
        return None


@dataclass(frozen=True)
class Contestant(ABC):
    """A solver, a sensitivity method (None: a solve alone) and a choice of VJP; the fields are those of a `GradientRow`."""

    solver: str
    method: str | None
    vjp: str | None
    engine: str
    options: Mapping[str, object] = field(default_factory=dict)
    skipped: str | None = field(default=None, kw_only=True)  # why it is left out

    @abstractmethod
    def prepare(self, task: Task) -> Run:
        """Make ready for `task`; cheap, nothing is solved or compiled yet.

        Raises EngineUnavailable if a package is not installed, or this engine can't express the model.
        """


@dataclass(frozen=True)
class EngineContestant(Contestant):
    """A solver, alone or with one of SciML's sensitivity methods, on one of pysciode's engines."""

    algorithm: Algorithm | None = None
    sensealg: SensitivityAlgorithm | None = None

    @classmethod
    def of(cls, algorithm: Algorithm | None, sensealg: SensitivityAlgorithm | None = None, engine: str = "julia") -> EngineContestant:
        """The contestant, with its names and options."""
        if algorithm is None:
            solver = "default"
        else:
            solver = repr(algorithm) if algorithm.options or algorithm.arguments else algorithm.name
        if sensealg is None:
            return cls(solver, None, None, engine, {}, algorithm)
        options = {x.name: getattr(sensealg, x.name) for x in fields(sensealg) if getattr(sensealg, x.name) != x.default}
        vjp = options.pop("autojacvec", None) or sensealg.options.get("autojacvec")
        return cls(solver, sensealg.name, None if vjp is None else str(vjp), engine, options, algorithm, sensealg)

    def prepare(self, task: Task) -> EngineRun:
        for package in sorted(self.sensealg.packages) if self.sensealg else ():
            _load(package)
        tstops = task.saveat if task.step_on_times else None
        options = SolveOptions(task.saveat, tstops, rtol=task.rtol, atol=task.atol, maxiters=task.maxiters)
        problem = task.problem
        request = SolveRequest(problem, problem.flat_values(), problem.tspan, self.algorithm, options, self.sensealg)
        return EngineRun(get_engine(self.engine), request, Blocks.of(problem) if self.sensealg else None)


@cache
def _load(package: str) -> None:
    """Load a Julia package that a method needs; raises EngineUnavailable if it does not load."""
    from ...engines.julia.runtime import start_julia

    julia = start_julia()
    import juliacall

    try:
        julia.require(package)
    except juliacall.JuliaError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise EngineUnavailable(f"the Julia package {package}", reason.removeprefix("ArgumentError: "), mend=None) from None


class EngineRun(Run):
    """One request, solved and differentiated to some blocks as `solve` and its backward pass would, without torch between."""

    def __init__(self, engine: Engine, request: SolveRequest, blocks: Blocks | None = None) -> None:
        wants = blocks.wants if blocks and request.sensealg else frozenset()
        self._engine, self._request, self._blocks = engine, replace(request, wants=wants), blocks
        self._solved: tuple[RawSolution, Pullback | None] | None = None

    def forward(self) -> torch.Tensor:
        self._solved = None
        if self._request.sensealg is None:
            raw, pullback = self._engine.solve(self._request), None
        else:
            raw, pullback = self._engine.solve_with_pullback(self._request)
        stats = raw.stats
        # A solve evaluates the model and takes a step at least once: 0 stands for not counted.
        self.steps, self.rejected = stats.get("naccept") or None, stats.get("nreject")
        self.forward_counts = Counts(f=stats.get("nf") or None, jacobian=stats.get("njacs") if self.steps else None)
        if raw.retcode not in SUCCESS:
            raise SolveFailed(raw.retcode, raw.t_reached, None)
        self._solved = raw, pullback
        return torch.from_numpy(raw.u).view(len(raw.t), *self._request.problem.u0.shape)

    def backward(self, cotangent: torch.Tensor) -> dict[str, np.ndarray]:
        raw, pullback = self._solved or (None, None)
        sensealg = self._request.sensealg
        if raw is None or pullback is None or sensealg is None or self._blocks is None:
            raise RuntimeError("backward follows a forward with a sensitivity method")
        flat = np.ascontiguousarray(cotangent.numpy(), self._request.u0.dtype).reshape(len(raw.t), -1)
        gradient = self._blocks.split(**pullback(flat))
        if not all(np.isfinite(x).all() for x in gradient.values()):
            raise GradientFailed(sensealg.name, "the gradient is not finite")
        self.backward_counts = _backward_counts(sensealg, raw.stats)
        forward, backward = raw.stats.get("allocated"), raw.stats.get("allocated_reverse")
        self.allocated = None if forward is None or backward is None else forward + backward
        return gradient

    def kept_memory(self) -> int | None:
        """Julia's live bytes now, less those without this solution; solves once more to put things back."""
        from ...engines.julia.runtime import start_julia

        # Bytes in use after a full collection, and another for what finalisers let go in the first.
        live = start_julia().seval("() -> (GC.gc(); GC.gc(); Base.gc_live_bytes())")
        with_solution = live()
        self._solved = None
        without = live()
        self.forward()
        return max(with_solution - without, 0)


def _backward_counts(sensealg: SensitivityAlgorithm, stats: Mapping[str, int]) -> Counts:
    if sensealg.forward:
        return Counts(0, 0, 0)  # a product with derivatives that are there
    if not sensealg.continuous or sensealg.options["autojacvec"] not in _COUNTS_MODEL_CALLS:
        return Counts()
    return Counts(stats.get("nf_reverse"), stats.get("nvjp") if sensealg.generated else None, stats.get("njacs_reverse"))
