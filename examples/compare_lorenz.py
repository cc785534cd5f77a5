"""A chaotic system: the gradient grows with the length of the fit as ``exp(0.9056 T)``, whatever the method.

0.9056 is Lorenz's largest Lyapunov exponent: Sprott, "Chaos and Time-Series Analysis" (Oxford 2003). The report of a
comparison warns; the picture shows the growth. Run: python examples/compare_lorenz.py [--quick] [--output PNG]
"""

from __future__ import annotations

import numpy as np
import torch
from comparison_script import new_figure, options, save, show

import pysciode as ps
from pysciode.engines import julia_is_installed

LYAPUNOV = 0.9056
PARAMETERS = np.array([10.0, 28.0, 8 / 3])
SPREAD = 24
"""Trajectories whose growth is averaged: over T = 50 the rate of one is known to about 0.03 only."""


def lorenz(u, p, t):
    x, y, z = u
    return [p[0] * (y - x), x * (p[1] - z) - y, x * y - p[2] * z]


def problem(start: np.ndarray, end: float) -> ps.ODEProblem:
    """From `start` until `end`."""
    return ps.ODEProblem(lorenz, start, (0.0, end), PARAMETERS, name="Lorenz")


def on_the_attractor(n: int) -> np.ndarray:
    """`n` states that one long trajectory passes through, shape ``(n, 3)``."""
    times = 20.0 * np.arange(1, n + 1)
    return ps.solve(problem(np.ones(3), times[-1]), ps.Tsit5(), saveat=times, rtol=1e-6).u


def last_height(solution) -> torch.Tensor:
    """``z`` at the end."""
    return solution.u[-1, 2]


def gradient_norms(start: np.ndarray, horizons: np.ndarray) -> np.ndarray:
    """``‖∂z(T)/∂u0‖`` for each horizon `T`, shape ``(k,)``."""
    # Forward: all horizons from one solve.
    sensealg = ps.ForwardSensitivity() if julia_is_installed() else ps.ReverseDiffAdjoint()
    u0 = torch.tensor(start, requires_grad=True)
    solution = ps.solve(
        ps.ODEProblem(lorenz, u0, (0.0, float(horizons[-1])), PARAMETERS),
        ps.Tsit5(),
        saveat=horizons,
        rtol=1e-8,
        atol=1e-8,
        sensealg=sensealg,
    )
    heights = solution.u[:, 2]
    return np.array([float(torch.autograd.grad(z, u0, retain_graph=True)[0].norm()) for z in heights])


def growth_rate(horizons: np.ndarray, norms: np.ndarray) -> float:
    """Slope of the straight line through ``log(norms)``, with the mean of the logarithms where there are several rows."""
    return float(np.polyfit(horizons, np.log(norms).reshape(-1, len(horizons)).mean(axis=0), 1)[0])


def main() -> None:
    """Compare, print, draw."""
    chosen = options(__doc__, "compare_lorenz.png")
    methods = [ps.ForwardDiffSensitivity(), ps.GaussAdjoint(), ps.BacksolveAdjoint()]
    if not chosen.quick:
        methods += [ps.ForwardSensitivity(), ps.InterpolatingAdjoint(), ps.QuadratureAdjoint()]
    end = 50.0 if julia_is_installed() else 15.0
    starts = on_the_attractor(4 if chosen.quick or not julia_is_installed() else SPREAD)
    report = ps.compare_adjoints(
        problem(starts[0], 20.0),
        last_height,
        saveat=[20.0],
        sensealgs=methods,
        tolerances=[1e-8],
        repeats=3,
        time_limit=15.0,
        peers=not chosen.quick,
    )
    show(report)

    horizons = np.linspace(0.0, end, 101)[1:]
    norms = np.array([gradient_norms(start, horizons) for start in starts])
    rate = growth_rate(horizons, norms)
    print(f"the gradient grows as exp({rate:.3f} T) up to T = {end:g}; the largest Lyapunov exponent is {LYAPUNOV}")

    figure, (axes,) = new_figure(1, 6.4)
    axes.semilogy(horizons, norms.T, color="0.8", linewidth=0.6)
    label = f"geometric mean of {len(starts)} trajectories: exp({rate:.3f} T)"
    axes.semilogy(horizons, np.exp(np.log(norms).mean(axis=0)), color="#0072B2", label=label)
    scale = np.exp(np.mean(np.log(norms) - LYAPUNOV * horizons))
    axes.semilogy(horizons, scale * np.exp(LYAPUNOV * horizons), "--", color="#D55E00", label=f"exp({LYAPUNOV} T)")
    axes.set_xlabel("horizon T")
    axes.set_ylabel("norm of ∂z(T)/∂u(0)")
    axes.set_title("Lorenz: the gradient explodes with the horizon", loc="left", fontsize=10)
    axes.legend(frameon=False)
    save(figure, chosen.output)


if __name__ == "__main__":
    main()
