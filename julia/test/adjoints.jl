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

@testset "through the steps" begin
    for (alg, package) in (("Tsit5()", "OrdinaryDiffEqTsit5"), ("Rodas5P()", "OrdinaryDiffEqRosenbrock"))
        plan = make(lotka_volterra(); alg, package, sensitivity=Sensitivity(; name=:DiscreteAdjoint))
        @test gradient(plan) ≈ REFERENCE rtol = 1e-4
    end
    # What the pullback allocates does not grow with the steps.
    allocated = map((1e-4, 1e-9)) do tolerance
        answer = dispatch(make(lotka_volterra(); tolerance, sensitivity=Sensitivity(; name=:DiscreteAdjoint)), SAVEAT)
        du = ones(2, length(answer.u))
        answer.pullback(du)
        length(answer.pullback.steps.dt), @allocated(answer.pullback(du))
    end
    @test allocated[2][1] > 4 * allocated[1][1]
    @test allocated[2][2] <= allocated[1][2] + 512
    # With checkpoints, nor does what is kept.
    checkpointed = Sensitivity(; name=:DiscreteAdjoint, options=Pair{Symbol,Any}[:checkpoints => 5])
    for tolerance in (1e-4, 1e-9)
        answer = dispatch(make(lotka_volterra(); tolerance, sensitivity=checkpointed), SAVEAT)
        @test length(answer.pullback.steps.dt) > 11 && length(answer.pullback.steps.u) <= 2 * 11
        whole = dispatch(make(lotka_volterra(); tolerance, sensitivity=Sensitivity(; name=:DiscreteAdjoint)), SAVEAT)
        du = ones(2, length(answer.u))
        @test all(answer.pullback(du) .≈ whole.pullback(du))
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
    @testset "states that drift when solved backwards" begin
        decay = """
        workspace(::Type{T}) where {T} = nothing
        f!(du, u, p, t, w) = (du[1] = -60 * (u[1] - cos(t)); du[2] = p[1] - p[1]; nothing)
        vjp!(dl, l, u, p, t, w) = (dl[1] = -60 * l[1]; dl[2] = zero(t); nothing)
        vjp_p!(dp, l, u, p, t, w) = (fill!(dp, zero(t)); nothing)
        vjp_both!(dl, dp, l, u, p, t, w) = (vjp!(dl, l, u, p, t, w); vjp_p!(dp, l, u, p, t, w))
        """
        answer = dispatch(make(lotka_volterra(decay); tolerance=1e-6, sensitivity=Sensitivity(; name=:BacksolveAdjoint)), [2.0]; tspan=(0.0, 2.0))
        @test_throws GradientFailed answer.pullback(ones(2, 1))
    end
end

# Robertson's kinetics: the reference is forward mode, which shares nothing with the adjoints.
@testset "stiff adjoints" begin
    robertson = """
    workspace(::Type{T}) where {T} = nothing
    function f!(du, u, p, t, w)
        a, b, c = u[1], u[2], u[3]
        du[1] = -p[1] * a + p[3] * b * c
        du[3] = p[2] * b * b
        du[2] = p[1] * a - p[3] * b * c - p[2] * b * b
        return nothing
    end
    function jac!(J, u, p, t, w)
        b, c = u[2], u[3]
        J[1] = -p[1]; J[2] = p[1]; J[3] = zero(b)
        J[4] = p[3] * c; J[5] = -p[3] * c - 2p[2] * b; J[6] = 2p[2] * b
        J[7] = p[3] * b; J[8] = -p[3] * b; J[9] = zero(b)
        return nothing
    end
    tgrad!(d, u, p, t, w) = (d[1] = d[2] = d[3] = zero(eltype(d)); nothing)
    function vjp!(dl, l, u, p, t, w)
        b, c = u[2], u[3]
        dl[1] = p[1] * (l[2] - l[1])
        dl[2] = p[3] * c * (l[1] - l[2]) + 2p[2] * b * (l[3] - l[2])
        dl[3] = p[3] * b * (l[1] - l[2])
        return nothing
    end
    function vjp_p!(dp, l, u, p, t, w)
        a, b, c = u[1], u[2], u[3]
        dp[1] = a * (l[2] - l[1]); dp[2] = b * b * (l[3] - l[2]); dp[3] = b * c * (l[1] - l[2])
        return nothing
    end
    """
    model = PySciODE.get_object(PySciODE.MODELS, PySciODE.send("command = \"register\"\ndtype = \"float64\"\nn = 3\nnp = 3\nconstants = []",
                                                               Ref{Report}(), robertson))
    function stiff_gradient(name, tolerances...)
        sensitivity = Sensitivity(; name, (isempty(tolerances) ? (;) : (; abstol=tolerances[1], reltol=tolerances[2]))...)
        plan = make(model; alg="Rodas5P()", package="OrdinaryDiffEqRosenbrock", odekind=:implicit, tolerance=1e-10, sensitivity)
        answer = dispatch(plan, [1e-2, 1.0, 100.0]; u0=[1.0, 0.0, 0.0], p=[0.04, 3e7, 1e4], tspan=(0.0, 100.0))
        return answer.pullback(repeat([1.0, 1e4, 0.0], 1, 3))[2]
    end
    reference = stiff_gradient(:ForwardDiffSensitivity)
    @test stiff_gradient(:GaussAdjoint) ≈ reference rtol = 1e-5
    @test stiff_gradient(:QuadratureAdjoint, 1e-10, 1e-8) ≈ reference rtol = 1e-4
end
