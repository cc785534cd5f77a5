"""Events, against closed solutions: a falling ball, harmonic motion, exponential decay."""

from __future__ import annotations

import math

import numpy as np
import pytest

import pysciode as ps

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.julia

G = 9.81


def fall(u, p, t):
    return np.array([u[1], -p[0]])


def height(u, p, t):
    return u[0]


def oscillate(u, p, t):
    return np.array([u[1], -u[0]])


def dropped(h=10.0, end=100.0, **problem):
    return ps.ODEProblem(fall, np.array([h, 0.0]), (0.0, end), np.array([G]), **problem)


GROUND = ps.ContinuousCallback(height, terminal=True, direction=-1)
LANDING = math.sqrt(20 / G)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [ps.Tsit5(), ps.DP5(), ps.Vern9(), ps.Rodas5P(), ps.QNDF(), None], ids=repr)
def test_solve_ends_at_a_terminal_event(algorithm):
    sol = ps.solve(dropped(), algorithm, callback=GROUND, rtol=1e-9, atol=1e-9)
    assert sol.retcode == "Terminated" and sol.success
    assert sol.t_reached == pytest.approx(LANDING, abs=1e-7)
    assert sol.t[-1] == sol.t_reached
    assert sol.u[-1] == pytest.approx([0.0, -G * LANDING], abs=1e-6)
    assert sol.events[0].t == pytest.approx([LANDING], abs=1e-7)
    assert sol.events[0].u.shape == (1, 2)


def test_saved_times_end_before_the_event():
    saveat = np.linspace(0, 100, 201)
    sol = ps.solve(dropped(), ps.Tsit5(), callback=GROUND, saveat=saveat, dense=True)
    assert np.array_equal(sol.t, saveat[saveat <= LANDING])
    assert sol(LANDING)[0] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="must lie between 0 and 1.42"):
        sol(1.5)


