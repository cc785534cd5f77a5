"""Compiles `FBDF` ahead of time, for the types of this package."""
module PySciODEOrdinaryDiffEqBDFExt

using OrdinaryDiffEqBDF: OrdinaryDiffEqBDF
using PrecompileTools: @compile_workload
using PySciODE: rehearse_forward

@compile_workload rehearse_forward(Float64, "OrdinaryDiffEqBDF", "FBDF")

end
