# The adjoint methods, and the traps in which SciML returns a wrong gradient without an error.

@testset "adjoints" begin
    for name in (:GaussAdjoint, :InterpolatingAdjoint, :BacksolveAdjoint, :QuadratureAdjoint, :GaussKronrodAdjoint)
        options = name === :QuadratureAdjoint ? Pair{Symbol,Any}[:abstol => 1e-9, :reltol => 1e-9] : Pair{Symbol,Any}[]
        @testset "$name" begin
            @test gradient(make(lotka_volterra(); sensitivity=Sensitivity(; name, options))) ≈ REFERENCE rtol = 1e-4
        end
    end
    checkpointed = Sensitivity(; name=:InterpolatingAdjoint, options=Pair{Symbol,Any}[:checkpointing => true])
    @test gradient(make(lotka_volterra(); sensitivity=checkpointed)) ≈ REFERENCE rtol = 1e-4
    stiff = make(lotka_volterra(); alg="Rodas5P()", package="OrdinaryDiffEqRosenbrock", odekind=:implicit,
                 sensitivity=Sensitivity(; name=:GaussAdjoint))
    @test gradient(stiff) ≈ REFERENCE rtol = 1e-4
    for name in (:ReverseDiffAdjoint, :TrackerAdjoint)
        @testset "$name" begin
            @test gradient(make(lotka_volterra(); sensitivity=Sensitivity(; name))) ≈ REFERENCE rtol = 1e-4
        end
    end
    for autojacvec in (:ZygoteVJP, :ReverseDiffVJP)
        @testset "$autojacvec" begin
            @test gradient(make(lotka_volterra(); sensitivity=Sensitivity(; name=:GaussAdjoint, autojacvec))) ≈ REFERENCE rtol = 1e-4
        end
    end
end

@testset "no silent wrong gradient" begin
    methods = (:GaussAdjoint, :InterpolatingAdjoint, :BacksolveAdjoint, :QuadratureAdjoint)
    @testset "a reverse solve that runs out of steps: $name" for name in methods
        # The cotangents' scale makes the reverse solve need more steps than the forward one got.
        plan = make(lotka_volterra(); maxiters=90, tolerance=1e-5, sensitivity=Sensitivity(; name, abstol=1e-13, reltol=1e-13))
        answer = dispatch(plan, SAVEAT)
        @test answer.retcode === :Success
        @test_throws GradientFailed answer.pullback(2 .* reduce(hcat, answer.u))
    end
    nan_vjp = replace(LOTKA_VOLTERRA, "dl[1] = (p[1]" => "dl[1] = (t < 5 ? NaN : 1.0) * (p[1]")
    @testset "a VJP that is NaN: $name" for name in methods
        answer = dispatch(make(lotka_volterra(nan_vjp); sensitivity=Sensitivity(; name)), SAVEAT)
        @test_throws GradientFailed answer.pullback(2 .* reduce(hcat, answer.u))
    end
    @testset "a forward solve that failed" begin
        answer = dispatch(make(lotka_volterra(); maxiters=20, sensitivity=Sensitivity(; name=:GaussAdjoint)), SAVEAT)
        @test answer.retcode === :MaxIters
        @test_throws GradientFailed answer.pullback(zeros(2, length(answer.t)))
    end
end
