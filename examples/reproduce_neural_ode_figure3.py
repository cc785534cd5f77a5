"""Figure 3 of "Neural Ordinary Differential Equations", measured on a small classifier.

Chen, Rubanova, Bettencourt, Duvenaud (NeurIPS 2018, arXiv:1806.07366), figure 3: (a) the error falls as evaluations grow
with the tolerance, (b) time is proportional to evaluations, (c) the backward pass takes about half the forward one's
evaluations in the paper, with an implicit Adams method; with a Runge–Kutta pair, here, BacksolveAdjoint takes about as many and
GaussAdjoint, whose reverse solve carries no parameters, fewer, (d) evaluations grow as training goes on. The data are two rings
in the plane, the model one neural ODE and a linear layer. Run:
python examples/reproduce_neural_ode_figure3.py [--quick] [--output PNG]
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from comparison_script import new_figure, options, save
from torch.nn.functional import binary_cross_entropy_with_logits

import pysciode as ps
from pysciode.engines import julia_is_installed
from pysciode.methods.adjoints import SensitivityAlgorithm


class Field(torch.nn.Module):
    """``du/dt`` of a state with two coordinates and one more that starts at zero, so that the rings can be told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3)).double()

    def forward(self, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Shapes ``()`` and ``(batch, 3)``."""
        return self.net(torch.cat([u, t * torch.ones_like(u[:, :1])], 1))


def rings(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """`n` points, shape ``(n, 3)`` with a last coordinate of zeros, and their classes, shape ``(n,)``."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    radius = np.where(label == 1, 1.5, 0.6) + 0.12 * rng.standard_normal(n)
    angle = rng.uniform(0, 2 * np.pi, n)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(n)], 1)
    return torch.from_numpy(points), torch.from_numpy(label.astype(float))


def solve(field: Field, u0: torch.Tensor, tolerance: float, sensealg: SensitivityAlgorithm | None) -> ps.Solution:
    """From 0 to 1, saved at the end."""
    problem = ps.ODEProblem(field, u0, (0.0, 1.0))
    return ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=tolerance, atol=tolerance, sensealg=sensealg)


@dataclass(frozen=True)
class Point:
    """One tolerance: evaluations, the least time of the solve in seconds (others on the machine only add to it), and the largest
    error of its end state."""

    tolerance: float
    forward: int
    seconds: float
    error: float
    backward: dict[str, tuple[int, int]]
    """By method: evaluations of the model, and of its vector-Jacobian product."""


def backward_counts(field: Field, u0: torch.Tensor, tolerance: float) -> dict[str, tuple[int, int]]:
    """Counts of the reverse solve for each adjoint of the Julia engine."""
    if not julia_is_installed():
        return {}
    found = {}
    for sensealg in (ps.BacksolveAdjoint(), ps.InterpolatingAdjoint(), ps.GaussAdjoint()):
        solution = solve(field, u0, tolerance, sensealg)
        solution.u.square().mean().backward()
        found[sensealg.name] = solution.stats["nf_reverse"], solution.stats["nvjp"]
    return found


def measure(field: Field, u0: torch.Tensor, tolerances: list[float], repeats: int) -> list[Point]:
    """Panels (a) to (c)."""
    with torch.no_grad():
        exact = solve(field, u0, 1e-12, None).u
        points = []
        for tolerance in tolerances:
            solution = solve(field, u0, tolerance, None)
            laps = []
            for _ in range(repeats):
                began = time.perf_counter()
                solve(field, u0, tolerance, None)
                laps.append(time.perf_counter() - began)
            error = float((solution.u - exact).abs().max())
            with torch.enable_grad():
                backward = backward_counts(field, u0, tolerance)
            points.append(Point(tolerance, solution.stats.nf, min(laps), error, backward))
    return points


def train(field: Field, steps: int, tolerance: float = 1e-6) -> tuple[list[int], list[float]]:
    """Panel (d): evaluations of the forward solve and the loss, step by step."""
    points, labels = rings(200)
    readout = torch.nn.Linear(3, 1).double()
    optimizer = torch.optim.Adam([*field.parameters(), *readout.parameters()], 0.02)
    evaluations, losses = [], []
    sensealg = ps.InterpolatingAdjoint() if julia_is_installed() else ps.ReverseDiffAdjoint()
    for _ in range(steps):
        optimizer.zero_grad()
        solution = solve(field, points, tolerance, sensealg)
        loss = binary_cross_entropy_with_logits(readout(solution.u[-1])[:, 0], labels)
        loss.backward()
        optimizer.step()
        evaluations.append(solution.stats.nf)
        losses.append(loss.item())
    return evaluations, losses


def main() -> None:
    """Train, measure the trained model, print, draw."""
    chosen = options(__doc__, "reproduce_neural_ode_figure3.png")
    torch.manual_seed(0)
    field = Field()
    evaluations, losses = train(field, 60 if chosen.quick else 200)
    tolerances = [10.0**-k for k in (range(2, 9, 2) if chosen.quick else range(2, 11))]
    points = measure(field, rings(200)[0], tolerances, 20 if chosen.quick else 100)
    for x in points:
        counts = ", ".join(f"{name} {f} + {vjp} vjp" for name, (f, vjp) in x.backward.items())
        print(f"tolerance {x.tolerance:.0e}: {x.forward} evaluations, {1e3 * x.seconds:.3f} ms, error {x.error:.1e}; {counts}")
    for name in points[0].backward:
        ratio = statistics.median(x.backward[name][1] / x.forward for x in points)
        print(f"{name}: {ratio:.2f} vector-Jacobian products for each forward evaluation, the median")
    print(f"training: {evaluations[0]} evaluations at the start, {evaluations[-1]} at the end;", end=" ")
    print(f"loss {losses[0]:.3f} to {losses[-1]:.4f}")

    forward = [x.forward for x in points]
    figure, (a, b, c, d) = new_figure(4, 4.0, 3.8)
    a.semilogy(forward, [x.error for x in points], "o-", color="#0072B2")
    a.set_title("(a) error against evaluations", loc="left", fontsize=10)
    a.set_xlabel("evaluations, tolerance 1e-2 … 1e-10" if not chosen.quick else "evaluations")
    a.set_ylabel("largest error of the end state")
    b.plot(forward, [1e3 * x.seconds for x in points], "o", color="#0072B2")
    b.set_title("(b) time against evaluations", loc="left", fontsize=10)
    b.set_xlabel("evaluations")
    b.set_ylabel("forward solve, ms")
    for name, colour in zip(points[0].backward, ("#0072B2", "#D55E00", "#009E73"), strict=False):
        c.plot(forward, [x.backward[name][1] for x in points], "o-", color=colour, label=name)
    c.plot(forward, np.array(forward) / 2, "--", color="0.5", label="half of the forward ones")
    c.set_title("(c) backward evaluations", loc="left", fontsize=10)
    c.set_xlabel("forward evaluations")
    c.set_ylabel("vector-Jacobian products")
    c.legend(frameon=False, fontsize=8)
    d.plot(evaluations, color="#0072B2")
    d.set_title("(d) evaluations in training", loc="left", fontsize=10)
    d.set_xlabel("step")
    d.set_ylabel("evaluations")
    save(figure, chosen.output)


if __name__ == "__main__":
    main()
