"""Many solves in one process: nothing accumulates in Julia or in Python, and models go when nobody has them any more.

PYSCIODE_LEAK_ROUNDS multiplies the rounds: 20 makes more than ten thousand solves and gradients.
"""

from __future__ import annotations

import gc
import os
import weakref

import numpy as np
import pytest
import torch

import pysciode as ps
from pysciode.nn import NeuralODE

pytestmark = [pytest.mark.slow, pytest.mark.julia]
ROUNDS = int(os.environ.get("PYSCIODE_LEAK_ROUNDS", "1"))
F64 = torch.float64
SAVED = dict(saveat=0.1, rtol=1e-6, atol=1e-6, engine="julia")


def volterra(u, p, t):
    return [p[0] * u[0] - p[1] * u[0] * u[1], p[1] * u[0] * u[1] - p[2] * u[1]]


def decay(u, p, t):
    return [-p[0] * u[0]]


@pytest.fixture(scope="module")
def state():
    """A function that tells of models, plans, solutions and errors that Julia holds by number, of Julia's memory that is in use, and of
    Python's objects, after garbage collections."""
    ps.solve(ps.ODEProblem(decay, [1.0], (0.0, 1.0), [1.0]), ps.Tsit5(), engine="julia")
    import juliacall

    look = juliacall.Main.seval(
        "() -> (GC.gc(); GC.gc(); Int[(length(h.objects) for h in "
        "(PySciODE.MODELS, PySciODE.PLANS, PySciODE.ANSWERS, PySciODE.ERRORS))..., Base.gc_live_bytes()])"
    )

    def tell():
        gc.collect()
        gc.collect()
        *handles, live = (int(x) for x in look())
        return np.array(handles), live, len(gc.get_objects())

    return tell


def check_flat(state, one, count, *, handles=0, julia_bytes=300, python_objects=0.5):
    """`one(k)` leaves at most so many handles behind, and for each call so many bytes and objects (which a few caches take)."""
    count *= ROUNDS
    for k in range(20):
        one(k)
    before = state()
    for k in range(20, 20 + count):
        one(k)
    after = state()
    assert (after[0] - before[0] <= handles).all(), (before[0], after[0])
    assert after[1] - before[1] <= 50_000 + julia_bytes * count, (before[1], after[1])
    assert after[2] - before[2] <= 50 + python_objects * count, (before[2], after[2])


def test_solves_of_one_problem(state):
    problem = ps.ODEProblem(volterra, [1.0, 1.0], (0.0, 3.0), [1.5, 1.0, 3.0])
    kept = []

    def one(k):
        sol = ps.solve(problem, ps.Tsit5(), engine="julia")  # with dense output
        assert sol(1.5).shape == (2,)
        kept.append(sol)  # some of them live for a while
        del kept[:-3]
        ps.solve(problem, (ps.Tsit5(), ps.Rodas5P())[k % 2], **SAVED)

    check_flat(state, one, 150)


@pytest.mark.parametrize("sensealg", [ps.GaussAdjoint(), ps.ForwardDiffSensitivity()], ids=lambda x: x.name)
def test_gradients_of_problems_made_anew(state, sensealg):
    def one(k):
        p = torch.tensor([1.5, 1.0, 3.0], dtype=F64, requires_grad=True)
        problem = ps.ODEProblem(volterra, torch.ones(2, dtype=F64), (0.0, 2.0), p)
        sol = ps.solve(problem, ps.Tsit5(), sensealg=sensealg, **SAVED)
        if k % 3:  # some gradients are never taken
            sol.u.sum().backward()

    check_flat(state, one, 100)


def test_failures(state):
    """Exceptions hold solutions; their tracebacks hold frames."""
    explodes = ps.ODEProblem(lambda u, p, t: [u[0] ** 2], [1.0], (0.0, 2.0))
    p = torch.tensor(1.0, dtype=F64, requires_grad=True)
    steep = ps.ODEProblem(lambda u, p, t: [p * u[0] ** 0.5], torch.zeros(1, dtype=F64), (0.0, 1.0), p)
    kept = []

    def one(k):
        with pytest.raises(ps.SolveFailed) as failed:
            ps.solve(explodes, ps.Tsit5(), engine="julia")
        kept.append(failed.value)
        del kept[:-3]
        with pytest.raises(ps.GradientFailed):
            ps.solve(steep, ps.Tsit5(), saveat=[1.0], engine="julia").u.sum().backward()
        with pytest.raises(ValueError):
            ps.solve(explodes, ps.Tsit5(), saveat=[3.0], engine="julia")

    check_flat(state, one, 15)


