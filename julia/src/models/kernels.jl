"""
What generated code calls: elementary functions that vectorise, and products of strided matrices.
"""
module Kernels

using ForwardDiff: ForwardDiff
using LinearAlgebra: BLAS, BlasInt
using NaNMath: NaNMath
using SpecialFunctions: SpecialFunctions

const BlasReal = Union{Float32,Float64}

# ---------------------------------------------------------------------------------------------------------------------
# Elementary functions without branches, so that loops over them vectorise. Other types (dual numbers) take Base's, whose
# derivatives are known.

# exp(x) = 2^k exp(r), |r| <= log(2)/2, with a polynomial for (exp(r) - 1 - r) / r^2.
@inline _expm1_tail(r::Float64) = evalpoly(r, (
    0.5, 0.16666666666666666, 0.041666666666666664, 0.008333333333333333, 0.001388888888888889,
    0.0001984126984126984, 2.48015873015873e-5, 2.7557319223985893e-6, 2.755731922398589e-7, 2.505210838544172e-8,
    2.08767569878681e-9, 1.6059043836821613e-10,
))
@inline _expm1_tail(r::Float32) =
    evalpoly(r, (0.5f0, 0.16666667f0, 0.041666668f0, 0.008333334f0, 0.0013888889f0, 0.00019841270f0))

# log(2) in two parts, the first with trailing zeros.
@inline _ln2(::Type{Float64}) = (6.93147180369123816490e-1, 1.90821492927058770002e-10)
@inline _ln2(::Type{Float32}) = (0.693359375f0, -2.12194440f-4)

# Adding and subtracting this rounds to an integer, which then stands in the last bits.
@inline _shift(::Type{Float64}) = 6.755399441055744e15
@inline _shift(::Type{Float32}) = 1.2582912f7

@inline _power_of_two(k::Float64) =
    reinterpret(Float64, (reinterpret(Int64, k + _shift(Float64)) + 1023) << 52)
@inline _power_of_two(k::Float32) =
    reinterpret(Float32, (reinterpret(Int32, k + _shift(Float32)) + Int32(127)) << 23)

@inline function _reduce(x::T) where {T<:BlasReal}
    s = _shift(T)
    k = muladd(x, T(1.4426950408889634), s) - s
    high, low = _ln2(T)
    r = muladd(k, -low, muladd(k, -high, x))
    return k, r
end

@inline _exp_bounds(::Type{Float64}) = (-745.2, 709.79)
@inline _exp_bounds(::Type{Float32}) = (-104.0f0, 88.73f0)

"""`exp`, within two units in the last place."""
@inline function fast_exp(x::T) where {T<:BlasReal}
    low, high = _exp_bounds(T)
    y = ifelse(x < low, low, ifelse(x > high, high, x))  # NaN passes
    k, r = _reduce(y)
    e = muladd(r * r, _expm1_tail(r), r) + one(T)
    # In two steps, because 2^k alone may not be representable.
    half = _shift(T)
    k1 = muladd(k, T(0.5), half) - half
    e = e * _power_of_two(k1) * _power_of_two(k - k1)
    return ifelse(x > high, T(Inf), ifelse(x < low, zero(T), e))
end
@inline fast_exp(x) = exp(x)

@inline _tanh_bound(::Type{Float64}) = 40.0
@inline _tanh_bound(::Type{Float32}) = 20.0f0

"""`tanh`, within a few units in the last place."""
@inline function fast_tanh(x::T) where {T<:BlasReal}
    bound = _tanh_bound(T)
    y = abs(x) + abs(x)
    y = ifelse(y > bound, bound, y)
    k, r = _reduce(y)
    scale = _power_of_two(k)
    m = muladd(scale, muladd(r * r, _expm1_tail(r), r), scale - one(T))  # exp(2|x|) - 1
    return copysign(m / (m + T(2)), x)
end
@inline fast_tanh(x) = tanh(x)

"""The logistic function `1 / (1 + exp(-x))`."""
@inline sigmoid(x::BlasReal) = one(x) / (one(x) + fast_exp(-x))
@inline function sigmoid(x)
    e = exp(-abs(x))
    return ifelse(x >= 0, one(e), e) / (one(e) + e)
end

@inline erf(x) = SpecialFunctions.erf(x)
@inline erfc(x) = SpecialFunctions.erfc(x)
@inline erfinv(x) = SpecialFunctions.erfinv(x)
@inline digamma(x) = SpecialFunctions.digamma(x)
@inline trigamma(x) = SpecialFunctions.trigamma(x)
@inline lgamma(x) = NaNMath.lgamma(x)

