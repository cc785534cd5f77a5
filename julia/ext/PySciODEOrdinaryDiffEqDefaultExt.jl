"""Compiles `DefaultODEAlgorithm` ahead of time, for the types of this package."""
module PySciODEOrdinaryDiffEqDefaultExt

using OrdinaryDiffEqDefault: OrdinaryDiffEqDefault
using PrecompileTools: @compile_workload
using PySciODE: rehearse, rehearse_forward, step_method

@compile_workload begin
    rehearse_forward(Float64, "OrdinaryDiffEqDefault", "DefaultODEAlgorithm")
    rehearse(Float64, "OrdinaryDiffEqDefault", "DefaultODEAlgorithm", "full", "DiscreteAdjoint"; pullback=true)
    foreach(step_method, OrdinaryDiffEqDefault.DefaultODEAlgorithm().algs[1:4])  # those that can be gone back through
end

end
