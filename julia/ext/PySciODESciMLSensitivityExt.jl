"""
The adjoint methods of SciMLSensitivity over generated models. Loaded when the first adjoint is asked for, never for a plain solve.
"""
module PySciODESciMLSensitivityExt

using LinearAlgebra
using Logging: NullLogger, with_logger
using PrecompileTools: @compile_workload, @setup_workload
using PySciODE
using PySciODE: Answer, CallbackFailed, GradientFailed, Instance, Interrupted, LOUD, Model, Plan, RHS, Sensitivity, answer, checkin,
    checkout, flat, keywords, lastvalue, odefunction, odeproblem, solve_raw
using SciMLBase: SciMLBase, FullSpecialize, ODEFunction, ODEProblem, solve, successful_retcode
using SciMLSensitivity

# Julia crashes on loading a package image that holds ReverseDiff's tracked arrays (JuliaLang/julia#62047), and inference meets them
# wherever it follows SciMLSensitivity with types that it does not know. This keeps it out; what runs is compiled all the same.
at_runtime(f, args...; options...) = Base.invokelatest(f, args...; options...)

const DISCRETE = (:ReverseDiffAdjoint, :TrackerAdjoint, :ZygoteAdjoint, :EnzymeAdjoint, :MooncakeAdjoint)

PySciODE.run_adjoint(::Val{:SciMLSensitivity}, plan::Plan, u0, p, tspan, saveat, progress) =
    plan.sensitivity.name in DISCRETE ? run_discrete(plan, u0, p, tspan, saveat, progress) :
    run_continuous(plan, u0, p, tspan, saveat, progress)

"""The cotangent of the saved states, as SciML asks for it: one column at a time."""
struct Cotangent{T}
    du::Matrix{T}
end
(c::Cotangent)(out, u, p, t, i) = (copyto!(out, view(c.du, :, i)); nothing)

"""SciML's choice of VJP. With generated VJPs the choice is never consulted, and this one needs no buffers."""
function vjp_choice(s::Sensitivity, generated)
    name = s.autojacvec
    if name === :generated
        name = haskey(generated.functions, :vjp!) ? :ZygoteVJP : :ReverseDiffVJP
    end
    return getfield(SciMLSensitivity, name)()
end

function sensealg(s::Sensitivity, generated)
    constructor = getfield(SciMLSensitivity, s.name)
    s.name in DISCRETE && return constructor(; s.options...)
    return constructor(; autojacvec=vjp_choice(s, generated), s.options...)
end

# These differentiate the model's own code, and want it out of place.
out_of_place(s::Sensitivity) = s.autojacvec in (:ZygoteVJP, :TrackerVJP, :EnzymeVJP, :MooncakeVJP) || s.name in
    (:TrackerAdjoint, :ZygoteAdjoint, :EnzymeAdjoint, :MooncakeAdjoint)

function adjoint_problem(plan::Plan{T}, inst, u0, p, tspan) where {T}
    s = plan.sensitivity
    if out_of_place(s)
        f = PySciODE.lookup(inst.generated, :f_oop)
        return ODEProblem{false,FullSpecialize}(ODEFunction{false,FullSpecialize}(f), u0, tspan, p)
    elseif s.autojacvec !== :generated || s.name === :ReverseDiffAdjoint
        return odeproblem(ODEFunction{true,FullSpecialize}(RHS{T}(inst)), u0, tspan, p)
    end
    return odeproblem(plan, inst, u0, p, tspan)
end

# ---------------------------------------------------------------------------------------------------------------------

function run_continuous(plan::Plan{T}, u0::Vector{T}, p::Vector{T}, tspan::Tuple{T,T}, saveat::Vector{T}, progress) where {T}
    s = plan.sensitivity
    inst = checkout(plan.model)
    inst.progress = progress
    kept = false
    try
        # Nothing after the last saved time matters to the gradient.
        stop = isempty(saveat) ? tspan[2] : saveat[end]
        if stop == tspan[1]
            return initial_only(plan, inst, u0, p, tspan)
        end
        prob = adjoint_problem(plan, inst, u0, p, (tspan[1], stop))
        checkpointing = s.name === :BacksolveAdjoint || any(o -> first(o) === :checkpointing && last(o) === true, s.options)
        sol = if checkpointing
            at = isempty(saveat) || saveat[1] == tspan[1] ? saveat : vcat(tspan[1], saveat)
            at_runtime(solve_raw, plan, prob, at, false)
        else
            at_runtime(solve_raw, plan, prob, T[], true)
        end
        result = answer(plan, inst, sol; keep=true)
        if !successful_retcode(sol.retcode)
            trim!(result, saveat, tspan, sol, checkpointing)
            result.pullback = Refusal(string(sol.retcode))
            kept = true
            return result
        end
        if !isempty(saveat)
            if checkpointing
                # the start was saved for the adjoint's sake
                length(result.t) > length(saveat) && (popfirst!(result.t); popfirst!(result.u))
            else
                result.u = Vector{T}[t == tspan[1] ? copy(u0) : flat(sol(t)) for t in saveat]
                result.t = copy(saveat)
            end
        end
        result.pullback = ContinuousPullback{T}(plan, inst, sol, result.t, tspan[1])
        kept = true
        return result
    finally
        kept || checkin(plan.model, inst)
    end
end

function trim!(result::Answer{T}, saveat, tspan, sol, checkpointing) where {T}
    (isempty(saveat) || checkpointing || isempty(sol.t)) && return result
    reached = abs(sol.t[end] - tspan[1])
    result.t = filter(t -> abs(t - tspan[1]) <= reached, saveat)
    result.u = Vector{T}[flat(sol(t)) for t in result.t]
    return result
end

