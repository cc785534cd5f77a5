# Events: SciML's callbacks over generated conditions, and calls into Python after every step. One callback of one type stands for any
# number of events, so that the solvers are compiled for events once.

"""The right-hand side of a model other than the plan's, with parameters of its own, during one solve."""
struct Beside{T}
    model::Model{T}
    f::RHS{T,T}
    p::Vector{T}
end
Beside(model::Model{T}, p::Vector{T}) where {T} = Beside{T}(model, RHS{T}(checkout(model)), p)
give_back(b::Beside) = checkin(b.model, b.f.inst)
give_back(::Nothing) = nothing

"""What is asked and what has occurred during one solve."""
struct EventLog{T}
    events::Vector{Event{T}}
    conditions::Vector{Beside{T}}
    affects::Vector{Union{Nothing,Beside{T}}}
    out::Vector{T}            # of a condition or an affect
    counts::Vector{Int}
    index::Vector{Int}        # which event occurred
    times::Vector{T}
    states::Vector{Vector{T}} # before the affect
    latest::Vector{T}         # of each event, its latest time, and the sign of its condition from then on
    after::Vector{T}
    changes::Vector{Change{T}}  # of each condition, in the step that was `searched`
    searched::Base.RefValue{Tuple{Float64,Float64}}
    unsettled::Vector{Bool}   # whether a condition ever changed faster than it was followed
end

"""
    EventLog(events, p)

`p` holds the parameters of every condition and affect, one after the other.
"""
function EventLog(events::Vector{Event{T}}, p::Vector{T}) where {T}
    conditions, affects = Beside{T}[], Union{Nothing,Beside{T}}[]
    position = 0
    function next(model)
        np = model.generated.np
        position += np
        return Beside(model, p[(position - np + 1):position])
    end
    for e in events
        push!(conditions, next(e.condition))
        push!(affects, e.affect === nothing ? nothing : next(e.affect))
    end
    n = events[1].condition.generated.n
    m = length(events)
    return EventLog{T}(events, conditions, affects, zeros(T, n), zeros(Int, m), Int[], T[], Vector{T}[], fill(T(NaN), m), zeros(T, m),
                       Change{T}[], Ref((NaN, NaN)), fill(false, m))
end
give_back(log::EventLog) = (foreach(give_back, log.conditions); foreach(give_back, log.affects))

note_events!(result, ::Nothing) = nothing
function note_events!(result, log::EventLog)
    result.events = log
    return nothing
end

count_parameters(e::Event) = e.condition.generated.np + (e.affect === nothing ? 0 : e.affect.generated.np)

function evaluate(log::EventLog{T}, b::Beside{T}, u, t) where {T}
    b.f(log.out, flat(u), b.p, t)
    return log.out
end

struct EventCondition{T} <: Function
    log::EventLog{T}
end

# SciML asks at the start of a step first.
function (c::EventCondition{T})(out, u, t, integrator) where {T}
    log = c.log
    if t == integrator.tprev && log.searched[] != (integrator.tprev, integrator.t)
        log.searched[] = (integrator.tprev, integrator.t)
        search_step!(log, integrator)
    end
    for (i, change) in enumerate(log.changes)
        before, after = change.before, change.after
        out[i] = if abs(t - log.latest[i]) <= 1000eps(t)
            # Where two events all but coincide, SciML would find the first again after the second, and so on for ever.
            log.after[i] * eps(one(T))
        elseif integrator.tdir * (t - before.t) <= 0
            before.value
        elseif integrator.tdir * (t - after.t) >= 0
            after.value
        else
            condition_value(log, i, u, t)
        end
    end
    return nothing
end

function condition_value(log::EventLog, i, u, t)
    value = evaluate(log, log.conditions[i], u, t)[1]
    isnan(value) && all(isfinite, u) && throw(EventFailed(i, Float64(t)))  # a state that is none is the solver's matter
    return value
end

"""Find the first change of each condition in the step that was accepted."""
function search_step!(log::EventLog{T}, integrator) where {T}
    from, to = Float64(integrator.tprev), Float64(integrator.t)
    ts = step_nodes(from, to)
    states = [k == 1 ? integrator.uprev : k == length(ts) ? integrator.u : integrator(t) for (k, t) in enumerate(ts)]
    u = similar(integrator.u)
    empty!(log.changes)
    for i in eachindex(log.conditions)
        function sample(t)
            integrator(u, t)
            value = condition_value(log, i, u, t)
            if iszero(value)  # the side to which it leaves counts
                later = t + (to - from) / 10_000
                integrator(u, later)
                value = condition_value(log, i, u, later) * eps(T)
            end
            return Sample{T}(t, value)
        end
        nodes = map(eachindex(ts)) do k
            value = condition_value(log, i, states[k], ts[k])
            return iszero(value) && k > 1 ? sample(ts[k]) : Sample{T}(ts[k], value)
        end
        known = abs(from - log.latest[i]) <= 1000eps(from) ? log.after[i] : zero(T)
        change, settled = first_change(sample, nodes, known)
        push!(log.changes, change)
        settled || (log.unsettled[i] = true)
    end
    return nothing
end

"""
Note what occurred, change the state, stop. Line 7 of SciML hands over a mask of directions for all events; line 6 an index, and
has one such function for each direction.
"""
struct EventAffect{T} <: Function
    log::EventLog{T}
    direction::Int
end

