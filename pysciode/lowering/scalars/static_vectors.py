"""Scalar graphs as Julia functions of static vectors, which live in the registers of one thread: for ensembles in one kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...graphs.captured_model import ScalarModel
from ...graphs.scalar_derivatives import forward, jacobian
from ...graphs.scalar_graph import Scalar, ScalarGraph
from .straight_line import straight_line


def lower_static(model: ScalarModel, dtype: np.dtype | type, *, derivatives: bool) -> str:
    """Julia source of ``f(u, p, t)``, ``jac(u, p, t)`` and ``tgrad(u, p, t)``, each of which returns a static vector or matrix.

    Parameters
    ----------
    dtype
        ``float32`` or ``float64``: the type of the literals and of what is returned.
    derivatives
        Whether `jac`, the derivative by the state, and `tgrad`, by the time, are wanted; without, they are ``nothing``.
    """
    dtype = np.dtype(dtype)
    graph, n = model.graph, len(model.u)
    element = "Float32" if dtype == np.float32 else "Float64"
    vector = f"SVector{{{n}, {element}}}"
    parts = [_function("f", vector, model, model.rhs, dtype)]
    if not derivatives:
        return "\n".join([*parts, "jac = tgrad = nothing"])
    entries, zero = jacobian(graph, model.rhs, model.u), graph.const(0.0)
    columns = [entries.get((i, j), zero) for j in range(n) for i in range(n)]
    dots = forward(graph, model.rhs, {model.t.id: graph.const(1.0)})
    parts.append(_function("jac", f"SMatrix{{{n}, {n}, {element}}}", model, columns, dtype))
    parts.append(_function("tgrad", vector, model, dots, dtype))
    return "\n".join(parts)


def operations(graph: ScalarGraph, values: Sequence[Scalar]) -> int:
    """How many operations it takes to compute `values`."""
    return sum(graph.ops[i] not in ("symbol", "const") for i in graph.reachable(values))


def depends_on_time(model: ScalarModel) -> bool:
    """Whether the right-hand side does."""
    return model.t.id in model.graph.reachable(model.rhs)


# A step calls its functions at six places or more. Beyond so many operations they are not written out at each of them, or
# compilation takes a minute; a call costs a nanosecond.
_INLINED = 60


def _function(name: str, constructor: str, model: ScalarModel, values: Sequence[Scalar], dtype: np.dtype) -> str:
    code = straight_line(model.graph, [model.graph.as_number(x) for x in values], dtype)
    lines = [*code.loads, *code.statements, f"{constructor}({', '.join(code.values)})"]
    body = "".join(f"    {line}\n" for line in lines)
    short = operations(model.graph, values) <= _INLINED
    return f"@{'inline' if short else 'noinline'} function {name}(u, p, t)\n    @inbounds begin\n{body}    end\nend"
