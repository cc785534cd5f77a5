"""Indices that a model computes from its state, time or parameters: nothing outside of an array is ever read or written."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pysciode as ps

F64 = torch.float64
TABLE = torch.linspace(1.0, 2.0, 11, dtype=F64)
GRID = torch.arange(22.0, dtype=F64).reshape(11, 2) / 10
WHOLE = torch.arange(11) % 3


def by_index(x):
    return TABLE[x]


def by_two_indices(x):
    return GRID[x, x % 2]


def by_gather(x):
    return TABLE.gather(0, x)


def by_take_along_dim(x):
    return torch.take_along_dim(GRID, x[:, None], 0)[:, 0]


def by_index_select(x):
    return TABLE.index_select(0, x)


def by_embedding(x):
    return torch.nn.functional.embedding(x, GRID)[:, 1]


def by_take(x):
    return torch.take(TABLE, x)


def of_integers(x):
    return WHOLE[x].to(F64)


def of_integers_twice(x):
    return TABLE[WHOLE[x]]


def added_by_scatter(x):
    return torch.zeros(11, dtype=F64).scatter_add(0, x, torch.ones(2, dtype=F64)).sum() * torch.ones(2, dtype=F64)


def added_by_index(x):
    return torch.zeros(11, dtype=F64).index_add(0, x, torch.ones(2, dtype=F64)).sum() * torch.ones(2, dtype=F64)


def put(x):
    base = torch.zeros(11, dtype=F64)
    return torch.index_put(base, (x,), torch.ones(2, dtype=F64), accumulate=True).sum() * torch.ones(2, dtype=F64)


READS = [by_index, by_two_indices, by_gather, by_take_along_dim, by_index_select, by_embedding, by_take, of_integers, of_integers_twice,
         added_by_scatter, added_by_index, put]  # fmt: skip


def model(read):
    def f(u, p, t):
        return p * read((u * 10).long())

    return f


@pytest.mark.parametrize("read", READS, ids=lambda f: f.__name__)
def test_within_the_table(julia_engine, read):
    """Euler's method by hand in torch is the reference."""
    f, u, p = model(read), torch.tensor([0.05, 0.31], dtype=F64), torch.tensor(0.2, dtype=F64)
    sol = ps.solve(ps.ODEProblem(f, u, (0.0, 1.0), p), ps.Euler(), dt=0.125, adaptive=False, engine=julia_engine)
    for _ in range(8):
        u = u + 0.125 * f(u, p, None)
    torch.testing.assert_close(sol.u[-1], u, rtol=1e-12, atol=1e-14)


# torch.take_along_dim takes indices modulo the length, torch's own too.
@pytest.mark.slow
@pytest.mark.parametrize("read", [f for f in READS if f is not by_take_along_dim], ids=lambda f: f.__name__)
@pytest.mark.parametrize("start", [[1.5, 3.0], [0.1, 1e7], [0.1, -1e7], [0.1, math.nan], [0.1, 1e300], [0.5, -3.0]], ids=str)
def test_a_start_outside_is_an_index_error(julia_engine, read, start):
    if math.isnan(start[1]):
        # A state that is none is refused before; the index may become NaN later.
        scale, start = math.nan, [0.1, 0.2]
    else:
        scale = 1.0
    f = model(read)

    def shifted(u, p, t):
        return f(u * torch.where(p > 0, p, p / p), torch.ones_like(p), t)

    u = torch.tensor(start, dtype=F64)
    wanted = torch.tensor(scale if scale == scale else 0.0, dtype=F64)
    for algorithm in (ps.Tsit5(), ps.Rosenbrock23()):
        with pytest.raises(IndexError) as caught:
            ps.solve(ps.ODEProblem(shifted, u, (0.0, 1.0), wanted), algorithm, engine=julia_engine)
        assert isinstance(caught.value, ps.IndexOutOfRange) and "test_computed_indices.py" in caught.value.where


def test_a_trial_step_may_go_outside(julia_engine):
    """The first step that is tried is far too long; the solution itself stays in the table."""
    table = torch.linspace(0.0, 1.0, 101, dtype=F64)

    def f(u, p, t):
        # Constant between the entries: u' = 0.5 - c(u), which comes to rest at 0.5.
        return 50 * (0.5 - table[(u * 100).floor().long()])

    sol = ps.solve(
        ps.ODEProblem(f, torch.tensor([0.2], dtype=F64), (0.0, 1.0)), ps.Tsit5(), dt=1.0, rtol=1e-3, atol=1e-3, maxiters=10**6,
        engine=julia_engine,
    )  # fmt: skip
    assert abs(float(sol.u[-1]) - 0.5) < 0.02 and bool((sol.u >= 0.2).all())


def test_a_solution_that_leaves_the_table_names_the_line(julia_engine):
    def f(u, p, t):
        return torch.where(TABLE[(u * 10).long()] > 1.5, 1.0, 1.0 + 0 * u)  # the line

    with pytest.raises(ps.IndexOutOfRange, match="the line"):
        ps.solve(ps.ODEProblem(f, torch.tensor([0.5], dtype=F64), (0.0, 1.0)), ps.Tsit5(), engine=julia_engine)
    partial = ps.solve(ps.ODEProblem(f, torch.tensor([0.5], dtype=F64), (0.0, 1.0)), ps.Tsit5(), engine=julia_engine, throw=False)
    # 11 entries: the index leaves them at u = 1.1, that is at t = 0.6.
    assert partial.t_reached == pytest.approx(0.6, abs=1e-6)
    np.testing.assert_allclose(np.asarray(partial.u)[:, 0], 0.5 + np.asarray(partial.t), rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("sensealg", [ps.ForwardDiffSensitivity(), ps.GaussAdjoint(), ps.InterpolatingAdjoint()], ids=lambda x: x.name)
def test_gradients_through_a_table(julia_engine, sensealg):
    """``u' = table[i] u`` with a constant index that is computed: ``u(1) = exp(table[i])``."""
    table = torch.linspace(0.1, 1.1, 11, dtype=F64, requires_grad=True)

    def f(u, p, t):
        return p[(3.2 + 0 * u).long()] * u

    u = ps.solve(
        ps.ODEProblem(f, torch.ones(1, dtype=F64), (0.0, 1.0), table), ps.Tsit5(), sensealg=sensealg, engine=julia_engine,
        rtol=1e-9, atol=1e-11,
    ).u  # fmt: skip
    (grad,) = torch.autograd.grad(u[-1].sum(), table)
    expected = torch.zeros(11, dtype=F64)
    expected[3] = torch.exp(table.detach()[3])
    torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-9)


def test_a_constant_index_outside_is_refused():
    def f(u, p, t):
        return u[torch.tensor([0, 5])]

    with pytest.raises((IndexError, ps.CaptureError)):
        from pysciode.lowering import lower

        lower(ps.ODEProblem(f, torch.ones(2, dtype=F64), (0.0, 1.0)).model)
