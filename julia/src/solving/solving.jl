abstract type AbstractAnswer{T} end

"""
    Answer{T}

What a solve leaves behind: times, states (one vector each), SciML's return code and counts, and what a later pullback or
interpolation needs.
"""
mutable struct Answer{T} <: AbstractAnswer{T}
    t::Vector{T}
    u::Vector{Vector{T}}
    retcode::Symbol
    t_reached::Float64
    counts::NTuple{7,Int}  # nf, njacs, nw, nsolve, nnonliniter, naccept, nreject
    plan::Any
    instance::Union{Nothing,Instance{T}}
    solution::Any   # for dense output and adjoints
    pullback::Any   # (du::Matrix{T}) -> (du0, dp)
    events::Any     # EventLog, where there were events

    # The default constructor converts whatever it is given, and is invalidated by every package that teaches `convert` a new type.
    function Answer{T}(t::Vector{T}, u::Vector{Vector{T}}, retcode::Symbol, t_reached::Float64, counts::NTuple{7,Int}, plan, instance,
                       solution, pullback) where {T}
        return new{T}(t, u, retcode, t_reached, counts, plan, instance, solution, pullback, nothing)
    end
end

counts(nf, s) = (nf, s.njacs, s.nw, s.nsolve, s.nnonliniter, s.naccept, s.nreject)
counts(nf, ::Nothing) = (nf, 0, 0, 0, 0, 0, 0)

keywords(plan::Plan{T}, tspan) where {T} = keywords(plan.options, plan.alg, tspan)

# One set of keywords with one set of types, whatever the user gave: the solver's big functions are compiled once (and once more for
# those who give `dt`, which has no neutral value).
function keywords(o::Options, alg, tspan::Tuple{T,T}) where {T}
    dtmax = isfinite(o.dtmax) ? T(o.dtmax) : abs(tspan[2] - tspan[1])
    common = (;
        reltol=T(o.reltol), abstol=o.abstol isa Vector ? T.(o.abstol) : T(o.abstol),
        dtmin=T(o.dtmin), dtmax=copysign(dtmax, tspan[2] - tspan[1]),
        maxiters=o.maxiters, adaptive=o.adaptive && isadaptive(alg), tstops=T.(o.tstops), verbose=SILENT,
    )
    return o.dt == 0 ? common : (; dt=copysign(T(o.dt), tspan[2] - tspan[1]), common...)
end

"""
    solve_raw(plan, inst, prob, saveat, dense; read=saveat, steps=nothing)

SciML's solution: at `saveat`, or at every step where that is empty. `read`: the times at which its states will be read. `steps`: `Steps` to
keep the accepted steps in.
"""
function solve_raw(plan::Plan{T}, inst::AbstractInstance{T}, prob, saveat::Vector{T}, dense::Bool; read::Vector{T}=saveat, steps=nothing) where {T}
    o = plan.options
    common = keywords(plan, prob.tspan)
    o.coarse && append!(common.tstops, read)
    everystep = dense || isempty(saveat)
    at = dense ? T[] : saveat
    more = hooked(inst, everystep)
    # Dual numbers start with consistent derivatives, see `tangent`.
    a = plan.algebraic
    a === nothing || push!(more, :initializealg => eltype(prob.u0) === T ? a.initialize : SciMLBase.NoInit())
    if isempty(o.extra) && o.save_idxs === nothing && isempty(more) && plan.alg isa OrdinaryDiffEqCore.OrdinaryDiffEqAlgorithm
        return finish(inst, init(prob, plan.alg; saveat=at, save_everystep=everystep, dense=dense, common...), steps)
    end
    extra = append!(more, o.extra)
    o.save_idxs === nothing || dense || push!(extra, :save_idxs => o.save_idxs)
    by = plan.alg isa OrdinaryDiffEqCore.OrdinaryDiffEqAlgorithm ? by_steps : by_another
    return at_runtime(by, inst, prob, plan.alg, steps; saveat=at, save_everystep=everystep, dense=dense, common..., extra...)
end

by_steps(inst, prob, alg, steps; keywords...) = finish(inst, at_runtime(init, prob, alg; keywords...), steps)

"""
By a solver from outside OrdinaryDiffEq. Some have `solve` alone, and pass over keywords that they don't know: the ones that would change
the answer must not be among them.
"""
function by_another(inst::AbstractInstance{T}, prob, alg, steps; saveat, save_everystep, keywords...) where {T}
    asked = (; (isempty(saveat) ? (;) : (; saveat))..., save_everystep, keywords...)
    integrator = try
        init(prob, alg; asked...)
    catch e
        e isa MethodError && e.f === SciMLBase.__init || rethrow()
        nothing
    end
    applicable(solve!, integrator) && return finish(inst, integrator)
    for name in (:callback, :internalnorm, :save_idxs, :initializealg)
        haskey(asked, name) && throw(ArgumentError("$(nameof(typeof(alg))) solves in one go: it takes no $name"))
    end
    sol = solve(prob, alg; asked...)
    inst.reached = T(sol.t[end])
    # Such a solver may know no return codes either.
    whole = sol.retcode == SciMLBase.ReturnCode.Default && inst.reached == prob.tspan[2] && all(isfinite, sol.u[end])
    return whole ? SciMLBase.solution_new_retcode(sol, SciMLBase.ReturnCode.Success) : sol
