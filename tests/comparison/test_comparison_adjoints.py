"""SciML's methods in a comparison, against analytic gradients and SciPy."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import pysciode as ps
from pysciode.comparison.adjoints import ComparisonInterrupted, compare_adjoints
from pysciode.comparison.measure.blocks import Blocks, differentiable
from pysciode.comparison.measure.contestants import Contestant, EngineContestant
from pysciode.comparison.measure.losses import LossFunction, sum_of_squares
from pysciode.comparison.measure.reference import find_reference, reference_solver, ridders
from pysciode.engines import get_engine
from pysciode.errors import EngineUnavailable

pytestmark = pytest.mark.julia

QUICK = dict(repeats=2, peers=False, memory=False, progress=False)
RATES = np.array([1.5, 1.0, 3.0, 1.0])
TIMES = np.linspace(0.0, 4.0, 9)


def lotka_volterra(u, p, t):
    x, y = u
    return [p[0] * x - p[1] * x * y, p[3] * x * y - p[2] * y]


def robertson(u, p, t):
    a, b, c = u
    return [-p[0] * a + p[2] * b * c, p[0] * a - p[2] * b * c - p[1] * b**2, p[1] * b**2]


def lorenz(u, p, t):
    x, y, z = u
    return [p[0] * (y - x), x * (p[1] - z) - y, x * y - p[2] * z]


def rotation(u, p, t):
    return [p["damping"] * u[0] - p["speed"] * u[1], p["speed"] * u[0] + p["damping"] * u[1]]


def rotation_gradient(u0: np.ndarray, a: float, w: float, times: np.ndarray) -> dict[str, np.ndarray]:
    """Gradient of ``Σ_k c_k · u(t_k)`` with ``c_k = (1, k)``; the two generators commute, so derivatives are products."""
    eye, turn = np.eye(2), np.array([[0.0, -1.0], [1.0, 0.0]])
    out = {"u0": np.zeros(2), "damping": np.zeros(1), "speed": np.zeros(1)}
    for k, t in enumerate(times):
        c, flow = np.array([1.0, k]), expm((a * eye + w * turn) * t)
        out["u0"] += flow.T @ c
        out["damping"] += t * c @ flow @ u0
        out["speed"] += t * c @ turn @ flow @ u0
    return out


@pytest.mark.slow
def test_errors_by_block_against_an_analytic_gradient():
    times = np.linspace(0.0, 2.0, 5)
    u0 = np.array([1.0, -0.5])
    problem = ps.ODEProblem(
        rotation,
        torch.tensor(u0, requires_grad=True),
        (0.0, 2.0),
        {name: torch.tensor(x, dtype=torch.float64, requires_grad=True) for name, x in (("damping", -0.3), ("speed", 2.0))},
    )
    weights = torch.stack([torch.ones(5), torch.arange(5.0)], 1).double()
    exact = rotation_gradient(u0, -0.3, 2.0, times)
    loose, tight = 1e-4, 1e-9
    for reference in (exact, None):
        report = compare_adjoints(
            problem,
            lambda sol: (weights * sol.u).sum(),
            sensealgs=["ForwardDiffSensitivity", "GaussAdjoint"],
            tolerances=[loose, tight],
            saveat=times,
            reference=reference,
            **QUICK,
        )
        assert not report.warnings
        assert report.reference.blocks == {"u0": 2, "damping": 1, "speed": 1}
        assert report.reference.norm == pytest.approx(np.linalg.norm(np.concatenate(list(exact.values()))), rel=1e-9)
        for row in report.rows:
            assert row.status == "ok", row.reason
            assert 1e-15 < row.error < 1e3 * row.rtol
            assert set(row.block_errors) == set(exact)
            assert all(0 < x < 1e4 * row.rtol for x in row.block_errors.values())
            assert row.first_call > 0 and row.steps > 3 and row.forward_counts.f > 10
            assert row.total.median >= row.forward.median > 0 and row.backward.median > 0
        errors = {(x.method, x.rtol): x.error for x in report.rows}
        for method in ("ForwardDiffSensitivity", "GaussAdjoint"):
            assert errors[method, tight] < errors[method, loose] / 100


def scipy_gradient(loss_of_states) -> np.ndarray:
    """By extrapolated differences of SciPy's solution."""

    def loss(p: np.ndarray) -> float:
        solution = solve_ivp(lambda t, u: lotka_volterra(u, p, t), (0.0, 4.0), [1.0, 1.0], "DOP853", TIMES, rtol=1e-13, atol=1e-13)
        return loss_of_states(solution.y.T)

    return np.array([ridders(lambda h, e=e: loss(RATES + h * e))[0] for e in np.eye(4)])


