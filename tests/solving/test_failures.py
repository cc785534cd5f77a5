"""Right-hand sides that are not finite, explode or jump: a clear error or the right numbers, and the session goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from alive import TIGHT, check_alive

import pysciode as ps

F64 = torch.float64


@pytest.fixture
def alive(engine):
    yield engine
    check_alive(engine)


def algorithms(engine):
    return (ps.Tsit5(), ps.Rodas5P(), None) if engine == "julia" else (ps.Tsit5(), ps.BS3())


NOT_FINITE = {
    "everywhere": (lambda u, p, t: [u[0] * np.log(-p[0]), u[1]], [1.0, 1.0], 0.0),
    "in one entry": (lambda u, p, t: [np.sqrt(u[0] - 2.0), -u[1]], [1.0, 1.0], 0.0),
    "infinite at the start": (lambda u, p, t: [1 / u[0], -u[1]], [0.0, 1.0], 0.0),
    "from some time on": (lambda u, p, t: [np.sqrt(p[0] - t) - 1, -u[1]], [1.0, 1.0], 0.5),
    "from some state on": (lambda u, p, t: [np.log(u[0]) - 2, -u[1]], [1.0, 1.0], 0.5),
}


@pytest.mark.parametrize("name", NOT_FINITE)
@pytest.mark.parametrize("saveat", [[0.25, 1.0], None], ids=["times", "steps"])
def test_a_model_that_is_not_finite(alive, name, saveat):
    f, u0, until = NOT_FINITE[name]
    for algorithm in algorithms(alive):
        problem = ps.ODEProblem(f, u0, (0.0, 1.0), [0.5])
        with pytest.raises(ps.SolveFailed) as caught:
            ps.solve(problem, algorithm, saveat=saveat, engine=alive)
        partial = caught.value.solution
        assert until / 2 <= caught.value.t <= until + 0.01 and np.isfinite(partial.u).all()
        assert partial.t.max(initial=0.0) <= until + 0.01
        if saveat is not None:
            assert partial.t.tolist() == [x for x in saveat if x <= caught.value.t]


def test_a_callback_that_is_not_finite(alive):
    for value, shape in ((np.nan, (1,)), (np.inf, (1,)), (np.nan, ())):
        problem = ps.ODEProblem(
            lambda u, p, t, value=value: value * np.ones(np.shape(u)) if t > 0.3 else -u, np.ones(shape), (0.0, 1.0), capture="callback"
        )
        sol = ps.solve(problem, ps.Tsit5(), saveat=[0.2, 1.0], throw=False, engine=alive)
        assert not sol.success and sol.t.tolist() == [0.2] and sol.u[0] == pytest.approx(np.exp(-0.2), rel=1e-4)


@pytest.mark.parametrize("saveat", [[2.0], [0.5, 2.0], 0.25])
def test_a_solution_that_explodes_is_known_until_then(alive, saveat):
    """What is called saved at a time was reached by then."""
    problem = ps.ODEProblem(lambda u, p, t: [u[0] ** 2], [1.0], (0.0, 2.0))  # 1 / (1 - t)
    for algorithm in (ps.Tsit5(),) if alive == "embedded" else (ps.Tsit5(), ps.Rodas5P()):
        sol = ps.solve(problem, algorithm, saveat=saveat, throw=False, engine=alive)
        assert not sol.success and sol.t_reached == pytest.approx(1.0, abs=1e-3)
        wanted = np.arange(0, 2.1, saveat) if np.ndim(saveat) == 0 else np.array(saveat)
        np.testing.assert_array_equal(sol.t, wanted[wanted <= sol.t_reached])
        early = sol.t < 0.9
        np.testing.assert_allclose(sol.u[early, 0], 1 / (1 - sol.t[early]), rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_exponential_growth_leaves_the_range_of_numbers(alive, dtype):
    problem = ps.ODEProblem(lambda u, p, t: u, torch.ones(1, dtype=dtype), (0.0, 1e4))
    with pytest.raises(ps.SolveFailed) as caught:
        ps.solve(problem, ps.Tsit5(), engine=alive)
    assert caught.value.t <= (90 if dtype == torch.float32 else 712)


# --- jumps -----------------------------------------------------------------------------------------------------------


def switched_np(u, p, t):
    return [np.where(t < p[0], 1.0, -2.0) - u[0]]


def switched_torch(u, p, t):
    return torch.where(t < p[0], 1.0, -2.0) - u


def switched_exactly(t, at):
    before = 1 - np.exp(-np.minimum(t, at))
    return np.where(t < at, before, -2 + (before + 2) * np.exp(-np.maximum(t - at, 0.0)))


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("model", [switched_np, switched_torch], ids=["where", "torch.where"])
def test_a_jump_in_time(alive, model, stops):
    p, times = np.array([0.77]), np.linspace(0.1, 2.0, 20)
    torchy = model is switched_torch
    u0 = torch.zeros(1, dtype=F64) if torchy else np.zeros(1)
    for algorithm in (ps.Tsit5(),) if alive == "embedded" else (ps.Tsit5(), ps.Rodas5P(), None):
        problem = ps.ODEProblem(model, u0, (0.0, 2.0), torch.from_numpy(p) if torchy else p)
        sol = ps.solve(problem, algorithm, saveat=times, tstops=p if stops else None, engine=alive, **TIGHT)
        error = np.abs(sol.to_numpy()[1][:, 0] - switched_exactly(times, 0.77)).max()
        assert error < (1e-7 if stops else 1e-5)


def test_a_jump_in_the_state(alive):
    """u' = -3 - sign(u) comes to 0 with slope -4 and leaves it with -2."""
    problem = ps.ODEProblem(lambda u, p, t: [-3.0 - np.sign(u[0])], [1.0], (0.0, 1.0))
    sol = ps.solve(problem, ps.Tsit5(), saveat=[0.2, 1.0], engine=alive, **TIGHT)
    assert sol.u[0, 0] == pytest.approx(0.2, rel=1e-6) and sol.u[1, 0] == pytest.approx(-1.5, rel=1e-5)


def test_a_slide_along_a_jump_ends(alive):
    """u' = -sign(u) can't cross 0: the steps shrink there; the solver stays by 0 or gives up, and doesn't hang."""
    problem = ps.ODEProblem(lambda u, p, t: [-np.sign(u[0])], [0.5], (0.0, 1.0))
    sol = ps.solve(problem, ps.Tsit5(), saveat=[0.25, 1.0], maxiters=3000, throw=False, engine=alive)
    assert sol.u[0, 0] == pytest.approx(0.25, rel=1e-6)
    if sol.success:
        assert abs(sol.u[1, 0]) < 1e-3
    else:
        assert sol.t.tolist() == [0.25] and sol.retcode in ("MaxIters", "DtLessThanMin", "Unstable")
