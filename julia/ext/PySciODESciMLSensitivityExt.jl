"""
The adjoint methods of SciMLSensitivity over generated models. Loaded when the first adjoint is asked for, never for a plain solve.
"""
module PySciODESciMLSensitivityExt

using DiffEqBase: DiffEqBase
using Logging: NullLogger, with_logger
using PrecompileTools: @compile_workload, @setup_workload
using PySciODE
using PySciODE: AbstractAnswer, AbstractInstance, Answer, DeviceInstance, GradientFailed, LOUD, Methods, Plan, RHS, Refusal, Sensitivity, answer,
    at_runtime, checkin, checkout, counts, evaluations, hooked, keywords, mass_matrix, new_answer, nonfinite_product, odeproblem, option, read_off!,
    solve_raw, through_start, with_mass_matrix
using SciMLBase: SciMLBase, FullSpecialize, ODEFunction, ODEProblem, successful_retcode
using SciMLSensitivity: SciMLSensitivity, ReverseDiffVJP, adjoint_sensitivities

# Besides what `at_runtime` is for: Julia crashes on loading a package image that holds ReverseDiff's tracked arrays
# (JuliaLang/julia#62047), and inference meets them wherever it follows SciMLSensitivity with types that it does not know.

PySciODE.differentiate(::Methods.Continuous, plan, u0, p, tspan, saveat, hooks, start) =
    through_start(run_continuous(plan, u0, p, tspan, saveat, hooks), start, plan, p)
PySciODE.differentiate(::Methods.Discrete, plan, u0, p, tspan, saveat, hooks, start) =
    through_start(run_discrete(plan, u0, p, tspan, saveat, hooks), start, plan, p)

"""The cotangent of the saved states, as SciML asks for it: one column at a time; zero at times that are not saved."""
struct Cotangent{M<:AbstractMatrix}
    du::M
    column::Vector{Int}
end
Cotangent(du::AbstractMatrix) = Cotangent(du, collect(axes(du, 2)))
(c::Cotangent)(out, u, p, t, i) =
    (c.column[i] == 0 ? fill!(out, zero(eltype(out))) : copyto!(out, view(c.du, :, c.column[i])); nothing)

"""
    graded(ts, start, cotangent)

More times before each of `ts`, crowding towards it. QuadratureAdjoint integrates from one time to the next, and a stiff adjoint
decays within a sliver behind each: its adaptive rule sees nothing there, and the gradient is wrong without an error.
"""
function graded(ts::Vector{T}, start::T, cotangent::Cotangent) where {T}
    times, column = T[], Int[]
    before = start
    for (i, t) in enumerate(ts)
        for k in 1:14
            inner = t - (t - before) / T(4)^k
            # No solver makes steps of the spacing of floats: in Float32 they ended the reverse solve at once.
            (abs(t - inner) <= 1000 * eps(t) || inner == (isempty(times) ? start : times[end])) && break
            push!(times, inner)
            push!(column, 0)
        end
        push!(times, t)
        push!(column, cotangent.column[i])
        before = t
    end
    return times, Cotangent(cotangent.du, column)
end

"""SciML's choice of VJP. With generated VJPs the choice is never consulted, and this one needs no buffers."""
function vjp_choice(s::Sensitivity, generated)
    name = s.autojacvec
    if name === :generated
        name = haskey(generated.functions, :vjp!) ? :ZygoteVJP : :ReverseDiffVJP
    end
    if name === Symbol("ReverseDiffVJP(true)")
        # Its tape is recorded once, with the ways that were taken then.
        generated.branches && throw(ArgumentError("a compiled tape can't follow a model with branches: use ReverseDiffVJP"))
        return ReverseDiffVJP(true)
    end
    return getfield(SciMLSensitivity, name)()
end

function sensealg(s::Sensitivity, generated; tolerances...)
    constructor = getfield(SciMLSensitivity, s.name)
    s.method isa Methods.Discrete && return constructor(; s.options...)
    return constructor(; autojacvec=vjp_choice(s, generated), tolerances..., s.options...)
end

# These differentiate the model's own code, and want it out of place.
out_of_place(s::Sensitivity) = s.autojacvec in (:ZygoteVJP, :TrackerVJP, :EnzymeVJP, :MooncakeVJP) ||
    Methods.out_of_place(s.method)

