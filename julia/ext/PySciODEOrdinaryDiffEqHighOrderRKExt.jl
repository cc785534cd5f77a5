"""Compiles `DP8` ahead of time, for the types of this package."""
module PySciODEOrdinaryDiffEqHighOrderRKExt

using OrdinaryDiffEqHighOrderRK: OrdinaryDiffEqHighOrderRK
using PrecompileTools: @compile_workload
using PySciODE: rehearse_forward

@compile_workload rehearse_forward(Float64, "OrdinaryDiffEqHighOrderRK", "DP8")

end
