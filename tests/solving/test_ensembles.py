"""Ensembles against SciPy, member by member; their gradients against torchdiffeq and finite differences."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchdiffeq
from scipy.integrate import solve_ivp

import pysciode as ps
from pysciode.arrays.devices import stand_in

KERNEL = [pytest.mark.julia, pytest.mark.extra("ensembles")]
RNG = np.random.default_rng(7)


@pytest.fixture(
    params=[
        pytest.param((ps.EnsembleSerial(), "embedded"), id="serial-embedded"),
        pytest.param((ps.EnsembleThreads(2), "embedded"), id="threads-embedded"),
        pytest.param((ps.EnsembleSerial(), "julia"), id="serial", marks=pytest.mark.julia),
        pytest.param((ps.EnsembleThreads(2), "julia"), id="threads", marks=pytest.mark.julia),
        pytest.param((ps.EnsembleGPUKernel(), "julia"), id="kernel", marks=KERNEL),
    ]
)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each way to solve an ensemble."""
    return dict(zip(("ensemblealg", "engine"), request.param, strict=True))


def lorenz(u, p, t):
    x, y, z = u
    return [p["sigma"] * (y - x), x * (p["rho"] - z) - y, x * y - p["beta"] * z]


def lotka_volterra(u, p, t):
    return [p[0] * u[0] - p[1] * u[0] * u[1], p[2] * u[0] * u[1] - p[3] * u[1]]


def reference(f: Callable[..., Any], u0: Any, p: Any, tspan: tuple[float, float], t: Any, method: str = "DOP853") -> np.ndarray:
    return solve_ivp(lambda t, u: f(u, p, t), tspan, u0, method=method, t_eval=t, rtol=1e-11, atol=1e-13).y.T


def lorenz_ensemble(n: int = 70) -> tuple[ps.EnsembleProblem, list[np.ndarray]]:
    p = {"sigma": 10.0, "rho": 28.0, "beta": 8 / 3}
    problem = ps.ODEProblem(lorenz, [1.0, 0.0, 0.0], (0.0, 1.0), p)
    u0 = RNG.normal(size=(n, 3))
    ps_ = {"sigma": np.full(n, 10.0), "rho": RNG.uniform(0.0, 28.0, n), "beta": RNG.uniform(1.0, 3.0, n)}
    t = np.linspace(0.0, 1.0, 6)
    expected = [reference(lorenz, u0[i], {k: x[i] for k, x in ps_.items()}, (0.0, 1.0), t) for i in range(n)]
    return ps.EnsembleProblem(problem, u0, ps_), expected


@pytest.mark.slow
def test_lorenz_is_scipys(way: dict[str, Any]) -> None:
    ensemble, expected = lorenz_ensemble(12 if way["engine"] == "embedded" else 70)
    sol = ps.solve(ensemble, ps.Tsit5(), saveat=0.2, rtol=1e-9, atol=1e-11, **way)
    assert sol.success and sol.u.shape == (len(ensemble), 6, 3) and sol.u.dtype == np.float64
    np.testing.assert_allclose(sol.t, np.linspace(0.0, 1.0, 6), atol=1e-15)
    np.testing.assert_allclose(sol.u, expected, rtol=1e-6, atol=1e-6)


def test_end_states_in_float32(way: dict[str, Any]) -> None:
    problem = ps.ODEProblem(lotka_volterra, np.float32([1.0, 1.0]), (0.0, 3.0), [1.5, 1.0, 1.0, 3.0])
    p = RNG.uniform(0.8, 1.2, (9, 4)) * [1.5, 1.0, 1.0, 3.0]
    sol = ps.solve(ps.EnsembleProblem(problem, p=p), ps.Tsit5(), rtol=1e-5, atol=1e-6, **way)
    assert sol.u.shape == (9, 1, 2) and sol.u.dtype == sol.t.dtype == np.float32 and sol.t.tolist() == [3.0]
    expected = [reference(lotka_volterra, [1.0, 1.0], row, (0.0, 3.0), [3.0]) for row in p]
    np.testing.assert_allclose(sol.u, expected, rtol=2e-4)


