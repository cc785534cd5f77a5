"""Events of torchdiffeq's users: a ball whose flight is known, in both directions of time, on both engines."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pysciode as ps

TIGHT = {"rtol": 1e-10, "atol": 1e-11}

pytestmark = pytest.mark.usefixtures("chosen_engine")


def number(x: float) -> torch.Tensor:
    return torch.tensor([x], dtype=torch.float64, requires_grad=True)


class Ball(torch.nn.Module):
    """Falls with the state (height, velocity, height of the ground)."""

    def __init__(self) -> None:
        super().__init__()
        self.gravity = torch.nn.Parameter(number(9.8).detach())

    def forward(self, t: torch.Tensor, y: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return y[1], -self.gravity, torch.zeros_like(y[2])


def ground(t: torch.Tensor, y: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return y[0] - y[2]


def flight(height: Any, velocity: Any, level: Any, gravity: Any, backwards: bool) -> tuple[Any, Any]:
    """Duration, negative where time runs backwards, and velocity at the end."""
    root = torch.sqrt(velocity**2 + 2 * gravity * (height - level))
    return ((velocity - root) / gravity, root) if backwards else ((velocity + root) / gravity, -root)


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("backwards", [False, True])
def test_time_and_state_of_an_event_and_their_gradients(interface: str, backwards: bool) -> None:
    ball, start = Ball(), number(0.5)
    y0 = (number(10.0), number(-2.0 if backwards else 2.0), number(1.2))
    inputs = [*y0, start, ball.gravity]
    t, y = ps.odeint_event(ball, y0, start, event_fn=ground, reverse_time=backwards, odeint_interface=getattr(ps, interface), **TIGHT)
    assert t.shape == ()
    assert [x.shape for x in y] == [(2, 1)] * 3
    assert all(torch.equal(x[0], y0_) for x, y0_ in zip(y, y0, strict=True))
    duration, velocity = flight(*y0, ball.gravity, backwards)
    torch.testing.assert_close(t, (start + duration)[0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(y[1][-1], velocity, rtol=1e-8, atol=1e-8)
    for found, exact in ((t, (start + duration)[0]), (y[1][-1, 0], velocity[0])):
        grads = [torch.autograd.grad(x, inputs, retain_graph=True, allow_unused=True, materialize_grads=True) for x in (found, exact)]
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_the_first_of_several_events() -> None:
    y0 = torch.tensor([0.0, 1.0], dtype=torch.float64)
    t, y = ps.odeint(
        lambda t, y: torch.stack([y[1], -y[0]]),
        y0,
        torch.tensor([0.0, 1.0], dtype=torch.float64),
        event_fn=lambda t, y: torch.stack([y[0] - 0.9, y[1] - 0.8, t - 3.0]),
        **TIGHT,
    )
    torch.testing.assert_close(t, torch.arccos(torch.tensor(0.8, dtype=torch.float64)), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(y[-1], torch.tensor([0.6, 0.8], dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_events_far_away_in_python_and_by_fixed_steps() -> None:
    times = torch.tensor([0.0, 0.1], dtype=torch.float64)

    def late(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if t > 40.0:
            return torch.zeros_like(t)
        return y.sum()

    y0 = torch.tensor([1.0], dtype=torch.float64)
    t, y = ps.odeint(lambda t, y: -0.1 * y, y0, times, event_fn=late, **TIGHT)
    torch.testing.assert_close(t, torch.tensor(40.0, dtype=torch.float64), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(y[-1], torch.exp(-0.1 * t)[None], rtol=1e-8, atol=1e-8)
    t, _ = ps.odeint(lambda t, y: torch.ones_like(y), y0, times, method="euler", options={"step_size": 0.3}, event_fn=lambda t, y: y - 2.0)
    torch.testing.assert_close(t, torch.tensor(1.0, dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_the_adjoint_gives_no_gradient_to_the_time() -> None:
    y0 = number(1.0)
    t, y = ps.odeint_adjoint(
        lambda t, y: -y, y0, torch.tensor([0.0, 1.0], dtype=torch.float64), event_fn=lambda t, y: y - 0.5, adjoint_params=(), **TIGHT
    )
    (grad,) = torch.autograd.grad(t, y0, retain_graph=True, allow_unused=True, materialize_grads=True)
    assert grad.item() == 0.0
    (grad,) = torch.autograd.grad(y[-1], y0)
    assert grad.item() == pytest.approx(0.5, rel=1e-6)


def test_errors() -> None:
    y0, f = torch.ones(1, dtype=torch.float64), lambda t, y: -y
    with pytest.raises(ValueError, match="2"):
        ps.odeint(f, y0, torch.tensor([0.0, 1.0, 2.0]), event_fn=lambda t, y: y)
    with pytest.raises(AssertionError, match="step_size"):
        ps.odeint(f, y0, torch.tensor([0.0, 1.0]), method="euler", event_fn=lambda t, y: y)


def test_parameters_of_event_functions(engine: str) -> None:
    if engine != "julia":
        pytest.skip("torchdiffeq gives them no gradient")
    level = torch.nn.Parameter(torch.tensor([0.25], dtype=torch.float64))
    y0 = number(1.0)
    t, _ = ps.odeint_event(lambda t, y: -y, y0, number(0.0), event_fn=lambda t, y: y - level**2, **TIGHT)
    torch.testing.assert_close(t, -2 * torch.log(level.detach())[0], rtol=1e-8, atol=1e-8)
    (grad,) = torch.autograd.grad(t, level)
    assert grad.item() == pytest.approx(-2 / 0.25, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_number_backwards_in_time(dtype: torch.dtype) -> None:
    y0, times = torch.tensor(1.0, dtype=dtype), torch.tensor([7.2222222, 5.6666666], dtype=torch.float64)
    t, y = ps.odeint(lambda t, y: 0.2 * torch.ones_like(y), y0, times, event_fn=lambda t, y: y - 0.5, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(t, times[0] - 2.5, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(y[-1], torch.tensor(0.5, dtype=dtype), rtol=1e-5, atol=1e-5)
