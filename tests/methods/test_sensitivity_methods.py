"""Methods that can't work are refused before any engine runs; the choices of VJP; gradients of modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pysciode as ps
from pysciode.engines.embedded.engine import EmbeddedEngine
from pysciode.engines.julia import installation
from pysciode.engines.julia.engine import JuliaEngine

F64 = torch.float64


def decay(u, p, t):
    return [-p * u[0]]


def a_solve(sensealg, engine="embedded", k=2.0):
    """``u' = -k u`` to t = 1; the gradient of u(1) to k."""
    p = torch.tensor(k, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(decay, torch.ones(1, dtype=F64), (0.0, 1.0), p)
    ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, sensealg=sensealg, engine=engine).u.sum().backward()
    return p.grad.item()


def test_zygote_through_the_solver_is_refused_at_once(monkeypatch):
    for name in ("solve", "solve_with_pullback"):
        monkeypatch.setattr(EmbeddedEngine, name, lambda *_: pytest.fail("the engine ran"))
    with pytest.raises(ps.GradientFailed, match="mutate their arrays.*ReverseDiffAdjoint") as caught:
        a_solve(ps.ZygoteAdjoint())
    assert caught.value.sensealg == "ZygoteAdjoint"


@pytest.mark.parametrize("sensealg", [ps.MooncakeAdjoint(), ps.GaussAdjoint(autojacvec="MooncakeVJP")], ids=str)
def test_a_missing_julia_package_is_named(monkeypatch, sensealg):
    monkeypatch.setattr(installation, "julia_project", lambda: "/some/project")
    monkeypatch.setattr(installation, "installed_packages", lambda project: {"SciMLSensitivity": "7.112.1"})
    with pytest.raises(ps.EngineUnavailable, match="the Julia package Mooncake is not in") as caught:
        JuliaEngine().require(sensealg)
    assert "juliapkg.add('Mooncake'" in str(caught.value)
    monkeypatch.setattr(installation, "installed_packages", lambda project: {"Mooncake": "0.4"})
    JuliaEngine().require(sensealg)


def test_the_embedded_engine_says_that_it_lacks_a_method():
    with pytest.raises(ps.EngineUnavailable, match="MooncakeAdjoint.*embedded engine"):
        a_solve(ps.MooncakeAdjoint())


@pytest.mark.parametrize("method", [ps.GaussAdjoint, ps.GaussKronrodAdjoint, ps.QuadratureAdjoint])
def test_tracker_has_no_vjp_for_quadratures(method):
    with pytest.raises(ValueError, match="autojacvec='TrackerVJP' works with InterpolatingAdjoint"):
        method(autojacvec="TrackerVJP")


@pytest.mark.slow
@pytest.mark.parametrize(
    "sensealg",
    [
        ps.GaussAdjoint(autojacvec="ReverseDiffVJP"),
        ps.GaussAdjoint(autojacvec="ZygoteVJP"),
        ps.InterpolatingAdjoint(autojacvec="TrackerVJP"),
        ps.BacksolveAdjoint(autojacvec="TrackerVJP"),
        ps.QuadratureAdjoint(autojacvec="ReverseDiffVJP", abstol=1e-10, reltol=1e-10),
    ],
    ids=str,
)
def test_vjps_made_by_julia(julia_engine, sensealg):
    assert a_solve(sensealg, julia_engine) == pytest.approx(-np.exp(-2.0), rel=1e-6)


@pytest.mark.parametrize(
    "engine, sensealg",
    [
        pytest.param("julia", None, marks=pytest.mark.julia),
        pytest.param("julia", ps.GaussAdjoint(), marks=pytest.mark.julia),
        ("embedded", None),
    ],
    ids=["julia-default", "julia-GaussAdjoint", "embedded"],
)
def test_gradcheck_of_a_module(engine, sensealg):
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh()).double()
    u0 = torch.randn(2, dtype=F64, requires_grad=True)

    def states(u0, *parameters):
        # gradcheck changes the parameters themselves.
        problem = ps.ODEProblem(net, u0, (0.0, 1.0))
        return ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-10, atol=1e-10, sensealg=sensealg, engine=engine).u

    assert torch.autograd.gradcheck(states, (u0, *net.parameters()), atol=1e-6, rtol=1e-5)


@pytest.mark.julia
@pytest.mark.parametrize(
    "sensealg", [ps.ForwardDiffSensitivity(), ps.ForwardSensitivity(), ps.ReverseDiffAdjoint(), ps.GaussAdjoint("ZygoteVJP")], ids=str
)
def test_methods_that_differentiate_a_model_in_python_are_refused(sensealg):
    """Dual numbers that go through a call into Python come back without their derivatives: a gradient of zeros."""
    p = torch.tensor(2.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: -p * u, torch.ones(1, dtype=F64), (0.0, 1.0), p, capture="callback")
    with pytest.raises(ValueError, match="stays in Python"):
        ps.solve(problem, ps.Tsit5(), saveat=[1.0], sensealg=sensealg, engine="julia")
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, sensealg=ps.GaussAdjoint(), engine="julia").u
    u.sum().backward()
    assert p.grad.item() == pytest.approx(-np.exp(-2.0), rel=1e-6)


