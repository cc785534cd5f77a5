# Solves on a device: a GPU, or JLArrays' stand-in for one. The same plans, solvers and adjoints as in main memory, over vectors that the
# processor doesn't read entry by entry; only what touches the vectors themselves is different, and it is all here.

"""
Where the vectors of a solve lie, if not in main memory. An extension defines `find_device`, `wrap`, `allocate`, and where it needs to
`activate`, `synchronize`, `reclaim`, `out_of_memory`.
"""
abstract type Device end

"""    find_device(Val(kind), index) -> Device; throws `DeviceUnavailable` with the reason"""
function find_device end

"""    wrap(device, T, address, n): a vector over memory that somebody else owns and keeps alive"""
function wrap end

"""    allocate(device, T, n): a vector of zeros"""
function allocate end

"""Have what comes next in this task happen there; `precision` is how exact products of Float32 are."""
activate(::Device, precision::Symbol) = nothing

"""Wait until all that was begun there is done."""
synchronize(::Device) = nothing

"""Give memory that is free back to the device's driver."""
reclaim(::Device) = nothing

"""Whether an exception means that a device has no memory left."""
out_of_memory(::Any) = false

struct DeviceUnavailable <: Exception
    reason::String
end
Base.showerror(io::IO, e::DeviceUnavailable) = print(io, e.reason)

"""
    DeviceInstance{T,V}(generated, device)

What [`Instance`](@ref) is in main memory. The generated functions are called by dynamic dispatch, which costs less than the
launch of a kernel, and so the solvers are compiled once for all models.
"""
mutable struct DeviceInstance{T,V<:AbstractVector{T},F<:AbstractVector{Bool}} <: AbstractInstance{T}
    const generated::Generated
    const workspace::Any
    # for vjp and vjp_p at one point in one pass; vectors are told apart by where they are
    joint::Bool
    joint_ready::Bool
    joint_t::T
    joint_lam::UInt
    const joint_u::V
    const joint_dp::V
    # for checking an interpolated adjoint
    audited::Bool
    const lam_solved::V
    const lam_interpolated::V
    const nonfinite::F
    calls::Int
    nvjp::Int
    njvp::Int
    njac::Int
    vjp_t::T
    vjp_gap::T
    next_poll::UInt64
    reached::T
    hooks::Hooks
    events::Nothing
    const odefunctions::Dict{Any,Any}
end

function DeviceInstance{T}(g::Generated, device::Device) where {T}
    n_vector() = allocate(device, T, g.n)
    return DeviceInstance(
        g, workspace(g, n_vector()), false, false, zero(T), UInt(0), n_vector(), allocate(device, T, g.np), false, n_vector(), n_vector(),
        allocate(device, Bool, 1), 0, 0, 0, 0, zero(T), zero(T), UInt64(0), zero(T), Hooks(), nothing, Dict{Any,Any}(),
    )
end

reset_watch!(inst::DeviceInstance) = (fill!(inst.nonfinite, false); nothing)

"""What is known of a vector-Jacobian product that was not finite; nothing if all were."""
nonfinite_product(inst::DeviceInstance) = any(inst.nonfinite) ? "" : nothing

address(x) = UInt(pointer(x))

"""A registered model whose vectors lie on a device."""
struct DeviceModel{T,D<:Device} <: AbstractModel{T}
    generated::Generated
    device::D
    idle::Vector{DeviceInstance{T}}
    lock::ReentrantLock
end
DeviceModel{T}(g::Generated, device::D) where {T,D<:Device} = DeviceModel{T,D}(g, device, DeviceInstance{T}[], ReentrantLock())

new_instance(model::DeviceModel{T}) where {T} = DeviceInstance{T}(model.generated, model.device)

const DevicePlan{T} = Plan{T,<:Any,<:Any,<:Options,<:DeviceModel{T}}

"""
    DeviceFunction{K}(inst)

A function that SciML calls, by kind: `:f`, `:jac`, `:tgrad`, `:jvp`, `:vjp`, `:vjp_p`.
"""
struct DeviceFunction{K,I<:DeviceInstance} <: Function
    inst::I
end
DeviceFunction{K}(inst::I) where {K,I} = DeviceFunction{K,I}(inst)

