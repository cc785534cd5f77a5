"""At kinks and at other special points, every generated derivative is torch's own: property tests at the points themselves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jacobians import F64, array_jacobians, evaluated, scalar_jacobians, torch_jacobian

from pysciode.capture.scalar_trace import trace_function
from pysciode.capture.torch.array_capture import capture_torch
from pysciode.lowering import lower
from pysciode.lowering.scalars.unroll import unroll

# In torch this is NaN at minus infinity; the limit is 0.
ANOTHER_VALUE = {"hardswish"}
_EDGES = torch.tensor([-1.0, 1.0, 0.5, -0.5], dtype=F64)


def _of_two(function):
    """`function` of each state and its neighbour: ties are met where the states are equal."""
    return lambda u: function(u, u.roll(1)) * (1 + u.cos())


# name -> (function, the states at its special points)
POINTS = {
    "relu": (F.relu, [0.0]), "relu6": (F.relu6, [0.0, 6.0]), "clamp": (lambda u: u.clamp(-1, 2), [-1.0, 2.0]),
    "clamp_min": (lambda u: u.clamp(min=0.5), [0.5]), "clamp_max": (lambda u: u.clamp(max=0.5), [0.5]),
    "clamp_tensors": (lambda u: torch.clamp(u, _EDGES[:1], _EDGES[1:2]), [-1.0, 1.0]),
    "clamp_empty": (lambda u: torch.clamp(u, 1.0, -1.0), [-1.0, 1.0, 0.0]),
    "clamp_by_states": (_of_two(lambda x, y: torch.clamp(x, min=y)), [0.0, 1.0]),
    "clamp_max_by_states": (_of_two(lambda x, y: torch.clamp(x, max=y)), [0.0, 1.0]),
    "clamp_between_states": (_of_two(lambda x, y: torch.clamp(x, y, y.roll(1))), [0.0, 1.0]),
    "hardtanh": (F.hardtanh, [-1.0, 1.0]), "hardtanh_wide": (lambda u: F.hardtanh(u, -2.0, 3.0), [-2.0, 3.0]),
    "hardswish": (F.hardswish, [-3.0, 3.0, 0.0]), "hardsigmoid": (F.hardsigmoid, [-3.0, 3.0]),
    "leaky_relu": (lambda u: F.leaky_relu(u, 0.1), [0.0]), "rrelu": (lambda u: F.rrelu(u, 0.1, 0.3, training=False), [0.0]),
    "prelu": (lambda u: F.prelu(u, torch.tensor([0.3], dtype=F64)), [0.0]),
    "threshold": (lambda u: F.threshold(u, 0.5, 2.0), [0.5]), "elu": (lambda u: F.elu(u, 0.7), [0.0]),
    "selu": (F.selu, [0.0]), "celu": (lambda u: F.celu(u, 0.7), [0.0]), "softshrink": (F.softshrink, [-0.5, 0.5]),
    "hardshrink": (F.hardshrink, [-0.5, 0.5]), "softplus": (lambda u: F.softplus(u, threshold=1.0), [0.0, 1.0]),
    "softsign": (F.softsign, [0.0]), "logsigmoid": (F.logsigmoid, [0.0]), "mish": (F.mish, [0.0]), "gelu": (F.gelu, [0.0]),
    "silu": (F.silu, [0.0]), "tanhshrink": (F.tanhshrink, [0.0]),
    "abs": (torch.abs, [0.0]), "sign": (lambda u: u * u.sign(), [0.0]), "copysign": (lambda u: torch.copysign(u, u + 1), [0.0, -1.0]),
    "copysign_number": (lambda u: torch.copysign(u, -2.0), [0.0]), "frac": (torch.frac, [0.0, 1.0, -1.0]),
    "floor": (lambda u: u * u.floor(), [0.0, 1.0]), "fmod": (lambda u: torch.fmod(u, 1.0), [0.0, 1.0, -1.0]),
    "remainder": (lambda u: torch.remainder(u, 1.0), [0.0, 1.0, -1.0]),
    "fmod_states": (_of_two(lambda x, y: torch.fmod(x, y + 2)), [0.0, 2.0]),
    "remainder_states": (_of_two(lambda x, y: torch.remainder(x, y + 2)), [0.0, 2.0, -1.0]),
    "maximum": (_of_two(torch.maximum), [0.0, 1.0]), "minimum": (_of_two(torch.minimum), [0.0, 1.0]),
    "fmax": (_of_two(torch.fmax), [0.0, 1.0]), "fmin": (_of_two(torch.fmin), [0.0, 1.0]),
    "maximum_number": (lambda u: torch.maximum(u, torch.tensor(0.5, dtype=F64)), [0.5]),
    "max": (lambda u: u * u.max(), [0.0, 2.0]), "min": (lambda u: u * u.min(), [0.0, 2.0]),
    "amax": (lambda u: u * u.amax(), [0.0, 2.0]), "amin": (lambda u: u + u.amin(0), [0.0, 2.0]),
    "amax_rows": (lambda u: (u.reshape(2, 2) * u.reshape(2, 2).amax(1, keepdim=True)).reshape(-1), [0.0, 2.0]),
    "max_dim": (lambda u: u * u.max(0)[0], [0.0, 2.0]), "min_dim": (lambda u: u * u.min(0).values, [0.0, 2.0]),
    "max_rows": (lambda u: (u.reshape(2, 2) * u.reshape(2, 2).max(0, keepdim=True)[0]).reshape(-1), [0.0, 2.0]),
    "aminmax": (lambda u: u * (u.aminmax().max - u.aminmax().min), [0.0, 2.0]),
    "norm": (lambda u: u + u.norm(), [0.0]), "norm_1": (lambda u: u + u.norm(p=1), [0.0]), "norm_3": (lambda u: u + u.norm(p=3), [0.0]),
    "norm_4": (lambda u: u + u.norm(p=4), [0.0]), "norm_half": (lambda u: u + torch.linalg.vector_norm(u, 0.5), [0.0]),
    "norm_inf": (lambda u: u + torch.linalg.vector_norm(u, math.inf), [0.0, 1.0, -1.0]),
    "norm_least": (lambda u: u + torch.linalg.vector_norm(u, -math.inf), [0.0, 1.0, -1.0]),
    "norm_count": (lambda u: u * torch.linalg.vector_norm(u, 0), [0.0]),
    "norm_rows": (lambda u: (u.reshape(2, 2) + u.reshape(2, 2).norm(dim=1, keepdim=True)).reshape(-1), [0.0]),
    "normalize": (lambda u: F.normalize(u, dim=0), [0.0]), "cosine": (lambda u: u * F.cosine_similarity(u, u.roll(1), dim=0), [0.0]),
    "distance": (lambda u: u + F.pairwise_distance(u[None], u[None].roll(1), eps=0.0), [0.0, 1.0]),
    "dist": (lambda u: u + torch.dist(u, u.roll(1)), [0.0, 1.0]),
    "std": (lambda u: u * u.std(), [0.0, 1.0]), "std_mean": (lambda u: u * torch.std_mean(u)[0], [1.0]), "var": (lambda u: u * u.var(), [1.0]),
    "std_rows": (lambda u: (u.reshape(2, 2) + u.reshape(2, 2).std(1, keepdim=True)).reshape(-1), [0.0, 1.0]),
    "sqrt": (torch.sqrt, [0.0, 1.0]), "rsqrt": (torch.rsqrt, [0.0]), "sqrt_of_square": (lambda u: (u * u).sqrt(), [0.0]),
    "hypot": (_of_two(torch.hypot), [0.0, 1.0]), "sinc": (torch.sinc, [0.0, 1.0]), "atan2": (_of_two(torch.atan2), [0.0, 1.0]),
    "reciprocal": (torch.reciprocal, [0.0]), "log": (torch.log, [0.0]), "log1p": (torch.log1p, [-1.0]), "xlogy": (_of_two(torch.xlogy), [0.0]),
    "asin": (torch.asin, [-1.0, 1.0]), "acos": (torch.acos, [-1.0, 1.0]), "acosh": (torch.acosh, [1.0]), "atanh": (torch.atanh, [1.0]),
    "square": (lambda u: u**2, [0.0]), "power_0": (lambda u: u**0, [0.0]), "power_1": (lambda u: u**1, [0.0]),
    "power_half": (lambda u: u**0.5, [0.0]), "power_3_2": (lambda u: u**1.5, [0.0]), "power_9": (lambda u: u**9, [0.0]),
    "power_-1": (lambda u: u**-1, [0.0]), "power_of_0": (lambda u: 0.0**u, [0.0, 1.0, -1.0]), "power_of_2": (lambda u: 2.0**u, [0.0]),
    "power_states": (_of_two(torch.pow), [0.0, 1.0, 2.0]),
    "prod": (lambda u: u + u.prod(), [0.0]), "cumprod": (lambda u: u.cumprod(0), [0.0]), "logsumexp": (lambda u: u.logsumexp(0) * u, [0.0]),
    "logaddexp": (_of_two(torch.logaddexp), [0.0]), 
    "nan_to_num": (lambda u: torch.nan_to_num(u), [0.0]), "where": (lambda u: torch.where(u > 0, u, -2 * u), [0.0]),
    "max_pool": (lambda u: u * F.max_pool1d(u[None, None], 3, 1, 1)[0, 0], [0.0, 1.0]),
    "huber": (lambda u: F.huber_loss(u, torch.zeros_like(u), reduction="none"), [0.0, 1.0, -1.0]),
    "smooth_l1": (lambda u: F.smooth_l1_loss(u, torch.zeros_like(u), reduction="none"), [0.0, 1.0, -1.0]),
    "l1": (lambda u: u + F.l1_loss(u, u.roll(1)), [0.0, 1.0]), "logit": (lambda u: torch.logit(u, 0.25), [0.25, 0.75]),
    "relu_squared": (lambda u: F.relu(u) ** 2, [0.0]), "softmax": (lambda u: F.softmax(u, 0), [0.0]),
}  # fmt: skip


# NumPy's functions, and the torch functions whose conventions they take
NUMPY_POINTS = {
    "clip": (lambda u: np.clip(u, -1.0, 2.0), lambda u: u.clip(-1.0, 2.0), [-1.0, 2.0]),
    "clip_method": (lambda u: u.clip(0.5), lambda u: u.clip(0.5), [0.5]),
    "maximum": (lambda u: np.maximum(u, np.roll(u, 1)), lambda u: torch.maximum(u, u.roll(1)), [0.0, 1.0]),
    "minimum_number": (lambda u: np.minimum(u, 0.5), lambda u: torch.minimum(u, torch.tensor(0.5, dtype=F64)), [0.5]),
    "abs": (np.abs, torch.abs, [0.0]), "sign": (lambda u: u * np.sign(u), lambda u: u * u.sign(), [0.0]),
    "max": (lambda u: u * np.max(u), lambda u: u * u.amax(), [0.0, 2.0]), "min": (lambda u: u * u.min(), lambda u: u * u.amin(), [0.0, 2.0]),
    "max_rows": (lambda u: (u.reshape(2, 2) + u.reshape(2, 2).max(1, keepdims=True)).reshape(-1),
                 lambda u: (u.reshape(2, 2) + u.reshape(2, 2).amax(1, keepdim=True)).reshape(-1), [0.0, 2.0]),
    "norm": (lambda u: u + np.linalg.norm(u), lambda u: u + u.norm(), [0.0]),
    "norm_3": (lambda u: u + np.linalg.norm(u, 3), lambda u: u + u.norm(p=3), [0.0]),
    "norm_inf": (lambda u: u + np.linalg.norm(u, np.inf), lambda u: u + u.norm(p=math.inf), [0.0, 1.0]),
    "std": (lambda u: u * np.std(u), lambda u: u * u.std(correction=0), [0.0, 1.0]), "sinc": (np.sinc, torch.sinc, [0.0, 1.0]),
    "arctan2": (lambda u: np.arctan2(u, np.roll(u, 1)), lambda u: torch.atan2(u, u.roll(1)), [0.0, 1.0]),
    "sqrt": (np.sqrt, torch.sqrt, [0.0]), "power": (lambda u: u ** np.roll(u, 1), lambda u: u ** u.roll(1), [0.0, 1.0]),
    "where": (lambda u: np.where(u > 0, u, 0), lambda u: torch.where(u > 0, u, 0), [0.0]),
}  # fmt: skip


def states(points):
    """Four states: each special point alone among others, in pairs, and everywhere."""
    others = [0.3, -1.7, 2.6, 0.9]
    for point in points:
        for places in ((0,), (2,), (0, 1), (1, 3), (0, 1, 2), (0, 1, 2, 3)):
            yield torch.tensor([point if i in places else x for i, x in enumerate(others)], dtype=F64)
    for pair in itertools.permutations(points, 2):
        yield torch.tensor([*pair, *pair[::-1]], dtype=F64)


def assert_torchs_own(jacobians, f, points, tolerance=1e-9):
    for u in states(points):
        expected = torch_jacobian(f, u)
        for name, jacobian in jacobians.items():
            found = jacobian(u)
            # Where autograd gives NaN (0 times infinity, also beside a pole), there is nothing to agree with. In forward mode,
            # as in torch's own, a pole reaches what is beside it.
            unknown = np.isnan(expected) | (np.isnan(found) & ~np.isfinite(expected).all() & (name == "jvp"))
            np.testing.assert_allclose(
                np.where(unknown, 0, found), np.where(unknown, 0, expected), rtol=tolerance, atol=1e-12, err_msg=f"{name} at {u}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS)
def test_derivatives_at_special_points(name):
    f, points = POINTS[name]
    array = capture_torch(lambda u: f(u), torch.zeros(4, dtype=F64))
    model = unroll(array, max_ops=20_000)
    jacobians = array_jacobians(array) | ({} if model is None else scalar_jacobians(model))
    if model is None and len(jacobians) < 2:
        pytest.skip("its indices are computed from the state: generated Julia is compared below")
    # torch's own kernels of these have constants in single precision
    assert_torchs_own(jacobians, f, points, 1e-7 if name in ("hardsigmoid", "celu") else 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS)
def test_values_at_special_points(name):
    """A derivative of one's own must not cost the value: it is torch's to the last bit but rounding, infinities and NaN too."""
    f, points = POINTS[name]
    model = unroll(capture_torch(lambda u: f(u), torch.zeros(4, dtype=F64)), max_ops=20_000)
    for u in [*states(points), *states([math.inf, -math.inf, math.nan])]:
        if model is None or (not u.isfinite().all() and name in ANOTHER_VALUE):
            continue
        found = evaluated(model.graph, (model.u, ()), model.rhs, u, ())
        np.testing.assert_allclose(found, f(u).numpy(), rtol=1e-7, atol=1e-12, err_msg=str(u))


GROUPS = [list(POINTS)[i : i + 16] for i in range(0, len(POINTS), 16)]


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("form", ["scalar", "array"])
@pytest.mark.parametrize("names", GROUPS, ids=[f"{group[0]}..{group[-1]}" for group in GROUPS])
def test_generated_julia_at_special_points(names, form):
    from julia_models import JuliaModel

    def f(u):
        return torch.stack([POINTS[name][0](row) for name, row in zip(names, u, strict=True)])

    model = capture_torch(f, torch.zeros(len(names), 4, dtype=F64))
    if form == "scalar":
        model = unroll(model, max_ops=50_000)
        if model is None:
            pytest.skip("its indices are computed from the state")
    lowered = lower(model, np.float64, n=4 * len(names), n_params=0, want={"vjp!", "jvp!"})
    julia = JuliaModel(lowered)
    for each in zip(*(itertools.islice(itertools.cycle(states(POINTS[name][1])), 14) for name in names), strict=True):
        jacobians = [torch_jacobian(POINTS[name][0], u) for name, u in zip(names, each, strict=True)]
        u = torch.cat(each).numpy()
        for k, e in enumerate(np.eye(4)):
            for derivative in ("vjp!", "jvp!"):
                found = julia.call(derivative, u, np.zeros(0), 0.0, np.tile(e, len(names))).reshape(-1, 4)
                for i, name in enumerate(names):
                    expected = jacobians[i][k] if derivative == "vjp!" else jacobians[i][:, k]
                    unknown = np.isnan(expected) | (np.isnan(found[i]) & ~np.isfinite(jacobians[i]).all())
                    np.testing.assert_allclose(
                        np.where(unknown, 0, found[i]), np.where(unknown, 0, expected), rtol=1e-7, atol=1e-9,
                        err_msg=f"{derivative} of {name} at {each[i]}",
                    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("sensealg", ["GaussAdjoint", "ForwardDiffSensitivity", "ForwardSensitivity"])
def test_a_state_that_rests_on_a_bound(sensealg):
    """The slope along the bound decides: relu'(0) = 0, clamp'(0) = 1, max(0, 0)' = 1/2, |0|' = 0."""
    import pysciode as ps

    for f, slope in (
        (torch.relu, 0.0), (lambda x: x.clamp(min=0), 1.0), (lambda x: torch.maximum(x, torch.zeros_like(x)), 0.5),
        (torch.abs, 0.0), (lambda x: x.norm() + 0 * x, 0.0),
    ):  # fmt: skip
        u0 = torch.zeros(1, dtype=F64, requires_grad=True)
        problem = ps.ODEProblem(lambda u, p, t, f=f: f(u), u0, (0.0, 1.0))
        solution = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, sensealg=getattr(ps, sensealg)())
        (gradient,) = torch.autograd.grad(solution.u[-1].sum(), u0)
        np.testing.assert_allclose(gradient.item(), math.exp(slope), rtol=1e-6)


@pytest.mark.parametrize("name", NUMPY_POINTS)
def test_numpy_models_follow_torch(name):
    f, reference, points = NUMPY_POINTS[name]
    model = trace_function(lambda u: f(u), (4,), 0)
    assert_torchs_own(scalar_jacobians(model), reference, points)
