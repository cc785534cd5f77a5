# Generated models behind one concrete type per element type: the solvers and adjoints are compiled once, for these types, into
# the package image, and a new model costs the compilation of its own few functions.

"""
    Generated

The functions that a model's source defines, by name, in a module of their own. Shared by all instances of the model.
"""
struct Generated
    mod::Module
    n::Int
    np::Int
    m::Int          # numbers that `f!` computes
    functions::Dict{Symbol,Any}
    sparsity::Union{Nothing,Tuple{Vector{Int},Vector{Int}}}
    branches::Bool  # whether the source may take one of several ways by the values of its arguments
    given::Any      # the constants that the source takes as an argument, a named tuple; or nothing
end

"""The names that generated source may define; see `LoweredModel` on the Python side for their arguments."""
const FUNCTION_NAMES = (
    :f!, :vjp!, :vjp_p!, :vjp_both!, :jvp!, :tgrad!, :jac!, :paramjac!, :jac_sparse!, :f_oop, :workspace,
)

"""
    generate(source, n, np; outputs, constants, sparsity, on_device, given) -> Generated

Evaluate `source` in a fresh module, with each of `constants` (name => vector) bound in it first.
"""
function generate(source::AbstractString, n::Integer, np::Integer; outputs=n, constants=(), sparsity=nothing, on_device=false,
                  given=nothing, filename="generated model")
    mod = Module(gensym(:PySciODEModel))
    Core.eval(mod, :(const Kernels = $Kernels))
    Core.eval(mod, :(const NaNMath = $(on_device ? Kernels.OnDevice : NaNMath)))
    for (name, value) in constants
        Core.eval(mod, Expr(:const, Expr(:(=), Symbol(name), QuoteNode(value))))
    end
    Base.include_string(mod, source, filename)
    functions = Dict{Symbol,Any}(
        name => Base.invokelatest(getfield, mod, name) for name in FUNCTION_NAMES if isdefined(mod, name)
    )
    branches = occursin(r"\b(if|ifelse|while)\b|\?|&&|\|\|", source)
    return Generated(mod, n, np, outputs, functions, sparsity, branches, given)
end

"""The same functions with other constants: nothing is compiled again."""
with_constants(g::Generated, given, sparsity) = Generated(g.mod, g.n, g.np, g.m, g.functions, sparsity, g.branches, given)

lookup(g::Generated, name::Symbol) = get(() -> throw(MissingFunction(name)), g.functions, name)

"""Buffers for an element type, or beside a vector on a device."""
function workspace(g::Generated, like)
    haskey(g.functions, :workspace) || return nothing
    make = g.functions[:workspace]
    return g.given === nothing ? Base.invokelatest(make, like) : Base.invokelatest(make, like, g.given)
end

"""The right-hand side out of place, `f(u, p, t)`."""
function without_mutation(g::Generated)
    f, given = lookup(g, :f_oop), g.given
    return given === nothing ? f : (u, p, t) -> f(u, p, t, given)
end

# ---------------------------------------------------------------------------------------------------------------------
# What a slot holds: the generated function, its workspace and its sizes, behind a type that does not name them. An opaque closure is such
# a type, and calling it costs 2 ns (a FunctionWrapper, 6). The arguments arrive as pointers because solvers pass vectors and adjoints
# pass views; a pointer covers both.

struct Call{K,G,W}
    g::G
    w::W
    n::Int
    np::Int
    m::Int  # length of the output of `f!` and of matrices
    Call{K}(g::G, w::W, n, np, m=0) where {K,G,W} = new{K,G,W}(g, w, n, np, m)
end

# Inlined all the way: a call costs as much as the evaluation of a small model.

# f!(du, u, p, t)
(c::Call{:f})(du, u, p, t) =
    (@inline c.g(PtrVector(du, c.m), PtrVector(u, c.n), PtrVector(p, c.np), t, c.w); nothing)
