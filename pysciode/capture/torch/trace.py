"""Tracing with ``make_fx``, and what is done to every trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx
import torch.fx.traceback
from torch.fx.experimental.proxy_tensor import make_fx

from ...errors import CaptureError
from ...graphs.node_source import IN_PLACE, user_line


class quiet_torch:
    """Settings that keep a trace to ordinary operations: no fused attention or encoder kernels, nothing that torch.compile
    made (which refuses to be traced otherwise, where it could call what it was made from)."""

    def __enter__(self) -> None:
        from torch._dynamo import config

        self._config = config.patch(error_on_nested_fx_trace=False)
        self._config.__enter__()
        self._fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        self._sdpa = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        self._sdpa.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._sdpa.__exit__(*error)
        torch.backends.mha.set_fastpath_enabled(self._fastpath)
        self._config.__exit__(*error)


def make_graph(f: Callable[..., Any], inputs: Sequence[torch.Tensor], **options: Any) -> torch.fx.GraphModule:
    graph = make_fx(f, tracing_mode="fake", _allow_non_fake_inputs=True, **options)(*inputs)
    drop_unused(graph)
    return graph


def pure(graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    """`graph` without in-place operations: assignments to slices become functions of the whole.

    Raises
    ------
    CaptureError
        If what is changed is a tensor of the model itself.
    """
    changing = next((node for node in graph.graph.nodes if mutates(node)), None)
    if changing is None:
        return graph
    try:
        return make_graph(torch.func.functionalize(replay(graph)), inputs)
    except RuntimeError as error:
        if "functional tensor" not in str(error):
            raise
        raise CaptureError(IN_PLACE, operation=str(changing.target), where=user_line(changing)) from error


def drop_unused(graph: torch.fx.GraphModule) -> None:
    for node in reversed(graph.graph.nodes):
        # Tracing leaves checks behind that count as impure; mutations, which must stay, are seen by their schema.
        if node.op in ("call_function", "get_attr") and not node.users and not mutates(node):
            graph.graph.erase_node(node)


def mutates(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def replay(graph: torch.fx.GraphModule) -> Callable[..., torch.Tensor]:
    """`graph` as a function that passes its source lines on to the next trace."""

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.fx.traceback.preserve_node_meta():
            return torch.fx.Interpreter(graph).run(*inputs)

    return run
