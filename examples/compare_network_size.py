"""How the cost of each method grows with a neural ODE: 10³, 10⁴, 10⁵ and 10⁶ parameters, one state.

One picture, time against parameters, with slopes fitted to the larger networks: forward methods pay for each parameter with a
pass, adjoints with a multiplication. Run: python examples/compare_network_size.py [--quick] [--output PNG]
"""

from __future__ import annotations

import math

import numpy as np
import torch
from comparison_script import line_styles, new_figure, options, save, show

import pysciode as ps
from pysciode.comparison.measure.rows import GradientRow

STATES = 4
METHODS = (ps.GaussAdjoint(), ps.InterpolatingAdjoint(), ps.QuadratureAdjoint(), ps.BacksolveAdjoint())
FORWARD = ps.ForwardDiffSensitivity()
FORWARD_LIMIT = 1_500


def network(parameters: int) -> torch.nn.Sequential:
    """Two hidden layers as wide as it takes to have about so many parameters, in double precision."""
    # h² + (2 · STATES + 2) h + STATES of them
    half = STATES + 1
    width = round(math.sqrt(parameters - STATES + half**2) - half)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(STATES, width), torch.nn.Tanh(), torch.nn.Linear(width, width), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, STATES)).double()


def problem(parameters: int) -> ps.ODEProblem:
    """A network's flow over a unit of time."""
    u0 = torch.tensor([1.0, -0.5, 0.3, 0.8], dtype=torch.float64)
    return ps.ODEProblem(network(parameters), u0, (0.0, 1.0), name=f"network of {parameters:,} parameters")


def slope(points: list[tuple[int, float]]) -> float | None:
    """Exponent of the growth, over the points with 10⁴ parameters and more where there are several."""
    large = [x for x in points if x[0] > 5_000]
    chosen = large if len(large) > 1 else points
    return float(np.polyfit(*np.log(np.transpose(chosen)), 1)[0]) if len(chosen) > 1 else None


def measure(parameters: int, quick: bool) -> list[GradientRow]:
    """Print the report for one network; the rows with a gradient."""
    given = problem(parameters)
    report = ps.compare_adjoints(
        given,
        sensealgs=(FORWARD, *METHODS) if parameters <= FORWARD_LIMIT else METHODS,
        saveat=[0.5, 1.0],
        tolerances=[1e-5],
        repeats=3 if quick else 5,
        time_limit=20.0,
        memory=False,
    )
    show(report)
    return [row for row in report.rows if row.status == "ok"]


def main() -> None:
    """Compare, print, draw."""
    chosen = options(__doc__, "compare_network_size.png")
    times: dict[str, list[tuple[int, float]]] = {}
    for parameters in (200, 1_000) if chosen.quick else (200, 1_000, 10_000, 100_000, 1_000_000):
        for row in measure(parameters, chosen.quick):
            times.setdefault(row.label, []).append((parameters, row.total.median))

    figure, (axes,) = new_figure(1, 7.2, 4.8)
    for name, style in line_styles(times).items():
        exponent = slope(times[name])
        label = name if exponent is None else f"{name}: slope {exponent:.2f}"
        axes.loglog(*np.transpose(times[name]), label=label, **style)
        print(label)
    axes.set_xlabel("parameters")
    axes.set_ylabel("time of solve and gradient, s")
    axes.set_title("Cost of a neural ODE's gradient", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    save(figure, chosen.output)


if __name__ == "__main__":
    main()