# jac!, paramjac!, jac_sparse!, tgrad!: an output of m numbers
(c::Call{:matrix})(J, u, p, t) =
    (@inline c.g(PtrVector(J, c.m), PtrVector(u, c.n), PtrVector(p, c.np), t, c.w); nothing)
# vjp!(dlam, lam, u, p, t) and jvp!(dv, v, u, p, t)
(c::Call{:vjp})(dl, l, u, p, t) =
    (@inline c.g(PtrVector(dl, c.n), PtrVector(l, c.n), PtrVector(u, c.n), PtrVector(p, c.np), t, c.w); nothing)
(c::Call{:vjp_p})(dp, l, u, p, t) =
    (@inline c.g(PtrVector(dp, c.np), PtrVector(l, c.n), PtrVector(u, c.n), PtrVector(p, c.np), t, c.w); nothing)
(c::Call{:both})(dl, dp, l, u, p, t) =
    (@inline c.g(PtrVector(dl, c.n), PtrVector(dp, c.np), PtrVector(l, c.n), PtrVector(u, c.n), PtrVector(p, c.np), t, c.w); nothing)

const Slot4{S,T} = Core.OpaqueClosure{Tuple{Ptr{S},Ptr{S},Ptr{S},T},Nothing}
const Slot5{S,T} = Core.OpaqueClosure{Tuple{Ptr{S},Ptr{S},Ptr{S},Ptr{S},T},Nothing}
const Slot6{S,T} = Core.OpaqueClosure{Tuple{Ptr{S},Ptr{S},Ptr{S},Ptr{S},Ptr{S},T},Nothing}

const Calls4 = Union{Call{:f},Call{:matrix}}
const Calls5 = Union{Call{:vjp},Call{:vjp_p}}

opaque(c::Calls4, ::Type{S}, ::Type{T}) where {S,T} = @opaque (a::Ptr{S}, u::Ptr{S}, p::Ptr{S}, t::T) -> @inline c(a, u, p, t)
opaque(c::Calls5, ::Type{S}, ::Type{T}) where {S,T} =
    @opaque (a::Ptr{S}, l::Ptr{S}, u::Ptr{S}, p::Ptr{S}, t::T) -> @inline c(a, l, u, p, t)
opaque(c::Call{:both}, ::Type{S}, ::Type{T}) where {S,T} =
    @opaque (dl::Ptr{S}, dp::Ptr{S}, l::Ptr{S}, u::Ptr{S}, p::Ptr{S}, t::T) -> @inline c(dl, dp, l, u, p, t)

"""
    at_runtime(f, args...)

Call `f` by dynamic dispatch, and keep inference out of it. What comes after is compiled for the types that it meets; what comes before
holds no inferred guesses about them, which every package that is loaded later would invalidate.
"""
at_runtime(f, args...; options...) = Base.invokelatest(f, args...; options...)

"""A model with buffers, for one solve at a time."""
abstract type AbstractInstance{T} end

