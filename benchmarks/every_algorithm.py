"""Whether each algorithm keeps its tolerance: ``python benchmarks/every_algorithm.py [names]``.

An oscillator over a period and a half, whose solution is known, for every algorithm with step size control. "steps" is the error at the end,
where a step ends; "saved" that at saved times between; "dense" that of ``sol(t)`` there. Errors are of the state, whose size is 3; a star
marks those above 1000 rtol, a W that a warning was given. From this come the algorithms of coarse or wrong dense output in
`pysciode/methods/algorithm_table.py`.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np

import pysciode as ps

FAMILIES = "explicit auto stabilized rosenbrock sdirk firk bdf implicit_extrapolation imex_sdirk exponential".split()
TIMES = np.array([0.377, 1.234, 2.718, 3.0])
EXACT = np.stack([np.cos(3 * TIMES), -3 * np.sin(3 * TIMES)], 1)


def errors(algorithm: ps.Algorithm, rtol: float) -> tuple[float, float, float]:
    """Those of the end, of saved states and of the dense output."""
    problem = ps.ODEProblem(lambda u, p, t: [u[1], -9 * u[0]], np.array([1.0, 0.0]), (0.0, 3.0))
    options = {"rtol": rtol, "atol": rtol, "maxiters": 100_000}
    saved = np.abs(ps.solve(problem, algorithm, saveat=TIMES, **options).u - EXACT).max(1)
    dense = np.abs(ps.solve(problem, algorithm, dense=True, **options)(TIMES[:-1]) - EXACT[:-1]).max()
    return saved[-1], saved[:-1].max(), dense


def main() -> None:
    names = sys.argv[1:] or [name for family in FAMILIES for name in ps.list_algorithms(family)]
    print(f"{'algorithm':36} {'family':22} {'rtol':>7} {'steps':>9} {'saved':>9} {'dense':>9}")
    for name in names:
        inner = (ps.Rodas5P(),) if name in ps.list_algorithms("auto") else ()
        algorithm = ps.Algorithm(name, *inner)
        if algorithm.fixed_step:
            continue
        for rtol in (1e-4, 1e-6, 1e-8):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    found = "".join(f" {x:8.1e}{'*' if x > 1000 * rtol else ' '}" for x in errors(algorithm, rtol))
                except (ps.JuliaError, ps.SolveFailed, ValueError) as failure:
                    found = f" {type(failure).__name__}: {str(failure).splitlines()[0][:60]}"
            told = any(issubclass(w.category, ps.AccuracyWarning) for w in caught)
            print(f"{name:36} {algorithm.family:22} {rtol:7.0e}{found}{' W' if told else ''}", flush=True)


if __name__ == "__main__":
    main()
