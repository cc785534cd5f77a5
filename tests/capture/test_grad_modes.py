"""Where a model stops gradients, or makes them itself, they are torch's own, or the capture is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

import pysciode as ps

F64 = torch.float64
STEP = 0.125


class Softplus(torch.autograd.Function):
    """Of the old style, with a context."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.log1p(torch.exp(x))

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.sigmoid(*ctx.saved_tensors)


class Reversed(torch.autograd.Function):
    """Of the new style: a gradient that is not that of its ``forward``."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return -grad


@torch.library.custom_op("pysciode_tests::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    return x**3


cube.register_fake(torch.empty_like)
cube.register_autograd(
    lambda ctx, grad: grad * 3 * ctx.saved_tensors[0] ** 2,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)


def within_no_grad(u, p, t):
    with torch.no_grad():
        scale = p * u
    return -scale * u + p


def by_a_decorator(u, p, t):
    @torch.no_grad()
    def scale(x):
        return x.sin() + p

    return u * scale(u)


def within_inference_mode(u, p, t):
    with torch.inference_mode():
        scale = (p * p).clone()
    return -u * p * scale.clone()


def with_gradients_set_off(u, p, t):
    with torch.set_grad_enabled(False):
        scale = u.exp() * p
    return u.cos() * scale + p


def with_gradients_on_again(u, p, t):
    with torch.no_grad():
        lost = u * p
        with torch.enable_grad():
            kept = u.sin() * p
    return kept - lost


def detached(u, p, t):
    return u * p.detach() + (u * p).detach() - u**2


def by_data(u, p, t):
    return u.data * p + u.sin() * (p * u).data


def detached_in_place(u, p, t):
    scale = (u * p).clone().detach_()
    return u * scale + p


def requiring_no_gradient(u, p, t):
    scale = (u * p).detach().requires_grad_(False)
    return u * scale


def straight_through(u, p, t):
    x = u * p
    return x + (x.round() - x).detach()


def detached_and_changed(u, p, t):
    x = (u * p).detach()
    x = x * 2
    x[0] = 1.0
    return x * u


def checkpointed(u, p, t):
    return checkpoint(lambda u, p: softplus(u * p), u, p, use_reentrant=False)


def differentiated_inside(u, p, t):
    return torch.func.grad(lambda u: (u.sin() * p).sum())(u) + p


def differentiated_and_detached_inside(u, p, t):
    return torch.func.grad(lambda u: (u.sin() * p * u.detach()).sum())(u) + p


def checkpointed_with_reentry(u, p, t):
    return checkpoint(lambda u, p: softplus(u * p), u, p, use_reentrant=True)


def an_old_function(u, p, t):
    return Softplus.apply(u * p)


def a_new_function(u, p, t):
    return Reversed.apply(u * p)


def a_function_within_a_function_of_torch(u, p, t):
    return torch.vmap(lambda x: x * 2)(Softplus.apply(u)) * p


def a_function_of_a_parameter(u, p, t):
    return u * Reversed.apply(p)


class Identity(torch.autograd.Function):
    """Of which a trace holds nothing at all."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return -grad


def a_function_that_does_nothing(u, p, t):
    return Identity.apply(u) * p


def a_function_in_no_grad(u, p, t):
    with torch.no_grad():
        scale = Softplus.apply(p)
    return u * scale


def a_hook(u, p, t):
    x = u * p
    if x.requires_grad:
        x.register_hook(lambda grad: 2 * grad)
    return x.sin()


