# The benchmark's models as someone fluent in Julia would write them: in place, no allocation, analytic derivatives where the
# solver or adjoint wants them. Timed here, so that no call from Python is part of the figures.
module ByHand

using LinearAlgebra
using OrdinaryDiffEqRosenbrock: Rodas5P
using OrdinaryDiffEqTsit5: Tsit5
using PySciODE.ForwardDiff: ForwardDiff
using SciMLBase: FullSpecialize, ODEFunction, ODEProblem, remake, solve
using SciMLSensitivity: GaussAdjoint, InterpolatingAdjoint, ZygoteVJP, adjoint_sensitivities
using Statistics: median

# As `median_milliseconds` of measure.py.
function median_milliseconds(run; budget = 2.0, warm_up = 1.0)
    times = Float64[]
    for (seconds, least) in ((warm_up, 2), (budget, 5))
        empty!(times)
        finish = time() + seconds
        while length(times) < least || time() < finish
            push!(times, @elapsed run())
        end
    end
    return 1e3 * median(times)
end

# The VJPs are written by hand and always taken; naming one keeps SciML from trying its own at every call.
const VJP = ZygoteVJP()

"""Gradient of Σu² over the saved states by a continuous adjoint."""
function adjoint_gradient(problem, algorithm, sensealg, times; options...)
    solution = solve(problem, algorithm; options...)
    dgdu(out, u, p, t, i) = (out .= 2 .* u)
    return adjoint_sensitivities(solution, algorithm; t = times, dgdu_discrete = dgdu, sensealg, options...)
end

# Lotka-Volterra

function lotka_volterra!(du, u, p, t)
    x, y = u
    du[1] = p[1] * x - p[2] * x * y
    du[2] = p[4] * x * y - p[3] * y
    return nothing
end

function lotka_volterra_jac!(J, u, p, t)
    x, y = u
    J[1, 1] = p[1] - p[2] * y
    J[1, 2] = -p[2] * x
    J[2, 1] = p[4] * y
    J[2, 2] = p[4] * x - p[3]
    return nothing
end

function lotka_volterra_vjp!(out, lam, u, p, t)
    x, y = u
    out[1] = lam[1] * (p[1] - p[2] * y) + lam[2] * p[4] * y
    out[2] = -lam[1] * p[2] * x + lam[2] * (p[4] * x - p[3])
    return nothing
end

function lotka_volterra_vjp_p!(out, lam, u, p, t)
    x, y = u
    out[1] = lam[1] * x
    out[2] = -lam[1] * x * y
    out[3] = -lam[2] * y
    out[4] = lam[2] * x * y
    return nothing
end

const LV_TIMES = range(0.0, 10.0; length = 101)
const LV_RATES = [1.5, 1.0, 3.0, 1.0]
const LV_PROBLEM = ODEProblem(
    ODEFunction{true,FullSpecialize}(
        lotka_volterra!; jac = lotka_volterra_jac!, vjp = lotka_volterra_vjp!, vjp_p = lotka_volterra_vjp_p!
    ),
    [1.0, 1.0], (0.0, 10.0), LV_RATES,
)

lotka_volterra_solve() = solve(LV_PROBLEM, Tsit5(); saveat = LV_TIMES, abstol = 1e-8, reltol = 1e-8)

function lotka_volterra_gradient()
    return ForwardDiff.gradient(LV_RATES) do p
        problem = remake(LV_PROBLEM; u0 = eltype(p).(LV_PROBLEM.u0), p)
        solution = solve(problem, Tsit5(); saveat = LV_TIMES, abstol = 1e-8, reltol = 1e-8)
        sum(u -> sum(abs2, u), solution.u)
    end
end

function lotka_volterra_adjoint()
    return adjoint_gradient(LV_PROBLEM, Tsit5(), InterpolatingAdjoint(autojacvec = VJP), LV_TIMES; abstol = 1e-8, reltol = 1e-8)
end

# The spiral neural ODE: states are 2 × batch, parameters (W1, b1, W2, b2) in one flat vector

const BATCH, HIDDEN = 20, 50

"""Buffers of one network evaluation."""
struct Network
    cubes::Matrix{Float32}
    hidden::Matrix{Float32}
    back::Matrix{Float32}
end
Network() = Network(zeros(Float32, 2, BATCH), zeros(Float32, HIDDEN, BATCH), zeros(Float32, HIDDEN, BATCH))

function layers(p)
    W1 = reshape(view(p, 1:2HIDDEN), HIDDEN, 2)
    b1 = view(p, (2HIDDEN + 1):3HIDDEN)
    W2 = reshape(view(p, (3HIDDEN + 1):5HIDDEN), 2, HIDDEN)
    b2 = view(p, (5HIDDEN + 1):(5HIDDEN + 2))
    return W1, b1, W2, b2
end

function activate!(net, u, p)
    W1, b1, _, _ = layers(p)
    net.cubes .= reshape(u, 2, BATCH) .^ 3
    mul!(net.hidden, W1, net.cubes)
    net.hidden .= tanh.(net.hidden .+ b1)
    return nothing
end