end

"""`solve!`, and a note of how far it came: what is saved doesn't tell."""
function finish(inst::AbstractInstance{T}, integrator, steps=nothing) where {T}
    sol = steps === nothing ? solve!(integrator) : solve_steps!(steps, integrator)
    inst.reached = T(ForwardDiff.value(integrator.t))
    return sol
end

flat(u::Vector) = u
flat(u::AbstractVector) = collect(u)
"""A state as a vector of the plan's kind, without any structure of SciML's."""
flat(::Plan, u) = flat(u)

"""How many of the solution's points are at `saveat`: to what was saved before it gave up, SciML adds where it was then."""
function asked_for(sol, saveat)
    isempty(saveat) && return length(sol.t)
    count = 0
    while count < min(length(sol.t), length(saveat)) && sol.t[count + 1] == saveat[count + 1]
        count += 1
    end
    return count
end

function answer(plan::Plan{T}, inst, sol, saveat; keep=false) where {T}
    count = asked_for(sol, saveat)
    times = Vector{T}(view(sol.t, 1:count))
    states = [flat(plan, sol.u[k]) for k in 1:count]
    return new_answer(times, states, Symbol(sol.retcode), Float64(inst.reached), counts(evaluations(inst), sol.stats), plan,
                      keep ? inst : nothing, keep ? sol : nothing, nothing)
end

new_answer(t::Vector{T}, u, retcode, t_reached, counts, plan, instance, solution, pullback) where {T} =
    Answer{T}(t, u, retcode, t_reached, counts, plan, instance, solution, pullback)

"""
    run(plan, u0, p, tspan, saveat, hooks, event_p) -> Answer

Solve without derivatives. `event_p`: the parameters of all events, see `EventLog`.
"""
function run(plan::Plan{T}, u0::AbstractVector{T}, p::AbstractVector{T}, tspan::Tuple{T,T}, saveat::Vector{T}, hooks::Hooks,
             event_p::Vector{T}) where {T}
    inst = checkout(plan.model)
    inst.hooks = hooks
    log = inst.events = isempty(plan.events) ? nothing : EventLog(plan.events, event_p)
    result = nothing
    try
        prob = odeproblem(plan, inst, u0, p, tspan)
        result = at_runtime(run, plan, inst, prob, saveat, plan.options.dense)::AbstractAnswer{T}
    finally
        give_back(log)
        # A dense solution still refers to the instance: that one is given back when the answer is dropped.
        (result === nothing || result.instance === nothing) && checkin(plan.model, inst)
    end
    return result
end

function run(plan::Plan{T}, inst::AbstractInstance{T}, prob, saveat::Vector{T}, keep::Bool) where {T}
    sol = solve_raw(plan, inst, prob, saveat, keep)
    result = answer(plan, inst, sol, keep ? T[] : saveat; keep)
    if keep
        isempty(saveat) || read_off!(result, plan, saveat, prob.tspan[1], sol)
        # A dense solution holds whole states.
        map!(u -> saved(plan, u), result.u, result.u)
    end
    note_events!(result, inst.events)
    return result
end

"""The states at `saveat`, as far as it was reached, from a dense solution."""
function read_off!(result::AbstractAnswer, plan, saveat, start, sol)
    isempty(sol.t) && return result
    reached = abs(sol.t[end] - start)
    result.t = filter(t -> abs(t - start) <= reached, saveat)
    result.u = [t == start ? copy(sol.prob.u0) : flat(plan, sol(t)) for t in result.t]
    return result
end

"""
    interpolate!(out, answer, times, derivative)

Dense output, one column of `out` for each time.
"""
function interpolate!(out::AbstractMatrix{T}, a::AbstractAnswer{T}, times::Vector{Float64}, derivative::Int) where {T}
    a.solution === nothing && throw(ArgumentError("no dense output was kept"))
    at_runtime(interpolate!, out, a.plan, a.solution, times, derivative)
    return out
end

function interpolate!(out::AbstractMatrix{T}, plan::Plan{T}, sol, times::Vector{Float64}, derivative::Int) where {T}
    for (k, t) in enumerate(times)
        copyto!(view(out, :, k), saved(plan, flat(plan, derivative == 0 ? sol(T(t)) : sol(T(t), Val{derivative}))))
    end
    return out
end
