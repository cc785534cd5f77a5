using Aqua: Aqua
using ExplicitImports: ExplicitImports
using ForwardDiff
using JET: JET
using LinearAlgebra
using OrdinaryDiffEqRosenbrock: OrdinaryDiffEqRosenbrock
using PySciODE
using PySciODE: GradientFailed, Options, Report, Sensitivity
using Test

# Lotka-Volterra, as the Python side would print it.
const LOTKA_VOLTERRA = """
workspace(::Type{T}) where {T} = nothing
function f!(du, u, p, t, w)
    @inbounds begin
        x, y = u[1], u[2]
        du[1] = p[1] * x - p[2] * x * y
        du[2] = -p[3] * y + p[4] * x * y
    end
    return nothing
end
function jac!(J, u, p, t, w)
    @inbounds begin
        J[1] = p[1] - p[2] * u[2]; J[2] = p[4] * u[2]; J[3] = -p[2] * u[1]; J[4] = p[4] * u[1] - p[3]
    end
    return nothing
end
tgrad!(d, u, p, t, w) = (@inbounds d[1] = d[2] = zero(eltype(d)); nothing)
function paramjac!(P, u, p, t, w)
    @inbounds begin
        for i in 1:8
            P[i] = zero(eltype(P))
        end
        P[1] = u[1]; P[3] = -u[1] * u[2]; P[6] = -u[2]; P[8] = u[1] * u[2]
    end
    return nothing
end
function vjp!(dl, l, u, p, t, w)
    @inbounds begin
        dl[1] = (p[1] - p[2] * u[2]) * l[1] + p[4] * u[2] * l[2]
        dl[2] = -p[2] * u[1] * l[1] + (p[4] * u[1] - p[3]) * l[2]
    end
    return nothing
end
function vjp_p!(dp, l, u, p, t, w)
    @inbounds begin
        dp[1] = u[1] * l[1]; dp[2] = -u[1] * u[2] * l[1]; dp[3] = -u[2] * l[2]; dp[4] = u[1] * u[2] * l[2]
    end
    return nothing
end
vjp_both!(dl, dp, l, u, p, t, w) = (vjp!(dl, l, u, p, t, w); vjp_p!(dp, l, u, p, t, w))
function jvp!(dv, v, u, p, t, w)
    @inbounds begin
        dv[1] = (p[1] - p[2] * u[2]) * v[1] - p[2] * u[1] * v[2]
        dv[2] = p[4] * u[2] * v[1] + (p[4] * u[1] - p[3]) * v[2]
    end
    return nothing
end
function f_oop(u, p, t)
    return [p[1] * u[1] - p[2] * u[1] * u[2], -p[3] * u[2] + p[4] * u[1] * u[2]]
end
"""

const U0, P = [1.0, 1.0], [1.5, 1.0, 3.0, 1.0]

lotka_volterra(source=LOTKA_VOLTERRA; dtype="float64") =
    PySciODE.get_object(PySciODE.MODELS, PySciODE.send("command = \"register\"\ndtype = \"$dtype\"\nn = 2\nnp = 4\nconstants = []",
                                                       Ref{Report}(), source))

function make(model; alg="Tsit5()", package="OrdinaryDiffEqTsit5", odekind=:full, tolerance=1e-9, sensitivity=nothing, options...)
    PySciODE.plan(model, PySciODE.algorithm(alg, (package,)); odekind, sensitivity, reverse=PySciODE.for_reverse(PySciODE.algorithm(alg, (package,))),
                  options=Options(; reltol=tolerance, abstol=tolerance, options...))
end

dispatch(plan, saveat; u0=U0, p=P, tspan=(0.0, 10.0)) =
    PySciODE.dispatch(plan, copy(u0), copy(p), tspan, collect(saveat), PySciODE.Hooks(), Float64[])

# The invariant of Lotka-Volterra: an answer that no solver gives by construction.
invariant(u) = P[4] * u[1] - P[3] * log(u[1]) + P[2] * u[2] - P[1] * log(u[2])

# Gradient of Σu² by central differences of a tight solve.
function reference_gradient(saveat)
    plan = make(lotka_volterra(); tolerance=1e-13)
    loss(x) = sum(sum(abs2, u) for u in dispatch(plan, saveat; u0=x[1:2], p=x[3:6]).u)
    x = vcat(U0, P)
    h = 1e-4
    return map(1:6) do i
        e = zeros(6)
        e[i] = h
        (8 * (loss(x + e) - loss(x - e)) - (loss(x + 2e) - loss(x - 2e))) / 12h
    end