@pytest.mark.slow
@pytest.mark.julia
def test_methods_that_see_one_part_of_a_problem_are_refused():
    """Solved in parts, the forward sensitivities of the first part alone would pass for the gradient: -0.135 for -0.210."""
    p = torch.tensor(2.0, dtype=F64, requires_grad=True)
    u0 = torch.ones(1, dtype=F64)
    split = ps.SplitODEProblem(lambda u, p, t: -p * u, lambda u, p, t: 0 * u + 0.5, u0, (0.0, 1.0), p)
    second = ps.SecondOrderODEProblem(lambda v, u, p, t: -p * u, torch.zeros(1, dtype=F64), u0, (0.0, 1.0), p)
    options = {"saveat": [1.0], "rtol": 1e-9, "atol": 1e-11, "engine": "julia"}
    for problem, algorithm in ((split, ps.KenCarp4()), (second, ps.VelocityVerlet())):
        for sensealg in (ps.ForwardSensitivity(), ps.GaussAdjoint(), ps.ReverseDiffAdjoint()):
            with pytest.raises(ValueError, match="in parts: take ForwardDiffSensitivity"):
                ps.solve(problem, algorithm, dt=1e-3, sensealg=sensealg, **options)
    # Of e^-p + (1 - e^-p) / 2p, and of cos √p.
    e = np.exp(-2.0)
    expected = {split: -e - (1 - e) / 8 + e / 4, second: -np.sin(2**0.5) / 8**0.5}
    for problem, algorithm, sensealg in (
        (split, ps.KenCarp4(), None),
        (split, ps.Tsit5(), ps.GaussAdjoint()),
        (second, ps.VelocityVerlet(), None),
        (second, ps.Tsit5(), ps.GaussAdjoint()),
    ):
        p.grad = None
        fixed = {"dt": 1e-4} if algorithm.name == "VelocityVerlet" else {}
        ps.solve(problem, algorithm, sensealg=sensealg, **fixed, **options).u.sum().backward()
        assert p.grad.item() == pytest.approx(expected[problem], rel=1e-5), (algorithm, sensealg)


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("sensealg", [ps.GaussAdjoint(), ps.InterpolatingAdjoint(), ps.BacksolveAdjoint()], ids=str)
def test_a_last_layer_of_zeros_in_float32(sensealg):
    """A usual initialisation: the first steps of the reverse solve are near the spacing of floats, and it goes well."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    torch.nn.init.zeros_(net[2].weight)
    torch.nn.init.zeros_(net[2].bias)
    u0 = torch.randn(8, 2)
    u = ps.solve(ps.ODEProblem(net, u0, (0.0, 10.0)), ps.Tsit5(), saveat=[10.0], sensealg=sensealg, engine="julia").u
    u.square().mean().backward()
    torch.testing.assert_close(net[2].bias.grad, 10.0 * u0.mean(0))  # u = u0 + 10 b


@pytest.mark.slow
@pytest.mark.julia
def test_chunk_sizes_give_the_same_gradient(julia_engine):
    from juliacall import Main

    gradients = []
    for chunk_size in (0, 1, 3, 6):
        p = torch.tensor([0.5, 0.2, 0.1, 0.3, 0.7, 0.9], dtype=torch.float64, requires_grad=True)
        problem = ps.ODEProblem(lambda u, p, t: -p[:3] * u + p[3:], torch.ones(3, dtype=torch.float64), (0.0, 1.0), p)
        options = {"rtol": 1e-9, "atol": 1e-9, "engine": julia_engine}
        sol = ps.solve(problem, ps.Tsit5(), saveat=[1.0], sensealg=ps.ForwardDiffSensitivity(chunk_size=chunk_size), **options)
        sol.u.sum().backward()
        gradients.append(p.grad)
    k = p.detach()[:3]
    forcing = (1 - torch.exp(-k)) / k  # of u' = -k u + b, u(0) = 1: u(1) = exp(-k) + b (1 - exp(-k)) / k
    for found in gradients:
        torch.testing.assert_close(found[3:], forcing, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found, gradients[0], rtol=1e-6, atol=1e-8)
    Main.seval(
        "PySciODE.dual_width(PySciODE.Sensitivity(name=:ForwardDiffSensitivity, options=Pair{Symbol,Any}[:chunk_size => 3]), 10) == 3 || error()"
    )
