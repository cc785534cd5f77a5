# The crossing from Python: C functions that take pointers and numbers. Models and plans are made once, through juliacall; solves and
# pullbacks come this way, with the GIL released by the caller.

"""Objects that Python holds by number."""
struct Handles
    objects::Dict{Int64,Any}
    lock::ReentrantLock
    next::Base.RefValue{Int64}
end
Handles() = Handles(Dict{Int64,Any}(), ReentrantLock(), Ref{Int64}(0))

function hold!(h::Handles, object)
    @lock h.lock begin
        h.next[] += 1
        h.objects[h.next[]] = object
        return h.next[]
    end
end
get_object(h::Handles, id::Integer) = @lock h.lock (h.objects[Int64(id)])
drop!(h::Handles, id::Integer) = @lock h.lock (pop!(h.objects, Int64(id), nothing))

const MODELS = Handles()
const PLANS = Handles()
const ANSWERS = Handles()
const ERRORS = Handles()

# Status of a call.
const OK, FAILED, INTERRUPTED, GRADIENT_FAILED, CALLBACK_FAILED, OUT_OF_MEMORY, NO_DEVICE = ntuple(i -> Cint(i - 1), Val(7))

"""What a solve reports besides its arrays; mirrored by a `ctypes.Structure`."""
struct Report
    answer::Int64        # handle, 0 if nothing was kept
    count::Int64         # saved times
    error::Int64         # handle of the message, 0 if none
    nf::Int64
    njacs::Int64
    nw::Int64
    nsolve::Int64
    nnonliniter::Int64
    naccept::Int64
    nreject::Int64
    nvjp::Int64
    allocated::Int64     # bytes, by all of Julia during the call
    t_reached::Float64
    retcode::NTuple{32,UInt8}
end

function Report(a::AbstractAnswer, id, allocated)
    name = codeunits(String(a.retcode))
    retcode = ntuple(i -> i <= length(name) ? name[i] : 0x00, Val(32))
    return Report(id, length(a.t), 0, a.counts..., 0, allocated, a.t_reached, retcode)
end
Report(error::Integer) = Report(0, 0, error, counts(0, nothing)..., 0, 0, NaN, ntuple(_ -> 0x00, Val(32)))
"""Of a pullback: the counts of the reverse solve, zeros where there was none; and how far off it may be, in the place of the time reached."""
Report(inst::AbstractInstance, allocated, doubt) =
    Report(0, 0, 0, evaluations(inst), inst.njac, 0, 0, 0, 0, 0, inst.nvjp, allocated, doubt, ntuple(_ -> 0x00, Val(32)))
Report(::Nothing, allocated, doubt) = Report(0, 0, 0, counts(0, nothing)..., 0, allocated, doubt, ntuple(_ -> 0x00, Val(32)))

"""What a pullback knows of how far off it was."""
doubt(pullback) = 0.0

status(::Interrupted) = INTERRUPTED
status(::InterruptException) = INTERRUPTED
status(::GradientFailed) = GRADIENT_FAILED
status(::CallbackFailed) = CALLBACK_FAILED
status(::DeviceUnavailable) = NO_DEVICE
status(e::Exception) = out_of_memory(e) ? OUT_OF_MEMORY : FAILED

report_error(e, trace, report) = at_runtime(store_error, e, trace, report)::Cint

function store_error(e, trace, report)
    if e isa Union{Interrupted,InterruptException,CallbackFailed}
        unsafe_store!(report, Report(0))  # Python has an exception of its own for these, and making a message may take seconds
        return status(e)
    end
    unsafe_store!(report, Report(keep_error(e, trace)))
    return status(e)
end

"""The message and the stack of an exception, kept for Python to fetch."""
function keep_error(e, trace)
    message = sprint(showerror, e)
    stack = sprint(io -> Base.show_backtrace(io, trace))
    return hold!(ERRORS, (message, stack))
end

