"""Peers of a comparison: the model that they are given, their values and gradients against independent references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_models import ACTIVATIONS, LAYERS, POINTWISE, REDUCTIONS, STRUCTURE, Rhs

import pysciode as ps
from pysciode.comparison.measure.contestants import Task
from pysciode.comparison.peers.peer_contestants import diffrax_contestants, diffrax_is_installed, embedded_contestants, peer_solvers

T = 0.3
OPERATIONS = {**POINTWISE, **ACTIVATIONS, **REDUCTIONS, **STRUCTURE}


# --- the model in JAX ------------------------------------------------------------------------------------------------


def jax_twin(problem):
    """Value, and gradients to state and parameters, of the problem's right-hand side in JAX."""
    jax = pytest.importorskip("jax")
    from pysciode.comparison.peers.diffrax_run import jax_rhs

    with jax.enable_x64():
        rhs = jax_rhs(problem)
        u, p = jax.numpy.asarray(problem.flat_u0()), jax.numpy.asarray(problem.flat_p())
        value, pull = jax.vjp(jax.jit(lambda u, p: rhs(T, u, p)), u, p)
        cotangent = jax.numpy.cos(jax.numpy.arange(float(problem.n)))
        du, dp = pull(cotangent)
    return np.asarray(value), np.asarray(du), np.asarray(dp)


def torch_original(f, problem):
    """The same by the user's own function and torch's autograd."""
    u = problem.u0.detach().clone().requires_grad_()
    leaves = problem.leaves
    value = f(torch.tensor(T, dtype=u.dtype), u).reshape(-1)
    cotangent = torch.cos(torch.arange(problem.n, dtype=u.dtype))
    if not value.requires_grad:
        return value.detach().numpy(), np.zeros(problem.n), np.zeros(problem.layout.size)
    grads = torch.autograd.grad(value, [u, *leaves], cotangent, allow_unused=True, materialize_grads=True)
    flat = [x.detach().reshape(-1).numpy() for x in grads]
    return value.detach().numpy(), flat[0], np.concatenate([np.zeros(0), *flat[1:]])


def assert_same(f, problem):
    for found, expected in zip(jax_twin(problem), torch_original(f, problem), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)  # torch has 1/6 of Hardsigmoid in single precision


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_in_jax_is_torchs(name):
    torch.manual_seed(1)
    operation = OPERATIONS[name]
    model = Rhs(lambda u, t: operation(u)).double()
    assert_same(model, ps.ODEProblem(model, torch.randn(3, 4, dtype=torch.float64), (0.0, 1.0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_network_in_jax_is_torchs(name):
    torch.manual_seed(2)
    f, shape, *layers = LAYERS[name]()
    model = Rhs(f, *layers).double().eval()
    assert_same(model, ps.ODEProblem(model, torch.randn(shape, dtype=torch.float64), (0.0, 1.0)))


def test_a_plain_function_in_jax_is_itself():
    def f(u, p, t):
        prey, predator = u
        return [p["a"] * prey - p["b"][0] * prey * predator + t, p["b"][1] * prey**3 - abs(predator)]

    def in_torch(t, u):
        a, b = problem.leaves
        return torch.stack([a * u[0] - b[0] * u[0] * u[1] + t, b[1] * u[0] ** 3 - u[1].abs()])

    u0 = torch.tensor([0.7, -1.2], dtype=torch.float64)
    p = {"a": torch.tensor(1.5, dtype=torch.float64), "b": torch.tensor([0.3, 2.0], dtype=torch.float64)}
    for x in p.values():
        x.requires_grad_()
    problem = ps.ODEProblem(f, u0, (0.0, 1.0), p)
    assert_same(in_torch, problem)


def test_what_jax_can_not_express_is_refused_by_name():
    pytest.importorskip("jax")
    from pysciode.comparison.peers.diffrax_run import jax_rhs

    problem = ps.ODEProblem("f!(du, u, p, t) = (du .= -u)", torch.ones(2), (0.0, 1.0))
    with pytest.raises(ps.EngineUnavailable, match="diffrax: no JAX form of a model given as Julia source$"):
        jax_rhs(problem)


# --- gradients -------------------------------------------------------------------------------------------------------

SAVEAT = np.linspace(0.0, 2.0, 6)


class Linear(torch.nn.Module):
    """``u' = A u``, whose solution is a matrix exponential."""

    def __init__(self) -> None:
        super().__init__()
        self.A = torch.nn.Parameter(torch.tensor([[-0.1, 2.0, 0.3], [-2.0, -0.1, 0.0], [0.1, 0.4, -0.5]], dtype=torch.float64))

    def forward(self, t, u):
        return self.A @ u


def linear():
    model = Linear()
    u0 = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64, requires_grad=True)
    return ps.ODEProblem(model, u0, (0.0, 2.0)), lambda: (
        torch.stack([torch.matrix_exp(model.A * t) @ u0 for t in SAVEAT]), {"A": model.A, "u0": u0}
    )  # fmt: skip


def logistic():
    """``u' = r u (1 - u/K)``, in plain Python; the start is before the first saved time, u0 is not differentiated."""
    u0 = torch.tensor([0.1], dtype=torch.float64)
    p = {"r": torch.tensor(1.3, dtype=torch.float64), "K": 2.5}
    p["r"].requires_grad_()
    problem = ps.ODEProblem(lambda u, p, t: [p["r"] * u[0] * (1 - u[0] / p["K"])], u0, (-1.0, 2.0), p)

    def exact():
        growth = torch.exp(p["r"] * torch.from_numpy(SAVEAT + 1.0))[:, None]
        return p["K"] / (1 + (p["K"] / u0 - 1) / growth), {"r": p["r"]}

    return problem, exact


def contestants(problem, algorithms):
    return [*embedded_contestants(problem, algorithms), *diffrax_contestants(problem, algorithms)]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "algorithm"), [(linear, ps.DP5()), (logistic, ps.Rodas5P())])
