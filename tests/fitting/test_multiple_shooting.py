"""Multiple shooting and growing horizons: losses against SciPy and DiffEqFlux, gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import pysciode as ps
from pysciode.fitting import diffeqflux, train
from pysciode.fitting.growing_horizon import GrowingHorizon
from pysciode.fitting.multiple_shooting import MultipleShooting, group_ranges, multiple_shooting
from pysciode.nn import NeuralODE

TSIT5 = ps.Tsit5()
TIGHT = {"algorithm": TSIT5, "rtol": 1e-9, "atol": 1e-9}
TRUTH = np.array([1.5, 1.0, 3.0, 1.0])
GUESS = np.array([1.2, 0.8, 2.5, 1.1])
TIMES = np.linspace(0.0, 6.0, 14) ** 1.1


def predator_prey(u, p, t):
    x, y = u
    return [p[0] * x - p[1] * x * y, p[3] * x * y - p[2] * y]


def scipy_states(p: np.ndarray, u0: np.ndarray, times: np.ndarray) -> np.ndarray:
    span = (times[0], times[-1])
    return solve_ivp(lambda t, u: predator_prey(u, p, t), span, u0, t_eval=times, method="DOP853", rtol=1e-11, atol=1e-11).y.T


DATA = scipy_states(TRUTH, np.array([1.0, 1.0]), TIMES) + 0.1 * np.sin(np.arange(28.0).reshape(14, 2) ** 2)


def expected_loss(p: np.ndarray, size: int, weight: float, states: np.ndarray | None = None) -> float:
    """The definition, solve by solve; `states` are those at the groups' first times."""
    total, end = 0.0, None
    for i, first in enumerate(range(0, len(TIMES) - 1, size - 1)):
        group = slice(first, first + size)
        start = DATA[first] if states is None else states[i]
        found = scipy_states(p, start, TIMES[group])
        total += np.nansum((found - DATA[group]) ** 2)
        if end is not None:
            total += weight * np.abs(end - start).sum()
        end = found[-1]
    return total


def problem(p=GUESS, **options) -> ps.ODEProblem:
    p = torch.tensor(p, requires_grad=True) if isinstance(p, np.ndarray) else p
    return ps.ODEProblem(predator_prey, torch.ones(2, dtype=torch.float64), (0.0, 1.0), p, **options)


def differences(f, x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """Central differences of a function of an array."""
    steps = h * np.eye(x.size).reshape(-1, *x.shape)
    return np.array([(f(x + s) - f(x - s)) / (2 * h) for s in steps]).reshape(x.shape)


@pytest.mark.parametrize(
    ("n", "size", "expected"),
    [
        (10, 5, [(0, 5), (4, 9), (8, 10)]),
        (9, 5, [(0, 5), (4, 9)]),
        (4, 2, [(0, 2), (1, 3), (2, 4)]),
        (7, 7, [(0, 7)]),
    ],
)
def test_groups_are_those_of_diffeqflux(n, size, expected):
    assert [(x.start, x.stop) for x in group_ranges(n, size)] == expected


@pytest.mark.parametrize("size", [2, 5, 14])
def test_the_loss_is_the_definition(engine, size):
    found, predictions = multiple_shooting(problem(), TIMES, DATA, group_size=size, continuity=7.0, engine=engine, **TIGHT)
    assert found.item() == pytest.approx(expected_loss(GUESS, size, 7.0), rel=1e-5)
    assert [len(x) for x in predictions] == [len(x) for x in group_ranges(14, size)]
    for x, group in zip(predictions, group_ranges(14, size), strict=True):
        np.testing.assert_allclose(x.detach(), scipy_states(GUESS, DATA[group.start], TIMES[group]), atol=1e-5)


def test_gradients_to_parameters(engine):
    posed = problem()
    multiple_shooting(posed, TIMES, DATA, group_size=5, continuity=7.0, engine=engine, **TIGHT)[0].backward()
    np.testing.assert_allclose(posed.p.grad, differences(lambda p: expected_loss(p, 5, 7.0), GUESS), rtol=1e-3)


def test_gradients_to_free_states_and_their_gaps(engine):
    posed = problem()
    starts = DATA[::4][:4] + 0.05 * np.cos(np.arange(8.0).reshape(4, 2))
    shooting = MultipleShooting(posed, TIMES, DATA, 5, continuity=7.0, free_states=starts, engine=engine, **TIGHT)
    assert [x.shape for x in shooting.parameters()] == [(4, 2)]
    loss = shooting()
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss(GUESS, 5, 7.0, starts), rel=1e-5)
    expected = differences(lambda states: expected_loss(GUESS, 5, 7.0, states), starts)
    np.testing.assert_allclose(shooting.states.grad, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(posed.p.grad, differences(lambda p: expected_loss(p, 5, 7.0, starts), GUESS), rtol=1e-3)
    ends = [scipy_states(GUESS, starts[i], TIMES[4 * i : 4 * i + 5])[-1] for i in range(3)]
    np.testing.assert_allclose(shooting.gaps(shooting.predict()).detach(), ends - starts[1:], atol=1e-5)


def test_parameters_of_a_module_are_parameters_of_the_loss():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    rates = nn.Parameter(torch.tensor([0.5, 0.3], dtype=torch.float64))

    def hybrid(u, p, t):
        return p * u + net(u)

    posed = ps.ODEProblem(hybrid, torch.ones(2, dtype=torch.float64), (0.0, 1.0), rates)
    shooting = MultipleShooting(posed, TIMES, DATA, 4, free_states=True, algorithm=TSIT5, engine="embedded")
    known = {id(x) for x in shooting.parameters()}
    assert known == {id(x) for x in (shooting.states, rates, *net.parameters())}
    shooting().backward()
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in shooting.parameters())
    again = MultipleShooting(posed, TIMES, DATA, 4, free_states=True)
    again.load_state_dict(shooting.state_dict())