"""
    c_solve(plan, u0, p, t0, t1, nsave, saveat, u_out, hooks, report) -> status

`p` is followed by the parameters of the plan's events. `nsave < 0`: save every step. With `u_out` not null, the `nsave` states are written there at once.
"""
function c_solve(id::Int64, u0::Ptr{Cvoid}, p::Ptr{Cvoid}, t0::Float64, t1::Float64, nsave::Int64, saveat::Ptr{Float64},
                 u_out::Ptr{Cvoid}, hooks::Ptr{Cvoid}, report::Ptr{Report})::Cint
    try
        return at_runtime(guarded_solve, get_object(PLANS, id), u0, p, t0, t1, nsave, saveat, u_out, hooks, report)::Cint
    catch e
        return report_error(e, catch_backtrace(), report)
    end
end

function guarded_solve(plan::Plan{T}, u0, p, t0, t1, nsave, saveat, u_out, hooks, report) where {T}
    before = Base.gc_bytes()
    n = plan.model.generated.n
    np = plan.model.generated.np
    u0v = copy(unsafe_wrap(Vector{T}, Ptr{T}(u0), n))
    pv = np == 0 ? T[] : copy(unsafe_wrap(Vector{T}, Ptr{T}(p), np))
    extra = sum(count_parameters, plan.events; init=0)
    event_p = extra == 0 ? T[] : copy(unsafe_wrap(Vector{T}, Ptr{T}(p) + np * sizeof(T), extra))
    times = nsave > 0 ? T.(unsafe_wrap(Vector{Float64}, saveat, nsave)) : T[]
    tspan = (T(t0), T(t1))
    a = dispatch(plan, u0v, pv, tspan, times, Hooks(hooks), event_p)::Answer{T}
    if u_out != C_NULL && length(a.t) == nsave
        write_states(Ptr{T}(u_out), a)
    end
    # Kept where Python must still fetch something.
    needed = u_out == C_NULL || length(a.t) != nsave || a.solution !== nothing || a.pullback !== nothing ||
             a.events !== nothing
    handle = needed ? hold!(ANSWERS, a) : Int64(0)
    unsafe_store!(report, Report(a, handle, Base.gc_bytes() - before))
    return OK
end

function write_states(out::Ptr{T}, a::Answer{T}) where {T}
    n = width(a.plan)
    for (k, u) in enumerate(a.u)
        # Python made room for so many numbers.
        length(u) == n || throw(DimensionMismatch("a saved state has $(length(u)) entries instead of $n"))
        GC.@preserve u unsafe_copyto!(out + (k - 1) * n * sizeof(T), pointer(u), n)
    end
    return nothing
end

"""Solve as the sensitivity method has it; the adjoint methods live in the extension of SciMLSensitivity."""
function dispatch(plan::Plan, u0, p, tspan, saveat, hooks, event_p)
    start = nothing
    if plan.algebraic !== nothing
        start = at_runtime(consistent_start, plan, u0, p, tspan)
        start === nothing && return no_start(plan, tspan)
        u0 = start.u0
    end
    s = plan.sensitivity
    s === nothing && return run(plan, u0, p, tspan, saveat, hooks, event_p)
    start === nothing || can_differentiate(start.algebraic) || throw(GradientFailed(
        "the mass matrix is singular, without rows and columns of zeros for its algebraic equations and variables: write it so"))
    return at_runtime(differentiate, s.method, plan, u0, p, tspan, saveat, hooks, start)
end

"""The same answer, whose pullback goes on through what made the initial values consistent."""
through_start(result, ::Nothing, plan, p) = result
function through_start(result, start, plan, p)
    result.pullback isa Refusal && return result
    pull = result.pullback
    result.pullback = du -> at_runtime(through, start, plan, p, at_runtime(pull, du)...)
    return result
end

"""    c_fetch(answer, t_out, u_out) -> status: copy the saved times and states."""
function c_fetch(id::Int64, t_out::Ptr{Float64}, u_out::Ptr{Cvoid})::Cint
    try
        at_runtime(fetch_answer, get_object(ANSWERS, id), t_out, u_out)
        return OK
    catch
        return FAILED
    end
end

function fetch_answer(a::Answer{T}, t_out, u_out) where {T}
    for (k, t) in enumerate(a.t)
        unsafe_store!(t_out, Float64(t), k)
    end
    write_states(Ptr{T}(u_out), a)
    return nothing
