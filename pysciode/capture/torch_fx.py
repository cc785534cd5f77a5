"""Torch models -> ATen graphs.

A model is traced once with fake tensors (``make_fx``): no arithmetic is done, and whatever would need a value (a branch on a
tensor, ``.item()``, ``.numpy()``) is seen at once.  Tensors that the function reaches without taking them as arguments turn up in
the trace as constants that keep their identity, so that the parameters among them can be lifted into arguments wherever
they came from: closures, globals, attributes or containers.  The derivatives are traced from that graph, not from the user's
function again.
"""

from __future__ import annotations

import dis
import functools
import inspect
import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
import torch.fx
import torch.utils._pytree as pytree
import torch.fx.traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from ..errors import CaptureError
from .model import ArrayModel

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_TORCH = os.path.dirname(os.path.abspath(torch.__file__))

_TIME_NAMES = frozenset({"t", "time", "s", "tau", "ts"})
_STATE_NAMES = frozenset({"u", "y", "x", "h", "z", "q", "w", "state", "states", "hidden", "input", "inputs", "u0", "y0", "x0"})
_PARAMETER_NAMES = frozenset({"p", "ps", "params", "parameters", "theta", "args", "k"})


# --- signatures ------------------------------------------------------------------------------------------------------


def infer_signature(f: Callable[..., Any]) -> tuple[str, ...]:
    """Which of ``"u"``, ``"p"``, ``"t"`` and ``"du"`` the positional arguments of `f` are, in order.

    Names decide (``t``, ``time``; ``u``, ``y``, ``x``, ``h``, ``z``, ``state``; ``p``, ``params``, ``theta``, ``args``); three arguments
    of other names are SciML's ``(u, p, t)``, four are ``(du, u, p, t)``, one is the state.

    Raises
    ------
    TypeError
        If names and number leave more than one reading.
    """
    target = f.forward if isinstance(f, torch.nn.Module) else f
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError) as error:
        raise TypeError(f"can't read the arguments of {_name(f)}: {error}; pass signature=, such as ('u', 'p', 't')") from error
    positional = [
        q for q in parameters if q.kind in (q.POSITIONAL_ONLY, q.POSITIONAL_OR_KEYWORD) and q.default is q.empty
    ]
    names = [q.name.lower() for q in positional]
    if not names and any(q.kind is q.VAR_POSITIONAL for q in parameters):
        return ("u",) if isinstance(f, torch.nn.Module) else ("u", "p", "t")
    roles = [_role(name) for name in names]
    if len(names) == 1:
        return ("u",)
    if len(set(roles)) == len(roles) and None not in roles and "u" in roles:
        return tuple(roles)  # type: ignore[arg-type]
    if len(names) == 2 and roles.count(None) == 1 and "t" in roles:
        return tuple(role or "u" for role in roles)
    if len(names) == 3:
        if roles.count(None) == 1:
            missing = ({"u", "p", "t"} - set(roles)).pop() if len(set(roles)) == 3 else None
            if missing:
                return tuple(role or missing for role in roles)
        if roles[0] != "t":
            return ("u", "p", "t")
    if len(names) == 4:
        return ("du", "u", "p", "t")
    raise TypeError(
        f"{_name(f)}({', '.join(names)}): can't tell the state from the time and the parameters; "
        "name them u, p and t, or pass signature=, such as ('t', 'u')"
    )


def _role(name: str) -> str | None:
    if name in _TIME_NAMES:
        return "t"
    if name in _PARAMETER_NAMES:
        return "p"
    if name in ("du", "dy", "dx", "out"):
        return "du"
    return "u" if name in _STATE_NAMES else None


def _name(f: Any) -> str:
    return getattr(f, "__qualname__", None) or type(f).__name__


# --- parameters ------------------------------------------------------------------------------------------------------


def discover_parameters(f: Any) -> dict[str, torch.Tensor]:
    """The trainable tensors that `f` reaches without being given them, by name, each once.

    Looks into modules, closures, the globals that the code names, bound objects, default arguments, ``functools.partial`` and
    containers of these.  Tied parameters appear under their first name.
    """
    found: dict[str, torch.Tensor] = {}
    known: set[int] = set()
    for name, tensor in _reach(f, "", set(), 0):
        if id(tensor) in known:
            continue
        known.add(id(tensor))
        while name in found:
            name += "_"
        found[name] = tensor
    return found


