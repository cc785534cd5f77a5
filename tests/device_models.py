"""Calls the device form of a lowered model: over JLArrays, or over vectors that watch what threads do."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pysciode.lowering import LoweredModel

_WATCHED = """
module WatchedVectors

# Of the last launch in which an entry was written or read: the launch's number, and the thread's, or 0 where it was several.
struct Watched{T} <: DenseVector{T}
    data::Vector{T}
    written::Vector{Tuple{Int,Int}}
    read::Vector{Tuple{Int,Int}}
end
Watched(data::Vector) = Watched(data, fill((0, 0), length(data)), fill((0, 0), length(data)))
Base.size(x::Watched) = size(x.data)
Base.similar(x::Watched, ::Type{T}, n::Integer) where {T} = Watched(T <: AbstractFloat ? fill(T(NaN), n) : zeros(T, n))
Base.copyto!(x::Watched, y::Vector) = (copyto!(x.data, y); x)

const LAUNCHES = Ref(0)
const THREAD = Ref(0)

function Base.getindex(x::Watched, i::Int)
    THREAD[] == 0 && error("an entry is read from the host")
    launch, thread = x.written[i]
    launch == LAUNCHES[] && thread != THREAD[] && error("entry $i is read by thread $(THREAD[]), and written by thread $thread")
    launch, thread = x.read[i]
    x.read[i] = (LAUNCHES[], launch == LAUNCHES[] && thread != THREAD[] ? -1 : THREAD[])
    return x.data[i]
end

function Base.setindex!(x::Watched, value, i::Int)
    THREAD[] == 0 && error("an entry is written from the host")
    for (launch, thread) in (x.written[i], x.read[i])
        launch == LAUNCHES[] && thread != THREAD[] &&
            error("entry $i is written by thread $(THREAD[]), and used by thread $thread")
    end
    x.written[i] = (LAUNCHES[], THREAD[])
    x.data[i] = value
end

launch!(module_) = @eval function $module_.Kernels.launch!(kernel, n, x::Watched, more...)
    LAUNCHES[] += 1
    for i in 1:n
        THREAD[] = i
        kernel(i, x, more...)
    end
    THREAD[] = 0
    return nothing
end

end
"""
_GENERATE = """
(module_, source, names, arrays, n, n_params) -> begin
    constants = [String(k) => Vector(collect(v)) for (k, v) in zip(names, arrays)]
    module_.generate(String(source), n, n_params; constants, on_device=true)
end
"""
# Each is called once, on few numbers: the interpreter is quicker than the compiler.
_INTERPRETED = "Base.Experimental.@compiler_options compile=min optimize=0 infer=false\n"
_CALL = """
(module_, generated, device, name, sizes, inputs, u, p, t) -> begin
    T = eltype(u)
    vector(x) = device(Vector{T}(collect(x)))
    outputs = [device(fill(T(NaN), n)) for n in sizes]
    w = module_.workspace(generated, vector(u))
    f = module_.lookup(generated, Symbol(name))
    before = WatchedVectors.LAUNCHES[]
    Base.invokelatest(f, outputs..., map(vector, inputs)..., vector(u), vector(p), t, w)
    host(x) = x isa WatchedVectors.Watched ? x.data : Vector(x)
    (reduce(vcat, map(host, outputs)), WatchedVectors.LAUNCHES[] - before)
end
"""


@functools.cache
def _function(source: str) -> Any:
    """A Julia function, compiled once."""
    import juliacall

    return juliacall.Main.seval(source)


@functools.cache
def _watched_vectors(module: Any) -> Any:
    import juliacall

    juliacall.Main.seval(_WATCHED)
    juliacall.Main.seval("WatchedVectors.launch!")(module)
    return juliacall.Main.WatchedVectors.Watched


def jlarrays() -> Any:
    """The type of a vector that takes no access entry by entry."""
    import juliacall

    from pysciode.engines.julia.runtime import start_julia

    start_julia()
    juliacall.Main.seval("using JLArrays")
    juliacall.Main.seval("JLArrays.allowscalar(false)")
    return juliacall.Main.JLArray


class DeviceModel:
    """The device form of a model in Julia.

    Parameters
    ----------
    device
        Type of its vectors. Without one, vectors that raise an error where two threads of one launch use the same entry and one
        of them writes it, and where the host reads or writes one.
    """

    def __init__(self, lowered: LoweredModel, device: Any = None) -> None:
        from pysciode.engines.julia.runtime import start_julia

        self._module = start_julia()
        watched = _watched_vectors(self._module)
        self.lowered, self._device = lowered, device or watched
        source = lowered.source if device else _INTERPRETED + lowered.source
        names, arrays = list(lowered.constants), list(lowered.constants.values())
        self._generated = _function(_GENERATE)(self._module, source, names, arrays, lowered.n, lowered.n_params)
        self.launches = 0

    def call(self, name: str, u: np.ndarray, p: np.ndarray, t: float, v: np.ndarray) -> np.ndarray:
        """The outputs of a function, one after the other; `v` is its cotangent or tangent."""
        n, n_params = self.lowered.n, self.lowered.n_params
        sizes = {
            "vjp_p!": [n_params], "vjp_both!": [n, n_params], "jac!": [n * n], "paramjac!": [n * n_params]
        }.get(name, [n])  # fmt: skip
        inputs = [v] if name in ("vjp!", "vjp_p!", "vjp_both!", "jvp!") else []
        out, self.launches = _function(_CALL)(self._module, self._generated, self._device, name, sizes, inputs, u, p, t)
        return np.array(out)
