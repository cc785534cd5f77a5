"""Compiles `DefaultODEAlgorithm` ahead of time, for the types of this package."""
module PySciODEOrdinaryDiffEqDefaultExt

using OrdinaryDiffEqDefault: OrdinaryDiffEqDefault
using PrecompileTools: @compile_workload, @setup_workload
using PySciODE: rehearse

@setup_workload begin
    @compile_workload begin
        rehearse(Float64, "OrdinaryDiffEqDefault", "DefaultODEAlgorithm", "full", nothing)
        rehearse(Float64, "OrdinaryDiffEqDefault", "DefaultODEAlgorithm", "full", nothing; dense=true)
    end
end

end
