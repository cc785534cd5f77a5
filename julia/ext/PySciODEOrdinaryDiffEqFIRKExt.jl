"""Compiles `RadauIIA5` ahead of time, for the types of this package."""
module PySciODEOrdinaryDiffEqFIRKExt

using OrdinaryDiffEqFIRK: OrdinaryDiffEqFIRK
using PrecompileTools: @compile_workload
using PySciODE: rehearse_forward

@compile_workload rehearse_forward(Float64, "OrdinaryDiffEqFIRK", "RadauIIA5")

end
