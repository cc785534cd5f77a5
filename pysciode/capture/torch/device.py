"""Traces made on a device, as traces in main memory: from there on, a model is the same wherever its tensors lie."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
import torch.utils._pytree as pytree

_CPU = torch.device("cpu")


def move_to_main_memory(graph: torch.fx.GraphModule) -> None:
    """Have `graph` hold and make its tensors in main memory; it is changed in place."""
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = getattr(graph, str(node.target))
            if isinstance(value, torch.Tensor) and value.device != _CPU:
                setattr(graph, str(node.target), value.detach().cpu())
        node.args, node.kwargs = pytree.tree_map(_moved, (node.args, node.kwargs))
    graph.recompile()


def _moved(x: Any) -> Any:
    return _CPU if isinstance(x, torch.device) and x.type != "meta" else x
