# Searches that run in Julia. At an optimum the gradient vanishes, and no point around is better.

using PySciODE: run_optimizer

PySciODE.require("OptimizationOptimJL")

@testset "optimization: $method" for method in (:LBFGS, :BFGS, :NewtonTrustRegion, :NelderMead)
    objective, _, _ = fitted(; (method === :NelderMead ? (; sensitivity=nothing) : (;))...)
    found = PySciODE.at_runtime(run_optimizer, objective, FIT_START, method; maxiters=5000, gradient_tolerance=1e-7, value_tolerance=1e-14,
                                progress=C_NULL)
    @test found.converged
    @test found.retcode === :Success
    @test found.evaluations == objective.evaluations
    @test found.trace[1] ≈ evaluate!(nothing, objective, FIT_START)
    @test found.value <= minimum(found.trace) + 1e-9
    g = zeros(6)
    @test evaluate!(g, first(fitted()), found.z) ≈ found.value rtol = 1e-8
    # A step of Newton's method from where a search without gradients ends would change the value by less than this.
    if method === :NelderMead
        H = zeros(6, 6)
        for i in 1:6, j in 1:6
            H[i, j] = difference(z -> (evaluate!(g, first(fitted()), [k == i ? z : found.z[k] for k in 1:6]); g[j]), found.z[i], 1e-3)
        end
        evaluate!(g, first(fitted()), found.z)
        @test 0 <= g' * (H \ g) / 2 < 1e-4
    else
        @test maximum(abs, g) < 1e-5
    end
end

@testset "optimization that can't begin" begin
    objective, _, _ = fitted(; maxiters=20)
    found = PySciODE.at_runtime(run_optimizer, objective, FIT_START, :LBFGS; maxiters=10, gradient_tolerance=1e-7, value_tolerance=1e-14,
                                progress=C_NULL)
    @test found.value == Inf
    @test !found.converged
end
