"""Torch models -> ATen graphs.

A model is traced once with fake tensors (``make_fx``): no arithmetic is done, and whatever would need a value (a branch on a
tensor, ``.item()``, ``.numpy()``) is seen at once.  Tensors that the function reaches without taking them as arguments turn up in
the trace as constants that keep their identity, so that the parameters among them can be lifted into arguments wherever
they came from: closures, globals, attributes or containers.  The derivatives are traced from that graph, not from the user's
function again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.fx
import torch.fx.traceback
import torch.utils._pytree as pytree

from ...errors import CaptureError
from ...graphs.captured_model import ArrayModel
from ...graphs.node_source import IN_PLACE, SourceLines, explain, name_of, refuse_functions, stops_gradient, user_line
from ..reach import reached_by
from ..state_changes import left_as_they_were
from .arguments import infer_signature
from .complex_numbers import in_real_parts, is_complex
from .decompositions import REWRITTEN
from .derivatives import Derivatives, decomposed
from .device import move_to_main_memory
from .parameters import discover_parameters, refuse_training_mode
from .trace import drop_unused, make_graph, mutates, pure, quiet_torch

__all__ = ["capture_torch", "discover_parameters", "infer_signature"]


def capture_torch(
    f: Callable[..., Any],
    u0: torch.Tensor,
    p: Any = None,
    t0: float = 0.0,
    *,
    signature: Sequence[str] | None = None,
    output: tuple[int, ...] | None = None,
) -> ArrayModel:
    """Trace a torch model.

    Parameters
    ----------
    f
        A function on tensors or an ``nn.Module``.
    u0
        A state: its shape and dtype (float32 or float64) are those of the model.
    p
        Parameters: a tensor, a number, a (nested) dict, list or tuple of these, or None.
    t0
        A time.
    signature
        What the positional arguments of `f` are, such as ``("t", "u")``; by default :func:`infer_signature`.
    output
        Shape of what `f` returns; None is the state's.

    Returns
    -------
    ArrayModel
        Its parameters are the leaves of `p`, then those of :func:`discover_parameters`.

    Raises
    ------
    CaptureError
        If the model does what can't be traced.
    TypeError
        If the arguments or their types don't fit together.
    """
    if u0.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"u0 is {u0.dtype}; the state must be float32 or float64")
    roles = tuple(signature) if signature is not None else infer_signature(f)
    reached = reached_by(f)
    refuse_training_mode(reached.modules)
    output = tuple(u0.shape) if output is None else output
    of_state = output == tuple(u0.shape)
    leaves, spec = pytree.tree_flatten(() if p is None else p)
    leaves = [_leaf(x, u0, i) for i, x in enumerate(leaves)]
    found = reached.tensors
    for name, tensor in found.items():
        # Generated code computes in the state's precision, whatever the trace says of half precision.
        if tensor.dtype != u0.dtype and not (u0.dtype == torch.float32 and tensor.dtype in (torch.bfloat16, torch.float16)):
            raise TypeError(f"the parameter {name} is {tensor.dtype}, but the state is {u0.dtype}: convert one of them")

    def flat(t: torch.Tensor, u: torch.Tensor, *ps: torch.Tensor) -> torch.Tensor:
        given = {"t": t, "u": u, "p": pytree.tree_unflatten(list(ps), spec)}
        if roles[0] == "du":
            given["du"] = u.new_zeros(output)
        out = f(*(given[role] for role in roles))
        if roles[0] == "du" and out is None:
            out = given["du"]
        if isinstance(out, (list, tuple)):
            out = torch.stack([torch.as_tensor(x, dtype=u.dtype, device=u.device) for x in out])
        if not of_state:
            out = torch.as_tensor(out, dtype=u.dtype, device=u.device)
            if out.numel() != prod(output):
                raise ValueError(f"{name_of(f)} returned {out.numel()} values; it must return {prod(output)}")
            out = out.reshape(output)
        if not isinstance(out, torch.Tensor):
            raise TypeError(f"{name_of(f)} returned {type(out).__name__}, not a tensor")
        return out

    time = torch.zeros((), dtype=u0.dtype, device=u0.device) + t0
    state = torch.zeros(u0.shape, dtype=u0.dtype, device=u0.device)
    inputs = [time, state, *leaves]
    with quiet_torch():
        with left_as_they_were(reached.containers):
            graph = _trace(flat, inputs, f)
        out = _output(graph).meta["val"]
        if tuple(out.shape) != output or out.dtype != u0.dtype:
            raise TypeError(
                f"{name_of(f)} returned a tensor of shape {tuple(out.shape)} and {out.dtype}, "
                f"but the state has shape {tuple(u0.shape)} and {u0.dtype}"
            )
        _lift(graph, list(found.values()))
        _cut_gradients(graph)
        if u0.device.type != "cpu":
            move_to_main_memory(graph)
        inputs = [torch.zeros(x.shape, dtype=x.dtype) for x in [*inputs, *found.values()]]
        _check_noise(graph)
        drop_unused(graph)
        graph = in_real_parts(pure(graph, inputs), inputs)
        _cut_gradients(graph)  # ComplexTensor detaches its parts
        _check(graph)
        for node in graph.graph.nodes:
            if node.target is torch.ops.aten.copy.default:
                _rewrite_copy(graph, node)
        graph.recompile()  # once, since torch keeps all code: whoever calls the module runs what was compiled last
    return ArrayModel(
        f=decomposed(graph, inputs),
        u_shape=tuple(u0.shape),
        param_shapes=tuple(tuple(x.shape) for x in inputs[2:]),
        dtype=u0.dtype,
        trace=Derivatives(graph, inputs),
    )


def _leaf(x: Any, u0: torch.Tensor, i: int) -> torch.Tensor:
    if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype != u0.dtype:
        raise TypeError(f"parameter {i} is {x.dtype}, but the state is {u0.dtype}: convert one of them")
    try:
        shape = torch.as_tensor(x).shape
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"parameter {i} is a {type(x).__name__}; parameters are tensors and numbers") from error
    return torch.zeros(shape, dtype=u0.dtype, device=u0.device)


def _trace(flat: Callable[..., Any], inputs: Sequence[torch.Tensor], f: Any) -> torch.fx.GraphModule:
    # The state requires a gradient, as it does in a gradient's evaluation: models ask for that.
    inputs = [x.requires_grad_() for x in inputs]

    def watched(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.fx.traceback.preserve_node_meta(), torch.enable_grad(), SourceLines():
            out = flat(*inputs)
            refuse_functions(out)
            return out

    try:
        graph = make_graph(watched, inputs, decomposition_table=REWRITTEN)
    except (CaptureError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise explain(error, f) from error
    return graph


def _cut_gradients(graph: torch.fx.GraphModule) -> None:
    """Keep gradients from flowing where the user stopped them, and only there: autograd detaches what it saves, too."""
    for node in list(graph.graph.nodes):
        stopped = stops_gradient(node)
        if node.target is torch.ops.aten.detach.default:
            if not stopped:
                node.replace_all_uses_with(node.args[0])
        elif stopped and node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor):
            with graph.graph.inserting_after(node):
                cut = graph.graph.call_function(torch.ops.aten.detach.default, (node,))
            cut.meta.update(node.meta)
            node.replace_all_uses_with(cut, delete_user_cb=lambda user, cut=cut: user is not cut and not mutates(user))


def _rewrite_copy(graph: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """``copy(to, source)``, which torch can't differentiate, becomes a conversion and an expansion of the source."""
    source, to = node.args[1], node.meta["val"]
    with graph.graph.inserting_before(node):
        if source.meta["val"].dtype != to.dtype:
            source = graph.graph.call_function(torch.ops.aten._to_copy.default, (source,), {"dtype": to.dtype})
        new = graph.graph.call_function(torch.ops.aten.expand.default, (source, list(to.shape)))
    for made in {source, new} - {node.args[1]}:
        made.meta.update(node.meta)
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)