end

"""    c_event_count(answer) -> count, -1 if that fails"""
function c_event_count(id::Int64)::Int64
    try
        return at_runtime(event_count, get_object(ANSWERS, id))::Int
    catch
        return -1
    end
end
event_count(a::AbstractAnswer) = a.events === nothing ? 0 : length(a.events.times)

"""
    c_fetch_events(answer, index_out, t_out, u_out, unsettled_out) -> status

Of each occurrence: which event (from 0), when, and the whole state before it; of each event, whether its condition changed faster than
it was followed.
"""
function c_fetch_events(id::Int64, index_out::Ptr{Int64}, t_out::Ptr{Float64}, u_out::Ptr{Cvoid}, unsettled_out::Ptr{Bool})::Cint
    try
        at_runtime(fetch_events, get_object(ANSWERS, id), index_out, t_out, u_out, unsettled_out)
        return OK
    catch
        return FAILED
    end
end

function fetch_events(a::Answer{T}, index_out, t_out, u_out, unsettled_out) where {T}
    log = a.events::EventLog{T}
    foreach(i -> unsafe_store!(unsettled_out, log.unsettled[i], i), eachindex(log.unsettled))
    for (k, u) in enumerate(log.states)
        unsafe_store!(index_out, log.index[k] - 1, k)
        unsafe_store!(t_out, Float64(log.times[k]), k)
        GC.@preserve u unsafe_copyto!(Ptr{T}(u_out) + (k - 1) * length(u) * sizeof(T), pointer(u), length(u))
    end
    return nothing
end

"""    c_pullback(answer, du, du0, dp, report) -> status"""
function c_pullback(id::Int64, du::Ptr{Cvoid}, du0::Ptr{Cvoid}, dp::Ptr{Cvoid}, report::Ptr{Report})::Cint
    try
        return at_runtime(guarded_pullback, get_object(ANSWERS, id), du, du0, dp, report)::Cint
    catch e
        return report_error(e, catch_backtrace(), report)
    end
end

function guarded_pullback(a::Answer{T}, du, du0, dp, report) where {T}
    before = Base.gc_bytes()
    cotangent = copy(unsafe_wrap(Matrix{T}, Ptr{T}(du), (width(a.plan), length(a.u))))
    g0, gp = at_runtime(a.pullback, cotangent)::Tuple{Vector{T},Vector{T}}
    GC.@preserve g0 gp begin
        unsafe_copyto!(Ptr{T}(du0), pointer(g0), length(g0))
        isempty(gp) || unsafe_copyto!(Ptr{T}(dp), pointer(gp), length(gp))
    end
    unsafe_store!(report, Report(a.instance, Base.gc_bytes() - before, at_runtime(doubt, a.pullback)::Float64))
    return OK
end

"""    c_interpolate(answer, times, count, derivative, out, report) -> status"""
function c_interpolate(id::Int64, times::Ptr{Float64}, count::Int64, derivative::Int64, out::Ptr{Cvoid}, report::Ptr{Report})::Cint
    try
        at_runtime(interpolate_into, get_object(ANSWERS, id), times, count, derivative, out)
        return OK
    catch e
        return report_error(e, catch_backtrace(), report)
    end
end

function interpolate_into(a::Answer{T}, times, count, derivative, out) where {T}
    ts = copy(unsafe_wrap(Vector{Float64}, times, count))
    interpolate!(unsafe_wrap(Matrix{T}, Ptr{T}(out), (width(a.plan), count)), a, ts, Int(derivative))
    return nothing
end

"""    c_release(answer) -> status: forget it, and give its instance back."""
function c_release(id::Int64)::Cint
    try
        at_runtime(give_back, drop!(ANSWERS, id))
        return OK
    catch
        return FAILED
    end
end

give_back(a::AbstractAnswer) = a.instance === nothing ? nothing : checkin(a.plan.model, a.instance)

