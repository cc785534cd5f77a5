# Likelihoods, bounds, and the objective that an optimiser in Julia minimises.

using PySciODE: FittedExperiment, Objective, bounded, evaluate!, log_density

"""Central differences, of order four."""
difference(f, x, h) = (8 * (f(x + h) - f(x - h)) - (f(x + 2h) - f(x - 2h))) / 12h

# Densities as the textbooks write them, not as log_density does.
const DENSITIES = (
    (PySciODE.normal, 0.7, (y, μ, s) -> log(exp(-(y - μ)^2 / (2s^2)) / sqrt(2π * s^2))),
    (PySciODE.lognormal, 0.7, (y, μ, s) -> log(exp(-(log(y / μ))^2 / (2s^2)) / (y * sqrt(2π * s^2)))),
    (PySciODE.poisson, 4.0, (y, μ, s) -> log(μ^y * exp(-μ) / factorial(Int(y)))),
    (PySciODE.negative_binomial, 4.0,
     (y, μ, s) -> PySciODE.loggamma(y + s) - PySciODE.loggamma(s) - log(factorial(Int(y))) + log((s / (s + μ))^s * (μ / (s + μ))^y)),
)

@testset "likelihoods" begin
    for (kind, y, reference) in DENSITIES, (μ, s) in ((1.3, 0.4), (2.5, 3.0))
        value, by_μ, by_s = log_density(kind, y, μ, s)
        @test value ≈ reference(y, μ, s) rtol = 1e-12
        @test by_μ ≈ difference(μ -> reference(y, μ, s), μ, 1e-3) rtol = 1e-8
        @test by_s ≈ difference(s -> reference(y, μ, s), s, 1e-3) rtol = 1e-8 atol = 1e-10
    end
    # The probabilities of all counts add up to one, of mean μ and variance μ + μ²/s.
    probabilities = [exp(first(log_density(PySciODE.negative_binomial, Float64(y), 2.5, 3.0))) for y in 0:200]
    @test sum(probabilities) ≈ 1
    @test sum((0:200) .* probabilities) ≈ 2.5
    @test sum(((0:200) .- 2.5) .^ 2 .* probabilities) ≈ 2.5 + 2.5^2 / 3
    @test log_density(PySciODE.poisson, 1.0, -1e-9, 1.0) == (first(log_density(PySciODE.poisson, 1.0, 1e-12, 1.0)), 0.0, 0.0)
    @test first(log_density(PySciODE.lognormal, 1.0, 1.0, 0.0)) == -Inf
    @test first(log_density(PySciODE.normal, 1.0, NaN, 1.0)) == -Inf
end

@testset "bounds" begin
    for (lower, upper) in ((-Inf, Inf), (2.0, Inf), (-Inf, 2.0), (-1.0, 3.0)), z in (-3.0, 0.0, 1.7)
        x, slope = bounded(z, lower, upper)
        @test lower < x < upper
        @test slope ≈ difference(z -> first(bounded(z, lower, upper)), z, 1e-3) rtol = 1e-9
    end
end

"""Lotka-Volterra's parameters, first initial value and noise as unknowns; `observed` of the second state has gaps."""
function fitted(; likelihood=PySciODE.lognormal, sensitivity=Sensitivity(; name=:ForwardDiffSensitivity), options...)
    t = collect(0.5:0.5:10.0)
    plan = make(lotka_volterra(); tolerance=1e-10, sensitivity, options...)
    observed = reduce(hcat, dispatch(make(lotka_volterra(); tolerance=1e-12), t).u) .* exp.(0.1 .* [sin(7i + 3j) for i in 1:2, j in 1:20])
    observed[2, 3:5] .= NaN
    experiment = FittedExperiment{Float64}(plan, [9.0, 1.0], fill(9.0, 4), [5, 0], [1, 2, 3, 4], (0.0, 10.0), t, observed, ones(2, 20),
                                           [1, 2], collect(1:20), [6, 0], [NaN, 0.2])
    return Objective(likelihood, Any[experiment], [0.0, 0.0, 0.0, 0.0, 0.1, 0.0], [Inf, Inf, Inf, Inf, 3.0, Inf]), observed, t
end

const FIT_START = [log(1.4), log(1.1), log(2.8), log(0.9), 0.0, log(0.3)]

@testset "objective" begin
    objective, observed, t = fitted()
    # The likelihood, written anew.
    x = vcat(exp.(FIT_START[1:4]), 0.1 + 2.9 / 2, 0.3)
    states = reduce(hcat, dispatch(make(lotka_volterra(); tolerance=1e-12), t; u0=[x[5], 1.0], p=x[1:4]).u)
    noise = [x[6], 0.2]
    expected = -sum(DENSITIES[2][3](observed[i, k], states[i, k], noise[i]) for i in 1:2, k in 1:20 if !isnan(observed[i, k]))
    @test evaluate!(nothing, objective, FIT_START) ≈ expected rtol = 1e-8
    for name in (:ForwardDiffSensitivity, :GaussAdjoint, :InterpolatingAdjoint)
        objective, _, _ = fitted(; sensitivity=Sensitivity(; name))
        g = zeros(6)
        @test evaluate!(g, objective, copy(FIT_START)) ≈ expected rtol = 1e-8
        for i in 1:6
            shifted(z) = evaluate!(nothing, objective, [j == i ? z : FIT_START[j] for j in 1:6])
            @test g[i] ≈ difference(shifted, FIT_START[i], 1e-3) rtol = 1e-5
        end
    end
    # A solve that fails is no error.
    objective, _, _ = fitted(; maxiters=20)
    g = zeros(6)
    @test evaluate!(g, objective, FIT_START) == Inf
    @test all(isnan, g)
end
