"""`odeint` and `odeint_adjoint` against torchdiffeq itself: forms of states, times, gradients."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torchdiffeq

import pysciode as ps
from pysciode.errors import CallbackWarning

TIGHT = {"rtol": 1e-9, "atol": 1e-10}
TIMES = torch.linspace(0.2, 1.5, 5, dtype=torch.float64)

pytestmark = pytest.mark.usefixtures("chosen_engine")


class Field(torch.nn.Module):
    """A field for states of any shape, with parameters of which one is not used."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(0.7, dtype=dtype))
        self.shift = torch.nn.Parameter(torch.tensor(0.3, dtype=dtype))
        self.unused = torch.nn.Parameter(torch.ones(3, dtype=dtype))

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.rate * y) * t + self.shift


def close(x: torch.Tensor, y: torch.Tensor, tolerance: float) -> None:
    assert x.shape == y.shape
    assert x.dtype == y.dtype
    torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_of_any_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    field, y0 = Field(dtype), torch.linspace(0.1, 1.0, math.prod(shape), dtype=dtype).reshape(shape)
    with torch.no_grad():
        found = ps.odeint(field, y0, TIMES, rtol=1e-6, atol=1e-7)
        close(found, torchdiffeq.odeint(field, y0, TIMES, rtol=1e-6, atol=1e-7), 1e-4)
    assert torch.equal(found[0], y0)


def test_backwards_in_time() -> None:
    y0, times = torch.tensor([0.5, -1.0], dtype=torch.float64), TIMES.flip(0)
    exact = y0 * torch.exp(-(times - times[0]))[:, None]
    torch.testing.assert_close(ps.odeint(lambda t, y: -y, y0, times, **TIGHT), exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
@pytest.mark.parametrize("backwards", [False, True])
def test_gradients_to_state_times_and_parameters(interface: str, backwards: bool) -> None:
    def gradients(library: object) -> list[torch.Tensor]:
        field, y0 = Field(), torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
        times = (TIMES.flip(0) if backwards else TIMES.clone()).requires_grad_()
        y = getattr(library, interface)(field, y0, times, **TIGHT)
        loss = (y.square() * torch.arange(1.0, 6.0)[:, None, None]).sum()
        return torch.autograd.grad(loss, [y0, times, field.rate, field.shift])

    for found, expected in zip(gradients(ps), gradients(torchdiffeq), strict=True):
        close(found, expected, 1e-6)


def test_a_tuple_of_tensors() -> None:
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def field(t: torch.Tensor, y: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        a, b, c = y
        return -rate * a + t, torch.sin(b) * a.sum(), torch.outer(a, b.reshape(1))

    y0 = (
        torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True),
        torch.tensor(0.3, dtype=torch.float64),
        torch.zeros(2, 1, dtype=torch.float64),
    )
    tolerances = {"rtol": 1e-9, "atol": (1e-10, torch.tensor(1e-9), torch.full((2,), 1e-10))}

    def run(library: object) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor]]:
        y = library.odeint(field, y0, TIMES, **tolerances)
        return y, torch.autograd.grad(sum(part.square().sum() for part in y), [y0[0], rate])

    (found, grads), (expected, expected_grads) = run(ps), run(torchdiffeq)
    assert isinstance(found, tuple)
    for x, y in zip((*found, *grads), (*expected, *expected_grads), strict=True):
        close(x, y, 1e-6)


@pytest.mark.filterwarnings("ignore::pysciode.errors.CallbackWarning")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_states(dtype: torch.dtype) -> None:
    hamiltonian = torch.tensor([[1.0, 0.5j], [-0.5j, -1.0]], dtype=dtype)
    y0 = torch.tensor([1.0, 1.0j], dtype=dtype, requires_grad=True)
    tolerance = 1e-9 if dtype == torch.complex128 else 1e-5
    y = ps.odeint(lambda t, y: -1j * (hamiltonian @ y), y0, TIMES, rtol=tolerance, atol=tolerance)
    exact = torch.stack([torch.linalg.matrix_exp(-1j * hamiltonian * (t - TIMES[0])) @ y0 for t in TIMES])
    close(y, exact, 100 * tolerance)
    weights = torch.arange(1, 11).reshape(5, 2).to(dtype) * (1 + 2j)
    grads = [torch.autograd.grad((weights * x).abs().square().sum() + x.real.sum(), y0)[0] for x in (y, exact)]
    close(*grads, 5000 * tolerance)


def test_one_time() -> None:
    y0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
    y = ps.odeint(lambda t, y: -y, y0, TIMES[:1])
    assert y.shape == (1, 3)
    y.sum().backward()
    assert torch.equal(y0.grad, torch.ones(3, dtype=torch.float64))


def test_odeint_leaves_unused_parameters_alone_and_the_adjoint_gives_zeros() -> None:
    field, y0 = Field(), torch.ones(2, dtype=torch.float64)
    ps.odeint(field, y0, TIMES).sum().backward()
    assert field.unused.grad is None
    ps.odeint_adjoint(field, y0, TIMES).sum().backward()
    assert torch.equal(field.unused.grad, torch.zeros(3, dtype=torch.float64))