def test_without_an_event_the_solve_goes_to_its_end():
    sol = ps.solve(dropped(end=1.0), ps.Tsit5(), callback=GROUND)
    assert sol.retcode == "Success" and sol.t_reached == 1.0
    assert len(sol.events[0]) == 0 and sol.events[0].u.shape == (0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("direction, first", [(0, 0.5), (1, 1.5), (-1, 0.5)])
def test_directions_and_several_events(direction, first):
    problem = ps.ODEProblem(oscillate, [1.0, 0.0], (0.0, 20.0))
    crossing = ps.ContinuousCallback(height, direction=direction)
    clock = ps.ContinuousCallback(lambda u, p, t: t - 3.0)
    same = ps.ContinuousCallback(lambda u, p, t: -5 * u[0])
    sol = ps.solve(problem, ps.Vern7(), callback=[clock, crossing, same], rtol=1e-10, atol=1e-10)
    step = 1 if direction == 0 else 2
    assert sol.retcode == "Success"
    assert sol.events[0].t == pytest.approx([3.0], abs=1e-13)
    assert sol.events[1].t == pytest.approx(np.arange(first, 20 / np.pi, step) * np.pi, abs=1e-8)
    assert sol.events[2].t == pytest.approx(np.arange(0.5, 20 / np.pi) * np.pi, abs=1e-8)
    assert sol.u[-1] == pytest.approx([math.cos(20), -math.sin(20)], abs=1e-7)


def test_backward_solves_have_events_too():
    problem = ps.ODEProblem(oscillate, [1.0, 0.0], (0.0, -5.0))
    sol = ps.solve(problem, ps.Vern7(), callback=ps.ContinuousCallback(height, terminal=2, direction=0), rtol=1e-10, atol=1e-10)
    assert sol.events[0].t == pytest.approx([-np.pi / 2, -3 * np.pi / 2], abs=1e-8)
    assert sol.t_reached == pytest.approx(-3 * np.pi / 2, abs=1e-8)
    # As time goes in the solve, cos(t) falls through zero at -π/2.
    falling = ps.ContinuousCallback(height, direction=-1)
    assert ps.solve(problem, ps.Vern7(), callback=falling).events[0].t == pytest.approx([-np.pi / 2], abs=1e-5)


def test_affects_change_the_state():
    bounce = ps.ContinuousCallback(height, affect=lambda u, p, t: np.array([0.0, -0.9 * u[1]]), direction=-1)
    sol = ps.solve(dropped(end=10.0), ps.Tsit5(), callback=bounce, rtol=1e-10, atol=1e-10)
    flights = 2 * LANDING * 0.9 ** np.arange(1, 4)
    assert sol.events[0].t == pytest.approx(LANDING + np.concatenate([[0], np.cumsum(flights)]), abs=1e-10)
    assert sol.events[0].u[:, 1] == pytest.approx(-G * LANDING * 0.9 ** np.arange(4), abs=1e-8)
    # Dense output on both sides of a bounce.
    since = np.array([0.3, 1.0])
    assert sol(LANDING + since)[:, 0] == pytest.approx(0.9 * G * LANDING * since - G / 2 * since**2, abs=1e-8)
    assert sol(LANDING - 0.1)[0] == pytest.approx(10 - G / 2 * (LANDING - 0.1) ** 2, abs=1e-8)
    # And at saved times alone.
    at = ps.solve(dropped(end=10.0), ps.Tsit5(), callback=bounce, rtol=1e-10, atol=1e-10, saveat=[1.0, LANDING + 1.0, 10.0])
    assert at.t.tolist() == [1.0, LANDING + 1.0, 10.0]
    assert at.u[1, 0] == pytest.approx(0.9 * G * LANDING - G / 2, abs=1e-8)


def test_a_condition_that_is_zero_at_the_start_counts_when_it_returns():
    thrown = ps.ODEProblem(fall, np.array([0.0, G]), (0.0, 10.0), np.array([G]))
    assert ps.solve(thrown, ps.Tsit5(), callback=GROUND).t_reached == pytest.approx(2.0, abs=1e-10)


def test_parameters_of_problem_and_condition():
    threshold = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    event = ps.ContinuousCallback(lambda u, p, t: u[0] - threshold, terminal=True)

    def decay(u, p, t):
        return -p["rate"] * u

    def reached(rate):
        problem = ps.ODEProblem(
            decay, torch.tensor([8.0], dtype=torch.float64), (0.0, 50.0), {"rate": torch.tensor(rate, dtype=torch.float64)}
        )
        return ps.solve(problem, ps.Vern7(), callback=event, rtol=1e-10, atol=1e-10).t_reached

    assert reached(0.5) == pytest.approx(math.log(4) / 0.5, abs=1e-9)
    assert reached(0.1) == pytest.approx(math.log(4) / 0.1, abs=1e-8)
    with torch.no_grad():
        threshold.fill_(4.0)
    assert reached(0.5) == pytest.approx(math.log(2) / 0.5, abs=1e-9)


@pytest.mark.parametrize("sensealg", [ps.GaussAdjoint(), ps.InterpolatingAdjoint(), ps.ForwardDiffSensitivity()], ids=lambda s: s.name)
def test_gradients_of_what_was_saved_before_the_event(sensealg):
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    u0 = torch.tensor([8.0], dtype=torch.float64, requires_grad=True)
    saveat = torch.linspace(0, 10, 21, dtype=torch.float64)
    problem = ps.ODEProblem(lambda u, p, t: -p * u, u0, (0.0, 10.0), rate)
    event = ps.ContinuousCallback(lambda u, p, t: u[0] - 2.0, terminal=True)
    sol = ps.solve(problem, ps.Tsit5(), callback=event, saveat=saveat, rtol=1e-10, atol=1e-10, sensealg=sensealg)
    assert sol.retcode == "Terminated" and len(sol.t) == 6  # ln(4) / 0.5 = 2.77
    sol.u.sum().backward()
    t = np.arange(6) / 2
    assert u0.grad.item() == pytest.approx(np.exp(-0.5 * t).sum(), rel=1e-7)
    assert rate.grad.item() == pytest.approx((-8 * t * np.exp(-0.5 * t)).sum(), rel=1e-7)


@pytest.mark.slow
def test_a_gradient_does_not_pass_through_a_change_of_state():
    u0 = torch.tensor([8.0], requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: -u, u0, (0.0, 10.0))
    event = ps.ContinuousCallback(lambda u, p, t: u[0] - 2.0, affect=lambda u, p, t: 2 * u)
    with pytest.raises(ValueError, match="changes the state"):
        ps.solve(problem, ps.Tsit5(), callback=event)
    with torch.no_grad():
        assert len(ps.solve(problem, ps.Tsit5(), callback=event).events[0]) > 3


def test_networks_as_conditions_and_many_states():
    torch.manual_seed(0)
    net = torch.nn.Linear(500, 1, dtype=torch.float64)
    u0 = torch.randn(20, 25, dtype=torch.float64)
    problem = ps.ODEProblem(lambda u, p, t: -u, u0, (0.0, 5.0))
    offset = net.bias.item() + (net(u0.reshape(-1)) - net.bias).item() / 3  # reached where exp(-t) = 1/3
    event = ps.ContinuousCallback(lambda u, p, t: net(u.reshape(-1)) - offset, terminal=True)
    sol = ps.solve(problem, ps.Tsit5(), callback=event, rtol=1e-9, atol=1e-9)
    assert sol.t_reached == pytest.approx(math.log(3), abs=1e-7)
    assert sol.events[0].u.shape == (1, 20, 25)


@pytest.mark.slow
def test_second_order_problems_see_velocities_and_positions():
    problem = ps.SecondOrderODEProblem(lambda v, u, p, t: -u, np.array([0.0]), np.array([1.0]), (0.0, 10.0))
    event = ps.ContinuousCallback(lambda u, p, t: u[1, 0], terminal=True)
    for algorithm in (ps.Tsit5(), ps.DPRKN6()):
        sol = ps.solve(problem, algorithm, callback=event, rtol=1e-9, atol=1e-9)
        assert sol.t_reached == pytest.approx(np.pi / 2, abs=1e-6)
        assert sol.events[0].u[0] == pytest.approx(np.array([[-1.0], [0.0]]), abs=1e-6)


def test_functions_of_every_step():
    seen = []
    problem = dropped(end=1.0)
    sol = ps.solve(problem, ps.Tsit5(), callback=ps.FunctionCallingCallback(lambda u, t: seen.append((t, u))))
    assert [t for t, _ in seen] == sol.t.tolist()
    assert np.array_equal([u for _, u in seen], sol.u)
    with pytest.raises(ZeroDivisionError):
        ps.solve(problem, ps.Tsit5(), callback=ps.FunctionCallingCallback(lambda u, t: 1 / 0))
    assert ps.solve(problem, ps.Tsit5()).success


def test_a_norm_of_one_s_own_decides_on_steps():
    # The largest error instead of the mean: with one stiff entry among many quiet ones that needs more steps.
    u0 = np.zeros(50)
    u0[0] = 1.0
    problem = ps.ODEProblem(lambda u, p, t: -20 * u * (1 + np.sin(5 * t)), u0, (0.0, 3.0))
    mean = ps.solve(problem, ps.Tsit5()).stats.naccept
    largest = ps.solve(problem, ps.Tsit5(), internalnorm=lambda x: np.abs(x).max()).stats.naccept
    assert largest > mean
    same = ps.solve(problem, ps.Tsit5(), internalnorm=lambda x: np.sqrt(np.mean(x**2))).stats.naccept
    assert abs(same - mean) <= 2


def test_callback_models_with_events():
    problem = dropped(capture="callback")
    assert ps.solve(problem, ps.Tsit5(), callback=GROUND).t_reached == pytest.approx(LANDING, abs=1e-6)


@pytest.mark.slow
def test_conditions_that_are_dropped_leave_no_plans():
    import gc

    problem = dropped()
    problem.model
    counts = []
    for i in range(6):
        ps.solve(problem, ps.Tsit5(), callback=ps.ContinuousCallback(lambda u, p, t, i=i: u[0] - i, terminal=True))
        gc.collect()
        counts.append(len(problem.compiled))
    assert counts[-1] <= counts[0] + 1


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"condition": 3}, TypeError, "condition must be a function"),
        ({"condition": height, "affect": "flip"}, TypeError, "affect must be a function"),
        ({"condition": height, "direction": 2}, ValueError, "direction must be"),
        ({"condition": height, "terminal": -1}, ValueError, "terminal must be"),
        ({"condition": height, "terminal": 1.5}, ValueError, "terminal must be"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ps.ContinuousCallback(**arguments)


def test_wrong_callbacks_and_conditions():
    with pytest.raises(TypeError, match="callback must be"):
        ps.solve(dropped(), callback=height)
    with pytest.raises(ValueError, match="returned 2 values"):
        ps.solve(dropped(), callback=ps.ContinuousCallback(lambda u, p, t: u))
    with pytest.raises(TypeError, match="internalnorm"):
        ps.solve(dropped(), internalnorm=2)
    with pytest.raises(ps.CaptureError):
        ps.solve(dropped(), callback=ps.ContinuousCallback(lambda u, p, t: float(u[0])))


def test_a_condition_that_is_not_a_number_is_told():
    problem = ps.ODEProblem(lambda u, p, t: -u, [1.0], (0.0, 2.0))
    event = ps.ContinuousCallback(lambda u, p, t: np.sqrt(u[0] - 0.7), terminal=True)
    with pytest.raises(ps.JuliaError, match="the condition of event 0 is not a number"):
        ps.solve(problem, ps.Tsit5(), callback=event)
    assert ps.solve(problem, ps.Tsit5()).success


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [ps.RadauIIA5(), ps.QNDF(), ps.FBDF(), ps.VCABM(), ps.Rodas5P(), ps.Vern7()], ids=repr)
def test_events_do_not_disturb_what_is_saved(algorithm):
    problem = ps.ODEProblem(oscillate, [1.0, 0.0], (0.0, 10.0))
    clocks = [ps.ContinuousCallback(lambda u, p, t, c=c: t - c) for c in (0.37, 1.91, 2.53, 5.77)]
    end = ps.ContinuousCallback(lambda u, p, t: t - 9.1, terminal=True)
    saveat = np.linspace(0.0, 10.0, 501)
    tolerances = {"rtol": 1e-7, "atol": 1e-7}
    plain = ps.solve(problem, algorithm, saveat=saveat, **tolerances)
    sol = ps.solve(problem, algorithm, saveat=saveat, callback=[*clocks, end], dense=True, **tolerances)
    error = np.abs(plain.u[:, 0] - np.cos(plain.t)).max() + 1e-7
    assert sol.retcode == "Terminated" and np.array_equal(sol.t, saveat[saveat <= 9.1])
    assert np.abs(sol.u[:, 0] - np.cos(sol.t)).max() < 5 * error
    fine = np.linspace(0.0, sol.t_reached, 700)
    assert np.abs(sol(fine)[:, 0] - np.cos(fine)).max() < 5 * error
    for x in sol.events:
        assert x.u[:, 0] == pytest.approx(np.cos(x.t), abs=20 * error)


