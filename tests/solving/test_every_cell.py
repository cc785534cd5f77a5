"""Every cell of (capture × algorithm × adjoint × tolerance × dtype) on a model of two states: right, or refused by name."""

from __future__ import annotations

import itertools
import os
import random
import warnings

import numpy as np
import pytest
from every_cell import ALL

import pysciode as ps

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.julia

A = torch.tensor([[-1.0, 0.3], [0.2, -2.0]], dtype=torch.float64)
TIMES = [0.5, 2.0]


def function(u, p, t):
    return p * (A.to(u.dtype) @ u)


class Module(torch.nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = torch.nn.Parameter(p.detach())

    def forward(self, t, u):
        return self.p * (A.to(u.dtype) @ u)


def posed(capture, u0, p):
    if capture == "module":
        module = Module(p)
        return ps.ODEProblem(module, u0, (0.0, 2.0)), module.p
    return ps.ODEProblem(function, u0, (0.0, 2.0), p, capture=capture), p


METHODS = [None, ps.GaussAdjoint(), ps.InterpolatingAdjoint(), ps.QuadratureAdjoint(), ps.ForwardDiffSensitivity()]
CELLS = [(None, method, torch.float64) for method in METHODS]
CELLS += [(ps.Rodas5P(), ps.QuadratureAdjoint(), torch.float32), (ps.Tsit5(), ps.QuadratureAdjoint(), torch.float32)]
if ALL:
    METHODS += [ps.GaussKronrodAdjoint(), ps.BacksolveAdjoint(), ps.ForwardSensitivity(), ps.ReverseDiffAdjoint(), ps.TrackerAdjoint()]
    FAMILIES = "explicit stabilized rosenbrock sdirk firk bdf implicit_extrapolation imex_sdirk exponential".split()
    ONE_OF_EACH = {
        "auto": [ps.AutoTsit5(ps.Rosenbrock23()), ps.AutoVern7(ps.Rodas5P()), ps.AutoVern9(ps.KenCarp4()), ps.AutoDP5(ps.FBDF())]
    }
    for family in FAMILIES:
        for found in map(ps.Algorithm, ps.list_algorithms(family)):
            if not found.fixed_step:
                ONE_OF_EACH.setdefault((family, found.package), []).append(found)
    draw = random.Random(int(os.environ.get("PYSCIODE_SEED", "0")))
    CELLS = list(itertools.product([None, *map(draw.choice, ONE_OF_EACH.values())], METHODS, [torch.float64, torch.float32]))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm, sensealg, dtype", CELLS, ids=str)
def test_right_or_refused_by_name(algorithm, sensealg, dtype):
    u0, p = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True), torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    exact = torch.stack([torch.linalg.matrix_exp(A * p * t) @ u0 for t in TIMES])
    want = [x.numpy() for x in torch.autograd.grad((exact**2).sum(), (u0, p))]
    wrong = []
    for capture, rtol in itertools.product(("auto", "module", "callback"), (1e-4, 1e-8)):
        if dtype == torch.float32:
            rtol = max(rtol, 1e-5)
        start, rate = u0.detach().to(dtype).requires_grad_(), p.detach().to(dtype).requires_grad_()
        problem, rate = posed(capture, start, rate)
        caught = []
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                sol = ps.solve(problem, algorithm, saveat=TIMES, rtol=rtol, atol=rtol, sensealg=sensealg, maxiters=20_000)
                got = [x.double().numpy() for x in torch.autograd.grad((sol.u**2).sum(), (start, rate))]
        except (ValueError, ps.GradientFailed, ps.SolveFailed) as refused:
            if not ALL and (sensealg is None or capture != "callback"):
                wrong.append((capture, rtol, repr(refused)))
            continue
        states = np.abs(sol.u.detach().double().numpy() - exact.detach().numpy()).max()
        off = max(np.abs(x - y).max() for x, y in zip(got, want, strict=True))
        told = any(issubclass(w.category, ps.AccuracyWarning) for w in caught)
        if not (told or off < max(300 * rtol, 30 * states)):
            wrong.append((capture, rtol, off))
    assert not wrong
