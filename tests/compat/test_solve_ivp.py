"""``solve_ivp`` beside SciPy's own: the same statuses, times and events; errors, by exact or tight references, of the same size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import OdeSolution
from scipy.integrate import solve_ivp as scipys
from scipy_problems import PROBLEMS, cannon, decay, harmonic, landing, rational, rational_exact

import pysciode as ps

RTOL, ATOL = 1e-5, 1e-8
CASES = [pytest.param(name, method, id=f"{name}-{method}") for name, problem in PROBLEMS.items() for method in problem.methods]

pytestmark = [pytest.mark.usefixtures("on_julia"), pytest.mark.filterwarnings("ignore::pysciode.errors.CallbackWarning")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), CASES)
def test_solutions_agree(name, method):
    problem = PROBLEMS[name]
    options = {"rtol": RTOL, "atol": problem.options.get("atol", ATOL)}
    ours, theirs = problem.solve(ps.solve_ivp, method, **options), problem.solve(scipys, method, **options)
    assert ours.status == theirs.status
    assert ours.success == theirs.success
    assert ours.message == theirs.message
    assert np.array_equal(ours.t, theirs.t)
    assert ours.y.shape == theirs.y.shape and ours.y.dtype == theirs.y.dtype
    assert problem.error(ours, **options) <= max(5 * problem.error(theirs, **options), problem.slack)
    if problem.events is None:
        assert ours.t_events is None and ours.y_events is None
        return
    for t, t_ref, y, y_ref in zip(ours.t_events, theirs.t_events, ours.y_events, theirs.y_events, strict=True):
        assert t.shape == t_ref.shape and y.shape == y_ref.shape
        # Both are off by their own errors, divided by the slope.
        np.testing.assert_allclose(t, t_ref, rtol=0, atol=2e-3)
        np.testing.assert_allclose(y, y_ref, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("method", ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"])
@pytest.mark.parametrize("end", [9, 1])
def test_dense_output(method, end):
    ours = ps.solve_ivp(rational, (5, end), [1 / 3, 2 / 9], method, dense_output=True, rtol=1e-6, atol=1e-8)
    assert isinstance(ours.sol, OdeSolution)
    assert ours.t[0] == 5 and ours.t[-1] == end
    assert (ours.sol.t_min, ours.sol.t_max) == (min(5, end), max(5, end))
    np.testing.assert_allclose(ours.y, rational_exact(ours.t), rtol=1e-4)
    np.testing.assert_allclose(ours.sol(ours.t), ours.y, rtol=1e-13)
    times = np.random.default_rng(0).uniform(min(5, end), max(5, end), 50)  # in no order
    np.testing.assert_allclose(ours.sol(times), rational_exact(times), rtol=1e-4)
    assert ours.sol(6.0 if end == 9 else 4.0).shape == (2,)
    assert len(ours.sol.interpolants) == len(ours.sol.ts) - 1
    middle = (ours.sol.ts[0] + ours.sol.ts[1]) / 2
    np.testing.assert_array_equal(ours.sol.interpolants[0](middle), ours.sol(middle))
    np.testing.assert_allclose(ours.sol(end + 0.01), rational_exact(np.array(end + 0.01)), rtol=1e-4)


def test_times_beside_dense_output_are_those_without():
    times = np.linspace(0, 10, 7)
    alone = ps.solve_ivp(decay, (0, 10), [2, 4, 8], t_eval=times)
    beside = ps.solve_ivp(decay, (0, 10), [2, 4, 8], t_eval=times, dense_output=True)
    np.testing.assert_allclose(alone.y, beside.y, rtol=1e-12)


@pytest.mark.parametrize("terminal", [False, True, 2])
@pytest.mark.parametrize("direction", [-1, 0, 1])
def test_an_event_that_is_zero_at_the_start_counts_as_in_scipy(direction, terminal):
    def ground(t, y):
        return y[0]

    ground.direction, ground.terminal = direction, terminal
    ours, theirs = (solver(cannon, (0, 50), [0, 10], events=ground) for solver in (ps.solve_ivp, scipys))
    assert ours.status == theirs.status
    np.testing.assert_allclose(ours.t_events[0], theirs.t_events[0], atol=1e-10)
    np.testing.assert_allclose(ours.y_events[0], theirs.y_events[0], atol=1e-10)
    np.testing.assert_allclose(ours.t[[0, -1]], theirs.t[[0, -1]])


@pytest.mark.parametrize("options", [{}, {"dense_output": True}, {"t_eval": [1, 39, 41]}, {"t_eval": [41, 50]}])
def test_a_terminal_event_without_an_end_of_time(options):
    ours, theirs = (solver(cannon, (0, np.inf), [0, 10], events=landing, **options) for solver in (ps.solve_ivp, scipys))
    assert ours.status == theirs.status == 1
    assert ours.message == theirs.message
    assert len(ours.t) == len(theirs.t) if "t_eval" in options else ours.t[-1] == pytest.approx(40.0)
    assert ours.t_events[0] == pytest.approx(theirs.t_events[0])
    if options.get("dense_output"):
        np.testing.assert_allclose(ours.sol(30.0), [10 * 30 - 0.25 * 900, 10 - 15], rtol=1e-6)


def test_events_that_stay_in_python():
    def event(t, y, w):
        return y[0] - 0.5 if y[1] < 100 else 1.0

    event.terminal = 3
    arguments = dict(args=(2.0,), events=[event, lambda t, y, w: y[1]], rtol=1e-8, atol=1e-10)
    ours, theirs = (solver(harmonic, (0, 100), [1, 0], **arguments) for solver in (ps.solve_ivp, scipys))
    assert ours.status == theirs.status == 1
    for t, t_ref in zip(ours.t_events, theirs.t_events, strict=True):
        np.testing.assert_allclose(t, t_ref, atol=1e-6)


def test_a_solution_that_explodes_has_the_solution_so_far():
    ours = ps.solve_ivp(lambda t, y: y**2, (0, 2), [1.0], rtol=1e-6)
    assert ours.status == -1 and not ours.success
    assert 0.99 < ours.t[-1] < 1.001
    assert "step" in ours.message or "finite" in ours.message
    early = ours.t < 0.9
    np.testing.assert_allclose(ours.y[0, early], 1 / (1 - ours.t[early]), rtol=1e-4)


@pytest.mark.parametrize("method", ["RK45", "Radau", "LSODA"])
def test_steps_keep_their_limits(method):
    result = ps.solve_ivp(rational, (5, 9), [1 / 3, 2 / 9], method, max_step=0.1, first_step=0.01)
    steps = np.diff(result.t)
    assert steps.max() <= 0.1 + 1e-12
    assert steps[0] == pytest.approx(0.01)


def test_algorithms_beyond_scipys():
    for method in ("Rodas5P", "Tsit5", ps.Vern9()):
        result = ps.solve_ivp(rational, (5, 9), [1 / 3, 2 / 9], method, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(result.y[:, -1], rational_exact(9), rtol=1e-6)


def test_matrices_of_complex_states():
    a = np.array([[1j, 0.5], [-0.5, -0.2 + 0.3j]])

    def f(t, y):
        out = np.zeros(4, dtype=complex)
        out[:] = (a @ y.reshape(2, 2) - np.conj(y.reshape(2, 2)) * 0.1).ravel() * np.exp(1j * t).real
        return out

    y0 = np.array([1 + 1j, 2, 3j, 4 - 1j])
    ours = ps.solve_ivp(f, (0, 3), y0, "DOP853", rtol=1e-9, atol=1e-11)
    reference = scipys(f, (0, 3), y0, "DOP853", rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ours.y[:, -1], reference.y[:, -1], rtol=1e-7)


def test_functions_of_columns():
    def f(t, y):
        return np.vstack((y[1], -4 * y[0]))

    for method in ("RK45", "BDF"):
        result = ps.solve_ivp(f, (0, 1), [1.0, 0.0], method, vectorized=True, rtol=1e-8, atol=1e-10)
        assert result.y[0, -1] == pytest.approx(np.cos(2), abs=1e-5)


@pytest.mark.parametrize("y0", [[1.0, 2.0], [1, 2]])
def test_a_complex_slope_of_a_real_state_is_refused(chosen_engine, y0):
    """SciPy drops the imaginary part, with a warning; the solution of ``y' = i y`` is complex."""
    with pytest.raises(TypeError, match="start from a complex one"):
        ps.solve_ivp(lambda t, y: 1j * y, (0.0, 1.0), y0)
    sol = ps.solve_ivp(lambda t, y: 1j * y, (0.0, 1.0), np.array(y0, complex), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(sol.y[:, -1], np.exp(1j) * np.array(y0), rtol=1e-6)


@pytest.mark.parametrize("method", ["RK45", "DOP853", "Radau"])
def test_all_zeros_of_an_event_within_a_step_are_found(method):
    def oscillate(t, y):
        return np.array([y[1], -y[0]])

    for w, phase in ((5.0, 0.3), (50.0, 1.0), (431.0, 2.0)):
        zeros = (np.arange(-2, 10 * w) * np.pi - phase) / w
        zeros = zeros[(zeros > 0) & (zeros < 10)]
        for direction in (0, 1):

            def event(t, y, w=w, phase=phase):
                return np.sin(w * t + phase)

            event.direction = direction
            found = ps.solve_ivp(oscillate, (0, 10), [1.0, 0.0], method=method, events=event).t_events[0]
            rising = zeros[np.cos(w * zeros + phase) > 0]
            assert found == pytest.approx(rising if direction else zeros, abs=1e-12)
    # The other way in time, and near to each other.
    found = ps.solve_ivp(oscillate, (5, 0), [1.0, 0.0], method=method, events=lambda t, y: (t - 2.2345) ** 2 - 1e-10).t_events[0]
    assert found == pytest.approx([2.2345 + 1e-5, 2.2345 - 1e-5], abs=1e-10)


def test_an_event_that_can_t_be_followed_is_told():
    with pytest.warns(ps.AccuracyWarning, match="max_step"):
        ps.solve_ivp(lambda t, y: -y, (0, 10), [1.0], events=lambda t, y: np.sin(1e7 * t) + 1.5)
