"""Calls the functions of a lowered model in the engine's Julia."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pysciode.lowering import LoweredModel

_CALLER = """
(module_, source, names, arrays, n, n_params, apart, like) -> begin
    constants = [String(k) => Vector(collect(v)) for (k, v) in zip(names, arrays)]
    apart || return module_.generate(String(source), n, n_params; constants)
    given = NamedTuple(Symbol(k) => v for (k, v) in constants)
    like === nothing ? module_.generate(String(source), n, n_params; given) : module_.with_constants(like, given, nothing)
end
"""
_CALL = """
(module_, generated, name, sizes, inputs, u, p, t) -> begin
    T = eltype(u)
    vector(x) = Vector{T}(collect(x))
    outputs = [fill(T(NaN), n) for n in sizes]
    w = module_.workspace(generated, T)
    f = module_.lookup(generated, Symbol(name))
    Base.invokelatest(f, outputs..., map(vector, inputs)..., vector(u), vector(p), T(t), w)
    reduce(vcat, outputs)
end
"""
_OUT_OF_PLACE = """
(module_, generated, u, p, t) -> begin
    T = eltype(u)
    f = module_.without_mutation(generated)
    Vector{T}(Base.invokelatest(f, Vector{T}(collect(u)), Vector{T}(collect(p)), T(t)))
end
"""
_ALLOCATED = """
begin
measure(f::F, args::Vararg{Any,N}) where {F,N} = (f(args...); f(args...); @allocated f(args...))
(module_, generated, name, sizes, inputs, u, p, t) -> begin
    T = eltype(u)
    vector(x) = Vector{T}(collect(x))
    arguments = ([zeros(T, n) for n in sizes]..., map(vector, inputs)..., vector(u), vector(p), T(t),
                 module_.workspace(generated, T))
    Base.invokelatest(measure, module_.lookup(generated, Symbol(name)), arguments...)
end
end
"""


@functools.cache
def _function(source: str) -> Any:
    """A Julia function, compiled once."""
    import juliacall

    return juliacall.Main.seval(source)


class JuliaModel:
    """A lowered model in Julia; with `like`, by what was compiled for another one that has its constants apart."""

    def __init__(self, lowered: LoweredModel, nonzeros: int = 0, like: JuliaModel | None = None) -> None:
        from pysciode.engines.julia.runtime import start_julia

        self._module = start_julia()
        self.lowered, self.nonzeros = lowered, nonzeros
        names, arrays = list(lowered.constants), list(lowered.constants.values())
        assert like is None or like.lowered.source == lowered.source
        self._generated = _function(_CALLER)(
            self._module, lowered.source, names, arrays, lowered.n, lowered.n_params, lowered.apart, like and like._generated
        )

    def _sizes(self, name: str) -> list[int]:
        n, n_params = self.lowered.n, self.lowered.n_params
        return {
            "vjp_p!": [n_params], "vjp_both!": [n, n_params], "jac!": [n * n], "paramjac!": [n * n_params],
            "jac_sparse!": [self.nonzeros],
        }.get(name, [n])  # fmt: skip

    def _arguments(self, name: str, u: Any, p: Any, t: float, v: Any) -> tuple[Any, ...]:
        inputs = [v] if name in ("vjp!", "vjp_p!", "vjp_both!", "jvp!") else []
        return self._module, self._generated, name, self._sizes(name), inputs, u, p, t

    def call(self, name: str, u: np.ndarray, p: np.ndarray, t: float, v: np.ndarray) -> np.ndarray:
        """The outputs of a function, one after the other; `v` is its cotangent or tangent."""
        if name == "f_oop":
            return np.array(_function(_OUT_OF_PLACE)(self._module, self._generated, u, p, t))
        return np.array(_function(_CALL)(*self._arguments(name, u, p, t, v)))

    def allocated(self, name: str, u: np.ndarray, p: np.ndarray, t: float, v: np.ndarray) -> int:
        """Bytes that one call of a function allocates."""
        return int(_function(_ALLOCATED)(*self._arguments(name, u, p, t, v)))
