"""Compiles `Rodas5P` ahead of time, for the types of this package."""
module PySciODEOrdinaryDiffEqRosenbrockExt

using OrdinaryDiffEqRosenbrock: OrdinaryDiffEqRosenbrock
using PrecompileTools: @compile_workload
using PySciODE: rehearse, rehearse_forward

@compile_workload begin
    rehearse_forward(Float64, "OrdinaryDiffEqRosenbrock", "Rodas5P")
    rehearse(Float64, "OrdinaryDiffEqRosenbrock", "Rodas5P", "full", "DiscreteAdjoint"; pullback=true)
    for np in (2, 6)  # dual numbers of width 4 and 8
        rehearse(Float64, "OrdinaryDiffEqRosenbrock", "Rodas5P", "full", "ForwardDiffSensitivity"; pullback=true, np)
    end
end

end
