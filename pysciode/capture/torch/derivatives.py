"""Derivatives of a traced model, as further traces."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx

from ...errors import CaptureError
from ..fresh_thread import apart
from .trace import drop_unused, make_graph, pure, quiet_torch, replay


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Torch's decompositions for every operation that the table does not know."""
    from torch._decomp import core_aten_decompositions, decomposition_table

    from ...lowering.ops.interpreter import ROWS

    table = {**decomposition_table, **core_aten_decompositions()}
    return {op: rule for op, rule in table.items() if op not in ROWS}


def decomposed(graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    from ...lowering.ops.interpreter import ROWS

    targets = {n.target for n in graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload)}
    if targets <= ROWS.keys():
        return graph
    return pure(make_graph(replay(graph), inputs, decomposition_table=_decompositions()), inputs)


# At ties and poles, torch's forward derivative of these is not that of its backward pass, which everybody knows.
_ANOTHER_FORWARD_DERIVATIVE = {torch.ops.aten.clamp.Tensor, torch.ops.aten.atan2.default}


class Derivatives:
    """``ArrayModel.trace``: derivatives of a graph ``(t, u, *params) -> du``, traced when first asked for."""

    def __init__(self, graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
        self._graph = graph
        self._inputs = tuple(inputs)
        self._known: dict[str, torch.fx.GraphModule] = {}

    def __call__(self, name: str) -> torch.fx.GraphModule:
        if name not in self._known:
            self._known[name] = apart(lambda: self._trace(name))
        return self._known[name]

    def _trace(self, name: str) -> torch.fx.GraphModule:
        if name in ("vjp", "vjp_p"):
            # A part of what gives both: no second trace is needed.
            both = self("vjp_both")
            return _with_outputs(both, lambda out: out[0] if name == "vjp" else out[1:])
        error: Exception | None = None
        ways = [torch.func.jvp, _jvp_by_transposition]
        if any(node.target in _ANOTHER_FORWARD_DERIVATIVE for node in self._graph.graph.nodes):
            ways.reverse()
        for jvp in ways:
            function, inputs = self._function(name, jvp)
            try:
                with quiet_torch():
                    return pure(make_graph(function, inputs, decomposition_table=_decompositions()), inputs)
            except Exception as caught:
                # Some operations lack a forward derivative; the transpose of the backward one is the same.
                error = error or caught
        reason = str(error).strip().splitlines()[0]
        raise CaptureError(f"torch can't trace the model's {name}: {reason}", operation=name) from error

    def _function(self, name: str, jvp: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[torch.Tensor, ...]]:
        g, inputs = replay(self._graph), self._inputs
        # Tracing knows its inputs by identity: each must be a tensor of its own.
        u = torch.zeros_like(inputs[1])
        vjp = torch.func.vjp
        match name:
            case "vjp_both":
                return lambda lam, t, u, *ps: vjp(lambda u, *ps: g(t, u, *ps), u, *ps)[1](lam), (u, *inputs)
            case "jvp":
                return lambda v, t, u, *ps: jvp(lambda u: g(t, u, *ps), (u,), (v,))[1], (u, *inputs)
            case "jvp_p":
                n = len(inputs) - 2
                return (
                    lambda t, u, *x: jvp(lambda *ps: g(t, u, *ps), x[:n], x[n:])[1],
                    (*inputs, *(torch.zeros_like(x) for x in inputs[2:])),
                )
            case "tgrad":
                return lambda t, u, *ps: jvp(lambda t: g(t, u, *ps), (t,), (torch.ones_like(t),))[1], inputs
        raise ValueError(f"unknown derivative {name!r}")


def _with_outputs(graph: torch.fx.GraphModule, pick: Callable[[Any], Any]) -> torch.fx.GraphModule:
    """A copy of `graph` that computes a part of its outputs."""
    nodes = torch.fx.Graph()
    out = nodes.graph_copy(graph.graph, {})
    nodes.output(pick(out))
    part = torch.fx.GraphModule(graph, nodes)
    drop_unused(part)
    part.recompile()
    return part


def _jvp_by_transposition(
    f: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], tangents: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """``torch.func.jvp`` as the transpose of the linear map that ``torch.func.vjp`` is."""
    out, pullback = torch.func.vjp(f, *inputs)[:2]
    return out, torch.func.vjp(pullback, torch.zeros_like(out))[1](tuple(tangents))[0]