def _check(graph: torch.fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = str(node.target)
        if mutates(node):
            raise CaptureError(IN_PLACE, operation=name, where=user_line(node))
        if node.target is torch.ops.aten._local_scalar_dense.default:
            raise CaptureError(
                "the model takes a number out of a tensor (.item(), float() or int() of a tensor), which would freeze it "
                "and cut its gradient. Keep it a tensor",
                operation=name,
                where=user_line(node),
            )
        for value in pytree.tree_leaves(node.meta.get("val")):
            if isinstance(value, torch.Tensor) and not all(isinstance(n, int) for n in value.shape):
                raise CaptureError(
                    f"the shape of the result of {name} depends on values of the state; use torch.where instead of masks",
                    operation=name,
                    where=user_line(node),
                )
        if is_complex(node):
            raise CaptureError(f"{name} makes a complex tensor", operation=name, where=user_line(node))


def _check_noise(graph: torch.fx.GraphModule) -> None:
    """Refuse random numbers. RReLU in evaluation mode, which draws none, becomes the leaky ReLU that it is then."""
    for node in list(graph.graph.nodes):
        if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        if node.target is torch.ops.aten.rrelu_with_noise.default and (len(node.args) < 5 or not node.args[4]):
            lower, upper = (node.args[2], node.args[3]) if len(node.args) > 3 else (1 / 8, 1 / 3)
            with graph.graph.inserting_before(node):
                new = graph.graph.call_function(torch.ops.aten.leaky_relu.default, (node.args[0], (lower + upper) / 2))
            new.meta.update(node.meta)
            node.replace_all_uses_with(new)
            graph.graph.erase_node(node)
            continue
        raise CaptureError(
            f"{node.target} draws random numbers: a right-hand side must be deterministic. Draw them once, outside, or use an SDE",
            operation=str(node.target),
            where=user_line(node),
        )


def _lift(graph: torch.fx.GraphModule, parameters: Sequence[torch.Tensor]) -> None:
    """Turn the constants that are `parameters` into placeholders, in that order, and refuse other trainable constants."""
    places = {id(x): i for i, x in enumerate(parameters)}
    uses: dict[int, list[torch.fx.Node]] = {}
    last = None
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            last = node
        elif node.op == "get_attr":
            value = getattr(graph, str(node.target))
            if id(value) in places:
                uses.setdefault(places[id(value)], []).append(node)
            elif isinstance(value, torch.Tensor) and value.requires_grad:
                raise CaptureError(
                    f"the model uses a trainable tensor of shape {tuple(value.shape)} that is neither among its parameters "
                    "nor reachable from it; pass it in p, or call .detach() on it",
                    operation="constant",
                    where=user_line(next(iter(node.users))),
                )
    for i, parameter in enumerate(parameters):
        with graph.graph.inserting_after(last):
            new = graph.graph.placeholder(f"parameter_{i}")
        for node in uses.get(i, []):
            new.meta.setdefault("val", node.meta.get("val"))
            node.replace_all_uses_with(new)
            graph.graph.erase_node(node)
        if "val" not in new.meta:
            new.meta["val"] = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        last = new


def _output(graph: torch.fx.GraphModule) -> torch.fx.Node:
    (node,) = (n for n in graph.graph.nodes if n.op == "output")
    return node.args[0]  # type: ignore[return-value]
