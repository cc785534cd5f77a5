# What Python asks for once per model or plan; see `c_command`. Arguments arrive as a parsed TOML table, so that no call needs code that is
# compiled for its own combination of types.

const Arguments = Dict{String,Any}

eltype_of(dtype::AbstractString) = dtype == "float64" ? Float64 : dtype == "float32" ? Float32 :
    throw(ArgumentError("no model of element type $dtype"))

"""Addresses in Python's C API; see `connect!`."""
function command(::Val{:connect}, a::Arguments, _)
    connect!(a["ensure"], a["release"], a["signals"], a["clear"])
    return 1
end

"""
A model from generated source: a handle. `constants` are `[name, dtype, address, length]`; they are copied. With `device`, the kind of one
and its `index`, its vectors lie there. With `like`, the source takes the constants as an argument; if it is no 0 but a
handle, the source is that model's, which is compiled already.
"""
function command(::Val{:register}, a::Arguments, source::String)
    constants = read_constants(a["constants"])
    sparsity = haskey(a, "colptr") ? (Vector{Int}(a["colptr"]), Vector{Int}(a["rowval"])) : nothing
    T = eltype_of(a["dtype"])
    outputs = get(a, "outputs", a["n"])::Int
    if haskey(a, "device")
        generated = generate(source, a["n"]::Int, a["np"]::Int; outputs, constants, on_device=true)
        return hold!(MODELS, DeviceModel{T}(generated, at_runtime(find_device, Val(Symbol(a["device"])), a["index"]::Int)))
    end
    haskey(a, "like") || return hold!(MODELS, Model{T}(generate(source, a["n"]::Int, a["np"]::Int; outputs, constants, sparsity)))
    given = NamedTuple(Symbol(name) => value for (name, value) in constants)
    like = a["like"]::Int
    generated = if like == 0
        generate(source, a["n"]::Int, a["np"]::Int; outputs, sparsity, given)
    else
        with_constants((get_object(MODELS, like)::Model{T}).generated, given, sparsity)
    end
    return hold!(MODELS, Model{T}(generated))
end

"""Load what a kind of device needs, and look whether the one with that index is there; throws `DeviceUnavailable`."""
function command(::Val{:use_device}, a::Arguments, _)
    require(a["package"]::String)
    at_runtime(find_device, Val(Symbol(a["device"])), a["index"]::Int)
    return 1
end

"""Set how exact products of Float32 are on a device: `highest`, `high` or `medium`, as in torch."""
command(::Val{:set_precision}, a::Arguments, _) = (PRECISION[] = Symbol(a["precision"]); 1)

"""Give what is free on a device back to its driver, after what nobody refers to any more was freed."""
function command(::Val{:reclaim}, a::Arguments, _)
    GC.gc()
    at_runtime(reclaim, at_runtime(find_device, Val(Symbol(a["device"])), a["index"]::Int))
    return 1
end

function read_constants(given)
    constants = Pair{String,Any}[]
    for (name, dtype, address, n) in given
        push!(constants, name::String => constant(ELEMENT_TYPES[dtype::String], address::Int, n::Int))
    end
    return constants
end

const ELEMENT_TYPES = Dict{String,DataType}(
    "float64" => Float64, "float32" => Float32, "int64" => Int64, "int32" => Int32, "bool" => Bool)

constant(::Type{T}, address, n) where {T} = n == 0 ? T[] : copy(unsafe_wrap(Vector{T}, Ptr{T}(UInt(address)), n))

"""A model whose functions are C function pointers into Python: a handle."""
function command(::Val{:register_callback}, a::Arguments, _)
    T = eltype_of(a["dtype"])
    n, np = a["n"], a["np"]
    functions = Dict{Symbol,Any}(:f! => PythonFunction{T}(Ptr{Cvoid}(UInt(a["f"]))))
    get(a, "jac", 0) != 0 && (functions[:jac!] = PythonFunction{T}(Ptr{Cvoid}(UInt(a["jac"]))))
    if a["vjp"] != 0
        both = PythonVJP{T}(Ptr{Cvoid}(UInt(a["vjp"])), n, np)
        functions[:vjp_both!] = both
        functions[:vjp!] = (dl, l, u, p, t, w) -> both(dl, zeros(T, np), l, u, p, t, w)
        functions[:vjp_p!] = (dp, l, u, p, t, w) -> both(zeros(T, n), dp, l, u, p, t, w)
    end
    return hold!(MODELS, Model{T}(Generated(@__MODULE__, n, np, n, functions, nothing, true, nothing)))
end

struct PythonFunction{T}
    address::Ptr{Cvoid}
end
function (f::PythonFunction{T})(du, u, p, t, w) where {T}
    status = GC.@preserve du u p @in_python ccall(f.address, Cint, (Ptr{T}, Ptr{T}, Ptr{T}, Float64), pointer(du), pointer(u), pointer(p), t)
    status == 0 || throw(CallbackFailed())
    return nothing
end

struct PythonVJP{T}
    address::Ptr{Cvoid}
    n::Int
    np::Int
end
function (f::PythonVJP{T})(dl, dp, l, u, p, t, w) where {T}
    status = GC.@preserve dl dp l u p @in_python ccall(f.address, Cint, (Ptr{T}, Ptr{T}, Ptr{T}, Ptr{T}, Ptr{T}, Float64), pointer(dl),
                                                       pointer(dp), pointer(l), pointer(u), pointer(p), t)
    status == 0 || throw(CallbackFailed())
    return nothing
