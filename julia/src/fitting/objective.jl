# A likelihood of all experiments as a function of the unknowns, with its gradient through the solves: what an optimiser that runs in Julia
# minimises.

"""
    FittedExperiment{T}

One run of the system and what was observed of it. Entries of `u0` and `p` with an index above zero are the unknown of that number.
"""
struct FittedExperiment{T}
    plan::Any
    u0::Vector{T}
    p::Vector{T}
    u0_index::Vector{Int}
    p_index::Vector{Int}
    tspan::Tuple{T,T}
    saveat::Vector{T}
    observed::Matrix{Float64}  # (series, row); NaN where nothing was observed
    weights::Matrix{Float64}   # factors of the log densities
    columns::Vector{Int}       # of each series, the entry of the state
    rows::Vector{Int}          # of each row, the saved time
    noise_index::Vector{Int}   # of each series, the unknown that is its noise parameter, or 0
    noise_value::Vector{Float64}
end

"""
    Objective

The negative log likelihood of experiments; counts how often it is evaluated.
"""
mutable struct Objective
    const likelihood::Likelihood
    const experiments::Vector{Any}
    const lower::Vector{Float64}
    const upper::Vector{Float64}
    evaluations::Int
    next_poll::UInt64
end
Objective(likelihood, experiments, lower, upper) = Objective(likelihood, experiments, lower, upper, 0, time_ns() + POLL_INTERVAL)

# Those that Python takes for a success.
const SUCCESSFUL = (:Success, :Terminated, :ExactSolutionLeft, :ExactSolutionRight, :FloatingPointLimit)

"""
    evaluate!(gradient, objective, z) -> value

At `z`, the unknowns without bounds. `gradient` may be `nothing`. Where a solve fails, or a gradient, or a state has no density, the
value is `Inf` and the gradient `NaN`: optimisers step back from there. A gradient that fails at the very first point is an error.
"""
function evaluate!(gradient::Union{Nothing,Vector{Float64}}, o::Objective, z::Vector{Float64})
    o.evaluations += 1
    # Solves look for Ctrl-C only when they take long.
    if time_ns() > o.next_poll
        o.next_poll = time_ns() + POLL_INTERVAL
        interrupted() && throw(Interrupted())
    end
    x, slopes = similar(z), similar(z)
    for i in eachindex(z)
        x[i], slopes[i] = bounded(z[i], o.lower[i], o.upper[i])
    end
    g = gradient === nothing ? nothing : fill!(gradient, 0.0)
    value = 0.0
    for experiment in o.experiments
        value -= try
            at_runtime(log_likelihood!, g, o.likelihood, experiment, x)::Float64
        catch e
            e isa GradientFailed && o.evaluations > 1 || rethrow()
            -Inf
        end
        isfinite(value) || break
    end
    if g !== nothing
        isfinite(value) ? (g .*= .-slopes) : fill!(g, NaN)
    end
    return isfinite(value) ? value : Inf
end

"""Of one experiment; its derivatives are added to `g`."""
function log_likelihood!(g::Union{Nothing,Vector{Float64}}, likelihood::Likelihood, e::FittedExperiment{T}, x::Vector{Float64}) where {T}
    u0, p = replaced(e.u0, e.u0_index, x), replaced(e.p, e.p_index, x)
    all(isfinite, u0) && all(isfinite, p) || return -Inf
    answer = dispatch(e.plan, u0, p, e.tspan, e.saveat, Hooks(), T[])::Answer{T}
    try
        answer.retcode in SUCCESSFUL && length(answer.t) == length(e.saveat) || return -Inf
        du = zeros(T, g === nothing ? 0 : length(u0), length(e.saveat))
        value = add_densities!(du, g, likelihood, e, answer.u, x)
        if g !== nothing && isfinite(value)
            du0, dp = at_runtime(answer.pullback, du)::Tuple{Vector{T},Vector{T}}
            add_indexed!(g, e.u0_index, du0)
            add_indexed!(g, e.p_index, dp)
        end
        return value
    finally
        give_back(answer)
    end
end

function replaced(fixed::Vector{T}, index::Vector{Int}, x::Vector{Float64}) where {T}
    values = copy(fixed)
    for (k, i) in enumerate(index)
        i > 0 && (values[k] = x[i])
    end
    return values
end