def test_a_member_is_a_solution(way: dict[str, Any]) -> None:
    ensemble, expected = lorenz_ensemble(5)
    sol = ps.solve(ensemble, ps.Tsit5(), saveat=[0.2, 0.6], rtol=1e-8, atol=1e-10, **way)
    assert len(sol) == 5 and len(list(sol)) == 5
    assert isinstance(sol[-1], ps.Solution) and sol[-1].success and sol[-1].problem.p is not None
    np.testing.assert_allclose(sol[-1].u, expected[4][[1, 3]], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(sol[4].u, sol.u[4])
    np.testing.assert_array_equal(sol[4].t, sol.t)
    with pytest.raises(IndexError):
        sol[5]
    again = pickle.loads(pickle.dumps(sol))
    np.testing.assert_array_equal(again.u, sol.u)


def test_summary(way: dict[str, Any]) -> None:
    problem = ps.ODEProblem(lambda u, p, t: p * u, [1.0, 2.0], (0.0, 1.0), -1.0)
    rates = np.array([-1.0, -2.0, -4.0])
    summary = ps.solve(ps.EnsembleProblem(problem, p=rates), ps.Tsit5(), saveat=0.5, rtol=1e-9, atol=1e-11, **way).summary()
    exact = np.exp(rates[:, None, None] * np.array([0.0, 0.5, 1.0])[:, None]) * [1.0, 2.0]
    assert summary.count == 3
    np.testing.assert_allclose(summary.mean, exact.mean(0), rtol=1e-7)
    np.testing.assert_allclose(summary.std, exact.std(0, ddof=1), rtol=1e-6, atol=1e-9)


def blowing_up() -> ps.EnsembleProblem:
    """``du/dt = p u²`` from 1 is infinite at ``1/p``."""
    problem = ps.ODEProblem(lambda u, p, t: p * u**2, [1.0], (0.0, 2.0), 1.0)
    return ps.EnsembleProblem(problem, p=np.array([0.1, 1.0, 0.2, 0.8, 0.25]))


@pytest.mark.slow
def test_members_that_fail_are_named(way: dict[str, Any]) -> None:
    options = {"saveat": [0.0, 0.5, 2.0], "rtol": 1e-8, "atol": 1e-10, **way}
    with pytest.raises(ps.SolveFailed, match=r"member 1, and 2 of 5 members failed \(1, 3\)") as caught:
        ps.solve(blowing_up(), ps.Tsit5(), **options)
    assert caught.value.t == pytest.approx(1.0, abs=1e-4)
    sol = ps.solve(blowing_up(), ps.Tsit5(), throw=False, **options)
    assert not sol.success and sol.failed.tolist() == [1, 3]
    assert sol.retcodes[0] == "Success" and sol.retcodes[1] in ("Unstable", "DtLessThanMin", "MaxIters")
    np.testing.assert_allclose(sol.t_reached, [2.0, 1.0, 2.0, 1.25, 2.0], atol=1e-4)
    exact = [1 / (1 - p * np.array([[0.0], [0.5], [2.0]])) for p in (0.1, 1.0, 0.2, 0.8, 0.25)]
    for i, row in enumerate(exact):
        row[2 if i in (1, 3) else 3 :] = np.nan
    np.testing.assert_allclose(sol.u, exact, rtol=1e-6)
    assert sol[1].t.tolist() == [0.0, 0.5] and not sol[1].success
    np.testing.assert_allclose(sol.summary().mean[:, 0], np.mean([exact[0], exact[2], exact[4]], axis=0)[:, 0], rtol=1e-6)


def test_maxiters(way: dict[str, Any]) -> None:
    ensemble, _ = lorenz_ensemble(3)
    sol = ps.solve(ensemble, ps.Tsit5(), maxiters=5, throw=False, rtol=1e-9, atol=1e-11, **way)
    assert sol.retcodes.tolist() == ["MaxIters"] * 3 and np.isnan(sol.u).all() and (sol.t_reached < 0.5).all()


@pytest.mark.slow
def test_options(way: dict[str, Any]) -> None:
    ensemble, expected = lorenz_ensemble(4)
    done: list[int] = []
    sol = ps.solve(ensemble, ps.Tsit5(), saveat=0.2, save_idxs=[2, 0], dtmax=0.01, rtol=1e-9, atol=1e-11, progress=done.append, **way)
    np.testing.assert_allclose(sol.u, np.array(expected)[:, :, [2, 0]], rtol=1e-6, atol=1e-6)
    assert done[-1] == 4 and done == sorted(done)
    assert sol[0].names == ("u[2]", "u[0]")


def test_tensors_in_tensors_out(way: dict[str, Any]) -> None:
    u0 = torch.from_numpy(RNG.normal(size=(3, 2)))
    p = torch.tensor([-1.0, -0.5, 0.3], dtype=torch.float64)
    problem = ps.ODEProblem(lambda u, p, t: p * u + torch.sin(t), u0[0], (0.0, 1.0), p[0])
    sol = ps.solve(ps.EnsembleProblem(problem, u0, p), ps.Tsit5(), saveat=[0.0, 1.0], rtol=1e-9, atol=1e-11, **way)
    assert isinstance(sol.u, torch.Tensor) and isinstance(sol.t, torch.Tensor) and sol.u.dtype == torch.float64
    for i in range(3):
        rate = float(p[i])
        expected = reference(lambda u, p, t: p * u + math.sin(t), u0[i].numpy(), rate, (0.0, 1.0), [0.0, 1.0])
        np.testing.assert_allclose(sol.u[i], expected, rtol=1e-7, atol=1e-8)
    assert isinstance(sol.summary().std, torch.Tensor) and isinstance(sol[1].u, torch.Tensor)


@pytest.mark.parametrize("ensemblealg", [ps.EnsembleSerial(), ps.EnsembleThreads(2)])
def test_gradients(engine: str, ensemblealg: Any) -> None:
    """To states, parameters and a module's parameters."""
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 2).double()

    def f(u, p, t):
        return torch.tanh(net(u)) * p

    u0 = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    p = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    problem = ps.ODEProblem(f, u0[0].detach(), (0.0, 1.0), p[0].detach())
    options = {"saveat": [0.5, 1.0], "rtol": 1e-9, "atol": 1e-11}
    sol = ps.solve(ps.EnsembleProblem(problem, u0, p), ps.Tsit5(), ensemblealg=ensemblealg, engine=engine, **options)
    weights = torch.randn(3, 2, 2, dtype=torch.float64)
    inputs = (u0, p, *net.parameters())
    found = torch.autograd.grad((sol.u * weights).sum(), inputs)
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    expected = torchdiffeq.odeint(lambda t, u: f(u, p, t), u0, times, rtol=1e-11, atol=1e-12)[1:].transpose(0, 1)
    torch.testing.assert_close(sol.u, expected, rtol=1e-7, atol=1e-8)
    for a, b in zip(found, torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_gradients_are_finite_differences(engine: str) -> None:
    p = torch.tensor([[1.5, 1.0, 1.0, 3.0], [1.2, 0.9, 1.1, 2.5]], dtype=torch.float64, requires_grad=True)
    problem = ps.ODEProblem(lotka_volterra, torch.ones(2, dtype=torch.float64), (0.0, 2.0), p[0].detach())

    def end(p: torch.Tensor) -> torch.Tensor:
        options = {"rtol": 1e-10, "atol": 1e-12, "engine": engine}
        return ps.solve(ps.EnsembleProblem(problem, p=p), ps.Tsit5(), ensemblealg=ps.EnsembleThreads(), **options).u

    (found,) = torch.autograd.grad(end(p).pow(2).sum(), p)
    for i, j in ((0, 0), (1, 3)):
        step = torch.zeros_like(p)
        step[i, j] = 1e-5
        with torch.no_grad():
            difference = (end(p + step).pow(2).sum() - end(p - step).pow(2).sum()) / 2e-5
        assert found[i, j].item() == pytest.approx(difference.item(), rel=1e-5)


def test_no_gradient_through_members_that_failed(engine: str) -> None:
    rates = torch.tensor([0.1, 1.0], dtype=torch.float64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: p * u**2, torch.ones(1, dtype=torch.float64), (0.0, 2.0), rates[0].detach())
    sol = ps.solve(ps.EnsembleProblem(problem, p=rates), ps.Tsit5(), throw=False, engine=engine, rtol=1e-8, atol=1e-10)
    assert sol.failed.tolist() == [1]
    (found,) = torch.autograd.grad(sol.u[0].sum(), rates)
    assert found[0].item() == pytest.approx(2 / (1 - 0.2) ** 2, rel=1e-5) and found[1].item() == 0.0


def test_grad_mode_is_that_of_the_caller(engine: str) -> None:
    u0 = torch.ones(40, 1, dtype=torch.float64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: -u, torch.ones(1, dtype=torch.float64), (0.0, 1.0))
    with torch.no_grad():
        sol = ps.solve(ps.EnsembleProblem(problem, u0), ps.Tsit5(), ensemblealg=ps.EnsembleThreads(2), engine=engine)
    assert not sol.u.requires_grad and not sol[39].u.requires_grad


def test_second_order_problems(engine: str) -> None:
    problem = ps.SecondOrderODEProblem(lambda du, u, p, t: -p * u, [0.0], [1.0], (0.0, 1.0), 1.0)
    squares = np.array([1.0, 4.0])
    sol = ps.solve(ps.EnsembleProblem(problem, p=squares), ps.Tsit5(), saveat=0.5, engine=engine, rtol=1e-9, atol=1e-11)
    t = np.array([0.0, 0.5, 1.0])[:, None]
    np.testing.assert_allclose(sol.u, [np.cos(t), np.cos(2 * t)], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(sol.v, [-np.sin(t), -2 * np.sin(2 * t)], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ensemblealg", [ps.EnsembleSerial(), ps.EnsembleThreads(2)])
def test_what_a_model_raises_arrives(julia_engine: str, ensemblealg: Any) -> None:
    def f(u, p, t):
        if p[0] > 30:
            raise ZeroDivisionError("a large rate")
        return -p * u

    problem = ps.ODEProblem(f, [1.0], (0.0, 1.0), [0.0], capture="callback")
    ensemble = ps.EnsembleProblem(problem, p=np.arange(60.0)[:, None])
    with pytest.raises(ZeroDivisionError, match="a large rate"):
        ps.solve(ensemble, ps.Tsit5(), ensemblealg=ensemblealg, engine=julia_engine)


def test_indexing_gives_the_members_problem() -> None:
    ensemble, _ = lorenz_ensemble(3)
    member = ensemble[2]
    np.testing.assert_array_equal(member.u0, ensemble.u0[2])
    assert member.layout.unflatten(member.flat_p()) == {key: x[2] for key, x in ensemble.p.items()}
    assert len(ensemble) == 3 and "3 members that differ in u0 and p" in repr(ensemble)


PROBLEM = ps.ODEProblem(lotka_volterra, [1.0, 1.0], (0.0, 1.0), [1.5, 1.0, 1.0, 3.0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "u0 or p must be given"),
        ({"u0": np.ones((3, 3))}, ValueError, r"u0 has shape \(3, 3\); it must be \(N, 2\)"),
        ({"u0": np.ones(2)}, ValueError, r"u0 has shape \(2,\)"),
        ({"u0": np.ones((0, 2))}, ValueError, "u0 is empty"),
        ({"u0": np.array([[1.0, 1.0], [1.0, np.nan]])}, ValueError, r"u0\[1, 1\] is nan"),
        ({"u0": np.ones((3, 2), complex)}, TypeError, "u0 is complex"),
        ({"p": np.ones(4)}, ValueError, r"p: p has shape \(4,\); it must be \(N, 4\)"),
        ({"p": {"a": np.ones((3, 4))}}, ValueError, "p must have the structure of the problem's parameters"),
        ({"p": np.full((3, 4), np.inf)}, ValueError, "p must be finite"),
        ({"u0": np.ones((3, 2)), "p": np.ones((2, 4))}, ValueError, "u0 and p are of 2 and 3 members"),
        ({"u0": torch.ones(3, 2), "p": torch.ones(3, 4, dtype=torch.float64)}, TypeError, "float64 but u0 is float32"),
    ],
)
def test_bad_ensembles(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ps.EnsembleProblem(PROBLEM, **arguments)


def test_bad_arguments() -> None:
    ensemble = ps.EnsembleProblem(PROBLEM, u0=np.ones((3, 2)))
    with pytest.raises(TypeError, match="problem must be an ODEProblem"):
        ps.EnsembleProblem(lotka_volterra, u0=np.ones((3, 2)))
    with pytest.raises(TypeError, match="ensemblealg must be"):
        ps.solve(ensemble, ps.Tsit5(), ensemblealg="threads")
    with pytest.raises(TypeError, match="ensemblealg is for an EnsembleProblem"):
        ps.solve(PROBLEM, ps.Tsit5(), ensemblealg=ps.EnsembleSerial())
    with pytest.raises(TypeError, match="progress must be"):
        ps.solve(ensemble, ps.Tsit5(), progress=3)
    for workers, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="workers"):
            ps.EnsembleThreads(workers)


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        (None, {}, "no default algorithm: it has Tsit5"),
        (ps.BS3(), {}, "no BS3: it has Tsit5, Vern7, .*Kvaerno5; EnsembleThreads"),
        (ps.Rodas5P(autodiff=False), {}, "algorithms have no options"),
        (ps.Tsit5(), {"tstops": [0.5]}, "tstops can't be given with EnsembleGPUKernel"),
        (ps.Tsit5(), {"sensealg": ps.GaussAdjoint()}, "sensealg can't be given"),
        (ps.Tsit5(), {"atol": np.ones(2)}, "atol must be one number"),
        (ps.Tsit5(), {"qmax": 3.0}, "qmax can't be given"),
        (ps.Tsit5(), {"adaptive": False, "dt": 0.1}, "adaptive can't be given"),
    ],
)
def test_what_kernels_cannot_do(algorithm: Any, options: dict[str, Any], message: str) -> None:
    ensemble = ps.EnsembleProblem(PROBLEM, u0=np.ones((3, 2)))
    with pytest.raises(ValueError, match=message):
        ps.solve(ensemble, algorithm, ensemblealg=ps.EnsembleGPUKernel(), engine="julia", **options)


