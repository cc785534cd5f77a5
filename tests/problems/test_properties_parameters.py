"""u' = A u + b against the matrix exponential, with A and b given in every form that parameters may take."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pysciode as ps

F64 = torch.float64
TIGHT = dict(rtol=1e-9, atol=1e-9)
Linear = namedtuple("Linear", "A b")

examples = settings(
    deadline=None, max_examples=8, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
entries = st.floats(-1.5, 1.5).map(lambda x: round(x, 3))
matrices = st.lists(entries, min_size=9, max_size=9).map(lambda x: np.reshape(x, (3, 3)))
vectors = st.lists(entries, min_size=3, max_size=3).map(np.array)
TIMES = np.array([0.3, 1.0])


def exact(A, b, u0, times=TIMES):
    """States at `times`, shape (k, 3), of tensors; differentiable."""
    M = torch.cat([torch.cat([A, b[:, None]], 1), torch.zeros(1, 4, dtype=F64)])
    start = torch.cat([u0, torch.ones(1, dtype=F64)])
    return torch.stack([(torch.matrix_exp(M * float(t)) @ start)[:3] for t in times])


# --- forms of parameters: (model, parameters from A and b) -----------------------------------------------------------


def by_name(u, p, t):
    return p["A"] @ u + p["b"]


def nested(u, p, t):
    return p["linear"][0]["A"] @ u + p["linear"][1] + 0.0 * p["unused"]


def by_field(u, p, t):
    return p.A @ u + p.b


def by_place(u, p, t):
    return p[0] @ u + p[1]


def in_one(u, p, t):
    return p[:9].reshape(3, 3) @ u + p[9:]


def by_rows(u, p, t):
    return [row @ u + shift for row, shift in zip(p["rows"], p["shifts"], strict=True)]


FORMS = {
    "dict": (by_name, lambda A, b: {"A": A, "b": b}),
    "dict, Fortran order": (by_name, lambda A, b: {"A": np.asfortranarray(A), "b": b}),
    "dict, views with steps": (by_name, lambda A, b: {"A": np.repeat(np.repeat(A, 2, 0), 3, 1)[::2, ::3], "b": b[::-1].copy()[::-1]}),
    "dict, lists": (by_name, lambda A, b: {"A": A.tolist(), "b": b.tolist()}),
    "dict, float32": (by_name, lambda A, b: {"A": A.astype(np.float32), "b": b.astype(np.float32)}),
    "dict, other byte order": (by_name, lambda A, b: {"A": A.astype(">f8"), "b": b}),
    "nested": (nested, lambda A, b: {"unused": 7, "linear": [{"A": A, "none": None, "empty": []}, b]}),
    "named tuple": (by_field, Linear),
    "tuple": (by_place, lambda A, b: (A, b)),
    "list": (by_place, lambda A, b: [A, b]),
    "one vector": (in_one, lambda A, b: np.concatenate([A.ravel(), b])),
    "many, 0-d": (by_rows, lambda A, b: {"rows": list(A), "shifts": [np.array(x) for x in b]}),
    "many, numbers": (by_rows, lambda A, b: {"rows": tuple(A), "shifts": tuple(b.tolist())}),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@examples
@given(matrices, vectors, vectors)
def test_arrays_in_every_form(engine, form, A, b, u0):
    f, build = FORMS[form]
    if "float32" in form:
        A, b = A.astype(np.float32).astype(float), b.astype(np.float32).astype(float)
    problem = ps.ODEProblem(f, u0, (0.0, 1.0), build(A, b))
    u = ps.solve(problem, ps.Tsit5(), saveat=TIMES, engine=engine, **TIGHT).u
    M = scipy.linalg.block_diag(A, 0.0)
    M[:3, 3] = b
    reference = [scipy.linalg.expm(M * t)[:3] @ np.append(u0, 1.0) for t in TIMES]
    np.testing.assert_allclose(u, reference, rtol=1e-6, atol=1e-6)


def expanded(x):
    """The same values, if all of a row are equal, over the memory of one."""
    return x[:, :1].expand(3, 3)


# From leaf tensors A (3, 3) and b (3) to parameters, and to what A and b are then.
TENSORS = {
    "dict": (by_name, lambda A, b: {"A": A, "b": b}, lambda A, b: (A, b)),
    "transposed": (by_name, lambda A, b: {"A": A.T, "b": b}, lambda A, b: (A.T, b)),
    "expanded": (by_name, lambda A, b: {"A": expanded(A), "b": b[0].expand(3)}, lambda A, b: (expanded(A), b[0].expand(3))),
    "with steps": (by_name, lambda A, b: {"A": A.flip(0)[::1], "b": A[:, 1]}, lambda A, b: (A.flip(0), A[:, 1])),
    "tied": (nested, lambda A, b: {"unused": b, "linear": [{"A": A}, b]}, lambda A, b: (A, b)),
    "one storage": (by_place, lambda A, b: (A, A[2]), lambda A, b: (A, A[2])),
    "not all wanted": (by_name, lambda A, b: {"A": A.detach(), "b": b}, lambda A, b: (A.detach(), b)),
    "with an array": (by_name, lambda A, b: {"A": A.detach().numpy(), "b": b}, lambda A, b: (A.detach(), b)),
    "named tuple": (by_field, Linear, lambda A, b: (A, b)),
    "one vector": (in_one, lambda A, b: torch.cat([A.reshape(-1), b]), lambda A, b: (A, b)),
    "many": (by_rows, lambda A, b: {"rows": list(A), "shifts": list(b)}, lambda A, b: (A, b)),
    "integers": (
        by_name,
        lambda A, b: {"A": A, "b": torch.tensor([1, -2, 0])},
        lambda A, b: (A, torch.tensor([1.0, -2.0, 0.0], dtype=F64)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", TENSORS)
@examples
@given(matrices, vectors, vectors, st.booleans(), st.sampled_from(["default", "adjoint"]))
def test_gradients_to_tensors_in_every_form(engine, form, A, b, u0, wants_u0, method):
    f, build, meaning = TENSORS[form]
    sensealg = None if method == "default" else ps.GaussAdjoint() if engine == "julia" else ps.BacksolveAdjoint()
    A, b = (torch.tensor(x, dtype=F64, requires_grad=True) for x in (A, b))
    u0 = torch.tensor(u0, dtype=F64, requires_grad=wants_u0)
    leaves = [A, b, *([u0] if wants_u0 else [])]
    weights = torch.tensor([[1.0, -2.0, 0.5], [3.0, 1.0, -1.0]], dtype=F64)

    problem = ps.ODEProblem(f, u0, (0.0, 1.0), build(A, b))
    u = ps.solve(problem, ps.Tsit5(), saveat=TIMES, sensealg=sensealg, engine=engine, **TIGHT).u
    reference = exact(*meaning(A, b), u0)
    torch.testing.assert_close(u, reference, rtol=1e-6, atol=1e-6)
    options = dict(allow_unused=True, materialize_grads=True)
    found = torch.autograd.grad((u * weights).sum(), leaves, **options)
    wanted = torch.autograd.grad((reference * weights).sum(), leaves, **options)
    for x, y in zip(found, wanted, strict=True):
        assert x.dtype == F64 and x.shape == y.shape
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@examples
@given(vectors, st.sampled_from([torch.float32, F64]), st.integers(0, 5))
def test_states_in_every_layout(engine, v, dtype, layout):
    """Of the same values, wherever they lie."""
    base = torch.tensor(np.stack([v, v + 1]), dtype=dtype).requires_grad_()  # (2, 3)
    u0 = [
        lambda x: x,
        lambda x: x.T.contiguous().T,
        lambda x: x.repeat_interleave(2, 1)[:, ::2],
        lambda x: x[:1].expand(2, 3),
        lambda x: torch.cat([x, x])[1:3].flip(0),
        lambda x: torch.nn.functional.pad(x, (1, 2))[:, 1:-2],
    ][layout](base)
    k = torch.tensor(0.7, dtype=dtype, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: -p * u, u0, (0.0, 1.0), k)
    tight = TIGHT if dtype == F64 else dict(rtol=1e-5, atol=1e-6)
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine, **tight).u
    reference = (u0 * torch.exp(-k))[None]
    near = dict(rtol=1e-6, atol=1e-6) if dtype == F64 else dict(rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(u, reference, **near)
    for x, y in zip(*(torch.autograd.grad(w.square().sum(), [base, k], retain_graph=True) for w in (u, reference)), strict=True):
        torch.testing.assert_close(x, y, **near)
