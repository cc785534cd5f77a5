"""Compiles the adjoint of `Rodas5P` ahead of time, for the types of this package."""
module PySciODEStiffAdjointExt

using OrdinaryDiffEqRosenbrock: OrdinaryDiffEqRosenbrock
using PrecompileTools: @compile_workload
using PySciODE: Methods, differentiate, rehearse
using SciMLSensitivity: SciMLSensitivity

# Another extension defines the adjoints, and some versions of Julia don't load it while this one is compiled.
isempty(methods(differentiate, Tuple{Methods.GaussAdjoint,Vararg{Any}})) || @compile_workload begin
    rehearse(Float64, "OrdinaryDiffEqRosenbrock", "Rodas5P", "full", "GaussAdjoint"; pullback=true)
end

end