def test_only_adjoint_params_get_gradients() -> None:
    field, y0, other = Field(), torch.ones(2, dtype=torch.float64), torch.ones(4, requires_grad=True)
    ps.odeint_adjoint(field, y0, TIMES, adjoint_params=(x for x in (field.rate, other))).sum().backward()
    assert field.shift.grad is None
    assert torch.equal(other.grad, torch.zeros(4))
    expected = Field()
    torchdiffeq.odeint_adjoint(expected, y0, TIMES, adjoint_params=(expected.rate,)).sum().backward()
    torch.testing.assert_close(field.rate.grad, expected.rate.grad, rtol=1e-5, atol=1e-6)


def test_the_adjoints_own_tolerances() -> None:
    def error(tolerance: float) -> float:
        field, y0 = Field(), torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
        times = torch.linspace(0.0, 5.0, 3, dtype=torch.float64)
        found = ps.odeint_adjoint(field, y0, times, adjoint_rtol=tolerance, adjoint_atol=tolerance, **TIGHT)
        expected = torchdiffeq.odeint(field, y0, times, rtol=1e-11, atol=1e-12)
        grads = [torch.autograd.grad(y[-1].square().sum(), field.rate)[0] for y in (found, expected)]
        return (grads[0] - grads[1]).abs().item()

    assert error(1e-9) < 1e-6
    assert error(1e-9) < 1e-2 * error(1e-2)


def test_functions_of_time() -> None:
    field, y0, ends = Field(), torch.tensor([0.5, -1.0], dtype=torch.float64), TIMES[[0, -1]]
    with torch.no_grad():
        path = ps.odeint_dense(field, y0, *ends, **TIGHT)
    expected = torchdiffeq.odeint(field, y0, TIMES[:3], **TIGHT).detach()
    for t, state in zip(TIMES[1:3], expected[1:], strict=True):
        close(path(t), state, 1e-6)


class TestOnJulia:
    """What torchdiffeq itself does not do."""

    @pytest.fixture(autouse=True)
    def _julia(self, engine: str) -> None:
        if engine != "julia":
            pytest.skip("torchdiffeq itself solves")

    def test_empty_states(self) -> None:
        empty = torch.zeros(2, 0, dtype=torch.float64, requires_grad=True)
        y = ps.odeint(lambda t, y: -y, empty, TIMES)
        assert y.shape == (5, 2, 0)
        y.sum().backward()
        some = torch.ones(3, dtype=torch.float64)
        y = ps.odeint(lambda t, y: (y[0], -y[1]), (empty, some), TIMES, **TIGHT)
        assert y[0].shape == (5, 2, 0)
        torch.testing.assert_close(y[1][-1], torch.exp(TIMES[0] - TIMES[-1]) * some, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("needs_grad", [False, True])
    def test_functions_of_many_times(self, needs_grad: bool) -> None:
        y0 = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=needs_grad)
        path = ps.odeint_dense(lambda t, y: -y, y0, torch.tensor(1.0), -1.0, **TIGHT)
        times = torch.tensor([[0.5, 1.0], [-1.0, 0.5]], dtype=torch.float64, requires_grad=needs_grad)
        exact = y0 * torch.exp(1.0 - times)[..., None]
        torch.testing.assert_close(path(times), exact, rtol=1e-6, atol=1e-6)
        if needs_grad:
            grads = [torch.autograd.grad(x.square().sum(), [y0, times]) for x in (path(times), exact)]
            for found, expected in zip(*grads, strict=True):
                close(found, expected, 1e-5)
        with pytest.raises(ValueError, match="between -1 and 1"):
            path(1.5)

    def test_vector_tolerances_bound_every_entry(self) -> None:
        y0 = torch.tensor([1.0, 1e-6], dtype=torch.float64)
        atol = torch.tensor([1e-6, 1e-14], dtype=torch.float64)
        y = ps.odeint(lambda t, y: torch.stack([y[1] * 0 + torch.cos(t), -3 * y[1]]), y0, TIMES, rtol=0.0, atol=atol)
        exact = 1e-6 * torch.exp(-3 * (TIMES - TIMES[0]))
        assert (y[:, 1] - exact).abs().max() < 1e-12

    def test_complex_states_are_compiled(self) -> None:
        pytest.importorskip("torch._subclasses.complex_tensor")
        with warnings.catch_warnings():
            warnings.simplefilter("error", CallbackWarning)
            y = ps.odeint(lambda t, y: 1j * y, torch.ones(2, dtype=torch.complex128), TIMES, rtol=1e-8, atol=1e-10)
        exact = torch.exp(1j * (TIMES - TIMES[0]))[:, None].expand(-1, 2)
        torch.testing.assert_close(y, exact, rtol=0, atol=1e-6)

    def test_complex_operations_that_are_not_known_stay_in_python(self) -> None:
        with pytest.warns(CallbackWarning, match="complex"):
            ps.odeint(lambda t, y: -torch.linalg.eigvals(torch.diag(y)), torch.ones(2, dtype=torch.complex128), TIMES)