def test_changes_of_state_with_methods_that_can_t_interpolate_them():
    bounce = ps.ContinuousCallback(height, affect=lambda u, p, t: np.array([0.0, -0.9 * u[1]]), direction=-1)
    with pytest.raises(ValueError, match="explicit Runge-Kutta"):
        ps.solve(dropped(end=10.0), ps.QNDF(), callback=bounce)
    sol = ps.solve(dropped(end=10.0), ps.QNDF(), callback=bounce, dense=False, rtol=1e-8, atol=1e-8)
    assert sol.events[0].t == pytest.approx(LANDING + np.concatenate([[0], np.cumsum(2 * LANDING * 0.9 ** np.arange(1, 4))]), abs=1e-5)


def drawn_conditions(count):
    """Conditions with many zeros a step, and zeros near to each other, with all their zeros in (0, 10)."""
    rng = np.random.default_rng(5)
    for k in range(count):
        w, phase = 10 ** rng.uniform(0.5, 2.7), rng.uniform(0, 2 * np.pi)
        level = rng.choice([0.0, 0.5, 0.99])
        if k % 3 == 2:
            at, half = rng.uniform(0.5, 9.5), 10 ** rng.uniform(-6, -1)
            yield (lambda t, at=at, half=half: (t - at) ** 2 - half**2), np.array([at - half, at + half])
            continue
        down, up = np.arcsin(level), np.pi - np.arcsin(level)
        turns = 2 * np.pi * np.arange(-2, 10 * w)
        zeros = np.sort((np.concatenate([turns + down, turns + up]) - phase) / w)
        yield (lambda t, w=w, phase=phase, level=level: np.sin(w * t + phase) - level), zeros[(zeros > 0) & (zeros < 10)]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [ps.Tsit5(), ps.Vern9(), ps.Rodas5P()], ids=repr)
