"""Solutions against analytic ones and against SciPy at tight tolerances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import pysciode as ps

RATES = [1.5, 1.0, 3.0, 1.0]


def lotka_volterra(u, p, t):
    x, y = u
    a, b, c, d = p
    return [a * x - b * x * y, d * x * y - c * y]


def lotka_volterra_in_place(du, u, p, t):
    du[0] = p[0] * u[0] - p[1] * u[0] * u[1]
    du[1] = p[3] * u[0] * u[1] - p[2] * u[1]


def oscillator(u, p, t):
    return [u[1], -p * u[0]]


def reference(times, tspan=(0.0, 10.0), u0=(1.0, 1.0), p=RATES):
    out = solve_ivp(lambda t, u: lotka_volterra(u, p, t), tspan, u0, method="DOP853", rtol=1e-12, atol=1e-12, t_eval=times)
    return out.y.T


@pytest.fixture
def problem():
    return ps.ODEProblem(lotka_volterra, [1.0, 1.0], (0.0, 10.0), RATES)


@pytest.mark.parametrize("model", [lotka_volterra, lotka_volterra_in_place])
def test_lotka_volterra(engine, model):
    times = np.linspace(0, 10, 101)
    problem = ps.ODEProblem(model, [1.0, 1.0], (0.0, 10.0), RATES)
    sol = ps.solve(problem, ps.Tsit5(), saveat=times, rtol=1e-8, atol=1e-8, engine=engine)
    assert sol.success and sol.retcode == "Success" and sol.engine == engine and sol.algorithm == "Tsit5"
    np.testing.assert_array_equal(sol.t, times)
    assert sol.u.shape == (101, 2) and sol.u.dtype == np.float64
    np.testing.assert_allclose(sol.u, reference(times), atol=2e-6)


def test_the_default_algorithm(engine, problem):
    for algorithm in (None, "auto"):
        sol = ps.solve(problem, algorithm, saveat=[5.0, 10.0], rtol=1e-8, atol=1e-8, engine=engine)
        np.testing.assert_allclose(sol.u, reference([5.0, 10.0]), atol=1e-5)
        assert sol.algorithm  # whatever ran has a name


def test_tighter_tolerances_give_smaller_errors(engine, problem):
    exact = reference([10.0])
    errors = [
        np.abs(ps.solve(problem, ps.Tsit5(), saveat=[10.0], rtol=tol, atol=tol, engine=engine).u - exact).max()
        for tol in (1e-4, 1e-7, 1e-10)
    ]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-8


def test_torch_in_torch_out(engine):
    u0 = torch.ones(2, dtype=torch.float64)
    problem = ps.ODEProblem(lotka_volterra, u0, (0.0, 10.0), torch.tensor(RATES, dtype=torch.float64))
    sol = ps.solve(problem, ps.Tsit5(), saveat=[2.0, 10.0], rtol=1e-9, atol=1e-9, engine=engine)
    assert isinstance(sol.u, torch.Tensor) and sol.u.dtype == torch.float64 and not sol.u.requires_grad
    assert isinstance(sol.t, torch.Tensor) and sol.t.tolist() == [2.0, 10.0]
    np.testing.assert_allclose(sol.u.numpy(), reference([2.0, 10.0]), atol=1e-6)


@pytest.mark.parametrize("as_torch", [False, True])
def test_float32(engine, as_torch):
    u0 = torch.ones(2) if as_torch else np.ones(2, np.float32)
    problem = ps.ODEProblem(lotka_volterra, u0, (0.0, 3.0), RATES)
    sol = ps.solve(problem, ps.Tsit5(), saveat=[3.0], engine=engine)
    assert sol.u.dtype == u0.dtype and sol.t.dtype == u0.dtype
    np.testing.assert_allclose(np.asarray(sol.u), reference([3.0], (0.0, 3.0)), atol=2e-3)


def test_state_of_any_shape(engine):
    def f(u, p, t):
        return -u * p["rate"]

    u0 = np.arange(1.0, 7.0).reshape(2, 3)
    problem = ps.ODEProblem(f, u0, (0.0, 1.0), {"rate": np.full((2, 3), 2.0)})
    sol = ps.solve(problem, ps.Tsit5(), saveat=[0.5, 1.0], rtol=1e-9, atol=1e-9, engine=engine)
    assert sol.u.shape == (2, 2, 3)
    np.testing.assert_allclose(sol.u[1], u0 * np.exp(-2.0), rtol=1e-7)


def test_one_number_as_state(engine):
    problem = ps.ODEProblem(lambda u, p, t: -p * u, 1.0, (0.0, 1.0), 2.0)
    sol = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine=engine)
    assert sol.u.shape == (1,)
    np.testing.assert_allclose(sol.u, np.exp(-2.0), rtol=1e-7)


def test_time_dependent_right_hand_side(engine):
    problem = ps.ODEProblem(lambda u, p, t: [np.cos(p * t)], [0.0], (0.0, 2.0), 3.0)
    sol = ps.solve(problem, ps.Tsit5(), saveat=0.5, rtol=1e-9, atol=1e-9, engine=engine)
    np.testing.assert_allclose(sol.u[:, 0], np.sin(3 * sol.t) / 3, atol=1e-7)


def test_backwards_in_time(engine, problem):
    forward = ps.solve(problem, ps.Tsit5(), saveat=[10.0], rtol=1e-10, atol=1e-10, engine=engine)
    back = ps.remake(problem, u0=forward.u[-1], tspan=(10.0, 0.0))
    sol = ps.solve(back, ps.Tsit5(), saveat=[6.0, 0.0], rtol=1e-10, atol=1e-10, engine=engine)
    np.testing.assert_allclose(sol.u, reference([0.0, 6.0])[::-1], atol=1e-6)
    every = ps.solve(back, ps.Tsit5(), rtol=1e-8, atol=1e-8, engine=engine)
    assert every.t[0] == 10.0 and every.t[-1] == 0.0 and (np.diff(every.t) < 0).all()
    np.testing.assert_allclose(every(3.0), reference([3.0])[0], atol=1e-5)


def test_saveat_as_a_step_includes_the_end(engine, problem):
    np.testing.assert_allclose(ps.solve(problem, ps.Tsit5(), saveat=2.5, engine=engine).t, [0, 2.5, 5, 7.5, 10])
    np.testing.assert_allclose(ps.solve(problem, ps.Tsit5(), saveat=4.0, engine=engine).t, [0, 4, 8, 10])
    fine = ps.solve(problem, ps.Tsit5(), saveat=0.1, engine=engine).t
    assert len(fine) == 101 and fine[-1] == 10.0


def test_saveat_at_the_start_alone(engine, problem):
    sol = ps.solve(problem, ps.Tsit5(), saveat=[0.0], engine=engine)
    np.testing.assert_allclose(sol.u, [[1.0, 1.0]])


def test_every_step_is_saved(engine, problem):
    sol = ps.solve(problem, ps.Tsit5(), rtol=1e-8, atol=1e-8, engine=engine)
    assert sol.t[0] == 0.0 and sol.t[-1] == 10.0 and (np.diff(sol.t) > 0).all()
    assert sol.stats.naccept <= len(sol) <= sol.stats.naccept + 2
    np.testing.assert_allclose(sol.u, reference(sol.t), atol=1e-5)


def test_dense_output_and_its_derivative(engine, problem):
    sol = ps.solve(problem, ps.Tsit5(), rtol=1e-9, atol=1e-9, engine=engine)
    times = np.linspace(0, 10, 77)
    exact = reference(times)
    np.testing.assert_allclose(sol(times), exact, atol=1e-5)
    slopes = np.array([lotka_volterra(u, RATES, 0.0) for u in exact])
    np.testing.assert_allclose(sol(times, derivative=1), slopes, atol=1e-4)
    assert sol(3.0).shape == (2,) and sol(np.ones((2, 3))).shape == (2, 3, 2)
    with pytest.raises(ValueError, match="between 0 and 10"):
        sol(10.5)
    with pytest.raises(ValueError, match="derivative"):
        sol(1.0, derivative=2)


def test_without_dense_output_the_way_out_is_named(engine, problem):
    sol = ps.solve(problem, ps.Tsit5(), saveat=1.0, engine=engine)
    with pytest.raises(ValueError, match="dense=True"):
        sol(2.5)
    sol = ps.solve(problem, ps.Tsit5(), saveat=1.0, dense=True, rtol=1e-8, atol=1e-8, engine=engine)
    assert len(sol) == 11
    np.testing.assert_allclose(sol(2.5), reference([2.5])[0], atol=1e-5)


@pytest.mark.parametrize("save_idxs, columns", [([1], [1]), (0, [0]), ([1, 0], [1, 0]), (np.array([False, True]), [1]), (-1, [1])])
def test_save_idxs(engine, problem, save_idxs, columns):
    sol = ps.solve(problem, ps.Tsit5(), saveat=[5.0, 10.0], save_idxs=save_idxs, rtol=1e-8, atol=1e-8, engine=engine)
    assert sol.u.shape == (2, len(columns))
    assert sol.names == tuple(f"u[{i}]" for i in columns)
    np.testing.assert_allclose(sol.u, reference([5.0, 10.0])[:, columns], atol=1e-5)


def test_dense_output_of_some_entries(engine, problem):
    sol = ps.solve(problem, ps.Tsit5(), save_idxs=[1], rtol=1e-9, atol=1e-9, engine=engine)
    assert sol(2.0).shape == (1,)
    np.testing.assert_allclose(sol([2.0, 7.0]), reference([2.0, 7.0])[:, [1]], atol=1e-5)


def test_atol_as_an_array(engine, problem):
    sol = ps.solve(problem, ps.Tsit5(), saveat=[10.0], rtol=1e-8, atol=[1e-8, 1e-9], engine=engine)
    np.testing.assert_allclose(sol.u, reference([10.0]), atol=1e-5)


def test_tstops_are_stepped_on(engine):
    def pulse(u, p, t):
        return [np.where(t < 1.0, 0.0, 1.0)]

    problem = ps.ODEProblem(pulse, [0.0], (0.0, 3.0))
    sol = ps.solve(problem, ps.Tsit5(), tstops=[1.0], rtol=1e-6, atol=1e-6, engine=engine)
    assert np.abs(sol.t - 1.0).min() < 1e-12
    np.testing.assert_allclose(sol.u[-1], 2.0, atol=1e-5)


def test_dt_and_dtmax(engine, problem):
    sol = ps.solve(problem, ps.Tsit5(), dt=0.001, dtmax=0.05, engine=engine)
    assert abs(sol.t[1] - 0.001) < 1e-9
    assert np.diff(sol.t).max() <= 0.05 + 1e-12


@pytest.mark.parametrize("name, order", [("Euler", 1), ("Midpoint", 2), ("Heun", 2), ("RK4", 4)])
def test_fixed_steps_have_their_order(engine, name, order):
    problem = ps.ODEProblem(oscillator, [1.0, 0.0], (0.0, 2.0), 1.0)
    algorithm = ps.Algorithm(name)
    errors = []
    for dt in (0.02, 0.01):
        sol = ps.solve(problem, algorithm, dt=dt, adaptive=False, saveat=[2.0], engine=engine)
        errors.append(abs(sol.u[0, 0] - np.cos(2.0)))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name, order", [("Tsit5", 5), ("DP5", 5), ("BS3", 3)])
def test_adaptive_methods_have_their_order(engine, name, order):
    problem = ps.ODEProblem(oscillator, [1.0, 0.0], (0.0, 6.0), 1.0)
    errors = []
    for dt in (0.2, 0.1):
        sol = ps.solve(problem, ps.Algorithm(name), dt=dt, dtmax=dt, rtol=1.0, atol=1.0, saveat=[6.0], engine=engine)
        errors.append(np.abs(sol.u[0] - [np.cos(6.0), -np.sin(6.0)]).max())
    assert order - 0.7 < np.log2(errors[0] / errors[1]) < order + 1.3


def test_second_order_problem(engine):
    problem = ps.SecondOrderODEProblem(lambda v, u, p, t: -p * u, [0.0, 1.0], [1.0, 0.0], (0.0, 3.0), 4.0)
    sol = ps.solve(problem, ps.Tsit5(), saveat=[1.0, 3.0], rtol=1e-9, atol=1e-9, engine=engine)
    assert sol.u.shape == sol.v.shape == (2, 2)
    np.testing.assert_allclose(sol.u, np.stack([np.cos(2 * sol.t), np.sin(2 * sol.t) / 2], 1), atol=1e-7)
    np.testing.assert_allclose(sol.v, np.stack([-2 * np.sin(2 * sol.t), np.cos(2 * sol.t)], 1), atol=1e-7)


def test_second_order_in_place(engine):
    def f(ddu, du, u, p, t):
        ddu[0] = -p * u[0]

    problem = ps.SecondOrderODEProblem(f, [0.0], [1.0], (0.0, 3.0), 4.0)
    sol = ps.solve(problem, ps.Tsit5(), rtol=1e-9, atol=1e-9, engine=engine)
    np.testing.assert_allclose(sol(2.0), np.cos(4.0), atol=1e-7)


def test_dynamical_and_split_problems(engine):
    dynamical = ps.DynamicalODEProblem(lambda v, u, p, t: [-u[0]], lambda v, u, p, t: [v[0]], [0.0], [1.0], (0.0, 2.0))
    sol = ps.solve(dynamical, ps.Tsit5(), saveat=[2.0], rtol=1e-9, atol=1e-9, engine=engine)
    np.testing.assert_allclose([sol.u[0, 0], sol.v[0, 0]], [np.cos(2.0), -np.sin(2.0)], atol=1e-7)
    split = ps.SplitODEProblem(lambda u, p, t: [-p * u[0]], lambda u, p, t: [t], [1.0], (0.0, 1.0), 2.0)
    sol = ps.solve(split, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine=engine)
    np.testing.assert_allclose(sol.u[0, 0], 1.25 * np.exp(-2.0) + 0.25, atol=1e-7)


def test_solution_as_a_sequence(engine, problem):
    sol = ps.solve(problem, ps.Tsit5(), saveat=1.0, engine=engine)
    assert len(sol) == 11
    np.testing.assert_array_equal(sol[3], sol.u[3])
    t, u = list(sol)[4]
    assert t == 4.0 and (u == sol.u[4]).all()
    assert "Tsit5" in repr(sol) and "Success" in repr(sol) and engine in repr(sol)
    assert sol.stats.nf > 0 and sol.stats["nf"] == sol.stats.nf and dict(sol.stats)["naccept"] > 0


def test_data_frame(engine, problem):
    frame = ps.solve(problem, ps.Tsit5(), saveat=1.0, engine=engine).to_dataframe()
    assert list(frame.columns) == ["t", "u[0]", "u[1]"] and len(frame) == 11


def test_plot(engine, problem):
    import matplotlib

    matplotlib.use("Agg")
    ax = ps.solve(problem, ps.Tsit5(), engine=engine).plot()
    assert [line.get_label() for line in ax.lines] == ["u[0]", "u[1]"]
    assert ax.get_xlabel() == "t"


def long_problem(engine):
    """Steps limited by stability, so that the solve takes long enough for a report to be due."""
    rate = 3e2 if engine == "embedded" else 1e6
    return ps.ODEProblem(lambda u, p, t: [-p * (u[0] - np.cos(t))], [0.0], (0.0, 20.0), rate)


@pytest.mark.slow
def test_progress(engine):
    seen = []
    problem = long_problem(engine)
    ps.solve(problem, ps.Tsit5(), saveat=[20.0], maxiters=10_000_000, progress=seen.append, engine=engine)
    assert seen and all(0.0 <= t <= 20.0 for t in seen) and seen == sorted(seen)


def test_progress_bar_goes_to_stderr(engine, capsys):
    problem = long_problem(engine)
    ps.solve(problem, ps.Tsit5(), saveat=[20.0], maxiters=10_000_000, progress=True, engine=engine)
    captured = capsys.readouterr()
    assert "%" in captured.err and captured.out == ""


def test_the_same_problem_again_gives_the_same(engine, problem):
    first = ps.solve(problem, ps.Tsit5(), saveat=1.0, engine=engine)
    second = ps.solve(problem, ps.Tsit5(), saveat=1.0, engine=engine)
    np.testing.assert_array_equal(first.u, second.u)
    assert first.u is not second.u


@pytest.mark.slow
def test_julia_solves_stiff_problems(julia_engine):
    def robertson(u, p, t):
        a, b, c = u
        return [-p[0] * a + p[2] * b * c, p[0] * a - p[2] * b * c - p[1] * b**2, p[1] * b**2]

    p = [0.04, 3e7, 1e4]
    problem = ps.ODEProblem(robertson, [1.0, 0.0, 0.0], (0.0, 1e4), p)
    times = [1.0, 1e2, 1e4]
    exact = solve_ivp(lambda t, u: robertson(u, p, t), (0, 1e4), [1, 0, 0], method="Radau", rtol=1e-11, atol=1e-13, t_eval=times).y.T
    for algorithm in (ps.Rodas5P(), ps.FBDF(), ps.TRBDF2(), ps.RadauIIA5(), None):
        sol = ps.solve(problem, algorithm, saveat=times, rtol=1e-8, atol=1e-10, engine=julia_engine)
        np.testing.assert_allclose(sol.u, exact, rtol=2e-5, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VelocityVerlet", "KahanLi8", "DPRKN6"])
def test_julia_keeps_energy_with_symplectic_methods(julia_engine, name):
    problem = ps.SecondOrderODEProblem(lambda v, u, p, t: -p * u, [0.0], [1.0], (0.0, 100.0), 1.0)
    sol = ps.solve(problem, ps.Algorithm(name), dt=0.05, saveat=10.0, engine=julia_engine)
    energy = (sol.u**2 + sol.v**2)[:, 0] / 2
    np.testing.assert_allclose(energy, 0.5, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["KenCarp4", "ARS343"])
def test_julia_solves_split_problems(julia_engine, algorithm):
    problem = ps.SplitODEProblem(lambda u, p, t: [-p * u[0]], lambda u, p, t: [np.cos(t)], [1.0], (0.0, 1.0), 50.0)
    sol = ps.solve(problem, ps.Algorithm(algorithm), saveat=[1.0], rtol=1e-6, atol=1e-8, engine=julia_engine)
    k = 50.0
    exact = (k * np.cos(1.0) + np.sin(1.0)) / (k**2 + 1) + (1 - k / (k**2 + 1)) * np.exp(-k)
    np.testing.assert_allclose(sol.u[0, 0], exact, rtol=1e-3)
