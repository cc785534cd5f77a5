"""Models that differ in numbers or constant arrays alone share what is compiled, and compute what they computed by themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from julia_models import JuliaModel
from ode_models import LARGE, MODELS
from torch import nn
from torch_models import LAYERS, Rhs
from torch_reference import TIME, Each, operation_groups

import pysciode as ps
from pysciode.capture import capture
from pysciode.capture.torch.array_capture import capture_torch
from pysciode.lowering import LoweredModel, lower
from pysciode.lowering.loops.array_functions import lower_array
from pysciode.lowering.numbers_apart import with_numbers_apart
from pysciode.lowering.scalars import scalar_functions as scalar

F64 = torch.float64
FUNCTIONS = frozenset({"f!", "vjp_both!", "f_oop"})


def compare(lowered: LoweredModel, julia: JuliaModel, plain: JuliaModel, seed: int = 0) -> None:
    """Assert that both compute the same at a random point."""
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(0.3, 1.0, (2, lowered.n)).astype(lowered.dtype)
    p = rng.uniform(0.3, 1.0, lowered.n_params).astype(lowered.dtype)
    for name in sorted(FUNCTIONS & lowered.functions):
        expected = plain.call(name, u, p, TIME, v)
        tolerance = 2e-5 if lowered.dtype == np.float32 else 1e-13
        np.testing.assert_allclose(julia.call(name, u, p, TIME, v), expected, rtol=tolerance, atol=tolerance, err_msg=name)
        if name != "f_oop":
            assert julia.allocated(name, u, p, TIME, v) == 0, name


def check(lowered: LoweredModel) -> LoweredModel:
    apart = with_numbers_apart(lowered)
    if apart.constants:
        compare(lowered, JuliaModel(apart), JuliaModel(lowered))
    return apart


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("group", operation_groups())
def test_operations(group):
    torch.manual_seed(0)
    model = Each([f for _, f in group])
    check(lower_array(capture_torch(model, torch.rand(len(group), 3, 4, dtype=F64), t0=TIME), {"f!"}))


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("name", ["mlp", "layer_norm", "conv2d", "gru_cell"])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_layers(name, dtype):
    torch.manual_seed(0)
    f, shape, *layers = LAYERS[name]()
    check(lower_array(capture_torch(Rhs(f, *layers).to(dtype).eval(), torch.rand(shape, dtype=dtype), t0=TIME), FUNCTIONS))


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("name", [*MODELS, *LARGE])
def test_scalar_models(name):
    point = (MODELS | LARGE)[name]
    model = capture(point.f, point.u, point.p)
    for dtype in (np.float64, np.float32):
        check(lower(model, dtype, n=len(model.u), n_params=len(model.p), want=FUNCTIONS))


@pytest.mark.julia
def test_a_model_in_several_parts(monkeypatch):
    monkeypatch.setattr(scalar, "_CHUNK", 100)
    point = MODELS["pollu"]
    f = point.f
    model = capture(lambda u, p, t: [0.7 * x for x in f(1.3 * u, p, t)], point.u, point.p)
    apart = check(lower(model, np.float64, n=len(model.u), n_params=len(model.p), want={"f!", "vjp_both!"}))
    assert "f_part2!" in apart.source
    assert apart.constants


def torch_model(u, scale, table):
    return torch.tanh(scale * u) @ table + (u > 0.37 * scale) * 1.7


@pytest.mark.julia
def test_other_numbers_and_arrays_take_what_is_compiled():
    """Powers of two stay in the source, and equal numbers are one: those make another program."""
    first = None
    for k in range(4):
        table = torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(k))
        captured = capture_torch(lambda u: torch_model(u, 1.3 + 0.1 * k, table), torch.rand(3, 4, dtype=F64))
        lowered = lower_array(captured, FUNCTIONS)
        apart = with_numbers_apart(lowered)
        first = first or JuliaModel(apart)
        compare(lowered, JuliaModel(apart, like=first), JuliaModel(lowered), seed=k)


def programs(problem: ps.ODEProblem) -> set[int]:
    """The Julia modules that hold what was compiled for a problem."""
    import juliacall

    module = juliacall.Main.seval("h -> objectid(PySciODE.get_object(PySciODE.MODELS, h).generated.mod)")
    from pysciode.engines.julia.plans import Plan

    return {int(module(plan.models[0].handle)) for plan in problem.compiled[Plan].values()}


KEPT = {"rate": 1.0}


def with_closure(rate):
    return lambda u, p, t: [-rate * p[0] * u[0], 0.3 * rate * u[0]]


def with_default(rate):
    def f(u, p, t, k=rate):
        return [-k * p[0] * u[0], 0.3 * k * u[0]]

    return f


def with_array(rate):
    rates = np.array([-rate, 0.3 * rate])
    return lambda u, p, t: [rates[0] * p[0] * u[0], rates[1] * u[0]]


def with_global(rate):
    KEPT["rate"] = rate
    return of_global


def of_global(u, p, t):
    return [-KEPT["rate"] * p[0] * u[0], 0.3 * KEPT["rate"] * u[0]]


class Decay(nn.Module):
    """Large enough to be captured as arrays."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate
        self.weight = nn.Parameter(torch.ones((), dtype=F64))
        self.register_buffer("mask", torch.linspace(0.5, 1.5, 400, dtype=F64) * rate)

    def forward(self, t, u):
        return -self.rate * self.weight * torch.sin(self.mask) * u


