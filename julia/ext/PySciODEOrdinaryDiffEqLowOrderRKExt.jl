"""Compiles `BS3` and `DP5` ahead of time, for the types of this package."""
module PySciODEOrdinaryDiffEqLowOrderRKExt

using OrdinaryDiffEqLowOrderRK: OrdinaryDiffEqLowOrderRK
using PrecompileTools: @compile_workload
using PySciODE: rehearse_forward

@compile_workload begin
    for name in ("BS3", "DP5")
        rehearse_forward(Float64, "OrdinaryDiffEqLowOrderRK", name; event=name == "DP5")
    end
end

end
