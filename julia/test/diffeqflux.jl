# DiffEqFlux on generated models. A local quadratic is exact for derivatives of quadratics, a local line for straight states.

using PySciODE: collocate, shoot

PySciODE.require("DiffEqFlux")

@testset "collocation" begin
    t = collect(0.0:0.1:3.0)
    data = permutedims(hcat(t .^ 2, 2 .* t .- 1))
    for kernel in (:TriangularKernel, :EpanechnikovKernel, :GaussianKernel)
        du, u = PySciODE.at_runtime(collocate, data, t, kernel, 0.2)
        @test du ≈ permutedims(hcat(2 .* t, fill(2.0, length(t))))
        @test u[2, :] ≈ data[2, :]
    end
end

@testset "multiple shooting" begin
    t = collect(0.0:0.5:10.0)
    exact = make(lotka_volterra(); tolerance=1e-12)
    data = reduce(hcat, dispatch(exact, t).u)
    @test PySciODE.at_runtime(shoot, exact, P, data, t, 6, 100.0) < 1e-8
    # The loss, written anew for other parameters: groups overlap by one observation.
    p = 1.1 .* P
    loss = 0.0
    for first in 1:5:16
        group = first:(first + 5)
        last_states = dispatch(exact, t[group]; u0=data[:, first], p, tspan=(t[first], t[first + 5])).u
        loss += sum(abs2, data[:, group] - reduce(hcat, last_states))
        first < 16 && (loss += 7.0 * sum(abs, last_states[end] - data[:, first + 5]))
    end
    @test PySciODE.at_runtime(shoot, exact, p, data, t, 6, 7.0) ≈ loss rtol = 1e-8
    # Group 4 ends with the data; a size that does not divide leaves a shorter last group.
    @test isfinite(PySciODE.at_runtime(shoot, exact, p, data, t, 7, 7.0))
    stops = make(lotka_volterra(); maxiters=2)
    @test PySciODE.at_runtime(shoot, stops, p, data, t, 6, 7.0) == Inf
end
