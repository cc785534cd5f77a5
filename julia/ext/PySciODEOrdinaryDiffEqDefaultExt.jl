"""Compiles `DefaultODEAlgorithm` ahead of time, for the types of this package."""
module PySciODEOrdinaryDiffEqDefaultExt

using OrdinaryDiffEqDefault: OrdinaryDiffEqDefault
using PrecompileTools: @compile_workload
using PySciODE: rehearse_forward

@compile_workload rehearse_forward(Float64, "OrdinaryDiffEqDefault", "DefaultODEAlgorithm")

end