function adjoint_problem(plan::Plan{T}, inst, u0, p, tspan) where {T}
    s = plan.sensitivity
    if out_of_place(s)
        f = PySciODE.without_mutation(inst.generated)
        return ODEProblem{false,FullSpecialize}(with_mass_matrix(plan, ODEFunction{false,FullSpecialize}(f), u0), u0, tspan, p)
    elseif s.autojacvec !== :generated || Methods.own_numbers(s.method)
        return odeproblem(with_mass_matrix(plan, ODEFunction{true,FullSpecialize}(RHS{T}(inst)), u0), u0, tspan, p)
    end
    return odeproblem(plan, inst, u0, p, tspan)
end

# ---------------------------------------------------------------------------------------------------------------------

function run_continuous(plan::Plan{T}, u0::AbstractVector{T}, p::AbstractVector{T}, tspan::Tuple{T,T}, saveat::Vector{T}, hooks) where {T}
    inst = checkout(plan.model)
    inst.hooks = hooks
    # Nothing after the last saved time matters to the gradient.
    stop = isempty(saveat) ? tspan[2] : saveat[end]
    stop == tspan[1] && return initial_only(plan, inst, u0, p, tspan)
    try
        prob = adjoint_problem(plan, inst, u0, p, (tspan[1], stop))
        return at_runtime(run_continuous, plan, inst, prob, saveat)::AbstractAnswer{T}
    catch
        checkin(plan.model, inst)
        rethrow()
    end
end

function run_continuous(plan::Plan{T}, inst::AbstractInstance{T}, prob, saveat::Vector{T}) where {T}
    s = plan.sensitivity
    start = prob.tspan[1]
    sparse_in_time = Methods.backwards(s.method) || option(s, :checkpointing) === true
    # Checkpoints are the saved times, and the start.
    at = !sparse_in_time || isempty(saveat) || saveat[1] == start ? saveat : vcat(start, saveat)
    sol = sparse_in_time ? solve_raw(plan, inst, prob, at, false) : solve_raw(plan, inst, prob, T[], true; read=saveat)
    result = answer(plan, inst, sol, sparse_in_time ? at : T[]; keep=true)
    if !successful_retcode(sol.retcode)
        sparse_in_time || isempty(saveat) || read_off!(result, plan, saveat, start, sol)
        result.pullback = Refusal("the forward solve ended with retcode $(sol.retcode), so there is nothing to differentiate")
        return result
    end
    if sparse_in_time
        length(at) > length(saveat) && (popfirst!(result.t); popfirst!(result.u))
    elseif !isempty(saveat)
        read_off!(result, plan, saveat, start, sol)
    end
    result.pullback = ContinuousPullback(plan, inst, sol, result.t, start)
    return result
end

function initial_only(plan::Plan{T}, inst, u0, p, tspan) where {T}
    checkin(plan.model, inst)
    stay(du) = (vec(sum(du; dims=2)), zero(p))
    return new_answer([tspan[1]], [copy(u0)], :Success, Float64(tspan[1]), counts(0, nothing), plan, nothing, nothing, stay)
end

struct ContinuousPullback{T,P<:Plan{T},I<:AbstractInstance{T},S}
    plan::P
    inst::I
    sol::S
    t::Vector{T}
    t0::T
end