"""
    Instance{T}(generated)

One model with buffers of its own: used by one solve at a time. Counts evaluations, and polls for Ctrl-C while it is called.
"""
mutable struct Instance{T} <: AbstractInstance{T}
    const generated::Generated
    const n::Int
    const np::Int
    const workspace::Any
    # for vjp and vjp_p at one point in one pass
    joint::Bool
    joint_ready::Bool
    joint_t::T
    const joint_lam::Vector{T}
    const joint_u::Vector{T}
    const joint_dp::Vector{T}
    # for checking an interpolated adjoint: the largest entries at accepted steps, and where a quadrature looked
    audited::Bool
    const lam_solved::Vector{T}
    const lam_interpolated::Vector{T}
    # counters and watch; `calls` are those of f, vjp and jvp together
    calls::Int
    nvjp::Int
    njvp::Int
    njac::Int
    nonfinite_t::T
    nonfinite::Bool
    vjp_t::T
    vjp_gap::T
    next_poll::UInt64
    reached::T   # last time that the solver accepted
    hooks::Hooks
    events::Any  # the `EventLog` of this solve, if it has events
    const odefunctions::Dict{Any,Any}
    const closures::IdDict{Any,Any}
    const generic_workspaces::IdDict{Any,Any}
    # Slots, see `SLOTS`: undefined until first called, because compiling a dozen derivatives that nobody calls would be most of a new
    # model's time. Those for dual numbers have types that depend on their width.
    dual_type::Any
    dual_jac::Any
    dual_tgrad::Any
    jac::Slot4{T,T}
    paramjac::Slot4{T,T}
    tgrad::Slot4{T,T}
    jacsparse::Slot4{T,T}
    vjp::Slot5{T,T}
    vjpp::Slot5{T,T}
    jvp::Slot5{T,T}
    both::Slot6{T,T}

    function Instance{T}(g::Generated) where {T}
        return new{T}(
            g, g.n, g.np, workspace(g, T),
            false, false, zero(T), zeros(T, g.n), zeros(T, g.n), zeros(T, g.np), false, zeros(T, g.n), zeros(T, g.n),
            0, 0, 0, 0, zero(T), false, zero(T), zero(T), UInt64(0), zero(T), Hooks(), nothing,
            Dict{Any,Any}(), IdDict{Any,Any}(), IdDict{Any,Any}(), nothing, nothing, nothing,
        )
    end
end

"""Evaluations of the right-hand side since the instance was reset."""
evaluations(inst::AbstractInstance) = inst.calls - inst.nvjp - inst.njvp

"""Slot => kind of call, function of the generated source, length of an output that is neither n nor np."""
const SLOTS = (
    jac=(:matrix, :jac!, g -> g.n^2), paramjac=(:matrix, :paramjac!, g -> g.n * g.np), tgrad=(:matrix, :tgrad!, g -> g.n),
    jacsparse=(:matrix, :jac_sparse!, g -> g.sparsity === nothing ? 0 : length(g.sparsity[2])),
    vjp=(:vjp, :vjp!, g -> 0), vjpp=(:vjp_p, :vjp_p!, g -> 0), jvp=(:vjp, :jvp!, g -> 0), both=(:both, :vjp_both!, g -> 0),
    dual_jac=(:matrix, :jac!, g -> g.n^2), dual_tgrad=(:matrix, :tgrad!, g -> g.n),
)

"""What is in a slot, put there now if it is the first call."""
@inline function slot(inst::Instance{T}, ::Val{name}) where {T,name}
    isdefined(inst, name) || at_runtime(settle!, inst, name, T)
    return getfield(inst, name)
end

@inline function dual_slot(inst::Instance{T}, ::Val{name}, ::Type{D}) where {T,name,D}
    getfield(inst, name) === nothing && at_runtime(settle!, inst, name, D)
    return getfield(inst, name)::Slot4{D,T}
end

settle!(inst::Instance, name::Symbol, ::Type{S}) where {S} = (setfield!(inst, name, make_closure(inst, S, SLOTS[name]...)); nothing)

function make_closure(inst::Instance{T}, ::Type{S}, kind, called, size, ::Type{Time}=T) where {T,S,Time}
    g = inst.generated
    w = S === T ? inst.workspace : workspace(g, S)
    f = lookup(g, called)
    made = opaque(Call{kind}(f, w, g.n, g.np, size(g)), S, Time)
    # What can only throw is inferred to return nothing at all, which is another type.
    return made isa Core.OpaqueClosure{<:Tuple,Nothing} ? made : opaque(Call{kind}(Uninferred(f), w, g.n, g.np, size(g)), S, Time)
end

"""A function that inference doesn't look into."""
struct Uninferred
    f::Any
end
(u::Uninferred)(args...) = at_runtime(u.f, args...)

"""The right-hand side for element type `S`, compiled now if it is the first time."""
function closure(inst::Instance, ::Type{S}) where {S}
    found = get(inst.closures, S, nothing)
    return found === nothing ? (inst.closures[S] = at_runtime(make_closure, inst, S, :f, :f!, g -> g.m)) : found
