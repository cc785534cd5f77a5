"""The gradient that all others are held against, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...arrays.parameters import is_tensor
from ...engines.base import Engine, SolveOptions
from ...graphs.captured_model import CallbackModel
from ...methods.adjoints import ForwardDiffSensitivity, GaussAdjoint, ReverseDiffAdjoint, SensitivityAlgorithm
from ...methods.algorithms import Algorithm
from ...problems.ode import ODEProblem
from .blocks import Blocks
from .directional import discrepancy, scales
from .engine_contestant import EngineRun
from .grid import default_algorithm
from .losses import LossFunction
from .measurement import Target, one_line
from .rows import Reference

FORWARD_LIMIT = 100
"""Up to this many differentiated scalars the reference is computed in forward mode."""

TOLERANCES = (1e-12, 1e-10, 1e-8)
"""Relative tolerances of the reference: the next one where the solver can't reach the one before."""

AGREEMENT = 1e-7
"""Two gradients that agree so far need no third."""


class NoReference(Exception):
    """No gradient could be found that can be trusted."""


@dataclass(frozen=True)
class TightSolver:
    """A problem's loss and gradient as functions of one vector of `blocks`, in double precision, whatever the problem's own."""

    engine: Engine
    problem: ODEProblem
    blocks: Blocks
    loss: LossFunction
    algorithm: Algorithm
    rtol: float
    maxiters: int = 1_000_000

    def __str__(self) -> str:
        return f"{self.algorithm.name}, rtol {self.rtol:.0e}, atol {self.rtol / 100:.0e}"

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Flat state and parameters."""
        return self.problem.flat_u0().astype(np.float64), self.problem.flat_p().astype(np.float64)

    def run(self, values: tuple[np.ndarray, np.ndarray], sensealg: SensitivityAlgorithm | None = None) -> EngineRun:
        """A solve at other values, and its pullback where there is a method."""
        options = SolveOptions(saveat=self.loss.times, rtol=self.rtol, atol=self.rtol / 100, maxiters=self.maxiters)
        return EngineRun(self.engine, self.problem, self.algorithm, options, sensealg, blocks=self.blocks, values=values)

    def loss_at(self, step: np.ndarray) -> float:
        """The loss with `step` added to what is differentiated."""
        return self.loss.value(self.run(self.blocks.moved(*self.values(), step)).forward())

    def gradient(self, sensealg: SensitivityAlgorithm) -> np.ndarray:
        """The gradient of the loss."""
        run = self.run(self.values(), sensealg)
        _, cotangent = self.loss(run.forward())
        return self.blocks.join(run.backward(cotangent))


def reference_solver(engine: Engine, problem: ODEProblem, blocks: Blocks, loss: LossFunction, stiff: bool) -> TightSolver:
    """The solver of the reference: the one that is compiled ahead of time, with many small steps.

    Solvers of higher order take fewer, but GaussAdjoint over Vern9's long steps is off by 4e-8 on a small network where over
    those of Tsit5 it is by 5e-15.
    """
    return TightSolver(engine, problem, blocks, loss, default_algorithm(problem, stiff), TOLERANCES[0])


def find_reference(tight: TightSolver, given: SensitivityAlgorithm | Mapping[str, Any] | Any | None, seed: int) -> tuple[Reference, Target]:
    """The reference and what it says about itself; raises NoReference if every way failed.

    Parameters
    ----------
    tight
        The solver; looser tolerances are tried where it fails.
    given
        The user's choice: a method, or the gradient itself; None to choose.
    seed
        For the random directions of the check by differences.
    """
    if given is not None and not isinstance(given, SensitivityAlgorithm):
        return given_reference(tight.blocks, given)
    failures = []
    for rtol in TOLERANCES:
        try:
            return _computed(replace(tight, rtol=rtol), given, seed)
        except Exception as error:
            failures.append(f"rtol {rtol:.0e}: {one_line(error)}")
    raise NoReference("; ".join(failures))


def _computed(tight: TightSolver, given: SensitivityAlgorithm | None, seed: int) -> tuple[Reference, Target]:
    gradients: dict[str, np.ndarray] = {}
    failures: list[Exception] = []
    for method in [given] if given is not None else _methods(tight):
        try:
            gradients[method.name] = tight.gradient(method)
        except Exception as error:
            failures.append(error)
    if not gradients:
        raise failures[0]
    (name, gradient), *others = gradients.items()
    norm = float(np.linalg.norm(gradient))
    checks = [(float(np.linalg.norm(gradient - x)) / (norm or 1.0), f"{other} at the same tolerances") for other, x in others]
    if not checks or checks[0][0] > AGREEMENT:
        scale = scales(tight.blocks.join(tight.blocks.split(*tight.values())), tight.blocks)
        for candidate, found in gradients.items():
            off = discrepancy(found, tight.loss_at, scale, np.random.default_rng(seed))
            if not checks or off < min(checks)[0]:
                name, gradient = candidate, found
            checks.append((off, "extrapolated central differences of the loss along random directions"))
    # No agreement makes it better than the solve that it comes from.
    error, check = min(checks)
    estimate = max(error, tight.rtol) if error == error else float("inf")
    reference = Reference(f"{name} ({tight})", check, estimate, tight.blocks.sizes, float(np.linalg.norm(gradient)))
    return reference, Target(tight.blocks.cut(gradient), estimate)


def _methods(tight: TightSolver) -> list[SensitivityAlgorithm]:
    """Independent ones, the best first."""
    if tight.engine.name == "embedded":
        return [ReverseDiffAdjoint()]
    forward = tight.blocks.size <= FORWARD_LIMIT and not isinstance(tight.problem.model, CallbackModel)
    return [ForwardDiffSensitivity(), GaussAdjoint()] if forward else [GaussAdjoint()]


def given_reference(blocks: Blocks, given: Any) -> tuple[Reference, Target]:
    """A gradient that the user has, as an array or by block; raises ValueError or TypeError if it is none, or of another size."""
    if isinstance(given, Mapping):
        if set(given) != set(blocks.sizes):
            raise ValueError(f"reference has blocks {sorted(map(str, given))}, but differentiated are {sorted(blocks.sizes)}")
        found = {name: _flat(given[name], size, f"reference[{name!r}]") for name, size in blocks.sizes.items()}
    else:
        found = blocks.cut(_flat(given, blocks.size, "reference"))
    norm = float(np.linalg.norm(blocks.join(found)))
    return Reference("given by the user", "not checked", 0.0, blocks.sizes, norm), Target(found, 0.0)


def _flat(x: Any, size: int, name: str) -> np.ndarray:
    try:
        array = np.array(x.detach() if is_tensor(x) else x, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be an array of numbers, or for the whole a sensitivity method, not {x!r}") from None
    if array.size != size:
        raise ValueError(f"{name} has {array.size} entries, but {size} are differentiated")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return array