def test_peers_have_the_exact_states_and_gradients(make, algorithm):
    problem, exact = make()
    expected, wanted = exact()
    cotangent = torch.cos(torch.arange(expected.numel(), dtype=torch.float64)).reshape(expected.shape)
    gradients = torch.autograd.grad(expected, list(wanted.values()), cotangent)
    field = contestants(problem, [algorithm])
    assert {x.method for x in field} >= {"odeint", "odeint_adjoint"}
    for contestant in field:
        run = contestant.prepare(Task(problem, SAVEAT, 1e-9, 1e-11))
        for _ in range(2):
            states = run.forward()
            found = run.backward(cotangent)
        torch.testing.assert_close(states, expected.detach(), rtol=2e-7, atol=1e-8)
        assert found.keys() == wanted.keys(), contestant
        for key, gradient in zip(wanted, gradients, strict=True):
            np.testing.assert_allclose(found[key], gradient.reshape(-1).numpy(), rtol=1e-6, err_msg=str(contestant))
        assert run.steps > 3


def test_evaluations_and_steps_are_those_that_took_place():
    calls = []

    def f(u, p, t):
        calls.append(torch.is_grad_enabled())
        return torch.tanh(p * u)

    p = torch.tensor([-1.0, 0.5], dtype=torch.float64, requires_grad=True)
    problem = ps.ODEProblem(f, torch.ones(2, dtype=torch.float64), (0.0, 2.0), p)
    for contestant in embedded_contestants(problem, [ps.DP5()]):
        run = contestant.prepare(Task(problem, SAVEAT, 1e-6, 1e-8))
        calls.clear()
        states = run.forward()
        n_forward = len(calls)
        run.backward(torch.ones_like(states))
        forward, backward = run.forward_counts, run.backward_counts
        assert forward.f == n_forward
        assert backward.f == len(calls) - n_forward
        # Dormand and Prince's method has six evaluations a step, and two more choose the first one.
        assert run.steps * 6 <= n_forward - 2
        if contestant.method == "odeint":
            assert backward.f == 0
            assert run.steps * 6 <= backward.vjp <= forward.f
        else:
            assert backward.vjp == backward.f > 0


def robertson():
    k = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64, requires_grad=True)

    def f(u, p, t):
        x, y, z = u
        return [-p[0] * x + p[2] * y * z, p[0] * x - p[1] * y * y - p[2] * y * z, p[1] * y * y]

    return ps.ODEProblem(f, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), (0.0, 1e4), k)


def test_a_peer_without_a_stiff_solver_gives_up_and_says_so():
    problem = robertson()
    for contestant in embedded_contestants(problem, [ps.Rodas5P()]):
        assert contestant.solver == "dopri5 (for Rodas5P)"
        run = contestant.prepare(Task(problem, np.array([1e4]), 1e-6, 1e-8, maxiters=300))
        with pytest.raises(ps.PysciodeError, match="torchdiffeq's dopri5 gave up near t = .* after 300 steps"):
            run.forward()


@pytest.mark.skipif(not diffrax_is_installed(), reason="needs diffrax")
def test_a_solve_that_diffrax_can_not_end_is_an_error():
    problem = robertson()
    (contestant,) = (x for x in diffrax_contestants(problem, [ps.Tsit5()]) if x.method == "BacksolveAdjoint")
    run = contestant.prepare(Task(problem, np.array([1e4]), 1e-6, 1e-8, maxiters=300))
    with pytest.raises(ps.PysciodeError, match="diffrax's Tsit5: gave up after 300 steps"):
        run.forward()


@pytest.mark.skipif(not diffrax_is_installed(), reason="needs diffrax")
def test_a_reverse_solve_that_fails_is_an_error_too():
    """Backwards, ``u' = -40 u³`` grows beyond all bounds as soon as the states are a little off."""
    u0 = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [-40 * u[0] ** 3], u0, (0.0, 50.0), torch.zeros(1, dtype=torch.float64))
    (contestant,) = (x for x in diffrax_contestants(problem, [ps.Tsit5()]) if x.method == "BacksolveAdjoint")
    run = contestant.prepare(Task(problem, np.array([50.0]), 1e-3, 1e-3, maxiters=2000))
    states = run.forward()
    with pytest.raises(ps.PysciodeError, match="diffrax"):
        run.backward(torch.ones_like(states))


def test_peers_solvers_say_what_they_stand_for():
    found = peer_solvers("diffrax", [ps.Rodas5P(), ps.Tsit5(), ps.FBDF(), ps.Vern9(), None])
    assert found == [
        ("Kvaerno5", "Kvaerno5 (for Rodas5P, FBDF)"),
        ("Tsit5", "Tsit5 (for Tsit5, the default)"),
        ("Dopri8", "Dopri8 (for Vern9)"),
    ]
