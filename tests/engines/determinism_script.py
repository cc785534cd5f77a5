"""Hashes of solutions and gradients, one line each; run by test_determinism.py in processes of their own."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import torch

import pysciode as ps

F64 = torch.float64


def van_der_pol(u, p, t):
    return [u[1], p["mu"] * (1 - u[0] ** 2) * u[1] - p["k"] * u[0] + np.sin(t)]


def rod(u, p, t):
    """Many states: written as loops."""
    padded = np.concatenate([[p[0]], u, [0.0]])
    return p[1] * np.diff(np.diff(padded)) + np.tanh(u) * p[0]


def network(width: int, dtype: torch.dtype) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Tanh(), torch.nn.Linear(width, 3)).to(dtype)
    with torch.no_grad():
        for x in net.parameters():
            x.copy_(0.5 * torch.randn(x.shape, generator=generator, dtype=dtype))
    return net


def cases(engine: str):
    mu = {"mu": torch.tensor(1.0, dtype=F64, requires_grad=True), "k": torch.tensor(1.0, dtype=F64, requires_grad=True)}
    u2 = torch.tensor([1.0, 0.5], dtype=F64, requires_grad=True)
    diffusion = torch.tensor([0.5, 4.0], dtype=F64, requires_grad=True)
    u64 = torch.linspace(0, 1, 64, dtype=F64).requires_grad_()
    adjoint = ps.GaussAdjoint() if engine == "julia" else ps.BacksolveAdjoint()
    yield "scalar", ps.ODEProblem(van_der_pol, u2, (0.0, 3.0), mu), ps.Tsit5(), None
    yield "scalar, adjoint", ps.ODEProblem(van_der_pol, u2, (0.0, 3.0), mu), ps.Tsit5(), adjoint
    yield "loops", ps.ODEProblem(rod, u64, (0.0, 1.0), diffusion), ps.Tsit5(), adjoint
    for dtype in (torch.float32, F64):
        batch = torch.linspace(-1, 1, 3 * 17, dtype=dtype).reshape(17, 3).requires_grad_()
        yield f"network, {dtype}", ps.ODEProblem(network(37, dtype), batch, (0.0, 1.0)), ps.Tsit5(), adjoint
    batch = torch.linspace(-1, 1, 15, dtype=F64).reshape(5, 3).requires_grad_()
    yield "callback", ps.ODEProblem(network(5, F64), batch, (0.0, 1.0), capture="callback"), ps.Tsit5(), adjoint
    if engine == "julia":
        yield "stiff", ps.ODEProblem(van_der_pol, u2, (0.0, 3.0), mu), ps.Rodas5P(), adjoint


def fingerprint(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(x.detach().numpy().tobytes() for x in tensors)).hexdigest()[:16]


def hashes(engine: str, only: str | None = None):
    """``(name, hash)`` of each case: states and gradients."""
    for name, problem, algorithm, sensealg in cases(engine):
        if only is None or only == name:
            u = ps.solve(problem, algorithm, saveat=0.25, sensealg=sensealg, engine=engine).u
            wanted = [x for x in (problem.u0, *problem.tensors) if x.requires_grad]
            yield name, fingerprint(u, *torch.autograd.grad(u.square().sum(), wanted))


if __name__ == "__main__":
    for found in hashes(*sys.argv[1:]):
        print(*found, sep=": ", flush=True)
