"""The rates of a stiff reaction from data: Robertson's chemistry, with a stiff solver and gradients through it.

Needs the Julia engine. Run: python examples/stiff_rates.py
"""

import numpy as np
import torch
from scipy.optimize import least_squares

import pysciode as ps

TRUE = np.array([0.04, 3e7, 1e4])
START = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
TIMES = np.logspace(-5, 5, 40)
SCALE = torch.tensor([1.0, 3e4, 1.0], dtype=torch.float64)  # the second species stays near 3e-5


def robertson(u, p, t):
    a, b, c = u
    slow, fast, back = p[0] * a, p[1] * b * b, p[2] * b * c
    return [back - slow, slow - back - fast, fast]


def concentrations(log_rates):
    """Scaled concentrations at TIMES, flat; rates are positive by their logarithms."""
    problem = ps.ODEProblem(robertson, START, (0.0, 1e5), log_rates.exp())
    solution = ps.solve(problem, ps.Rodas5P(), saveat=TIMES, rtol=1e-8, atol=1e-10, sensealg=ps.ForwardDiffSensitivity())
    return (solution.u * SCALE).reshape(-1)


data = concentrations(torch.from_numpy(np.log(TRUE))).numpy()
data = data + 0.01 * np.random.default_rng(0).standard_normal(data.shape)


def residuals(x):
    return concentrations(torch.from_numpy(x)).numpy() - data


def jacobian(x):
    return torch.autograd.functional.jacobian(concentrations, torch.from_numpy(x)).numpy()


fit = least_squares(residuals, np.log(TRUE * [2.0, 0.3, 3.0]), jacobian)
for name, true, estimate in zip(("k1", "k2", "k3"), TRUE, np.exp(fit.x), strict=True):
    print(f"{name}: {estimate:.4g} (true {true:g})")
