"""Walks an ATen graph and hands each node to its row of the table, for one of the backends."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
from torch.fx.node import map_arg

from ...errors import CaptureError
from ...graphs.node_source import user_line

# Each module enters its rows.
from . import convolution_ops, indexing_ops, pointwise_ops, product_ops, reduction_ops, resampling_ops, view_ops  # noqa: F401
from .backend import A, Array, Backend, kind_of
from .table import ROWS


def interpret(graph: torch.fx.GraphModule, backend: Backend[Any], inputs: Sequence[A]) -> list[A]:
    """The outputs of `graph`, as arrays of `backend`."""
    remaining = iter(inputs)
    env: dict[torch.fx.Node, Any] = {}
    for node in graph.graph.nodes:
        backend.node = node
        if node.op == "placeholder":
            env[node] = next(remaining)
        elif node.op == "get_attr":
            env[node] = getattr(graph, str(node.target)).detach()
        elif node.op == "output":
            out: Any = map_arg(node.args[0], lambda n: env[n])
            outputs = out if isinstance(out, (tuple, list)) else [out]
            return [_lift(backend, x) for x in outputs]
        else:
            value = env[node] = _call(node, backend, env, ROWS)
            if isinstance(value, Array) and len(node.users) > 1:
                backend.shared(value)
    raise AssertionError("a graph without output")


def _call(node: torch.fx.Node, backend: Backend[Any], env: dict, rows: dict) -> Any:
    args: Any = map_arg(node.args, lambda n: env[n])
    kwargs: Any = map_arg(node.kwargs, lambda n: env[n])
    if node.target is operator.getitem:
        return args[0][args[1]]
    symbolic = []
    map_arg((node.args, node.kwargs), lambda n: symbolic.append(_is_symbolic(env[n])))
    if not any(symbolic):
        # Nothing here depends on an input: a constant of the model.
        with torch.no_grad():
            operation: Any = node.target
            return operation(*args, **kwargs)
    row = rows.get(node.target)
    if row is None:
        raise CaptureError(f"the operation {node.target} has no translation", operation=str(node.target), where=user_line(node))
    args, kwargs = _lift(backend, args), {k: _lift(backend, v) for k, v in kwargs.items()}
    try:
        return row(backend, *args, **kwargs)
    except NotImplementedError as error:
        raise CaptureError(f"{node.target}: {error}", operation=str(node.target), where=user_line(node)) from error


def _is_symbolic(x: Any) -> bool:
    return isinstance(x, Array) or isinstance(x, (list, tuple)) and any(map(_is_symbolic, x))


def _lift(backend: Backend, x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return _constant(backend, x)
    if isinstance(x, (list, tuple)):
        return type(x)(_lift(backend, y) for y in x)
    return x


def _constant(backend: Backend[Any], value: torch.Tensor) -> Any:
    if value._is_zerotensor():
        return backend.full(tuple(value.shape), 0.0, kind_of(value.dtype))
    value = value.detach().cpu()
    if value.numel() and (value.numel() == 1 or bool((value == value.reshape(-1)[0]).all())):
        out = backend.full(tuple(value.shape), value.reshape(-1)[0].item(), kind_of(value.dtype))
    else:
        out = backend.constant(value)
    if kind_of(value.dtype) == "int":
        out.bounds = (int(value.min()), int(value.max())) if value.numel() else (0, -1)
    return out
