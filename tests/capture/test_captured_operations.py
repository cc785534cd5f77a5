"""Operations that a trace replaces: order, factors of matrices, exponentials, distances, sparse constants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from jacobians import F64, array_jacobians, scalar_jacobians, torch_jacobian
from torch import nn

import pysciode as ps
from pysciode.capture.torch.array_capture import capture_torch, infer_signature
from pysciode.compat.torchdiffeq import odeint, odeint_adjoint
from pysciode.errors import CaptureError
from pysciode.lowering.scalars.unroll import unroll

EYE = torch.eye(4, dtype=F64)
COO = torch.tensor([[0, 2.0, 0, 0], [0, 0, -1.0, 0], [0.5, 0, 0, 0], [0, 0, 0, 3.0]], dtype=F64).to_sparse()
CSR = COO.to_sparse_csr()


def positive(u):
    return torch.outer(u, u) + 3 * EYE


OPERATIONS = {
    "sort": lambda u: u.sort()[0], "sort_down": lambda u: u.reshape(2, 2).sort(0, descending=True)[0].reshape(-1),
    "sort_stable": lambda u: u.sort(stable=True)[0], "msort": lambda u: u.msort(), "argsort": lambda u: u[u.argsort()] * u,
    "sort_infinity": lambda u: torch.cat([u, torch.tensor([math.inf], dtype=F64)]).sort()[0][:4],
    "topk": lambda u: u * u.topk(2)[0].sum(), "topk_smallest": lambda u: u * u.topk(3, largest=False)[0].prod(),
    "kthvalue": lambda u: u * u.kthvalue(2)[0], "quantile": lambda u: u * u.quantile(0.3),
    "cholesky": lambda u: torch.linalg.cholesky(positive(u)) @ u, "cholesky_upper": lambda u: torch.linalg.cholesky(positive(u), upper=True) @ u,
    "cholesky_solve": lambda u: torch.cholesky_solve(u[:, None], torch.linalg.cholesky(positive(u)))[:, 0],
    "solve": lambda u: torch.linalg.solve(positive(u), u),
    "solve_triangular": lambda u: torch.linalg.solve_triangular(positive(u), u[:, None], upper=False)[:, 0],
    "solve_unit": lambda u: torch.linalg.solve_triangular(positive(u), u[:, None], upper=True, unitriangular=True)[:, 0],
    "slogdet": lambda u: u * torch.linalg.slogdet(positive(u))[1],
    "matrix_exp": lambda u: torch.matrix_exp(0.1 * torch.outer(u, u)) @ u,
    "matrix_exp_large": lambda u: 1e-3 * torch.matrix_exp(3 * torch.outer(u, u.roll(1))) @ u,
    "matrix_exp_zero": lambda u: torch.matrix_exp(0 * torch.outer(u, u)) @ u,
    "cdist": lambda u: u * torch.cdist(u[:, None], u[:, None] + 1).sum(1), "cdist_self": lambda u: u * torch.cdist(u[:, None], u[:, None]).sum(1),
    "cdist_1": lambda u: u * torch.cdist(u.reshape(2, 2), u.reshape(2, 2) + 1, p=1).sum(), "pdist": lambda u: u * torch.pdist(u.reshape(2, 2)).sum(),
    "coo": lambda u: COO @ u, "coo_mm": lambda u: torch.sparse.mm(COO, u[:, None])[:, 0], "csr": lambda u: CSR @ u,
    "csr_mv": lambda u: torch.mv(CSR, u) * u, "sparse_addmm": lambda u: torch.sparse.addmm(u[:, None], COO, u[:, None])[:, 0],
    "made_sparse": lambda u: EYE.to_sparse() @ u.sin(), "coo_transposed": lambda u: COO.t() @ u,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_values_and_derivatives(name):
    f = OPERATIONS[name]
    array = capture_torch(lambda u: f(u), torch.zeros(4, dtype=F64))
    scalar = unroll(array, 20_000)
    for seed in range(3):
        u = torch.randn(4, dtype=F64, generator=torch.Generator().manual_seed(seed))
        np.testing.assert_allclose(array.f(torch.zeros((), dtype=F64), u).numpy(), f(u).numpy(), rtol=1e-9, atol=1e-11)
        expected = torch_jacobian(f, u)
        for way, jacobian in ({} if scalar is None else scalar_jacobians(scalar) | array_jacobians(array)).items():
            np.testing.assert_allclose(jacobian(u), expected, rtol=1e-7, atol=1e-9, err_msg=way)
        for way in ("vjp", "jvp"):
            graph = array.trace(way)
            rows = [graph(e, torch.zeros((), dtype=F64), u) for e in EYE]
            rows = [(x[0] if isinstance(x, (tuple, list)) else x).numpy() for x in rows]
            np.testing.assert_allclose(np.stack(rows, way == "jvp"), expected, rtol=1e-7, atol=1e-9, err_msg=way)


def test_the_derivative_by_a_symmetric_matrix_is_symmetric():
    a = positive(torch.arange(4.0, dtype=F64)).requires_grad_()

    def f(u, p, t):
        return torch.linalg.cholesky(p) @ u

    expected = torch.autograd.grad(f(torch.ones(4, dtype=F64), a, 0).sum(), a)[0]
    model = capture_torch(f, torch.ones(4, dtype=F64), a.detach())
    one = torch.ones(4, dtype=F64)
    found = model.trace("vjp_p")(one, torch.zeros((), dtype=F64), one, a.detach())[0]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-9)


@pytest.mark.parametrize("f", [lambda u: u.sort()[0], lambda u: torch.linalg.cholesky(torch.diag(u)) @ u], ids=["sort", "cholesky"])
def test_what_grows_too_large_is_refused_by_name(f):
    from pysciode.lowering.loops.array_functions import lower_array

    with pytest.raises(CaptureError, match="no translation"):
        lower_array(capture_torch(lambda u: f(u), torch.ones(600, dtype=F64)), {"f!"})


def test_nan_is_sorted_last():
    model = capture_torch(lambda u: u.sort()[0], torch.zeros(4, dtype=F64))
    u = torch.tensor([math.nan, 1.0, -math.inf, 0.0], dtype=F64)
    np.testing.assert_array_equal(model.f(torch.zeros((), dtype=F64), u).numpy(), u.sort()[0].numpy())


def test_sparse_tensors_that_require_gradients_are_refused():
    matrix = COO.clone().requires_grad_()
    with pytest.raises(CaptureError, match="sparse tensor that requires a gradient"):
        capture_torch(lambda u: matrix @ u, torch.zeros(4, dtype=F64))


@pytest.mark.parametrize("names", ["t, S", "t, s", "t, T", "T, t", "S, t", "time, T", "t, y", "t, u"])
def test_names_of_state_and_time(names):
    scope: dict = {}
    exec(f"def f({names}): pass", scope)
    roles = dict(zip(names.split(", "), infer_signature(scope["f"]), strict=True))
    time = "time" if "time" in names else "t"
    assert roles == {name: "t" if name == time else "u" for name in roles}


class Buffered(nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, t, u):
        return self.matrix @ u


@pytest.mark.parametrize("matrix", [COO, CSR], ids=["coo", "csr"])
def test_solves_with_a_sparse_buffer(matrix):
    u0 = torch.arange(4.0, dtype=F64)
    found = ps.solve(ps.ODEProblem(Buffered(matrix), u0, (0.0, 0.5)), saveat=[0.5], rtol=1e-9, atol=1e-9).u[-1]
    torch.testing.assert_close(found, torch.matrix_exp(0.5 * COO.to_dense()) @ u0, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compile", "DataParallel"])
def test_wrapped_modules(wrap):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    found = []
    for f in (wrap(net), net):
        u0 = torch.tensor([1.0, 0.5], dtype=F64, requires_grad=True)
        u = ps.solve(ps.ODEProblem(f, u0, (0.0, 1.0)), saveat=[1.0]).u[-1]
        found.append((u.detach(), *torch.autograd.grad(u.sum(), [u0, *net.parameters()])))
    torch.testing.assert_close(found[0], found[1])


class Hamiltonian(nn.Module):
    """``dx/dt = J ∇H`` with H by a net; the gradient is taken bare, of a state that nobody asked to require one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, t, x):
        q, p = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]
        return torch.stack([p, -q])


