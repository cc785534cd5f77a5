"""Models written in Julia, brought into the convention of generated code."""

from __future__ import annotations

import json
import re

import numpy as np

from ..graphs.captured_model import JuliaModel
from .lowered_model import LoweredModel

_TEMPLATE = """\
module UserCode
end
const last_value = Base.include_string(UserCode, {source}, {filename})
const user_f = isdefined(UserCode, :f!) ? UserCode.f! : isdefined(UserCode, :f) ? UserCode.f : last_value
let counts = Set(method.nargs - 1 for method in methods(user_f))
    4 in counts || 3 in counts ||
        error("the Julia source must define f!(du, u, p, t) or f(u, p, t), or end with a function of these arguments")
end
if any(method -> method.nargs == 5, methods(user_f))
    f!(du, u, p, t, w) = (user_f(du, u, p, t); nothing)
else
    f!(du, u, p, t, w) = (du .= user_f(u, p, t); nothing)
    f_oop(u, p, t) = user_f(u, p, t)
end
{workspace} = nothing
"""
_DERIVATIVES = {
    "vjp!": "vjp!(dlam, lam, u, p, t, w) = (UserCode.vjp!(dlam, lam, u, p, t); nothing)",
    "vjp_p!": "vjp_p!(dp, lam, u, p, t, w) = (UserCode.vjp_p!(dp, lam, u, p, t); nothing)",
    "jvp!": "jvp!(dv, v, u, p, t, w) = (UserCode.jvp!(dv, v, u, p, t); nothing)",
    "tgrad!": "tgrad!(dT, u, p, t, w) = (UserCode.tgrad!(dT, u, p, t); nothing)",
    "jac!": "jac!(J, u, p, t, w) = (UserCode.jac!(reshape(J, {n}, {n}), u, p, t); nothing)",
    "paramjac!": "paramjac!(pJ, u, p, t, w) = (UserCode.paramjac!(reshape(pJ, {n}, {n_params}), u, p, t); nothing)",
}
_BOTH = """\
vjp_both!(dlam, dp, lam, u, p, t, w) = (UserCode.vjp!(dlam, lam, u, p, t); UserCode.vjp_p!(dp, lam, u, p, t); nothing)
"""


def defined_functions(source: str) -> frozenset[str]:
    """Names of the functions that a Julia model's source defines, in the convention of :class:`LoweredModel`."""
    code = re.sub(r"#.*", "", source)
    found = {name for name in _DERIVATIVES if re.search(rf"(^|[\s;]){re.escape(name)}\s*\(", code)}
    if {"vjp!", "vjp_p!"} <= found:
        found.add("vjp_both!")
    return frozenset(found | {"f!"})


def lower_julia(model: JuliaModel, dtype: np.dtype | type, n: int, n_params: int, *, device: bool = False) -> LoweredModel:
    """The user's source in a module of its own, and functions around it with the workspace argument.

    With `device`, the same for vectors on a device; the user's functions must support these.
    """
    functions = defined_functions(model.source)
    parts = [
        _TEMPLATE.format(
            source=_string(model.source),
            filename=_string(model.filename or "Julia model"),
            workspace="workspace(like)" if device else "workspace(::Type{T}) where {T}",
        ),
        *(text.format(n=n, n_params=n_params) for name, text in _DERIVATIVES.items() if name in functions),
    ]
    if "vjp_both!" in functions:
        parts.append(_BOTH)
    return LoweredModel("\n".join(parts), functions, "device" if device else "julia", n, n_params, np.dtype(dtype))


def _string(text: str) -> str:
    """A Julia string literal: JSON's escapes are Julia's, and ``$`` would interpolate."""
    return json.dumps(text, ensure_ascii=False).replace("$", "\\$")
