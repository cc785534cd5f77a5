"""What tests of failures share: the engines' methods, and whether an engine is as it was after something went wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pysciode as ps

TIGHT = dict(rtol=1e-9, atol=1e-9)

METHODS = [
    pytest.param("julia", ps.GaussAdjoint(), marks=pytest.mark.julia),
    pytest.param("julia", ps.InterpolatingAdjoint(), marks=pytest.mark.julia),
    pytest.param("julia", ps.BacksolveAdjoint(), marks=pytest.mark.julia),
    pytest.param("julia", ps.ForwardDiffSensitivity(), marks=pytest.mark.julia),
    ("embedded", ps.BacksolveAdjoint()),
    ("embedded", ps.ReverseDiffAdjoint()),
]
"""Engines with their ways to differentiate, as parameters of tests."""


def decay(u, p, t):
    return [-p * u[0]]


DECAYING = ps.ODEProblem(decay, [1.0], (0.0, 1.0), 2.0)


def check_alive(engine: str) -> None:
    """The engine solves and differentiates as before."""
    k = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    u = ps.solve(ps.remake(DECAYING, p=k), ps.Tsit5(), saveat=[1.0], engine=engine, **TIGHT).u
    (slope,) = torch.autograd.grad(u.sum(), k)
    assert u.item() == pytest.approx(np.exp(-2.0), rel=1e-7) and slope.item() == pytest.approx(-np.exp(-2.0), rel=1e-6)
