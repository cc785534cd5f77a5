"""How fast the derivative of the solution grows with time: on a chaotic system exponentially, and then no method helps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...engines.base import SolveOptions
from ...methods.adjoints import GaussAdjoint, ReverseDiffAdjoint
from ...solving.options import DEFAULT_TOLERANCES
from .blocks import STATE, Blocks
from .engine_contestant import EngineRun
from .reference import TightSolver

HORIZONS = np.array([0.25, 0.5, 0.75, 1.0])
"""Parts of the time span after which the growth is measured."""

LEAST = 4.0
"""Decades of growth over the whole span below which nothing is said."""


@dataclass(frozen=True)
class Growth:
    """Growth of ``‖∂u(t)/∂u0‖`` beyond that of the solution itself, over the length of the time span.

    Attributes
    ----------
    decades
        ``log10`` of the growth at each of `HORIZONS`.
    """

    length: float
    decades: np.ndarray

    @property
    def late(self) -> float:
        """Decades in the later half."""
        return float(self.decades[-1] - self.decades[1])

    @property
    def is_exponential(self) -> bool:
        """Whether the growth goes on at some pace. Of a periodic solution it is a power of time, whose decades level off.

        A power ``t^k`` gains ``0.3 k`` decades in the later half. Along a chaotic trajectory the pace varies: a sixth of the
        decades may be all that the later half has.
        """
        return bool(self.decades[-1] > LEAST and self.late > max(1.0, self.decades[-1] / 6))

    def __str__(self) -> str:
        # The rate over the later half is the largest Lyapunov exponent over ``ln 10``, roughly.
        return (
            f"gradients of this problem grow by 10^{self.late / (self.length / 2):.2g} per unit time (10^{self.decades[-1]:.0f} over the "
            "time span), as those of chaotic systems do: no method's gradient is useful for optimisation over so long a time; fit over "
            "shorter intervals, as multiple shooting does"
        )


def measure_growth(tight: TightSolver, seed: int) -> Growth | None:
    """Norms of ``(∂u(t)/∂u0)ᵀ w`` for a random unit vector `w`, one adjoint solve for each horizon; None if one fails.

    They are divided by the growth of the solution, so that a solution which itself grows does not count as unstable.
    """
    problem, (u0, p) = tight.problem, tight.values()
    start, end = problem.tspan
    rtol, atol = DEFAULT_TOLERANCES[np.dtype(np.float64)]
    w = np.random.default_rng(seed).standard_normal(problem.n)
    w /= np.linalg.norm(w)
    sensealg = ReverseDiffAdjoint() if tight.engine.name == "embedded" else GaussAdjoint()
    decades = []
    for t in start + (end - start) * HORIZONS:
        options = SolveOptions(saveat=np.array([t]), rtol=rtol, atol=atol)
        run = EngineRun(tight.engine, problem, tight.algorithm, options, sensealg, blocks=Blocks(problem.n, True, {}), values=(u0, p))
        try:
            states = run.forward()
            norm = np.linalg.norm(run.backward(states.new_tensor(w[None]))[STATE])
        except Exception:
            return None
        grown = np.linalg.norm(states) / (np.linalg.norm(u0) or math.inf)
        decades.append(math.log10(max(norm, 1e-300) / max(grown, 1.0)))
    return Growth(abs(end - start), np.array(decades))
