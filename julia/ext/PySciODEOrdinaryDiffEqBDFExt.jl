"""Compiles `FBDF` ahead of time, for the types of this package."""
module PySciODEOrdinaryDiffEqBDFExt

using OrdinaryDiffEqBDF: OrdinaryDiffEqBDF
using PrecompileTools: @compile_workload, @setup_workload
using PySciODE: rehearse

@setup_workload begin
    @compile_workload begin
        rehearse(Float64, "OrdinaryDiffEqBDF", "FBDF", "full", nothing)
        rehearse(Float64, "OrdinaryDiffEqBDF", "FBDF", "full", nothing; dense=true)
    end
end

end
