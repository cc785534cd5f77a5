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
using LinearAlgebra: LinearAlgebra, I, issuccess, ldiv!, lu, lu!, mul!, nullspace
using NaNMath: NaNMath
using OrdinaryDiffEqCore: OrdinaryDiffEqCore
using OrdinaryDiffEqTsit5: OrdinaryDiffEqTsit5
using PrecompileTools: @compile_workload, @setup_workload
using SciMLBase: SciMLBase, DynamicalODEProblem, FullSpecialize, ODEFunction, ODEProblem, SplitFunction, SplitODEProblem, init, remake, solve,
    solve!, step!, successful_retcode
using SciMLLogging: SciMLLogging
using SparseArrays: SparseMatrixCSC, nonzeros, sparse, spdiagm
using SpecialFunctions: digamma, loggamma
using TOML: TOML

struct Mode end
"""The tag of the dual numbers of forward mode."""
const ModeTag = ForwardDiff.Tag{Mode,Nothing}

include("border/pointers.jl")
include("models/kernels.jl")
include("border/errors.jl")
include("border/polling.jl")
include("models/models.jl")
include("adjoints/methods.jl")
include("solving/plans.jl")
include("border/crossings.jl")
include("solving/events.jl")
include("solving/solving.jl")
include("solving/mass_matrices.jl")
include("forms/first_order.jl")
include("forms/partitioned.jl")
include("forms/split.jl")
include("adjoints/forward_mode.jl")
include("adjoints/forward_sensitivity.jl")
include("devices/devices.jl")
include("border/border.jl")
include("border/commands.jl")
include("adjoints/discrete.jl")
include("adjoints/explicit_steps.jl")
include("adjoints/rosenbrock_steps.jl")
include("fitting/likelihoods.jl")
include("fitting/objective.jl")
include("fitting/trajectories.jl")
include("devices/ensembles.jl")
include("workload.jl")

end
