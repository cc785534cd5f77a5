"""SciML's methods as contestants."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import torch

from ...engines import get_engine
from ...engines.base import Engine, Pullback, RawSolution, SolveOptions, SolveRequest
from ...errors import EngineUnavailable, GradientFailed, SolveFailed
from ...methods.adjoints import SensitivityAlgorithm
from ...methods.algorithms import Algorithm
from ...solving.solution import SUCCESS
from .blocks import Blocks
from .contestants import Contestant, GradientRun, Task
from .rows import Counts

_COUNTS_MODEL_CALLS = ("generated", "ReverseDiffVJP")
"""VJPs with which the generated functions, which count their calls, are what the solver evaluates."""


@dataclass(frozen=True)
class JuliaContestant(Contestant):
    """A solver with one of SciML's sensitivity methods.

    Attributes
    ----------
    algorithm, sensealg
        As `solve` takes them. A `QuadratureAdjoint` without tolerances of its own takes those of the solve.
    """

    algorithm: Algorithm | None = None
    sensealg: SensitivityAlgorithm | None = None

    @classmethod
    def of(cls, algorithm: Algorithm, sensealg: SensitivityAlgorithm) -> JuliaContestant:
        """The contestant, with its names and options."""
        options = {
            x.name: getattr(sensealg, x.name) for x in fields(sensealg) if x.name != "autojacvec" and getattr(sensealg, x.name) != x.default
        }
        solver = algorithm.name if not (algorithm.options or algorithm.arguments) else repr(algorithm)
        vjp = sensealg.options.get("autojacvec")
        return cls(solver, sensealg.name, vjp, "julia", options, algorithm, sensealg)

    def prepare(self, task: Task) -> JuliaRun:
        sensealg = self.sensealg
        for package in sorted(sensealg.packages):
            _load(package)
        problem = task.problem
        options = SolveOptions(saveat=task.saveat, rtol=task.rtol, atol=task.atol, maxiters=task.maxiters)
        blocks = Blocks.of(problem)
        request = SolveRequest(problem, problem.flat_values(), problem.tspan, self.algorithm, options, sensealg, blocks.wants)
        return JuliaRun(get_engine("julia"), request, blocks)


@cache
def _load(package: str) -> None:
    """Load a Julia package that a method needs.

    Raises
    ------
    EngineUnavailable
        If it does not load.
    """
    from ...engines.julia.runtime import start_julia

    julia = start_julia()
    import juliacall

    try:
        julia.require(package)
    except juliacall.JuliaError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        reason = reason.strip().removeprefix("ArgumentError: ")
        raise EngineUnavailable(f"the Julia package {package}", reason, mend=None) from None


@cache
def _live_bytes() -> Any:
    """A Julia function: bytes in use after a full collection, and another for what finalisers let go in the first."""
    import juliacall

    return juliacall.Main.seval("() -> (GC.gc(); GC.gc(); Base.gc_live_bytes())")


class JuliaRun(GradientRun):
    """One request, solved and differentiated as `solve` and its backward pass would, without torch between."""

    def __init__(self, engine: Engine, request: SolveRequest, blocks: Blocks) -> None:
        self._engine = engine
        self._request = request
        self._blocks = blocks
        self._raw: RawSolution | None = None
        self._pullback: Pullback | None = None

    def forward(self) -> torch.Tensor:
        self._pullback = None
        self._raw, self._pullback = self._engine.solve_with_pullback(self._request)
        if self._raw.retcode not in SUCCESS:
            raise SolveFailed(self._raw.retcode, self._raw.t_reached, None)
        return torch.from_numpy(self._raw.u).view(len(self._raw.t), *self._request.problem.u0.shape)

    def backward(self, cotangent: torch.Tensor) -> dict[str, np.ndarray]:
        dtype = self._request.u0.dtype
        flat = np.ascontiguousarray(cotangent.numpy(), dtype).reshape(len(self._raw.t), -1)
        gradient = self._blocks.split(**self._pullback(flat))
        if not all(np.isfinite(x).all() for x in gradient.values()):
            raise GradientFailed(self._request.sensealg.name, "the gradient is not finite")
        return gradient

    def counts(self) -> tuple[Counts, Counts]:
        stats, sensealg = self._raw.stats, self._request.sensealg
        counted = sensealg.options.get("autojacvec", "generated") in _COUNTS_MODEL_CALLS
        # A solve evaluates the model at least once: 0 stands for not counted.
        forward = Counts(f=stats.get("nf") or None, jacobian=stats.get("njacs") if stats.get("naccept") else None)
        if sensealg.forward:
            return forward, Counts(0, 0, 0)  # a product with derivatives that are there
        if not sensealg.continuous or not counted:
            return forward, Counts()
        generated = sensealg.options["autojacvec"] == "generated"
        backward = Counts(f=stats.get("nf_reverse"), vjp=stats.get("nvjp") if generated else None, jacobian=stats.get("njacs_reverse"))
        return forward, backward

    def steps(self) -> int | None:
        return self._raw.stats.get("naccept") or None

    def allocated(self) -> int | None:
        stats = self._raw.stats
        passes = (stats.get("allocated"), stats.get("allocated_reverse"))
        return None if None in passes else sum(passes)

    def kept_memory(self) -> int | None:
        """Julia's live bytes now, less those without this solution; solves once more to put things back."""
        live = _live_bytes()
        with_solution = live()
        self._raw = self._pullback = None
        without = live()
        self.forward()
        return max(with_solution - without, 0)
