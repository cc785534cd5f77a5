"""What crossing the border costs: a solve of one or two steps, by hand in Julia, at the engine's border, and through ``solve``."""

from __future__ import annotations

import numpy as np
from by_hand import included
from measure import Result, TimesItself, compare


def decay(u, p, t):
    return [-p[0] * u[0]]


def _problem():
    import pysciode as ps

    return ps.ODEProblem(decay, np.array([1.0]), (0.0, 1e-3), np.array([1.0]))


def _through_solve():
    import pysciode as ps

    problem, algorithm, times = _problem(), ps.Tsit5(), np.array([1e-3])
    return lambda: ps.solve(problem, algorithm, saveat=times, engine="julia")


def _at_the_border():
    import pysciode as ps
    from pysciode.engines.base import SolveOptions, SolveRequest

    problem, times = _problem(), np.array([1e-3])
    ps.solve(problem, ps.Tsit5(), saveat=times, engine="julia")
    request = SolveRequest(
        problem=problem,
        values={"u0": np.array([1.0]), "p": np.array([1.0])},
        tspan=(0.0, 1e-3),
        algorithm=ps.Tsit5(),
        options=SolveOptions(saveat=times),
    )
    engine = ps.get_engine("julia")
    return lambda: engine.solve(request)


def _by_hand() -> TimesItself:
    inside, timing = included("inside.jl").Inside, included("by_hand.jl").ByHand
    return TimesItself(lambda: float(timing.median_milliseconds(inside.tiny_solve)))


def results() -> list[Result]:
    """The tiny solve."""
    contestants = {"pysciode": _through_solve, "pysciode, engine only": _at_the_border, "Julia by hand": _by_hand}
    return [compare("solve of one state, one step", contestants)]