"""    c_rhs(plan, u, p, t, du, report) -> status: one evaluation of the right-hand side."""
function c_rhs(id::Int64, u::Ptr{Cvoid}, p::Ptr{Cvoid}, t::Float64, du::Ptr{Cvoid}, report::Ptr{Report})::Cint
    try
        at_runtime(evaluate_rhs, get_object(PLANS, id), u, p, t, du)
        return OK
    catch e
        return report_error(e, catch_backtrace(), report)
    end
end

function evaluate_rhs(plan::Plan{T}, u, p, t, du) where {T}
    g = plan.model.generated
    inst = checkout(plan.model)
    try
        RHS{T}(inst)(PtrVector(Ptr{T}(du), g.n), PtrVector(Ptr{T}(u), g.n), PtrVector(Ptr{T}(p), g.np), T(t))
    finally
        checkin(plan.model, inst)
    end
    return nothing
end

"""
    c_command(spec, payload, report) -> handle, after an error the status times -1

What is done once for a model, a plan or a fit. `spec` is TOML whose `command` names a method of `command`; `payload` is a model's source.
"""
function c_command(spec::Cstring, payload::Cstring, report::Ptr{Report})::Int64
    try
        arguments = TOML.parse(unsafe_string(spec))
        return at_runtime(command, Val(Symbol(arguments["command"]::String)), arguments, unsafe_string(payload))::Int64
    catch e
        return -Int64(report_error(e, catch_backtrace(), report))
    end
end

"""    c_error(handle, out, capacity) -> length: the message of an error, a line `PYSCIODE-STACK`, and the stack; then it is forgotten"""
function c_error(id::Int64, out::Ptr{UInt8}, capacity::Int64)::Int64
    try
        message, stack = (@lock ERRORS.lock get(ERRORS.objects, id, ("unknown error", "")))::Tuple{String,String}
        text = codeunits(string(message, "\nPYSCIODE-STACK\n", stack))
        length(text) <= capacity || return length(text)
        drop!(ERRORS, id)
        GC.@preserve text unsafe_copyto!(out, pointer(text), length(text))
        return length(text)
    catch
        return 0
    end
end

"""
Changes whenever a C function, or the meaning of what crosses here, does: Python's side (pysciode/engines/julia/engine.py) has the same number.
"""
const BORDER_VERSION = 2

"""The C functions' addresses, as lines `name=address`; the border's version, and the sizes of the structs that both sides know."""
function addresses()
    pointers = (
        "solve" => @cfunction(c_solve, Cint, (Int64, Ptr{Cvoid}, Ptr{Cvoid}, Float64, Float64, Int64, Ptr{Float64}, Ptr{Cvoid},
                                              Ptr{Cvoid}, Ptr{Report})),
        "fetch" => @cfunction(c_fetch, Cint, (Int64, Ptr{Float64}, Ptr{Cvoid})),
        "pullback" => @cfunction(c_pullback, Cint, (Int64, Ptr{Cvoid}, Ptr{Cvoid}, Ptr{Cvoid}, Ptr{Report})),
        "interpolate" => @cfunction(c_interpolate, Cint, (Int64, Ptr{Float64}, Int64, Int64, Ptr{Cvoid}, Ptr{Report})),
        "event_count" => @cfunction(c_event_count, Int64, (Int64,)),
        "fetch_events" => @cfunction(c_fetch_events, Cint, (Int64, Ptr{Int64}, Ptr{Float64}, Ptr{Cvoid}, Ptr{Bool})),
        "release" => @cfunction(c_release, Cint, (Int64,)),
        "rhs" => @cfunction(c_rhs, Cint, (Int64, Ptr{Cvoid}, Ptr{Cvoid}, Float64, Ptr{Cvoid}, Ptr{Report})),
        "command" => @cfunction(c_command, Int64, (Cstring, Cstring, Ptr{Report})),
        "error" => @cfunction(c_error, Int64, (Int64, Ptr{UInt8}, Int64)),
    )
    layout = ("version" => BORDER_VERSION, "report" => sizeof(Report), "hooks" => sizeof(Hooks))
    return join((string(name, '=', UInt(value)) for (name, value) in (pointers..., layout...)), '\n')
end
