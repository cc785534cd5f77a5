"""How far gradients are off, for each solver, adjoint and tolerance: ``python benchmarks/gradient_accuracy.py [--quick]``.

The loss is a weighted sum of the states at eight times; its gradient goes to the logarithms of all parameters and to the initial
state. The reference is forward mode through RadauIIA5 at ``rtol=1e-12``, which central differences of solves by Rodas5P at the same
tolerance confirm. An error is relative to the largest entry of the gradient's part (parameters, initial state). "states" is the error
of the states themselves, of each component relative to its largest value, as the loss weighs them. The kinds of cells: right (within 1000 rtol, or 30 times the error of the states), told (`GradientFailed`,
`SolveFailed` or an `AccuracyWarning`), and WRONG.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import torch

import pysciode as ps

F64 = torch.float64


@dataclass(frozen=True)
class Problem:
    f: object
    u0: list[float]
    p: list[float]
    end: float
    stiff: bool = True
    scale: float | None = None  # what absolute tolerances are relative to, a thousandth of the largest initial value by default


def robertson(u, p, t):
    a, b, c = p[0] * u[0], p[1] * u[1] * u[1], p[2] * u[1] * u[2]
    return [c - a, a - b - c, b]


def hires(u, p, t):
    k1, k2, k3, k4, k5, k6, k7 = (p[i] for i in range(7))
    r = k6 * u[5] * u[7]
    return [
        -k1 * u[0] + 0.43 * u[1] + k2 * u[2] + 0.0007,
        k1 * u[0] - k3 * u[1],
        -10.03 * u[2] + 0.43 * u[3] + k4 * u[4],
        k2 * u[1] + k1 * u[2] - k5 * u[3],
        -1.745 * u[4] + 0.43 * u[5] + 0.43 * u[6],
        -r + 0.69 * u[3] + k1 * u[4] - 0.43 * u[5] + 0.69 * u[6],
        r - k7 * u[6],
        -r + k7 * u[6],
    ]


def orego(u, p, t):
    return [p[0] * (u[1] + u[0] * (1 - p[2] * u[0] - u[1])), (u[2] - (1 + u[0]) * u[1]) / p[0], p[1] * (u[0] - u[2])]


def pollu(u, p, t):
    """Air pollution: 20 species, 25 reactions (Verwer 1994; Mazzia and Magherini, Test set for IVP solvers, problem POLLU)."""
    du = [0.0] * 20
    for k, (reagents, products) in enumerate(REACTIONS):
        rate = p[k]
        for i in reagents:
            rate = rate * u[i - 1]
        for i in reagents:
            du[i - 1] = du[i - 1] - rate
        for i in products:
            du[i - 1] = du[i - 1] + rate
    return du


# Reagents and products; a catalyst that is not used up stands on both sides.
REACTIONS = [
    ([1], [2, 3]), ([2, 4], [1]), ([5, 2], [6, 1]), ([7], [5, 5, 8]), ([7], [8]), ([7, 6], [5, 8]), ([9], [5, 8, 10]), ([9, 6], [11]),
    ([11, 2], [1, 10, 12]), ([11, 1], [13]), ([13], [11, 1]), ([10, 2], [14, 1]), ([14], [5, 7]), ([1, 6], [15]), ([3], [4]), ([4], [16]),
    ([4], [3]), ([16], [6, 6]), ([16], [3]), ([17, 6], [5, 18]), ([19], [2]), ([19], [1, 3]), ([1, 4], [19]), ([19, 1], [20]),
    ([20], [19, 1]),
]  # fmt: skip
RATES = [
    0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9e3, 0.022, 1.2e4, 1.88, 1.63e4, 4.8e6, 3.5e-4, 0.0175, 1e8, 4.44e11,
    1.24e3, 2.1, 5.78, 0.0474, 1.78e3, 3.12,
]  # fmt: skip
POLLUTANTS = {2: 0.2, 4: 0.04, 7: 0.1, 8: 0.3, 9: 0.01, 17: 0.007}


def van_der_pol(u, p, t):
    return [u[1], p[0] * (1 - u[0] * u[0]) * u[1] - u[0]]


def e5(u, p, t):
    a, b, c, d = p[0] * u[0], p[1] * u[0] * u[2], p[2] * u[1] * u[2], p[3] * u[3]
    return [-a - b, a - c, a - b + d - c, b - d]


def brusselator(u, p, t):
    """One-dimensional, eight places."""
    du = []
    for i in range(8):
        x, y = u[2 * i], u[2 * i + 1]
        left, right = max(i - 1, 0), min(i + 1, 7)
        r = x * x * y
        du.append(p[0] + r - (p[1] + 1) * x + p[2] * (u[2 * left] - 2 * x + u[2 * right]))
        du.append(p[1] * x - r + p[2] * (u[2 * left + 1] - 2 * y + u[2 * right + 1]))
    return du


def transient(u, p, t):
    return [-p[0] * (u[0] - u[1]), -p[1] * u[1] + p[2]]


PROBLEMS = {
    "Robertson": Problem(robertson, [1.0, 0.0, 0.0], [0.04, 3e7, 1e4], 100.0),
    "HIRES": Problem(hires, [1.0, 0, 0, 0, 0, 0, 0, 0.0057], [1.71, 8.32, 8.75, 0.035, 1.12, 280.0, 1.81], 321.8122),
    "OREGO": Problem(orego, [1.0, 2.0, 3.0], [77.27, 0.161, 8.375e-6], 30.0),
    "POLLU": Problem(pollu, [POLLUTANTS.get(i, 0.0) for i in range(1, 21)], RATES, 60.0),
    "van der Pol 1e3": Problem(van_der_pol, [2.0, 0.0], [1e3], 500.0),
    "E5": Problem(e5, [1.76e-3, 0.0, 0.0, 0.0], [7.89e-10, 1.1e7, 1.13e9, 1.13e3], 1e3, scale=1e-12),
    "Brusselator": Problem(brusselator, [1.0 + 0.1 * ((3 * i) % 7) for i in range(16)], [1.0, 3.0, 2.0], 5.0, stiff=False),
    "fast transient": Problem(transient, [2.0, 1.0], [1000.0, 0.7, 0.3], 3.0, stiff=False),
}
STIFF = ["Rodas5P", "Rosenbrock23", "TRBDF2", "KenCarp4", "RadauIIA5", "FBDF", "QNDF"]
EXPLICIT = ["Tsit5", "Vern9"]
MOST_TOGETHER = 600
"""ForwardSensitivity solves states and derivatives as one system; of more equations than this it takes minutes with dense matrices (POLLU)."""
ADJOINTS = [
    ps.ForwardDiffSensitivity(),
    ps.ForwardSensitivity(),
    ps.DiscreteAdjoint(),
    ps.GaussAdjoint(),
    ps.InterpolatingAdjoint(),
    ps.QuadratureAdjoint(),
]


def gradient(problem: Problem, algorithm, sensealg, rtol: float, scale: float):
    """``(states, gradient to the logarithms of p, gradient to u0)``."""
    u0 = torch.tensor(problem.u0, dtype=F64, requires_grad=True)
    log_p = torch.log(torch.tensor(problem.p, dtype=F64)).requires_grad_()
    times = np.linspace(problem.end / 8, problem.end, 8)
    posed = ps.ODEProblem(problem.f, u0, (0.0, problem.end), torch.exp(log_p))
    u = ps.solve(posed, algorithm, saveat=times, rtol=rtol, atol=rtol * scale, sensealg=sensealg, maxiters=100_000).u
    weights = torch.cos(torch.arange(u.numel(), dtype=F64)).reshape(u.shape)
    weights = weights / u.detach().abs().amax(0).clamp_min(1e-30)
    grads = torch.autograd.grad((weights * u).sum(), (log_p, u0))
    return u.detach(), *grads


def reference(problem: Problem):
    scale = problem.scale or 1e-3 * max(map(abs, problem.u0))
    return scale, gradient(problem, ps.RadauIIA5(), ps.ForwardDiffSensitivity(), 1e-12, scale * 1e-3)


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).abs().max() / exact.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two tolerances, four solvers")
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS))
    asked = parser.parse_args()
    tolerances = [1e-4, 1e-8] if asked.quick else [1e-4, 1e-6, 1e-8]
    solvers = ["Rodas5P", "TRBDF2", "KenCarp4", "Tsit5"] if asked.quick else [*STIFF, *EXPLICIT]
    tally = {"right": 0, "told": 0, "WRONG": 0}
    cells: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    worst: dict[tuple[str, str], float] = defaultdict(float)
    warned: set[tuple[str, str, float]] = set()
    print(f"{'problem':16} {'solver':13} {'adjoint':23} {'rtol':>7} {'states':>8} {'to p':>8} {'to u0':>8}  verdict")
    for name in asked.problems:
        problem = PROBLEMS[name]
        scale, exact = reference(problem)
        for solver in solvers:
            if problem.stiff and solver in EXPLICIT:
                continue
            for sensealg in ADJOINTS:
                size = len(problem.u0) * (1 + len(problem.u0) + len(problem.p))
                if sensealg.name == "ForwardSensitivity" and size > MOST_TOGETHER or not sensealg.fits(ps.Algorithm(solver)):
                    continue
                for rtol in tolerances:
                    start, row = time.perf_counter(), f"{name:16} {solver:13} {sensealg.name:23} {rtol:7.0e}"
                    with warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always")
                        try:
                            found = gradient(problem, ps.Algorithm(solver), sensealg, rtol, scale)
                        except (ps.GradientFailed, ps.SolveFailed) as failure:
                            tally["told"] += 1
                            cells[solver, sensealg.name]["refused"] += 1
                            print(f"{row} {type(failure).__name__:>26}  told", flush=True)
                            continue
                    # The loss weighs each component by its largest value.
                    largest = exact[0].abs().amax(0)
                    errors = [float(((found[0] - exact[0]).abs().amax(0) / largest)[largest > 0].max())]
                    errors += [error(a, b) for a, b in zip(found[1:], exact[1:], strict=True)]
                    right = max(errors[1:]) <= max(1000 * rtol, 30 * errors[0])
                    if any(issubclass(w.category, ps.AccuracyWarning) for w in caught):
                        warned.add((name, solver, rtol))
                    told = (name, solver, rtol) in warned  # which is said once a model
                    verdict = "right" if right else "told" if told else "WRONG"
                    tally[verdict] += 1
                    cells[solver, sensealg.name][verdict] += 1
                    worst[solver, sensealg.name] = max(worst[solver, sensealg.name], max(errors[1:]) / rtol)
                    print(row, *(f"{x:8.1e}" for x in errors), f" {verdict}  {time.perf_counter() - start:.1f} s", flush=True)
    print(tally)
    print("\n| algorithm | " + " | ".join(x.name for x in ADJOINTS) + " |")
    print("| --- |" + " --- |" * len(ADJOINTS))
    for solver in solvers:
        row = []
        for sensealg in ADJOINTS:
            found = cells[solver, sensealg.name]
            counts = ", ".join(f"{n} {kind}" for kind, n in found.items() if kind != "right")
            if not found:
                row.append("–")
                continue
            row.append(f"{found['right']} of {found.total()}; {worst[solver, sensealg.name]:.0f}" + (f"; {counts}" if counts else ""))
        print(f"| `{solver}` | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
