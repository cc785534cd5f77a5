# A plan is what stays the same from one solve to the next: the model, the algorithm, the options. Python makes one and keeps it, so
# that the crossing itself carries nothing but pointers and numbers.

"""Options of `solve`, each of one fixed type, so that the solver is compiled once for all of them."""
Base.@kwdef struct Options{A}
    reltol::Float64 = 1e-6
    abstol::A = 1e-8
    dt::Float64 = 0.0        # 0: SciML chooses
    dtmin::Float64 = 0.0
    dtmax::Float64 = Inf     # Inf: the length of the time span
    maxiters::Int = 100_000
    adaptive::Bool = true
    dense::Bool = false
    tstops::Vector{Float64} = Float64[]
    coarse::Bool = false     # whether the dense output does not keep up with the steps: then these end at the saved times
    save_idxs::Union{Nothing,Vector{Int}} = nothing
    extra::Vector{Pair{Symbol,Any}} = Pair{Symbol,Any}[]
end

"""
    Sensitivity

How to differentiate: the method (by SciML's `name`), the choice of VJP, and the options.
"""
Base.@kwdef struct Sensitivity
    name::Symbol
    method::Methods.Method = sensitivity_method(Val(name))
    autojacvec::Symbol = :generated
    options::Vector{Pair{Symbol,Any}} = Pair{Symbol,Any}[]
    abstol::Float64 = NaN     # NaN: as the forward solve
    reltol::Float64 = NaN
    u0::Bool = true           # which gradients are wanted
    p::Bool = true
end

"""An option of a sensitivity method; nothing where it was not given."""
function option(s::Sensitivity, name::Symbol)
    for (given, value) in s.options
        given === name && return value
    end
    return nothing
end

"""
In which form SciML solves a problem. Each is a type of its own with two methods:

    form(::Val{name})                              the form that Python calls by this name
    problem(form, plan, inst, u0, p, tspan)        SciML's problem

`plan.parts` are the models of the functions that the form takes on their own, by name; see `part`.
"""
abstract type Form end

"""
An event of a plan: it occurs where the first output of `condition` changes its sign.

`direction`: +1 for upward, -1 for downward changes alone, 0 for both. `stop_after`: the solve ends with that occurrence, 0 for never.
`restart`: whether the method has a history of steps, which one that is cut short makes worthless.
`affect`, unless nothing, is a model whose output is the state after the event.
"""
struct Event{T}
    condition::Model{T}
    affect::Union{Nothing,Model{T}}
    direction::Int
    stop_after::Int
    restart::Bool
end

"""
    Algebraic(initialize, M)

What is to know of the algebraic equations that a singular mass matrix makes. `initialize`: SciML's way to consistent initial values.
`variables` and `equations`: columns and rows of zeros. `free`: the combinations of equations in which the derivative vanishes.
"""
struct Algebraic
    initialize::Any
    variables::Vector{Int}
    equations::Vector{Int}
    free::Matrix{Float64}
end
function Algebraic(initialize, M::Matrix{Float64})
    zero_lines(dims) = findall(vec(all(iszero, M; dims)))
    return Algebraic(initialize, zero_lines(1), zero_lines(2), permutedims(nullspace(permutedims(M))))
end

"""Whether the matrix, its lines of zeros left out, is regular."""
can_differentiate(a::Algebraic) = length(a.variables) == length(a.equations) == size(a.free, 1)

"""
    Plan

A model, an algorithm and everything else that does not change from one solve to the next.
"""
struct Plan{T,A,R,O<:Options,M<:AbstractModel{T}}
    form::Form
    model::M
    parts::Dict{Symbol,Model{T}}    # functions of the form beside the model
    alg::A
    reverse::R                      # the same algorithm, as the reverse solve of an adjoint takes it
    odekind::Symbol
    options::O
    sensitivity::Union{Nothing,Sensitivity}
    mass_matrix::Union{Nothing,Matrix{Float64}}
    algebraic::Union{Nothing,Algebraic}
    events::Vector{Event{T}}
end

"""Length of the saved states."""
width(plan::Plan) = plan.options.save_idxs === nothing ? plan.model.generated.n : length(plan.options.save_idxs)

"""The entries to save, of a whole state."""
saved(plan::Plan, u) = plan.options.save_idxs === nothing ? u : u[plan.options.save_idxs]

const SILENT = DEVerbosity(SciMLLogging.None())