@pytest.mark.julia
@pytest.mark.parametrize("solve", [odeint, odeint_adjoint])
@pytest.mark.parametrize("asked", [False, True])
def test_hamiltonian_nets_in_the_drop_ins(solve, asked):
    torch.manual_seed(0)
    model, t = Hamiltonian(), torch.tensor([0.0, 1.0], dtype=F64)
    start = torch.tensor([1.0, 0.5], dtype=F64, requires_grad=asked)
    found = solve(model, start, t, rtol=1e-9, atol=1e-9)[-1]
    gradients = torch.autograd.grad(found.sum(), list(model.net.parameters())[:3])
    import torchdiffeq

    reference = torchdiffeq.odeint(model, start.detach().requires_grad_(), t, rtol=1e-9, atol=1e-9)[-1]
    torch.testing.assert_close(found, reference, rtol=1e-6, atol=1e-7)
    expected = torch.autograd.grad(reference.sum(), list(model.net.parameters())[:3])
    torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=1e-6)


KNOTS = torch.linspace(0, 1, 11, dtype=F64)


@pytest.mark.julia
@pytest.mark.parametrize("at", [lambda i: KNOTS[i], lambda i: KNOTS.sin()[i - 11], lambda i: KNOTS[i] - KNOTS[i - 1]])
def test_an_index_from_the_time_is_compiled_in_the_drop_ins(at, recwarn):
    """Also a negative one; no warning says that Python is called."""

    def forced(t, y):
        return -y * at(torch.searchsorted(KNOTS, t).clamp(1, 10))

    found = odeint(forced, torch.ones(2, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64), rtol=1e-8, atol=1e-8)
    assert not [w for w in recwarn if "Python" in str(w.message)]
    # The right-hand side jumps at each knot; between them it is an exponential.
    exact = torch.exp(-0.1 * sum(at(torch.tensor(i)) for i in range(1, 11)))
    torch.testing.assert_close(found[-1], exact.expand(2), rtol=1e-5, atol=1e-5)
