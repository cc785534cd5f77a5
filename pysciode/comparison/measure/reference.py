"""The reference gradient, its estimated error, and the growth of the problem's gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...arrays.parameters import is_tensor
from ...engines.base import Engine, SolveOptions, SolveRequest
from ...graphs.captured_model import CallbackModel
from ...methods.adjoints import ForwardDiffSensitivity, GaussAdjoint, ReverseDiffAdjoint, SensitivityAlgorithm
from ...methods.algorithms import Algorithm
from ...problems.base import Problem
from .blocks import STATE, Blocks
from .contestants import EngineRun
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

LEAST_GROWTH = 4.0
"""Decades by which gradients grow over the whole span below which nothing is said."""

Values = dict[str, np.ndarray]
"""Flat state and parameters, by name."""


class NoReference(Exception):
    """No gradient could be found that can be trusted."""


@dataclass(frozen=True)
class TightSolver:
    """A problem's loss and gradient as functions of one vector of `blocks`, in double precision, whatever the problem's own."""

    engine: Engine
    problem: Problem
    blocks: Blocks
    loss: LossFunction
    algorithm: Algorithm
    rtol: float

    def __str__(self) -> str:
        return f"{self.algorithm.name}, rtol {self.rtol:.0e}, atol {self.rtol / 100:.0e}"

    def values(self) -> Values:
        """The problem's values."""
        return {name: x.astype(np.float64) for name, x in self.problem.flat_values().items()}

    def run(self, values: Values, sensealg: SensitivityAlgorithm | None = None) -> EngineRun:
        """A solve at other values, and its pullback where there is a method."""
        options = SolveOptions(saveat=self.loss.times, rtol=self.rtol, atol=self.rtol / 100, maxiters=1_000_000)
        request = SolveRequest(self.problem, values, self.problem.tspan, self.algorithm, options, sensealg)
        return EngineRun(self.engine, request, self.blocks)

    def loss_at(self, step: np.ndarray) -> float:
        """The loss with `step` added to what is differentiated."""
        u0, p = self.blocks.moved(**self.values(), step=step)
        return self.loss.value(self.run({"u0": u0, "p": p}).forward())

    def gradient(self, sensealg: SensitivityAlgorithm) -> np.ndarray:
        """The gradient of the loss."""
        run = self.run(self.values(), sensealg)
        _, cotangent = self.loss(run.forward())
        return self.blocks.join(run.backward(cotangent))


def reference_solver(engine: Engine, problem: Problem, blocks: Blocks, loss: LossFunction, stiff: bool) -> TightSolver:
    """The solver of the reference: the one that is compiled ahead of time, with many small steps.

    Solvers of higher order take fewer, but GaussAdjoint over Vern9's long steps is off by 4e-8 on a small network where over
    those of Tsit5 it is by 5e-15.
    """
    return TightSolver(engine, problem, blocks, loss, default_algorithm(problem, stiff), TOLERANCES[0])


