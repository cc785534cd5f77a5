"""Which method for the four rates of Lotka–Volterra? SciML's, torchdiffeq's and diffrax's on a fit to data.

Three tolerances, one table and a work–precision diagram; diffrax takes part where it is installed. Without ``sensealgs`` all
methods run, which takes some minutes. Run:
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
    methods = [ps.ForwardDiffSensitivity(), ps.GaussAdjoint(), ps.BacksolveAdjoint()]
    if not chosen.quick:
        methods += [ps.ForwardSensitivity(), ps.InterpolatingAdjoint(), ps.QuadratureAdjoint(), ps.ReverseDiffAdjoint()]
    report = ps.compare_adjoints(
        problem(),
        misfit,
        saveat=TIMES,
        sensealgs=methods,
        tolerances=[1e-6] if chosen.quick else [1e-4, 1e-6, 1e-8],
        repeats=3 if chosen.quick else 9,
    )
    show(report)
    report.plot(chosen.output)
    print(f"saved {chosen.output}")


if __name__ == "__main__":
    main()