evaluate!(inst::DeviceInstance, name::Symbol, args...) =
    (at_runtime(lookup(inst.generated, name), args..., inst.workspace); nothing)

(r::DeviceFunction{:f,<:DeviceInstance{T}})(du, u, p, t) where {T} =
    (tick!(r.inst, t); evaluate!(r.inst, :f!, du, u, p, convert(T, t)))

(r::DeviceFunction{:jac,<:DeviceInstance{T}})(J, u, p, t) where {T} =
    (r.inst.njac += 1; evaluate!(r.inst, :jac!, vec(J), u, p, convert(T, t)))

(r::DeviceFunction{:tgrad,<:DeviceInstance{T}})(dT, u, p, t) where {T} = evaluate!(r.inst, :tgrad!, dT, u, p, convert(T, t))

function (r::DeviceFunction{:jvp,<:DeviceInstance{T}})(dv, v, u, p, t) where {T}
    tick!(r.inst, t)
    r.inst.njvp += 1
    return evaluate!(r.inst, :jvp!, dv, v, u, p, convert(T, t))
end

function (r::DeviceFunction{:vjp,<:DeviceInstance{T}})(dl, l, u, p, t) where {T}
    inst = r.inst
    tt = convert(T, t)
    note_vjp!(inst, tt)
    if inst.joint
        evaluate!(inst, :vjp_both!, dl, inst.joint_dp, l, u, p, tt)
        copyto!(inst.joint_u, u)
        inst.joint_lam, inst.joint_t, inst.joint_ready = address(l), tt, true
    else
        evaluate!(inst, :vjp!, dl, l, u, p, tt)
    end
    Kernels.note_nonfinite!(inst.nonfinite, dl)
    return nothing
end

function (r::DeviceFunction{:vjp_p,<:DeviceInstance{T}})(dp, l, u, p, t) where {T}
    inst = r.inst
    tt = convert(T, t)
    inst.audited && widen!(inst.lam_interpolated, l)
    # Adjoints ask for both products of one evaluation one after the other, over the same vectors.
    if inst.joint_ready && tt == inst.joint_t && address(l) == inst.joint_lam
        copyto!(dp, inst.joint_dp)
        inst.joint_ready = false
    else
        evaluate!(inst, :vjp_p!, dp, l, u, p, tt)
    end
    isempty(dp) || Kernels.note_nonfinite!(inst.nonfinite, dp)
    return nothing
end

"""As in main memory; `:implicit` and `:sparse` are not supported here."""
function odefunction(inst::DeviceInstance{T}, kind::Symbol) where {T}
    return get!(inst.odefunctions, kind) do
        call(name) = DeviceFunction{name}(inst)
        kind === :plain && return ODEFunction{true,FullSpecialize}(call(:f))
        vjps = (; vjp=call(:vjp), vjp_p=call(:vjp_p))
        kind === :vjp && return ODEFunction{true,FullSpecialize}(call(:f); vjps...)
        times = (; tgrad=call(:tgrad), jvp=call(:jvp))
        kind === :matrixfree && return ODEFunction{true,FullSpecialize}(call(:f); times..., vjps...)
        return ODEFunction{true,FullSpecialize}(call(:f); jac=call(:jac), times..., vjps...)
    end
end

odeproblem(plan::DevicePlan{T}, inst::DeviceInstance{T}, u0, p, tspan) where {T} =
    odeproblem(with_mass_matrix(plan, odefunction(inst, plan.odekind), u0), u0, tspan, p)

mass_matrix(plan::DevicePlan{T}, u0) where {T} =
    reshape(Kernels.device_constant(u0, vec(T.(plan.mass_matrix))), size(plan.mass_matrix))

function keywords(plan::DevicePlan{T}, tspan) where {T}
    common = keywords(plan.options, plan.alg, tspan)
    return common.abstol isa Vector ? (; common..., abstol=to_device(plan, common.abstol)) : common
end
to_device(plan::DevicePlan{T}, x::Vector{T}) where {T} = copyto!(allocate(plan.model.device, T, length(x)), x)

hooked(::DeviceInstance, everystep::Bool) = Pair{Symbol,Any}[]

flat(::DevicePlan, u) = u

