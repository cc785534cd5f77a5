"""
    PtrVector{T}(ptr, n)

A vector over foreign or pinned memory that costs nothing to make. Generated code sees states and parameters through it; whoever
makes one keeps the memory alive.
"""
struct PtrVector{T} <: DenseVector{T}
    ptr::Ptr{T}
    n::Int
end

Base.size(v::PtrVector) = (v.n,)
Base.IndexStyle(::Type{<:PtrVector}) = IndexLinear()
Base.elsize(::Type{PtrVector{T}}) where {T} = sizeof(T)
Base.strides(::PtrVector) = (1,)
Base.unsafe_convert(::Type{Ptr{T}}, v::PtrVector{T}) where {T} = v.ptr
Base.pointer(v::PtrVector) = v.ptr
Base.@propagate_inbounds function Base.getindex(v::PtrVector, i::Int)
    @boundscheck checkbounds(v, i)
    return unsafe_load(v.ptr, i)
end
Base.@propagate_inbounds function Base.setindex!(v::PtrVector{T}, x, i::Int) where {T}
    @boundscheck checkbounds(v, i)
    unsafe_store!(v.ptr, convert(T, x), i)
    return v
end
Base.similar(::PtrVector, ::Type{S}, dims::Dims) where {S} = Array{S}(undef, dims)
