"""JLArrays as a device: GPU arrays that are kept in main memory, for tests where there is no GPU."""
module PySciODEJLArraysExt

using JLArrays: JLArrays, JLArray
using JLArrays.GPUArrays: DataRef
using PySciODE: Device, PySciODE

struct StandIn <: Device end

PySciODE.find_device(::Val{:stand_in}, index::Int) = StandIn()

# Entry by entry is what would be slow on a GPU: an error here.
PySciODE.activate(::StandIn, precision::Symbol) = JLArrays.allowscalar(false)

function PySciODE.wrap(::StandIn, ::Type{T}, address::Ptr{Cvoid}, n::Integer) where {T}
    bytes = n == 0 ? UInt8[] : unsafe_wrap(Vector{UInt8}, Ptr{UInt8}(address), n * sizeof(T))
    return JLArray{T,1}(DataRef(identity, bytes), (Int(n),))
end

PySciODE.allocate(::StandIn, ::Type{T}, n::Integer) where {T} = fill!(JLArray{T}(undef, n), zero(T))

end
