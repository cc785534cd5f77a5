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
        ccall(inst.hooks.progress, Cvoid, (Float64,), Float64(t))
    end
    interrupted() && throw(Interrupted())
    return nothing
end

function interrupted()
    PYTHON.signals[] == C_NULL && return false
    state = ccall(PYTHON.ensure[], Cint, ())
    pending = ccall(PYTHON.signals[], Cint, ()) != 0
    pending && ccall(PYTHON.clear[], Cvoid, ())
    ccall(PYTHON.release[], Cvoid, (Cint,), state)
    return pending
end