end

const SAVEAT = collect(0.0:0.5:10.0)
const REFERENCE = reference_gradient(SAVEAT)

function gradient(plan, saveat=SAVEAT)
    answer = dispatch(plan, saveat)
    du0, dp = answer.pullback(2 .* reduce(hcat, answer.u))
    return vcat(du0, dp)
end

@testset "PySciODE" begin
    @testset "the package is precompiled" begin
        # A method defined twice takes that away with a warning only, and every process then compiles everything anew.
        @test Base.isprecompiled(Base.PkgId(PySciODE))
    end
    @testset "forward" begin
        for (alg, package, kind) in (("Tsit5()", "OrdinaryDiffEqTsit5", :full), ("Rodas5P()", "OrdinaryDiffEqRosenbrock", :implicit))
            answer = dispatch(make(lotka_volterra(); alg, package, odekind=kind), SAVEAT)
            @test answer.retcode === :Success
            @test answer.t == SAVEAT
            @test maximum(abs(invariant(u) - invariant(U0)) for u in answer.u) < 1e-6
        end
        @test dispatch(make(lotka_volterra()), Float64[]).t[end] == 10.0
        partial = dispatch(make(lotka_volterra(); maxiters=20), SAVEAT)
        @test partial.retcode === :MaxIters
        @test 0 < partial.t_reached < 10
        dense = dispatch(make(lotka_volterra(); dense=true), Float64[])
        out = zeros(2, 1)
        PySciODE.interpolate!(out, dense, [3.3], 0)
        @test abs(invariant(out[:, 1]) - invariant(U0)) < 1e-5
        some = dispatch(make(lotka_volterra(); dense=true, save_idxs=[2]), [3.3])
        @test some.u == [out[2:2, 1]]
        one = zeros(1, 1)
        @test PySciODE.interpolate!(one, some, [3.3], 0) == out[2:2, :]
    end

    @testset "one type for every model" begin
        a, b = lotka_volterra(), lotka_volterra(replace(LOTKA_VOLTERRA, "p[1] * x" => "2p[1] * x"))
        @test typeof(a) === typeof(b)
        inst = PySciODE.checkout(a)
        f = PySciODE.RHS{Float64}(inst)
        du = zeros(2)
        f(du, U0, P, 0.0)
        @test du ≈ [0.5, -2.0]
        @test @allocated(f(du, U0, P, 0.0)) == 0
        v = PySciODE.VJP{Float64}(inst)
        v(du, U0, U0, P, 0.0)
        @test @allocated(v(du, U0, U0, P, 0.0)) == 0
        @test (@inferred f(du, U0, P, 0.0)) === nothing
        # any other element type takes the generic function
        J = ForwardDiff.jacobian((du, u) -> f(du, u, P, 0.0), zeros(2), U0)
        @test J ≈ [0.5 -1.0; 1.0 -2.0]
    end

    @testset "forward sensitivities" begin
        for name in (:ForwardDiffSensitivity, :ForwardSensitivity)
            @test gradient(make(lotka_volterra(); sensitivity=Sensitivity(; name))) ≈ REFERENCE rtol = 1e-5
        end
    end

    @testset "Ctrl-C, callbacks and missing functions" begin
        model = lotka_volterra("workspace(::Type{T}) where {T} = nothing\nf!(du, u, p, t, w) = error(\"broken\")")
        @test_throws ErrorException dispatch(make(model), SAVEAT)
        stiff = make(model; alg="Rodas5P()", package="OrdinaryDiffEqRosenbrock", odekind=:implicit)
        @test_throws PySciODE.MissingFunction PySciODE.Jacobian{Float64}(PySciODE.checkout(stiff.model))(zeros(2, 2), U0, P, 0.0)
        @test_throws ArgumentError PySciODE.algorithm("run(`true`)", ("OrdinaryDiffEqTsit5",))
        @test_throws ArgumentError make(lotka_volterra(); adaptive=false)
    end

    PySciODE.require("SciMLSensitivity")
    include("quality.jl")
    include("adjoints.jl")
    include("events.jl")
    include("objective.jl")
    installed(package) = Base.identify_package(package) !== nothing
    installed("JLArrays") ? include("devices.jl") : @info "JLArrays is not here: not tested"
    installed("OptimizationOptimJL") ? include("optimization.jl") : @info "OptimizationOptimJL is not here: not tested"
    installed("DiffEqFlux") ? include("diffeqflux.jl") : @info "DiffEqFlux is not here: not tested"
end
