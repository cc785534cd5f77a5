"""A fit of Lotka-Volterra, all iterations of it: the search in Julia, and SciPy's L-BFGS-B around gradients of pysciode.

Four rates, two initial values and two noise parameters of 21 noisy observations; ``python benchmarks/run.py fitting_loop``. Run by
itself it prints what each search needed to get there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from measure import Result, compare

TIMES = np.linspace(0.0, 10.0, 21)
RATES, INITIAL, NOISE = [1.5, 1.0, 3.0, 1.0], [1.0, 1.0], [0.1, 0.1]
START = np.log([1.3, 0.9, 2.8, 1.1, 1.2, 0.8, 0.3, 0.3])
TOLERANCES = {"rtol": 1e-8, "atol": 1e-8}


def lotka_volterra(u, p, t):
    return [p[0] * u[0] - p[1] * u[0] * u[1], -p[2] * u[1] + p[3] * u[0] * u[1]]


def _observed() -> np.ndarray:
    import pysciode as ps

    problem = ps.ODEProblem(lotka_volterra, INITIAL, (0.0, 10.0), RATES)
    states = ps.solve(problem, ps.Tsit5(), saveat=TIMES, engine="julia", rtol=1e-10, atol=1e-10).u
    return states * np.exp(NOISE * np.random.default_rng(0).standard_normal(states.shape))


def in_julia() -> Callable[[], tuple[np.ndarray, int]]:
    import pysciode as ps
    from pysciode.engines.base import SolveOptions, SolveRequest
    from pysciode.fitting.optimization_jl import FittedExperiment, minimize

    problem = ps.ODEProblem(lotka_volterra, INITIAL, (0.0, 10.0), RATES)
    options = SolveOptions(saveat=TIMES, **TOLERANCES)
    request = SolveRequest(problem, problem.flat_values(), problem.tspan, ps.Tsit5(), options)
    data = FittedExperiment(request, _observed(), [0, 1], [5, 6], [1, 2, 3, 4], [7, 8], [0.0, 0.0])

    def run() -> tuple[np.ndarray, int]:
        found = minimize([data], [(0.0, None)] * 8, "lognormal", START)
        return found.z, found.evaluations

    return run


def with_torch() -> Callable[[], tuple[np.ndarray, int]]:
    """As a user of torch would write it."""
    import torch

    import pysciode as ps

    observed = torch.tensor(_observed())

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        z = torch.tensor(z, requires_grad=True)
        x = torch.exp(z)
        problem = ps.ODEProblem(lotka_volterra, x[4:6], (0.0, 10.0), x[:4])
        u = ps.solve(problem, ps.Tsit5(), saveat=TIMES, engine="julia", **TOLERANCES).u
        total = -torch.distributions.LogNormal(torch.log(u), x[6:]).log_prob(observed).sum()
        return total.item(), torch.autograd.grad(total, z)[0].numpy()

    return _with_scipy(objective)


def with_numpy() -> Callable[[], tuple[np.ndarray, int]]:
    """The engine's gradient, and the likelihood's derivatives by hand: the least that Python can do in an iteration."""
    import pysciode as ps
    from pysciode.engines.base import SolveOptions, SolveRequest

    observed = _observed()
    logs = np.log(observed)
    problem = ps.ODEProblem(lotka_volterra, INITIAL, (0.0, 10.0), RATES)
    options, algorithm, sensealg = SolveOptions(saveat=TIMES, **TOLERANCES), ps.Tsit5(), ps.ForwardDiffSensitivity()
    engine, wants = ps.get_engine("julia"), frozenset(("u0", "p"))

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        x = np.exp(z)
        request = SolveRequest(problem, {"u0": x[4:6], "p": x[:4]}, problem.tspan, algorithm, options, sensealg, wants)
        solution, pull_back = engine.solve_with_pullback(request)
        residuals = (logs - np.log(solution.u)) / x[6:]
        value = (residuals**2 / 2 + z[6:] + logs + np.log(2 * np.pi) / 2).sum()
        by_u0, by_p = pull_back(-residuals / (x[6:] * solution.u))
        return value, np.concatenate([by_p * x[:4], by_u0 * x[4:6], (1 - residuals**2).sum(axis=0)])

    return _with_scipy(objective)


def _with_scipy(objective: Callable[[np.ndarray], tuple[float, np.ndarray]]) -> Callable[[], tuple[np.ndarray, int]]:
    from scipy.optimize import minimize

    def run() -> tuple[np.ndarray, int]:
        found = minimize(objective, START, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
        return found.x, found.nfev

    return run


CONTESTANTS = {"pysciode": in_julia, "SciPy, NumPy by hand": with_numpy, "SciPy, torch": with_torch}


def results() -> list[Result]:
    """The whole fit, from one start."""
    return [compare("fit of Lotka-Volterra, 8 unknowns", CONTESTANTS)]


if __name__ == "__main__":
    from measure import report

    for name, prepare in CONTESTANTS.items():
        estimate, evaluations = prepare()()
        print(f"{name}: {evaluations} gradients, estimate {np.array2string(np.exp(estimate), precision=5)}")
    report(results(), as_json=False)
