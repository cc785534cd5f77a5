"""Compiles `FBDF` and `QNDF` ahead of time, for the types of this package."""
module PySciODEOrdinaryDiffEqBDFExt

using OrdinaryDiffEqBDF: OrdinaryDiffEqBDF
using PrecompileTools: @compile_workload
using PySciODE: rehearse_forward

@compile_workload begin
    for name in ("FBDF", "QNDF")
        rehearse_forward(Float64, "OrdinaryDiffEqBDF", name)
    end
end

end
