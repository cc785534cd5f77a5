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
    functions::Dict{Symbol,Any}
    sparsity::Union{Nothing,Tuple{Vector{Int},Vector{Int}}}
end

"""The names that generated source may define; see `LoweredModel` on the Python side for their arguments."""
const FUNCTION_NAMES = (
    :f!, :vjp!, :vjp_p!, :vjp_both!, :jvp!, :tgrad!, :jac!, :paramjac!, :jac_sparse!, :f_oop, :workspace,
)

"""
    generate(source, n, np; constants, sparsity) -> Generated

Evaluate `source` in a fresh module, with each of `constants` (name => vector) bound in it first.
"""
function generate(source::AbstractString, n::Integer, np::Integer; constants=(), sparsity=nothing, filename="generated model")
    mod = Module(gensym(:PySciODEModel))
    Core.eval(mod, :(const Kernels = $Kernels))
    Core.eval(mod, :(const NaNMath = $NaNMath))
    for (name, value) in constants
        Core.eval(mod, :(const $(Symbol(name)) = $value))
    end
    Base.include_string(mod, source, filename)
    functions = Dict{Symbol,Any}(
        name => Base.invokelatest(getfield, mod, name) for name in FUNCTION_NAMES if isdefined(mod, name)
    )
    return Generated(mod, n, np, functions, sparsity)
end

struct MissingCall{name} end
(::MissingCall{name})(args...) where {name} = throw(MissingFunction(name))

lookup(g::Generated, name::Symbol) = get(g.functions, name, MissingCall{name}())

workspace(g::Generated, ::Type{S}) where {S} =
    haskey(g.functions, :workspace) ? Base.invokelatest(g.functions[:workspace], S) : nothing

# ---------------------------------------------------------------------------------------------------------------------
# What a function wrapper holds: the generated function, its workspace and its sizes. The arguments arrive as pointers because
# solvers pass vectors and adjoints pass views; a pointer covers both.

struct Call{K,G,W}
    g::G
    w::W
    n::Int
    np::Int
    m::Int  # length of the output where it is neither n nor np
    Call{K}(g::G, w::W, n, np, m=0) where {K,G,W} = new{K,G,W}(g, w, n, np, m)
end

# f!(du, u, p, t)
(c::Call{:f})(du, u, p, t) =
    (c.g(PtrVector(du, c.n), PtrVector(u, c.n), PtrVector(p, c.np), t, c.w); nothing)
# jac!, paramjac!, jac_sparse!, tgrad!: an output of m numbers
(c::Call{:matrix})(J, u, p, t) =
    (c.g(PtrVector(J, c.m), PtrVector(u, c.n), PtrVector(p, c.np), t, c.w); nothing)
# vjp!(dlam, lam, u, p, t) and jvp!(dv, v, u, p, t)
(c::Call{:vjp})(dl, l, u, p, t) =
    (c.g(PtrVector(dl, c.n), PtrVector(l, c.n), PtrVector(u, c.n), PtrVector(p, c.np), t, c.w); nothing)
(c::Call{:vjp_p})(dp, l, u, p, t) =
    (c.g(PtrVector(dp, c.np), PtrVector(l, c.n), PtrVector(u, c.n), PtrVector(p, c.np), t, c.w); nothing)
(c::Call{:both})(dl, dp, l, u, p, t) =
    (c.g(PtrVector(dl, c.n), PtrVector(dp, c.np), PtrVector(l, c.n), PtrVector(u, c.n), PtrVector(p, c.np), t, c.w); nothing)

const Wrapper4{S,T} = FunctionWrapper{Nothing,Tuple{Ptr{S},Ptr{S},Ptr{S},T}}
const Wrapper5{S,T} = FunctionWrapper{Nothing,Tuple{Ptr{S},Ptr{S},Ptr{S},Ptr{S},T}}
const Wrapper6{S,T} = FunctionWrapper{Nothing,Tuple{Ptr{S},Ptr{S},Ptr{S},Ptr{S},Ptr{S},T}}

"""
    at_runtime(f, args...)

Call `f` by dynamic dispatch, and keep inference out of it. What comes after is compiled for the types that it meets; what comes before
holds no inferred guesses about them, which every package that is loaded later would invalidate.
"""
at_runtime(f, args...; options...) = Base.invokelatest(f, args...; options...)

