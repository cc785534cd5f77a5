"""How fast the derivative of the solution grows with time: on a chaotic system exponentially, and then no method helps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ...engines.base import Engine, SolveOptions, SolveRequest
from ...methods.adjoints import GaussAdjoint, ReverseDiffAdjoint
from ...methods.algorithms import Algorithm
from ...problems.base import Problem
from ...solving.solution import SUCCESS

HORIZONS = (0.25, 0.5, 0.75, 1.0)
"""Parts of the time span after which the growth is measured."""

LEAST = 4.0
"""Decades of growth over the whole span below which nothing is said."""


@dataclass(frozen=True)
class Growth:
    """Growth of ``‖∂u(t)/∂u0‖`` beyond that of the solution itself.

    Attributes
    ----------
    times
        After the start, shape ``(k,)``.
    decades
        ``log10`` of the growth at these times.
    """

    times: np.ndarray
    decades: np.ndarray

    @property
    def rate(self) -> float:
        """Decades per unit of time, over the later half: the largest Lyapunov exponent over ``ln 10``, roughly."""
        middle = len(self.times) // 2 - 1
        return float((self.decades[-1] - self.decades[middle]) / abs(self.times[-1] - self.times[middle]))

    @property
    def is_exponential(self) -> bool:
        """Whether the growth goes on at some pace. Of a periodic solution it is a power of time, whose decades level off.

        A power ``t^k`` gains ``0.3 k`` decades in the later half. Along a chaotic trajectory the pace varies: a sixth of the
        decades may be all that the later half has.
        """
        early = self.decades[len(self.decades) // 2 - 1]
        late = self.decades[-1] - early
        return bool(self.decades[-1] > LEAST and late > max(1.0, self.decades[-1] / 6))

    def __str__(self) -> str:
        return (
            f"gradients of this problem grow by 10^{self.rate:.2g} per unit time (10^{self.decades[-1]:.0f} over the time span), as "
            "those of chaotic systems do: no method's gradient is useful for optimisation over so long a time; fit over shorter "
            "intervals, as multiple shooting does"
        )


def measure_growth(engine: Engine, problem: Problem, algorithm: Algorithm, rtol: float, atol: float, seed: int) -> Growth | None:
    """Norms of ``(∂u(t)/∂u0)ᵀ w`` for a random unit vector `w`, one adjoint solve for each horizon; None if one fails.

    They are divided by the growth of the solution, so that a solution which itself grows does not count as unstable.
    """
    rng = np.random.default_rng(seed)
    start, end = problem.tspan
    times = start + (end - start) * np.array(HORIZONS)
    w = rng.standard_normal(problem.n)
    w /= np.linalg.norm(w)
    u0 = problem.flat_u0().astype(np.float64)
    options = SolveOptions(rtol=rtol, atol=atol)
    sensealg = ReverseDiffAdjoint() if engine.name == "embedded" else GaussAdjoint()
    request = SolveRequest(
        problem, {"u0": u0, "p": problem.flat_p().astype(np.float64)}, problem.tspan, algorithm, options, sensealg, frozenset({"u0"})
    )
    decades = []
    for t in times:
        try:
            raw, pullback = engine.solve_with_pullback(replace(request, options=replace(options, saveat=np.array([t]))))
            if raw.retcode not in SUCCESS:
                return None
            norm = float(np.linalg.norm(pullback(w[None])["u0"]))
        except Exception:
            return None
        size = float(np.linalg.norm(u0))
        grown = float(np.linalg.norm(raw.u[-1])) / size if size > 0 else 1.0
        decades.append(math.log10(max(norm, 1e-300) / max(grown, 1.0)))
    return Growth(np.abs(times - start), np.array(decades))
