"""Every operation and layer: what the generated code computes is what torch computes, in both precisions."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import pytest
import torch
from every_cell import ALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from julia_models import JuliaModel
from scipy.sparse import csc_matrix
from torch import nn
from torch_models import LAYERS, POINTWISE, REDUCTIONS, STRUCTURE, Rhs
from torch_reference import TIME, TOLERANCE, Each, Reference, operation_groups

from pysciode.capture.torch.array_capture import capture_torch
from pysciode.graphs.captured_model import ScalarModel
from pysciode.graphs.scalar_derivatives import reverse
from pysciode.lowering.loops.array_functions import FUNCTIONS, lower_array
from pysciode.lowering.scalars.python_function import evaluate
from pysciode.lowering.scalars.unroll import unroll
from pysciode.lowering.sparsity import sparse_jacobian

DTYPES = [torch.float32, torch.float64]
COMPARED = frozenset(FUNCTIONS) - {"jac_sparse!"}


def compare(model: nn.Module, u: torch.Tensor, names: Collection[str] = COMPARED, tolerance: float | None = None) -> None:
    """Assert that the generated functions agree with torch, and allocate nothing."""
    v = torch.randn(u.shape, generator=torch.Generator().manual_seed(1), dtype=u.dtype)
    reference = Reference(model, u, v)
    captured = capture_torch(model, u, t0=TIME)
    lowered = lower_array(captured, names)
    julia = JuliaModel(lowered)
    expected = reference.results(names)
    point = (u.reshape(-1).numpy(), reference.p(), TIME, v.reshape(-1).numpy())
    for name in sorted(lowered.functions & set(names)):
        found = julia.call(name, *point)
        scale = 1 + np.abs(expected[name]).max(initial=0)
        np.testing.assert_allclose(found / scale, expected[name] / scale, rtol=0, atol=tolerance or TOLERANCE[u.dtype], err_msg=name)
        if name != "f_oop":
            assert julia.allocated(name, *point) == 0, name


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("group", operation_groups())
def test_operations(group, dtype):
    torch.manual_seed(0)
    u = torch.randn(len(group), 3, 4, dtype=dtype)
    # float32 constants inside torch's own Hardsigmoid limit what it can be compared to
    tolerance = 1e-8 if dtype is torch.float64 else None
    # The form out of place differs by precision in what `test_layers_in_single_precision` has too.
    names = ("f!", "vjp!", "jvp!", "tgrad!") + (("f_oop",) if ALL or dtype is torch.float64 else ())
    compare(Each([f for _, f in group]), u, names, tolerance)


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    torch.manual_seed(0)
    f, shape, *layers = LAYERS[name]()
    compare(Rhs(f, *layers).double().eval(), torch.randn(shape, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("name", ["mlp", "mlp_deep", "layer_norm", "conv2d", "gru_cell", "multihead"])
def test_layers_in_single_precision(name):
    torch.manual_seed(0)
    f, shape, *layers = LAYERS[name]()
    compare(Rhs(f, *layers).eval(), torch.randn(shape))


@st.composite
def random_modules(draw) -> tuple[nn.Module, tuple[int, ...]]:
    """A stack of layers, a skip connection perhaps, and a state's shape."""
    batch, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    activation = st.sampled_from([nn.Tanh, nn.SiLU, nn.GELU, nn.ELU, nn.Softplus, nn.Sigmoid, nn.ReLU])
    torch.manual_seed(draw(st.integers(0, 1000)))
    layers: list[nn.Module] = []
    size = width
    for _ in range(draw(st.integers(1, 3))):
        new = draw(st.integers(1, 40))
        layers += [nn.Linear(size, new, bias=draw(st.booleans())), draw(activation)()]
        if new > 1 and draw(st.booleans()):
            layers.append(nn.LayerNorm(new))
        size = new
    stack = nn.Sequential(*layers, nn.Linear(size, width))
    skip = draw(st.sampled_from([0.0, -1.0, 0.5]))
    shape = (batch, width) if draw(st.booleans()) else (width,)
    return Rhs(lambda u, t, stack: stack(u) * torch.cos(t) + skip * u, stack), shape


@pytest.mark.slow
@pytest.mark.julia
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(random_modules(), st.sampled_from(DTYPES))
def test_random_modules(case, dtype):
    model, shape = case
    compare(model.to(dtype), torch.randn(shape, dtype=dtype))


@pytest.mark.parametrize(
    "f",
    [*(f for name, f in (POINTWISE | REDUCTIONS | STRUCTURE).items() if name not in ("computed_index",))],
    ids=[name for name in POINTWISE | REDUCTIONS | STRUCTURE if name not in ("computed_index",)],
)
def test_unrolled(f):
    """Element by element, without Julia."""
    u = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    captured = capture_torch(lambda u: f(u), u)
    model = unroll(captured, max_ops=20_000)
    du = evaluate(model, u.reshape(-1).numpy(), np.zeros(0), 0.0)
    np.testing.assert_allclose(du, f(u).reshape(-1).numpy(), rtol=1e-9, atol=1e-9)


