# Solves over arrays that the processor doesn't read entry by entry, with JLArrays in the place of a GPU.

using JLArrays: JLArrays, JLArray
using KernelAbstractions: KernelAbstractions
using PySciODE: Kernels

# Lotka-Volterra once more: one thread evaluates it.
on_device(source) = """
module OneThread
$(replace(source, "workspace(::Type{T}) where {T} = nothing" => ""))
end
workspace(like) = nothing
f!(du, u, p, t, w) = Kernels.launch!(f_kernel, 1, du, u, p, t)
f_kernel(i, du, u, p, t) = OneThread.f!(du, u, p, t, nothing)
vjp!(dl, l, u, p, t, w) = Kernels.launch!(vjp_kernel, 1, dl, l, u, p, t)
vjp_kernel(i, dl, l, u, p, t) = OneThread.vjp!(dl, l, u, p, t, nothing)
vjp_p!(dp, l, u, p, t, w) = Kernels.launch!(vjp_p_kernel, 1, dp, l, u, p, t)
vjp_p_kernel(i, dp, l, u, p, t) = OneThread.vjp_p!(dp, l, u, p, t, nothing)
vjp_both!(dl, dp, l, u, p, t, w) = (vjp!(dl, l, u, p, t, w); vjp_p!(dp, l, u, p, t, w))
"""

const JLARRAYS = "device = \"stand_in\"\nindex = 0\n"

function device_model(source=on_device(LOTKA_VOLTERRA); n=2, np=4)
    PySciODE.send("command = \"use_device\"\npackage = \"JLArrays\"\n" * JLARRAYS, Ref{Report}())
    spec = "command = \"register\"\ndtype = \"float64\"\nn = $n\nnp = $np\nconstants = []\n" * JLARRAYS
    return PySciODE.get_object(PySciODE.MODELS, PySciODE.send(spec, Ref{Report}(), source))
end

device_dispatch(plan, saveat; tspan=(0.0, 10.0)) = PySciODE.on_device(plan.model) do
    PySciODE.dispatch(plan, JLArray(U0), JLArray(P), tspan, collect(saveat), PySciODE.Hooks(), Float64[])
end

function device_gradient(plan, saveat=SAVEAT)
    answer = device_dispatch(plan, saveat)
    du0, dp = answer.pullback(2 .* reduce(hcat, answer.u))
    return vcat(Array(du0), Array(dp))
end

@testset "devices" begin
    @testset "forward" begin
        answer = device_dispatch(make(device_model()), SAVEAT)
        @test answer.retcode === :Success
        @test answer.u isa Vector{<:JLArray{Float64,1}}
        @test maximum(abs(invariant(Array(u)) - invariant(U0)) for u in answer.u) < 1e-6
        host = dispatch(make(lotka_volterra()), SAVEAT)
        @test maximum(maximum(abs, Array(u) - v) for (u, v) in zip(answer.u, host.u)) < 1e-11
    end
    @testset "$name" for name in (:GaussAdjoint, :InterpolatingAdjoint, :BacksolveAdjoint, :QuadratureAdjoint)
        options = name === :QuadratureAdjoint ? Pair{Symbol,Any}[:abstol => 1e-9, :reltol => 1e-9] : Pair{Symbol,Any}[]
        @test device_gradient(make(device_model(); sensitivity=Sensitivity(; name, options))) ≈ REFERENCE rtol = 1e-4
    end
    @testset "a VJP that is NaN" begin
        source = replace(LOTKA_VOLTERRA, "dl[1] = (p[1]" => "dl[1] = (t < 5 ? NaN : 1.0) * (p[1]")
        answer = device_dispatch(make(device_model(on_device(source)); sensitivity=Sensitivity(; name=:GaussAdjoint)), SAVEAT)
        @test_throws GradientFailed answer.pullback(2 .* reduce(hcat, answer.u))
    end
    @testset "entries can't be read one by one" begin
        source = "workspace(like) = nothing\nf!(du, u, p, t, w) = (du[1] = u[1]; nothing)"
        @test_throws "Scalar indexing" device_dispatch(make(device_model(source); odekind=:plain), SAVEAT)
    end
    @testset "products and linear systems" begin
        A, B = randn(5, 3, 4), randn(5, 4, 2)
        C = JLArray(zeros(5 * 3 * 2))
        flat(x) = JLArray(vec(permutedims(x, (3, 2, 1))))  # row after row
        Kernels.device_product!(C, 0, 6, 2, 1, flat(A), 0, 12, 4, 1, flat(B), 0, 8, 2, 1, 5, 3, 2, 4)
        pages = permutedims(reshape(Array(C), 2, 3, 5), (3, 2, 1))
        @test all(pages[i, :, :] ≈ A[i, :, :] * B[i, :, :] for i in 1:5)
        M, X = randn(5, 3, 3), randn(5, 3, 2)
        solved = flat(X)
        Kernels.device_solve!(flat(M), 0, solved, 0, 5, 3, 2)
        pages = permutedims(reshape(Array(solved), 2, 3, 5), (3, 2, 1))
        @test all(pages[i, :, :] ≈ M[i, :, :] \ X[i, :, :] for i in 1:5)
    end
    @testset "functions outside of their domain are NaN" begin
        out = [isnan(getfield(Kernels.OnDevice, f)(x)) for (f, x) in ((:sqrt, -1.0), (:log, -1.0), (:log2, -1.0), (:log10, -1.0),
            (:log1p, -2.0), (:sin, Inf), (:cos, Inf), (:tan, Inf), (:asin, 2.0), (:acos, -2.0), (:acosh, 0.5), (:atanh, 2.0))]
        @test all(out)
        @test Kernels.OnDevice.pow(-2.0, 3.0) == -8.0 && isnan(Kernels.OnDevice.pow(-2.0, 0.5))
    end
end
