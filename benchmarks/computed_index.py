"""What it costs that an index computed from the state is looked at: solves and gradients of lookup tables, with and without.

Both alternate, so that what else the machine does falls on both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

import pysciode as ps
from pysciode.lowering.loops.loop_backend import LoopBackend

F64 = torch.float64
ROUNDS = 300


def lookup(table: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda u, p, t: p * table[(u * 10).long()] - u


def interpolation(table: torch.Tensor) -> Callable[..., torch.Tensor]:
    def f(u, p, t):
        x = u * 30
        below = x.floor()
        w, i = x - below, below.long()
        return p * (table[i] * (1 - w) + table[i + 1] * w) - u

    return f


def prepared(model: Callable[..., Callable[..., torch.Tensor]], n: int, checked: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """A solve and a gradient, compiled."""
    table = torch.linspace(0.1, 0.9, 64, dtype=F64).sin()
    u0, p = torch.linspace(0.1, 0.9, n, dtype=F64), torch.ones(n, dtype=F64, requires_grad=True)
    f = model(table)
    options = {"saveat": torch.tensor([1.0]), "rtol": 1e-6, "atol": 1e-6, "engine": "julia"}
    problem = ps.ODEProblem(f, u0, (0.0, 1.0), p)
    alone = ps.ODEProblem(f, u0, (0.0, 1.0), p.detach())

    def gradient() -> None:
        p.grad = None
        ps.solve(problem, ps.Tsit5(), sensealg=ps.GaussAdjoint(), **options).u.sum().backward()

    def solve() -> object:
        return ps.solve(alone, ps.Tsit5(), **options)

    required = LoopBackend.require
    try:
        if not checked:
            LoopBackend.require = lambda self, valid: None
        solve(), gradient()
    finally:
        LoopBackend.require = required
    return solve, gradient


def main() -> None:
    print(f"{'model':<15} {'states':>6}  {'solve [ms]':>21}  {'gradient [ms]':>21}")
    for model in (lookup, interpolation):
        for n in (40, 200, 1000, 5000):
            both = [prepared(model, n, checked) for checked in (True, False)]
            times: dict[tuple[int, int], list[float]] = {(i, k): [] for i in (0, 1) for k in (0, 1)}
            for _ in range(ROUNDS):
                for k, runs in enumerate(both):
                    for i, run in enumerate(runs):
                        began = time.perf_counter()
                        run()
                        times[i, k].append(time.perf_counter() - began)
            cells = []
            for i in (0, 1):
                checked, bare = (1e3 * statistics.median(times[i, k]) for k in (0, 1))
                cells.append(f"{checked:7.3f} {bare:7.3f} {100 * (checked / bare - 1):+5.1f} %")
            print(f"{model.__name__:<15} {n:>6}  {cells[0]}  {cells[1]}", flush=True)


if __name__ == "__main__":
    main()
