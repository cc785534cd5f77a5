# Looks inside pysciode's Julia side: allocations of generated functions, live memory, and a solve that costs next to nothing.
module Inside

using OrdinaryDiffEqTsit5: Tsit5
using PySciODE: PySciODE, checkin, checkout
using SciMLBase: FullSpecialize, ODEFunction, ODEProblem, solve

"""Bytes that one call of a model's functions allocates after the first, by name; of the model registered last."""
function allocations()
    handles = PySciODE.MODELS
    model = PySciODE.get_object(handles, maximum(keys(handles.objects)))
    instance = checkout(model)
    bytes = measured(instance)
    checkin(model, instance)
    return bytes
end

function measured(instance::PySciODE.Instance{T}) where {T}
    u, lam, out = ones(T, instance.n), ones(T, instance.n), zeros(T, instance.n)
    p, dp = ones(T, instance.np), zeros(T, instance.np)
    rhs, vjp, vjp_p = PySciODE.RHS{T}(instance), PySciODE.VJP{T}(instance), PySciODE.ParamVJP{T}(instance)
    calls = (
        "f!" => () -> rhs(out, u, p, zero(T)), "vjp!" => () -> vjp(out, lam, u, p, zero(T)), "vjp_p!" => () -> vjp_p(dp, lam, u, p, zero(T)),
    )
    return Dict{String,Int}(name => bytes(call) for (name, call) in calls if haskey(instance.generated.functions, Symbol(name)))
end

function bytes(call)
    call()
    return @allocated call()
end

"""Bytes in use after a full collection."""
live_bytes() = (GC.gc(); GC.gc(); Base.gc_live_bytes())

decay!(du, u, p, t) = (du[1] = -p[1] * u[1]; nothing)
const TINY = ODEProblem(ODEFunction{true,FullSpecialize}(decay!), [1.0], (0.0, 1e-3), [1.0])
tiny_solve() = solve(TINY, Tsit5(); saveat = [1e-3])

end
