"""The device form of generated code: it computes what torch computes, its threads don't meet, and its loops are fused."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from device_models import DeviceModel, jlarrays
from ode_models import LARGE, MODELS, Model
from torch import nn
from torch_models import LAYERS, Rhs
from torch_reference import TIME, TOLERANCE, Each, Reference, operation_groups

from pysciode.capture.scalar_trace import trace_function
from pysciode.capture.torch.array_capture import capture_torch
from pysciode.graphs.captured_model import JuliaModel
from pysciode.lowering import LoweredModel, lower
from pysciode.lowering.device.device_functions import FUNCTIONS
from pysciode.lowering.scalars import scalar_functions as scalar

MOST = ("f!", "vjp_both!", "jvp!")
DTYPES = [torch.float32, torch.float64]


def lowered_torch(model: nn.Module, u: torch.Tensor, want: Collection[str] = FUNCTIONS) -> LoweredModel:
    captured = capture_torch(model, u, t0=TIME)
    n_params = sum(int(np.prod(shape)) for shape in captured.param_shapes)
    dtype = np.float32 if u.dtype is torch.float32 else np.float64
    return lower(captured, dtype, n=u.numel(), n_params=n_params, want=want, device=True)


def compare(
    model: nn.Module, u: torch.Tensor, names: Collection[str] = FUNCTIONS, tolerance: float | None = None, device: Any = None
) -> None:
    """Assert that the generated functions agree with torch."""
    v = torch.randn(u.shape, generator=torch.Generator().manual_seed(1), dtype=u.dtype)
    reference = Reference(model, u, v)
    expected = reference.results(names)
    julia = DeviceModel(lowered_torch(model, u, names), device)
    for name in names:
        found = julia.call(name, u.reshape(-1).numpy(), reference.p(), TIME, v.reshape(-1).numpy())
        assert found.dtype == reference.p().dtype
        scale = 1 + np.abs(expected[name]).max(initial=0)
        np.testing.assert_allclose(found / scale, expected[name] / scale, rtol=0, atol=tolerance or TOLERANCE[u.dtype], err_msg=name)


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("group", operation_groups())
def test_operations(group, dtype):
    torch.manual_seed(0)
    u = torch.randn(len(group), 3, 4, dtype=dtype)
    # float32 constants inside torch's own Hardsigmoid limit what it can be compared to
    if dtype is torch.float64:
        compare(Each([f for _, f in group]), u, ("f!", "vjp!", "jvp!", "tgrad!"), 1e-8)
    else:
        compare(Each([f for _, f in group]), u, ("f!", "vjp!"))


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    torch.manual_seed(0)
    f, shape, *layers = LAYERS[name]()
    names = FUNCTIONS if name in ("mlp", "gru_cell", "linear_system") else MOST
    compare(Rhs(f, *layers).double().eval(), torch.randn(shape, dtype=torch.float64), names)


# Folds that are split in one way or another, over axes that run through memory or don't.
FOLDS: dict[str, tuple[Callable[..., torch.Tensor], tuple[int, ...]]] = {
    "first": (lambda u, t: u * u.sum(0) / 100, (400, 3)),
    "last": (lambda u, t: u * u.sum(1, keepdim=True) / 100, (3, 400)),
    "all": (lambda u, t: u * u.pow(2).sum().sqrt() / 100, (3, 300)),
    "middle": (lambda u, t: u * u.sum(1, keepdim=True) / 100, (2, 200, 2)),
    "around": (lambda u, t: u * u.sum((0, 2), keepdim=True) / 100, (15, 2, 20)),
    "transposed": (lambda u, t: u * u.mT.reshape(7, -1).sum(1).sum() / 100, (20, 35)),
    "thrice": (lambda u, t: u.square().sum() * u / 1e4, (130 * 130,)),
    "many": (lambda u, t: u * u.sum(1, keepdim=True) / 100, (2100, 2)),
    "extremes": (lambda u, t: u * u.amax(0) - u * u.amin(), (200, 2)),
    "product": (lambda u, t: u * (1 + u * 1e-3).prod(), (150, 2)),
    "truths": (lambda u, t: torch.where((u > 2.5).any(0), u, 2 * u) + torch.where((u > -9).all(), u, 3 * u), (150, 2)),
    "count": (lambda u, t: u * torch.count_nonzero(u > 0) / 100, (150, 2)),
    "softmax": (lambda u, t: torch.softmax(u, 1), (2, 150)),
    "norm": (lambda u, t: F.layer_norm(u, (150,)), (2, 150)),
}


@pytest.mark.julia
@pytest.mark.parametrize("name", FOLDS)
def test_long_folds(name):
    torch.manual_seed(0)
    f, shape = FOLDS[name]
    compare(Rhs(f), torch.randn(shape, dtype=torch.float64), ("f!", "vjp!"))


@pytest.mark.julia
@pytest.mark.parametrize("reduce", [torch.amax, torch.amin])
def test_nan_wins_in_folds(reduce):
    u = torch.ones(300, dtype=torch.float64)
    u[177] = torch.nan
    lowered = lowered_torch(Rhs(lambda u, t: reduce(u, 0) + torch.zeros_like(u)), u, ("f!",))
    assert np.isnan(DeviceModel(lowered).call("f!", u.numpy(), np.zeros(0), 0.0, u.numpy())).all()


# Writes that may meet: windows that overlap and that don't, indices that are repeated, diagonals.
SCATTERS: dict[str, tuple[Callable[..., torch.Tensor], tuple[int, ...]]] = {
    "overlapping": (lambda u, t: u * u.unfold(0, 3, 1).sum(-1).mean(), (9, 2)),
    "strided": (lambda u, t: u * u.unfold(0, 3, 2).square().sum(), (9, 2)),
    "apart": (lambda u, t: u * u.unfold(0, 2, 3).square().sum(), (9, 2)),
    "both_axes": (lambda u, t: u * u.unfold(0, 3, 1).unfold(1, 2, 1).square().sum(), (5, 4)),
    "repeated": (lambda u, t: torch.zeros_like(u).index_add(0, torch.arange(9) % 4, u) * u, (9, 2)),
    "rows_and_columns": (lambda u, t: u[[0, 0, 1], :][:, [1, 1, 0]].square().sum() * u, (3, 2)),
    "diagonal": (lambda u, t: torch.diag_embed(u.diagonal()) * u + u.diagonal().square().sum(), (4, 4)),
    "permuted": (lambda u, t: u[(torch.arange(9) * 2) % 9] * u, (9, 2)),
    "negative": (lambda u, t: u[torch.tensor([-1, 0, 8])].square().sum() * u, (9, 2)),
    "long_window": (lambda u, t: u * u.unfold(0, 200, 1).square().sum(), (210, 1)),
}


@pytest.mark.julia
@pytest.mark.parametrize("name", SCATTERS)
def test_threads_that_scatter_don_t_meet(name):
    torch.manual_seed(0)
    f, shape = SCATTERS[name]
    compare(Rhs(f), torch.randn(shape, dtype=torch.float64), ("f!", "vjp!"))


def test_overlapping_windows_are_added_window_by_window():
    """One launch for each place in the window, with a thread for each element: not one thread for all."""
    f, shape = SCATTERS["overlapping"]
    source = lowered_torch(Rhs(f), torch.zeros(shape), ("vjp!",)).source
    assert re.search(r"for i\d in 0:2\n\s+Kernels\.launch!\(kernel\d+, 14, [^\n]*, i\d\)", source)


def test_constant_indices_that_differ_take_a_thread_each():
    f, shape = SCATTERS["permuted"]
    source = lowered_torch(Rhs(f), torch.zeros(shape), ("vjp!",)).source
    assert "for i" not in source
    assert re.search(r"2\*a\d\[1 \+ i0\]\] = ", source)


def test_neighbouring_threads_use_neighbouring_memory():
    """They differ in the axis that runs through memory, also where it is short."""
    source = lowered_torch(Rhs(lambda u, t: F.pad(u[:, 1:].sin(), (1, 0))), torch.zeros(100, 3), ("f!",)).source
    assert re.search(r"i1 = Int\(j % 0x00000002\)\n\s+j = [^\n]*\n\s+i0 = Int\(j\)\n[^\n]*3\*i0 \+ i1\]", source)


@pytest.mark.julia
@pytest.mark.parametrize("depth", [1, 4])
def test_a_network_takes_a_product_and_a_kernel_for_each_layer(depth):
    widths = [10, *[50] * depth, 10]
    layers = [layer for a, b in zip(widths, widths[1:], strict=False) for layer in (nn.Linear(a, b), nn.SiLU())]
    model, u = Rhs(lambda u, t, net: torch.cos(t) * net(u) - u, nn.Sequential(*layers)), torch.randn(20, 10)
    lowered = lowered_torch(model, u, ("f!",))
    assert lowered.source.count("Kernels.device_product!") == depth + 1
    assert lowered.source.count("Kernels.launch!") == depth + 1
    julia = DeviceModel(lowered)
    julia.call("f!", u.reshape(-1).numpy(), Reference(model, u, u).p(), TIME, u.numpy())
    assert julia.launches == 2 * (depth + 1)


def test_equal_kernels_are_compiled_once():
    model = Rhs(lambda u, t: torch.tanh(torch.tanh(u) @ torch.ones(8, 8) @ u))
    source = lowered_torch(model, torch.zeros(8, 8), ("f!", "vjp!", "jvp!")).source
    definitions = re.findall(r"function kernel\d+(\(.*?)\nend\n", source, re.DOTALL)
    assert len(set(definitions)) == len(definitions) < source.count("Kernels.launch!")


def layer_norm() -> nn.Module:
    f, _, *layers = LAYERS["layer_norm"]()
    return Rhs(f, *layers)


def test_kernels_compute_in_the_type_of_the_model():
    source = lowered_torch(layer_norm(), torch.zeros(3, 4), ("f!",)).source
    assert "T = Float32" in source and "Float64" not in source


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.extra("jlarrays")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("mlp", torch.float32), ("mlp", torch.float64), ("conv2d", torch.float64), ("linear_systems", torch.float64),
     ("multihead", torch.float32), ("embedding", torch.float64), ("max_pool", torch.float64)],
)  # fmt: skip
def test_on_jlarrays(name, dtype):
    """Arrays that raise an error where they are read entry by entry."""
    torch.manual_seed(0)
    f, shape, *layers = LAYERS[name]()
    names = FUNCTIONS if dtype is torch.float32 else ("f!", "vjp_both!")
    compare(Rhs(f, *layers).to(dtype).eval(), torch.randn(shape, dtype=dtype), names, device=jlarrays())


# --- models that are not torch's -------------------------------------------------------------------------------------


def _differences(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """The Jacobian, by central differences of fourth order."""
    columns = []
    for i in range(x.size):
        h = np.zeros_like(x)
        h[i] = 1e-3 * max(1.0, abs(x[i]))
        columns.append((8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h[i]))
    return np.stack(columns, 1) if columns else np.zeros((f(x).size, 0))


def _expected(point: Model, v: np.ndarray) -> dict[str, np.ndarray]:
    shape, u, p, t = point.u.shape, point.u.ravel(), point.p, point.t

    def f(u: np.ndarray, p: np.ndarray, t: float) -> np.ndarray:
        return np.asarray(point.f(u.reshape(shape), p, t), float).ravel()

    jac = _differences(lambda x: f(x, p, t), u)
    paramjac = _differences(lambda x: f(u, x, t), p)
    dt = _differences(lambda x: f(u, p, x[0]), np.array([t]))
    return {
        "f!": f(u, p, t), "vjp!": jac.T @ v, "vjp_p!": paramjac.T @ v, "vjp_both!": np.concatenate([jac.T @ v, paramjac.T @ v]),
        "jvp!": jac @ v, "tgrad!": dt[:, 0], "jac!": jac.T.ravel(), "paramjac!": paramjac.T.ravel(),
    }  # fmt: skip


SCALAR = {"lorenz": MODELS["lorenz"], "hodgkin_huxley": MODELS["hodgkin_huxley"]}
SCALAR |= {f"{name}_loops": LARGE[name] for name in ("diffusion", "kuramoto")}


def lowered_scalar(name: str, dtype: type) -> LoweredModel:
    point = SCALAR[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scalar, "_LONG", 30 if name.endswith("_loops") else 10**9)
        model = trace_function(point.f, point.u.shape, point.p.size)
        return lower(model, dtype, n=point.u.size, n_params=point.p.size, want=FUNCTIONS, device=True)


def compare_scalar(name: str, dtype: type, device: Any = None) -> None:
    lowered, point = lowered_scalar(name, dtype), SCALAR[name]
    julia, v = DeviceModel(lowered, device), np.linspace(-1, 1, point.u.size)
    for function, expected in _expected(point, v).items():
        found = julia.call(function, point.u.ravel().astype(dtype), point.p.astype(dtype), point.t, v.astype(dtype))
        tolerance = {np.float32: 2e-5, np.float64: 1e-8}[dtype] * (1 + np.abs(expected).max())
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=function)
        assert device or julia.launches == 1


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SCALAR)
def test_scalar_models(name, dtype):
    compare_scalar(name, dtype)


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.extra("jlarrays")
@pytest.mark.parametrize("name", ["lorenz", "diffusion_loops"])
def test_scalar_models_on_jlarrays(name):
    compare_scalar(name, np.float64, jlarrays())


JULIA_SOURCE = """
f!(du, u, p, t) = (du .= p .* u .+ t; nothing)
vjp!(dlam, lam, u, p, t) = (dlam .= p .* lam; nothing)
"""


@pytest.mark.julia
@pytest.mark.extra("jlarrays")
def test_julia_models_on_jlarrays():
    """The user's own functions, which see to it themselves that they run on a device."""
    lowered = lower(JuliaModel(JULIA_SOURCE), np.float64, n=2, n_params=2, want=("f!", "vjp!"), device=True)
    assert lowered.form == "device" and {"f!", "vjp!"} <= lowered.functions
    julia = DeviceModel(lowered, jlarrays())
    u, p, v = np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([0.5, -1.0])
    assert julia.call("f!", u, p, 0.25, v) == pytest.approx(p * u + 0.25)
    assert julia.call("vjp!", u, p, 0.25, v) == pytest.approx(p * v)


def test_what_a_device_does_not_have_is_left_out():
    lowered = lowered_torch(Rhs(lambda u, t: -u), torch.zeros(3), ("f!", "jac_sparse!", "f_oop"))
    assert lowered.form == "device" and lowered.functions == {"f!"}