function (b::ContinuousPullback{T})(du::AbstractMatrix{T}) where {T}
    plan, inst = b.plan, b.inst
    s = plan.sensitivity
    PySciODE.reset!(inst)  # Python's functions lived as long as the solve
    inst.joint = s.autojacvec === :generated && Methods.joint(s.method) &&
        haskey(inst.generated.functions, :vjp_both!)
    if s.autojacvec === :generated && Methods.quadrature(s.method) !== nothing && PySciODE.takes_jacobian(plan.alg)
        inst.audited = true
        fill!(inst.lam_solved, zero(T))
        fill!(inst.lam_interpolated, zero(T))
    end
    first_is_start = !isempty(b.t) && b.t[1] == b.t0
    ts = first_is_start ? b.t[2:end] : b.t
    cotangents = first_is_start ? du[:, 2:end] : du
    du0, dp = reverse_solve(b, plan, b.sol, ts, Cotangent(cotangents))::NTuple{2,AbstractVector{T}}
    check(b, plan, inst, du0, dp)
    Methods.backwards(s.method) && inst.joint && check_drift(b, plan, inst)
    if inst.audited
        PySciODE.widen!(inst.lam_solved, du0)
        check_interpolation(plan, inst)
    end
    # SciML returns the adjoint λ; the derivative by the initial state is M'λ.
    plan.mass_matrix === nothing || (du0 = mass_matrix(plan, du0)' * du0)
    first_is_start && (du0 .+= view(du, :, 1))
    return du0, dp
end

function reverse_solve(b, plan::Plan{T}, sol, ts, cotangent) where {T}
    s = plan.sensitivity
    o = plan.options
    forward = keywords(o, plan.reverse, sol.prob.tspan)
    abstol = isnan(s.abstol) ? (forward.abstol isa Vector ? minimum(forward.abstol) : forward.abstol) : T(s.abstol)
    reltol = isnan(s.reltol) ? forward.reltol : T(s.reltol)
    over_times = Methods.quadrature(s.method) === :times
    over_times && PySciODE.takes_jacobian(plan.alg) &&
        ((ts, cotangent) = graded(ts, b.t0, cotangent))
    # SciML's default for the quadrature, 1e-6 and 1e-3, is there whatever is asked of the solve.
    inner = over_times ? (; abstol=abstol / 10, reltol=reltol / 10) : (;)
    fixed = forward.adaptive ? (;) : (; dt=-forward.dt, adaptive=false)
    # The adjoint of algebraic equations is algebraic too, and jumps at every saved time.
    consistent = plan.algebraic === nothing ? (;) : (; initializealg=DiffEqBase.BrownFullBasicInit(; abstol))
    record = RecordSteps(b.inst.lam_solved)
    audit = b.inst.audited ? (; unstable_check=record) : (;)
    du0, dp = try
        # The exception says what the log would.
        with_logger(NullLogger()) do
            at_runtime(adjoint_sensitivities, sol, plan.reverse; t=ts, dgdu_discrete=cotangent,
                       sensealg=sensealg(s, b.inst.generated; inner...), abstol, reltol, maxiters=o.maxiters, verbose=LOUD, fixed..., audit..., consistent...)
        end
    catch e
        check_products(b.inst)  # a quadrature may have stumbled over them
        # What SciML would only have warned of arrives as an ErrorException.
        e isa StackOverflowError && throw(GradientFailed("the quadrature found no end: the adjoint changes too fast between its steps"))
        e isa ErrorException ? throw(GradientFailed("the reverse solve failed: $(e.msg)")) : rethrow()
    end
    b.inst.audited && check_layers(s, record.narrowest, ts, b.t0)
    return at_runtime(gradients, b.inst, du0, dp, sol.prob.p)
end

gradients(::AbstractInstance{T}, du0, dp, p) where {T} = (Vector{T}(vec(du0)), dp === nothing ? zero(p) : Vector{T}(vec(dp)))
gradients(::DeviceInstance, du0, dp, p) = (vec(du0), dp === nothing ? zero(p) : copyto!(similar(p), vec(dp)))

function check_products(inst)
    when = nonfinite_product(inst)
    when === nothing || throw(GradientFailed("the model's vector-Jacobian product is not finite$when"))
    return nothing
end

"""Refuse what can't be trusted: VJPs that are not finite, a reverse solve that stopped on its way, a gradient that is not finite."""
function check(b::ContinuousPullback{T}, plan, inst, du0, dp) where {T}
    check_products(inst)
    all(isfinite, du0) && all(isfinite, dp) || throw(GradientFailed("the gradient is not finite"))
    if inst.nvjp > 0
        left = abs(inst.vjp_t - b.t0)
        span = abs(b.t[end] - b.t0)
        left <= max(4 * inst.vjp_gap, span / 50) ||
            throw(GradientFailed("the reverse solve stopped at t = $(inst.vjp_t), before the start at t = $(b.t0)"))
    end
    return nothing
end

"""
Sees every accepted state of a solve, where the solver asks whether it is still stable. `narrowest`: two steps one after the other that
are no longer than this; a single one may be what was left up to a saved time.
"""
mutable struct RecordSteps{V} <: Function
    const largest::V
    last::Float64
    narrowest::Float64
    RecordSteps(largest::V) where {V} = new{V}(largest, Inf, Inf)
end
function (r::RecordSteps)(dt, u, p, t)
    PySciODE.widen!(r.largest, u)
    r.narrowest = min(r.narrowest, max(r.last, abs(dt)))
    r.last = abs(dt)
    return DiffEqBase.ODE_DEFAULT_UNSTABLE_CHECK(dt, u, p, t)
end

"""
Gauss quadrature reads the adjoint between the steps of its solve. Interpolants that are not made for stiff problems (those of KenCarp47 on
Robertson's) leave the solution there by orders of magnitude, and the gradient is wrong without an error.
"""
function check_interpolation(plan, inst::AbstractInstance{T}) where {T}
    slack = 100 * T(plan.options.reltol) * maximum(inst.lam_solved; init=zero(T)) + 100 * eps(T)
    for (solved, interpolated) in zip(Vector(inst.lam_solved), Vector(inst.lam_interpolated))
        interpolated <= 2solved + slack || throw(GradientFailed(
            "the interpolated adjoint reaches $interpolated where its solution stays below $solved: this algorithm's dense output " *
            "does not follow stiff layers, as that of Rodas5P does"))
    end
    return nothing
end

"""
Quadratures look between the steps of the reverse solve. Behind every saved time the fastest parts of the adjoint decay: where they do
within a few floats of the time, or within the first sliver of `graded` times, the quadrature does not see them.
"""
function check_layers(s, narrowest, ts, t0)
    isempty(ts) && return nothing
    seen = Methods.quadrature(s.method) === :times ? minimum(abs, diff([t0; ts])) / 10 :
        max(10 * maximum(eps ∘ abs, ts), 1000 * maximum(eps ∘ Float64 ∘ abs, ts))
    narrowest >= seen || throw(GradientFailed(
        "the adjoint changes within $narrowest of a saved time, too fast for a quadrature over the times; " *
        "take InterpolatingAdjoint, or ForwardDiffSensitivity where there are few parameters"))
    return nothing
end

"""BacksolveAdjoint computes the states anew, backwards: they must come back to where they started."""
function check_drift(b::ContinuousPullback{T}, plan, inst) where {T}
    u0 = b.sol.prob.u0
    scale = maximum(abs, u0; init=zero(T)) + maximum(u -> maximum(abs, u; init=zero(T)), b.sol.u; init=zero(T))
    drift = maximum(abs, inst.joint_u .- u0; init=zero(T))
    allowed = scale / 100 + 10_000 * T(plan.options.reltol) * scale
    drift <= allowed || throw(GradientFailed("the states that were solved backwards miss the initial ones by $drift"))
    return nothing
end

# ---------------------------------------------------------------------------------------------------------------------

function run_discrete(plan::Plan{T}, u0::Vector{T}, p::Vector{T}, tspan::Tuple{T,T}, saveat::Vector{T}, hooks) where {T}
    s = plan.sensitivity
    inst = checkout(plan.model)
    inst.hooks = hooks
    try
        prob = adjoint_problem(plan, inst, u0, p, tspan)
        common = (; keywords(plan, tspan)..., hooked(inst, isempty(saveat))...)
        plan.options.coarse && append!(common.tstops, saveat)
        times = isempty(saveat) ? (;) : (; saveat)
        sol, back = try
            at_runtime(SciMLBase._concrete_solve_adjoint, prob, plan.alg, sensealg(s, inst.generated), u0, p,
                       SciMLBase.ChainRulesOriginator(); times..., common...)
        catch e
            startswith(string(nameof(typeof(e))), "FirstAutodiff") || rethrow()
            throw(GradientFailed("the dual numbers of $(nameof(typeof(plan.alg))) do not go with its numbers: " *
                                 "take ReverseDiffAdjoint and the algorithm with autodiff=False, an explicit algorithm, or a continuous adjoint"))
        end
        result = at_runtime(discrete_answer, plan, inst, sol)::Answer{T}
        result.pullback = function (du)
            cotangents = at_runtime(back, du)
            g0, gp = at_runtime(gradients, inst, cotangents[4], cotangents[5], p)::Tuple{Vector{T},Vector{T}}
            all(isfinite, g0) && all(isfinite, gp) || throw(GradientFailed("the gradient is not finite"))
            return g0, gp
        end
        return result
    finally
        checkin(plan.model, inst)
    end
end

discrete_answer(plan::Plan{T}, inst, sol) where {T} =
    Answer{T}(Vector{T}(sol.t), Vector{T}[Vector{T}(u) for u in sol.u], Symbol(sol.retcode),
              isempty(sol.t) ? NaN : Float64(sol.t[end]), counts(evaluations(inst), nothing), plan, nothing, nothing, nothing)

# ---------------------------------------------------------------------------------------------------------------------

@setup_workload begin
    @compile_workload begin
        for name in ("GaussAdjoint", "InterpolatingAdjoint", "BacksolveAdjoint", "QuadratureAdjoint")
            PySciODE.rehearse(Float64, "OrdinaryDiffEqTsit5", "Tsit5", "full", name; pullback=true)
        end
        PySciODE.rehearse(Float32, "OrdinaryDiffEqTsit5", "Tsit5", "full", "GaussAdjoint"; pullback=true)
        PySciODE.rehearse(Float32, "OrdinaryDiffEqTsit5", "Tsit5", "full", "InterpolatingAdjoint"; pullback=true)
    end
end

end