"""What [`Answer`](@ref) is in main memory."""
mutable struct DeviceAnswer{T,V<:AbstractVector{T}} <: AbstractAnswer{T}
    t::Vector{T}
    u::Vector{V}
    retcode::Symbol
    t_reached::Float64
    counts::NTuple{7,Int}
    plan::Any
    instance::Union{Nothing,DeviceInstance{T}}
    solution::Any
    pullback::Any
    events::Nothing
end

new_answer(t::Vector{T}, u::Vector{V}, retcode, t_reached, counts, plan::DevicePlan{T}, instance, solution, pullback) where {T,V} =
    DeviceAnswer{T,V}(t, u, retcode, t_reached, counts, plan, instance, solution, pullback, nothing)

# ---------------------------------------------------------------------------------------------------------------------
# The crossing: addresses are the device's.

"""Do it there, and come back when it is done."""
function on_device(f, model::DeviceModel)
    activate(model.device, PRECISION[])
    try
        return f()
    finally
        synchronize(model.device)
    end
end

"""How exact products of Float32 are, as the user has set it in torch."""
const PRECISION = Ref(:highest)

function guarded_solve(plan::DevicePlan{T}, u0, p, t0, t1, nsave, saveat, u_out, hooks, report) where {T}
    before = Base.gc_bytes()
    model = plan.model
    g, device = model.generated, model.device
    times = nsave > 0 ? T.(unsafe_wrap(Vector{Float64}, saveat, nsave)) : T[]
    a = on_device(model) do
        pv = wrap(device, T, p, g.np)
        # Dense output outlives what Python keeps unchanged for a pullback, and some methods' evaluates the model.
        plan.options.dense && (pv = copy(pv))
        a = dispatch(plan, wrap(device, T, u0, g.n), pv, (T(t0), T(t1)), times, Hooks(hooks), T[])
        u_out != C_NULL && length(a.t) == nsave && write_states(u_out, a)
        return a
    end
    needed = u_out == C_NULL || length(a.t) != nsave || a.solution !== nothing || a.pullback !== nothing
    handle = needed ? hold!(ANSWERS, a) : Int64(0)
    unsafe_store!(report, Report(a, handle, Base.gc_bytes() - before))
    return OK
end

function write_states(out::Ptr, a::DeviceAnswer{T}) where {T}
    n = width(a.plan)
    states = wrap(a.plan.model.device, T, Ptr{Cvoid}(out), n * length(a.u))
    for (k, u) in enumerate(a.u)
        copyto!(states, (k - 1) * n + 1, u, 1, n)
    end
    return nothing
end

function fetch_answer(a::DeviceAnswer, t_out, u_out)
    foreach(k -> unsafe_store!(t_out, Float64(a.t[k]), k), eachindex(a.t))
    on_device(() -> write_states(u_out, a), a.plan.model)
    return nothing
end

function guarded_pullback(a::DeviceAnswer{T}, du, du0, dp, report) where {T}
    before = Base.gc_bytes()
    model = a.plan.model
    on_device(model) do
        cotangent = reshape(wrap(model.device, T, du, width(a.plan) * length(a.u)), width(a.plan), length(a.u))
        g0, gp = at_runtime(a.pullback, cotangent)
        copyto!(wrap(model.device, T, du0, length(g0)), g0)
        isempty(gp) || copyto!(wrap(model.device, T, dp, length(gp)), gp)
    end
    unsafe_store!(report, Report(a.instance, Base.gc_bytes() - before, 0.0))
    return OK
end

function interpolate_into(a::DeviceAnswer{T}, times, count, derivative, out) where {T}
    ts = copy(unsafe_wrap(Vector{Float64}, times, count))
    on_device(a.plan.model) do
        n = width(a.plan)
        interpolate!(reshape(wrap(a.plan.model.device, T, out, n * count), n, count), a, ts, Int(derivative))
    end
    return nothing
end

function evaluate_rhs(plan::DevicePlan{T}, u, p, t, du) where {T}
    model = plan.model
    at(x, n) = wrap(model.device, T, x, n)
    inst = checkout(model)
    try
        on_device(() -> DeviceFunction{:f}(inst)(at(du, inst.generated.n), at(u, inst.generated.n), at(p, inst.generated.np), T(t)), model)
    finally
        checkin(model, inst)
    end
    return nothing
end
