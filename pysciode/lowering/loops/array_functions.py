"""Array models as Julia: the functions of a model, each a program of loops over flat buffers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch

from ...graphs.captured_model import ArrayModel
from ..lowered_model import LoweredModel
from ..ops.interpreter import interpret
from ..sparsity import SparseJacobian, sparse_jacobian
from .array_values import Computed, Stored, Time, Value
from .buffers import Buffer
from .constants import Constants
from .functional import lower_functional
from .loop_backend import LoopBackend
from .program import Program, Workspace

# name of the Julia function -> (graph to trace, outputs, inputs in the order of the graph)
TRACED = {
    "f!": ("f", ("du",), ("t", "u", "p")),
    "vjp!": ("vjp", ("dlam",), ("lam", "t", "u", "p")),
    "vjp_p!": ("vjp_p", ("dp",), ("lam", "t", "u", "p")),
    "vjp_both!": ("vjp_both", ("dlam", "dp"), ("lam", "t", "u", "p")),
    "jvp!": ("jvp", ("dv",), ("v", "t", "u", "p")),
    "tgrad!": ("tgrad", ("dT",), ("t", "u", "p")),
}
# row by row, because the vector-Jacobian products are mostly wanted anyway
NEEDS = {"jac!": "vjp!", "paramjac!": "vjp_p!", "jac_sparse!": "jvp!"}
FUNCTIONS = (*TRACED, *NEEDS, "f_oop")
"""What can be generated."""


def lower_array(model: ArrayModel, want: Collection[str] = FUNCTIONS) -> LoweredModel:
    """Julia source of `model`, with the functions named in `want`.

    ``f_oop`` is left out where the model needs what can't be done without mutation, such as indices computed from the state.

    Raises
    ------
    CaptureError
        If an operation has no translation.
    """
    unknown = set(want) - set(FUNCTIONS)
    if unknown:
        raise ValueError(f"unknown functions {sorted(unknown)}; there are {', '.join(FUNCTIONS)}")
    n = math.prod(model.u_shape)
    n_params = sum(math.prod(s) for s in model.param_shapes)
    dtype = np.dtype(np.float32 if model.dtype == torch.float32 else np.float64)
    constants, workspace = Constants(dtype), Workspace()
    names = [name for name in TRACED if name in want or name in {NEEDS.get(w) for w in want}]
    parts = [_function(name, model, constants, workspace) for name in names]
    for name, size in (("jac!", n), ("paramjac!", n_params)):
        if name in want:
            workspace.vector("unit", n)
            workspace.vector("row", size)
            parts.append(_ROWS.format(name=name, product=NEEDS[name], n=n, columns=size))
    sparsity = None
    if "jac_sparse!" in want:
        jacobian = sparse_jacobian(model)
        sparsity = (jacobian.colptr + 1, jacobian.rowval + 1)
        workspace.vector("unit", n)
        workspace.vector("row", n)
        constants.arrays |= _color_tables(jacobian)
        parts.append(_COLORED.format(n=n, n_colors=jacobian.n_colors))
    functions = {*names, *(set(want) & set(NEEDS))}
    if "f_oop" in want:
        source = lower_functional(model, constants)
        if source is not None:
            parts.append(source)
            functions.add("f_oop")
    return LoweredModel(
        source="\n".join([workspace.source(), *parts]),
        functions=frozenset(functions),
        form="array",
        n=n,
        n_params=n_params,
        dtype=dtype,
        constants=constants.arrays,
        sparsity=sparsity,
    )


def _color_tables(jacobian: SparseJacobian) -> dict[str, np.ndarray]:
    """For each colour, its columns and its entries: their places among the non-zeros, and their rows. All from one."""
    columns = np.argsort(jacobian.colors, kind="stable")
    entry_colors = np.repeat(jacobian.colors, np.diff(jacobian.colptr))
    entries = np.argsort(entry_colors, kind="stable")
    count = np.arange(jacobian.n_colors + 1)
    return {
        "color_columns": columns + 1,
        "color_first_column": np.searchsorted(jacobian.colors[columns], count) + 1,
        "color_entries": entries + 1,
        "color_rows": jacobian.rowval[entries] + 1,
        "color_first_entry": np.searchsorted(entry_colors[entries], count) + 1,
    }


def array_program(name: str, model: ArrayModel, constants: Constants, again: int = 0) -> Program:
    """The statements of one function of `model`; its temporaries have no place yet. See :class:`LoopBackend` for `again`."""
    traced, outputs, inputs = TRACED[name]
    graph = model.f if traced == "f" else model.trace(traced)
    backend = LoopBackend(constants, again)
    results = backend.defined(interpret(graph, backend, _inputs(inputs, model)))
    destinations = _destinations(outputs, model)
    for result, (buffer, shift) in zip(results, destinations, strict=True):
        _deliver(backend, result, buffer, shift)
    backend.program.fuse(conditions=not again)
    return backend.program


def function_arguments(name: str) -> tuple[str, ...]:
    """Names of a traced function's arguments."""
    _, outputs, inputs = TRACED[name]
    return (*outputs, *(x for x in inputs if x not in ("t", "u", "p")), "u", "p", "t", "w")