def _reach(x: Any, prefix: str, seen: set[int], depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    def join(name: object) -> str:
        return f"{prefix}.{name}" if prefix else str(name)

    if isinstance(x, torch.Tensor):
        if x.requires_grad:
            yield prefix or "parameter", x
        return
    if isinstance(x, (str, bytes, int, float, complex, ModuleType, type, type(None))) or id(x) in seen or depth > 8:
        return
    seen.add(id(x))
    if isinstance(x, torch.nn.Module):
        for name, parameter in x.named_parameters():
            if parameter.requires_grad:
                yield join(name), parameter
        for module_name, module in x.named_modules():
            for name, value in vars(module).items():
                if not name.startswith("_"):
                    inner = f"{module_name}.{name}" if module_name else name
                    yield from _reach(value, join(inner), seen, depth + 1)
    elif isinstance(x, functools.partial):
        yield from _reach(x.func, prefix, seen, depth + 1)
        for i, value in enumerate(x.args):
            yield from _reach(value, join(i), seen, depth + 1)
        for name, value in x.keywords.items():
            yield from _reach(value, join(name), seen, depth + 1)
    elif isinstance(x, MethodType):
        yield from _reach(x.__self__, prefix, seen, depth + 1)
        yield from _reach(x.__func__, prefix, seen, depth + 1)
    elif isinstance(x, FunctionType):
        for name, cell in zip(x.__code__.co_freevars, x.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # a cell that is not filled yet
                continue
            yield from _reach(value, join(name), seen, depth + 1)
        for name in _global_names(x.__code__):
            if name in x.__globals__:
                yield from _reach(x.__globals__[name], join(name), seen, depth + 1)
        for i, value in enumerate(x.__defaults__ or ()):
            yield from _reach(value, join(f"default{i}"), seen, depth + 1)
        for name, value in (x.__kwdefaults__ or {}).items():
            yield from _reach(value, join(name), seen, depth + 1)
        wrapped = getattr(x, "__wrapped__", None)
        if wrapped is not None:
            yield from _reach(wrapped, prefix, seen, depth + 1)
    elif isinstance(x, dict):
        for name, value in x.items():
            yield from _reach(value, join(name), seen, depth + 1)
    elif isinstance(x, (list, tuple, set, frozenset)):
        for i, value in enumerate(x):
            yield from _reach(value, join(i), seen, depth + 1)
    elif _module_root(x) not in _FOREIGN:
        if callable(x) and isinstance(getattr(type(x), "__call__", None), FunctionType):
            yield from _reach(type(x).__call__, prefix, seen, depth + 1)
        for name, value in getattr(x, "__dict__", {}).items():
            yield from _reach(value, join(name), seen, depth + 1)


_FOREIGN = frozenset({"torch", "numpy", "scipy", "builtins", "sympy", "jax", "collections", "functools", "typing"})


def _module_root(x: Any) -> str:
    return (type(x).__module__ or "").partition(".")[0]


def _global_names(code: Any) -> Iterator[str]:
    # co_names holds the names of attributes, too.
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _global_names(constant)


def _modules(f: Any) -> Iterator[torch.nn.Module]:
    """Modules that `f` itself is, is bound to, closes over or names."""
    stack, seen = [f], set()
    while stack:
        x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, torch.nn.Module):
            yield from x.modules()
        elif isinstance(x, functools.partial):
            stack += [x.func, *x.args, *x.keywords.values()]
        elif isinstance(x, MethodType):
            stack += [x.__self__, x.__func__]
        elif isinstance(x, FunctionType):
            for cell in x.__closure__ or ():
                try:
                    stack.append(cell.cell_contents)
                except ValueError:
                    continue
            stack += [x.__globals__[name] for name in _global_names(x.__code__) if name in x.__globals__]
        elif isinstance(x, dict):
            stack += x.values()
        elif isinstance(x, (list, tuple)):
            stack += x


# --- the trace -------------------------------------------------------------------------------------------------------


def capture_torch(
    f: Callable[..., Any],
    u0: torch.Tensor,
    p: Any = None,
    t0: float = 0.0,
    *,
    signature: Sequence[str] | None = None,
) -> ArrayModel:
    """Trace a torch model.

    Parameters
    ----------
    f
        A function on tensors or an ``nn.Module``.
    u0
        A state: its shape, dtype (float32 or float64) and device are those of the model.
    p
        Parameters: a tensor, a number, a (nested) dict, list or tuple of these, or None.
    t0
        A time.
    signature
        What the positional arguments of `f` are, such as ``("t", "u")``; by default :func:`infer_signature`.

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
    _refuse_training_mode(f)
    leaves, spec = pytree.tree_flatten(() if p is None else p)
    leaves = [_leaf(x, u0, i) for i, x in enumerate(leaves)]
    found = discover_parameters(f)
    for name, tensor in found.items():
        if tensor.dtype != u0.dtype:
            raise TypeError(f"the parameter {name} is {tensor.dtype}, but the state is {u0.dtype}: convert one of them")

    def flat(t: torch.Tensor, u: torch.Tensor, *ps: torch.Tensor) -> torch.Tensor:
        given = {"t": t, "u": u, "p": pytree.tree_unflatten(list(ps), spec)}
        if roles[0] == "du":
            given["du"] = torch.zeros_like(u)
        out = f(*(given[role] for role in roles))
        if roles[0] == "du" and out is None:
            out = given["du"]
        if isinstance(out, (list, tuple)):
            out = torch.stack([torch.as_tensor(x, dtype=u.dtype, device=u.device) for x in out])
        if not isinstance(out, torch.Tensor):
            raise TypeError(f"{_name(f)} returned {type(out).__name__}, not a tensor")
        return out

    time = torch.zeros((), dtype=u0.dtype, device=u0.device) + t0
    state = torch.zeros(u0.shape, dtype=u0.dtype, device=u0.device)
    inputs = [time, state, *leaves]
    with _quiet_torch():
        graph = _trace(flat, inputs, f)
        out = _output(graph).meta["val"]
        if tuple(out.shape) != tuple(u0.shape) or out.dtype != u0.dtype:
            raise TypeError(
                f"{_name(f)} returned a tensor of shape {tuple(out.shape)} and {out.dtype}, "
                f"but the state has shape {tuple(u0.shape)} and {u0.dtype}"
            )
        _lift(graph, list(found.values()))
        _cut_gradients(graph)
        inputs = [torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in [*inputs, *found.values()]]
        _check_noise(graph)
        _drop_unused(graph)
        graph = _pure(graph, inputs)
        _check(graph)
        for node in graph.graph.nodes:
            if node.target is torch.ops.aten.copy.default:
                _rewrite_copy(graph, node)
    return ArrayModel(
        f=_decomposed(graph, inputs),
        u_shape=tuple(u0.shape),
        param_shapes=tuple(tuple(x.shape) for x in inputs[2:]),
        dtype=u0.dtype,
        trace=_Derivatives(graph, inputs),
    )


def _leaf(x: Any, u0: torch.Tensor, i: int) -> torch.Tensor:
    if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype != u0.dtype:
        raise TypeError(f"parameter {i} is {x.dtype}, but the state is {u0.dtype}: convert one of them")
    try:
        shape = torch.as_tensor(x).shape
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"parameter {i} is a {type(x).__name__}; parameters are tensors and numbers") from error
    return torch.zeros(shape, dtype=u0.dtype, device=u0.device)


def _refuse_training_mode(f: Any) -> None:
    for module in _modules(f):
        if not module.training:
            continue
        kind = type(module).__name__
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0:
            raise CaptureError(
                f"{kind} in training mode draws random numbers: a right-hand side must be deterministic. "
                "Call .eval() on the model, or leave the dropout out",
                operation=kind,
            )
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            raise CaptureError(
                f"{kind} in training mode changes its running statistics at every evaluation, which an adaptive solver "
                "repeats as it likes. Call .eval() on the model, or use LayerNorm or GroupNorm",
                operation=kind,
            )


class _quiet_torch:
    """Settings that keep a trace to ordinary operations: no fused attention or encoder kernels."""

    def __enter__(self) -> None:
        self._fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        self._sdpa = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        self._sdpa.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._sdpa.__exit__(*error)
        torch.backends.mha.set_fastpath_enabled(self._fastpath)


def _make_fx(f: Callable[..., Any], inputs: Sequence[torch.Tensor], **options: Any) -> torch.fx.GraphModule:
    graph = make_fx(f, tracing_mode="fake", _allow_non_fake_inputs=True, **options)(*inputs)
    _drop_unused(graph)
    return graph


def _pure(graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    """`graph` without in-place operations: assignments to slices become functions of the whole."""
    if any(_mutates(node) for node in graph.graph.nodes):
        return _make_fx(torch.func.functionalize(_replay(graph)), inputs)
    return graph


def _drop_unused(graph: torch.fx.GraphModule) -> None:
    for node in reversed(graph.graph.nodes):
        # Tracing leaves checks behind that count as impure; mutations, which must stay, are seen by their schema.
        if node.op in ("call_function", "get_attr") and not node.users and not _mutates(node):
            graph.graph.erase_node(node)


def _trace(flat: Callable[..., Any], inputs: Sequence[torch.Tensor], f: Any) -> torch.fx.GraphModule:
    # The state requires a gradient, as it does in a gradient's evaluation: models ask for that.
    inputs = [x.requires_grad_() for x in inputs]

    def watched(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.fx.traceback.preserve_node_meta(), torch.enable_grad(), _SourceLines():
            return flat(*inputs)

    try:
        graph = _make_fx(watched, inputs, decomposition_table={torch.ops.aten._linalg_det.default: _small_determinant})
    except (CaptureError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _explain(error, f) from error
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
            node.replace_all_uses_with(cut, delete_user_cb=lambda user, cut=cut: user is not cut and not _mutates(user))


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


def _small_determinant(a: torch.Tensor) -> Any:
    """The determinant by its formula: torch's own derivative goes by way of singular values."""
    n = a.shape[-1]
    if n > 4:
        return NotImplemented

    def expand(rows: list[int], columns: list[int]) -> torch.Tensor:
        if not rows:
            return torch.ones(a.shape[:-2], dtype=a.dtype, device=a.device)
        terms = [a[..., rows[0], c] * expand(rows[1:], columns[:i] + columns[i + 1 :]) for i, c in enumerate(columns)]
        return functools.reduce(lambda x, y: x + y, [-x if i % 2 else x for i, x in enumerate(terms)])

    return expand([*range(n)], [*range(n)]), a, torch.zeros(a.shape[:-1], dtype=torch.int32, device=a.device)


_IN_PLACE = "the model changes its arguments or its constants in place; work on a copy, such as u.clone()"


def _mutates(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _check(graph: torch.fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = str(node.target)
        if _mutates(node):
            raise CaptureError(_IN_PLACE, operation=name, where=user_line(node))
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
            if isinstance(value, torch.Tensor) and value.is_complex():
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
            f"{node.target} draws random numbers: a right-hand side must be deterministic. "
            "Draw them once, outside, or use an SDE",
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
    graph.recompile()


def _output(graph: torch.fx.GraphModule) -> torch.fx.Node:
    (node,) = (n for n in graph.graph.nodes if n.op == "output")
    return node.args[0]  # type: ignore[return-value]


# --- derivatives -----------------------------------------------------------------------------------------------------


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Torch's decompositions for every operation that the table does not know."""
    from torch._decomp import core_aten_decompositions, decomposition_table

    from ..lowering.ops import ROWS

    table = {**decomposition_table, **core_aten_decompositions()}
    return {op: rule for op, rule in table.items() if op not in ROWS}


def _decomposed(graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    from ..lowering.ops import ROWS

    targets = {n.target for n in graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload)}
    if targets <= ROWS.keys():
        return graph
    return _pure(_make_fx(_replay(graph), inputs, decomposition_table=_decompositions()), inputs)


def _replay(graph: torch.fx.GraphModule) -> Callable[..., torch.Tensor]:
    """`graph` as a function that passes its source lines on to the next trace."""

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.fx.traceback.preserve_node_meta():
            return torch.fx.Interpreter(graph).run(*inputs)

    return run


class _Derivatives:
    """``ArrayModel.trace``: derivatives of a graph ``(t, u, *params) -> du``, traced when first asked for."""

    def __init__(self, graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
        self._graph = graph
        self._inputs = tuple(inputs)
        self._known: dict[str, torch.fx.GraphModule] = {}

    def __call__(self, name: str) -> torch.fx.GraphModule:
        if name not in self._known:
            self._known[name] = self._trace(name)
        return self._known[name]

    def _trace(self, name: str) -> torch.fx.GraphModule:
        if name in ("vjp", "vjp_p"):
            # A part of what gives both: no second trace is needed.
            both = self("vjp_both")
            return _with_outputs(both, lambda out: out[0] if name == "vjp" else out[1:])
        error: Exception | None = None
        for jvp in (torch.func.jvp, _jvp_by_transposition):
            function, inputs = self._function(name, jvp)
            try:
                with _quiet_torch():
                    return _pure(_make_fx(function, inputs, decomposition_table=_decompositions()), inputs)
            except Exception as caught:
                # Some operations lack a forward derivative; the transpose of the backward one is the same.
                error = error or caught
        reason = str(error).strip().splitlines()[0]
        raise CaptureError(f"torch can't trace the model's {name}: {reason}", operation=name) from error

    def _function(self, name: str, jvp: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[torch.Tensor, ...]]:
        g, inputs = _replay(self._graph), self._inputs
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
    _drop_unused(part)
    part.recompile()
    return part


def _jvp_by_transposition(
    f: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], tangents: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """``torch.func.jvp`` as the transpose of the linear map that ``torch.func.vjp`` is."""
    out, pullback = torch.func.vjp(f, *inputs)
    return out, torch.func.vjp(pullback, torch.zeros_like(out))[1](tuple(tangents))[0]


# --- where it happened -----------------------------------------------------------------------------------------------


# Stands in a node's stack trace, the one note that every version of torch passes on.
_WITHOUT_GRADIENT = "model without gradient"
_DETACHING = frozenset({torch.Tensor.detach, torch.detach, torch.Tensor.data.__get__})


def stops_gradient(node: torch.fx.Node) -> bool:
    """Whether the user's code made `node` where gradients stop: ``.detach()``, ``.data``, under ``torch.no_grad()``."""
    return _WITHOUT_GRADIENT in (node.meta.get("stack_trace") or "")


class _SourceLines(TorchFunctionMode):
    """Notes the user's line in the metadata of the nodes that it makes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        frame = sys._getframe(1)
        while frame is not None and _ours(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is not None:
            file, number = frame.f_code.co_filename, frame.f_lineno
            line = linecache.getline(file, number).strip()
            stopped = func in _DETACHING or not torch.is_grad_enabled()
            name = _WITHOUT_GRADIENT if stopped else "model"
            torch.fx.traceback.current_meta["stack_trace"] = f'File "{file}", line {number}, in {name}\n    {line}'
        if func is torch.Tensor.__getitem__:
            args = _without_scalar_indices(*args)
        return func(*args, **(kwargs or {}))


def _without_scalar_indices(x: torch.Tensor, index: Any) -> tuple[torch.Tensor, Any]:
    """`x[index]` where a tensor of one integer is no index itself: Python would ask for its value."""
    items = list(index) if isinstance(index, tuple) else [index]
    for axis, item in enumerate(items):
        if item is None or item is Ellipsis or isinstance(item, (list, bool)):
            break
        if isinstance(item, torch.Tensor):
            if item.ndim or item.dtype in (torch.bool, torch.uint8) or item.is_floating_point():
                break
            x = torch.index_select(x, axis, item.reshape(1))
            items[axis] = 0
    return x, tuple(items) if isinstance(index, tuple) else items[0]


def _ours(filename: str) -> bool:
    return filename.startswith((_HERE, _TORCH)) or filename.startswith("<") and not filename.startswith("<ipython")


def user_line(node: torch.fx.Node) -> str | None:
    """``"file.py:12: the line"`` of the user's code that made `node`."""
    found = None
    for file, number, code in re.findall(r'File "(.+?)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or ""):
        if not _ours(file):
            found = f"{os.path.basename(file)}:{number}: {code.strip()}"
    return found


def _explain(error: Exception, f: Any) -> Exception:
    frames = [x for x in traceback.extract_tb(error.__traceback__) if not _ours(x.filename)]
    where = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}: {frames[-1].line}" if frames else None
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = type(error).__name__
    if "GuardOnDataDependent" in kind or "data-dependent" in text:
        return CaptureError(
            "the model decides by a tensor's value (if, while, bool() or a loop over values). Use torch.where", where=where,
            operation="control flow",
        )
    if ".numpy()" in text or "numpy" in text.lower():
        return CaptureError("the model converts a tensor to NumPy; use torch's functions throughout", where=where, operation="numpy")
    if "leaf Variable" in text:
        return CaptureError(_IN_PLACE, where=where, operation="in-place operation")
    if isinstance(error, TypeError) and "returned" in text:
        return error
    return CaptureError(f"{kind} while tracing {_name(f)}: {text}", where=where, operation=kind)
