"""ScaledField: the same numbers as the scaling written out, scales from data, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import pysciode as ps
from pysciode.nn import NeuralODE, ScaledField

SCALE_U, SCALE_T = torch.tensor([1.0, 3e-5]), 1e5


class WithTime(nn.Module):
    def forward(self, t, u):
        return t * u


def test_it_is_the_scaling_written_out():
    torch.manual_seed(0)
    net = nn.Linear(2, 2)
    field = ScaledField(net, SCALE_U, SCALE_T)
    u = torch.rand(4, 2) * SCALE_U
    expected = net(u / SCALE_U) * SCALE_U / SCALE_T
    torch.testing.assert_close(field(torch.tensor(0.0), u), expected, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(ScaledField(WithTime(), 2.0, 4.0)(torch.tensor(3.0), torch.ones(2)), torch.full((2,), 0.75))


def test_the_solution_in_scaled_units(engine):
    """``du/dt = c (1 - x) / T``, ``x = u / c``: so ``u = c (1 - exp(-t / T))``."""
    net = nn.Linear(2, 2).double()
    with torch.no_grad():
        net.weight.copy_(-torch.eye(2))
        net.bias.fill_(1.0)
    block = NeuralODE(ScaledField(net, SCALE_U, SCALE_T), (0.0, 1e5), rtol=1e-10, atol=1e-16, engine=engine)
    end = block(torch.zeros(2, dtype=torch.float64))
    np.testing.assert_allclose(end.detach(), SCALE_U * (1 - np.exp(-1.0)), rtol=1e-7)


def test_scales_from_data():
    t = np.array([1.0, 2.0, 5.0])
    u = np.array([[1.0, -3e-5], [np.nan, 1e-5], [0.5, 0.0]])
    field = ScaledField.from_data(nn.Linear(2, 2).double(), t, u)
    assert field.scale_u.tolist() == [1.0, 3e-5] and field.scale_t.item() == 4.0
    assert field.scale_u.dtype == torch.float64 and not any(x.requires_grad for x in field.buffers())
    other = ScaledField(nn.Linear(2, 2).double(), [1.0, 1.0], 1.0)
    other.load_state_dict(field.state_dict())
    assert other.scale_u.tolist() == [1.0, 3e-5]


@pytest.mark.parametrize(
    ("call", "error", "name"),
    [
        (lambda: ScaledField(torch.sin, 1.0), TypeError, "net"),
        (lambda: ScaledField(nn.Linear(2, 2), [1.0, 0.0]), ValueError, "scale_u"),
        (lambda: ScaledField(nn.Linear(2, 2), 1.0, np.nan), ValueError, "scale_t"),
        (lambda: ScaledField(nn.Linear(2, 2), "one"), TypeError, "scale_u"),
        (lambda: ScaledField.from_data(nn.Linear(2, 2), [0.0, 1.0], np.ones((3, 2))), ValueError, "u has shape"),
        (lambda: ScaledField.from_data(nn.Linear(2, 2), [0.0, 0.0], np.ones((2, 2))), ValueError, "t must"),
        (lambda: ScaledField.from_data(nn.Linear(2, 2), [0.0], np.ones((1, 2))), ValueError, "t has shape"),
        (lambda: ScaledField.from_data(nn.Linear(2, 2), [0.0, 1.0], [[1.0, 0.0]] * 2), ValueError, "u has states"),
        (lambda: ScaledField.from_data(nn.Linear(2, 2), [0.0, 1.0], [[1.0, np.inf]] * 2), ValueError, "u must be"),
    ],
)
def test_what_it_refuses(call, error, name):
    with pytest.raises(error, match=name):
        call()


@pytest.mark.julia
def test_a_stiff_adjoint_through_it():
    """Gradients of ``du/dt = c (b - 1e4 x) / T`` at ``t = T``: the end is ``c b / 1e4``, for a bias ``b``."""
    net = nn.Linear(1, 1).double()
    with torch.no_grad():
        net.weight.fill_(-1e4)
        net.bias.fill_(2.0)
    problem = ps.ODEProblem(ScaledField(net, 3e-5, 1e5), torch.zeros(1, dtype=torch.float64), (0.0, 1e5))
    solution = ps.solve(problem, ps.Rodas5P(), saveat=[1e5], rtol=1e-8, atol=1e-14, sensealg=ps.ForwardDiffSensitivity())
    solution.u.sum().backward()
    assert net.bias.grad.item() == pytest.approx(3e-9, rel=1e-5)
    assert net.weight.grad.item() == pytest.approx(3e-5 * 2.0 / 1e8, rel=1e-5)