def test_all_zeros_within_a_step_are_found(algorithm):
    problem = ps.ODEProblem(oscillate, [1.0, 0.0], (0.0, 10.0))
    for condition, zeros in drawn_conditions(9):
        sol = ps.solve(problem, algorithm, callback=ps.ContinuousCallback(lambda u, p, t, g=condition: g(t)))
        assert len(sol.events[0].t) == len(zeros)
        assert sol.events[0].t == pytest.approx(zeros, abs=1e-12 if len(zeros) > 2 else 1e-9)
    # Of the state, and with directions.
    fifth = ps.ContinuousCallback(lambda u, p, t: 16 * u[0] ** 5 - 20 * u[0] ** 3 + 5 * u[0], direction=1)  # cos(5t)
    sol = ps.solve(problem, algorithm, callback=fifth, rtol=1e-10, atol=1e-10)
    assert sol.events[0].t == pytest.approx((np.arange(1.5, 10 * 5 / np.pi, 2) * np.pi) / 5, abs=1e-6)


def test_several_fast_events_come_in_order_and_change_the_state():
    # u grows by 1 at every zero of one clock and doubles at every zero of the other.
    add = ps.ContinuousCallback(lambda u, p, t: np.sin(40 * t + 1), affect=lambda u, p, t: u + 1)
    double = ps.ContinuousCallback(lambda u, p, t: np.sin(7 * t + 0.5), affect=lambda u, p, t: 2 * u, direction=-1)
    problem = ps.ODEProblem(lambda u, p, t: -0.1 * u, np.array([1.0]), (0.0, 3.0))
    sol = ps.solve(problem, ps.Vern7(), callback=[add, double], rtol=1e-10, atol=1e-10)
    adds = [("add", (k * np.pi - 1) / 40) for k in range(1, 100)]
    doubles = [("double", ((2 * k + 1) * np.pi - 0.5) / 7) for k in range(10)]
    u, now = 1.0, 0.0
    for what, t in sorted((x for x in adds + doubles if x[1] < 3), key=lambda x: x[1]):
        u *= np.exp(-0.1 * (t - now))
        u, now = (u + 1 if what == "add" else 2 * u), t
    assert sol.u[-1, 0] == pytest.approx(u * np.exp(-0.1 * (3 - now)), rel=1e-8)


@pytest.mark.filterwarnings("error::pysciode.AccuracyWarning")
def test_touches_and_plateaus_are_no_events():
    problem = ps.ODEProblem(oscillate, [1.0, 0.0], (0.0, 10.0))
    for condition in (lambda u, p, t: (t - 2.2345) ** 2, lambda u, p, t: np.maximum(0.0, 1 - t), lambda u, p, t: 0 * t):
        assert len(ps.solve(problem, ps.Tsit5(), callback=ps.ContinuousCallback(condition)).events[0]) == 0


def test_a_condition_that_can_t_be_followed_is_told():
    problem = ps.ODEProblem(oscillate, [1.0, 0.0], (0.0, 10.0))
    wild = ps.ContinuousCallback(lambda u, p, t: np.sin(1e6 * t) + 1.5)
    with pytest.warns(ps.AccuracyWarning, match="event 0 changes too often"):
        assert len(ps.solve(problem, ps.Tsit5(), callback=wild).events[0]) == 0