def test_models_that_stay_in_python(state):
    gone = []

    def one(k):
        def model(u, p, t):
            if k % 2 and t > 0.5:
                raise ZeroDivisionError
            return -u

        problem = ps.ODEProblem(model, [1.0, 2.0], (0.0, 1.0), [1.0], capture="callback")
        try:
            ps.solve(problem, ps.Tsit5(), **SAVED)
        except ZeroDivisionError:
            assert k % 2
        gone.append(weakref.ref(model))

    check_flat(state, one, 20, julia_bytes=3000)
    assert not any(x() for x in gone)


def check_models(state, make, julia_bytes):
    """Gradients of 25 models, ``make(0)`` to ``make(24)``: all goes with the models but for the latest few, and what Julia keeps."""
    gone = []

    def one(k):
        model = make(k)
        p = torch.ones(1, dtype=F64, requires_grad=True)
        problem = ps.ODEProblem(model, torch.ones(1, dtype=F64), (0.0, 1.0), p)
        ps.solve(problem, ps.Tsit5(), **SAVED).u.sum().backward()
        gone.append(weakref.ref(model))

    check_flat(state, one, 25, handles=32, julia_bytes=julia_bytes, python_objects=8)
    assert not any(x() for x in gone)


def test_models_that_differ(state):
    """Julia keeps the code that it compiled, some 40 kB a model."""
    check_models(state, lambda k: lambda u, p, t: [-p[0] * u[0] ** (1 + k)], julia_bytes=80_000)


def test_models_that_differ_in_numbers(state):
    """They are compiled once."""

    def make(k):
        rate = 1 + k / 1000
        return lambda u, p, t: [-rate * p[0] * u[0]]

    check_models(state, make, julia_bytes=15_000)


def test_networks_of_one_architecture(state):
    """They are compiled once."""
    gone = []

    def one(k):
        network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        block = NeuralODE(network, (0.0, 1.0))
        out = block(torch.ones(3, 2))
        (out.u if hasattr(out, "u") else out).sum().backward()
        gone.extend(map(weakref.ref, (network, block)))

    check_flat(state, one, 6, julia_bytes=20_000, python_objects=30)
    assert not any(x() for x in gone)


def test_a_global_number_that_changes(state):
    """Each is another model for the same function, which keeps the latest of them."""
    scope = {"rate": 1.0}
    exec("def model(u, p, t):\n    return [-rate * u[0]]", scope)

    def one(k):
        scope["rate"] = rate = 1 + k / 1000
        u = ps.solve(ps.ODEProblem(scope["model"], [1.0], (0.0, 1.0)), ps.Tsit5(), **SAVED).u
        assert u[-1, 0] == pytest.approx(np.exp(-rate), rel=1e-4)

    for k in range(30):
        one(1000 + k)
    check_flat(state, one, 20, handles=12, julia_bytes=15_000, python_objects=60)


def test_options_and_events_that_change(state):
    problem = ps.ODEProblem(decay, [1.0], (0.0, 1.0), [1.0])

    def options(k):
        ps.solve(problem, ps.Tsit5(), saveat=0.1, rtol=1e-6 * (1 + k / 1000), atol=1e-6, engine="julia")

    for k in range(100):
        options(10_000 + k)
    check_flat(state, options, 100, handles=3, python_objects=3)

    def events(k):
        level = 0.5 + k / 1000
        sol = ps.solve(problem, ps.Tsit5(), callback=ps.ContinuousCallback(lambda u, p, t: u[0] - level), **SAVED)
        assert sol.events[0].t == pytest.approx([-np.log(level)], abs=1e-5)

    check_flat(state, events, 15, handles=40, julia_bytes=80_000, python_objects=20)
