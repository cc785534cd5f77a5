"""A captured model as a torch function on flat tensors: what the embedded engine integrates."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..capture.model import ArrayModel, CallbackModel, CapturedModel, JuliaModel, ScalarModel
from ..errors import EngineUnavailable, GradientFailed

if TYPE_CHECKING:
    from ..problems import ODEProblem

FlatRhs = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""``f(u, p, t) -> du`` on flat tensors, `t` a tensor without dimensions."""


def torch_rhs(problem: ODEProblem) -> FlatRhs:
    """The problem's right-hand side in torch; made once for each captured model.

    Raises
    ------
    EngineUnavailable
        If the model is Julia source.
    """
    compiled = problem.compiled
    found = compiled.get("torch")
    if found is None:
        found = compiled["torch"] = _make(problem.model, tuple(problem.u0.shape))
    return found


def _make(model: CapturedModel, shape: tuple[int, ...]) -> FlatRhs:
    match model:
        case ScalarModel():
            from ..lowering.python import python_function

            return python_function(model, "torch")
        case ArrayModel():
            return _array_rhs(model)
        case CallbackModel():
            return _callback_rhs(model, shape)
        case JuliaModel():
            raise EngineUnavailable("a model in Julia source")
    raise TypeError(f"not a captured model: {model!r}")


def _array_rhs(model: ArrayModel) -> FlatRhs:
    graph, shape = model.f, model.u_shape
    sizes = [prod(s) for s in model.param_shapes]

    def rhs(u: torch.Tensor, p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        params = [x.view(s) for x, s in zip(p.split(sizes), model.param_shapes, strict=True)]
        return graph(t, u.view(shape), *params).reshape(-1)

    return rhs


def _callback_rhs(model: CallbackModel, shape: tuple[int, ...]) -> FlatRhs:
    class Callback(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, p, t):
            ctx.save_for_backward(u, p, t)
            du = model.f(u.detach().numpy().reshape(shape), p.detach().numpy(), float(t))
            return torch.from_numpy(np.array(du, dtype=u.detach().numpy().dtype).reshape(-1))

        @staticmethod
        def backward(ctx, lam):
            if model.vjp is None:
                raise GradientFailed("callback", "the model has no vector-Jacobian product")
            u, p, t = ctx.saved_tensors
            dlam, dp = model.vjp(
                lam.numpy().reshape(shape), u.detach().numpy().reshape(shape), p.detach().numpy(), float(t)
            )
            return (
                torch.from_numpy(np.ascontiguousarray(dlam).reshape(-1)).to(u.dtype),
                torch.from_numpy(np.ascontiguousarray(dp).reshape(-1)).to(u.dtype),
                None,
            )

    return Callback.apply