@pytest.mark.julia
@pytest.mark.parametrize("make", [with_closure, with_default, with_array, with_global], ids=lambda f: f.__name__)
@pytest.mark.parametrize("algorithm", [ps.Tsit5(), ps.Rodas5P()], ids=str)
def test_a_changed_number_in_a_function(make, algorithm):
    compiled = []
    for rate in (1.1, 1.2, 1.3, 0.7, 1.1):
        p = torch.tensor([1.3], dtype=F64, requires_grad=True)
        problem = ps.ODEProblem(make(rate), torch.tensor([1.0, 0.0], dtype=F64), (0.0, 1.0), p)
        u = ps.solve(problem, algorithm, saveat=[1.0], rtol=1e-9, atol=1e-9, engine="julia").u
        expected = np.exp(-1.3 * rate)
        assert u[-1, 0].item() == pytest.approx(expected, rel=1e-7)
        u[-1, 0].backward()
        assert p.grad.item() == pytest.approx(-rate * expected, rel=1e-6)
        compiled.append(programs(problem))
    assert compiled[1] == compiled[2] == compiled[3]


@pytest.mark.julia
def test_a_changed_number_and_buffer_in_a_module():
    compiled = []
    for rate in (1.1, 1.2, 1.3, 0.7):
        model = Decay(rate)
        problem = ps.ODEProblem(model, torch.ones(400, dtype=F64), (0.0, 1.0))
        u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine="julia").u
        expected = torch.exp(-rate * torch.sin(model.mask))
        torch.testing.assert_close(u[-1], expected, rtol=1e-7, atol=0)
        u[-1].sum().backward()
        slope = -(rate * torch.sin(model.mask) * expected).sum()
        assert model.weight.grad.item() == pytest.approx(slope.item(), rel=1e-6)
        compiled.append(programs(problem))
    assert compiled[1] == compiled[2] == compiled[3]


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("name", ["ZygoteVJP", "ReverseDiffVJP", "TrackerVJP"])
def test_vector_jacobian_products_of_packages(name):
    for rate in (1.1, 1.2, 1.3):
        p = torch.tensor([1.3], dtype=F64, requires_grad=True)
        problem = ps.ODEProblem(with_closure(rate), torch.tensor([1.0, 0.0], dtype=F64), (0.0, 1.0), p)
        method = ps.InterpolatingAdjoint(autojacvec=name)
        ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, sensealg=method, engine="julia").u[-1, 0].backward()
        assert p.grad.item() == pytest.approx(-rate * np.exp(-1.3 * rate), rel=1e-6)


def test_numbers_are_found():
    """In both precisions, but for powers of two and whole numbers, which may be places."""
    source = "function f!(du, u, p, t, w)\n    x1 = u[1] * 0.3 + (-1.0e-5) * 2.0 - x2_3.y\n    du[1] = pow(x1, 3.0f0) + 1.5f-7 / 0.25 + u[12]\nend"
    model = LoweredModel(source, frozenset({"f!"}), "scalar", 1, 0, np.dtype(np.float64))
    apart = with_numbers_apart(model)
    np.testing.assert_allclose(apart.constants["numbers"], [0.3, 1e-5, 3.0, 1.5e-7])
    assert "x1 = u[1] * n1 + (-n2) * 2.0 - x2_3.y" in apart.source
    assert "pow(x1, n3) + n4 / 0.25 + u[12]" in apart.source