function (net::Network)(du, u, p, t)
    _, _, W2, b2 = layers(p)
    activate!(net, u, p)
    out = reshape(du, 2, BATCH)
    mul!(out, W2, net.hidden)
    out .+= b2
    return nothing
end

function backward!(net, lam, u, p)
    _, _, W2, _ = layers(p)
    activate!(net, u, p)
    mul!(net.back, transpose(W2), reshape(lam, 2, BATCH))
    net.back .*= 1 .- net.hidden .^ 2
    return nothing
end

function spiral_vjp!(net, out, lam, u, p)
    W1, _, _, _ = layers(p)
    backward!(net, lam, u, p)
    grad = reshape(out, 2, BATCH)
    mul!(grad, transpose(W1), net.back)
    grad .*= 3 .* reshape(u, 2, BATCH) .^ 2
    return nothing
end

function spiral_vjp_p!(net, out, lam, u, p)
    backward!(net, lam, u, p)
    dW1, db1, dW2, db2 = layers(out)
    cotangent = reshape(lam, 2, BATCH)
    mul!(dW1, net.back, transpose(net.cubes))
    sum!(db1, net.back)
    mul!(dW2, cotangent, transpose(net.hidden))
    sum!(db2, cotangent)
    return nothing
end

const SPIRAL_TIMES = range(0.0f0, 0.25f0; length = 10)

"""One gradient, with the weights, states and targets at the saved times that Python's contestants use (flat)."""
function spiral_gradient(u0, p, targets)
    u0, p = Vector{Float32}(u0), Vector{Float32}(p)
    targets = reshape(Vector{Float32}(targets), length(u0), :)
    net = Network()
    f = ODEFunction{true,FullSpecialize}(
        net; vjp = (out, lam, u, p, t) -> spiral_vjp!(net, out, lam, u, p),
        vjp_p = (out, lam, u, p, t) -> spiral_vjp_p!(net, out, lam, u, p),
    )
    problem = ODEProblem(f, u0, (0.0f0, 0.25f0), p)
    return function ()
        options = (abstol = 1.0f-9, reltol = 1.0f-7)
        solution = solve(problem, Tsit5(); options...)
        scale = 1.0f0 / length(targets)
        dgdu(out, u, p, t, i) = (out .= sign.(u .- view(targets, :, i)) .* scale)
        return adjoint_sensitivities(
            solution, Tsit5(); t = SPIRAL_TIMES, dgdu_discrete = dgdu, sensealg = InterpolatingAdjoint(autojacvec = VJP), options...
        )
    end
end

# Robertson

function robertson!(du, u, p, t)
    a, b, c = u
    slow, fast, back = p[1] * a, p[2] * b * b, p[3] * b * c
    du[1] = back - slow
    du[2] = slow - back - fast
    du[3] = fast
    return nothing
end

function robertson_jac!(J, u, p, t)
    _, b, c = u
    J[1, 1], J[1, 2], J[1, 3] = -p[1], p[3] * c, p[3] * b
    J[2, 1], J[2, 2], J[2, 3] = p[1], -p[3] * c - 2p[2] * b, -p[3] * b
    J[3, 1], J[3, 2], J[3, 3] = 0, 2p[2] * b, 0
    return nothing
end

function robertson_vjp!(out, lam, u, p, t)
    _, b, c = u
    out[1] = p[1] * (lam[2] - lam[1])
    out[2] = p[3] * c * (lam[1] - lam[2]) + 2p[2] * b * (lam[3] - lam[2])
    out[3] = p[3] * b * (lam[1] - lam[2])
    return nothing
end

function robertson_vjp_p!(out, lam, u, p, t)
    a, b, c = u
    out[1] = a * (lam[2] - lam[1])
    out[2] = b * b * (lam[3] - lam[2])
    out[3] = b * c * (lam[1] - lam[2])
    return nothing
end

no_tgrad!(dT, u, p, t) = fill!(dT, 0)

const ROBERTSON_TIMES = 10.0 .^ range(-5, 4; length = 50)
const ROBERTSON_RATES = [0.04, 3e7, 1e4]
const ROBERTSON_PROBLEM = ODEProblem(
    ODEFunction{true,FullSpecialize}(
        robertson!; jac = robertson_jac!, tgrad = no_tgrad!, vjp = robertson_vjp!, vjp_p = robertson_vjp_p!
    ),
    [1.0, 0.0, 0.0], (0.0, 1e4), ROBERTSON_RATES,
)

function robertson_gradient()
    return ForwardDiff.gradient(ROBERTSON_RATES) do p
        problem = remake(ROBERTSON_PROBLEM; u0 = eltype(p).(ROBERTSON_PROBLEM.u0), p)
        solution = solve(problem, Rodas5P(); saveat = ROBERTSON_TIMES, abstol = 1e-8, reltol = 1e-6)
        sum(u -> sum(abs2, u), solution.u)
    end
end

function robertson_adjoint()
    return adjoint_gradient(ROBERTSON_PROBLEM, Rodas5P(), GaussAdjoint(autojacvec = VJP), ROBERTSON_TIMES; abstol = 1e-8, reltol = 1e-6)
end

end
