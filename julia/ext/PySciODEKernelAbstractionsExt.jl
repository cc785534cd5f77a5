"""Kernels on devices, by KernelAbstractions."""
module PySciODEKernelAbstractionsExt

using KernelAbstractions: KernelAbstractions, @index, @kernel, get_backend
using PySciODE: Kernels

@kernel function every_thread(f, args...)
    i = @index(Global, Linear)
    f(i, args...)
end

function Kernels.launch!(f::F, n, x, more...) where {F}
    n == 0 && return nothing
    every_thread(get_backend(x))(f, x, more...; ndrange=n)
    return nothing
end

end