# A failed reverse solve must not pass for a gradient: what SciML would only warn of becomes an exception. Not that a step is near the
# spacing of floats (`dt_epsilon`): it happens at the start of solves in Float32 that then go on well.
function loud()
    level = SciMLLogging.ErrorLevel()
    return DEVerbosity(; max_iters=level, instability=level, dt_NaN=level, dt_min_unstable=level, dt_epsilon=SciMLLogging.Silent())
end
const LOUD = loud()

"""
    algorithm(text, packages)

The algorithm that a constructor call such as `"Rodas5P(; linsolve = KLUFactorization())"` makes, with its names looked up in `packages`
(which are loaded if they are not yet), ADTypes, LinearSolve and the nonlinear solvers. Only constructors are called.
"""
function algorithm(text::AbstractString, packages)
    modules = Module[require(String(name)) for name in packages]
    append!(modules, (ADTypes, OrdinaryDiffEqCore))
    # KLUFactorization, NLNewton and their like; loaded with the algorithms that take them.
    for package in ("LinearSolve", "OrdinaryDiffEqNonlinearSolve")
        mod = loaded(package)
        mod === nothing || push!(modules, mod)
    end
    return Base.invokelatest(construct, Meta.parse(text), modules)
end

construct(x, modules) = x
construct(x::QuoteNode, modules) = x.value
construct(x::Symbol, modules) = x === :nothing ? nothing : find_name(x, modules)
function construct(x::Expr, modules)
    x.head === :(.) && return find_name(x.args[end].value, modules)
    x.head === :call || throw(ArgumentError("not a constructor call: $x"))
    constructor = construct(x.args[1], modules)
    allowed = constructor isa Type || constructor isa Function && !(parentmodule(constructor) in (Base, Core))
    allowed || throw(ArgumentError("$(x.args[1]) is no constructor"))
    positional, keywords = Any[], Pair{Symbol,Any}[]
    for argument in x.args[2:end]
        if argument isa Expr && argument.head === :parameters
            for k in argument.args
                push!(keywords, k.args[1] => construct(k.args[2], modules))
            end
        elseif argument isa Expr && argument.head === :kw
            push!(keywords, argument.args[1] => construct(argument.args[2], modules))
        else
            push!(positional, construct(argument, modules))
        end
    end
    return Base.invokelatest(constructor, positional...; keywords...)
end

function find_name(name::Symbol, modules)
    for mod in modules
        isdefined(mod, name) && return getfield(mod, name)
    end
    throw(ArgumentError("$name is not defined in $(join(nameof.(modules), ", ")); name the package that exports it, " *
                        "Algorithm(\"$name\", package=…)"))
end

"""The package called so, if it is loaded."""
function loaded(package::AbstractString)
    for (id, mod) in Base.loaded_modules
        id.name == package && return mod
    end
    return nothing
end

"""Load a package of the active environment, by name."""
function require(package::AbstractString)
    mod = loaded(package)
    mod === nothing || return mod
    id = Base.identify_package(package)
    id === nothing && (id = Base.identify_package(@__MODULE__, package))
    id === nothing && throw(ArgumentError("the package $package is not in this Julia environment; juliapkg.add(\"$package\", uuid) " *
                                          "puts it there"))
    return Base.require(id)
end

"""
    for_reverse(alg)

The same algorithm with finite differences for what is not generated: the reverse problem reads the forward solution, which dual numbers
of time do not pass through.
"""
for_reverse(alg) = hasproperty(alg, :autodiff) ? remake(alg; autodiff=ADTypes.AutoFiniteDiff()) : alg

"""Whether an algorithm is implicit, or may switch to one that is."""
takes_jacobian(alg) = hasproperty(alg, :autodiff) || hasproperty(alg, :algs)

isadaptive(alg) = try
    SciMLBase.isadaptive(alg)
catch
    true
end

"""
    plan(model, alg; form, parts, odekind, options, sensitivity, mass_matrix, algebraic, events)

Bundle and check; `dt` is asked for where the method has fixed steps.
"""
function plan(model::AbstractModel{T}, alg; reverse=alg, form=FirstOrder(), parts=Dict{Symbol,Model{T}}(), odekind=:full, options=Options(), sensitivity=nothing,
              mass_matrix=nothing, algebraic=nothing, events=Event{T}[]) where {T}
    if (!isadaptive(alg) || !options.adaptive) && options.dt == 0 && isempty(options.tstops)
        throw(ArgumentError("$(nameof(typeof(alg))) has fixed steps here: give dt"))
    end
    return Plan{T,typeof(alg),typeof(reverse),typeof(options),typeof(model)}(form, model, parts, alg, reverse, odekind, options, sensitivity, mass_matrix,
                                                                                           algebraic, events)
end
