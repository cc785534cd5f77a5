"""Values that look like numbers and aren't, or that the state's dtype can't hold: refused by name, never cast in silence."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
import torch

import pysciode as ps

F64 = torch.float64


def decay(u, p, t):
    return [-p * u[0]]


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"saveat": np.array([0.5 + 1j])}, TypeError, "saveat must be made of real numbers"),
        ({"saveat": torch.tensor([0.5 + 1j])}, TypeError, "saveat must be made of real numbers"),
        ({"saveat": True}, TypeError, "saveat must be made of real numbers"),
        ({"saveat": np.array([False, True])}, TypeError, "saveat must be made of real numbers"),
        ({"saveat": "0.1"}, TypeError, "saveat must be made of real numbers"),
        ({"saveat": ["0.1"]}, TypeError, "saveat must be made of real numbers"),
        ({"saveat": [None]}, TypeError, "saveat must be made of real numbers"),
        ({"saveat": [[0.1], [0.2, 0.3]]}, TypeError, "saveat must be a number or an array"),
        ({"saveat": [torch.tensor(0.5, requires_grad=True)]}, TypeError, r"torch.stack\(saveat\)"),
        ({"saveat": torch.ones(1, device="meta")}, ValueError, "saveat is on device meta"),
        ({"saveat": torch.tensor([0.5]).to_sparse()}, TypeError, "saveat is a sparse tensor"),
        ({"saveat": np.ma.masked_array([0.5, 1.0], [True, False])}, ValueError, "saveat has masked entries"),
        ({"saveat": 1e-300}, ValueError, "saveat = 1e-300"),
        ({"saveat": 5e-324}, ValueError, "saveat = 4.94066e-324"),
        ({"saveat": 1e-13}, ValueError, "saveat = 1e-13"),
        ({"tstops": [1j]}, TypeError, "tstops"),
        ({"tstops": "now"}, TypeError, "tstops"),
        ({"tstops": [np.nan]}, ValueError, "tstops must be finite"),
        ({"tstops": torch.ones(1, device="meta")}, ValueError, "tstops is on device meta"),
        ({"maxiters": np.inf}, TypeError, "maxiters must be a whole number"),
        ({"maxiters": np.nan}, TypeError, "maxiters must be a whole number"),
        ({"maxiters": True}, TypeError, "maxiters must be a whole number"),
        ({"rtol": True}, TypeError, "rtol"),
        ({"rtol": np.complex128(1e-3)}, TypeError, "rtol"),
        ({"atol": "1e-3"}, TypeError, "atol"),
        ({"atol": np.array([1e-3 + 1j])}, TypeError, "atol"),
        ({"atol": torch.ones(1, device="meta")}, ValueError, "atol is on device meta"),
        ({"dt": "0.1"}, TypeError, "dt must be a real number"),
        ({"dt": True}, TypeError, "dt must be a real number"),
        ({"dt": 10**400}, ValueError, "dt is beyond the range"),
        ({"dt": 1e-300, "adaptive": False}, ValueError, "dt = 1e-300: a fixed step"),
        ({"dt": 1e-300, "algorithm": ps.Euler()}, ValueError, "dt = 1e-300: a fixed step"),
        ({"adaptive": "no"}, TypeError, "adaptive must be True or False"),
        ({"dense": "no"}, TypeError, "dense must be True or False"),
    ],
)
def test_options(options, error, message):
    problem = ps.ODEProblem(decay, [1.0], (0.0, 1.0), 2.0)
    with pytest.raises(error, match=message):
        ps.solve(problem, **{"engine": "embedded"} | options)
    # Also after a good call, whose checks are remembered.
    ps.solve(problem, saveat=[1.0], engine="embedded")
    with pytest.raises(error, match=message):
        ps.solve(problem, **{"engine": "embedded"} | options)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (([1.0], (0, 10**400)), ValueError, r"tspan\[1\] is beyond the range"),
        (([1.0], (False, True)), TypeError, r"tspan\[0\] must be a real number"),
        (([1.0], (0.0, np.complex64(1))), TypeError, r"tspan\[1\] must be"),
        (([1.0], (0.0, torch.ones((), device="meta"))), ValueError, r"tspan\[1\] is on device meta"),
        (([1.0], (1e15, 1e15 + 1)), ValueError, r"tspan = .* can't be resolved in float64"),
        (([1.0], (1.0, np.nextafter(1.0, 2))), ValueError, "can't be resolved in float64"),
        (([1.0], (0.0, 5e-324)), ValueError, "can't be resolved in float64"),
        ((np.ones(1, np.float32), (2.0**24, 2.0**24 + 1)), ValueError, "can't be resolved in float32"),
        ((torch.ones(1), (1.0, 1.0 + 1e-9)), ValueError, "can't be resolved in float32"),
        ((torch.ones(1), (0.0, 1e39)), ValueError, "can't be resolved in float32"),
        ((torch.ones(1), (0.0, 1e-50)), ValueError, "can't be resolved in float32"),
        ((np.ma.masked_array([1.0, 2.0], [False, True]), (0, 1)), ValueError, "u0 has masked entries"),
        ((torch.ones(2).to_sparse(), (0, 1)), TypeError, "u0 is a sparse tensor"),
        ((np.ones((2, 0)), (0, 1)), ValueError, r"u0 is empty \(shape \(2, 0\)\)"),
        ((torch.ones(0), (0, 1)), ValueError, "u0 is empty"),
        (([10**400], (0, 1)), TypeError, "u0 has dtype object"),
        ((np.array(["2026-01-01"], "M8[D]"), (0, 1)), TypeError, "u0 has dtype datetime64"),
    ],
)
def test_states_and_times(arguments, error, message):
    with pytest.raises(error, match=message):
        ps.ODEProblem(decay, *arguments)


def test_cuda_tensors_are_refused_by_name():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    one = torch.ones(1, device="cuda")
    with pytest.raises(ValueError, match="u0 is on device cuda"):
        ps.ODEProblem(decay, one, (0, 1))
    with pytest.raises(ValueError, match="p is on device cuda"):
        ps.ODEProblem(decay, torch.ones(1), (0, 1), one)
    with pytest.raises(ValueError, match="saveat is on device cuda"):
        ps.solve(ps.ODEProblem(decay, torch.ones(1), (0, 1), 1.0), saveat=one, engine="embedded")


@pytest.mark.parametrize(
    "p, dtype, error, message",
    [
        ({"k": 1e300}, np.float32, ValueError, "k is beyond the range of float32"),
        ({"k": np.array([1.0, -1e300])}, np.float32, ValueError, "k is beyond the range of float32"),
        (10**400, np.float64, ValueError, "p is beyond the range"),
        (torch.tensor(True), np.float64, TypeError, "p has dtype torch.bool"),
        (np.array(True), np.float64, TypeError, "p has dtype bool"),
        (True, np.float64, TypeError, "p is of type bool"),
        (torch.tensor(2.0, dtype=torch.half), np.float64, TypeError, "p has dtype torch.float16|has dtype float16"),
        (torch.eye(2).to_sparse(), np.float32, TypeError, "p is a sparse tensor"),
        (np.ma.masked_array([1.0, 2.0], [False, True]), np.float64, ValueError, "p has masked entries"),
    ],
)
def test_parameters(p, dtype, error, message):
    with pytest.raises(error, match=message):
        ps.ODEProblem(decay, np.ones(1, dtype), (0.0, 1.0), p)


@pytest.mark.parametrize("make", [np.array, scipy.sparse.csr_matrix], ids=["dense", "sparse"])
def test_matrices(make):
    with pytest.raises(ValueError, match="mass_matrix.* is nan"):
        ps.ODEProblem(decay, [1.0], (0, 1), 2.0, mass_matrix=make([[np.nan]]))
    with pytest.raises(TypeError, match="mass_matrix has dtype complex"):
        ps.ODEProblem(decay, [1.0], (0, 1), 2.0, mass_matrix=make([[1j]]))


@pytest.mark.parametrize(
    "p", [2, np.int8(2), np.float32(2), np.float16(2), np.longdouble(2), Fraction(2), np.array(2), torch.tensor(2), np.uint8(2)], ids=repr
)
def test_numbers_of_every_kind(engine, p):
    sol = ps.solve(ps.ODEProblem(decay, [1.0], (0.0, 1.0), p), ps.Tsit5(), saveat=[1], rtol=1e-9, atol=1e-9, engine=engine)
    assert float(sol.u[0, 0]) == pytest.approx(np.exp(-2.0), rel=1e-7)
    assert str(sol.u.dtype).endswith("float64")


@pytest.mark.parametrize("p", [{}, [], (), None, {"a": [], "b": {"c": None}}, np.zeros((0, 3)), torch.zeros(0)], ids=repr)
@pytest.mark.parametrize("capture", ["auto", "callback"])
def test_parameters_without_entries(engine, p, capture):
    problem = ps.ODEProblem(lambda u, p, t: -u, np.ones(1), (0.0, 1.0), p if not torch.is_tensor(p) else p.double(), capture=capture)
    sol = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine=engine)
    assert float(sol.u[0, 0]) == pytest.approx(np.exp(-1.0), rel=1e-7)


def test_tensors_with_a_lazy_sign(engine):
    """The imaginary part of a conjugate is a view whose sign is only noted."""
    minus_two = torch.imag(torch.tensor([1 + 2j]).conj())
    assert minus_two.is_neg()
    problem = ps.ODEProblem(lambda u, p, t: -p * u, minus_two, (0.0, 1.0), minus_two)
    sol = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-6, atol=1e-6, engine=engine)
    assert sol.u.item() == pytest.approx(-2 * np.exp(2.0), rel=1e-4)
    k = torch.tensor(2.0, dtype=F64, requires_grad=True)
    u = ps.solve(ps.ODEProblem(decay, [1.0], (0.0, 1.0), k), ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine=engine).u
    cotangent = torch.imag((1j * torch.ones_like(u)).conj())
    assert torch.autograd.grad(u, k, cotangent)[0].item() == pytest.approx(np.exp(-2.0), rel=1e-6)


def test_fixed_steps_that_divide_the_time_span(engine):
    """0.6 / 0.3 is a little more than 2 in floating point: no step of length zero may follow."""
    for steps, tenths in ((2, 3), (4, 6), (7, 1), (30, 7)):
        problem = ps.ODEProblem(decay, [1.0], (0.0, steps * tenths / 10), 0.1)
        sol = ps.solve(problem, ps.RK4(), dt=tenths / 10, adaptive=False, saveat=[problem.tspan[1]], engine=engine)
        assert sol.stats.naccept in (steps, steps + 1)
        assert sol.u[0, 0] == pytest.approx(np.exp(-0.1 * problem.tspan[1]), rel=1e-6)


def test_many_fixed_steps_end_at_maxiters(engine):
    """Without room for a list of 10¹⁴ times."""
    problem = ps.ODEProblem(decay, [1.0], (0.0, 1.0), 2.0)
    with pytest.raises(ps.SolveFailed) as caught:
        ps.solve(problem, ps.RK4(), dt=1e-14, adaptive=False, saveat=[1.0], maxiters=1000, engine=engine)
    assert caught.value.retcode == "MaxIters" and caught.value.t <= 1.1e-11
