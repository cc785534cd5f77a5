"""Gradients against finite differences of tight solves, analytic ones, and torch's own gradcheck."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from every_cell import ALL
from runge_kutta import states_of_steps
from scipy.integrate import solve_ivp

import pysciode as ps

F64 = torch.float64
RATES = [1.5, 1.0, 3.0, 1.0]
TIMES = np.linspace(0.5, 5.0, 10)

julia = pytest.mark.julia
METHODS = [
    *(
        pytest.param("julia", method, id=f"julia-{name}", marks=julia)
        for name, method in {
            "default": None,
            "DiscreteAdjoint": ps.DiscreteAdjoint(),
            "ForwardSensitivity": ps.ForwardSensitivity(),
            "ForwardDiffSensitivity": ps.ForwardDiffSensitivity(),
            "BacksolveAdjoint": ps.BacksolveAdjoint(),
            "InterpolatingAdjoint": ps.InterpolatingAdjoint(),
            "InterpolatingAdjoint-checkpointing": ps.InterpolatingAdjoint(checkpointing=True),
            "QuadratureAdjoint": ps.QuadratureAdjoint(abstol=1e-10, reltol=1e-10),
            "GaussAdjoint": ps.GaussAdjoint(),
            "GaussKronrodAdjoint": ps.GaussKronrodAdjoint(),
            "ReverseDiffAdjoint": ps.ReverseDiffAdjoint(),
            "TrackerAdjoint": ps.TrackerAdjoint(),
        }.items()
    ),
    *(
        pytest.param("embedded", method, id=f"embedded-{name}")
        for name, method in {
            "default": None,
            "BacksolveAdjoint": ps.BacksolveAdjoint(),
            "ReverseDiffAdjoint": ps.ReverseDiffAdjoint(),
        }.items()
    ),
]


def lotka_volterra(u, p, t):
    x, y = u
    a, b, c, d = p
    return [a * x - b * x * y, d * x * y - c * y]


def loss(u):
    return (u**2).sum() + u[..., 0].sum()


def reference_gradient():
    """Central differences of solves to 1e-13, to about 1e-8."""

    def value(z):
        out = solve_ivp(lambda t, u: lotka_volterra(u, z[2:], t), (0, 5), z[:2], method="DOP853", rtol=1e-13, atol=1e-13, t_eval=TIMES)
        return loss(out.y.T)

    z = np.array([1.0, 1.0, *RATES])
    return np.array([(value(z + 1e-5 * e) - value(z - 1e-5 * e)) / 2e-5 for e in np.eye(6)])


REFERENCE = reference_gradient()


def tensors():
    return torch.ones(2, dtype=F64, requires_grad=True), torch.tensor(RATES, dtype=F64, requires_grad=True)


@pytest.mark.slow
@pytest.mark.parametrize("engine, sensealg", METHODS)
def test_every_method_agrees_with_differences(engine, sensealg):
    u0, p = tensors()
    problem = ps.ODEProblem(lotka_volterra, u0, (0.0, 5.0), p)
    sol = ps.solve(problem, ps.Tsit5(), saveat=TIMES, rtol=1e-10, atol=1e-10, sensealg=sensealg, engine=engine)
    assert sensealg is None or sol.sensealg == sensealg
    loss(sol.u).backward()
    found = torch.cat([u0.grad, p.grad]).numpy()
    np.testing.assert_allclose(found, REFERENCE, rtol=1e-5, atol=1e-5 * np.abs(REFERENCE).max())


@pytest.mark.slow
@pytest.mark.parametrize("engine, sensealg", METHODS)
def test_every_method_on_a_network(engine, sensealg):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    u0 = torch.randn(3, 2, dtype=F64, requires_grad=True)
    options = {"rtol": 1e-9, "atol": 1e-9, "sensealg": sensealg, "engine": engine}
    sol = ps.solve(ps.ODEProblem(net, u0, (0.0, 1.0)), ps.Tsit5(), saveat=[0.5, 1.0], **options)
    loss(sol.u).backward()
    found = [u0.grad, *(x.grad for x in net.parameters())]
    u0.grad = None
    net.zero_grad()
    loss(states_of_steps(net, u0, 0.01, (50, 100))).backward()
    for mine, exact in zip(found, [u0.grad, *(x.grad for x in net.parameters())], strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-6, atol=1e-6)


def test_gradcheck(engine):
    def final(u0, p, q):
        def f(u, p, t):
            return [p["a"] * np.sin(u[1]) + t, -p["b"][0] * u[0] * p["b"][1]]

        problem = ps.ODEProblem(f, u0, (0.0, 1.0), {"a": p, "b": q})
        return ps.solve(problem, ps.Tsit5(), saveat=[0.3, 1.0], rtol=1e-10, atol=1e-10, engine=engine).u

    inputs = (
        torch.tensor([0.5, -0.3], dtype=F64, requires_grad=True),
        torch.tensor(1.2, dtype=F64, requires_grad=True),
        torch.tensor([0.7, 1.1], dtype=F64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(final, inputs, atol=1e-6, rtol=1e-5)


def test_only_what_asks_for_a_gradient_gets_one(engine):
    p = torch.tensor(RATES, dtype=F64, requires_grad=True)
    u0 = torch.ones(2, dtype=F64)
    ps.solve(ps.ODEProblem(lotka_volterra, u0, (0.0, 5.0), p), ps.Tsit5(), saveat=TIMES, engine=engine).u.sum().backward()
    assert p.grad is not None and u0.grad is None
    net = torch.nn.Linear(2, 2).double()
    net.bias.requires_grad_(False)
    ps.solve(ps.ODEProblem(net, u0, (0.0, 1.0)), ps.Tsit5(), saveat=[1.0], engine=engine).u.sum().backward()
    assert net.weight.grad is not None and net.bias.grad is None


def test_numbers_and_tensors_mixed(engine):
    def f(u, p, t):
        return -p["k"] * p["c"] * u

    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(f, [1.0], (0.0, 1.0), {"k": k, "c": 0.5})
    sol = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-10, atol=1e-10, engine=engine)
    sol.u.sum().backward()
    assert k.grad.item() == pytest.approx(-0.5 * np.exp(-1.0), rel=1e-7)


def test_no_grad_means_no_graph(engine):
    u0, p = tensors()
    with torch.no_grad():
        sol = ps.solve(ps.ODEProblem(lotka_volterra, u0, (0.0, 1.0), p), ps.Tsit5(), saveat=[1.0], engine=engine)
    assert not sol.u.requires_grad and sol.sensealg is None


@pytest.mark.slow
@pytest.mark.parametrize("engine, sensealg", METHODS)
def test_every_step_saved_is_differentiable(engine, sensealg):
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [-p * u[0]], [1.0], (0.0, 1.0), k)
    sol = ps.solve(problem, ps.Tsit5(), rtol=1e-9, atol=1e-9, sensealg=sensealg, engine=engine)
    (sol.u[-1, 0] + 3 * sol.u[len(sol) // 2, 0]).backward()
    t = float(sol.t[len(sol) // 2])
    assert k.grad.item() == pytest.approx(-np.exp(-2.0) - 3 * t * np.exp(-2.0 * t), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine, sensealg", METHODS)
def test_save_idxs_are_differentiable(engine, sensealg):
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [-p * u[0], p * u[0] - u[1]], [1.0, 0.0], (0.0, 1.0), k)
    options = dict(saveat=[0.5, 1.0], rtol=1e-10, atol=1e-10, sensealg=sensealg, engine=engine)
    (some,) = torch.autograd.grad(ps.solve(problem, ps.Tsit5(), save_idxs=[1], **options).u.square().sum(), k)
    (whole,) = torch.autograd.grad(ps.solve(problem, ps.Tsit5(), **options).u[:, 1].square().sum(), k)
    torch.testing.assert_close(some, whole, rtol=1e-6, atol=1e-9)


def test_gradient_backwards_in_time(engine):
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [-p * u[0]], [1.0], (1.0, 0.0), k)
    ps.solve(problem, ps.Tsit5(), saveat=[0.5, 0.0], rtol=1e-10, atol=1e-10, engine=engine).u.sum().backward()
    assert k.grad.item() == pytest.approx(0.5 * np.exp(1.0) + np.exp(2.0), rel=1e-7)


def test_gradient_to_the_saved_times(engine):
    times = torch.tensor([0.3, 0.8, 1.0], dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [-p * u[0] + t], [1.0], (0.0, 1.0), torch.tensor(2.0, dtype=F64))
    sol = ps.solve(problem, ps.Tsit5(), saveat=times, rtol=1e-10, atol=1e-10, engine=engine)
    (sol.u[:, 0] * torch.tensor([1.0, 2.0, 3.0], dtype=F64)).sum().backward()
    t = times.detach()
    slopes = -2 * sol.u.detach()[:, 0] + t
    torch.testing.assert_close(times.grad, slopes * torch.tensor([1.0, 2.0, 3.0], dtype=F64), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("saveat", [None, 0.5, [0.5, 1.5]])
def test_gradient_to_the_time_span(engine, saveat):
    # u' = -2u + t; moving the start with the state's value kept, and moving the end.
    def solution(t, t0):
        return 0.5 * t - 0.25 + (1.0 - 0.5 * t0 + 0.25) * np.exp(-2 * (t - t0))

    span = torch.tensor([0.1, 2.0], dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [-2.0 * u[0] + t], torch.ones(1, dtype=F64), span)
    sol = ps.solve(problem, ps.Tsit5(), saveat=saveat, rtol=1e-10, atol=1e-10, engine=engine)
    weights = torch.zeros(len(sol), dtype=F64)
    weights[-1] = 1.0
    if np.ndim(saveat) == 0:
        weights[0] = 2.0  # the state at the start moves with the start, and keeps its value
    (sol.u[:, 0] @ weights).backward()
    end, h = (2.0 if saveat is None or np.ndim(saveat) == 0 else 1.5), 1e-6
    assert span.grad[0].item() == pytest.approx((solution(end, 0.1 + h) - solution(end, 0.1 - h)) / (2 * h), rel=1e-6)
    last = (solution(2.0 + h, 0.1) - solution(2.0 - h, 0.1)) / (2 * h) if end == 2.0 else 0.0
    assert span.grad[1].item() == pytest.approx(last, rel=1e-6, abs=1e-12)


def test_gradient_of_a_second_order_problem(engine):
    u0 = torch.tensor([1.0], dtype=F64, requires_grad=True)
    k = torch.tensor(4.0, dtype=F64, requires_grad=True)
    problem = ps.SecondOrderODEProblem(lambda v, u, p, t: -p * u, torch.zeros(1, dtype=F64), u0, (0.0, 1.0), k)
    sol = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-10, atol=1e-10, engine=engine)
    (sol.u + sol.v).sum().backward()
    w = 2.0  # u = cos(wt), v = -w sin(wt), w = sqrt(k)
    assert u0.grad.item() == pytest.approx(np.cos(w) - w * np.sin(w), rel=1e-7)
    assert k.grad.item() == pytest.approx((-np.sin(w) - np.sin(w) - w * np.cos(w)) / (2 * w), rel=1e-7)


def test_two_losses_and_a_second_backward(engine):
    u0, p = tensors()
    sol = ps.solve(ps.ODEProblem(lotka_volterra, u0, (0.0, 5.0), p), ps.Tsit5(), saveat=TIMES, engine=engine)
    (first,) = torch.autograd.grad(sol.u.sum(), p, retain_graph=True)
    (second,) = torch.autograd.grad(sol.u.sum(), p, retain_graph=True)
    (other,) = torch.autograd.grad(2 * sol.u.sum(), p)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(other, 2 * first, rtol=1e-12, atol=1e-12)


def test_float32_gradient(engine):
    p = torch.tensor(RATES, requires_grad=True)
    problem = ps.ODEProblem(lotka_volterra, torch.ones(2), (0.0, 5.0), p)
    sol = ps.solve(problem, ps.Tsit5(), saveat=TIMES, rtol=1e-5, atol=1e-6, engine=engine)
    loss(sol.u).backward()
    assert p.grad.dtype == torch.float32
    np.testing.assert_allclose(p.grad.numpy(), REFERENCE[2:], rtol=2e-2, atol=1e-2 * np.abs(REFERENCE).max())


def test_training_reduces_the_loss(engine):
    torch.manual_seed(1)
    target = torch.tensor(RATES, dtype=F64)
    problem = ps.ODEProblem(lotka_volterra, torch.ones(2, dtype=F64), (0.0, 2.0), target)
    data = ps.solve(problem, ps.Tsit5(), saveat=0.2, engine=engine).u
    p = (target * 1.1).requires_grad_()
    optimiser = torch.optim.Adam([p], lr=0.02)
    fitted = ps.remake(problem, p=p)  # one problem: the optimiser changes p in place
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        error = (ps.solve(fitted, ps.Tsit5(), saveat=0.2, engine=engine).u - data).square().mean()
        error.backward()
        optimiser.step()
        losses.append(error.item())
    assert losses[-1] < 0.05 * losses[0]


def test_a_parameter_changed_before_backward_is_noticed(engine):
    u0, p = tensors()
    sol = ps.solve(ps.ODEProblem(lotka_volterra, u0, (0.0, 1.0), p), ps.Tsit5(), saveat=[1.0], engine=engine)
    with torch.no_grad():
        p.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sol.u.sum().backward()


def test_double_backward_says_that_it_does_not_work(engine):
    u0, p = tensors()
    sol = ps.solve(ps.ODEProblem(lotka_volterra, u0, (0.0, 1.0), p), ps.Tsit5(), saveat=[1.0], engine=engine)
    (first,) = torch.autograd.grad(sol.u.sum(), p, create_graph=True)
    assert torch.isfinite(first).all()
    with pytest.raises(NotImplementedError, match="second derivatives"):
        first.sum().backward()


def test_torch_func_grad_and_vjp(engine):
    u0, p = tensors()
    problem = ps.ODEProblem(lotka_volterra, torch.ones(2, dtype=F64), (0.0, 5.0), p.detach())

    def value(p):
        return loss(ps.solve(ps.remake(problem, p=p), ps.Tsit5(), saveat=TIMES, rtol=1e-10, atol=1e-10, engine=engine).u)

    found = torch.func.grad(value)(p.detach())
    np.testing.assert_allclose(found.numpy(), REFERENCE[2:], rtol=1e-5, atol=1e-5 * np.abs(REFERENCE).max())
    out, pull = torch.func.vjp(value, p.detach())
    torch.testing.assert_close(pull(torch.ones_like(out))[0], found)


def test_torch_func_jacrev_and_vmap(engine):
    ones = torch.ones(2, dtype=F64)
    problem = ps.ODEProblem(lambda u, p, t: [-p[0] * u[0], -p[1] * u[1]], ones, (0.0, 1.0), ones)

    def final(p):
        return ps.solve(ps.remake(problem, p=p), ps.Tsit5(), saveat=[1.0], rtol=1e-10, atol=1e-10, engine=engine).u[0]

    p = torch.tensor([1.0, 2.0], dtype=F64)
    torch.testing.assert_close(torch.func.jacrev(final)(p), torch.diag(-torch.exp(-p)), rtol=1e-7, atol=1e-9)
    batch = torch.tensor([[1.0, 2.0], [0.5, 3.0]], dtype=F64)
    torch.testing.assert_close(torch.func.vmap(final)(batch), torch.exp(-batch), rtol=1e-7, atol=1e-9)


def test_torch_func_says_what_does_not_work(engine):
    one = torch.ones(1, dtype=F64)
    problem = ps.ODEProblem(lambda u, p, t: [-p * u[0]], one, (0.0, 1.0), one[0])

    def final(p):
        return ps.solve(ps.remake(problem, p=p), ps.Tsit5(), saveat=[1.0], engine=engine).u.sum()

    p = torch.tensor(2.0, dtype=F64)
    with pytest.raises(NotImplementedError, match="jacrev"):
        torch.func.jvp(final, (p,), (torch.ones_like(p),))
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.func.grad(torch.func.grad(final))(p)
    with pytest.raises(ValueError, match="vmap over solve needs saveat"):
        torch.func.vmap(lambda p: ps.solve(ps.remake(problem, p=p), ps.Tsit5(), engine=engine).u)(torch.ones(2, dtype=F64))


def test_per_sample_gradients(engine):
    one = torch.ones(1, dtype=F64)
    problem = ps.ODEProblem(lambda u, p, t: [-p * u[0]], one, (0.0, 1.0), one[0])

    def final(p):
        return ps.solve(ps.remake(problem, p=p), ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine=engine).u.sum()

    p = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(final))(p), -torch.exp(-p), rtol=1e-6, atol=1e-9)


def test_other_modes_of_torch(engine):
    net = torch.nn.Linear(2, 2)
    problem = ps.ODEProblem(net, torch.ones(2), (0.0, 1.0))
    plain = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine).u
    with torch.inference_mode():
        torch.testing.assert_close(ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine).u, plain.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine).u
        mixed.sum().backward()
    torch.testing.assert_close(mixed, plain, rtol=0, atol=0)
    assert net.weight.grad.dtype == torch.float32


def test_a_gradient_that_is_not_finite_is_refused(engine):
    # sqrt has no derivative at 0, where this state starts and stays.
    u0 = torch.zeros(1, dtype=F64, requires_grad=True)
    p = torch.tensor(1.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [p * u[0] ** 0.5], u0, (0.0, 1.0), p)
    for sensealg in (None, ps.BacksolveAdjoint()):
        sol = ps.solve(problem, ps.Tsit5(), saveat=[1.0], sensealg=sensealg, engine=engine)
        with pytest.raises(ps.GradientFailed) as caught:
            sol.u.sum().backward()
        assert caught.value.sensealg == sol.sensealg.name and caught.value.sensealg in str(caught.value)
    assert u0.grad is None


def test_a_loss_that_is_not_finite_is_told_apart(engine):
    u0, p = tensors()
    sol = ps.solve(ps.ODEProblem(lotka_volterra, u0, (0.0, 1.0), p), ps.Tsit5(), saveat=[1.0], engine=engine)
    with pytest.raises(ps.GradientFailed, match="the gradient that comes in is not finite"):
        (sol.u.sum() * float("nan")).backward()


def test_a_partial_solution_has_no_gradient(engine):
    k = torch.tensor(1.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [p * u[0] ** 2], [1.0], (0.0, 2.0), k)
    sol = ps.solve(problem, ps.Tsit5(), saveat=0.25, throw=False, engine=engine)
    assert not sol.success and len(sol) > 0
    with pytest.raises(ps.GradientFailed, match=sol.retcode):
        sol.u.sum().backward()


def test_a_backward_solve_that_drifts_is_refused_or_right(engine):
    # Backwards in time this decay grows like exp(60 t): what comes back need not be the forward solution.
    k = torch.tensor(60.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [-p * (u[0] - np.cos(t))], [1.0], (0.0, 2.0), k)
    sol = ps.solve(problem, ps.Tsit5(), saveat=[2.0], sensealg=ps.BacksolveAdjoint(), engine=engine)
    try:
        sol.u.sum().backward()
    except ps.GradientFailed as error:
        assert error.sensealg == "BacksolveAdjoint"
    else:
        c, s = np.cos(2.0), np.sin(2.0)  # u(2) = (k² cos 2 + k sin 2) / (k² + 1), the transient having died out
        exact = (2 * 60 * c + s) / 3601 - (3600 * c + 60 * s) * 120 / 3601**2
        assert k.grad.item() == pytest.approx(exact, rel=1e-2)


def test_embedded_refuses_drift():
    k = torch.tensor(60.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [-p * (u[0] - np.cos(t))], [1.0], (0.0, 2.0), k)
    sol = ps.solve(problem, ps.Tsit5(), saveat=[2.0], sensealg=ps.BacksolveAdjoint(), engine="embedded")
    with pytest.raises(ps.GradientFailed, match="BacksolveAdjoint"):
        sol.u.sum().backward()


@pytest.mark.parametrize("engine, sensealg", [x for x in METHODS if "Adjoint" in x.id and "Reverse" not in x.id])
def test_a_backward_solve_that_runs_out_of_steps_is_refused(engine, sensealg):
    if not sensealg.continuous:
        pytest.skip("no backward solve")
    u0, p = tensors()
    problem = ps.ODEProblem(lotka_volterra, u0, (0.0, 5.0), p)
    forward = ps.solve(problem, ps.Tsit5(), saveat=TIMES, rtol=1e-6, atol=1e-6, engine=engine).stats
    # Enough to go forward, too little for the way back, which starts anew at each saved time.
    limit = forward.naccept + forward.nreject + 1
    options = {"rtol": 1e-6, "atol": 1e-6, "maxiters": limit, "sensealg": sensealg, "engine": engine}
    sol = ps.solve(problem, ps.Tsit5(), saveat=np.linspace(0, 5, 200), **options)
    with pytest.raises(ps.GradientFailed, match=sensealg.name):
        sol.u.sum().backward()


# Adjoints read the dense output of every method; Backsolve reads none, and leaves methods that take its stages late as they are.
ADJOINTS = {
    "auto": "Gauss",
    "Tsit5": "Gauss Interpolating Quadrature Backsolve",
    "BS5": "Interpolating",
    "DP8": "Interpolating",
    "Vern6": "Quadrature",
    "Vern7": "Interpolating Backsolve",
    "Vern8": "Interpolating",
    "Vern9": "Gauss",
    "Rodas5P": "Gauss Quadrature Backsolve",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm, adjoint",
    [(algorithm, f"{name}Adjoint") for algorithm, some in ADJOINTS.items() for name in (ADJOINTS["Tsit5"] if ALL else some).split()],
)
def test_adjoints_on_the_simplest_equation(julia_engine, algorithm, adjoint):
    """``u' = p u``, whose gradient is ``exp(p)``: methods with a step as long as the whole interval must interpolate well."""
    p = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: p * u, torch.ones(1, dtype=torch.float64), (0.0, 1.0), p)
    u = ps.solve(problem, algorithm, sensealg=getattr(ps, adjoint)(), rtol=1e-8, atol=1e-10, engine=julia_engine).u[-1]
    (found,) = torch.autograd.grad(u.sum(), p)
    torch.testing.assert_close(found, torch.exp(p.detach()), rtol=1e-6, atol=0.0)
