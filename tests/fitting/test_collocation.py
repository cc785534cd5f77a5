"""Gradient matching: smoothed derivatives against local regressions by NumPy, right-hand sides against their own formulas."""

from __future__ import annotations

import numpy as np
import pytest
import sympy
import torch
from torch import nn

import pysciode as ps
from pysciode.fitting import train
from pysciode.fitting.collocation import collocate, collocation_loss, right_hand_sides

TIMES = np.sort(np.random.default_rng(0).uniform(0.0, 5.0, 41))
STATES = np.stack([np.sin(TIMES), np.exp(-0.3 * TIMES)], 1)
SLOPES = np.stack([np.cos(TIMES), -0.3 * np.exp(-0.3 * TIMES)], 1)

WEIGHTS = {
    "TriangularKernel": lambda s: np.clip(1 - abs(s), 0, None),
    "EpanechnikovKernel": lambda s: 0.75 * np.clip(1 - s**2, 0, None),
    "UniformKernel": lambda s: 0.5 * (abs(s) <= 1),
    "TricubeKernel": lambda s: 70 / 81 * np.clip(1 - abs(s) ** 3, 0, None) ** 3,
    "GaussianKernel": lambda s: np.exp(-(s**2) / 2) / np.sqrt(2 * np.pi),
    "LogisticKernel": lambda s: 1 / (np.exp(s) + 2 + np.exp(-s)),
}


def local_polynomials(t: np.ndarray, u: np.ndarray, weight, bandwidth: float) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares around each time: slopes of parabolas and values of lines."""
    du, smooth = np.empty_like(u), np.empty_like(u)
    for i, at in enumerate(t):
        w = np.sqrt(weight((t - at) / (t[-1] - t[0]) / bandwidth))
        for j in range(u.shape[1]):
            du[i, j] = np.polyfit(t - at, u[:, j], 2, w=w)[1]
            smooth[i, j] = np.polyfit(t - at, u[:, j], 1, w=w)[1]
    return du, smooth


@pytest.mark.extra("diffeqflux")
@pytest.mark.julia
@pytest.mark.parametrize("kernel", WEIGHTS)
def test_collocation_is_local_regression(kernel):
    noisy = STATES + 0.02 * np.sin(40 * TIMES)[:, None]
    expected = local_polynomials(TIMES, noisy, WEIGHTS[kernel], 0.25)
    found = collocate(TIMES, noisy, kernel=kernel, bandwidth=0.25)
    np.testing.assert_allclose(found.du, expected[0], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.u, expected[1], rtol=1e-8, atol=1e-8)


@pytest.mark.extra("diffeqflux")
@pytest.mark.julia
def test_the_default_bandwidth_is_that_of_liang_and_wu():
    from pysciode.fitting.diffeqflux import collocate_data

    k = len(TIMES)
    bandwidth = k ** (-1 / 5) * k ** (-3 / 35) * np.log(k) ** (-1 / 16)
    expected = local_polynomials(TIMES, STATES, WEIGHTS["TriangularKernel"], bandwidth)
    for found in (collocate(TIMES, STATES), collocate_data(STATES, TIMES, "TriangularKernel", None)):
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-8, atol=1e-8)


@pytest.mark.extra("diffeqflux")
@pytest.mark.julia
def test_derivatives_of_smooth_functions_any_shape_and_kind():
    times = np.linspace(0.0, 5.0, 101)
    states = np.stack([np.sin(times), np.cos(times)], 1).reshape(101, 2, 1)
    found = collocate(torch.from_numpy(times), torch.tensor(states, dtype=torch.float32), bandwidth=0.05)
    assert found.du.dtype == found.u.dtype == torch.float32 and found.du.shape == (101, 2, 1)
    slopes = np.stack([np.cos(times), -np.sin(times)], 1).reshape(101, 2, 1)
    np.testing.assert_allclose(found.du[5:-5], slopes[5:-5], atol=0.01)
    np.testing.assert_allclose(found.u[5:-5], states[5:-5], atol=0.01)
    one = collocate(times, states[:, 0, 0], bandwidth=0.05)
    np.testing.assert_allclose(one.du, found.du[:, 0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t": TIMES[::-1]}, "t must strictly increase"),
        ({"t": TIMES[:2], "u": STATES[:2]}, "t has two times"),
        ({"u": STATES[1:]}, "u has shape"),
        ({"u": np.where(STATES > 0.9, np.nan, STATES)}, "u must be finite"),
        ({"kernel": "Box"}, "kernel must be one of"),
        ({"bandwidth": 0.0}, "bandwidth must be"),
        ({"bandwidth": 0.01}, "fewer than three"),
    ],
)
def test_bad_arguments_of_collocate_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        collocate(**({"t": TIMES, "u": STATES} | changes))


def test_collocate_needs_julia():
    with pytest.raises(ps.EngineUnavailable, match="collocate"):
        collocate(TIMES, STATES, engine="embedded")


# --- the loss ---


def driven(u, p, t):
    return [p[0] * u[1] + p[1] * t, p[2] * u[0] * u[1]]


def by_hand(p: np.ndarray) -> np.ndarray:
    x, y = STATES.T
    return np.stack([p[0] * y + p[1] * TIMES, p[2] * x * y], 1)


def test_the_loss_is_the_mean_square_of_the_residuals():
    p = np.array([0.3, -0.2, 1.1])
    guess = torch.tensor(p, requires_grad=True)
    posed = ps.ODEProblem(driven, torch.ones(2, dtype=torch.float64), (0.0, 1.0), guess)
    loss = collocation_loss(posed, TIMES, STATES, SLOPES)
    loss.backward()
    residuals = by_hand(p) - SLOPES
    assert loss.item() == pytest.approx((residuals**2).mean(), rel=1e-12)
    x, y = STATES.T
    expected = [residuals[:, 0] @ y, residuals[:, 0] @ TIMES, residuals[:, 1] @ (x * y)]
    np.testing.assert_allclose(guess.grad, np.array(expected) / 41, rtol=1e-12)
    np.testing.assert_allclose(right_hand_sides(posed, torch.tensor(TIMES), torch.tensor(STATES)).detach(), by_hand(p))


def test_other_parameters_and_another_loss():
    posed = ps.ODEProblem(driven, torch.ones(2, dtype=torch.float64), (0.0, 1.0), torch.ones(3, dtype=torch.float64))
    p = torch.tensor([0.3, -0.2, 1.1], dtype=torch.float64)
    loss = collocation_loss(posed, TIMES, STATES, SLOPES, p=p, loss=lambda found, du: (found - du).abs().sum())
    assert loss.item() == pytest.approx(np.abs(by_hand(p.numpy()) - SLOPES).sum())


@pytest.mark.parametrize("hidden", [3, 40], ids=["few operations", "many operations"])
def test_networks_and_batches(hidden):
    """Small networks are captured as scalar operations, larger ones as arrays."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2))
    scale = torch.tensor([2.0], requires_grad=True)
    posed = ps.ODEProblem(lambda u, p, t: p * net(u) + t, torch.ones(3, 2), (0.0, 1.0), scale)
    u, du = torch.randn(7, 3, 2), torch.randn(7, 3, 2)
    times = torch.linspace(0.0, 1.0, 7)
    expected = (scale * net(u) + times[:, None, None] - du).square().mean()
    wanted = torch.autograd.grad(expected, [scale, *net.parameters()])
    loss = collocation_loss(posed, times, u, du)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, [scale, *net.parameters()]), wanted)