def test_the_reference_of_lotka_volterra_and_what_it_says_of_itself():
    right = scipy_gradient(lambda u: float(np.sum(u**2)))
    problem = differentiable(ps.ODEProblem(lotka_volterra, [1.0, 1.0], (0.0, 4.0), RATES))
    loss = LossFunction(sum_of_squares, TIMES, False)
    solver = reference_solver(get_engine("julia"), problem, Blocks.of(problem), loss, stiff=False)
    for given, check in ((None, "GaussAdjoint"), (ps.GaussAdjoint(), "differences")):
        reference, target = find_reference(solver, given, seed=0)
        assert check in reference.check
        off = np.linalg.norm(target.blocks["p"] - right) / np.linalg.norm(right)
        assert off < 1e-8
        assert 1e-12 <= reference.estimated_error < 1e-7


def test_a_float32_problem_has_a_float64_reference():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 60), torch.nn.Tanh(), torch.nn.Linear(60, 2))
    u0 = torch.tensor([[0.3, -0.8]])
    report = compare_adjoints(
        ps.ODEProblem(network, u0, (0.0, 1.0)),
        lambda sol: sol.u[-1].square().sum(),
        sensealgs=["GaussAdjoint"],
        tolerances=[1e-4],
        **QUICK,
    )
    (row,) = report.rows
    assert set(row.block_errors) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    # Backpropagation through many small steps of a classical method, in double precision.
    double = torch.nn.Sequential(torch.nn.Linear(2, 60), torch.nn.Tanh(), torch.nn.Linear(60, 2)).double()
    double.load_state_dict(network.state_dict())
    u, h = u0.double(), 1 / 400
    for _ in range(400):
        k1 = double(u)
        k2 = double(u + h / 2 * k1)
        k3 = double(u + h / 2 * k2)
        u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + double(u + h * k3))
    u.square().sum().backward()
    norm = float(torch.cat([x.grad.reshape(-1) for x in double.parameters()]).norm())
    assert report.reference.norm == pytest.approx(norm, rel=1e-8)
    assert report.reference.estimated_error < 1e-6
    assert row.status == "ok" and row.error < 1e-3


def test_backsolve_fails_on_robertson_and_the_report_says_so():
    report = compare_adjoints(
        ps.ODEProblem(robertson, [1.0, 0.0, 0.0], (0.0, 1e4), [0.04, 3e7, 1e4]),
        sensealgs=["GaussAdjoint", "BacksolveAdjoint"],
        tolerances=[1e-6],
        saveat=np.logspace(-5, 4, 50),
        **QUICK,
    )
    gauss, backsolve = report.rows
    assert gauss.solver == "Rodas5P" and gauss.status == "ok" and gauss.error < 1e-3
    assert backsolve.status == "failed" and backsolve.reason
    assert report.reference.estimated_error < 1e-6
    assert any("stiff" in x and "BacksolveAdjoint" in x for x in report.warnings)


@pytest.mark.parametrize(("span", "chaotic"), [(50.0, True), (1.0, False)])
def test_chaos_is_warned_of(span, chaotic):
    report = compare_adjoints(
        ps.ODEProblem(lorenz, [1.0, 0.0, 0.0], (0.0, span), [10.0, 28.0, 8 / 3]),
        sensealgs=["ForwardDiffSensitivity"],
        tolerances=[1e-6],
        **QUICK,
    )
    assert any("chaotic" in x for x in report.warnings) is chaotic


@pytest.mark.parametrize("end", [10.0, 100.0])
def test_a_periodic_solution_is_not_chaotic(end):
    report = compare_adjoints(
        ps.ODEProblem(lotka_volterra, [1.0, 1.0], (0.0, end), RATES),
        sensealgs=["ForwardDiffSensitivity"],
        tolerances=[1e-6],
        **QUICK,
    )
    assert report.warnings == ()


