"""What torch may do around a solve: tensors changed or handed out in between, its modes and settings, tensors of odd kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from alive import DECAYING, METHODS, TIGHT, check_alive

import pysciode as ps

F64 = torch.float64


@pytest.fixture
def alive(engine):
    yield engine
    check_alive(engine)


def scaled_decay(u, p, t):
    return -p * u


class Scaled(torch.nn.Module):
    """u' = -weight u."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0, dtype=F64))
        self.register_buffer("one", torch.ones((), dtype=F64))

    def forward(self, u):
        return -self.weight * self.one * u


def solved(problem, engine, sensealg=None, saveat=(0.5, 1.0), **options):
    return ps.solve(problem, ps.Tsit5(), saveat=saveat, sensealg=sensealg, engine=engine, **TIGHT, **options)


# --- changes between forward and backward ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("what", ["u0", "u0 without gradient", "p", "weight"])
@pytest.mark.parametrize("capture", ["auto", "callback"])
@pytest.mark.parametrize("engine, sensealg", METHODS, ids=str)
def test_tensors_changed_before_the_backward_pass(engine, sensealg, what, capture):
    if capture == "callback" and sensealg.name == "ForwardDiffSensitivity":
        pytest.skip("refused for callbacks")
    model = Scaled()
    u0 = torch.ones(1, dtype=F64, requires_grad=what == "u0")
    p = torch.tensor([2.0], dtype=F64, requires_grad=True)
    if what == "weight":
        problem = ps.ODEProblem(model, u0, (0.0, 1.0), capture=capture)
    else:
        problem = ps.ODEProblem(scaled_decay, u0, (0.0, 1.0), p, capture=capture)
    u = solved(problem, engine, sensealg).u
    with torch.no_grad():
        {"p": p, "weight": model.weight}.get(what, u0).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        u.sum().backward()
    u = solved(problem, engine, sensealg).u  # with what the tensors are now
    rate = 3.0 if what in ("p", "weight") else 2.0
    start = 2.0 if what.startswith("u0") else 1.0
    assert u[1].item() == pytest.approx(start * np.exp(-rate), rel=1e-6)


