"""Derivatives of a :class:`~pysciode.graphs.scalar_graph.ScalarGraph`, as further nodes of the same graph.

Forward accumulation gives columns of a Jacobian (structural zeros are never formed), reverse accumulation a
vector–Jacobian product at the price of a few evaluations (Griewank & Walther, *Evaluating Derivatives*, 2nd ed., ch. 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .scalar_graph import Scalar, ScalarGraph
from .scalar_ops import SCALAR_OPS


def forward(graph: ScalarGraph, outputs: Sequence[Scalar], tangents: Mapping[int, Scalar]) -> list[Scalar]:
    """Directional derivatives of `outputs`.

    Parameters
    ----------
    tangents
        Number of an input node -> its tangent; inputs left out have tangent zero.

    Returns
    -------
    list of Scalar
        One per output; a constant 0 where the output does not depend on the inputs.
    """
    dots: dict[int, Scalar] = dict(tangents)
    for i in graph.reachable(outputs):
        if i in dots or graph.ops[i] in ("symbol", "const"):
            continue
        row = SCALAR_OPS[graph.ops[i]]
        if row.partials is None:
            continue
        operands = [Scalar(graph, a) for a in graph.args[i]]
        terms = [dots[a] * row.partials[k](graph, Scalar(graph, i), *operands) for k, a in enumerate(graph.args[i]) if a in dots]
        if terms:
            dot = graph.total(terms)
            if dot.constant != 0:
                dots[i] = dot
    zero = graph.const(0.0)
    return [dots.get(y.id, zero) for y in outputs]


def reverse(graph: ScalarGraph, outputs: Sequence[Scalar], cotangents: Sequence[Scalar], inputs: Sequence[Scalar]) -> list[Scalar]:
    """The vector–Jacobian product ``cotangentsᵀ ∂outputs/∂inputs``, one entry per input."""
    order = graph.reachable(outputs)
    # Only what depends on the inputs carries a derivative.
    active = {x.id for x in inputs}
    for i in order:
        if graph.ops[i] not in ("symbol", "const") and not active.isdisjoint(graph.args[i]):
            active.add(i)
    bars: dict[int, list[Scalar]] = {}
    for y, bar in zip(outputs, cotangents, strict=True):
        if y.id in active:
            bars.setdefault(y.id, []).append(bar)
    for i in reversed(order):
        if i not in bars or graph.ops[i] in ("symbol", "const"):
            continue
        row = SCALAR_OPS[graph.ops[i]]
        bar = graph.total(bars.pop(i))
        if row.partials is None or bar.constant == 0:
            continue
        operands = [Scalar(graph, a) for a in graph.args[i]]
        for k, a in enumerate(graph.args[i]):
            if a not in active:
                continue
            term = bar * row.partials[k](graph, Scalar(graph, i), *operands)
            if term.constant != 0:
                bars.setdefault(a, []).append(term)
    return [graph.total(bars.get(x.id, [])) for x in inputs]


def jacobian(graph: ScalarGraph, outputs: Sequence[Scalar], inputs: Sequence[Scalar]) -> dict[tuple[int, int], Scalar]:
    """The structurally non-zero entries ``(row, column) -> ∂outputs[row]/∂inputs[column]``, in one sparse forward sweep."""
    one = graph.const(1.0)
    gradients: dict[int, dict[int, Scalar]] = {x.id: {j: one} for j, x in enumerate(inputs)}
    for i in graph.reachable(outputs):
        if i in gradients or graph.ops[i] in ("symbol", "const"):
            continue
        row = SCALAR_OPS[graph.ops[i]]
        active = [(k, gradients[a]) for k, a in enumerate(graph.args[i]) if a in gradients]
        if row.partials is None or not active:
            continue
        operands = [Scalar(graph, a) for a in graph.args[i]]
        gradient: dict[int, Scalar] = {}
        for k, inner in active:
            partial = row.partials[k](graph, Scalar(graph, i), *operands)
            if partial.constant == 0:
                continue
            for j, dot in inner.items():
                term = dot * partial
                gradient[j] = gradient[j] + term if j in gradient else term
        gradient = {j: dot for j, dot in gradient.items() if dot.constant != 0}
        if gradient:
            gradients[i] = gradient
    return {(i, j): dot for i, y in enumerate(outputs) for j, dot in sorted(gradients.get(y.id, {}).items())}
