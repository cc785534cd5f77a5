# What every user needs is compiled into the package image: the usual solver, forward and in forward mode, for both element types. Stiff
# solvers have extensions, so that who doesn't need them doesn't load them.

# A model as generated source would define it; evaluating source is not possible while a package image is made.
module Rehearsal
workspace(::Type{T}) where {T} = nothing
f!(du, u, p, t, w) = (@inbounds du[1] = p[1] * u[1]; @inbounds du[2] = -p[2] * u[2] + t; nothing)
jac!(J, u, p, t, w) = (@inbounds J[1] = p[1]; @inbounds J[2] = J[3] = zero(p[1]); @inbounds J[4] = -p[2]; nothing)
tgrad!(d, u, p, t, w) = (@inbounds d[1] = zero(p[1]); @inbounds d[2] = one(p[1]); nothing)
vjp!(dl, l, u, p, t, w) = (@inbounds dl[1] = p[1] * l[1]; @inbounds dl[2] = -p[2] * l[2]; nothing)
vjp_p!(dp, l, u, p, t, w) = (@inbounds dp[1] = u[1] * l[1]; @inbounds dp[2] = -u[2] * l[2]; nothing)
vjp_both!(dl, dp, l, u, p, t, w) = (vjp!(dl, l, u, p, t, w); vjp_p!(dp, l, u, p, t, w))
paramjac!(P, u, p, t, w) = (@inbounds P[1] = u[1]; @inbounds P[2] = P[3] = zero(u[1]); @inbounds P[4] = -u[2]; nothing)
jvp!(dv, v, u, p, t, w) = (@inbounds dv[1] = p[1] * v[1]; @inbounds dv[2] = -p[2] * v[2]; nothing)
end

rehearsed(np) = Generated(Rehearsal, 2, np, 2, Dict{Symbol,Any}(
    name => getfield(Rehearsal, name) for name in FUNCTION_NAMES if isdefined(Rehearsal, name)), nothing, false, nothing)

"""Solve a small model the way Python does, for one element type, algorithm and sensitivity method."""
function rehearse(::Type{T}, package, name, odekind, sensealg; dense=false, pullback=false, np=2, event=false) where {T}
    model = hold!(MODELS, Model{T}(rehearsed(np)))
    report = Ref{Report}()
    method = sensealg === nothing ? "" : "[sensealg]\nname = \"$sensealg\"\nu0 = true\np = true\n"
    # An event that never occurs, whose condition is the same model.
    events = event ? "events = [{condition = $model, direction = 0, stop_after = 1}]\n" : ""
    id = send("command = \"plan\"\nmodel = $model\nalgorithm = \"$name()\"\npackages = [\"$package\"]\nodekind = \"$odekind\"\n" *
              "reltol = 1e-4\nabstol = 1e-4\ndense = $dense\n$events$method", report)
    u0, p, ts = T[1, 1], vcat(T[-1, 2], zeros(T, np - 2), event ? T[-1, 2] : T[]), [0.5, 1.0]
    out, du0, dp = zeros(T, 4), zeros(T, 2), zeros(T, np)
    GC.@preserve u0 p ts out du0 dp report begin
        at(x) = Ptr{Cvoid}(pointer(x))
        where_to = Base.unsafe_convert(Ptr{Report}, report)
        code = c_solve(id, at(u0), at(p), 0.0, 1.0, 2, pointer(ts), at(out), C_NULL, where_to)
        code == OK || error(first(get_object(ERRORS, report[].error)))
        if sensealg === nothing
            c_release(report[].answer)
            code = c_solve(id, at(u0), at(p), 0.0, 1.0, -1, pointer(ts), C_NULL, C_NULL, where_to)
            code == OK || error(first(get_object(ERRORS, report[].error)))
        end
        if pullback
            code = c_pullback(report[].answer, at(out), at(du0), at(dp), where_to)
            code == OK || error(first(get_object(ERRORS, report[].error)))
        end
        c_release(report[].answer)
    end
    send("command = \"release_plan\"\nhandle = $id", report)
    send("command = \"release_model\"\nhandle = $model", report)
    return nothing
end

"""Solve it without derivatives, and with dense output; on request with an event."""
function rehearse_forward(::Type{T}, package, name; event=false) where {T}
    rehearse(T, package, name, "full", nothing)
    rehearse(T, package, name, "full", nothing; dense=true)
    event && rehearse(T, package, name, "full", nothing; event)
end

"""Give a command as Python does."""
function send(spec::String, report, payload="")
    GC.@preserve spec payload report begin
        handle = c_command(Base.unsafe_convert(Cstring, spec), Base.unsafe_convert(Cstring, payload),
                           Base.unsafe_convert(Ptr{Report}, report))
    end
    handle < 0 && error(first(get_object(ERRORS, report[].error)))
    return handle
end

# What registers a model can't run here, because it evaluates source; it can be compiled.
for kind in (:connect, :register, :register_callback, :plan, :release_plan, :release_model, :minimize, :collocate, :multiple_shoot)
    precompile(command, (Val{kind}, Arguments, String))
end
for sparsity in (Nothing, Tuple{Vector{Int},Vector{Int}})
    options = NamedTuple{(:constants, :sparsity),Tuple{Vector{Pair{String,Any}},sparsity}}
    precompile(Core.kwcall, (options, typeof(generate), String, Int, Int))
end
precompile(eltype_of, (String,))
precompile(read_constants, (Vector{Any},))
precompile(Model{Float64}, (Generated,))
precompile(Model{Float32}, (Generated,))

@setup_workload begin
    @compile_workload begin
        addresses()
        for T in (Float64, Float32)
            rehearse_forward(T, "OrdinaryDiffEqTsit5", "Tsit5"; event=T === Float64)
        end
        for np in (2, 6)  # dual numbers of width 4 and 8
            rehearse(Float64, "OrdinaryDiffEqTsit5", "Tsit5", "full", "ForwardDiffSensitivity"; pullback=true, np)
        end
        for T in (Float64, Float32)
            rehearse(T, "OrdinaryDiffEqTsit5", "Tsit5", "full", "DiscreteAdjoint"; pullback=true)
        end
    end
end
