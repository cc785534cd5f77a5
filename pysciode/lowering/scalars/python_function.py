"""Scalar graphs as Python source on torch or NumPy: for the engine that has no Julia, and to check what was captured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from ...graphs.captured_model import ScalarModel
from ...graphs.scalar_graph import Scalar, ScalarGraph

_OPERATORS = {
    "add": "({0} + {1})",
    "sub": "({0} - {1})",
    "mul": "({0} * {1})",
    "div": "({0} / {1})",
    "neg": "(-{0})",
    "lt": "({0} < {1})",
    "le": "({0} <= {1})",
    "gt": "({0} > {1})",
    "ge": "({0} >= {1})",
    "eq": "({0} == {1})",
    "ne": "({0} != {1})",
    "and": "({0} & {1})",
    "or": "({0} | {1})",
}
NUMPY_NAMES = {
    "pow": "power", "mod": "mod", "fmod": "fmod", "asin": "arcsin", "acos": "arccos", "atan": "arctan",
    "atan2": "arctan2", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "max": "maximum", "min": "minimum",
    "round": "round", "not": "logical_not", "select": "where",
}  # fmt: skip
"""NumPy's names of operations, where they are others; JAX has the same."""

_CALLS = {
    "numpy": NUMPY_NAMES,
    "torch": {
        "mod": "remainder", "max": "maximum", "min": "minimum", "not": "logical_not", "select": "where",
    },
}  # fmt: skip


def python_function(
    model: ScalarModel, namespace: Literal["numpy", "torch"] = "numpy", outputs: Any = None
) -> Callable[[Any, Any, Any], Any]:
    """``f(u, p, t) -> du`` on arrays or tensors, differentiable by torch's autograd.

    Parameters
    ----------
    namespace
        Whose functions evaluate it.
    outputs
        Nodes to evaluate; the right-hand side by default.

    Returns
    -------
    callable
        Takes `u` of shape ``(..., n)``, `p` of shape ``(n_params,)`` or ``(..., n_params)``, and a time; returns shape
        ``(..., number of outputs)``.
    """
    outputs = model.rhs if outputs is None else tuple(outputs)
    graph = model.graph
    calls = _CALLS[namespace]
    lines = []
    for i in graph.reachable(outputs):
        op, args = graph.ops[i], graph.args[i]
        if op == "const":
            lines.append(f"x{i} = lift({_literal(args[0])})" if namespace == "torch" else f"x{i} = {_literal(args[0])}")
        elif op == "symbol":
            name, _, index = args[0].partition("[")
            lines.append(f"x{i} = {name}[..., {int(index[:-1]) - 1}]" if index else f"x{i} = {name}")
        else:
            call = _OPERATORS.get(op) or f"{calls.get(op, op)}({', '.join(f'{{{k}}}' for k in range(len(args)))})"
            lines.append(f"x{i} = {call.format(*(f'x{a}' for a in args))}")
    lines.append(f"return stack([{', '.join(f'x{y.id}' for y in outputs)}], u)")
    source = "def f(u, p, t):\n" + "".join(f"    {line}\n" for line in lines)
    if namespace == "torch":
        source = source.replace("(u, p, t):\n", "(u, p, t):\n    lift = lifting(u)\n    t = lift(t)\n", 1)
    scope = _torch_scope() if namespace == "torch" else _numpy_scope()
    exec(compile(source, "<captured model>", "exec"), scope)
    f = scope["f"]
    return f if namespace == "torch" else _quiet(f)


def _literal(value: float | bool) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return repr(value)


def _quiet(f: Callable[..., Any]) -> Callable[..., Any]:
    def evaluate(u, p, t):
        with np.errstate(all="ignore"):
            return f(np.asarray(u), np.asarray(p), t)

    return evaluate


def _numpy_scope() -> dict[str, Any]:
    def stack(values, u):
        shape = u.shape[:-1]
        return np.stack([np.broadcast_to(np.asarray(x, u.dtype), shape) for x in values], -1)

    def special(name: str) -> Callable[..., Any]:
        def function(x):
            import scipy.special

            return getattr(scipy.special, name)(x)

        return function

    scope: dict[str, Any] = {
        "stop": lambda x: x,
        "sigmoid": special("expit"),
        "erf": special("erf"),
        "erfc": special("erfc"),
        "erfinv": special("erfinv"),
        "lgamma": special("gammaln"),
        "digamma": special("digamma"),
        "trigamma": lambda x: _trigamma(x),
        "stack": stack,
        "nan": math.nan,
        "inf": math.inf,
    }
    names = {*NUMPY_NAMES.values()} | {
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh",
        "abs", "sign", "floor", "ceil", "trunc", "isnan", "isinf",
    }  # fmt: skip
    return {**{name: getattr(np, name) for name in names}, **scope}


def _trigamma(x: Any) -> Any:
    from scipy.special import polygamma

    return polygamma(1, x)


def _torch_scope() -> dict[str, Any]:
    import torch

    def lifting(u):
        return lambda x: torch.as_tensor(x, dtype=torch.bool if isinstance(x, bool) else u.dtype, device=u.device)

    def stack(values, u):
        shape = u.shape[:-1]
        return torch.stack([x.to(u.dtype).expand(torch.broadcast_shapes(x.shape, shape)) for x in values], -1)

    names = {*_CALLS["torch"].values()} | {
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan",
        "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "erfinv", "lgamma", "digamma", "pow", "fmod",
        "abs", "sign", "floor", "ceil", "trunc", "round", "sigmoid", "isnan", "isinf",
    }  # fmt: skip
    return {
        **{name: getattr(torch, name) for name in names},
        "stop": lambda x: x.detach(),
        "trigamma": lambda x: torch.special.polygamma(1, x),
        "lifting": lifting,
        "stack": stack,
        "nan": math.nan,
        "inf": math.inf,
    }


def evaluate(model: ScalarModel, u: np.ndarray, p: np.ndarray, t: float) -> np.ndarray:
    """The right-hand side at flat `u` and `p`, by walking the graph once: quicker than compiling for a single value."""
    scope = _numpy_scope()
    values: dict[int, Any] = {model.t.id: np.float64(t)}
    values.update((x.id, v) for x, v in zip(model.u, np.asarray(u, float).ravel(), strict=True))
    values.update((x.id, v) for x, v in zip(model.p, np.asarray(p, float).ravel(), strict=True))

    def function(op: str) -> Callable[..., Any]:
        return DIRECT[op] if op in DIRECT else scope[NUMPY_NAMES.get(op, op)]

    def number(x: float | bool) -> Any:
        return x if isinstance(x, bool) else np.float64(x)

    with np.errstate(all="ignore"):
        return np.array(walk(model.graph, model.rhs, values, function, number), float)


def walk(
    graph: ScalarGraph,
    outputs: Sequence[Scalar],
    values: dict[int, Any],
    function: Callable[[str], Callable[..., Any]],
    number: Callable[[float | bool], Any],
) -> list[Any]:
    """The values of `outputs`, operation by operation.

    Parameters
    ----------
    values
        Values of the symbols, by node; those of other nodes are added.
    function, number
        Functions that evaluate an operation, and convert a constant of the graph.
    """
    for i in graph.reachable(outputs):
        if i in values:
            continue
        op, args = graph.ops[i], graph.args[i]
        values[i] = number(args[0]) if op == "const" else function(op)(*(values[a] for a in args))
    return [values[x.id] for x in outputs]


DIRECT: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "select": lambda c, a, b: a if c else b,
}
"""Operations that are Python's own, of numbers and, all but ``select``, of arrays."""
