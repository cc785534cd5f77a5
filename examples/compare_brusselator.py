"""A stiff partial differential equation on growing grids: how the gradient of each method pays for the grid.

The Brusselator with diffusion in two dimensions, periodic, as finite differences; the gradient is with respect to A, B, the
diffusion constant and a source in each grid cell. The solver is FBDF with GMRES, which needs no Jacobian, only its products
with vectors; a sparse factorisation would serve the solve, but not the reverse solve of the adjoints. Run:
python examples/compare_brusselator.py [--quick] [--output PNG]
"""

from __future__ import annotations

import numpy as np
import torch
from comparison_script import line_styles, new_figure, options, save, show

import pysciode as ps

END = 1.0


def brusselator(n: int) -> ps.ODEProblem:
    """On a grid of ``n × n`` cells of the unit square, ``2 n²`` states and ``3 + n²`` parameters.

    Hairer, Wanner, "Solving Ordinary Differential Equations II" (Springer 1996), page 148, with a source field in place of
    its moving disc.
    """
    h = 1.0 / n

    def f(state: torch.Tensor, p: dict[str, torch.Tensor], t: torch.Tensor) -> torch.Tensor:
        wide = torch.cat([state[:, -1:], state, state[:, :1]], 1)
        wide = torch.cat([wide[:, :, -1:], wide, wide[:, :, :1]], 2)
        neighbours = wide[:, 2:, 1:-1] + wide[:, :-2, 1:-1] + wide[:, 1:-1, 2:] + wide[:, 1:-1, :-2]
        u, v = state[0], state[1]
        reaction = u * u * v
        du = p["a"] + reaction - (p["b"] + 1.0) * u + p["source"]
        dv = p["b"] * u - reaction
        return torch.stack([du, dv]) + p["diffusion"] / h**2 * (neighbours - 4.0 * state)

    x, y = np.meshgrid(*[(np.arange(n) + 0.5) * h] * 2, indexing="ij")
    start = np.stack([22.0 * (y * (1 - y)) ** 1.5, 27.0 * (x * (1 - x)) ** 1.5])
    source = 5.0 * np.exp(-50.0 * ((x - 0.3) ** 2 + (y - 0.6) ** 2))
    values = {"a": 1.0, "b": 3.4, "diffusion": 0.1, "source": source}
    p = {name: torch.tensor(x, dtype=torch.float64, requires_grad=True) for name, x in values.items()}
    return ps.ODEProblem(f, torch.from_numpy(start), (0.0, END), p, name=f"Brusselator, {n} × {n}")


SOLVER = ps.FBDF(linsolve="KrylovJL_GMRES")
# Forward mode would carry 3 + n² directions through the whole solve.
METHODS = (ps.GaussAdjoint(), ps.InterpolatingAdjoint(), ps.BacksolveAdjoint())


def main() -> None:
    """Compare, print, draw."""
    chosen = options(__doc__, "compare_brusselator.png")
    grids = (4, 6) if chosen.quick else (8, 16, 32)
    times: dict[str, list[tuple[int, float]]] = {}
    for n in grids:
        report = ps.compare_adjoints(
            brusselator(n),
            algorithms=[SOLVER],
            sensealgs=METHODS,
            reference=ps.GaussAdjoint(),
            saveat=[END / 2, END],
            tolerances=[1e-6],
            repeats=3,
            memory=False,
            time_limit=60.0,
            peers=n <= 8,
        )
        show(report)
        for row in report.rows:
            if row.status == "ok":
                times.setdefault(row.label, []).append((2 * n * n, row.total.median))

    figure, (axes,) = new_figure(1, 6.4)
    for name, style in line_styles(times).items():
        states, seconds = np.transpose(times[name])
        axes.loglog(states, seconds, label=name, **style)
    axes.set_xlabel("states")
    axes.set_ylabel("time of solve and gradient, s")
    axes.set_title("Brusselator on growing grids, FBDF with GMRES", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    save(figure, chosen.output)


if __name__ == "__main__":
    main()