end

symbolic_pairs(options) = Pair{Symbol,Any}[Symbol(k) => v for (k, v) in options]

"""A plan: a handle. The defaults are those of `Options` and `Sensitivity`."""
function command(::Val{:plan}, a::Arguments, _)
    alg = algorithm(a["algorithm"]::String, a["packages"])
    model = get_object(MODELS, a["model"])
    sensitivity = haskey(a, "sensealg") ? read_sensitivity(a["sensealg"]) : nothing
    n = model.generated.n
    reverse = haskey(a, "reverse") ? algorithm(a["reverse"]::String, a["reverse_packages"]) : alg
    sensitivity === nothing || (reverse = at_runtime(for_reverse, reverse))
    sensitivity !== nothing && Methods.duals(sensitivity.method) && (alg = for_duals(alg, n, a))
    # Consistent initial values of an algebraic equation are found by its solvers.
    haskey(a, "mass_matrix") && require("OrdinaryDiffEqNonlinearSolve")
    return hold!(PLANS, at_runtime(plan, model, alg;
        reverse, form=at_runtime(form, Val(Symbol(get(a, "form", "first_order")))), parts=read_parts(model, get(a, "parts", ())),
        odekind=Symbol(a["odekind"]), options=read_options(a), sensitivity, mass_matrix=read_matrix(a, n), algebraic=read_algebraic(a, n),
        events=read_events(typeof(model), get(a, "events", ()))))
end

"""
    for_duals(alg, n, a)

The same Rosenbrock method, where the user left the linear solver to us and the matrices are small and dense, with an LU that takes dual
numbers as they are: SciML's own choice for them costs twice as much as all the rest. (Not SimpleLUFactorization, which is quicker still:
of LinearSolve 3.82 it returns nonsense with dual numbers, and with Newton's method in the implicit Runge-Kutta methods.)
"""
function for_duals(alg, n, a::Arguments)
    nameof(parentmodule(typeof(alg))) === :OrdinaryDiffEqRosenbrock && alg.linsolve === nothing && n <= 64 || return alg
    a["odekind"] in ("full", "implicit") || return alg
    return at_runtime(remake, alg; linsolve=at_runtime(getfield(loaded("LinearSolve"), :GenericLUFactorization)))
end

read_parts(::AbstractModel{T}, given) where {T} =
    Dict{Symbol,Model{T}}(Symbol(name) => get_object(MODELS, handle) for (name, handle) in given)

read_events(::Type{<:AbstractModel{T}}, given) where {T} = Event{T}[read_event(Model{T}, e) for e in given]

read_event(::Type{Model{T}}, e) where {T} =
    Event{T}(get_object(MODELS, e["condition"]), haskey(e, "affect") ? get_object(MODELS, e["affect"]) : nothing, e["direction"]::Int,
             e["stop_after"]::Int, get(e, "restart", false)::Bool)

function read_options(a::Arguments)
    number(key, default) = Float64(get(a, key, default))
    abstol = a["abstol"]
    tstops = Vector{Float64}(get(a, "tstops", Float64[]))
    save_idxs = haskey(a, "save_idxs") ? Vector{Int}(a["save_idxs"]) : nothing
    common = (; reltol=number("reltol", 1e-6), dt=number("dt", 0.0), dtmin=number("dtmin", 0.0), dtmax=number("dtmax", Inf),
              maxiters=Int(get(a, "maxiters", 100_000)), adaptive=get(a, "adaptive", true)::Bool, dense=get(a, "dense", false)::Bool,
              tstops, coarse=get(a, "coarse", false)::Bool, save_idxs, extra=symbolic_pairs(get(a, "extra", ())))
    return abstol isa Real ? Options{Float64}(; abstol=Float64(abstol), common...) :
        Options{Vector{Float64}}(; abstol=Vector{Float64}(abstol), common...)
end

function read_sensitivity(a::Arguments)
    name = Symbol(a["name"])
    method = sensitivity_method(Val(name))
    Methods.package(method) === nothing || require(Methods.package(method))
    foreach(require, get(a, "packages", ()))
    autojacvec = Symbol(get(a, "autojacvec", "generated"))
    return Sensitivity(; name, method, autojacvec, options=symbolic_pairs(get(a, "options", ())),
                       abstol=Float64(get(a, "abstol", NaN)), reltol=Float64(get(a, "reltol", NaN)), u0=a["u0"]::Bool, p=a["p"]::Bool)
end

# Row after row, as NumPy has it.
read_matrix(a::Arguments, n) =
    haskey(a, "mass_matrix") ? Matrix{Float64}(permutedims(reshape(Vector{Float64}(a["mass_matrix"]), n, n))) : nothing

read_algebraic(a::Arguments, n) = haskey(a, "initialize") ?
    Algebraic(at_runtime(construct, Meta.parse(a["initialize"]::String), (DiffEqBase, SciMLBase)), read_matrix(a, n)) : nothing

command(::Val{:release_model}, a::Arguments, _) = (drop!(MODELS, a["handle"]); 1)
command(::Val{:release_plan}, a::Arguments, _) = (drop!(PLANS, a["handle"]); 1)
