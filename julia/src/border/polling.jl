# While a solve runs, Python's interpreter is not running, so nobody handles Ctrl-C. The model's own calls look at the clock now and
# then, and ask Python (which holds the signal) ten times a second.

const POLL_INTERVAL = UInt64(100_000_000)  # nanoseconds

"""Addresses in Python's C API, set by `connect!`; null where Julia runs without Python."""
const PYTHON = (
    ensure=Ref{Ptr{Cvoid}}(C_NULL), release=Ref{Ptr{Cvoid}}(C_NULL),
    signals=Ref{Ptr{Cvoid}}(C_NULL), clear=Ref{Ptr{Cvoid}}(C_NULL),
)

"""
    connect!(ensure, release, signals, clear)

Give the addresses of `PyGILState_Ensure`, `PyGILState_Release`, `PyErr_CheckSignals` and `PyErr_Clear`.
"""
function connect!(ensure::Integer, release::Integer, signals::Integer, clear::Integer)
    PYTHON.ensure[] = Ptr{Cvoid}(UInt(ensure))
    PYTHON.release[] = Ptr{Cvoid}(UInt(release))
    PYTHON.signals[] = Ptr{Cvoid}(UInt(signals))
    PYTHON.clear[] = Ptr{Cvoid}(UInt(clear))
    return nothing
end

"""
    @in_python call

A C call into Python, which may have to wait for Python's lock. Its holder may wait for a garbage collection of Julia's meanwhile, and that
for this thread; so it counts as outside of Julia. The call must not allocate in Julia.
"""
macro in_python(call)
    return quote
        thread = ccall(:jl_get_ptls_states, Ptr{Cvoid}, ())
        state = ccall(:jl_gc_safe_enter, Int8, (Ptr{Cvoid},), thread)
        result = $(esc(call))
        ccall(:jl_gc_safe_leave, Cvoid, (Ptr{Cvoid}, Int8), thread, state)
        result
    end
end

"""
Functions of Python that a solve calls; null where there is none. Mirrored by a `ctypes.Structure`.

`progress(t)`; `step(t, u) -> status` at the start and after every accepted step; `norm(u, out) -> status` in the place of the
root mean square.
"""
struct Hooks
    progress::Ptr{Cvoid}
    step::Ptr{Cvoid}
    norm::Ptr{Cvoid}
end
Hooks() = Hooks(C_NULL, C_NULL, C_NULL)
Hooks(address::Ptr{Cvoid}) = address == C_NULL ? Hooks() : unsafe_load(Ptr{Hooks}(address))

@inline function tick!(inst, t)
    inst.calls += 1
    (inst.calls & 15) == 0 && poll(inst, t)
    return nothing
end

@noinline function poll(inst, t)
    now = time_ns()
    now < inst.next_poll && return nothing
    inst.next_poll = now + POLL_INTERVAL
    if inst.hooks.progress != C_NULL && t isa AbstractFloat
        now_at = Float64(t)
        @in_python ccall(inst.hooks.progress, Cvoid, (Float64,), now_at)
    end
    interrupted() && throw(Interrupted())
    return nothing
end

function interrupted()
    PYTHON.signals[] == C_NULL && return false
    state = @in_python ccall(PYTHON.ensure[], Cint, ())
    pending = @in_python(ccall(PYTHON.signals[], Cint, ())) != 0
    pending && ccall(PYTHON.clear[], Cvoid, ())
    ccall(PYTHON.release[], Cvoid, (Cint,), state)
    return pending
end
