"""A search for parameters that stays in Julia: Optimization.jl's interface to Optim.jl."""
module PySciODEOptimizationOptimJLExt

using OptimizationOptimJL: Optim
using PrecompileTools: @compile_workload, @setup_workload
using PySciODE
using PySciODE: Objective, Optimum, evaluate!
using SciMLBase: NoAD, OptimizationFunction, OptimizationProblem, solve

const METHODS = (LBFGS=Optim.LBFGS, BFGS=Optim.BFGS, NelderMead=Optim.NelderMead, NewtonTrustRegion=Optim.NewtonTrustRegion)

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
        w.stopped = ccall(w.progress, Cint, (Int64, Float64), length(w.trace) - 1, value) != 0
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

end
