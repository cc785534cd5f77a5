"""What a solve keeps for the next one is never stale: repeated solves against analytic solutions of what is asked now."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch

import pysciode as ps

F64 = torch.float64
TIGHT = dict(rtol=1e-9, atol=1e-9)


def decay(u, p, t):
    return [-p[0] * u[0]]


def decay_and_growth(u, p, t):
    return [-p[0] * u[0], p[1] * u[1]]


def numpy_problem(rate=1.0, **more):
    return ps.ODEProblem(decay, [1.0], (0.0, 4.0), [rate], **more)


def torch_problem(p, u0=(1.0,)):
    return ps.ODEProblem(decay, torch.tensor(u0, dtype=F64), (0.0, 4.0), p)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_times_changed_in_place(engine, as_tensor):
    times = np.array([1.0, 2.0])
    saveat = torch.from_numpy(times) if as_tensor else times
    problem = numpy_problem()
    for first in (1.0, 0.5, 0.5):
        times[0] = first
        sol = ps.solve(problem, ps.Tsit5(), saveat=saveat, engine=engine, **TIGHT)
        np.testing.assert_array_equal(sol.t, times)
        np.testing.assert_allclose(sol.u[:, 0], np.exp(-times), rtol=1e-7)
    times[1] = 5.0
    with pytest.raises(ValueError, match="saveat holds 5"):
        ps.solve(problem, ps.Tsit5(), saveat=saveat, engine=engine, **TIGHT)


@pytest.mark.parametrize("as_torch", [False, True])
def test_each_solution_has_times_of_its_own(engine, as_torch):
    problem = torch_problem(torch.ones(1, dtype=F64)) if as_torch else numpy_problem()
    times = np.array([1.0, 2.0])
    for _ in range(3):
        sol = ps.solve(problem, ps.Tsit5(), saveat=times, engine=engine, **TIGHT)
        assert sol.t.tolist() == [1.0, 2.0]
        sol.t[:] = -1.0
    assert times.tolist() == [1.0, 2.0]


def test_a_step_instead_of_times(engine):
    problem = numpy_problem()
    for step, count in ((1, 5), (2.0, 3), (2.0, 3), (0.5, 9)):
        sol = ps.solve(problem, ps.Tsit5(), saveat=step, engine=engine, **TIGHT)
        np.testing.assert_allclose(sol.u[:, 0], np.exp(-np.linspace(0, 4, count)), rtol=1e-7)


def test_other_options(engine):
    problem = numpy_problem()
    errors = []
    for tolerance in (1e-3, 1e-3, 1e-10, 1e-10, 1e-3):
        sol = ps.solve(problem, ps.Tsit5(), saveat=[4.0], rtol=tolerance, atol=tolerance, engine=engine)
        errors.append(abs(sol.u[0, 0] - np.exp(-4.0)))
    assert errors[0] == errors[1] == errors[4] and errors[2] == errors[3] < 1e-8 < errors[0]
    assert ps.solve(problem, ps.DP5(), saveat=[4.0], rtol=1e-3, atol=1e-3, engine=engine).algorithm == "DP5"
    assert ps.solve(problem, ps.Tsit5(), engine=engine).u.shape[0] > 2
    dense = ps.solve(problem, ps.Tsit5(), saveat=[4.0], dense=True, engine=engine, **TIGHT)
    assert dense(2.0)[0] == pytest.approx(np.exp(-2), rel=1e-6)


@pytest.mark.parametrize(
    "bad, error",
    [
        ({"maxiters": True}, TypeError),
        ({"save_idxs": False}, ValueError),
        ({"rtol": -1.0}, ValueError),
        ({"progress": 1}, TypeError),
        ({"verbose": True}, TypeError),
        ({"sensealg": ps.GaussAdjoint}, TypeError),
    ],
)
def test_bad_options_after_good_ones(engine, bad, error):
    """Also where they equal the good ones, as True equals 1."""
    problem = numpy_problem()
    good = dict(saveat=np.array([4.0]), maxiters=100_000, save_idxs=0, rtol=1e-6, dt=1.0, engine=engine)
    for _ in range(2):
        assert ps.solve(problem, ps.Tsit5(), **good).u[0, 0] == pytest.approx(np.exp(-4), rel=1e-3)
    with pytest.raises(error):
        ps.solve(problem, ps.Tsit5(), **{**good, **bad})


def test_options_belong_to_the_time_span(engine):
    problem, times = numpy_problem(), np.array([1.0, 3.0])
    for _ in range(2):
        ps.solve(problem, ps.Tsit5(), saveat=times, engine=engine)
    with pytest.raises(ValueError, match="outside tspan"):
        ps.solve(ps.remake(problem, tspan=(0.0, 2.0)), ps.Tsit5(), saveat=times, engine=engine)
    later = ps.solve(ps.remake(problem, tspan=(0.5, 4.0)), ps.Tsit5(), saveat=times, engine=engine, **TIGHT)
    np.testing.assert_allclose(later.u[:, 0], np.exp(-(times - 0.5)), rtol=1e-7)


def test_remade_problems_share_what_is_kept(engine):
    problem, times = numpy_problem(), np.array([1.0, 3.0])
    for rate in (1.0, 2.0, 0.5):
        sol = ps.solve(ps.remake(problem, p=[rate]), ps.Tsit5(), saveat=times, engine=engine, **TIGHT)
        np.testing.assert_allclose(sol.u[:, 0], np.exp(-rate * times), rtol=1e-6)


@pytest.mark.julia
def test_mass_matrices_of_one_model():
    """Problems of one model share its plans, but a plan has its mass matrix."""
    times = np.array([1.0, 2.0])
    for scale in (1.0, 2.0, None, 4.0, 1.0):
        problem = numpy_problem(mass_matrix=None if scale is None else np.array([[scale]]))
        sol = ps.solve(problem, ps.Rodas5P(), saveat=times, engine="julia", **TIGHT)
        np.testing.assert_allclose(sol.u[:, 0], np.exp(-times / (scale or 1.0)), rtol=1e-6)


def test_tensors_given_other_memory(engine):
    p = torch.ones(1, dtype=F64)
    problem = torch_problem(p)

    def rate():
        return -np.log(ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine, **TIGHT).u[0, 0].item())

    assert rate() == pytest.approx(1.0, rel=1e-6)
    p.mul_(2.0)
    assert rate() == pytest.approx(2.0, rel=1e-6)
    p.data = torch.full((1,), 3.0, dtype=F64)
    assert rate() == pytest.approx(3.0, rel=1e-6)
    p.data = torch.tensor([9.0, 0.5], dtype=F64)[1:]
    assert rate() == pytest.approx(0.5, rel=1e-6)
    p.data = torch.tensor([1.25], dtype=torch.float32)
    assert rate() == pytest.approx(1.25, rel=1e-6)
    p.data = torch.tensor([float("nan")], dtype=F64)
    with pytest.raises(ValueError, match="p.* is nan"):
        rate()


def test_a_state_laid_out_otherwise(engine):
    """A transposed matrix lies at the same address with the same length."""
    u0 = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=F64)
    problem = ps.ODEProblem(lambda u, p, t: -u, u0, (0.0, 1.0))
    for _ in range(2):
        u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine, **TIGHT).u[0]
        np.testing.assert_allclose(u, u0.numpy() * np.exp(-1), rtol=1e-7)
        u0.data = u0.data.T


def test_copies_of_a_problem(engine):
    p = torch.ones(1, dtype=F64)
    problem = torch_problem(p)
    options = dict(saveat=np.array([1.0]), engine=engine, **TIGHT)
    ps.solve(problem, ps.Tsit5(), **options)
    other = copy.deepcopy(problem)
    p.fill_(2.0)
    other.p.fill_(3.0)
    for x, rate in ((problem, 2.0), (other, 3.0), (problem, 2.0)):
        assert ps.solve(x, ps.Tsit5(), **options).u.item() == pytest.approx(np.exp(-rate), rel=1e-6)
    del problem, x  # what the copy uses must not go with the original
    assert ps.solve(other, ps.Tsit5(), **options).u.item() == pytest.approx(np.exp(-3), rel=1e-6)


@pytest.mark.slow
def test_one_problem_in_threads(engine):
    """Threads with the same and with other arguments, at the same time."""
    p = torch.ones(1, dtype=F64, requires_grad=True)
    problem, wrong = torch_problem(p), []

    def work(k):
        times = np.linspace(0.1, 4.0, 2 + k % 3)
        for _ in range(5):
            u = ps.solve(problem, ps.Tsit5(), saveat=times, engine=engine, **TIGHT).u[:, 0]
            (slope,) = torch.autograd.grad(u.sum(), p)
            exact = np.exp(-times)
            good = np.allclose(u.detach(), exact, rtol=1e-6)
            if not (good and np.isclose(slope.item(), -(times * exact).sum(), rtol=1e-5)):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_gradient_whose_sum_overflows(engine):
    p = torch.ones(1, dtype=F64, requires_grad=True)
    times = np.array([0.25, 0.5, 0.75, 1.0])
    u = ps.solve(torch_problem(p), ps.Tsit5(), saveat=times, engine=engine, **TIGHT).u
    (slope,) = torch.autograd.grad(u, p, torch.full_like(u, 0.5e308), retain_graph=True)
    assert slope.item() / 0.5e308 == pytest.approx(-(times * np.exp(-times)).sum(), rel=1e-5)
    cotangent = torch.ones_like(u)
    cotangent[1], cotangent[2] = float("inf"), -float("inf")
    with pytest.raises(ps.GradientFailed, match="comes in is not finite"):
        torch.autograd.grad(u, p, cotangent)


def test_gradients_of_some_of_the_inputs(engine):
    """Each gets its own, whichever the others are."""
    times = np.array([0.5, 1.0])
    for wanted in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1)):
        values = ([1.0, 2.0], 1.5, 0.5)
        u0, a, b = (torch.tensor(x, dtype=F64, requires_grad=w == 1) for x, w in zip(values, wanted, strict=True))
        problem = ps.ODEProblem(decay_and_growth, u0, (0.0, 1.0), (a, b))
        u = ps.solve(problem, ps.Tsit5(), saveat=times, engine=engine, **TIGHT).u
        found = torch.autograd.grad(u.sum(), [x for x in (u0, a, b) if x.requires_grad])
        down, up = np.exp(-1.5 * times), np.exp(0.5 * times)
        exact = ([down.sum(), up.sum()], -(times * down).sum(), 2 * (times * up).sum())
        for x, y in zip(found, [y for y, w in zip(exact, wanted, strict=True) if w], strict=True):
            np.testing.assert_allclose(x.numpy(), y, rtol=1e-5)
