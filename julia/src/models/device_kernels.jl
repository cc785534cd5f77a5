# What generated code calls on a device, whose memory the processor can't read entry by entry. Part of `Kernels`; `launch!` has its
# method in the extension of KernelAbstractions.

"""    launch!(kernel, n, x, more...): have each of `n` threads call `kernel(i, x, more...)`; `x` says on which device"""
function launch! end

"""An uninitialised vector beside `like`."""
device_vector(like, ::Type{T}, n) where {T} = similar(like, T, n)

"""A constant of the model, on the device of `like`."""
device_constant(like, constant::Vector{T}) where {T} = copyto!(similar(like, T, length(constant)), constant)

"""
    device_product!(C, co, cb, cr, cc, A, ao, ab, ar, ac, B, bo, bb, br, bc, batch, m, n, k)

`C = A B` for each of a batch of `m × k` and `k × n` matrices in flat vectors, given by offset and strides of batch, rows and columns. A
thread for each element; extensions take their device's library.
"""
function device_product!(C, co, cb, cr, cc, A, ao, ab, ar, ac, B, bo, bb, br, bc, batch, m, n, k)
    strides = ((co, cb, cr, cc), (ao, ab, ar, ac), (bo, bb, br, bc))
    launch!(product_element, batch * m * n, C, A, B, strides, m, n, k)
    return nothing
end

function product_element(index, C, A, B, strides, m, n, k)
    (co, cb, cr, cc), (ao, ab, ar, ac), (bo, bb, br, bc) = strides
    page, rest = divrem(index - 1, m * n)
    i, j = divrem(rest, n)
    a, b = ao + page * ab + i * ar + 1, bo + page * bb + j * bc + 1
    s = zero(eltype(C))
    for l in 0:k-1
        @inbounds s += A[a+l*ac] * B[b+l*br]
    end
    @inbounds C[co+page*cb+i*cr+j*cc+1] = s
    return nothing
end

"""    device_solve!(A, ao, B, bo, batch, n, k): [`solve!`](@ref) for each of a batch, a thread for each"""
device_solve!(A, ao, B, bo, batch, n, k) = (launch!(solve_page, batch, A, B, ao, bo, n, k); nothing)
solve_page(page, A, B, ao, bo, n, k) = solve!(A, ao + (page - 1) * n * n, B, bo + (page - 1) * n * k, n, k)

"""Have `flag[1]` say that an entry of `x` is not finite. Nobody waits for it."""
note_nonfinite!(flag, x) = (launch!(note_entry, length(x), flag, x); nothing)
note_entry(i, flag, x) = (@inbounds isfinite(x[i]) || (flag[1] = true); nothing)

"""
The functions of NaNMath, which calls C for some of them, as a device can compile them. Base's own throw outside of their domain on a
processor, and give NaN on a GPU.
"""
module OnDevice

@inline nan(x) = oftype(x, NaN)
@inline sqrt(x) = ifelse(x < 0, nan(x), Base.sqrt(abs(x)))
@inline log(x) = ifelse(x < 0, nan(x), Base.log(abs(x)))
@inline log2(x) = ifelse(x < 0, nan(x), Base.log2(abs(x)))
@inline log10(x) = ifelse(x < 0, nan(x), Base.log10(abs(x)))
@inline log1p(x) = x < -1 ? nan(x) : Base.log1p(x)
@inline sin(x) = isinf(x) ? nan(x) : Base.sin(x)
@inline cos(x) = isinf(x) ? nan(x) : Base.cos(x)
@inline tan(x) = isinf(x) ? nan(x) : Base.tan(x)
@inline asin(x) = abs(x) > 1 ? nan(x) : Base.asin(x)
@inline acos(x) = abs(x) > 1 ? nan(x) : Base.acos(x)
@inline acosh(x) = x < 1 ? nan(x) : Base.acosh(x)
@inline atanh(x) = abs(x) > 1 ? nan(x) : Base.atanh(x)
@inline pow(x, y::Integer) = x^y
@inline pow(x, y) = x < 0 && isfinite(y) && y != Base.trunc(y) ? nan(x) : x^y

end
