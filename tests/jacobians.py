"""Jacobians of captured models, by every generated derivative, and torch's own."""

from __future__ import annotations

import math

import numpy as np
import torch

from pysciode.graphs.captured_model import ScalarModel
from pysciode.graphs.scalar_derivatives import forward, jacobian, reverse
from pysciode.graphs.scalar_graph import ScalarGraph
from pysciode.lowering.ops.interpreter import interpret
from pysciode.lowering.scalars.python_function import evaluate
from pysciode.lowering.scalars.unroll import Elements, TooLarge, Unroller, _objects

F64 = torch.float64


def torch_jacobian(f, u):
    """Row by row, by autograd's backward pass."""
    u = u.clone().requires_grad_()
    out = f(u)
    rows = [torch.autograd.grad(y, u, retain_graph=True, allow_unused=True)[0] for y in out.reshape(-1)]
    return torch.stack([torch.zeros_like(u) if row is None else row for row in rows]).numpy()


def evaluated(graph, inputs, outputs, *values):
    """`outputs` at the `values` of two groups of inputs."""
    states, others = inputs
    model = ScalarModel(graph, tuple(states), tuple(others), graph.symbol("t"), tuple(outputs))
    return evaluate(model, *(np.asarray(x) for x in values), 0.0)


def scalar_jacobians(model):
    """Of a scalar model: by reverse and by forward accumulation, and by the sparse sweep."""
    g, n = model.graph, len(model.rhs)
    unit = [[g.const(float(i == j)) for i in range(n)] for j in range(n)]
    rows = [reverse(g, model.rhs, seed, model.u) for seed in unit]
    columns = [forward(g, model.rhs, {x.id: s for x, s in zip(model.u, seed, strict=True)}) for seed in unit]
    entries = jacobian(g, model.rhs, model.u)
    entries = [entries.get((i, j), g.const(0.0)) for i in range(n) for j in range(n)]

    def at(u, outputs):
        return evaluated(g, (model.u, ()), outputs, u, ())

    return {
        "reverse": lambda u: np.stack([at(u, row) for row in rows]),
        "forward": lambda u: np.stack([at(u, column) for column in columns], 1),
        "sparse": lambda u: at(u, entries).reshape(n, n),
    }


def array_jacobians(model):
    """Of an array model: its traced derivatives, through the rows of the table."""
    n = math.prod(model.u_shape)
    found = {}
    for name in ("vjp", "jvp"):
        g = ScalarGraph()
        v, u = ([g.symbol(f"{letter}[{i + 1}]") for i in range(n)] for letter in "pu")
        inputs = [Elements(_objects(x, shape), "float") for x, shape in ((v, (n,)), ([g.symbol("t")], ()), (u, (n,)))]
        try:
            out = interpret(model.trace(name), Unroller(g, 20_000), inputs)[0].data.reshape(-1)
        except TooLarge:  # an index computed from the state: in Julia only
            continue
        found[name] = lambda x, name=name, g=g, u=u, v=v, out=out: np.stack(
            [evaluated(g, (u, v), out, x, e) for e in np.eye(n)], 0 if name == "vjp" else 1
        )
    return found