def test_kernels_refuse_gradients_and_large_models() -> None:
    kernel = {"ensemblealg": ps.EnsembleGPUKernel(), "engine": "julia"}
    u0 = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="no gradient passes through EnsembleGPUKernel.*EnsembleThreads"):
        ps.solve(ps.EnsembleProblem(PROBLEM, u0), ps.Tsit5(), **kernel)
    wide = ps.ODEProblem(lambda u, p, t: -u, np.ones(21), (0.0, 1.0))
    with pytest.raises(ValueError, match="20 entries at most, not 21.*EnsembleThreads"):
        ps.solve(ps.EnsembleProblem(wide, np.ones((2, 21))), ps.Tsit5(), **kernel)
    called = ps.ODEProblem(lambda u, p, t: -u, np.ones(2), (0.0, 1.0), capture="callback")
    with pytest.raises(ValueError, match="whose formulas are known"):
        ps.solve(ps.EnsembleProblem(called, np.ones((2, 2))), ps.Tsit5(), **kernel)
    heavy = ps.ODEProblem(lambda u, p, t: -u, np.ones(2), (0.0, 1.0), mass_matrix=np.eye(2))
    with pytest.raises(ValueError, match="mass_matrix"):
        ps.solve(ps.EnsembleProblem(heavy, np.ones((2, 2))), ps.Tsit5(), **kernel)


