"""A captured model as a torch function on flat tensors, for the embedded engine."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import EngineUnavailable, GradientFailed, IndexOutOfRange
from ..graphs.captured_model import ArrayModel, CallbackModel, CapturedModel, JuliaModel, ScalarModel
from ..graphs.node_source import user_line

if TYPE_CHECKING:
    from ..problems.base import Problem

FlatRhs = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""``f(u, p, t) -> du`` on flat tensors, `t` a tensor without dimensions."""


def torch_rhs(problem: Problem) -> FlatRhs:
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
            from ..lowering.scalars.python_function import python_function

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


class _Locating(torch.fx.Interpreter):
    """Runs a graph and says which of the user's lines reads outside of an array."""

    def run_node(self, node: torch.fx.Node) -> object:
        try:
            return super().run_node(node)
        except (IndexError, RuntimeError) as error:
            if "out of bounds" in str(error) or "out of range" in str(error):
                raise IndexOutOfRange(str(error).splitlines()[0], where=user_line(node)) from None
            raise


def look_for_index_errors(problem: Problem, t: np.ndarray, u: np.ndarray) -> None:
    """Evaluate an array model at the last finite state of a solution that stopped, and in small steps behind it.

    Raises
    ------
    IndexOutOfRange
        If it reads outside of an array there.
    """
    model = problem.model
    if not isinstance(model, ArrayModel) or not any(n.target in _INDEXING for n in model.f.graph.nodes):
        return
    run = _Locating(model.f).run
    p = torch.as_tensor(problem.flat_p()).detach().cpu().to(model.dtype)
    params = [x.view(s) for x, s in zip(p.split([prod(s) for s in model.param_shapes]), model.param_shapes, strict=True)]
    start, end = problem.tspan
    finite = [i for i in range(len(t)) if np.isfinite(u[i]).all()]
    at, state = (t[finite[-1]], u[finite[-1]]) if finite else (start, problem.flat_u0())
    state = torch.as_tensor(np.array(state)).to(model.dtype).reshape(model.u_shape)
    with torch.no_grad():
        slope = run(torch.tensor(float(at), dtype=model.dtype), state, *params)
        for step in (end - start) * 2.0 ** np.arange(-50, -8):
            run(torch.tensor(float(at + step), dtype=model.dtype), state + step * slope, *params)


_aten = torch.ops.aten
_INDEXING = frozenset(
    {_aten.index.Tensor, _aten._unsafe_index.Tensor, _aten.index_put.default, _aten._unsafe_index_put.default, _aten.gather.default,
     _aten.scatter.src, _aten.scatter.value, _aten.scatter_add.default, _aten.take.default, _aten.put.default,
     _aten.index_select.default, _aten.index_add.default, _aten.embedding.default}
)  # fmt: skip


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
            dlam, dp = model.vjp(lam.numpy().reshape(shape), u.detach().numpy().reshape(shape), p.detach().numpy(), float(t))
            return (
                torch.from_numpy(np.ascontiguousarray(dlam).reshape(-1)).to(u.dtype),
                torch.from_numpy(np.ascontiguousarray(dp).reshape(-1)).to(u.dtype),
                None,
            )

    return Callback.apply