def _function(name: str, model: ArrayModel, constants: Constants, workspace: Workspace) -> str:
    program = array_program(name, model, constants)
    workspace.place(program)
    used = [b.name for b in program.buffers()]
    arguments = function_arguments(name)
    lines = [f"T = eltype({arguments[0]})"]
    lines += [f"{slot} = w.{slot}" for slot in dict.fromkeys(used) if slot in workspace.slots]
    for statement in program.statements:
        lines += statement.emit(constants.dtype)
    body = "\n".join("        " + line for line in lines)
    return f"function {name}({', '.join(arguments)})\n    @inbounds begin\n{body}\n    end\n    return nothing\nend"


def _inputs(names: Sequence[str], model: ArrayModel) -> list[Value]:
    values: list[Value] = []
    for name in names:
        if name == "t":
            values.append(Time())
        elif name == "p":
            buffer = Buffer(sum(math.prod(s) for s in model.param_shapes), name="p")
            start = 0
            for shape in model.param_shapes:
                values.append(Stored(buffer, shape, None, start))
                start += math.prod(shape)
        else:
            values.append(Stored(Buffer(math.prod(model.u_shape), name=name), model.u_shape))
    return values


def _destinations(outputs: Sequence[str], model: ArrayModel) -> list[tuple[str, int]]:
    places: list[tuple[str, int]] = []
    for name in outputs:
        if name == "dp":
            start = 0
            for shape in model.param_shapes:
                places.append((name, start))
                start += math.prod(shape)
        else:
            places.append((name, 0))
    return places


def _deliver(backend: LoopBackend, result: Value, name: str, shift: int) -> None:
    """Have `result` end up in the vector `name` from `shift` on: by writing it there at once, where it is a buffer of its own."""
    if isinstance(result, Computed) and result.stored is not None:
        result = result.stored
    if (
        isinstance(result, Stored)
        and result.buffer.temporary
        and result.kind == "float"
        and result.dense
        and result.offset == 0
        and math.prod(result.shape) == result.buffer.size
    ):
        result.buffer.name, result.buffer.shift = name, shift
        return
    size = math.prod(result.shape)
    backend.store(result, Stored(Buffer(size, name=name, shift=shift), result.shape))


_ROWS = """function {name}(J, u, p, t, w)
    unit, row = w.unit, w.row
    fill!(unit, 0)
    for i in 1:{n}
        unit[i] = 1
        {product}(row, unit, u, p, t, w)
        unit[i] = 0
        @inbounds for j in 1:{columns}
            J[(j - 1) * {n} + i] = row[j]
        end
    end
    return nothing
end"""

_COLORED = """function jac_sparse!(nz, u, p, t, w)
    unit, row = w.unit, w.row
    for c in 1:{n_colors}
        fill!(unit, 0)
        @inbounds for k in color_first_column[c]:color_first_column[c+1]-1
            unit[color_columns[k]] = 1
        end
        jvp!(row, unit, u, p, t, w)
        @inbounds for k in color_first_entry[c]:color_first_entry[c+1]-1
            nz[color_entries[k]] = row[color_rows[k]]
        end
    end
    return nothing
end"""