def test_kernels_need_julia() -> None:
    ensemble = ps.EnsembleProblem(PROBLEM, u0=np.ones((3, 2)))
    with pytest.raises(ps.EngineUnavailable):
        ps.solve(ensemble, ps.Tsit5(), ensemblealg=ps.EnsembleGPUKernel(), engine="embedded")


@pytest.mark.julia
@pytest.mark.extra("ensembles")
class TestKernel:
    """What the steppers of the kernels might do differently."""

    kernel = {"ensemblealg": ps.EnsembleGPUKernel(), "engine": "julia"}

    @pytest.mark.slow
    @pytest.mark.parametrize("name", "Tsit5 Vern7 Vern9 Rosenbrock23 Rodas4 Rodas5P Kvaerno3 Kvaerno5".split())
    def test_algorithms(self, name: str) -> None:
        """With a right-hand side that depends on the time, where that can be, at times between steps."""

        def f(u, p, t):
            return [u[1], -p[0] * np.sin(u[0]) + p[1] * np.cos(3 * (u[1] if name.startswith("Kvaerno") else t))]

        problem = ps.ODEProblem(f, [1.0, 0.0], (0.5, 3.0), [1.0, 0.0])
        p = RNG.uniform(0.5, 2.0, (40, 2))
        t = np.linspace(0.5, 3.0, 12)
        tolerance = 1e-5 if name == "Rosenbrock23" else 1e-7
        ensemble = ps.EnsembleProblem(problem, p=p)
        sol = ps.solve(ensemble, ps.Algorithm(name), saveat=t, rtol=tolerance, atol=tolerance, **self.kernel)
        for i in (0, 39):
            expected = reference(f, [1.0, 0.0], p[i], (0.5, 3.0), t)
            np.testing.assert_allclose(sol.u[i], expected, rtol=200 * tolerance, atol=200 * tolerance)

    @pytest.mark.parametrize("algorithm", [ps.Kvaerno3(), ps.Kvaerno5()])
    def test_what_is_not_accurate_is_refused(self, algorithm: ps.Algorithm) -> None:
        problem = ps.ODEProblem(lambda u, p, t: -u * t, [1.0], (0.0, 1.0))
        with pytest.raises(ValueError, match="stages at a wrong time.*Rodas5P"):
            ps.solve(ps.EnsembleProblem(problem, np.ones((2, 1))), algorithm, **self.kernel)

    def test_stiff(self) -> None:
        """Robertson's reactions, over eleven orders of magnitude of time."""

        def f(u, p, t):
            fast, slow = p[2] * u[1] * u[2], p[1] * u[1] ** 2
            return [-p[0] * u[0] + fast, p[0] * u[0] - fast - slow, slow]

        problem = ps.ODEProblem(f, [1.0, 0.0, 0.0], (0.0, 1e5), [0.04, 3e7, 1e4])
        p = np.array([[0.04, 3e7, 1e4], [0.05, 2e7, 2e4]])
        t = [1e-3, 1.0, 1e3, 1e5]
        sol = ps.solve(ps.EnsembleProblem(problem, p=p), ps.Rodas5P(), saveat=t, rtol=1e-7, atol=1e-11, **self.kernel)
        for i, row in enumerate(p):
            exact = solve_ivp(lambda t, u: f(u, row, t), (0.0, 1e5), [1.0, 0.0, 0.0], "Radau", t, rtol=1e-10, atol=1e-14).y.T
            np.testing.assert_allclose(sol.u[i], exact, rtol=1e-5, atol=1e-10)

    @pytest.mark.slow
    @pytest.mark.parametrize("span", [(2.0, -1.0), (0.0, 3e-13), (5.0, 5.0 - 1e-10), (0.0, 4000.0)])
    @pytest.mark.parametrize("algorithm", [ps.Tsit5(), ps.Rodas4()])
    def test_time_spans(self, span: tuple[float, float], algorithm: ps.Algorithm) -> None:
        """Backwards, and in units in which the span is very short or long: a decay and a forcing over the whole of it."""
        start, end = span
        length = end - start

        def f(u, p, t):
            return (-p * u + np.cos((t - start) / length)) / length

        problem = ps.ODEProblem(f, [1.0], span, 1.0)
        sol = ps.solve(ps.EnsembleProblem(problem, p=np.array([1.0, 3.0])), algorithm, rtol=1e-9, atol=1e-11, **self.kernel)
        for i, rate in enumerate((1.0, 3.0)):
            exact = reference(lambda u, p, t: -rate * u + np.cos(t), [1.0], None, (0.0, 1.0), [1.0])
            np.testing.assert_allclose(sol.u[i], exact, rtol=1e-6)

    def test_a_trial_step_out_of_the_models_domain(self) -> None:
        """``du/dt = -sqrt(u)`` ends at zero, beyond which there is no root: a long trial step is tried again."""
        problem = ps.ODEProblem(lambda u, p, t: -np.sqrt(u) - p, [1.0], (0.0, 1.5), 0.0)
        sol = ps.solve(ps.EnsembleProblem(problem, p=np.zeros(3)), ps.Tsit5(), dt=10.0, rtol=1e-8, atol=1e-10, **self.kernel)
        np.testing.assert_allclose(sol.u, np.full((3, 1, 1), (1 - 0.75) ** 2), rtol=1e-6)
        beyond = ps.ODEProblem(lambda u, p, t: -np.sqrt(u) - p, [1.0], (0.0, 3.0), 0.0)
        sol = ps.solve(ps.EnsembleProblem(beyond, p=np.array([0.1])), ps.Tsit5(), throw=False, **self.kernel)
        assert sol.retcodes[0] in ("Unstable", "DtLessThanMin") and 1.5 < sol.t_reached[0] < 2.0

    def test_a_small_network(self) -> None:
        """Captured as array operations, and unrolled."""
        torch.manual_seed(1)
        layers = torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 16), torch.nn.Softplus(), torch.nn.Linear(16, 3)
        net = torch.nn.Sequential(*layers)
        u0 = torch.randn(40, 3)
        problem = ps.ODEProblem(lambda u, p, t: net(u), u0[0], (0.0, 1.0))
        with torch.no_grad():
            sol = ps.solve(ps.EnsembleProblem(problem, u0), ps.Tsit5(), saveat=0.5, rtol=1e-5, atol=1e-6, **self.kernel)
            expected = torchdiffeq.odeint(lambda t, u: net(u), u0, torch.tensor([0.0, 0.5, 1.0]), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(sol.u, expected.transpose(0, 1), rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_functions_outside_their_domain_are_not_numbers(self) -> None:
        """What a C library has on the CPU is written anew for devices: the same values, NaN outside."""

        def f(u, p, t):
            x = p
            return np.stack(
                [
                    np.log(x[0]), np.log2(x[0]), np.log10(x[0]), np.log1p(x[0] - 1), np.sqrt(x[0]), np.arcsin(x[1]),
                    np.arccos(x[1]), np.arccosh(x[0] + 1), np.arctanh(x[1]), np.sin(x[0]), np.cos(x[0]), np.tan(x[0]), x[0] ** x[1], np.tanh(x[1]),
                ]
            )  # fmt: skip

        problem = ps.ODEProblem(f, np.zeros(14), (0.0, 1.0), [1.0, 0.5])
        p = np.array([[0.3, 0.7], [2.0, -0.4]])
        sol = ps.solve(ps.EnsembleProblem(problem, p=p), ps.Tsit5(), **self.kernel)
        np.testing.assert_allclose(sol.u[:, 0], [f(None, row, None) for row in p], rtol=1e-12)
        outside = ps.EnsembleProblem(problem, p=np.array([[-0.3, 0.7], [0.3, 1.7]]))
        sol = ps.solve(outside, ps.Tsit5(), throw=False, **self.kernel)
        assert sol.failed.tolist() == [0, 1]

    @pytest.mark.extra("jlarrays")
    def test_on_a_device(self) -> None:
        """JLArrays stand for a GPU."""
        with stand_in():
            u0 = torch.from_numpy(RNG.uniform(0.5, 2.0, (50, 2)))
            problem = ps.ODEProblem(lotka_volterra, u0[0], (0.0, 2.0), torch.tensor([1.5, 1.0, 1.0, 3.0], dtype=torch.float64))
            ensemble = ps.EnsembleProblem(problem, u0)
            assert ensemble.problem.device == "stand_in:0"
            for algorithm in (ps.Tsit5(), ps.Rodas4()):
                sol = ps.solve(ensemble, algorithm, saveat=1.0, rtol=1e-8, atol=1e-10, **self.kernel)
                for i in (0, 49):
                    expected = reference(lotka_volterra, u0[i].numpy(), [1.5, 1.0, 1.0, 3.0], (0.0, 2.0), [0.0, 1.0, 2.0])
                    np.testing.assert_allclose(sol.u[i], expected, rtol=1e-5)
            rates = torch.tensor([0.1, 1.0], dtype=torch.float64)
            failing = ps.ODEProblem(lambda u, p, t: p * u**2, torch.ones(1, dtype=torch.float64), (0.0, 2.0), rates[0])
            sol = ps.solve(ps.EnsembleProblem(failing, p=rates), ps.Tsit5(), throw=False, **self.kernel)
            assert sol.failed.tolist() == [1] and sol.u[1].isnan().all()
            assert sol.u[0].item() == pytest.approx(1.25, rel=1e-4)


@pytest.mark.julia
@pytest.mark.extra("ensembles")
def test_the_code_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    (code,) = re.findall(r"^```python ensembles\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names = {"ps": ps, "np": np}
    exec(code, names)
    assert names["sol"].success
    assert names["sol"].u.shape == (1000, 2, 3)
