"""
NVIDIA's GPUs, by CUDA.jl. Nothing here has run on hardware yet.
"""
module PySciODECUDAExt

using CUDA
using CUDA: CUBLAS
using PySciODE: Device, DeviceUnavailable, Kernels, PySciODE

struct CUDADevice <: Device
    index::Int
end

function PySciODE.find_device(::Val{:cuda}, index::Int)
    if !CUDA.functional()
        reason = try
            CUDA.functional(true)  # says why
            "CUDA.jl can't be used"
        catch e
            sprint(showerror, e)
        end
        throw(DeviceUnavailable(reason))
    end
    count = length(CUDA.devices())
    index < count || throw(DeviceUnavailable("CUDA.jl sees $count devices, and number $index is not among them"))
    return CUDADevice(index)
end

function PySciODE.activate(d::CUDADevice, precision::Symbol)
    CUDA.device!(d.index)
    CUDA.allowscalar(false)
    mode = precision === :highest ? CUDA.DEFAULT_MATH : CUDA.FAST_MATH
    CUDA.math_mode() === mode || CUDA.math_mode!(mode; precision=:TensorFloat32)
    return nothing
end

PySciODE.synchronize(::CUDADevice) = CUDA.synchronize()

PySciODE.wrap(::CUDADevice, ::Type{T}, address::Ptr{Cvoid}, n::Integer) where {T} =
    n == 0 ? CuVector{T}(undef, 0) : unsafe_wrap(CuArray, reinterpret(CuPtr{T}, UInt(address)), (Int(n),))

PySciODE.allocate(d::CUDADevice, ::Type{T}, n::Integer) where {T} = (CUDA.device!(d.index); CUDA.zeros(T, n))

PySciODE.reclaim(d::CUDADevice) = (CUDA.device!(d.index); CUDA.reclaim())

PySciODE.out_of_memory(::CUDA.OutOfGPUMemoryError) = true

# By libdevice: what the processor calls is a C function.
CUDA.@device_override Kernels.lgamma(x::Float64) = ccall("extern __nv_lgamma", llvmcall, Cdouble, (Cdouble,), x)
CUDA.@device_override Kernels.lgamma(x::Float32) = ccall("extern __nv_lgammaf", llvmcall, Cfloat, (Cfloat,), x)

# cuBLAS reads one and zero from the device: kept there, so that no product has to bring them.
const SCALARS = Dict{Tuple{Int,DataType},Any}()
const SCALARS_LOCK = ReentrantLock()
scalars(::Type{T}) where {T} =
    @lock SCALARS_LOCK get!(() -> (CuRef(one(T)), CuRef(zero(T))), SCALARS, (CUDA.deviceid(), T))

# Row-major C = A B is column-major C' = B' A'. One of each operand's strides is 1.
for (T, gemm) in ((Float32, :cublasSgemmStridedBatched), (Float64, :cublasDgemmStridedBatched))
    @eval function Kernels.device_product!(
        C::DenseCuVector{$T}, co, cb, cr, cc, A::DenseCuVector{$T}, ao, ab, ar, ac, B::DenseCuVector{$T}, bo, bb, br, bc, batch, m, n, k,
    )
        by_rows(rows, columns) = columns == 1 || rows != 1
        operation(rows, columns) = by_rows(rows, columns) ? CUBLAS.CUBLAS_OP_N : CUBLAS.CUBLAS_OP_T
        leading(rows, columns, least) = max(by_rows(rows, columns) ? rows : columns, least, 1)
        at(x, offset) = pointer(x) + offset * sizeof($T)
        unit, null = scalars($T)
        GC.@preserve A B C CUBLAS.$gemm(
            CUBLAS.handle(), operation(br, bc), operation(ar, ac), n, m, k, unit, at(B, bo), leading(br, bc, by_rows(br, bc) ? n : k), bb,
            at(A, ao), leading(ar, ac, by_rows(ar, ac) ? k : m), ab, null, at(C, co), max(cr, n, 1), cb, batch,
        )
        return nothing
    end
end

end
