"""A real start with a complex slope would lose its imaginary part: it is refused, and what the message advises is right."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import pysciode as ps
from pysciode.compat.scipy import solve_ivp

pytestmark = pytest.mark.julia

NUMPY = {
    "product": lambda t, y: 1j * y,
    "exponential": lambda t, y: y * np.exp(1j * t),
    "square root": lambda t, y: np.sqrt(y.astype(complex) - 2),
    "array": lambda t, y: np.array([complex(v, 1.0) for v in y]),
    "list": lambda t, y: [1j * v for v in y],
    "later only": lambda t, y: 1j * y if t > 0.5 else -y,
    "numpy scalar": lambda t, y: np.complex128(1j),
}
TORCH = {
    "product": lambda t, y: 1j * y,
    "complex": lambda t, y: torch.complex(y, y),
    "exponential": lambda t, y: y * torch.exp(1j * t),
    "root": lambda t, y: torch.sqrt(y.to(torch.complex128) - 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["RK45", "Radau", "LSODA"])
@pytest.mark.parametrize("name", NUMPY)
def test_solve_ivp_refuses(name, method, julia_engine):
    with pytest.raises(TypeError, match="complex"):
        solve_ivp(NUMPY[name], (0.0, 1.0), [1.0, 2.0], method)


@pytest.mark.parametrize("start", [lambda: torch.ones(2), lambda: torch.ones(2, dtype=torch.float64)])
@pytest.mark.parametrize("interface", [ps.odeint, lambda *x: ps.odeint_adjoint(*x, adjoint_params=())])
@pytest.mark.parametrize("name", TORCH)
def test_odeint_refuses(name, interface, start, julia_engine):
    with pytest.raises(TypeError, match="complex.*y0 [+] 0j"):
        interface(TORCH[name], start(), torch.tensor([0.0, 1.0]))


def test_a_tuple_is_refused(julia_engine):
    with pytest.raises(TypeError, match="complex"):
        ps.odeint(lambda t, y: (y[0], 1j * y[1]), (torch.ones(2), torch.ones(1)), torch.tensor([0.0, 1.0]))


def test_a_complex_start_is_solved(julia_engine):
    found = solve_ivp(NUMPY["product"], (0.0, 1.0), np.array([1.0]) + 0j, rtol=1e-8, atol=1e-10).y[0, -1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.CallbackWarning)
        other = ps.odeint(TORCH["product"], torch.ones(1) + 0j, torch.tensor([0.0, 1.0]))[-1, 0]
    assert found == pytest.approx(np.exp(1j), rel=1e-6) and other.item() == pytest.approx(np.exp(1j), rel=1e-5)
