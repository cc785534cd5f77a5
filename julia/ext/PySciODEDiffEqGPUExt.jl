"""
Ensembles with DiffEqGPU's steppers: each member is one thread of one kernel, and takes its own steps. None of it has run on a
GPU yet.

DiffEqGPU's own loop over the steps has neither a limit nor return codes, and throws inside the kernel where a step becomes too
small, which would be the end of all other members. So the loop is here; a step is DiffEqGPU's.
"""
module PySciODEDiffEqGPUExt

using DiffEqBase: ODE_DEFAULT_NORM
using DiffEqGPU: DiffEqGPU, GPUKvaerno3, GPUKvaerno5, GPURodas4, GPURodas5P, GPURosenbrock23, GPUTsit5, GPUVern7, GPUVern9
using KernelAbstractions: CPU, @index, @kernel, get_backend
using LinearAlgebra: I, UniformScaling
using PySciODE
using PySciODE: Arguments, Device, Kernels, PRECISION, activate, at_runtime, eltype_of, find_device, synchronize
using SciMLBase: AbstractODEFunction, CallbackSet
using StaticArrays: SMatrix, SVector

const ALGORITHMS = Dict{String,Any}(
    "Kvaerno3" => GPUKvaerno3(), "Kvaerno5" => GPUKvaerno5(), "Rodas4" => GPURodas4(), "Rodas5P" => GPURodas5P(),
    "Rosenbrock23" => GPURosenbrock23(), "Tsit5" => GPUTsit5(), "Vern7" => GPUVern7(), "Vern9" => GPUVern9())

"""The functions of a model on static vectors of length `N`; `jac` and `tgrad` are its derivatives by state and time."""
struct StaticModel{N,F,J,G}
    f::F
    jac::J
    tgrad::G
end

function PySciODE.static_model(source::String, n::Int)
    mod = Module(gensym(:PySciODEEnsemble))
    for (name, value) in (:Kernels => Kernels, :NaNMath => Kernels.OnDevice, :SVector => SVector, :SMatrix => SMatrix)
        Core.eval(mod, :(const $name = $value))
    end
    Base.include_string(mod, source, "generated model")
    f, jac, tgrad = (Base.invokelatest(getfield, mod, name) for name in (:f, :jac, :tgrad))
    return StaticModel{n,typeof(f),typeof(jac),typeof(tgrad)}(f, jac, tgrad)
end

# The steppers go forwards, and hold absolute times below 1e-14 for nothing. So they have a time `s` of their own, from 0 upwards,
# and of a short time span they see one of length 1.
struct Clock{T}
    start::T
    unit::T
end
@inline (c::Clock)(s) = muladd(c.unit, s, c.start)

struct Derivative{F,T}
    f::F
    clock::Clock{T}
    factor::T
end
@inline (d::Derivative)(u, p, s) = d.factor * d.f(u, p, d.clock(s))

"""
The right-hand side by the stepper's time, with the fields that it looks for in an `ODEFunction`.

It is not a number where a stage lies less than `LEAST` behind the start of the step, at time `from` and state `u`: then the
stepper, which would throw, ends its attempts at smaller and smaller steps.
"""
struct Field{F,J,G,T,U} <: AbstractODEFunction{false}
    f::Derivative{F,T}
    jac::Derivative{J,T}
    tgrad::Derivative{G,T}
    mass_matrix::UniformScaling{Bool}
    from::T
    u::U
end

function Field(m::StaticModel, clock::Clock{T}, u) where {T}
    f, jac = Derivative(m.f, clock, clock.unit), Derivative(m.jac, clock, clock.unit)
    return Field(f, jac, Derivative(m.tgrad, clock, clock.unit^2), I, zero(T), u)
end

@inline at(x::Field, from, u) = Field(x.f, x.jac, x.tgrad, x.mass_matrix, from, u)

# The stepper throws below 1e-14, and makes a step shorter by a factor of 5 at most.
const LEAST = 5e-14

@inline function (x::Field)(u, p, s)
    du = x.f(u, p, s)
    return s - x.from < LEAST && u != x.u ? oftype(s, NaN) * du : du
end

# What became of a member; 0 where its thread ended before it said so.
const SUCCESS, MAX_ITERS, DT_LESS_THAN_MIN, UNSTABLE = Int32(1), Int32(2), Int32(3), Int32(4)

"""Options, all of them plain numbers of the states' type."""
struct Control{T}
    stop::T       # by the stepper's time
    dt::T         # 0: chosen for each member
    dtmax::T
    reltol::T
    abstol::T
    maxiters::Int
end

"""Times are not kept: they are those asked for."""
struct Nowhere end
@inline Base.setindex!(::Nowhere, x, i) = x

"""A first step by Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I, 2nd edition, p. 169."""
@inline function first_step(x::Field, u0, p, order, c::Control{T}) where {T}
    scale = c.abstol .+ c.reltol .* abs.(u0)
    norm(v) = ODE_DEFAULT_NORM(v ./ scale, zero(T))
    slope = x(u0, p, zero(T))
    d0, d1 = norm(u0), norm(slope)
    h0 = min(d0 < T(1e-5) || d1 < T(1e-5) ? T(1e-6) : T(0.01) * d0 / d1, c.stop)
    d2 = norm(x(u0 + h0 * slope, p, h0) - slope) / h0
    d = max(d1, d2)
    h1 = d <= T(1e-15) ? max(T(1e-6), T(1e-3) * h0) : (T(0.01) / d)^(one(T) / (order + 1))
    h = min(100h0, h1, c.stop)
    return isfinite(h) && h > 0 ? h : T(1e-6) * c.stop