"""
Stands in a function wrapper until the function is first called, and then puts the real one there: compiling a dozen derivatives that
nobody calls would be most of a new model's time.
"""
struct Lazy{K}
    inst::Any
    slot::Symbol
    name::Symbol
    m::Int
end

function (l::Lazy{K})(args...) where {K}
    at_runtime(settle!, l)
    at_runtime(getfield(l.inst, l.slot), args...)
    return nothing
end

function settle!(l::Lazy{K}) where {K}
    inst, g = l.inst, l.inst.generated
    wrapper = fieldtype(typeof(inst), l.slot)
    setfield!(inst, l.slot, wrapper(Call{K}(lookup(g, l.name), inst.workspace, g.n, g.np, l.m)))
    return nothing
end

"""
    Instance{T}(generated)

One model with buffers of its own: used by one solve at a time. Counts evaluations, and polls for Ctrl-C while it is called.
"""
mutable struct Instance{T}
    const generated::Generated
    const n::Int
    const np::Int
    const workspace::Any
    f::Wrapper4{T,T}
    jac::Wrapper4{T,T}
    paramjac::Wrapper4{T,T}
    tgrad::Wrapper4{T,T}
    jacsparse::Wrapper4{T,T}
    vjp::Wrapper5{T,T}
    vjpp::Wrapper5{T,T}
    jvp::Wrapper5{T,T}
    both::Wrapper6{T,T}
    # for vjp and vjp_p at one point in one pass
    joint::Bool
    joint_ready::Bool
    joint_t::T
    const joint_lam::Vector{T}
    const joint_u::Vector{T}
    const joint_dp::Vector{T}
    # counters and watch
    nf::Int
    nvjp::Int
    njac::Int
    nonfinite_t::T
    nonfinite::Bool
    vjp_t::T
    vjp_gap::T
    next_poll::UInt64
    progress::Ptr{Cvoid}
    # functions for dual numbers: made when forward mode first asks
    dual_type::Any
    dual_f::Any
    dual_jac::Any
    dual_tgrad::Any
    const odefunctions::Dict{Symbol,Any}
    const generic_workspaces::IdDict{Any,Any}

    function Instance{T}(g::Generated) where {T}
        n, np = g.n, g.np
        unset = MissingCall{:none}()
        four, five, six = Wrapper4{T,T}(unset), Wrapper5{T,T}(unset), Wrapper6{T,T}(unset)
        inst = new{T}(
            g, n, np, workspace(g, T), four, four, four, four, four, five, five, five, six,
            false, false, zero(T), zeros(T, n), zeros(T, n), zeros(T, np),
            0, 0, 0, zero(T), false, zero(T), zero(T), UInt64(0), C_NULL,
            nothing, nothing, nothing, nothing, Dict{Symbol,Any}(), IdDict{Any,Any}(),
        )
        nnz = g.sparsity === nothing ? 0 : length(g.sparsity[2])
        inst.f = Wrapper4{T,T}(Lazy{:f}(inst, :f, :f!, 0))
        inst.jac = Wrapper4{T,T}(Lazy{:matrix}(inst, :jac, :jac!, n^2))
        inst.paramjac = Wrapper4{T,T}(Lazy{:matrix}(inst, :paramjac, :paramjac!, n * np))
        inst.tgrad = Wrapper4{T,T}(Lazy{:matrix}(inst, :tgrad, :tgrad!, n))
        inst.jacsparse = Wrapper4{T,T}(Lazy{:matrix}(inst, :jacsparse, :jac_sparse!, nnz))
        inst.vjp = Wrapper5{T,T}(Lazy{:vjp}(inst, :vjp, :vjp!, 0))
        inst.vjpp = Wrapper5{T,T}(Lazy{:vjp_p}(inst, :vjpp, :vjp_p!, 0))
        inst.jvp = Wrapper5{T,T}(Lazy{:vjp}(inst, :jvp, :jvp!, 0))
        inst.both = Wrapper6{T,T}(Lazy{:both}(inst, :both, :vjp_both!, 0))
        return inst
    end
