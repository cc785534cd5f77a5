"""Torch operations and layers that capture and lowering must know, as functions of a state of shape (3, 4) or as stated."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Operation = Callable[[torch.Tensor], torch.Tensor]


def _assigned(x):
    du = torch.zeros_like(x)
    du[:, 0] = x[:, 1]
    du[:, 1] = -x[:, 0] * 2
    du[1:, 2:] = x[1:, 2:] ** 2
    du[0] += 1.0
    return du


def _masked(x):
    y = x.clone()
    y[y > 0.3] = 0.3
    return y * x


POINTWISE: dict[str, Operation] = {
    "arithmetic": lambda x: (2 * x - 1) / (x * x + 3) - x,
    "alpha": lambda x: torch.add(x, x * x, alpha=0.5) + torch.rsub(x, 2.0),
    "exp": torch.exp, "exp2": torch.exp2, "expm1": torch.expm1, "reciprocal": lambda x: torch.reciprocal(x * x + 1),
    "log": lambda x: torch.log(x * x + 1), "log2": lambda x: torch.log2(x * x + 1),
    "log10": lambda x: torch.log10(x * x + 1), "log1p": lambda x: torch.log1p(x * x),
    "sqrt": lambda x: torch.sqrt(x * x + 0.1), "rsqrt": lambda x: torch.rsqrt(x * x + 0.1),
    "sin": torch.sin, "cos": torch.cos, "tan": lambda x: torch.tan(0.3 * x), "atan": torch.atan,
    "asin": lambda x: torch.asin(0.9 * torch.tanh(x)), "acos": lambda x: torch.acos(0.9 * torch.tanh(x)),
    "sinh": torch.sinh, "cosh": torch.cosh, "tanh": torch.tanh, "asinh": torch.asinh,
    "acosh": lambda x: torch.acosh(x * x + 1.5), "atanh": lambda x: torch.atanh(0.9 * torch.tanh(x)),
    "atan2": lambda x: torch.atan2(x, x * x + 1), "hypot": lambda x: torch.hypot(x, x + 1),
    "erf": torch.erf, "erfc": torch.erfc, "erfinv": lambda x: torch.erfinv(0.9 * torch.tanh(x)),
    "lgamma": lambda x: torch.lgamma(x * x + 1), "digamma": lambda x: torch.digamma(x * x + 1),
    "abs": torch.abs, "sign": lambda x: x * torch.sign(x), "floor": lambda x: x * torch.floor(x),
    "ceil": lambda x: x * torch.ceil(x), "round": lambda x: x * torch.round(x), "trunc": lambda x: x - torch.trunc(x),
    "frac": torch.frac, "fmod": lambda x: torch.fmod(x, 0.7), "remainder": lambda x: torch.remainder(x, 0.7),
    "floor_divide": lambda x: torch.div(x, 0.3, rounding_mode="floor") * x, "copysign": lambda x: torch.copysign(x * x, x),
    "cube": lambda x: x**3, "negative_power": lambda x: (x * x + 1) ** -2, "real_power": lambda x: (x * x + 0.1) ** 2.5,
    "tensor_power": lambda x: torch.pow(x * x + 1, x), "scalar_power": lambda x: 2.0**x,
    "clamp": lambda x: torch.clamp(x, -0.5, 0.5), "clamp_min": lambda x: x.clamp(min=0.1),
    "maximum": lambda x: torch.maximum(x, -x * x) + torch.minimum(x, x * x),
    "fmax": lambda x: torch.fmax(x, -x * x) + torch.fmin(x, x * x),
    "where": lambda x: torch.where(x > 0.2, x * x, -x), "masked_fill": lambda x: x.masked_fill(x > 0, 0.5) * x,
    "logical": lambda x: torch.where((x > 0) & (x < 1) | ~(x < 2), x, 2 * x),
    "comparison": lambda x: (x > 0) * x + (x <= 0).to(x.dtype) * 2 + (x != 0) * 1.0,
    "isfinite": lambda x: torch.where(torch.isfinite(x), x, 0 * x), "nan_to_num": torch.nan_to_num,
    "sigmoid": torch.sigmoid, "logit": lambda x: torch.logit(torch.sigmoid(x)), "sinc": torch.sinc,
    "logaddexp": lambda x: torch.logaddexp(x, -x), "xlogy": lambda x: torch.xlogy(x, x * x + 1),
    "lerp": lambda x: torch.lerp(x, x * x, 0.3), "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x, x * x + 1, value=0.5), "ndtr": torch.special.ndtr,
}  # fmt: skip

ACTIVATIONS: dict[str, Operation] = {
    type(layer).__name__ + suffix: layer
    for layer, suffix in [
        (nn.ReLU(), ""), (nn.ReLU6(), ""), (nn.ELU(), ""), (nn.CELU(), ""), (nn.SELU(), ""), (nn.GELU(), ""),
        (nn.GELU("tanh"), "_tanh"), (nn.SiLU(), ""), (nn.Mish(), ""), (nn.Softplus(), ""),
        (nn.Softplus(beta=2.0, threshold=1.0), "_linear"), (nn.Softsign(), ""), (nn.Tanh(), ""), (nn.Tanhshrink(), ""),
        (nn.Hardtanh(), ""), (nn.Hardshrink(), ""), (nn.Softshrink(), ""), (nn.Hardsigmoid(), ""), (nn.Hardswish(), ""),
        (nn.LeakyReLU(), ""), (nn.LogSigmoid(), ""), (nn.RReLU().eval(), ""), (nn.Sigmoid(), ""),
        (nn.Threshold(0.1, 0.5), ""), (nn.Softmax(-1), ""), (nn.LogSoftmax(-1), ""), (nn.Softmin(-1), ""),
        (nn.Softmax(0), "_first"),
    ]
}  # fmt: skip

REDUCTIONS: dict[str, Operation] = {
    "sum": lambda x: x - x.sum(), "sum_first": lambda x: x * x.sum(0), "sum_last": lambda x: x * x.sum(1, keepdim=True),
    "mean": lambda x: x * x.mean(0) - x.mean(), "prod": lambda x: x * x.prod(1, keepdim=True) + x.prod(),
    "amax": lambda x: x * x.amax(1, keepdim=True), "amin": lambda x: x * x.amin(0), "max": lambda x: x * x.max(),
    "max_dim": lambda x: x * x.max(1, keepdim=True)[0] + x.min(0)[0],
    "argmax": lambda x: x * x.argmax(1, keepdim=True) + x.argmin(),
    "any_all": lambda x: torch.where((x > 0).any(1, keepdim=True), x, 2 * x) * (1 + 2 * (x > -1).all()),
    "var": lambda x: x * x.var(1, keepdim=True), "std": lambda x: x / (1 + x.std(0)),
    "var_mean": lambda x: (x - x.mean(1, keepdim=True)) / torch.var_mean(x, 1, keepdim=True, correction=0)[0].sqrt(),
    "cumsum": lambda x: x.cumsum(1), "cumprod": lambda x: x.cumprod(0), "norm": lambda x: x / (1 + x.norm()),
    "norms": lambda x: x / (1 + x.norm(p=1, dim=1, keepdim=True) + torch.linalg.vector_norm(x, 3, dim=0)),
    "norm_inf": lambda x: x / (1 + torch.linalg.vector_norm(x, float("inf"))), "normalize": lambda x: F.normalize(x, dim=1),
    "logsumexp": lambda x: x - torch.logsumexp(x, 1, keepdim=True), "count": lambda x: x * torch.count_nonzero(x > 0),
    "cosine": lambda x: x * F.cosine_similarity(x, x.flip(0) + 1, dim=1)[:, None],
    "distances": lambda x: x * ((x[:, None] - x[None]) ** 2).sum(-1).add(1).sqrt().sum(1, keepdim=True),
    "trapezoid": lambda x: x * torch.trapezoid(x, dim=1)[:, None], "trace": lambda x: x * torch.trace(x @ x.T),
}  # fmt: skip

STRUCTURE: dict[str, Operation] = {
    "cat": lambda x: torch.cat([x[:, :2] * 2, x[:, 2:].sin()], 1),
    "stack": lambda x: torch.stack([x[:, i] * x[:, (i + 1) % 4] for i in range(4)], 1),
    "split": lambda x: torch.cat([a * b for a, b in zip(x.split(2, 1), x.split(2, 1)[::-1], strict=True)], 1),
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), "select": lambda x: x * x[0] + x[:, 1:2],
    "slice": lambda x: F.pad(x[:, 1:-1] * 2, (1, 1)), "step": lambda x: x + x[:, ::2].repeat(1, 2),
    "index": lambda x: x[:, [3, 1, 0, 2]] * x[torch.tensor([2, 0, 1])] * x[[0, 0, -1]],
    "pairs": lambda x: x * x[[0, 1, 2], [3, 2, 1]][:, None], "take": lambda x: x * torch.take(x, torch.tensor([0, 5, 7, 2])),
    "gather": lambda x: torch.gather(x, 1, torch.tensor([[0, 1, 3, 2]] * 3)),
    "computed_index": lambda x: torch.gather(x, 1, (x > 0).long()),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(1, torch.tensor([[0, 1, 1, 2]] * 3), x),
    "scatter": lambda x: (x * 2).scatter(1, torch.tensor([[0, 1], [2, 3], [1, 0]]), x[:, :2].sin()),
    "index_put": lambda x: torch.index_put(x, (torch.tensor([0, 2]),), x[:2] * 2),
    "index_add": lambda x: x.index_add(0, torch.tensor([0, 2, 0]), x),
    "permute": lambda x: (x.T.reshape(4, 3) * 2).permute(1, 0), "reshape": lambda x: x.reshape(2, 6).sin().reshape(3, 4),
    "reshape_transposed": lambda x: x.t().reshape(3, 4) * x, "expand": lambda x: x[:1].expand(3, 4) * x,
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1) * 2, "flip": lambda x: x.flip(1) * x,
    "laplacian": lambda x: torch.roll(x, 1, 1) - 2 * x + torch.roll(x, -1, 1), "roll": lambda x: torch.roll(x, (1, 2), (0, 1)),
    "roll_flat": lambda x: torch.roll(x, 3), "repeat": lambda x: x.repeat(2, 1)[:3] + x.repeat_interleave(2, 1)[:, :4],
    "triangles": lambda x: x.tril() + 2 * x.triu(1), "diagonal": lambda x: x * torch.diagonal(x).sum(),
    "diag": lambda x: torch.diag(x[0])[:3] * x + torch.diag_embed(x[1])[:3],
    "pad": lambda x: F.pad(x, (1, 1, 0, 0), value=1.0)[:, 1:-1] * x,
    "pad_modes": lambda x: sum(F.pad(x[None], (1, 1), mode=m)[0][:, 2:] * x for m in ("reflect", "replicate", "circular")),
    "unfold": lambda x: x * x.unfold(1, 2, 1).sum((1, 2))[:, None],
    "meshgrid": lambda x: x + torch.meshgrid(x[:, 0], x[0], indexing="ij")[0] + torch.outer(x[:, 0], x[0]),
    "unbind": lambda x: torch.stack([row * 2 for row in x.unbind(0)]), "movedim": lambda x: x.movedim(0, 1).mT * 2,
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x) @ x, "mm": lambda x: x @ x.T @ x,
    "bmm": lambda x: torch.bmm(x.reshape(2, 2, 3), x.reshape(2, 3, 2)).sum() * x,
    "matmul4": lambda x: (x.reshape(1, 3, 2, 2) @ x.reshape(1, 3, 2, 2)).reshape(3, 4), "mv": lambda x: (x @ x[0])[:, None] * x,
    "dot": lambda x: torch.dot(x[0], x[1]) * x, "addmm": lambda x: torch.addmm(x, x, x.T @ x, beta=0.5, alpha=2.0),
    "tensordot": lambda x: torch.tensordot(x, x, ([1], [1])) @ x, "kron": lambda x: torch.kron(x[:1, :2], x[:, :2]),
    "cross": lambda x: torch.linalg.cross(x.T, x.T.roll(1, 0)).T, "arange": lambda x: x * torch.arange(4),
    "eye": lambda x: x @ torch.eye(4, dtype=x.dtype) * 2, "full": lambda x: x + torch.full_like(x, 2.0),
    "assigned": _assigned, "masked_assignment": _masked, "power": lambda x: torch.linalg.matrix_power(x[:, :3], 3) @ x,
}  # fmt: skip


class Rhs(nn.Module):
    """``du = f(u, t, *layers)``."""

    def __init__(self, f: Callable[..., torch.Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.f = f

    def forward(self, t, u):
        return self.f(u, t, *self.layers)


def _batch_norm() -> nn.Module:
    layer = nn.BatchNorm1d(4).eval()
    layer.running_mean.uniform_()
    layer.running_var.uniform_(0.5, 2)
    return layer


def _hamiltonian(u, t, a, b):
    with torch.enable_grad():
        x = u if u.requires_grad else u.detach().requires_grad_()
        energy = b(torch.tanh(a(x))).sum()
        gradient = torch.autograd.grad(energy, x, create_graph=True)[0]
    return gradient @ torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=u.dtype)


def _interpolated(u, t):
    """A forcing given at knots: the index depends on the time."""
    knots, values = torch.linspace(0, 1, 11, dtype=u.dtype), torch.arange(44.0, dtype=u.dtype).reshape(11, 4).sin()
    i = torch.searchsorted(knots, t).clamp(1, 10)
    weight = (t - knots[i - 1]) / (knots[i] - knots[i - 1])
    return u * (values[i - 1] * (1 - weight) + values[i] * weight)


def _divergence(u, t, a, b):
    """A continuous normalizing flow with the exact trace."""

    def field(x):
        return b(torch.tanh(a(x)))

    x = u[:, :2]
    trace = torch.vmap(lambda x: torch.trace(torch.func.jacrev(field)(x)))(x)
    return torch.cat([field(x), -trace[:, None]], 1)


# name -> (function of state, time and layers; shape; layers), built anew for each test: layers are converted in place
LAYERS: dict[str, Callable[[], tuple]] = {
    "mlp": lambda: (lambda u, t, a, b: b(torch.tanh(a(u**3))), (20, 2), nn.Linear(2, 50), nn.Linear(50, 2)),
    "mlp_deep": lambda: (lambda u, t, a, b, c: c(F.silu(b(torch.tanh(a(u))))), (8, 4),
                         nn.Linear(4, 40), nn.Linear(40, 40), nn.Linear(40, 4)),
    "mlp_wide": lambda: (lambda u, t, a, b: b(F.softplus(a(u))), (32, 4), nn.Linear(4, 200), nn.Linear(200, 4)),
    "mlp_vector_time": lambda: (lambda u, t, a, b: b(torch.tanh(a(torch.cat([u, t[None]])))), (4,),
                                nn.Linear(5, 16), nn.Linear(16, 4)),
    "tied": lambda: (lambda u, t, a: a(torch.tanh(a(u))), (3, 4), nn.Linear(4, 4)),
    "prelu_glu": lambda: (lambda u, t, a, b: b(F.glu(a(u))), (3, 4), nn.Linear(4, 8), nn.PReLU()),
    "layer_norm": lambda: (lambda u, t, a, n: n(a(u)), (3, 4), nn.Linear(4, 4), nn.LayerNorm(4)),
    "group_norm": lambda: (lambda u, t, n: n(u), (2, 4, 3), nn.GroupNorm(2, 4)),
    "batch_norm": lambda: (lambda u, t, n: n(u), (3, 4), _batch_norm()),
    "dropout": lambda: (lambda u, t, n: n(u) * u, (3, 4), nn.Dropout(0.5)),
    "conv1d": lambda: (lambda u, t, c: torch.tanh(c(u)), (1, 2, 6), nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular")),
    "conv2d": lambda: (lambda u, t, c, d: d(torch.tanh(c(u))), (2, 2, 4, 4),
                       nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 1, bias=False)),
    "conv2d_options": lambda: (lambda u, t, c, d: d(c(u)), (1, 4, 5, 5),
                               nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2), nn.Conv2d(4, 4, 3, padding=1, groups=4)),
    "conv_transposed": lambda: (lambda u, t, c, d: d(c(u)), (1, 2, 4, 4),
                                nn.Conv2d(2, 3, 2, stride=2), nn.ConvTranspose2d(3, 2, 2, stride=2)),
    "conv1d_transposed": lambda: (lambda u, t, c, d: d(c(u)), (1, 2, 6),
                                  nn.Conv1d(2, 3, 4, stride=2, padding=1), nn.ConvTranspose1d(3, 2, 4, stride=2, padding=1)),
    "avg_pool": lambda: (lambda u, t, c, d: F.interpolate(c(u), scale_factor=2.0) * d(u), (1, 2, 4, 4),
                         nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
    "max_pool": lambda: (lambda u, t, c: c(u) * u, (1, 2, 4, 4), nn.MaxPool2d(3, 1, 1)),
    "max_pool1d": lambda: (lambda u, t, c: c(u) * u, (1, 2, 6), nn.MaxPool1d(3, 1, 1)),
    "adaptive_pool": lambda: (lambda u, t, c, d: c(u).mean() * u + d(u).mean(), (1, 2, 4, 4),
                              nn.AdaptiveAvgPool2d((3, 2)), nn.AdaptiveMaxPool2d((2, 3))),
    "bilinear_resize": lambda: (lambda u, t: F.interpolate(u[:, :, :2, :2], scale_factor=2.0, mode="bilinear"), (1, 2, 4, 4)),
    "embedding": lambda: (lambda u, t, e: u * e(torch.tensor([0, 2, 1])), (3, 4), nn.Embedding(5, 4, padding_idx=2)),
    "gru_cell": lambda: (lambda u, t, c: c(u, u.tanh()) - u, (3, 4), nn.GRUCell(4, 4)),
    "lstm_cell": lambda: (lambda u, t, c: torch.cat(c(u[:, :2], (u[:, :2], u[:, 2:])), 1), (3, 4), nn.LSTMCell(2, 2)),
    "rnn_cell": lambda: (lambda u, t, c: c(u, u), (3, 4), nn.RNNCell(4, 4)),
    "gru": lambda: (lambda u, t, c: c(u)[0], (3, 2, 4), nn.GRU(4, 4)),
    "attention": lambda: (lambda u, t: F.scaled_dot_product_attention(u, u * 2, u.sin(), is_causal=True), (1, 2, 3, 4)),
    "multihead": lambda: (lambda u, t, m: m(u, u, u)[0], (3, 2, 4), nn.MultiheadAttention(4, 2)),
    "encoder": lambda: (lambda u, t, m: m(u), (2, 3, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
    "bilinear": lambda: (lambda u, t, m: m(u, u), (3, 4), nn.Bilinear(4, 4, 4)),
    "hamiltonian": lambda: (_hamiltonian, (3, 2), nn.Linear(2, 8), nn.Linear(8, 1)),
    "functional_grad": lambda: (lambda u, t, a, b: torch.func.grad(lambda x: b(torch.tanh(a(x))).sum())(u), (3, 2),
                                nn.Linear(2, 8), nn.Linear(8, 1)),
    "interpolation": lambda: (_interpolated, (3, 4)),
    "linear_system": lambda: (lambda u, t: torch.linalg.solve(torch.eye(3, dtype=u.dtype) + u @ u.T, u), (3, 4)),
    "linear_systems": lambda: (lambda u, t: torch.linalg.solve(u + 3 * torch.eye(3, dtype=u.dtype), u[..., 0]).unsqueeze(-1) * u,
                               (2, 3, 3)),
    "inverse": lambda: (lambda u, t: torch.linalg.inv(u + 2 * torch.eye(3, dtype=u.dtype)) @ u * torch.linalg.det(u), (3, 3)),
    "vmap": lambda: (lambda u, t, a: torch.vmap(lambda x: torch.tanh(a(x)))(u), (3, 4), nn.Linear(4, 4)),
    "divergence": lambda: (_divergence, (3, 3), nn.Linear(2, 8), nn.Linear(8, 2)),
    "number": lambda: (lambda u, t: -u * t, ()),
    "constant": lambda: (lambda u, t: torch.zeros(3, dtype=u.dtype), (3,)),
}  # fmt: skip