end

"""
One member, from `u0` to the end: what became of it, and the stepper's time that it reached. A step that leads to something not
finite is tried again with a fifth of its length.
"""
@inline function trajectory!(us, alg, x::Field, u0, p, c::Control{T}, saveat) where {T}
    dt = c.dt > 0 ? c.dt : first_step(x, u0, p, DiffEqGPU.alg_order(alg), c)
    integ = DiffEqGPU.init(
        alg, x, false, u0, zero(T), c.stop, dt, p, c.abstol, c.reltol, ODE_DEFAULT_NORM, nothing, CallbackSet(nothing), saveat,
    )
    integ.cur_t = 1
    @inbounds if saveat[1] <= 0
        us[1] = u0
        integ.cur_t = 2
    end
    integ.dtnew = dt
    for _ in 1:c.maxiters
        t, u = integ.t, integ.u
        t < c.stop || return SUCCESS, t
        left = c.stop - t
        dt = min(integ.dtnew, c.dtmax)
        T(1.001) * dt >= left && (dt = left)  # rather than a last step of no length
        dt > LEAST && t + dt > t || return UNSTABLE, t
        integ.dtnew = dt
        integ.f = at(x, t, u)
        if left < 200LEAST  # of the last rounding errors: taken as it comes
            integ.f = at(x, T(-Inf), u)
            integ.abstol = T(Inf)
        end
        DiffEqGPU.step!(integ, Nowhere(), us)
        if isfinite(integ.dtnew) && all(isfinite, integ.u)
            DiffEqGPU.savevalues!(integ, Nowhere(), us)
        else
            (integ.dt < 200LEAST || t + integ.dt == t) && return DT_LESS_THAN_MIN, t
            integ.u, integ.t, integ.dtnew, integ.u_modified = u, t, integ.dt / 5, true
        end
    end
    return (integ.t < c.stop ? MAX_ITERS : SUCCESS), integ.t
end

@inline row(m::AbstractMatrix, i, ::Val{M}) where {M} = SVector{M}(ntuple(k -> @inbounds(m[k, i]), Val(M)))
@inline row(m::AbstractMatrix, i, ::Nothing) = view(m, :, i)

@kernel function solve_each!(us, outcomes, reached, alg, x, u0s, ps, width, control, saveat)
    i = @index(Global, Linear)
    u0 = @inbounds u0s[length(u0s) == 1 ? 1 : i]
    p = row(ps, size(ps, 2) == 1 ? 1 : i, width)
    outcome, s = trajectory!(view(us, :, i), alg, x, u0, p, control, saveat)
    @inbounds reached[i] = x.f.clock(s)
    @inbounds outcomes[i] = outcome
end

# Parameters up to so many are held in registers.
const FEW = 32

struct MainMemory <: Device end
PySciODE.wrap(::MainMemory, ::Type{S}, address::Ptr{Cvoid}, n::Integer) where {S} = unsafe_wrap(Vector{S}, Ptr{S}(address), n)

function PySciODE.solve_members(m::StaticModel, a::Arguments)
    device = haskey(a, "device") ? at_runtime(find_device, Val(Symbol(a["device"])), a["index"]::Int) : MainMemory()
    at_runtime(activate, device, PRECISION[])
    try
        at_runtime(solve_members_on, device, m, eltype_of(a["dtype"]), a)
    finally
        at_runtime(synchronize, device)
    end
    return nothing
end

function solve_members_on(device::Device, m::StaticModel{N}, ::Type{T}, a::Arguments) where {N,T}
    start, stop = T.(a["tspan"])
    unit = copysign(min(abs(stop - start), one(T)), stop - start)
    stop = (stop - start) / unit
    saveat = clamp.((T.(a["saveat"]) .- start) ./ unit, zero(T), stop)
    step(name, default) = haskey(a, name) ? T(a[name] / abs(unit)) : default
    control = Control{T}(stop, step("dt", zero(T)), step("dtmax", T(Inf)), T(a["reltol"]), T(a["abstol"]), Int(a["maxiters"]))
    count, np = Int(a["count"]), Int(a["np"])
    array(name, ::Type{S}, dims...) where {S} = reshape(PySciODE.wrap(device, S, Ptr{Cvoid}(UInt(a[name])), prod(dims)), dims)
    us = array("u", SVector{N,T}, length(saveat), count)
    outcomes, reached = array("outcomes", Int32, count), array("reached", T, count)
    u0s, ps = array("u0", SVector{N,T}, Int(a["u0_rows"])), array("p", T, np, Int(a["p_rows"]))
    field = Field(m, Clock(start, unit), zero(SVector{N,T}))
    backend = get_backend(us)
    # On the processor one workgroup: it stays in the thread that called, and Python's threads are those that share the work.
    workgroupsize = backend isa CPU ? count : nothing
    width = np <= FEW ? Val(np) : nothing
    at_runtime(solve_each!(backend), us, outcomes, reached, ALGORITHMS[a["algorithm"]], field, u0s, ps, width, control,
               Kernels.device_constant(reached, saveat); ndrange=count, workgroupsize)
    return nothing
end

end