"""`x` without its derivatives: where the model stops gradients."""
@inline stop(x::Union{BlasReal,Bool,Int}) = x
@inline stop(x::ForwardDiff.Dual) = oftype(x, stop(ForwardDiff.value(x)))
@inline stop(x::Real) = hasfield(typeof(x), :value) ? x.value : throw(ArgumentError("can't stop derivatives of $(typeof(x))"))

# Comparisons and functions with kinks, whose derivatives there are torch's, whatever numbers carry them (dual numbers, numbers on a
# tape). Dual numbers compare their derivatives, too, where their values are equal.

"""`x` as a plain number."""
@inline value(x::Union{BlasReal,Bool,Int}) = x
@inline value(x::ForwardDiff.Dual) = value(ForwardDiff.value(x))
@inline value(x::Real) = hasfield(typeof(x), :value) ? value(x.value) : x
@inline value(x) = x

for (name, op) in ((:lt, :<), (:le, :<=), (:gt, :>), (:ge, :>=), (:eq, :(==)), (:ne, :(!=)))
    @eval @inline $name(x, y) = $op(value(x), value(y))
end
@inline isnan(x) = Base.isnan(value(x))
@inline isinf(x) = Base.isinf(value(x))

"""-1, 0 or 1, of derivative 0."""
@inline sign(x) = Base.sign(x)
@inline sign(x::ForwardDiff.Dual) = oftype(x, Base.sign(value(x)))

"""The larger one; equal ones share the derivative, and NaN wins."""
@inline larger(x::T, y::T) where {T<:BlasReal} = max(x, y)
@inline larger(x::Bool, y::Bool) = x | y
@inline larger(x, y) = gt(x, y) ? x : gt(y, x) ? y : x / 2 + y / 2

"""The smaller one; equal ones share the derivative, and NaN wins."""
@inline smaller(x::T, y::T) where {T<:BlasReal} = min(x, y)
@inline smaller(x::Bool, y::Bool) = x & y
@inline smaller(x, y) = lt(x, y) ? x : lt(y, x) ? y : x / 2 + y / 2

"""The larger one, of equal ones the first; NaN wins."""
@inline first_larger(x::T, y::T) where {T<:BlasReal} = max(x, y)
@inline first_larger(x, y) = gt(y, x) | (isnan(y) & !isnan(x)) ? y : x

"""The smaller one, of equal ones the first; NaN wins."""
@inline first_smaller(x::T, y::T) where {T<:BlasReal} = min(x, y)
@inline first_smaller(x, y) = lt(y, x) | (isnan(y) & !isnan(x)) ? y : x

"""The absolute value, with derivative 0 at 0."""
@inline magnitude(x::BlasReal) = abs(x)
@inline magnitude(x) = gt(x, 0) ? x : lt(x, 0) ? -x : x - x

"""`atan(y, x)`, with derivatives 0 at the origin."""
@inline angle(y::BlasReal, x::BlasReal) = atan(y, x)
@inline angle(y, x) = eq(y, 0) & eq(x, 0) ? y - y + atan(value(y), value(x)) : atan(y, x)

"""`mod(x, y)`, with derivative 1 to `x` also where it jumps."""
@inline modulo(x::BlasReal, y::BlasReal) = mod(x, y)
@inline modulo(x, y) = (a = value(x); b = value(y); x - a - floor(a / b) * (y - b) + mod(a, b))

"""`rem(x, y)`, with derivative 1 to `x` also where it jumps."""
@inline remainder(x::BlasReal, y::BlasReal) = rem(x, y)
@inline remainder(x, y) = (a = value(x); b = value(y); x - a - trunc(a / b) * (y - b) + rem(a, b))

"""`x^y`, NaN where that is not real; with derivative 0 to `x` where `y` is 0, and to `y` where `x` is 0."""
@inline power(x::BlasReal, y::BlasReal) = NaNMath.pow(x, y)
@inline power(x::BlasReal, y::Int) = NaNMath.pow(x, y)
@inline function power(x, y)
    a, b = value(x), value(y)
    z = NaNMath.pow(a, b)
    slope = b == 0 ? zero(z) : b * NaNMath.pow(a, b - 1)
    # Numbers on a tape: of the value of `z`, and with its derivatives.
    return z + _along(slope, x, a) + _along(_exponent_slope(a, b, z), y, b)