end

function reset!(inst::AbstractInstance{T}) where {T}
    inst.calls = inst.nvjp = inst.njvp = inst.njac = 0
    inst.joint = inst.joint_ready = inst.audited = false
    reset_watch!(inst)
    inst.vjp_t = T(NaN)
    inst.vjp_gap = zero(T)
    inst.hooks = Hooks()
    inst.events = nothing
    inst.next_poll = time_ns() + POLL_INTERVAL
    return inst
end

# ---------------------------------------------------------------------------------------------------------------------
# The functions that SciML calls.

# Solvers pass vectors or contiguous views of the model's own element type; then this is a call through a pointer.
const DenseVec{T} = Union{Vector{T},Base.FastContiguousSubArray{T,1,Vector{T}},PtrVector{T}}
const DenseMat{T} = Union{Matrix{T}}

"""
    RHS{T,S}(inst)

The right-hand side, quick for element type `S` (that of the model, or dual numbers). The closure lies in it, not in a slot: this is the one
function whose call is short enough for the difference to show.
"""
struct RHS{T,S} <: Function
    inst::Instance{T}
    f::Slot4{S,T}
    RHS{T,S}(inst::Instance{T}) where {T,S} = new{T,S}(inst, closure(inst, S)::Slot4{S,T})
end
RHS{T}(inst::Instance{T}) where {T} = RHS{T,T}(inst)

struct Jacobian{T} <: Function
    inst::Instance{T}
end
struct ParamJacobian{T} <: Function
    inst::Instance{T}
end
struct TimeGradient{T} <: Function
    inst::Instance{T}
end
struct VJP{T} <: Function
    inst::Instance{T}
end
struct ParamVJP{T} <: Function
    inst::Instance{T}
end
struct JVP{T} <: Function
    inst::Instance{T}
end

function (r::RHS{T,S})(du::DenseVec{S}, u::DenseVec{S}, p::DenseVec{S}, t) where {T,S}
    tick!(r.inst, t)
    GC.@preserve du u p r.f(pointer(du), pointer(u), pointer(p), convert(T, t))
    return nothing
end