def test_gradients_stop_in_unrolled_models():
    def f(u):
        return u * u.detach() + torch.nn.functional.relu(u)

    u = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    model = unroll(capture_torch(f, u.detach()))
    lam = [model.graph.const(1.0)] * 3
    gradient = ScalarModel(model.graph, model.u, model.p, model.t, tuple(reverse(model.graph, model.rhs, lam, model.u)))
    expected = torch.autograd.grad(f(u).sum(), u)[0]
    np.testing.assert_allclose(evaluate(gradient, u.detach().numpy(), np.zeros(0), 0.0), expected.numpy())


def test_large_models_are_not_unrolled():
    layer = nn.Linear(30, 30)
    assert unroll(capture_torch(layer, torch.zeros(30))) is None


def reaction_diffusion(u):
    """A ring of cells with two species."""
    a, b = u[0], u[1]
    laplacian = torch.roll(u, 1, 1) - 2 * u + torch.roll(u, -1, 1)
    return 3 * laplacian + torch.stack([a * a * b - a, b - a * a * b])


def heat_by_matrix(u):
    n = u.shape[0]
    matrix = torch.diag(torch.full((n,), -2.0)) + torch.diag(torch.ones(n - 1), 1) + torch.diag(torch.ones(n - 1), -1)
    return matrix.to(u.dtype) @ u + torch.where(u > 0, u.sin(), 0.0)


@pytest.mark.julia
@pytest.mark.parametrize(("f", "shape", "most"), [(reaction_diffusion, (2, 30), 8), (heat_by_matrix, (40,), 3)])
def test_sparse_jacobian(f, shape, most):
    u = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = capture_torch(f, u)
    assert sparse_jacobian(model).n_colors <= most
    lowered = lower_array(model, {"jac_sparse!"})
    n = u.numel()
    dense = torch.func.jacrev(f)(u).reshape(n, n).numpy()
    julia = JuliaModel(lowered, nonzeros=len(lowered.sparsity[1]))
    nz = julia.call("jac_sparse!", u.reshape(-1).numpy(), np.zeros(0), 0.0, np.zeros(n))
    found = csc_matrix((nz, lowered.sparsity[1] - 1, lowered.sparsity[0] - 1), (n, n)).toarray()
    np.testing.assert_allclose(found, dense, atol=1e-12)


@pytest.mark.parametrize("name", [*REDUCTIONS, *STRUCTURE])
def test_jacobian_pattern_covers_the_jacobian(name):
    f = (REDUCTIONS | STRUCTURE)[name]
    u = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pattern = sparse_jacobian(capture_torch(lambda u: f(u), u))
    covered = np.zeros((12, 12), bool)
    for j in range(12):
        covered[pattern.rowval[pattern.colptr[j] : pattern.colptr[j + 1]], j] = True
    assert covered[torch.func.jacrev(f)(u).reshape(12, 12).numpy() != 0].all()


def test_products_with_known_zeros_vanish():
    """Forward derivatives multiply by the zero tangents of parameters: no code is left of that."""
    net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 4))
    source = lower_array(capture_torch(lambda t, u: net(u), torch.zeros(64, 4)), {"jvp!"}).source
    assert source.count("Kernels.matmul!") == 1


def test_workspace_is_shared_and_reused():
    """Buffers are free again after their last use: a deep network needs no more memory than its widest layers."""
    layers = [layer for _ in range(8) for layer in (nn.Linear(50, 50), nn.Tanh())]
    net = nn.Sequential(*layers)
    source = lower_array(capture_torch(lambda t, u: net(u), torch.zeros(20, 50)), {"f!"}).source
    sizes = [int(part.split(")")[0]) for part in source.splitlines()[0].split("undef, ")[1:]]
    assert sum(sizes) <= 2 * 20 * 50


@pytest.mark.julia
@pytest.mark.parametrize("step", [1, 2])
def test_products_of_overlapping_windows(step):
    """Rows of such a matrix overlap in memory, which no library of matrix products takes."""

    def f(u, t):
        windows = u.reshape(-1).unfold(0, 6, step)
        return (windows @ u[:6, :7]).sum() * u

    compare(Rhs(f), torch.randn(20, 30, dtype=torch.float64), ("f!", "vjp!"))


@pytest.mark.julia
def test_nan_and_infinity_pass_through():
    model = Rhs(lambda u, t: torch.stack([torch.tanh(u), torch.exp(u), torch.sigmoid(u), torch.relu(u), u.amax() + 0 * u]))
    u = torch.tensor([math.nan, math.inf, -math.inf, 800.0, -800.0], dtype=torch.float64)
    captured = capture_torch(lambda u: model(None, u[0]), u.expand(5, 5).clone())
    julia = JuliaModel(lower_array(captured, {"f!"}))
    found = julia.call("f!", u.repeat(5).numpy(), np.zeros(0), 0.0, np.zeros(25))
    np.testing.assert_allclose(found, model(None, u).reshape(-1).numpy(), rtol=1e-12)
