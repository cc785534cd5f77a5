"""Memory between the solve and its gradient against the number of steps: bytes a step, one slope a method.

A small neural ODE on a batch; what a method keeps is measured with steps that grow by the tolerance: SciML's by Julia's live
bytes after a collection of garbage, torchdiffeq's by the tensors that its graph saves. Run:
python examples/compare_memory.py [--quick] [--output PNG]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from comparison_script import line_styles, new_figure, options, save
from rich.console import Console
from rich.table import Table

import pysciode as ps
from pysciode.comparison.measure.rows import GradientRow
from pysciode.methods.adjoints import SensitivityAlgorithm

END = 40.0

METHODS = (
    ps.BacksolveAdjoint(),
    ps.InterpolatingAdjoint(checkpointing=True),
    ps.InterpolatingAdjoint(),
    ps.GaussAdjoint(),
    ps.ReverseDiffAdjoint(),
)


def problem(end: float = END) -> ps.ODEProblem:
    """A network of 146 parameters on 20 points of the plane: 40 states."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 24), torch.nn.Tanh(), torch.nn.Linear(24, 2)).double()
    u0 = torch.randn(20, 2, dtype=torch.float64)
    return ps.ODEProblem(network, u0, (0.0, end), name="a network on a batch of 20")


def measured(tolerances: list[float], methods: Sequence[SensitivityAlgorithm], peers: bool = True) -> dict[str, list[GradientRow]]:
    """Rows with their steps and what they kept, by method."""
    report = ps.compare_adjoints(problem(), sensealgs=methods, saveat=[END], tolerances=tolerances, repeats=1, time_limit=20.0, peers=peers)
    found: dict[str, list[GradientRow]] = {}
    for row in report.rows:
        if row.status == "ok" and row.steps and row.kept_memory is not None:
            found.setdefault(row.label, []).append(row)
        elif row.status == "failed":
            print(f"{row.label} at {row.rtol:.0e}: {row.reason}")
    return found


def bytes_per_step(rows: list[GradientRow]) -> float:
    """Slope of the straight line through what is kept against steps."""
    return float(np.polyfit([x.steps for x in rows], [x.kept_memory for x in rows], 1)[0])


def main() -> None:
    """Measure, print, draw."""
    chosen = options(__doc__, "compare_memory.png")
    found = measured([1e-4, 1e-7] if chosen.quick else [1e-4, 1e-6, 1e-8], METHODS)
    found = {name: rows for name, rows in found.items() if len(rows) > 1}
    table = Table("method", "steps", "kept, bytes", "bytes a step")
    figure, (axes,) = new_figure(1, 7.2, 4.8)
    for name, style in line_styles(found).items():
        rows, slope = found[name], round(bytes_per_step(found[name]))
        steps, kept = [x.steps for x in rows], [x.kept_memory for x in rows]
        table.add_row(name, f"{steps[0]} … {steps[-1]}", f"{kept[0]:,} … {kept[-1]:,}", f"{slope:,}")
        axes.loglog(steps, kept, label=f"{name}: {slope:,} bytes a step", **style)
    axes.set_xlabel("steps of the solver")
    axes.set_ylabel("bytes kept for the gradient")
    axes.set_title(f"Memory of {problem().name}", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2)
    Console().print(table)
    save(figure, chosen.output)


if __name__ == "__main__":
    main()
