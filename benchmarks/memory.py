"""Bytes: what one call of a generated function allocates, and what a solve keeps for its adjoint as it grows longer.

Run by itself: python benchmarks/memory.py [--json]
"""

from __future__ import annotations

import argparse
import json

import torch
from by_hand import included
from lotka_volterra import START, lotka_volterra
from rich.console import Console
from rich.table import Table

ADJOINTS = ("BacksolveAdjoint", "InterpolatingAdjoint", "GaussAdjoint", "QuadratureAdjoint")
ENDS = (10.0, 100.0, 1000.0)


def _gradient(f, u0: torch.Tensor, p, sensealg) -> None:
    import pysciode as ps

    u = ps.solve(ps.ODEProblem(f, u0, (0.0, 1.0), p), ps.Tsit5(), saveat=[1.0], sensealg=sensealg, engine="julia").u
    u.square().sum().backward()


def allocations() -> dict[str, dict[str, int]]:
    """Bytes by model and function, each the second call's."""
    import pysciode as ps

    sensealg = ps.InterpolatingAdjoint()
    answers = {}
    rates = torch.tensor([1.5, 1.0, 3.0, 1.0], dtype=torch.float64, requires_grad=True)
    _gradient(lotka_volterra, torch.tensor(START, dtype=torch.float64), rates, sensealg)
    answers["scalar (Lotka-Volterra)"] = _allocations()
    network = torch.nn.Sequential(torch.nn.Linear(2, 50), torch.nn.Tanh(), torch.nn.Linear(50, 2))
    _gradient(network, torch.ones(20, 2), None, sensealg)
    answers["network (2-50-2, batch 20)"] = _allocations()
    return answers


def _allocations() -> dict[str, int]:
    return {str(name): int(count) for name, count in included("inside.jl").Inside.allocations().items()}


def kept_for_the_adjoint() -> dict[str, dict[str, float]]:
    """Kilobytes alive between the forward solve and the backward pass, by adjoint and end time; saved at the end only."""
    import pysciode as ps

    inside = included("inside.jl").Inside
    answers: dict[str, dict[str, float]] = {}
    for name in ADJOINTS:
        answers[name] = {}
        for end in ENDS:
            p = torch.tensor([1.5, 1.0, 3.0, 1.0], dtype=torch.float64, requires_grad=True)
            problem = ps.ODEProblem(lotka_volterra, torch.tensor(START, dtype=torch.float64), (0.0, end), p)
            options = dict(saveat=[end], sensealg=getattr(ps, name)(), engine="julia")
            ps.solve(problem, ps.Tsit5(), **options)
            before = inside.live_bytes()
            solution = ps.solve(problem, ps.Tsit5(), **options)
            answers[name][f"0…{end:g} ({solution.stats.naccept} steps)"] = (inside.live_bytes() - before) / 1024
            del solution
    return answers


def _table(title: str, rows: dict[str, dict[str, float]], unit: str) -> Table:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = Table("", *columns, title=title)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:.4g} {unit}" if column in row else "–" for column in columns))
    return table


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    answers = {"allocations": allocations(), "kept": kept_for_the_adjoint()}
    if parser.parse_args().json:
        print(json.dumps(answers, indent=2))
        return
    console = Console()
    console.print(_table("allocated by one call, after the first", answers["allocations"], "B"))
    console.print(_table("kept for the adjoint", answers["kept"], "kB"))


if __name__ == "__main__":
    main()
