"""
The Julia side of pysciode: generated models behind one concrete type, solved and differentiated by SciML.

Python reaches all of it through the C functions of `addresses`: `c_command` registers generated source as a model and bundles it with an
algorithm and options into a plan; the others solve, interpolate and pull back over flat arrays.
"""
module PySciODE

using ADTypes: ADTypes
using Base.Experimental: @opaque
using DiffEqBase: DiffEqBase, DEVerbosity
using ForwardDiff: ForwardDiff
using LinearAlgebra
using NaNMath: NaNMath
using OrdinaryDiffEqCore: OrdinaryDiffEqCore
using OrdinaryDiffEqTsit5: OrdinaryDiffEqTsit5
using PrecompileTools: @compile_workload, @setup_workload
using SciMLBase: SciMLBase, DynamicalODEProblem, FullSpecialize, ODEFunction, ODEProblem, SplitFunction, SplitODEProblem, init, remake, solve,
    solve!
using SciMLLogging: SciMLLogging
using SparseArrays: SparseMatrixCSC, nonzeros
using SpecialFunctions: digamma, loggamma
using TOML: TOML

struct Mode end
"""The tag of the dual numbers of forward mode."""
const ModeTag = ForwardDiff.Tag{Mode,Nothing}

include("pointers.jl")
include("kernels.jl")
include("errors.jl")
include("polling.jl")
include("models.jl")
include("plans.jl")
include("crossings.jl")
include("events.jl")
include("solving.jl")
include("mass_matrices.jl")
include("forward_mode.jl")
include("forward_sensitivity.jl")
include("devices.jl")
include("border.jl")
include("commands.jl")
include("likelihoods.jl")
include("objective.jl")
include("trajectories.jl")
include("ensembles.jl")
include("workload.jl")

end
