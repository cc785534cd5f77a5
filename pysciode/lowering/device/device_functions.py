"""Models on a graphics processor: the functions of a model as launches of kernels on vectors of the device.

Nothing here reads or writes single elements from the host. Arithmetic is that of the model's element type throughout; dual
numbers don't pass.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch

from ...graphs.captured_model import ArrayModel, ScalarModel
from ..loops.array_functions import NEEDS, TRACED, array_program, function_arguments
from ..loops.constants import Constants
from ..loops.program import Workspace
from ..lowered_model import LoweredModel
from ..scalars.scalar_functions import lower_scalar
from .kernels import Kernels
from .reductions import split_reductions

FUNCTIONS = ("f!", "vjp!", "vjp_p!", "vjp_both!", "jvp!", "tgrad!", "jac!", "paramjac!")
"""What can be generated."""

# What the launch of a kernel is worth in each thread of another, in units of an addition: a few transcendental functions.
_LAUNCH = 80
JULIA_TYPES = {"float32": "Float32", "float64": "Float64"}


def lower_array_to_device(model: ArrayModel, want: Collection[str] = FUNCTIONS) -> LoweredModel:
    """Device form of an array model, with those of the functions `want` that this form has.

    Raises
    ------
    CaptureError
        If an operation has no translation.
    """
    n = math.prod(model.u_shape)
    n_params = sum(math.prod(s) for s in model.param_shapes)
    dtype = np.dtype(np.float32 if model.dtype == torch.float32 else np.float64)
    constants, workspace, kernels = Constants(dtype), Workspace(), Kernels(dtype)
    wanted = set(want) & set(FUNCTIONS)
    names = [name for name in TRACED if name in wanted or name in {NEEDS.get(w) for w in wanted}]
    parts = [_function(name, model, constants, workspace, kernels) for name in names]
    rows = [(name, size) for name, size in (("jac!", n), ("paramjac!", n_params)) if name in wanted]
    if rows:
        parts.append(_ROW_KERNELS)
    for name, size in rows:
        workspace.vector("unit", n)
        workspace.vector("row", size)
        parts.append(_ROWS.format(name=name, product=NEEDS[name], n=n, columns=size))
    used = {name: array for name, array in constants.arrays.items() if name in kernels.used}
    return LoweredModel(
        source="\n".join([_workspace(workspace, used, dtype), *kernels.definitions, *parts]),
        functions=frozenset({*names, *wanted}),
        form="device",
        n=n,
        n_params=n_params,
        dtype=dtype,
        constants=used,
    )


def _function(name: str, model: ArrayModel, constants: Constants, workspace: Workspace, kernels: Kernels) -> str:
    program = array_program(name, model, constants, again=_LAUNCH)
    split_reductions(program)
    workspace.place(program)
    arguments = function_arguments(name)
    calls = [call for statement in program.statements for call in kernels.calls(statement)]
    used = {buffer.name for buffer in program.buffers()}
    lines = [f"{slot} = w.{slot}" for slot in (*workspace.slots, *constants.arrays) if slot in used]
    # Time may come in another precision than the state.
    return _text(name, arguments, [f"t = convert({JULIA_TYPES[constants.dtype.name]}, t)", *lines, *calls])


def _text(name: str, arguments: Sequence[str], lines: Sequence[str]) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"function {name}({', '.join(arguments)})\n{body}    return nothing\nend"


def _workspace(workspace: Workspace, constants: Collection[str], dtype: np.dtype) -> str:
    types = {"float": JULIA_TYPES[dtype.name], "int": "Int", "bool": "Bool"}
    fields = [f"{name} = Kernels.device_vector(like, {types[kind]}, {size})" for name, (kind, size) in workspace.slots.items()]
    fields += [f"{name} = Kernels.device_constant(like, {name})" for name in constants]
    return f"workspace(like) = (; {', '.join(fields)})" if fields else "workspace(like) = nothing"


_ROW_KERNELS = """function unit_kernel(i, unit, row)
    @inbounds unit[i] = i == row
    return nothing
end
function row_kernel(i, J, values, row, n)
    @inbounds J[(i - 1) * n + row] = values[i]
    return nothing
end"""

_ROWS = """function {name}(J, u, p, t, w)
    unit, row = w.unit, w.row
    for k in 1:{n}
        Kernels.launch!(unit_kernel, {n}, unit, k)
        {product}(row, unit, u, p, t, w)
        Kernels.launch!(row_kernel, {columns}, J, row, k, {n})
    end
    return nothing
end"""


def lower_scalar_to_device(model: ScalarModel, dtype: np.dtype | type = np.float64, want: Collection[str] = FUNCTIONS) -> LoweredModel:
    """Device form of a scalar model, with those of the functions `want` that this form has: one thread runs each."""
    dtype = np.dtype(dtype)
    wanted = [name for name in FUNCTIONS if name in want]
    scalar = lower_scalar(model, dtype, wanted, tables="w")
    parts = [
        _workspace(Workspace(), scalar.constants, dtype),
        "module OneThread",
        "import ..Kernels, ..NaNMath",
        scalar.source,
        "end",
    ]
    for name in wanted:
        arguments = scalar_arguments(name)
        kernel, given = f"{name[:-1]}_kernel", ", ".join(arguments)
        parts.append(f"{kernel}(i, {given}) = OneThread.{name}({given})")
        passed = given.replace(" t,", f" convert({JULIA_TYPES[dtype.name]}, t),")
        parts.append(_text(name, arguments, [f"Kernels.launch!({kernel}, 1, {passed})"]))
    return LoweredModel(
        source="\n".join(parts),
        functions=frozenset(wanted),
        form="device",
        n=scalar.n,
        n_params=scalar.n_params,
        dtype=dtype,
        constants=scalar.constants,
    )


def scalar_arguments(name: str) -> tuple[str, ...]:
    """Names of the arguments of any function."""
    matrices = {"jac!": "J", "paramjac!": "pJ"}
    return (matrices[name], "u", "p", "t", "w") if name in matrices else function_arguments(name)