end
@inline _along(slope, x::T, a::T) where {T} = zero(T)

"""`x^(k + 1/2)` by multiplications and a square root, many times quicker than `power`."""
@inline half_power(x::BlasReal, ::Val{k}) where {k} = Base.literal_pow(^, x, Val(k)) * NaNMath.sqrt(x)
@inline half_power(x, ::Val{k}) where {k} = power(x, oftype(value(x), k + 0.5))

@inline _along(slope, x, a) = isfinite(slope) ? slope * (x - a) : oftype(slope, NaN) * x
@inline function power(x::D, y::Real) where {D<:ForwardDiff.Dual}
    a = ForwardDiff.value(x)
    slope = y == 0 ? zero(a) : y * NaNMath.pow(a, y - 1)
    return D(NaNMath.pow(a, y), slope * ForwardDiff.partials(x))
end
@inline function power(x::Real, y::D) where {D<:ForwardDiff.Dual}
    b = ForwardDiff.value(y)
    z = NaNMath.pow(x, b)
    return D(z, _exponent_slope(x, b, z) * ForwardDiff.partials(y))
end
@inline function power(x::D, y::D) where {D<:ForwardDiff.Dual}
    iszero(ForwardDiff.partials(y)) && return power(x, ForwardDiff.value(y))
    a, b = ForwardDiff.value(x), ForwardDiff.value(y)
    z = NaNMath.pow(a, b)
    slope = eq(b, 0) ? zero(a) : b * NaNMath.pow(a, b - 1)
    return D(z, slope * ForwardDiff.partials(x) + _exponent_slope(a, b, z) * ForwardDiff.partials(y))
end
@inline _exponent_slope(a, b, z) = eq(a, 0) & ge(b, 0) ? zero(z) : z * NaNMath.log(a)

"""A number that is whole, as an integer; `typemin(Int)` for NaN and what no integer holds."""
@inline integer(x::BlasReal) = ifelse(abs(x) < oftype(x, 2)^62, unsafe_trunc(Int, x), typemin(Int))
@inline integer(x) = integer(value(x))

"""A constant of the model where the arrays of `u` live."""
@inline like(u, constant) = constant

# ---------------------------------------------------------------------------------------------------------------------
# Products of matrices that lie in flat vectors: element (i, j) of `C` is `C[co + i*cr + j*cc + 1]`, from zero.

const DenseVec{T} = Union{DenseVector{T},Base.FastContiguousSubArray{T,1,<:DenseVector{T}}}

# Below this many multiplications, the call of BLAS costs more than loops (0.1 to 0.2 microseconds with OpenBLAS).
const BLAS_FROM = 256

"""
    matmul!(C, co, cr, cc, A, ao, ar, ac, B, bo, br, bc, m, n, k)

`C = A B` for `m × k` and `k × n` matrices given by offsets and strides of rows and columns.
"""
@inline function matmul!(C, co, cr, cc, A, ao, ar, ac, B, bo, br, bc, m, n, k)
    return _loops!(C, co, cr, cc, A, ao, ar, ac, B, bo, br, bc, m, n, k)
end
function matmul!(
    C::DenseVec{T}, co::Int, cr::Int, cc::Int, A::DenseVec{T}, ao::Int, ar::Int, ac::Int, B::DenseVec{T}, bo::Int, br::Int,
    bc::Int, m::Int, n::Int, k::Int,
) where {T<:BlasReal}
    if m * n * k >= BLAS_FROM && cc == 1 && (ar == 1 || ac == 1) && (br == 1 || bc == 1)
        # Row-major C = A B is column-major C' = B' A'.
        GC.@preserve A B C begin
            size = sizeof(T)
            _gemm!(
                br != 1 || bc == 1 ? 'N' : 'T', ar != 1 || ac == 1 ? 'N' : 'T', n, m, k,
                pointer(B) + bo * size, max(bc == 1 ? br : bc, 1), pointer(A) + ao * size, max(ac == 1 ? ar : ac, 1),
                pointer(C) + co * size, max(cr, 1), bc == 1 ? n : k, ac == 1 ? k : m,
            )
        end
        return nothing
    end
    return _loops!(C, co, cr, cc, A, ao, ar, ac, B, bo, br, bc, m, n, k)
end