@pytest.mark.parametrize("engine, sensealg", METHODS, ids=str)
@pytest.mark.parametrize("through", ["multiplied", "overwritten"])
def test_states_changed_by_their_owner(engine, sensealg, through):
    """The gradient is that of what was computed with the states, whatever happens to their memory."""
    u0 = torch.ones(1, dtype=F64, requires_grad=True)
    times = torch.tensor([0.5, 1.0], dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(scaled_decay, u0, (0.0, 1.0), torch.tensor([2.0], dtype=F64))
    u = solved(problem, engine, sensealg, saveat=times).u
    if through == "multiplied":
        loss = u.mul_(3.0).sum() / 3.0
    else:
        loss = u.sum()
        u.detach().zero_()
    slope, moved = torch.autograd.grad(loss, [u0, times])
    at = times.detach()
    assert slope.item() == pytest.approx(torch.exp(-2 * at).sum().item(), rel=1e-6)
    torch.testing.assert_close(moved, -2 * torch.exp(-2 * at), rtol=1e-6, atol=0)


def test_arrays_changed_by_their_owner(engine):
    """Arrays in p belong to the problem as they were."""
    k = np.array([2.0])
    times = torch.tensor([0.5, 1.0], dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(scaled_decay, torch.ones(1, dtype=F64), (0.0, 1.0), {"k": k}["k"])
    k[0] = 5.0
    u = solved(problem, engine, saveat=times).u
    np.testing.assert_allclose(u.detach()[:, 0], np.exp([-1.0, -2.0]), rtol=1e-7)
    k[0] = 7.0
    u.sum().backward()
    np.testing.assert_allclose(times.grad, -2 * np.exp([-1.0, -2.0]), rtol=1e-6)


@pytest.mark.parametrize("engine, sensealg", METHODS, ids=str)
def test_one_graph_used_twice(engine, sensealg):
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    total = solved(ps.remake(DECAYING, p=k), engine, sensealg).u.sum()
    total.backward(retain_graph=True)
    total.backward()
    assert k.grad.item() == pytest.approx(2 * (-0.5 * np.exp(-1.0) - np.exp(-2.0)), rel=1e-6)
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def test_second_derivatives_are_refused(alive):
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.functional.hessian(lambda k: solved(ps.remake(DECAYING, p=k), alive).u.sum(), k)


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def restored():
    """torch's settings, as they were."""
    dtype, deterministic = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.slow
@pytest.mark.parametrize("default", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_dtypes_are_kept_whatever_the_default(alive, restored, default, dtype):
    torch.set_default_dtype(default)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).to(dtype)
    for f, p in ((net, None), (lambda u, p, t: -0.5 * p * u + 0 * t, torch.tensor([1.0, 2.0], dtype=dtype, requires_grad=True))):
        u0 = torch.ones(2, dtype=dtype, requires_grad=True)
        times = torch.tensor([0.5, 1.0], dtype=dtype, requires_grad=True)
        sol = ps.solve(ps.ODEProblem(f, u0, (0.0, 1.0), p), ps.Tsit5(), saveat=times, engine=alive)
        sol.u.sum().backward()
        found = [sol.u, sol.t, u0.grad, times.grad, *([p.grad] if p is not None else (x.grad for x in net.parameters()))]
        assert {x.dtype for x in found} == {dtype} and {x.device.type for x in found} == {"cpu"}
        dense = ps.solve(ps.ODEProblem(f, u0, (0.0, 1.0), p), ps.Tsit5(), engine=alive)
        assert {dense.u.dtype, dense.t.dtype, dense(0.3).dtype} == {dtype}
    np_sol = ps.solve(ps.ODEProblem(lambda u, p, t: -u, np.ones(2, str(dtype)[6:]), (0.0, 1.0)), ps.Tsit5(), engine=alive)
    assert {str(x.dtype) for x in (np_sol.u, np_sol.t, np_sol(0.3))} == {str(dtype)[6:]}


def test_deterministic_algorithms(alive, restored):
    torch.use_deterministic_algorithms(True)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
    solved(ps.ODEProblem(net, torch.ones(2, dtype=F64), (0.0, 1.0)), alive).u.sum().backward()
    assert torch.isfinite(net[0].weight.grad).all()


@pytest.mark.filterwarnings("ignore::UserWarning")  # the mode's own report
def test_anomaly_mode(alive):
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        k = torch.tensor(2.0, dtype=F64, requires_grad=True)
        solved(ps.remake(DECAYING, p=k), alive).u.sum().backward()
        assert k.grad.item() == pytest.approx(-0.5 * np.exp(-1.0) - np.exp(-2.0), rel=1e-6)
        u0 = torch.zeros(1, dtype=F64, requires_grad=True)
        u = solved(ps.ODEProblem(lambda u, p, t: [u[0] ** 0.5], u0, (0.0, 1.0)), alive).u
        with pytest.raises((ps.GradientFailed, RuntimeError)):
            u.sum().backward()


def test_gradients_where_there_are_none(alive):
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    problem = ps.remake(DECAYING, p=k)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            u = solved(problem, alive).u
        assert not u.requires_grad
        with pytest.raises(RuntimeError, match="does not require grad"):
            u.sum().backward()
    with torch.no_grad(), torch.enable_grad():
        (slope,) = torch.autograd.grad(solved(problem, alive).u.sum(), k)
    assert slope.item() == pytest.approx(-0.5 * np.exp(-1.0) - np.exp(-2.0), rel=1e-6)


def test_a_model_first_met_in_inference_mode(alive):
    model = Scaled()
    problem = ps.ODEProblem(model, torch.ones(1, dtype=F64), (0.0, 1.0))
    with torch.inference_mode():
        solved(problem, alive)
    solved(problem, alive).u.sum().backward()
    assert model.weight.grad.item() == pytest.approx(-0.5 * np.exp(-1.0) - np.exp(-2.0), rel=1e-6)


def test_inference_tensors(alive):
    """They solve; where a gradient would need them torch itself says that they can't be kept for it."""
    with torch.inference_mode():
        ones, model = torch.ones(1, dtype=F64), Scaled()
    k = torch.tensor([2.0], dtype=F64, requires_grad=True)
    u = solved(ps.ODEProblem(scaled_decay, ones, (0.0, 1.0), 2 * torch.ones(1, dtype=F64)), alive).u
    assert u[1].item() == pytest.approx(np.exp(-2.0), rel=1e-7)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        solved(ps.ODEProblem(scaled_decay, ones, (0.0, 1.0), k), alive)
    for f in (model, lambda u, p, t: -p * ones * u):
        with pytest.raises((RuntimeError, ps.CaptureError), match="Inference tensors cannot be saved for backward"):
            solved(ps.ODEProblem(f, torch.ones(1, dtype=F64), (0.0, 1.0), None if f is model else k), alive)


# --- torch.func ------------------------------------------------------------------------------------------------------


def test_times_inside_a_transformation(alive):
    at = torch.tensor([0.5, 1.0], dtype=F64)
    k = torch.tensor(2.0, dtype=F64)
    one = torch.ones(1, dtype=F64)

    def total(k, times, end):
        problem = ps.ODEProblem(decay_of_one, one, (0.0, end), k)
        return solved(problem, alive, saveat=times).u.sum()

    found = torch.func.grad(total, argnums=(0, 1))(k, at, 1.0)
    torch.testing.assert_close(found[0], -(at * torch.exp(-2 * at)).sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1], -2 * torch.exp(-2 * at), rtol=1e-6, atol=0)
    moved = torch.func.grad(lambda end: total(k, 0.5, end))(torch.tensor(1.0, dtype=F64))
    assert moved.item() == pytest.approx(-2 * np.exp(-2.0), rel=1e-6)
    with pytest.raises(TypeError, match="saveat is a batch inside vmap"):
        torch.func.vmap(lambda times: total(k, times, 1.0))(torch.stack([at, at]))


def decay_of_one(u, p, t):
    return [-p * u[0]]