class Hooked(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Softplus()
        self.inner.register_full_backward_hook(lambda module, inputs, outputs: (3 * inputs[0],))

    def forward(self, u, p, t):
        return self.inner(u * p)


def an_operation_of_the_users(u, p, t):
    return cube(u * p)


RIGHT = [
    within_no_grad, by_a_decorator, within_inference_mode, with_gradients_set_off, with_gradients_on_again, detached, by_data,
    requiring_no_gradient, straight_through, detached_and_changed, checkpointed, a_function_in_no_grad, differentiated_inside, differentiated_and_detached_inside,
]  # fmt: skip
REFUSED = {
    checkpointed_with_reentry: "use_reentrant=False",
    an_old_function: "Softplus",
    a_new_function: "Reversed",
    a_function_within_a_function_of_torch: "Softplus",
    a_function_of_a_parameter: "Reversed",
    a_function_that_does_nothing: "Identity",
    detached_in_place: "detach_",
    a_hook: "hook on the gradient",
    Hooked(): "backward hook of a module",
    an_operation_of_the_users: "pysciode_tests",
}


def inputs():
    return [torch.tensor(x, dtype=F64, requires_grad=True) for x in ([0.3, 0.6], [1.1, 0.7])]


def by_hand(f):
    """Four steps of Euler's method in torch, and the gradients of a sum of squares."""
    u0, p = inputs()
    u = u0
    for i in range(4):
        u = u + STEP * f(u, p, torch.tensor(i * STEP, dtype=F64))
    grads = torch.autograd.grad((u**2).sum(), (u0, p), allow_unused=True)
    return u, [torch.zeros(2, dtype=F64) if g is None else g for g in grads]


def solved(f, engine, capture="auto", **options):
    u0, p = inputs()
    problem = ps.ODEProblem(f, u0, (0.0, 4 * STEP), p, capture=capture)
    u = ps.solve(problem, ps.Euler(), dt=STEP, adaptive=False, engine=engine, **options).u[-1]
    return u, torch.autograd.grad((u**2).sum(), (u0, p))


@pytest.mark.slow
@pytest.mark.parametrize("f", RIGHT, ids=lambda f: f.__name__)
@pytest.mark.parametrize("sensealg", [None, ps.ReverseDiffAdjoint()], ids=str)
def test_gradients_stop_where_torch_stops_them(engine, f, sensealg):
    # Forward mode and the reverse through the steps: both differentiate the discrete solution, as torch does here.
    u, grads = solved(f, engine, sensealg=sensealg)
    expected, expected_grads = by_hand(f)
    torch.testing.assert_close(u, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("f", RIGHT, ids=lambda f: f.__name__)
def test_generated_products_stop_there_too(f):
    from pysciode.capture.torch.array_capture import capture_torch

    u, p = inputs()
    model = capture_torch(f, u.detach(), p.detach())
    t, cotangent, direction = torch.tensor(0.5, dtype=F64), torch.tensor([0.4, -1.3], dtype=F64), torch.tensor([-0.2, 0.9], dtype=F64)
    expected = torch.autograd.grad(f(u, p, t), (u, p), cotangent, allow_unused=True)
    expected = [torch.zeros(2, dtype=F64) if g is None else g for g in expected]
    found = model.trace("vjp_both")(cotangent, t, u.detach(), p.detach())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    # The product from the right is the same matrix.
    jvp = model.trace("jvp")(direction, t, u.detach(), p.detach())
    torch.testing.assert_close((cotangent * jvp).sum(), (expected[0] * direction).sum(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("f", REFUSED, ids=lambda f: getattr(f, "__name__", "a_hooked_module"))
def test_what_a_trace_does_not_see_is_refused_by_name(f):
    u, p = inputs()
    with pytest.raises(ps.CaptureError, match=REFUSED[f]) as caught:
        ps.ODEProblem(f, u, (0.0, 1.0), p).model
    assert "capture='callback'" in str(caught.value) or f is detached_in_place


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pysciode.CallbackWarning")
@pytest.mark.parametrize(
    "f", [f for f in REFUSED if f is not checkpointed_with_reentry], ids=lambda f: getattr(f, "__name__", "a_hooked_module")
)
def test_models_left_in_python_keep_their_gradients(julia_engine, f):
    u0, p = inputs()
    problem = ps.ODEProblem(f, u0, (0.0, 0.5), p, capture="callback")
    u = ps.solve(problem, ps.Tsit5(), rtol=1e-9, atol=1e-11, engine=julia_engine).u[-1]
    grads = torch.autograd.grad((u**2).sum(), (u0, p))
    # The limit of small steps.
    v0, q = inputs()
    v, n = v0, 200
    for i in range(n):
        h, t = 0.5 / n, torch.tensor(0.5 * i / n, dtype=F64)
        k1 = f(v, q, t)
        k2 = f(v + h / 2 * k1, q, t + h / 2)
        v = v + h * k2
    expected = torch.autograd.grad((v**2).sum(), (v0, q), allow_unused=True)
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-4, atol=1e-6)
