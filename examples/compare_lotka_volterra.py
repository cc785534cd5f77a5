"""Which method for the four rates of Lotka–Volterra? All that there are, at three tolerances, on a fit to data.

The table holds SciML's methods, torchdiffeq's and, where it is installed, diffrax's. Run:
python examples/compare_lotka_volterra.py [--quick] [--output PNG]
"""

from __future__ import annotations

import numpy as np
import torch
from comparison_script import options, show

import pysciode as ps

TIMES = np.linspace(0.0, 10.0, 21)
RATES = np.array([1.5, 1.0, 3.0, 1.0])


def lotka_volterra(u, p, t):
    prey, predators = u
    return [p[0] * prey - p[1] * prey * predators, p[3] * prey * predators - p[2] * predators]


def problem() -> ps.ODEProblem:
    """From one of each kind, at rates that a fit might start from."""
    return ps.ODEProblem(lotka_volterra, [1.0, 1.0], (TIMES[0], TIMES[-1]), RATES, name="Lotka–Volterra")


DATA = torch.stack([1.5 + torch.sin(torch.from_numpy(TIMES)), 1.5 + torch.cos(torch.from_numpy(TIMES))], 1)


def misfit(solution) -> torch.Tensor:
    """Sum of squared differences from data, here made up."""
    return (solution.u - DATA).square().sum()


def main() -> None:
    """Compare, print, draw."""
    chosen = options(__doc__, "compare_lotka_volterra.png")
    if chosen.quick:
        methods = [ps.ForwardDiffSensitivity(), ps.GaussAdjoint(), ps.BacksolveAdjoint()]
        report = ps.compare_adjoints(problem(), misfit, saveat=TIMES, sensealgs=methods, tolerances=[1e-6], repeats=3)
    else:
        report = ps.compare_adjoints(problem(), misfit, saveat=TIMES, tolerances=[1e-4, 1e-6, 1e-8], repeats=7)
    show(report)
    report.plot(chosen.output)
    print(f"saved {chosen.output}")


if __name__ == "__main__":
    main()
