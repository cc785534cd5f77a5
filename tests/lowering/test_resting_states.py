"""States at rest on a kink, a pole or a removable singularity: their derivative is torch's own there, by every method."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F

import pysciode as ps
from pysciode.capture.torch.array_capture import capture_torch
from pysciode.graphs.captured_model import ScalarModel
from pysciode.lowering.scalars.unroll import unroll

pytestmark = pytest.mark.slow

F64 = torch.float64
ELEMENTWISE = {
    "relu": (torch.relu, [0.0, -0.0, 1.0, -1.0]),
    "relu6": (F.relu6, [0.0, 6.0, 3.0, -1.0, 7.0]),
    "clamp": (lambda x: torch.clamp(x, -1.0, 2.0), [-1.0, 2.0, 0.0, -3.0, 3.0]),
    "clamp_min": (lambda x: torch.clamp(x, min=0.5), [0.5, 0.0, 1.0]),
    "clamp_max": (lambda x: torch.clamp(x, max=0.5), [0.5, 0.0, 1.0]),
    "maximum with a number": (lambda x: torch.maximum(x, torch.zeros_like(x)), [0.0, 1.0, -1.0]),
    "minimum with a number": (lambda x: torch.minimum(x, torch.ones_like(x)), [1.0, 0.0, 2.0]),
    "abs": (torch.abs, [0.0, -0.0, 1.0, -1.0]),
    "hardtanh": (F.hardtanh, [-1.0, 1.0, 0.0, -2.0, 2.0]),
    "hardswish": (F.hardswish, [-3.0, 3.0, 0.0, -4.0, 4.0, 1.0]),
    "hardsigmoid": (F.hardsigmoid, [-3.0, 3.0, 0.0, -4.0, 4.0]),
    "leaky_relu": (F.leaky_relu, [0.0, 1.0, -1.0]),
    "elu": (lambda x: F.elu(x, 0.7), [0.0, 1.0, -1.0]),
    "celu": (lambda x: F.celu(x, 0.7), [0.0, 1.0, -1.0]),
    "selu": (F.selu, [0.0, 1.0, -1.0]),
    "gelu": (F.gelu, [0.0, 1.0, -1.0]),
    "silu": (F.silu, [0.0, 1.0, -1.0]),
    "mish": (F.mish, [0.0, 1.0, -1.0]),
    "softplus": (lambda x: F.softplus(x, threshold=2.0), [0.0, 2.0, 2.5, -1.0]),
    "softsign": (F.softsign, [0.0, 1.0, -1.0]),
    "logsigmoid": (F.logsigmoid, [0.0, 1.0, -1.0]),
    "threshold": (lambda x: F.threshold(x, 0.5, 20.0), [0.5, 0.0, 1.0]),
    "hardshrink": (F.hardshrink, [0.5, -0.5, 0.0, 1.0]),
    "softshrink": (F.softshrink, [0.5, -0.5, 0.0, 1.0]),
    "tanhshrink": (F.tanhshrink, [0.0, 1.0]),
    "sqrt": (torch.sqrt, [1.0, 4.0]),
    "sqrt of a square": (lambda x: torch.sqrt(x * x + 1e-30), [0.0, 1.0]),
    "sinc": (torch.sinc, [0.0, 1.0, 0.5]),
    "sgn": (lambda x: torch.sgn(x) * x, [0.0, 1.0, -1.0]),
    "sign": (lambda x: torch.sign(x) * x, [0.0, 1.0, -1.0]),
    "round": (lambda x: torch.round(x) * x, [0.5, 1.5, 0.2]),
    "frac": (torch.frac, [0.25, -0.25, 1.75]),
    "pow 0": (lambda x: x**0, [0.0, 1.0, 2.0]),
    "pow 1": (lambda x: x**1, [0.0, 1.0, -2.0]),
    "pow 2": (lambda x: x**2, [0.0, 1.0, -2.0]),
    "pow 3": (lambda x: x**3, [0.0, 1.0, -2.0]),
    "pow 1.5": (lambda x: x**1.5, [0.0, 1.0, 2.0]),
    "pow of a number": (lambda x: 2.0**x, [0.0, 1.0, -2.0]),
    "pow of zero": (lambda x: torch.zeros_like(x) ** x, [0.0, 1.0, 2.0]),
    "xlogy": (lambda x: torch.xlogy(x, x + 1.0), [0.0, 1.0]),
    "where": (lambda x: torch.where(x > 0, x**2, -x), [0.0, 1.0, -1.0]),
    "nan_to_num": (torch.nan_to_num, [0.0, 1.0]),
    "huber": (lambda x: F.huber_loss(x, torch.zeros_like(x), reduction="none"), [1.0, -1.0, 0.0, 2.0]),
    "smooth_l1": (lambda x: F.smooth_l1_loss(x, torch.zeros_like(x), reduction="none"), [1.0, -1.0, 0.0, 2.0]),
    "l1": (lambda x: F.l1_loss(x, torch.zeros_like(x), reduction="none"), [0.0, 1.0, -1.0]),
    "rsqrt": (torch.rsqrt, [1.0, 4.0]),
    "logaddexp": (lambda x: torch.logaddexp(x, torch.zeros_like(x)), [0.0, 30.0, -30.0]),
    "copysign": (lambda x: torch.copysign(x, torch.ones_like(x)), [0.0, 1.0, -1.0]),
    "fmod": (lambda x: torch.fmod(x, 2.0), [1.0, -3.0, 0.0]),
    "remainder": (lambda x: torch.remainder(x, 2.0), [1.0, -3.0, 0.0]),
}

WHOLE = {
    "maximum": (lambda x: torch.maximum(x[0], x[1]) * x, [1.0, 1.0]),
    "minimum": (lambda x: torch.minimum(x[0], x[1]) * x, [1.0, 1.0]),
    "fmax": (lambda x: torch.fmax(x[0], x[1]) * x, [1.0, 1.0]),
    "fmin": (lambda x: torch.fmin(x[0], x[1]) * x, [1.0, 1.0]),
    "clamp by tensors": (lambda x: torch.clamp(x[0], x[1], x[2]) * x, [1.0, 1.0, 2.0]),
    "clamp by tensors above": (lambda x: torch.clamp(x[0], x[1], x[2]) * x, [2.0, 1.0, 2.0]),
    "atan2": (lambda x: torch.atan2(x[0], x[1]) + x, [0.0, 0.0]),
    "atan2 on an axis": (lambda x: torch.atan2(x[0], x[1]) + x, [0.0, -1.0]),
    "hypot": (lambda x: torch.hypot(x[0], x[1]) + x, [0.0, 0.0]),
    "pow": (lambda x: x[0] ** x[1] + x, [0.0, 0.0]),
    "pow of zero by one": (lambda x: x[0] ** x[1] + x, [0.0, 1.0]),
    "pow of zero by two": (lambda x: x[0] ** x[1] + x, [0.0, 2.0]),
    "amax": (lambda x: torch.amax(x) * x, [1.0, 1.0, 0.0]),
    "amax of three": (lambda x: torch.amax(x) * x, [1.0, 1.0, 1.0]),
    "amin of three": (lambda x: torch.amin(x) * x, [1.0, 1.0, 1.0]),
    "max": (lambda x: torch.max(x) * x, [1.0, 1.0, 1.0]),
    "min": (lambda x: torch.min(x) * x, [1.0, 1.0, 2.0]),
    "max of an axis": (lambda x: torch.max(x.reshape(2, 2), 1).values.repeat(2) * x, [1.0, 1.0, 2.0, 2.0]),
    "norm": (lambda x: torch.linalg.norm(x) + x, [0.0, 0.0]),
    "norm of one": (lambda x: torch.linalg.vector_norm(x, 1) + x, [0.0, 1.0]),
    "norm of infinity": (lambda x: torch.linalg.vector_norm(x, math.inf) + x, [1.0, 1.0, 0.5]),
    "norm of infinity at zero": (lambda x: torch.linalg.vector_norm(x, math.inf) + x, [0.0, 0.0]),
    "norm of three": (lambda x: torch.linalg.vector_norm(x, 3) + x, [0.0, 0.0]),
    "norm of a half": (lambda x: torch.linalg.vector_norm(x, 2.5) + x, [0.0, 1.0]),
    "normalize": (lambda x: F.normalize(x, dim=0), [0.0, 0.0]),
    "std": (lambda x: torch.std(x) + x, [1.0, 1.0, 1.0]),
    "var": (lambda x: torch.var(x) + x, [1.0, 1.0, 1.0]),
    "prod": (lambda x: torch.prod(x) + x, [0.0, 2.0, 3.0]),
    "prod of zeros": (lambda x: torch.prod(x) + x, [0.0, 0.0, 3.0]),
    "cumprod": (lambda x: torch.cumprod(x, 0), [0.0, 2.0, 3.0]),
    "logsumexp": (lambda x: torch.logsumexp(x, 0) + x, [1.0, 1.0]),
    "max_pool": (lambda x: F.max_pool1d(x.reshape(1, 1, -1), 2).reshape(-1).repeat(2) * x, [1.0, 1.0, 2.0, 2.0]),
    "cosine_similarity": (lambda x: F.cosine_similarity(x, torch.ones_like(x), dim=0) + x, [0.0, 1.0]),
    "pairwise_distance": (lambda x: F.pairwise_distance(x[None], torch.zeros_like(x)[None]) + x, [1.0, 2.0]),
    "prelu": (lambda x: F.prelu(x, torch.full((1,), 0.3, dtype=F64)), [0.0, 1.0, -1.0]),
    "relu of a sum that rests": (lambda x: torch.relu(x[0] - x[1]) + x, [1.0, 1.0]),
}

CASES = {**ELEMENTWISE, **WHOLE}


def function_of(name):
    return CASES[name][0], torch.tensor(CASES[name][1], dtype=F64)


class Blocks:
    """Functions side by side, each on states of its own: one model serves many."""

    def __init__(self, names):
        self.functions, points = zip(*map(function_of, names))
        self.sizes, self.u = [len(u) for u in points], torch.cat(points)

    def __call__(self, u, p, t):
        du = p * torch.cat([f(x) for f, x in zip(self.functions, u.split(self.sizes))])
        return torch.add(du, -du.detach())


def expected_jacobian(f, u, p):
    rows = []
    for i in range(len(u)):
        v = u.clone().requires_grad_()
        rows.append(torch.autograd.grad((p * f(v))[i], v)[0])
    return torch.stack(rows)


PARAMETER = torch.tensor(0.7, dtype=F64)


METHODS = {
    "dual numbers": (ps.Tsit5, ps.ForwardDiffSensitivity()),
    "dual numbers, implicit": (ps.Rodas5P, ps.ForwardDiffSensitivity()),
    "variational equations": (ps.Tsit5, ps.ForwardSensitivity()),
    "a tape": (ps.Tsit5, ps.ReverseDiffAdjoint()),
    "products from the left": (ps.Tsit5, ps.GaussAdjoint()),
    "products from the left, joint": (ps.Tsit5, ps.InterpolatingAdjoint()),
    "products from the left, implicit": (ps.Rodas5P, ps.GaussAdjoint()),
}

PAIRWISE = ("amax of three", "amin of three", "max", "norm of infinity at zero")
"""Three and more equal extremes: numbers that carry derivatives through loops share them pair by pair."""


def applies(name, method, kind):
    if name in PAIRWISE and kind == "arrays" and method.startswith(("dual", "a tape")):
        return False
    if name in ("hypot", "normalize"):  # torch's own derivative is NaN, or 1e12
        return False
    # The second derivative is infinite.
    return not (name in ("pow 1.5", "norm of a half") and method == "dual numbers, implicit")


@functools.cache
def unrolls(name):
    f, u = function_of(name)
    return unroll(capture_torch(lambda u: f(u), u)) is not None


GROUPS = [list(CASES)[i : i + 22] for i in range(0, len(CASES), 22)]


@pytest.mark.parametrize("names", GROUPS, ids=[f"{group[0]}..{group[-1]}" for group in GROUPS])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["scalars", "arrays"])
def test_derivatives_of_a_state_that_rests(julia_engine, names, method, kind, monkeypatch):
    """A state at rest on the kink: its derivative to the initial one is the exponential of the Jacobian there."""
    names = [name for name in names if applies(name, method, kind) and (kind == "arrays" or unrolls(name))]
    unrolled = functools.partial(unroll, max_ops=50_000)
    monkeypatch.setattr("pysciode.lowering.scalars.unroll.unroll", unrolled if kind == "scalars" else lambda model: None)
    rests = Blocks(names)
    algorithm, sensealg = METHODS[method]
    problem = ps.ODEProblem(rests, rests.u.requires_grad_(), (0.0, 0.5), PARAMETER)
    assert isinstance(problem.model, ScalarModel) == (kind == "scalars")
    weights = torch.cat([torch.linspace(0.5, 1.5, n, dtype=F64) for n in rests.sizes])
    # The steps are bounded, since a tape does not control the error of derivatives.
    end = ps.solve(problem, algorithm(), sensealg=sensealg, engine=julia_engine, rtol=1e-8, atol=1e-10, dtmax=0.05).u[-1]
    assert torch.equal(end, rests.u)
    (found,) = torch.autograd.grad((weights * end).sum(), rests.u)
    for name, g, w in zip(names, found.split(rests.sizes), weights.split(rests.sizes)):
        expected = w @ torch.linalg.matrix_exp(0.5 * expected_jacobian(*function_of(name), PARAMETER))
        torch.testing.assert_close(g, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
