"""What the embedded engine promises by itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import pysciode as ps
from pysciode.engines.embedded import engine as embedded
from pysciode.engines.embedded import methods as embedded_methods

F64 = torch.float64


def relaxation(u, p, t):
    return [-p * (u[0] - np.cos(t))]


def test_tsit5_satisfies_the_order_conditions():
    """Up to order 5, one condition for each rooted tree (Hairer, Nørsett, Wanner, sec. II.2)."""
    tableau = embedded_methods.Tsit5Solver.tableau
    a = np.zeros((7, 7))
    for i, row in enumerate(tableau.beta):
        a[i + 1, : len(row)] = row.numpy()
    b = tableau.c_sol.numpy()
    c = np.concatenate([[0.0], tableau.alpha.numpy()])
    np.testing.assert_allclose(a.sum(1), c, atol=1e-14)
    trees = {
        "1": (b.sum(), 1),
        "c": (b @ c, 1 / 2),
        "c2": (b @ c**2, 1 / 3),
        "ac": (b @ a @ c, 1 / 6),
        "c3": (b @ c**3, 1 / 4),
        "c ac": ((b * c) @ a @ c, 1 / 8),
        "a c2": (b @ a @ c**2, 1 / 12),
        "aac": (b @ a @ a @ c, 1 / 24),
        "c4": (b @ c**4, 1 / 5),
        "c2 ac": ((b * c**2) @ a @ c, 1 / 10),
        "c ac2": ((b * c) @ a @ c**2, 1 / 15),
        "c aac": ((b * c) @ a @ a @ c, 1 / 30),
        "(ac)2": (b @ (a @ c) ** 2, 1 / 20),
        "ac3": (b @ a @ c**3, 1 / 20),
        "a(c ac)": (b @ a @ (c * (a @ c)), 1 / 40),
        "aac2": (b @ a @ a @ c**2, 1 / 60),
        "aaac": (b @ a @ a @ a @ c, 1 / 120),
    }
    for name, (found, exact) in trees.items():
        assert found == pytest.approx(exact, abs=1e-13), name
    # The embedded method of order 4 differs, and its weights sum to 1 too.
    error = tableau.c_error.numpy()
    assert abs(error.sum()) < 1e-14 and abs(error @ c**3) < 1e-12 and abs(error @ c**4) > 1e-5


def test_the_interpolant_in_a_step_is_of_order_four():
    """Saving between the steps must not lose the accuracy of the steps."""
    problem = ps.ODEProblem(lambda u, p, t: [u[1], -u[0]], [1.0, 0.0], (0.0, 2.0))
    errors = []
    for h in (0.2, 0.1):
        times = np.arange(0.05, 2.0, 0.1)
        sol = ps.solve(problem, ps.Tsit5(), dt=h, dtmax=h, rtol=1.0, atol=1.0, saveat=times, engine="embedded")
        errors.append(np.abs(sol.u[:, 0] - np.cos(times)).max())
    assert errors[0] < 2e-6 and np.log2(errors[0] / errors[1]) > 3.5


def test_the_default_is_named():
    problem = ps.ODEProblem(relaxation, [1.0], (0.0, 1.0), 2.0)
    sol = ps.solve(problem, engine="embedded")
    assert sol.algorithm == embedded.DEFAULT == "Tsit5"
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    sol = ps.solve(ps.remake(problem, p=k), engine="embedded")
    assert sol.sensealg == ps.ReverseDiffAdjoint()


def test_large_problems_get_the_adjoint_of_flat_memory():
    from pysciode.methods.adjoints import TAPE_LIMIT, default_sensealg

    assert default_sensealg(2, TAPE_LIMIT - 2, embedded=True) == ps.ReverseDiffAdjoint()
    assert default_sensealg(2, TAPE_LIMIT, embedded=True) == ps.BacksolveAdjoint()


def test_statistics_count():
    calls = 0

    def f(u, p, t):
        nonlocal calls
        calls += 1
        return [-u[0]]

    problem = ps.ODEProblem(f, [1.0], (0.0, 1.0), capture="callback")
    problem.model  # capture may call f
    calls = 0
    stats = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine="embedded").stats
    assert stats.nf == calls
    # Two for the first step, one to begin with, six for each step.
    assert stats.nf == 3 + 6 * (stats.naccept + stats.nreject)
    fixed = ps.solve(problem, ps.RK4(), dt=0.1, adaptive=False, saveat=[1.0], engine="embedded").stats
    assert fixed.naccept == 10 and fixed.nreject == 0


def test_no_warnings():
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: [-p * u[0]], [1.0], (0.0, 1.0), k)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"sensealg": ps.BacksolveAdjoint()}, {"adaptive": False, "dt": 0.1, "saveat": [1.0]}):
            algorithm = ps.Midpoint() if "dt" in options else ps.Tsit5()
            ps.solve(problem, algorithm, engine="embedded", **options).u.sum().backward()


def test_memory_of_the_adjoint_is_flat_in_the_number_of_steps(monkeypatch):
    """As many points are kept as there are saved times, however many steps lie between them."""
    recorders = []
    make = embedded.Recorder.make
    monkeypatch.setattr(embedded.Recorder, "make", lambda *x: recorders.append(make(*x)) or recorders[-1])
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(relaxation, [0.0], (0.0, 5.0), k)
    for tolerance in (1e-3, 1e-10):
        options = {"rtol": tolerance, "atol": tolerance, "sensealg": ps.BacksolveAdjoint(), "engine": "embedded"}
        sol = ps.solve(problem, ps.Tsit5(), saveat=[2.0, 5.0], **options)
        assert len(recorders[-1].times) <= 7
    assert sol.stats.naccept > 100
    sol.u.sum().backward()
    assert len(recorders) == 2


def test_models_of_every_kind():
    """A captured function, a network and a callback give the same solution of the same equation."""
    net = torch.nn.Linear(2, 2).double()
    weight, bias = net.weight.detach().numpy(), net.bias.detach().numpy()
    u0 = np.array([0.5, -0.5])
    models = {
        "python": ps.ODEProblem(lambda u, p, t: p["W"] @ u + p["b"], u0, (0.0, 1.0), {"W": weight, "b": bias}),
        "module": ps.ODEProblem(net, torch.from_numpy(u0), (0.0, 1.0)),
        "module with t": ps.ODEProblem(lambda u, p, t: net(u) + 0 * t, torch.from_numpy(u0), (0.0, 1.0)),
        "callback": ps.ODEProblem(lambda u, p, t: weight @ u + bias, u0, (0.0, 1.0), capture="callback"),
    }
    found = {name: ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine="embedded").to_numpy()[1] for name, problem in models.items()}
    for name, u in found.items():
        np.testing.assert_allclose(u, found["python"], rtol=1e-12, err_msg=name)


def test_gradients_through_callbacks():
    net = torch.nn.Linear(2, 2).double()
    u0 = torch.tensor([0.5, -0.5], dtype=F64)
    gradients = []
    for capture in ("auto", "callback"):
        net.zero_grad()
        problem = ps.ODEProblem(net, u0, (0.0, 1.0), capture=capture)
        ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine="embedded").u.square().sum().backward()
        gradients.append(net.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_callbacks_of_numpy_and_of_torch():
    k = torch.tensor(1.0, dtype=F64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: np.array([-float(u[0])]), [1.0], (0.0, 1.0), capture="callback")
    assert ps.solve(problem, ps.Tsit5(), engine="embedded").success
    problem = ps.ODEProblem(lambda u, p, t: -p * u, torch.ones(1, dtype=F64), (0.0, 1.0), k, capture="callback")
    ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine="embedded").u.sum().backward()
    assert k.grad.item() == pytest.approx(-np.exp(-1.0), rel=1e-6)


def test_import_is_quick_and_light():
    import subprocess
    import sys

    code = (
        "import sys, time; t = time.perf_counter(); import pysciode; pysciode.ODEProblem, pysciode.Tsit5, pysciode.solve;"
        "print(time.perf_counter() - t);"
        "print([m for m in ('torch', 'sympy', 'matplotlib', 'pandas', 'juliacall', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert float(out[0]) < 1.0
    assert out[1] == "[]"