(a::EventAffect)(integrator, i::Integer) = occur!(a.log, integrator, ((Int(i), a.direction),))
(a::EventAffect)(integrator, mask::AbstractVector) =
    occur!(a.log, integrator, [(i, Int(mask[i])) for i in eachindex(mask) if mask[i] != 0])

function occur!(log::EventLog{T}, integrator, found) where {T}
    before = copy(flat(integrator.u))::Vector{T}
    changed = false
    for (i, direction) in found
        e = log.events[i]
        log.latest[i] = integrator.t
        log.after[i] = direction
        e.direction == 0 || e.direction == direction || continue
        log.counts[i] += 1
        push!(log.index, i)
        push!(log.times, integrator.t)
        push!(log.states, before)
        affect = log.affects[i]
        if affect !== nothing
            copyto!(integrator.u, evaluate(log, affect, integrator.u, integrator.t))
            changed = true
        end
        log.counts[i] == e.stop_after && SciMLBase.terminate!(integrator)
    end
    set_modified!(integrator, changed || log.events[1].restart)
    changed && look_ahead!(log, integrator)
    return nothing
end

"""After a change of state: to which side do the conditions of the events that occurred now go?"""
function look_ahead!(log::EventLog{T}, integrator) where {T}
    u, t = integrator.u, integrator.t
    du = similar(u)
    integrator.f(du, u, integrator.p, t)
    ahead = T(1e-6) * SciMLBase.get_proposed_dt(integrator)
    later = flat(u) .+ ahead .* flat(du)
    for i in eachindex(log.latest)
        log.latest[i] == t || continue
        value = evaluate(log, log.conditions[i], later, t + ahead)[1]
        value == 0 || (log.after[i] = sign(value))
    end
    return nothing
end

# Called so on line 7; line 6 has the older name only.
const set_modified! = isdefined(SciMLBase, :derivative_discontinuity!) ? SciMLBase.derivative_discontinuity! : SciMLBase.u_modified!

"""
    event_callback(log, save)

`save`: whether the states before and after a change are saved too, as dense output needs them.
"""
function event_callback(log::EventLog, save::Bool)
    n = length(log.events)
    # No samples of SciML's own, but the dense output; and no look at a later time than that of the latest event.
    options = (; save_positions=(save, save), interp_points=2, repeat_nudge=0)
    up = EventAffect(log, 1)
    if hasfield(SciMLBase.VectorContinuousCallback, :affect_neg!)
        return SciMLBase.VectorContinuousCallback(EventCondition(log), up, EventAffect(log, -1), n; options...)
    end
    return SciMLBase.VectorContinuousCallback(EventCondition(log), up, n; options...)
end

# ---------------------------------------------------------------------------------------------------------------------

plain_values(::Type{T}, u) where {T} = eltype(u) === T ? flat(u) : T[ForwardDiff.value(x) for x in u]

"""Python's function of every step."""
struct StepHook{T} <: Function
    address::Ptr{Cvoid}
end
function (h::StepHook{T})(u, t) where {T}
    values = plain_values(T, u)
    time = Float64(ForwardDiff.value(t))
    status = GC.@preserve values @in_python ccall(h.address, Cint, (Float64, Ptr{T}), time, pointer(values))
    status == 0 || throw(CallbackFailed())
    return nothing
end

struct AfterStep{T} <: Function
    hook::StepHook{T}
end
(s::AfterStep)(integrator) = (s.hook(integrator.u, integrator.t); set_modified!(integrator, false); nothing)

struct AtStart{T} <: Function
    hook::StepHook{T}
end
(s::AtStart)(callback, u, t, integrator) = (s.hook(u, t); set_modified!(integrator, false); nothing)

always(u, t, integrator) = true

function step_callback(::Type{T}, address) where {T}
    hook = StepHook{T}(address)
    return SciMLBase.DiscreteCallback(always, AfterStep(hook); initialize=AtStart(hook), save_positions=(false, false))
end

"""Python's norm of the scaled error."""
struct PythonNorm{T} <: Function
    address::Ptr{Cvoid}
end
(n::PythonNorm)(u::Number, t) = abs(ForwardDiff.value(u))
function (n::PythonNorm{T})(u::AbstractArray, t) where {T}
    values = plain_values(T, u)
    out = Ref{Float64}(0.0)
    status = GC.@preserve values out begin
        place = Base.unsafe_convert(Ptr{Float64}, out)
        @in_python ccall(n.address, Cint, (Ptr{T}, Ptr{Float64}), pointer(values), place)
    end
    status == 0 || throw(CallbackFailed())
    return T(out[])
end

"""
    hooked(inst, everystep) -> keywords

What of `solve`'s keywords the hooks and events of a solve need; mostly none.
"""
function hooked(inst::Instance{T}, everystep::Bool) where {T}
    keywords = Pair{Symbol,Any}[]
    hooks, log = inst.hooks, inst.events
    events = log === nothing ? nothing : event_callback(log, everystep && any(e -> e.affect !== nothing, log.events))
    steps = hooks.step == C_NULL ? nothing : step_callback(T, hooks.step)
    if events !== nothing || steps !== nothing
        push!(keywords, :callback => events === nothing ? steps : steps === nothing ? events : SciMLBase.CallbackSet(events, steps))
    end
    hooks.norm == C_NULL || push!(keywords, :internalnorm => PythonNorm{T}(hooks.norm))
    return keywords
end