for (gemm, T) in ((:sgemm_, :Float32), (:dgemm_, :Float64))
    @eval function _gemm!(
        ta::Char, tb::Char, m::Int, n::Int, k::Int, A::Ptr{$T}, lda::Int, B::Ptr{$T}, ldb::Int, C::Ptr{$T}, ldc::Int,
        least_a::Int, least_b::Int,
    )
        ccall(
            (BLAS.@blasfunc($gemm), BLAS.libblastrampoline), Cvoid,
            (
                Ref{UInt8}, Ref{UInt8}, Ref{BlasInt}, Ref{BlasInt}, Ref{BlasInt}, Ref{$T}, Ptr{$T},
                Ref{BlasInt}, Ptr{$T}, Ref{BlasInt}, Ref{$T}, Ptr{$T}, Ref{BlasInt}, Clong, Clong,
            ),
            ta, tb, m, n, k, one($T), A, max(lda, least_a), B, max(ldb, least_b), zero($T), C, ldc, 1, 1,
        )
        return nothing
    end
end

"""
    solve!(A, ao, B, bo, n, k)

Overwrite the `n × k` matrix `B` with `A⁻¹ B`, and `A` with its factors; both row by row. Gaussian elimination with partial pivoting.
"""
function solve!(A, ao, B, bo, n, k)
    @inbounds for j in 0:n-1
        pivot, size = j, abs(A[ao+j*n+j+1])
        for i in j+1:n-1
            candidate = abs(A[ao+i*n+j+1])
            if candidate > size
                pivot, size = i, candidate
            end
        end
        if pivot != j
            for l in j:n-1
                A[ao+j*n+l+1], A[ao+pivot*n+l+1] = A[ao+pivot*n+l+1], A[ao+j*n+l+1]
            end
            for l in 0:k-1
                B[bo+j*k+l+1], B[bo+pivot*k+l+1] = B[bo+pivot*k+l+1], B[bo+j*k+l+1]
            end
        end
        for i in j+1:n-1
            factor = A[ao+i*n+j+1] / A[ao+j*n+j+1]
            for l in j+1:n-1
                A[ao+i*n+l+1] -= factor * A[ao+j*n+l+1]
            end
            for l in 0:k-1
                B[bo+i*k+l+1] -= factor * B[bo+j*k+l+1]
            end
        end
    end
    @inbounds for j in n-1:-1:0, l in 0:k-1
        x = B[bo+j*k+l+1]
        for i in j+1:n-1
            x -= A[ao+j*n+i+1] * B[bo+i*k+l+1]
        end
        B[bo+j*k+l+1] = x / A[ao+j*n+j+1]
    end
    return nothing
end

function _loops!(C, co, cr, cc, A, ao, ar, ac, B, bo, br, bc, m, n, k)
    T = eltype(C)
    if ac == 1 && br == 1 && k >= 8
        # Rows of A and columns of B are dense: dot products.
        @inbounds for i in 0:m-1, j in 0:n-1
            a, b = ao + i * ar + 1, bo + j * bc + 1
            s = zero(T)
            @simd for l in 0:k-1
                s += A[a+l] * B[b+l]
            end
            C[co+i*cr+j*cc+1] = s
        end
    elseif ar == 1 && cr == 1 && m > n
        # Columns: C[:, j] += A[:, l] * B[l, j]
        @inbounds for j in 0:n-1
            c = co + j * cc + 1
            for i in 0:m-1
                C[c+i] = zero(T)
            end
            for l in 0:k-1
                a, x = ao + l * ac + 1, B[bo+l*br+j*bc+1]
                @simd ivdep for i in 0:m-1
                    C[c+i] += A[a+i] * x
                end
            end
        end
    elseif bc == 1 && cc == 1
        # Rows: C[i, :] += A[i, l] * B[l, :]
        @inbounds for i in 0:m-1
            c = co + i * cr + 1
            for j in 0:n-1
                C[c+j] = zero(T)
            end
            for l in 0:k-1
                b, x = bo + l * br + 1, A[ao+i*ar+l*ac+1]
                @simd ivdep for j in 0:n-1
                    C[c+j] += x * B[b+j]
                end
            end
        end
    else
        @inbounds for i in 0:m-1, j in 0:n-1
            s = zero(T)
            for l in 0:k-1
                s += A[ao+i*ar+l*ac+1] * B[bo+l*br+j*bc+1]
            end
            C[co+i*cr+j*cc+1] = s
        end
    end
    return nothing
end

include("device_kernels.jl")

end
