"""Compiles the adjoint of `Rodas5P` ahead of time, for the types of this package."""
module PySciODEStiffAdjointExt

using OrdinaryDiffEqRosenbrock: OrdinaryDiffEqRosenbrock
using PrecompileTools: @compile_workload
using PySciODE: rehearse, run_adjoint
using SciMLSensitivity: SciMLSensitivity

# Another extension defines the adjoints, and some versions of Julia don't load it while this one is compiled.
isempty(methods(run_adjoint)) || @compile_workload begin
    rehearse(Float64, "OrdinaryDiffEqRosenbrock", "Rodas5P", "full", "GaussAdjoint"; pullback=true)
end

end
