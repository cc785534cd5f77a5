"""A search for parameters that stays in Julia: Optimization.jl's interface to Optim.jl."""
module PySciODEOptimizationOptimJLExt

using LinearAlgebra: norm
using OptimizationOptimJL: Optim
using PrecompileTools: @compile_workload, @setup_workload
using PySciODE
using PySciODE: MODELS, Model, Objective, Optimum, Report, evaluate!, hold!, rehearsed, send
using SciMLBase: NoAD, OptimizationFunction, OptimizationProblem, solve

const METHODS = (
    LBFGS=() -> Optim.LBFGS(; alphaguess=FirstTrial(false)),
    BFGS=() -> Optim.BFGS(; alphaguess=FirstTrial(false)),
    NelderMead=Optim.NelderMead,
    NewtonTrustRegion=Optim.NewtonTrustRegion,
)

"""
Where a line search begins: of unit length in the first iteration, where the gradient alone says nothing about lengths (as in L-BFGS-B),
and later not beyond the distance of the origin. Optim's own, the whole gradient, leads to where solves take a thousand times as long.
"""
mutable struct FirstTrial
    begun::Bool
end
function (f::FirstTrial)(linesearch, state, value, slope, objective)
    longest = f.begun ? max(1.0, norm(state.x)) : 1.0
    f.begun = true
    state.alpha = min(1.0, longest / norm(state.s))
    return nothing
end

# Callable structs instead of closures: one type for every fit.

"""The value alone."""
struct Value
    objective::Objective
end
(v::Value)(z, p) = evaluate!(nothing, v.objective, z)

"""The value and, unless `G` is `nothing`, the gradient."""
struct ValueAndGradient
    objective::Objective
end
(v::ValueAndGradient)(G, z, p) = evaluate!(G, v.objective, z)

"""Central differences of the gradient; the step is above the noise of solves at the objective's tolerance."""
struct Hessian
    objective::Objective
    step::Float64
end
function (d::Hessian)(H, z, p)
    above, below = similar(z), similar(z)
    for i in eachindex(z)
        h = d.step * max(1.0, abs(z[i]))
        shifted = copy(z)
        shifted[i] = z[i] + h
        evaluate!(above, d.objective, shifted)
        shifted[i] = z[i] - h
        evaluate!(below, d.objective, shifted)
        H[:, i] .= (above .- below) ./ 2h
    end
    H .= (H .+ H') ./ 2
    return nothing
end

difference_step(o::Objective) = cbrt(maximum(e -> e.plan.options.reltol, o.experiments))

const PROGRESS_INTERVAL = UInt64(50_000_000)  # nanoseconds

"""Called by the optimiser after each iteration: notes the value, tells Python, and ends the search when that asks for it."""
mutable struct Watch
    const progress::Ptr{Cvoid}
    const trace::Vector{Float64}
    next::UInt64
    stopped::Bool
end
function (w::Watch)(state, value)
    push!(w.trace, value)
    if w.progress != C_NULL && time_ns() > w.next
        w.next = time_ns() + PROGRESS_INTERVAL
        iteration = length(w.trace) - 1
        w.stopped = PySciODE.@in_python(ccall(w.progress, Cint, (Int64, Float64), iteration, value)) != 0
    end
    return w.stopped
end

function PySciODE.run_optimizer(objective::Objective, start::Vector{Float64}, method::Symbol; maxiters::Int, gradient_tolerance::Float64,
                                value_tolerance::Float64, progress::Ptr{Cvoid})
    both = ValueAndGradient(objective)
    f = OptimizationFunction{true}(Value(objective), NoAD(); grad=both, fg=both, hess=Hessian(objective, difference_step(objective)))
    watch = Watch(progress, Float64[], UInt64(0), false)
    found = solve(OptimizationProblem(f, start), METHODS[method](); callback=watch, maxiters, reltol=value_tolerance,
                  g_abstol=gradient_tolerance, verbose=false, show_warnings=false)
    retcode = watch.stopped ? :Terminated : Symbol(found.retcode)
    return Optimum(found.u, found.objective, found.stats.iterations, objective.evaluations, retcode === :Success, retcode, watch.trace)
end

# ---------------------------------------------------------------------------------------------------------------------

"""Fit a small model the way Python does."""
function rehearse_fit(method)
    model = hold!(MODELS, Model{Float64}(rehearsed(2)))
    report = Ref{Report}()
    sensealg = method == "NelderMead" ? "" : "[sensealg]\nname = \"ForwardDiffSensitivity\"\nu0 = true\np = true\n"
    plan = send("command = \"plan\"\nmodel = $model\nalgorithm = \"Tsit5()\"\npackages = [\"OrdinaryDiffEqTsit5\"]\n" *
                "odekind = \"full\"\nreltol = 1e-4\nabstol = 1e-4\n$sensealg", report)
    arrays = (u0=[1.0, 1.0], p=[-1.0, 2.0], u0_index=[0, 0], p_index=[1, 2], saveat=[0.5, 1.0], observed=[0.5, 0.4, 0.3, 0.5],
              weights=ones(4), columns=[1, 2], rows=[1, 2], noise_index=[0, 0], noise_value=[0.1, 0.1],
              lower=[-Inf, 0.0], upper=[0.0, Inf], start=[0.1, 0.7])
    z, trace, numbers, retcode = zeros(2), zeros(100), zeros(4), zeros(UInt8, 32)
    GC.@preserve arrays z trace numbers retcode begin
        text(x) = "[\"$(lowercase(string(eltype(x))))\", $(Int(pointer(x))), $(length(x))]"
        given(names) = join(("$name = $(text(arrays[name]))" for name in names), ", ")
        experiment = given((:u0, :p, :u0_index, :p_index, :saveat, :observed, :weights, :columns, :rows, :noise_index, :noise_value))
        search = replace(given((:lower, :upper, :start)), "], " => "]\n")
        send("command = \"minimize\"\nlikelihood = \"normal\"\nmethod = \"$method\"\nmaxiters = 20\ngradient_tolerance = 1e-6\n" *
             "value_tolerance = 1e-10\nprogress = 0\n$search\nexperiments = [{plan = $plan, t0 = 0.0, t1 = 1.0, $experiment}]\n" *
             "[out]\nz = $(Int(pointer(z)))\ntrace = $(Int(pointer(trace)))\ntrace_length = 100\n" *
             "numbers = $(Int(pointer(numbers)))\nretcode = $(Int(pointer(retcode)))", report)
    end
    send("command = \"release_plan\"\nhandle = $plan", report)
    send("command = \"release_model\"\nhandle = $model", report)
    return nothing
end

@setup_workload begin
    @compile_workload begin
        foreach(rehearse_fit, ("LBFGS", "BFGS", "NelderMead"))
    end
end

end