function initial_only(plan::Plan{T}, inst, u0, p, tspan) where {T}
    checkin(plan.model, inst)
    stay(du) = (vec(sum(du; dims=2)), zeros(T, length(p)))
    return Answer{T}([tspan[1]], [copy(u0)], :Success, Float64(tspan[1]), 0, nothing, plan, nothing, nothing, stay)
end

struct Refusal
    retcode::String
end
(r::Refusal)(_) = throw(GradientFailed("the forward solve ended with retcode $(r.retcode), so there is nothing to differentiate"))

struct ContinuousPullback{T}
    plan::Plan{T}
    inst::Instance{T}
    sol::Any
    t::Vector{T}
    t0::T
end

function (b::ContinuousPullback{T})(du::Matrix{T}) where {T}
    plan, inst = b.plan, b.inst
    s = plan.sensitivity
    progress = inst.progress
    PySciODE.reset!(inst)
    inst.progress = progress
    inst.joint = s.autojacvec === :generated && s.name in (:InterpolatingAdjoint, :BacksolveAdjoint) &&
        haskey(inst.generated.functions, :vjp_both!)
    first_is_start = !isempty(b.t) && b.t[1] == b.t0
    ts = first_is_start ? b.t[2:end] : b.t
    cotangents = first_is_start ? du[:, 2:end] : du
    du0, dp = reverse_solve(b, plan, b.sol, ts, Cotangent{T}(cotangents))
    check(b, plan, inst, du0, dp)
    first_is_start && (du0 .+= view(du, :, 1))
    return du0, dp
end

function reverse_solve(b, plan::Plan{T}, sol, ts, cotangent) where {T}
    s = plan.sensitivity
    o = plan.options
    forward = keywords(o, plan.reverse, sol.prob.tspan)
    abstol = isnan(s.abstol) ? (forward.abstol isa Vector ? minimum(forward.abstol) : forward.abstol) : T(s.abstol)
    reltol = isnan(s.reltol) ? forward.reltol : T(s.reltol)
    fixed = forward.adaptive ? (;) : (; dt=-forward.dt, adaptive=false)
    du0, dp = try
        # The exception says what the log would.
        with_logger(NullLogger()) do
            at_runtime(adjoint_sensitivities, sol, plan.reverse; t=ts, dgdu_discrete=cotangent,
                       sensealg=sensealg(s, b.inst.generated), abstol, reltol, maxiters=o.maxiters, verbose=LOUD, fixed...)
        end
    catch e
        # What SciML would only have warned of arrives as an ErrorException.
        e isa ErrorException ? throw(GradientFailed("the reverse solve failed: $(e.msg)")) : rethrow()
    end
    gradient = dp === nothing ? zeros(T, length(sol.prob.p)) : Vector{T}(vec(dp))
    return Vector{T}(du0), gradient
end

"""Refuse what can't be trusted: VJPs that are not finite, a reverse solve that stopped on its way, a gradient that is not finite."""
function check(b::ContinuousPullback{T}, plan, inst, du0, dp) where {T}
    inst.nonfinite && throw(GradientFailed("the model's vector-Jacobian product is not finite at t = $(inst.nonfinite_t)"))
    all(isfinite, du0) && all(isfinite, dp) || throw(GradientFailed("the gradient is not finite"))
    if inst.nvjp > 0
        left = abs(inst.vjp_t - b.t0)
        span = abs(b.t[end] - b.t0)
        left <= max(4 * inst.vjp_gap, span / 50) ||
            throw(GradientFailed("the reverse solve stopped at t = $(inst.vjp_t), before the start at t = $(b.t0)"))
    end
    return nothing
end

# ---------------------------------------------------------------------------------------------------------------------

function run_discrete(plan::Plan{T}, u0::Vector{T}, p::Vector{T}, tspan::Tuple{T,T}, saveat::Vector{T}, progress) where {T}
    s = plan.sensitivity
    inst = checkout(plan.model)
    inst.progress = progress
    try
        prob = adjoint_problem(plan, inst, u0, p, tspan)
        common = keywords(plan, tspan)
        times = isempty(saveat) ? (;) : (; saveat)
        sol, back = at_runtime(SciMLBase._concrete_solve_adjoint, prob, plan.alg, sensealg(s, inst.generated), u0, p,
                               SciMLBase.ChainRulesOriginator(); times..., common...)
        result = Answer{T}(Vector{T}(sol.t), Vector{T}[Vector{T}(u) for u in sol.u], Symbol(sol.retcode), lastvalue(sol), inst.nf,
                           nothing, plan, nothing, nothing, nothing)
        result.pullback = function (du)
            cotangents = back(du)
            g0, gp = Vector{T}(vec(cotangents[4])), Vector{T}(vec(cotangents[5]))
            all(isfinite, g0) && all(isfinite, gp) || throw(GradientFailed("the gradient is not finite"))
            return g0, gp
        end
        return result
    finally
        checkin(plan.model, inst)
    end
end

# ---------------------------------------------------------------------------------------------------------------------

@setup_workload begin
    @compile_workload begin
        for name in ("GaussAdjoint", "InterpolatingAdjoint", "BacksolveAdjoint", "QuadratureAdjoint")
            PySciODE.rehearse(Float64, "OrdinaryDiffEqTsit5", "Tsit5", "full", name; pullback=true)
        end
        PySciODE.rehearse(Float32, "OrdinaryDiffEqTsit5", "Tsit5", "full", "GaussAdjoint"; pullback=true)
        PySciODE.rehearse(Float32, "OrdinaryDiffEqTsit5", "Tsit5", "full", "InterpolatingAdjoint"; pullback=true)
        PySciODE.rehearse(Float64, "OrdinaryDiffEqRosenbrock", "Rodas5P", "implicit", "GaussAdjoint"; pullback=true)
    end
end

end
