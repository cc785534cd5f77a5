"""Captured models: one class for each form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .scalar_graph import Scalar, ScalarGraph

if TYPE_CHECKING:
    import torch.fx


@dataclass(frozen=True, eq=False)
class ScalarModel:
    """A right-hand side as scalar operations: few states, unrolled.

    The symbols are called by their Julia text: ``u[1]`` …, ``p[1]`` … (one-based, flat, in C order) and ``t``.
    """

    graph: ScalarGraph
    u: tuple[Scalar, ...]
    p: tuple[Scalar, ...]
    t: Scalar
    rhs: tuple[Scalar, ...]


@dataclass(frozen=True)
class ArrayModel:
    """A right-hand side as ATen graphs: a torch model on arrays.

    Every graph is an ``fx.GraphModule`` in core ATen operations with static shapes (``node.meta["val"]``), and takes its inputs
    in the order named here, ``params`` being one placeholder for each entry of `param_shapes`.

    Attributes
    ----------
    f
        ``(t, u, *params) -> du``.
    param_shapes
        Shapes of the parameters; the flat parameter vector is their C-order concatenation.
    trace
        Traces a derivative when it is first wanted, by name:
        ``"vjp"``: ``(lam, t, u, *params) -> dlam``;
        ``"vjp_p"``: ``(lam, t, u, *params) -> tuple of one gradient per parameter``;
        ``"vjp_both"``: ``(lam, t, u, *params) -> (dlam, *one gradient per parameter)``;
        ``"jvp"``: ``(v, t, u, *params) -> J v``;
        ``"jvp_p"``: ``(t, u, *params, *one tangent per parameter) -> (df/dp) tangent``;
        ``"tgrad"``: ``(t, u, *params) -> df/dt``.
    """

    f: torch.fx.GraphModule
    u_shape: tuple[int, ...]
    param_shapes: tuple[tuple[int, ...], ...]
    dtype: Any
    trace: Callable[[str], torch.fx.GraphModule] = field(repr=False)


@dataclass(frozen=True)
class JuliaModel:
    """A right-hand side in Julia source: defines ``f!(du, u, p, t)``, and any of the derivatives by the same names."""

    source: str
    filename: str | None = None


@dataclass(frozen=True)
class CallbackModel:
    """A right-hand side that stays in Python and is called from the solver.

    Attributes
    ----------
    f
        ``f(u, p, t) -> du`` on NumPy arrays of the state's own shape, and flat parameters.
    vjp
        ``vjp(lam, u, p, t) -> (dlam, dp)``, or None where the model has no derivative of its own.
    jac
        ``jac(u, p, t)``, the Jacobian of shape ``(n, n)``, or None where solvers must take differences.
    """

    f: Callable[..., Any]
    vjp: Callable[..., Any] | None
    jac: Callable[..., Any] | None = None


def outputs(model: CapturedModel, n: int) -> int:
    """How many numbers the model computes, of a state of `n` entries."""
    if isinstance(model, ScalarModel):
        return len(model.rhs)
    if isinstance(model, ArrayModel):
        (out,) = (node.args[0] for node in model.f.graph.nodes if node.op == "output")
        return (out[0] if isinstance(out, (tuple, list)) else out).meta["val"].numel()
    return n


CapturedModel = ScalarModel | ArrayModel | JuliaModel | CallbackModel
