"""``solve_ivp`` beside SciPy's own: Lotka-Volterra (RK45 and LSODA, 1e-6) and van der Pol, mu = 1000 (Radau, BDF and LSODA, 1e-6).

The same functions go to both. Repeated calls have new values of the arguments each time, as in a fit; first calls are of functions
that were never seen, in a process that has solved before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import Prepare, Result, compare

RTOL, ATOL = 1e-6, 1e-9


def lotka_volterra(t, z, a, b, c, d):
    x, y = z
    return [a * x - b * x * y, -c * y + d * x * y]


def van_der_pol(t, y, mu):
    return [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]


PROBLEMS: dict[str, tuple[Callable[..., Any], tuple[float, float], list[float], tuple[float, ...], tuple[str, ...]]] = {
    "Lotka-Volterra": (lotka_volterra, (0.0, 15.0), [10.0, 5.0], (1.5, 1.0, 3.0, 1.0), ("RK45", "LSODA")),
    "van der Pol": (van_der_pol, (0.0, 3000.0), [2.0, 0.0], (1000.0,), ("Radau", "BDF", "LSODA")),
}


def _solver(ours: bool) -> Callable[..., Any]:
    if not ours:
        from scipy.integrate import solve_ivp

        return solve_ivp
    import pysciode as ps

    ps.set_engine("julia")
    return ps.solve_ivp


def _repeated(name: str, method: str, ours: bool) -> Prepare:
    def prepare():
        fun, span, y0, args, _ = PROBLEMS[name]
        solve_ivp, times = _solver(ours), np.linspace(*span, 101)
        factors = itertools.cycle(np.linspace(0.99, 1.01, 7))

        def solve():
            changed = tuple(x * next(factors) for x in args)
            return solve_ivp(fun, span, y0, method, t_eval=times, args=changed, rtol=RTOL, atol=ATOL)

        return solve

    return prepare


def _first(name: str, method: str, ours: bool) -> Prepare:
    def prepare():
        fun, span, y0, args, _ = PROBLEMS[name]
        solve_ivp, numbers = _solver(ours), itertools.count()

        def solve():
            # Another constant in the code is another formula, of which nothing is known.
            scope: dict[str, Any] = {"fun": fun}
            exec(f"def new(t, y, *args): return [x + {1e-9 * next(numbers)!r} * y[0] for x in fun(t, y, *args)]", scope)
            return solve_ivp(scope["new"], span, y0, method, args=args, rtol=RTOL, atol=ATOL)

        return solve

    return prepare


def results() -> list[Result]:
    """For each problem and method: repeated calls, and with the first method first calls."""
    found = []
    for name, (*_, methods) in PROBLEMS.items():
        for method in methods:
            found.append(
                compare(
                    f"solve_ivp, {name}, {method}",
                    {
                        "pysciode": _repeated(name, method, True),
                        "SciPy": _repeated(name, method, False),
                        "SciPy's LSODA": _repeated(name, "LSODA", False),
                    },
                )
            )
        found.append(
            compare(
                f"the same, a new function, {methods[0]}",
                {"pysciode": _first(name, methods[0], True), "SciPy": _first(name, methods[0], False)},
            )
        )
    return found