function (r::Jacobian{T})(J::DenseMat{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    r.inst.njac += 1
    GC.@preserve J u p slot(r.inst, Val(:jac))(pointer(J), pointer(u), pointer(p), convert(T, t))
    return nothing
end

function (r::Jacobian{T})(J::SparseMatrixCSC{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    r.inst.njac += 1
    nz = nonzeros(J)
    GC.@preserve nz u p slot(r.inst, Val(:jacsparse))(pointer(nz), pointer(u), pointer(p), convert(T, t))
    return nothing
end

function (r::ParamJacobian{T})(pJ::DenseMat{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    GC.@preserve pJ u p slot(r.inst, Val(:paramjac))(pointer(pJ), pointer(u), pointer(p), convert(T, t))
    return nothing
end

function (r::TimeGradient{T})(dT::DenseVec{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    GC.@preserve dT u p slot(r.inst, Val(:tgrad))(pointer(dT), pointer(u), pointer(p), convert(T, t))
    return nothing
end

function (r::JVP{T})(dv::DenseVec{T}, v::DenseVec{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    tick!(r.inst, t)
    r.inst.njvp += 1
    GC.@preserve dv v u p slot(r.inst, Val(:jvp))(pointer(dv), pointer(v), pointer(u), pointer(p), convert(T, t))
    return nothing
end

"""Count a vector-Jacobian product, and note how far apart in time they lie."""
function note_vjp!(inst::AbstractInstance{T}, t::T) where {T}
    tick!(inst, t)
    inst.nvjp += 1
    gap = abs(t - inst.vjp_t)
    inst.vjp_gap = gap < inst.vjp_gap / 2 ? inst.vjp_gap / 2 : (isnan(gap) ? inst.vjp_gap : gap)
    inst.vjp_t = t
    return nothing
end

function (r::VJP{T})(dl::DenseVec{T}, l::DenseVec{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    inst = r.inst
    tt = convert(T, t)
    note_vjp!(inst, tt)
    if inst.joint
        dp = inst.joint_dp
        GC.@preserve dl dp l u p slot(inst, Val(:both))(pointer(dl), pointer(dp), pointer(l), pointer(u), pointer(p), tt)
        copyto!(inst.joint_lam, l)
        copyto!(inst.joint_u, u)
        inst.joint_t = tt
        inst.joint_ready = true
    else
        GC.@preserve dl l u p slot(inst, Val(:vjp))(pointer(dl), pointer(l), pointer(u), pointer(p), tt)
    end
    watch!(inst, dl, tt)
    return nothing
end

function (r::ParamVJP{T})(dp::DenseVec{T}, l::DenseVec{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    inst = r.inst
    tt = convert(T, t)
    inst.audited && widen!(inst.lam_interpolated, l)
    if inst.joint_ready && tt == inst.joint_t && l == inst.joint_lam && u == inst.joint_u
        copyto!(dp, inst.joint_dp)
        inst.joint_ready = false
    else
        GC.@preserve dp l u p slot(inst, Val(:vjpp))(pointer(dp), pointer(l), pointer(u), pointer(p), tt)
    end
    watch!(inst, dp, tt)
    return nothing
end

"""The larger of both, entry by entry, in `largest`."""
widen!(largest, l) = (largest .= max.(largest, abs.(l)); nothing)
function widen!(largest::Vector{T}, l) where {T}
    @inbounds for i in eachindex(largest, l)
        largest[i] = max(largest[i], abs(l[i]))
    end
    return nothing
end

reset_watch!(inst::Instance) = (inst.nonfinite = false; nothing)

"""What is known of a vector-Jacobian product that was not finite; nothing if all were."""
nonfinite_product(inst::Instance) = inst.nonfinite ? " at t = $(inst.nonfinite_t)" : nothing

# A VJP that is not finite makes every adjoint wrong, and some of them say nothing: remember it.
function watch!(inst::Instance{T}, x, t::T) where {T}
    s = zero(T)
    @inbounds @simd for i in eachindex(x)
        s += zero(T) * x[i]
    end
    if isnan(s) && !inst.nonfinite
        inst.nonfinite = true
        inst.nonfinite_t = t
    end
    return nothing
end

# Dual numbers of forward mode through the solver have slots of their own; the type assertion in `dual_slot` makes the call static.
const DualOf{T,N} = ForwardDiff.Dual{ModeTag,T,N}

function (r::Jacobian{T})(J::Matrix{D}, u::DenseVec{D}, p::DenseVec{D}, t::T) where {T,N,D<:DualOf{T,N}}
    r.inst.njac += 1
    f = dual_slot(r.inst, Val(:dual_jac), D)
    GC.@preserve J u p f(pointer(J), pointer(u), pointer(p), t)
    return nothing
end
function (r::TimeGradient{T})(dT::DenseVec{D}, u::DenseVec{D}, p::DenseVec{D}, t::T) where {T,N,D<:DualOf{T,N}}
    f = dual_slot(r.inst, Val(:dual_tgrad), D)
    GC.@preserve dT u p f(pointer(dT), pointer(u), pointer(p), t)
    return nothing
end

"""Empty the slots for dual numbers, unless they are for the type `D`."""
function prepare_duals!(inst::Instance, ::Type{D}) where {D}
    inst.dual_type === D && return inst
    inst.dual_jac = inst.dual_tgrad = nothing
    inst.dual_type = D
    return inst
end

# Any other element type (nested duals, tracked numbers, views that are not contiguous): correct, not fast.
function generic!(inst::Instance, name::Symbol, out, args...)
    S = promote_type(map(eltype, (out, args...))...)
    w = get!(() -> workspace(inst.generated, S), inst.generic_workspaces, S)
    Base.invokelatest(lookup(inst.generated, name), out, args..., w)
    return nothing
end

(r::RHS)(du::AbstractVector, u::AbstractVector, p, t) = (tick!(r.inst, t); generic!(r.inst, :f!, du, u, p, t))
(r::Jacobian)(J::AbstractMatrix, u::AbstractVector, p, t) = generic!(r.inst, :jac!, vec(J), u, p, t)
(r::ParamJacobian)(J::AbstractMatrix, u::AbstractVector, p, t) = generic!(r.inst, :paramjac!, vec(J), u, p, t)
(r::TimeGradient)(dT::AbstractVector, u::AbstractVector, p, t) = generic!(r.inst, :tgrad!, dT, u, p, t)
(r::VJP)(dl::AbstractVector, l, u, p, t) = (tick!(r.inst, t); r.inst.nvjp += 1; generic!(r.inst, :vjp!, dl, l, u, p, t))
(r::ParamVJP)(dp::AbstractVector, l, u, p, t) = generic!(r.inst, :vjp_p!, dp, l, u, p, t)
(r::JVP)(dv::AbstractVector, v, u, p, t) = generic!(r.inst, :jvp!, dv, v, u, p, t)

# ---------------------------------------------------------------------------------------------------------------------

"""A registered model."""
abstract type AbstractModel{T} end

"""
    Model{T}(generated)

A registered model: its functions, and instances that wait for the next solve.
"""
struct Model{T} <: AbstractModel{T}
    generated::Generated
    idle::Vector{Instance{T}}
    lock::ReentrantLock
end
Model{T}(g::Generated) where {T} = Model{T}(g, Instance{T}[], ReentrantLock())

new_instance(model::Model{T}) where {T} = Instance{T}(model.generated)

function checkout(model::AbstractModel)
    inst = @lock model.lock (isempty(model.idle) ? nothing : pop!(model.idle))
    return reset!(inst === nothing ? new_instance(model) : inst)
end
function checkin(model::AbstractModel, inst::AbstractInstance)
    @lock model.lock push!(model.idle, inst)
    return nothing
end

"""
    odefunction(inst, kind, S)

The `ODEFunction` of an instance for states of element type `S`. `kind`, by what SciML is to use: `:plain` no derivative; `:jac` the Jacobian alone; `:vjp` the vector-Jacobian products
alone; `:full` every derivative, without a Jacobian prototype; `:implicit` with a dense one, which the adjoints of implicit methods
want and plain solves are slower with; `:sparse` with a sparse one; `:matrixfree` Jacobian-vector products instead of Jacobians.
"""
function odefunction(inst::Instance{T}, kind::Symbol, ::Type{S}=T) where {T,S}
    return get!(inst.odefunctions, (kind, S)) do
        f = RHS{T,S}(inst)
        vjps = (; vjp=VJP{T}(inst), vjp_p=ParamVJP{T}(inst))
        kind === :plain && return ODEFunction{true,FullSpecialize}(f)
        kind === :jac && return ODEFunction{true,FullSpecialize}(f; jac=Jacobian{T}(inst))
        kind === :vjp && return ODEFunction{true,FullSpecialize}(f; vjps...)
        times = (; tgrad=TimeGradient{T}(inst), jvp=JVP{T}(inst))
        kind === :matrixfree && return ODEFunction{true,FullSpecialize}(f; times..., vjps...)
        prototype = if kind === :implicit
            zeros(T, inst.n, inst.n)
        elseif kind === :sparse
            colptr, rowval = inst.generated.sparsity
            SparseMatrixCSC{T,Int}(inst.n, inst.n, colptr, rowval, zeros(T, length(rowval)))
        else
            nothing
        end
        return ODEFunction{true,FullSpecialize}(
            f; jac=Jacobian{T}(inst), paramjac=ParamJacobian{T}(inst), jac_prototype=prototype, times..., vjps...,
        )
    end
end