def test_missing_values_are_left_out(engine):
    holes = DATA.copy()
    holes[[1, 5, 6], [0, 1, 0]] = np.nan
    loss, _ = multiple_shooting(problem(), TIMES, holes, group_size=5, continuity=7.0, engine=engine, **TIGHT)
    found = scipy_states(GUESS, DATA[0], TIMES[:5]), scipy_states(GUESS, DATA[4], TIMES[4:9])
    gone = found[0][1, 0] - DATA[1, 0], found[1][1, 1] - DATA[5, 1], found[1][2, 0] - DATA[6, 0]
    left_out = np.square(gone).sum()
    assert loss.item() == pytest.approx(expected_loss(GUESS, 5, 7.0) - left_out, rel=1e-5)


def test_a_group_can_start_at_a_missing_value_only_with_free_states():
    holes = DATA.copy()
    holes[4, 1] = np.nan
    with pytest.raises(ValueError, match=f"t = {TIMES[4]:g}.*free_states"):
        MultipleShooting(problem(), TIMES, holes, 5)
    shooting = MultipleShooting(problem(), TIMES, holes, 5, free_states=True)
    between = np.interp(TIMES[4], TIMES[[3, 5]], DATA[[3, 5], 1])
    np.testing.assert_allclose(shooting.states[1].detach(), [DATA[4, 0], between])
    holes[:, 1] = np.nan
    with pytest.raises(ValueError, match=r"u\[1\] was never observed"):
        MultipleShooting(problem(), TIMES, holes, 5, free_states=True)


def test_losses_of_ones_own(engine):
    found, _ = multiple_shooting(
        problem(),
        TIMES,
        DATA,
        group_size=5,
        continuity=3.0,
        loss=lambda predicted, observed: (predicted - observed).abs().sum(),
        continuity_loss=lambda end, start: (end - start).square().sum(),
        engine=engine,
        **TIGHT,
    )
    solved = [scipy_states(GUESS, DATA[x.start], TIMES[x]) for x in group_ranges(14, 5)]
    misfit = sum(np.abs(x - DATA[g]).sum() for x, g in zip(solved, group_ranges(14, 5), strict=True))
    gaps = sum(((solved[i][-1] - DATA[4 * i + 4]) ** 2).sum() for i in range(3))
    assert found.item() == pytest.approx(misfit + 3.0 * gaps, rel=1e-5)


def test_parameters_computed_at_each_step(engine):
    shooting = MultipleShooting(problem(), TIMES, DATA, 5, continuity=7.0, engine=engine, **TIGHT)
    logarithms = torch.tensor(np.log(TRUTH), requires_grad=True)
    loss = shooting(p=logarithms.exp())
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss(TRUTH, 5, 7.0), rel=1e-5)
    expected = differences(lambda x: expected_loss(np.exp(x), 5, 7.0), np.log(TRUTH))
    np.testing.assert_allclose(logarithms.grad, expected, rtol=1e-3)


def test_states_of_any_shape_and_times_that_decrease(engine):
    """Decay of a batch, solved backwards: in closed form."""
    u0 = torch.ones(3, 2)
    posed = ps.ODEProblem(lambda u, p, t: -0.5 * u, u0, (0.0, 1.0))
    times = np.linspace(2.0, 0.0, 5)
    exact = np.exp(-0.5 * times)[:, None, None] * np.arange(1.0, 7.0).reshape(3, 2)
    loss, predictions = multiple_shooting(posed, times, exact, group_size=3, algorithm=TSIT5, engine=engine)
    assert loss.item() < 0.05 and loss.dtype == torch.float32
    np.testing.assert_allclose(predictions[0], exact[:3], rtol=1e-3)


def test_a_numpy_problem_has_free_states(engine):
    posed = ps.ODEProblem(predator_prey, [1.0, 1.0], (0.0, 1.0), list(GUESS))
    shooting = MultipleShooting(posed, TIMES, DATA, 5, continuity=7.0, free_states=True, engine=engine, **TIGHT)
    loss = shooting()
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss(GUESS, 5, 7.0), rel=1e-5)
    assert shooting.states.grad.shape == (4, 2)


