"""How fast the derivative of the solution grows with time: on a chaotic system exponentially, and then no method helps."""

from __future__ import annotations

import math

import numpy as np

from ...engines.base import SolveOptions
from ...methods.adjoints import GaussAdjoint, ReverseDiffAdjoint
from ...solving.options import DEFAULT_TOLERANCES
from .blocks import STATE, Blocks
from .engine_contestant import EngineRun
from .reference import TightSolver

LEAST = 4.0
"""Decades of growth over the whole span below which nothing is said."""


def exponential_growth(tight: TightSolver, seed: int) -> tuple[float, str] | None:
    """Decades by which gradients grow over the time span, and a warning; None where they don't grow exponentially.

    Of a periodic solution the growth is a power of time, whose decades level off: ``t^k`` gains ``0.3 k`` of them in the later half.
    Along a chaotic trajectory the pace varies: a sixth of the decades may be all that the later half has.
    """
    start, end = tight.problem.tspan
    half, whole = (_decades(tight, t, seed) for t in ((start + end) / 2, end))
    late = whole - half
    if not (whole > LEAST and late > max(1.0, whole / 6)):
        return None
    # The rate over the later half is the largest Lyapunov exponent over ``ln 10``, roughly.
    return whole, (
        f"gradients of this problem grow by 10^{2 * late / abs(end - start):.2g} per unit time (10^{whole:.0f} over the time span), as "
        "those of chaotic systems do: no method's gradient is useful for optimisation over so long a time; fit over shorter intervals, "
        "as multiple shooting does"
    )


def _decades(tight: TightSolver, t: float, seed: int) -> float:
    """``log10`` of the norm of ``(∂u(t)/∂u0)ᵀ w`` for a random unit vector `w`; NaN where it can't be had.

    It is divided by the growth of the solution, so that a solution which itself grows does not count as unstable.
    """
    u0, p = tight.values()
    w = np.random.default_rng(seed).standard_normal(len(u0))
    w /= np.linalg.norm(w)
    rtol, atol = DEFAULT_TOLERANCES[u0.dtype]
    options = SolveOptions(saveat=np.array([t]), rtol=rtol, atol=atol)
    sensealg = ReverseDiffAdjoint() if tight.engine.name == "embedded" else GaussAdjoint()
    blocks = Blocks(len(u0), True, {})
    try:
        run = EngineRun(tight.engine, tight.problem, tight.algorithm, options, sensealg, blocks=blocks, values=(u0, p))
        states = run.forward()
        norm = np.linalg.norm(run.backward(states.new_tensor(w[None]))[STATE])
    except Exception:
        return math.nan
    grown = float(states.norm()) / (np.linalg.norm(u0) or math.inf)
    return math.log10(max(norm, 1e-300) / max(grown, 1.0))