@pytest.mark.slow
def test_a_model_that_is_not_finite_gives_rows_that_say_so():
    def nowhere(u, p, t):
        return [(p[0] - 5) ** 0.5 * u[0]]

    report = compare_adjoints(ps.ODEProblem(nowhere, [1.0], (0.0, 1.0), [1.0]), sensealgs=["GaussAdjoint"], tolerances=[1e-6], **QUICK)
    assert report.reference is None
    assert any("no reference" in x for x in report.warnings)
    assert [x.status for x in report.rows] == ["failed"] and "retcode" in report.rows[0].reason


@pytest.mark.slow
def test_time_limit_stops_a_solve_in_julia():
    """Stiff, by an explicit method: minutes of tiny steps."""
    began = time.monotonic()
    report = compare_adjoints(
        ps.ODEProblem(robertson, [1.0, 0.0, 0.0], (0.0, 1e6), [0.04, 3e7, 1e4]),
        algorithms=[ps.Tsit5()],
        sensealgs=["BacksolveAdjoint"],
        tolerances=[1e-6],
        saveat=[1e6],
        reference=np.ones(3),
        maxiters=10**9,
        time_limit=8.0,
        **QUICK,
    )
    assert time.monotonic() - began < 60
    assert report.rows[0].status == "failed" and "time limit" in report.rows[0].reason


@dataclass(frozen=True)
class Press(Contestant):
    """Presses Ctrl-C some time later, while another contestant is solving."""

    def prepare(self, task):
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        raise EngineUnavailable("this one", "it only presses a key", mend=None)


def test_ctrl_c_in_julia_ends_the_comparison_and_keeps_its_rows():
    slow = EngineContestant.of(ps.Tsit5(), ps.BacksolveAdjoint())
    problem = ps.ODEProblem(robertson, [1.0, 0.0, 0.0], (0.0, 1e6), [0.04, 3e7, 1e4])
    began = time.monotonic()
    with pytest.raises(ComparisonInterrupted) as caught:
        compare_adjoints(
            problem,
            sensealgs=[],
            tolerances=[1e-6],
            saveat=[1e6],
            reference=np.ones(3),
            maxiters=10**9,
            time_limit=120.0,
            **QUICK | {"peers": [Press("none", "Press", None, "test"), slow]},
        )
    assert time.monotonic() - began < 60
    assert [x.method for x in caught.value.report.rows] == ["Press"]
    assert ps.solve(problem, ps.Rodas5P(), saveat=[1e6]).success


def test_vjps_are_an_axis_and_what_can_not_work_has_a_row():
    report = compare_adjoints(
        ps.ODEProblem(lotka_volterra, [1.0, 1.0], (0.0, 4.0), RATES),
        sensealgs=["GaussAdjoint", "ZygoteAdjoint"],
        vjps=["generated", "TrackerVJP", "MooncakeVJP"],
        tolerances=[1e-5],
        saveat=TIMES,
        reference=scipy_gradient(lambda u: float(np.sum(u**2))),
        **QUICK,
    )
    by_label = {x.label: x for x in report.rows}
    assert by_label["GaussAdjoint"].status == "ok" and by_label["GaussAdjoint"].error < 1e-3
    for label in ("GaussAdjoint(TrackerVJP)", "ZygoteAdjoint"):
        assert by_label[label].status == "unavailable" and by_label[label].reason
    mooncake = by_label["GaussAdjoint(MooncakeVJP)"]
    assert mooncake.status == "ok" and mooncake.error < 1e-3 or mooncake.reason


@pytest.mark.slow
def test_second_order_problems_and_memory():
    """``x'' = -k x``: ``x = cos(√k t)``, ``v = -√k sin(√k t)``."""
    k, times = 4.0, np.linspace(0.0, 3.0, 4)
    report = compare_adjoints(
        ps.SecondOrderODEProblem(lambda du, u, p, t: [-p[0] * u[0]], [0.0], [1.0], (0.0, 3.0), [k]),
        lambda sol: sol.u.sum() + 0 * sol.v.sum(),
        sensealgs=["GaussAdjoint"],
        tolerances=[1e-8],
        saveat=times,
        reference=[float(np.sum(-np.sin(2 * times) * times / 4))],
        repeats=2,
        peers=False,
        progress=False,
    )
    (row,) = report.rows
    assert row.status == "ok", row.reason
    assert row.error < 1e-5
    assert row.loss == pytest.approx(np.cos(2 * times).sum(), abs=1e-6)
    assert 0 < row.kept_memory < 10_000_000