function add_indexed!(g::Vector{Float64}, index::Vector{Int}, derivatives::Vector)
    for (k, i) in enumerate(index)
        i > 0 && (g[i] += derivatives[k])
    end
    return nothing
end

"""The sum of all log densities; derivatives go to `du`, by the states, and to `g`, by the noise parameters."""
function add_densities!(du::Matrix{T}, g, likelihood::Likelihood, e::FittedExperiment{T}, u::Vector{Vector{T}}, x) where {T}
    total = 0.0
    for (r, k) in enumerate(e.rows), (j, i) in enumerate(e.columns)
        y, weight = e.observed[j, r], e.weights[j, r]
        (isnan(y) || weight == 0) && continue
        noise = e.noise_index[j]
        value, by_u, by_noise = log_density(likelihood, y, Float64(u[k][i]), noise > 0 ? x[noise] : e.noise_value[j])
        total += weight * value
        isfinite(total) || return -Inf
        if g !== nothing
            du[i, k] += weight * by_u
            noise > 0 && (g[noise] += weight * by_noise)
        end
    end
    return total
end

# ---------------------------------------------------------------------------------------------------------------------

"""What an optimiser reports."""
struct Optimum
    z::Vector{Float64}
    value::Float64
    iterations::Int
    evaluations::Int
    converged::Bool
    retcode::Symbol
    trace::Vector{Float64}  # the value after each iteration, the start first
end

"""
    run_optimizer(objective, start, method; maxiters, gradient_tolerance, value_tolerance, progress) -> Optimum

Minimise; defined by the extension of OptimizationOptimJL. `progress`, unless null, is a C function of the iteration and the value, called
some twenty times a second; unless it returns zero, the search ends.
"""
function run_optimizer end

"""Search for the unknowns; arrays come as `[dtype, address, length]`, and what is found goes to the addresses named in `out`."""
function command(::Val{:minimize}, a::Arguments, _)
    require("OptimizationOptimJL")
    experiments = Any[read_experiment(x) for x in a["experiments"]]
    objective = Objective(LIKELIHOODS[a["likelihood"]], experiments, read_array(a["lower"]), read_array(a["upper"]))
    optimum = at_runtime(run_optimizer, objective, read_array(a["start"]), Symbol(a["method"]::String);
                         maxiters=a["maxiters"]::Int, gradient_tolerance=a["gradient_tolerance"]::Float64,
                         value_tolerance=a["value_tolerance"]::Float64, progress=Ptr{Cvoid}(UInt(a["progress"])))::Optimum
    return write_optimum(a["out"], optimum)
end

function read_experiment(a)
    plan = get_object(PLANS, a["plan"])
    return at_runtime(read_experiment, plan, a)
end

function read_experiment(plan::Plan{T}, a) where {T}
    columns, rows = read_array(a["columns"]), read_array(a["rows"])
    series(name) = reshape(read_array(a[name]), length(columns), length(rows))
    return FittedExperiment{T}(plan, read_array(a["u0"]), read_array(a["p"]), read_array(a["u0_index"]), read_array(a["p_index"]),
                               (T(a["t0"]), T(a["t1"])), T.(read_array(a["saveat"])), series("observed"), series("weights"), columns, rows,
                               read_array(a["noise_index"]), read_array(a["noise_value"]))
end

read_array(entry) = constant(ELEMENT_TYPES[entry[1]::String], entry[2]::Int, entry[3]::Int)

"""Write the result to Python's arrays; the length of the trace."""
function write_optimum(out, o::Optimum)
    numbers = (o.value, Float64(o.iterations), Float64(o.evaluations), Float64(o.converged))
    foreach((x, i) -> unsafe_store!(Ptr{Float64}(UInt(out["numbers"])), x, i), numbers, 1:4)
    GC.@preserve o unsafe_copyto!(Ptr{Float64}(UInt(out["z"])), pointer(o.z), length(o.z))
    count = min(length(o.trace), out["trace_length"]::Int)
    GC.@preserve o unsafe_copyto!(Ptr{Float64}(UInt(out["trace"])), pointer(o.trace), count)
    name = codeunits(String(o.retcode))
    GC.@preserve name unsafe_copyto!(Ptr{UInt8}(UInt(out["retcode"])), pointer(name), min(length(name), 31))
    return max(count, 1)
end