def find_reference(tight: TightSolver, given: Any, seed: int) -> tuple[Reference, Target]:
    """Return the reference and its target; raise NoReference if every way failed.

    The user may have `given` it, or the method to compute it by. Looser tolerances are tried where the solver
    fails; the `seed` is for the random directions of the check by differences.
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
    blocks, gradients, failures = tight.blocks, {}, []
    for method in [given] if given is not None else _methods(tight):
        try:
            gradients[method.name] = tight.gradient(method)
        except Exception as error:
            failures.append(error)
    if not gradients:
        raise failures[0]
    (name, gradient), *others = gradients.items()
    norm = float(np.linalg.norm(gradient)) or 1.0
    checks = [(float(np.linalg.norm(gradient - x)) / norm, f"{other} at the same tolerances") for other, x in others]
    if not checks or checks[0][0] > AGREEMENT:
        scale = scales(blocks.join(blocks.split(**tight.values())), blocks)
        for candidate, found in gradients.items():
            off = discrepancy(found, tight.loss_at, scale, np.random.default_rng(seed))
            if not checks or off < min(checks)[0]:
                name, gradient = candidate, found
            checks.append((off, "extrapolated central differences of the loss along random directions"))
    # No agreement makes it better than the solve that it comes from.
    error, check = min(checks)
    estimate = max(error, tight.rtol) if error == error else math.inf
    reference = Reference(f"{name} ({tight})", check, estimate, blocks.sizes, float(np.linalg.norm(gradient)))
    return reference, Target(blocks.cut(gradient), estimate)


def _methods(tight: TightSolver) -> list[SensitivityAlgorithm]:
    """Independent ones, the best first."""
    if tight.engine.name == "embedded":
        return [ReverseDiffAdjoint()]
    forward = tight.blocks.size <= FORWARD_LIMIT and not isinstance(tight.problem.model, CallbackModel)
    return [ForwardDiffSensitivity(), GaussAdjoint()] if forward else [GaussAdjoint()]


def given_reference(blocks: Blocks, given: Any) -> tuple[Reference, Target]:
    """A gradient that the user has, as an array or by block; raises ValueError or TypeError if it is no gradient, or has another size."""
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


def ridders(f: Callable[[float], float], step: float = 0.1, levels: int = 7) -> tuple[float, float]:
    """``f'(0)`` and an estimate of its error.

    Central differences with steps that halve, extrapolated to zero; the entry of the tableau with the least change from its
    neighbours is taken. Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", Advances in Engineering Software 4 (1982),
    75–76.
    """
    best, error = math.nan, math.inf
    row: list[float] = []
    for _ in range(levels):
        above, row = row, [(f(step) - f(-step)) / (2 * step)]
        for order, previous in enumerate(above, 1):
            gain = 4.0**order
            row.append((gain * row[-1] - previous) / (gain - 1))
            change = max(abs(row[-1] - row[-2]), abs(row[-1] - previous))
            if change <= error:
                best, error = row[-1], change
        if above and abs(row[-1] - above[-1]) > 2 * error:
            break  # rounding has taken over
        step /= 2
    return best, error


def scales(parameters: np.ndarray, blocks: Blocks) -> np.ndarray:
    """By how much each entry may move: its size; for a zero the root mean square of its block, or 1 in a block of zeros."""
    found = np.abs(parameters)
    for x in blocks.cut(found).values():
        x[x == 0] = np.sqrt(np.mean(x**2)) or 1.0
    return found


def discrepancy(
    gradient: np.ndarray, loss_at: Callable[[np.ndarray], float], scale: np.ndarray, rng: np.random.Generator, directions: int = 3
) -> float:
    """Relative error of a gradient, as differences of the loss along random directions show it.

    With ``ξ`` of independent normal entries, the mean of ``(e·ξ)²`` is ``‖e‖²``: the root mean square over some directions estimates
    the norm of the error, here in the variables divided by `scale`. `loss_at` takes the step from the present parameters.
    """
    scaled = gradient * scale
    size = float(np.linalg.norm(scaled))
    if size == 0:
        return math.inf
    off = []
    for _ in range(directions):
        xi = rng.standard_normal(gradient.size)
        # Long vectors of normal numbers are long: the step is that of the whole vector.
        xi /= np.linalg.norm(xi)
        slope, _ = ridders(lambda h, xi=xi: loss_at(h * scale * xi))
        off.append(float(scaled @ xi) - slope)
    return float(np.sqrt(gradient.size * np.mean(np.square(off)))) / size


def exponential_growth(tight: TightSolver, seed: int) -> tuple[float | None, list[str]]:
    """Decades by which gradients grow over the time span, with a warning; None where they don't grow exponentially.

    Of a periodic solution the growth is a power of time, whose decades level off: ``t^k`` gains ``0.3 k`` of them in the later half.
    Along a chaotic trajectory the pace varies: a sixth of the decades may be all that the later half has.
    """
    start, end = tight.problem.tspan
    half, whole = (_decades(tight, t, seed) for t in ((start + end) / 2, end))
    late = whole - half
    if not (whole > LEAST_GROWTH and late > max(1.0, whole / 6)):
        return None, []
    # The rate over the later half is the largest Lyapunov exponent over ``ln 10``, roughly.
    warning = (
        f"gradients of this problem grow by 10^{2 * late / abs(end - start):.2g} per unit time (10^{whole:.0f} over the time span), as "
        "those of chaotic systems do: no method's gradient is useful for optimisation over so long a time; fit over shorter intervals, "
        "as multiple shooting does"
    )
    return whole, [warning]


def _decades(tight: TightSolver, t: float, seed: int) -> float:
    """``log10`` of the norm of ``(∂u(t)/∂u0)ᵀ w`` for a random unit vector `w`; NaN where there is none.

    It is divided by the growth of the solution, so that a solution which itself grows does not count as unstable.
    """
    sensealg = ReverseDiffAdjoint() if tight.engine.name == "embedded" else GaussAdjoint()
    values, n = tight.values(), tight.problem.n
    w = np.random.default_rng(seed).standard_normal(n)
    w /= np.linalg.norm(w)
    horizon = replace(tight, blocks=Blocks(n, True, {}), loss=replace(tight.loss, times=np.array([t])), rtol=1e-6)
    try:
        run = horizon.run(values, sensealg)
        states = run.forward()
        norm = np.linalg.norm(run.backward(states.new_tensor(w[None]))[STATE])
    except Exception:
        return math.nan
    grown = float(states.norm()) / (np.linalg.norm(values["u0"]) or math.inf)
    return math.log10(max(norm, 1e-300) / max(grown, 1.0))
