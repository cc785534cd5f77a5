"""Ten thousand Lorenz systems at once: where does convection become chaos?

Below rho = 1 all comes to rest; up to about 24.74 the flow settles into one of two steady rolls, and beyond it never settles.
Each system is one thread of one kernel, with steps of its own: on the GPU where torch has one, otherwise on the processor.

Needs the Julia engine with its part for ensembles. Run: python -m pysciode install ensembles; python examples/ensemble_lorenz.py
"""

import time

import torch

import pysciode as ps

N = 10_000
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def lorenz(u, p, t):
    x, y, z = u[0], u[1], u[2]
    return torch.stack([10.0 * (y - x), x * (p - z) - y, x * y - 8 / 3 * z])


start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, device=DEVICE)
rho = torch.linspace(0.5, 40.0, N, dtype=torch.float64, device=DEVICE)
problem = ps.ODEProblem(lorenz, start, (0.0, 60.0), rho[-1])
ensemble = ps.EnsembleProblem(problem, p=rho)

times = torch.linspace(50.0, 60.0, 41, dtype=torch.float64)
began = time.perf_counter()
solution = ps.solve(ensemble, ps.Tsit5(), ensemblealg=ps.EnsembleGPUKernel(), saveat=times, rtol=1e-6, atol=1e-8, progress=True)
print(f"{N} systems on {DEVICE} in {time.perf_counter() - began:.1f} s: {solution}")

unrest = solution.u[:, :, 2].std(dim=1)  # how much z still moves after t = 50
for low, high in ((0.5, 1.0), (1.0, 13.0), (13.0, 22.0), (26.0, 40.0)):
    part = (rho > low) & (rho < high)
    moving = (unrest[part] > 0.1).double().mean().item()
    print(f"rho from {low:4.1f} to {high:4.1f}: {moving:4.0%} of the systems still move")
