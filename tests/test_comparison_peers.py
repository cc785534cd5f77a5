"""Peers of a comparison: the model that they are given, their values and gradients against independent references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_models import ACTIVATIONS, LAYERS, POINTWISE, REDUCTIONS, STRUCTURE, Rhs

import pysciode as ps

T = 0.3
OPERATIONS = {**POINTWISE, **ACTIVATIONS, **REDUCTIONS, **STRUCTURE}


# --- the model in JAX ------------------------------------------------------------------------------------------------


def jax_twin(problem):
    """Value, and gradients to state and parameters, of the problem's right-hand side in JAX."""
    jax = pytest.importorskip("jax")
    from pysciode.comparison.jax_model import jax_rhs

    with jax.enable_x64():
        rhs = jax_rhs(problem)
        u, p = jax.numpy.asarray(problem.flat_u0()), jax.numpy.asarray(problem.flat_p())
        value, pull = jax.vjp(jax.jit(lambda u, p: rhs(T, u, p)), u, p)
        cotangent = jax.numpy.cos(jax.numpy.arange(float(problem.n)))
        du, dp = pull(cotangent)
    return np.asarray(value), np.asarray(du), np.asarray(dp)


def torch_original(f, problem):
    """The same by the user's own function and torch's autograd."""
    u = problem.u0.detach().clone().requires_grad_()
    leaves = problem.leaves
    value = f(torch.tensor(T, dtype=u.dtype), u).reshape(-1)
    cotangent = torch.cos(torch.arange(problem.n, dtype=u.dtype))
    if not value.requires_grad:
        return value.detach().numpy(), np.zeros(problem.n), np.zeros(problem.layout.size)
    grads = torch.autograd.grad(value, [u, *leaves], cotangent, allow_unused=True, materialize_grads=True)
    flat = [x.detach().reshape(-1).numpy() for x in grads]
    return value.detach().numpy(), flat[0], np.concatenate([np.zeros(0), *flat[1:]])


def assert_same(f, problem):
    for found, expected in zip(jax_twin(problem), torch_original(f, problem), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)  # torch has 1/6 of Hardsigmoid in single precision


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_in_jax_is_torchs(name):
    torch.manual_seed(1)
    operation = OPERATIONS[name]
    model = Rhs(lambda u, t: operation(u)).double()
    assert_same(model, ps.ODEProblem(model, torch.randn(3, 4, dtype=torch.float64), (0.0, 1.0)))


@pytest.mark.parametrize("name", LAYERS)
def test_a_network_in_jax_is_torchs(name):
    torch.manual_seed(2)
    f, shape, *layers = LAYERS[name]()
    model = Rhs(f, *layers).double().eval()
    assert_same(model, ps.ODEProblem(model, torch.randn(shape, dtype=torch.float64), (0.0, 1.0)))