end
function reset!(inst::Instance{T}) where {T}
    inst.nf = inst.nvjp = inst.njac = 0
    inst.joint = inst.joint_ready = inst.nonfinite = false
    inst.vjp_t = T(NaN)
    inst.vjp_gap = zero(T)
    inst.progress = C_NULL
    inst.next_poll = time_ns() + POLL_INTERVAL
    return inst
end

# ---------------------------------------------------------------------------------------------------------------------
# The functions that SciML calls.

# Solvers pass vectors or contiguous views of the model's own element type; then this is a call through a pointer.
const DenseVec{T} = Union{Vector{T},Base.FastContiguousSubArray{T,1,Vector{T}},PtrVector{T}}
const DenseMat{T} = Union{Matrix{T}}

struct RHS{T} <: Function
    inst::Instance{T}
end
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

function (r::RHS{T})(du::DenseVec{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    inst = r.inst
    tick!(inst, t)
    GC.@preserve du u p inst.f(pointer(du), pointer(u), pointer(p), convert(T, t))
    return nothing
end

function (r::Jacobian{T})(J::DenseMat{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    r.inst.njac += 1
    GC.@preserve J u p r.inst.jac(pointer(J), pointer(u), pointer(p), convert(T, t))
    return nothing
end

function (r::Jacobian{T})(J::SparseMatrixCSC{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    r.inst.njac += 1
    nz = nonzeros(J)
    GC.@preserve nz u p r.inst.jacsparse(pointer(nz), pointer(u), pointer(p), convert(T, t))
    return nothing
end

function (r::ParamJacobian{T})(pJ::DenseMat{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    GC.@preserve pJ u p r.inst.paramjac(pointer(pJ), pointer(u), pointer(p), convert(T, t))
    return nothing
end

function (r::TimeGradient{T})(dT::DenseVec{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    GC.@preserve dT u p r.inst.tgrad(pointer(dT), pointer(u), pointer(p), convert(T, t))
    return nothing
end

function (r::JVP{T})(dv::DenseVec{T}, v::DenseVec{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    tick!(r.inst, t)
    GC.@preserve dv v u p r.inst.jvp(pointer(dv), pointer(v), pointer(u), pointer(p), convert(T, t))
    return nothing
end

function (r::VJP{T})(dl::DenseVec{T}, l::DenseVec{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    inst = r.inst
    tick!(inst, t)
    tt = convert(T, t)
    inst.nvjp += 1
    gap = abs(tt - inst.vjp_t)
    inst.vjp_gap = gap < inst.vjp_gap / 2 ? inst.vjp_gap / 2 : (isnan(gap) ? inst.vjp_gap : gap)
    inst.vjp_t = tt
    if inst.joint
        dp = inst.joint_dp
        GC.@preserve dl dp l u p inst.both(pointer(dl), pointer(dp), pointer(l), pointer(u), pointer(p), tt)
        copyto!(inst.joint_lam, l)
        copyto!(inst.joint_u, u)
        inst.joint_t = tt
        inst.joint_ready = true
    else
        GC.@preserve dl l u p inst.vjp(pointer(dl), pointer(l), pointer(u), pointer(p), tt)
    end
    watch!(inst, dl, tt)
    return nothing
end

function (r::ParamVJP{T})(dp::DenseVec{T}, l::DenseVec{T}, u::DenseVec{T}, p::DenseVec{T}, t) where {T}
    inst = r.inst
    tt = convert(T, t)
    if inst.joint_ready && tt == inst.joint_t && l == inst.joint_lam && u == inst.joint_u
        copyto!(dp, inst.joint_dp)
        inst.joint_ready = false
    else
        GC.@preserve dp l u p inst.vjpp(pointer(dp), pointer(l), pointer(u), pointer(p), tt)
    end
    watch!(inst, dp, tt)
    return nothing
end

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

# Dual numbers of forward mode through the solver have wrappers of their own; the type assertion makes the call static.
const DualOf{T,N} = ForwardDiff.Dual{ModeTag,T,N}

function (r::RHS{T})(du::DenseVec{D}, u::DenseVec{D}, p::DenseVec{D}, t::T) where {T,N,D<:DualOf{T,N}}
    inst = r.inst
    tick!(inst, t)
    f = inst.dual_f::Wrapper4{D,T}
    GC.@preserve du u p f(pointer(du), pointer(u), pointer(p), t)
    return nothing
end
function (r::Jacobian{T})(J::Matrix{D}, u::DenseVec{D}, p::DenseVec{D}, t::T) where {T,N,D<:DualOf{T,N}}
    r.inst.njac += 1
    f = r.inst.dual_jac::Wrapper4{D,T}
    GC.@preserve J u p f(pointer(J), pointer(u), pointer(p), t)
    return nothing
end
function (r::TimeGradient{T})(dT::DenseVec{D}, u::DenseVec{D}, p::DenseVec{D}, t::T) where {T,N,D<:DualOf{T,N}}
    f = r.inst.dual_tgrad::Wrapper4{D,T}
    GC.@preserve dT u p f(pointer(dT), pointer(u), pointer(p), t)
    return nothing
end

"""Make the wrappers for dual numbers of type `D`, unless the instance has them."""
function prepare_duals!(inst::Instance{T}, ::Type{D}) where {T,D}
    inst.dual_type === D && return inst
    n = inst.n
    inst.dual_f = Wrapper4{D,T}(LazyDual{D,:f}(inst, :dual_f, :f!, 0))
    inst.dual_jac = Wrapper4{D,T}(LazyDual{D,:matrix}(inst, :dual_jac, :jac!, n^2))
    inst.dual_tgrad = Wrapper4{D,T}(LazyDual{D,:matrix}(inst, :dual_tgrad, :tgrad!, n))
    inst.dual_type = D
    return inst
end

"""As `Lazy`, for dual numbers of type `D`."""
struct LazyDual{D,K}
    inst::Any
    slot::Symbol
    name::Symbol
    m::Int
end

function (l::LazyDual{D,K})(args...) where {D,K}
    at_runtime(settle!, l)
    at_runtime(getfield(l.inst, l.slot), args...)
    return nothing
end

function settle!(l::LazyDual{D,K}) where {D,K}
    inst, g = l.inst, l.inst.generated
    call = Call{K}(lookup(g, l.name), workspace(g, D), g.n, g.np, l.m)
    setfield!(inst, l.slot, Wrapper4{D,ForwardDiff.valtype(D)}(call))
    return nothing
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
(r::VJP)(dl::AbstractVector, l, u, p, t) = (tick!(r.inst, t); generic!(r.inst, :vjp!, dl, l, u, p, t))
(r::ParamVJP)(dp::AbstractVector, l, u, p, t) = generic!(r.inst, :vjp_p!, dp, l, u, p, t)
(r::JVP)(dv::AbstractVector, v, u, p, t) = generic!(r.inst, :jvp!, dv, v, u, p, t)

# ---------------------------------------------------------------------------------------------------------------------

"""
    Model{T}(generated)

A registered model: its functions, and instances that wait for the next solve.
"""
struct Model{T}
    generated::Generated
    idle::Vector{Instance{T}}
    lock::ReentrantLock
end
Model{T}(g::Generated) where {T} = Model{T}(g, Instance{T}[], ReentrantLock())

function checkout(model::Model{T}) where {T}
    inst = @lock model.lock (isempty(model.idle) ? nothing : pop!(model.idle))
    return reset!(inst === nothing ? Instance{T}(model.generated) : inst)
end
function checkin(model::Model{T}, inst::Instance{T}) where {T}
    @lock model.lock push!(model.idle, inst)
    return nothing
end

"""
    odefunction(inst, kind)

The `ODEFunction` of an instance. `kind`, by what SciML is to use: `:plain` no derivative; `:vjp` the vector-Jacobian products
alone; `:full` every derivative, without a Jacobian prototype; `:implicit` with a dense one, which the adjoints of implicit methods
want and plain solves are slower with; `:sparse` with a sparse one; `:matrixfree` Jacobian-vector products instead of Jacobians.
"""
function odefunction(inst::Instance{T}, kind::Symbol) where {T}
    return get!(inst.odefunctions, kind) do
        f = RHS{T}(inst)
        vjps = (; vjp=VJP{T}(inst), vjp_p=ParamVJP{T}(inst))
        kind === :plain && return ODEFunction{true,FullSpecialize}(f)
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