def test_training_finds_parameters_and_closes_the_gaps(engine):
    exact = scipy_states(TRUTH, np.array([1.0, 1.0]), TIMES)
    logarithms = nn.Parameter(torch.tensor(np.log(GUESS)))
    options = {"continuity": 1.0, "free_states": True, "algorithm": TSIT5, "engine": engine}
    shooting = MultipleShooting(problem(TRUTH), TIMES, exact, 5, **options)
    optimizer = torch.optim.Adam([logarithms, *shooting.parameters()], lr=0.05)
    steps = 150 if engine == "julia" else 8
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    result = train(
        shooting,
        lambda shooting, _: shooting(p=logarithms.exp()),
        None,
        optimizer,
        steps=steps,
        scheduler=scheduler,
        progress=False,
    )
    losses = result.history["loss"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[0]
    if engine == "julia":
        np.testing.assert_allclose(logarithms.exp().detach(), TRUTH, rtol=0.02)
        assert shooting.gaps(shooting.predict(p=logarithms.exp())).abs().max() < 0.05


@pytest.mark.julia
@pytest.mark.extra("diffeqflux")
@pytest.mark.parametrize("size", [3, 6])
def test_diffeqflux_finds_the_same_loss(size):
    posed = ps.ODEProblem(predator_prey, [1.0, 1.0], (0.0, 1.0), GUESS)
    expected = diffeqflux.multiple_shoot(posed, DATA, TIMES, size, 100.0, "Tsit5", 1e-9, 1e-9)
    found, _ = multiple_shooting(posed, TIMES, DATA, group_size=size, **TIGHT)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"problem": 3}, TypeError, "problem must be an ODEProblem"),
        ({"t": TIMES[:-1]}, ValueError, "observed has shape"),
        ({"t": TIMES[::2].repeat(2)}, ValueError, "t must be finite and strictly monotone"),
        ({"t": TIMES.reshape(2, 7)}, ValueError, "t has shape"),
        ({"observed": DATA[:, :1]}, ValueError, "observed has shape"),
        ({"observed": np.where(DATA > 2, np.inf, DATA)}, ValueError, "observed must be finite"),
        ({"group_size": 1}, ValueError, "group_size"),
        ({"group_size": 15}, ValueError, "group_size"),
        ({"group_size": 2.0}, TypeError, "group_size"),
        ({"continuity": -1.0}, ValueError, "continuity"),
        ({"free_states": np.ones((3, 2))}, ValueError, "free_states has shape"),
        ({"free_states": np.full((4, 2), np.nan)}, ValueError, "free_states must be finite"),
        ({"saveat": TIMES}, TypeError, "saveat"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    arguments = {"problem": problem(), "t": TIMES, "observed": DATA, "group_size": 5} | changes
    with pytest.raises(error, match=message):
        MultipleShooting(**arguments)


def test_other_kinds_of_problems_are_refused():
    posed = ps.SecondOrderODEProblem(lambda v, u, p, t: -u, [0.0], [1.0], (0.0, 1.0))
    with pytest.raises(ValueError, match="first order"):
        MultipleShooting(posed, TIMES, DATA, 5)
    with pytest.raises(ValueError, match="MultipleShooting"):
        multiple_shooting(problem(), TIMES, DATA, group_size=5, free_states=True)


# --- growing horizons ---


def test_horizons_grow_to_all_of_the_data():
    horizons = GrowingHorizon(TIMES, DATA, stages=4, steps=3)
    assert horizons.lengths == (4, 7, 11, 14)
    batches = list(horizons)
    assert len(batches) == len(horizons) == 12
    assert [len(t) for t, _ in batches] == [4] * 3 + [7] * 3 + [11] * 3 + [14] * 3
    np.testing.assert_array_equal(batches[3][0], TIMES[:7])
    np.testing.assert_array_equal(batches[3][1], DATA[:7])
    assert list(GrowingHorizon(TIMES, DATA, stages=1, steps=1))[0][0].shape == (14,)
    assert GrowingHorizon(TIMES, DATA, stages=3, steps=1, first=2).lengths == (2, 8, 14)


def test_a_schedule_is_the_data_of_one_epoch():
    """Exponential decay: its rate is known."""
    torch.manual_seed(0)
    times = torch.linspace(0.0, 4.0, 9, dtype=torch.float64)
    data = torch.exp(-0.7 * times)[:, None]
    net = nn.Linear(1, 1, bias=False).double()
    block = NeuralODE(net, returns="trajectory", engine="embedded", rtol=1e-6, atol=1e-8)

    def loss(block, batch):
        t, observed = batch
        return (block(observed[0], t) - observed).square().mean()

    horizons = GrowingHorizon(times, data, stages=3, steps=15)
    result = train(block, loss, horizons, torch.optim.Adam(net.parameters(), lr=0.1), epochs=1, progress=False)
    assert (result.steps, result.epochs) == (45, 1)
    assert net.weight.item() == pytest.approx(-0.7, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": 0}, "stages"),
        ({"stages": 14}, "stages"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"first": 1}, "first"),
        ({"first": 15}, "first"),
        ({"observed": DATA[1:]}, "observed"),
        ({"t": TIMES[::-1][[0, 0]]}, "t must be"),
    ],
)
def test_bad_schedules_are_named(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        GrowingHorizon(**({"t": TIMES, "observed": DATA} | changes))