def test_symbolic_models():
    x, y, a = sympy.symbols("x y a")
    posed = ps.ODEProblem(([a * y, -a * x], [x, y], [a]), [1.0, 0.0], (0.0, 1.0), [2.0])
    expected = ((2 * STATES[:, ::-1] * [1, -1] - SLOPES) ** 2).mean()
    assert collocation_loss(posed, TIMES, STATES, SLOPES).item() == pytest.approx(expected)


def test_training_finds_what_made_the_slopes():
    net = nn.Linear(2, 2, bias=False).double()
    posed = ps.ODEProblem(net, torch.ones(2, dtype=torch.float64), (0.0, 1.0))
    matrix = np.array([[0.0, 1.0], [-2.0, -0.1]])
    batch = tuple(torch.tensor(x) for x in (TIMES, STATES, STATES @ matrix.T))
    optimizer = torch.optim.LBFGS(net.parameters(), lr=1.0)
    train(net, lambda _, batch: collocation_loss(posed, *batch), batch, optimizer, steps=20, progress=False)
    np.testing.assert_allclose(net.weight.detach(), matrix, atol=1e-3)


def test_models_that_torch_can_not_evaluate():
    source = "function f!(du, u, p, t)\n    du[1] = -u[1]\n    du[2] = u[1]\nend"
    with pytest.raises(ValueError, match="Julia source"):
        collocation_loss(ps.ODEProblem(source, [1.0, 0.0], (0.0, 1.0)), TIMES, STATES, SLOPES)
    posed = ps.ODEProblem(driven, [1.0, 1.0], (0.0, 1.0), [1.0, 1.0, 1.0], capture="callback")
    with pytest.raises(ValueError, match="callback"):
        collocation_loss(posed, TIMES, STATES, SLOPES)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"problem": driven}, TypeError, "problem must be"),
        ({"t": TIMES[1:]}, ValueError, "u has shape"),
        ({"u": STATES[:, :1]}, ValueError, "u has shape"),
        ({"du": SLOPES[:-1]}, ValueError, "du has shape"),
        ({"du": np.where(SLOPES > 0.9, np.nan, SLOPES)}, ValueError, "du must be finite"),
    ],
)
def test_bad_arguments_of_the_loss_are_named(changes, error, message):
    posed = ps.ODEProblem(driven, [1.0, 1.0], (0.0, 1.0), [1.0, 1.0, 1.0])
    with pytest.raises(error, match=message):
        collocation_loss(**({"problem": posed, "t": TIMES, "u": STATES, "du": SLOPES} | changes))
