# Forward mode through the solver: SciML's ForwardDiffSensitivity, with dual numbers of one tag and a few widths, so that its solvers
# are compiled ahead of time, and without loading the adjoint stack.

"""
Width of the dual numbers: the `chunk_size` asked for, or 4 or 8, whose solvers are compiled ahead of time; fewer derivatives are padded,
more of them run in several passes.
"""
function dual_width(s::Sensitivity, n)
    chosen = option(s, :chunk_size)
    chosen isa Integer && chosen > 0 && return Int(chosen)
    return n <= 4 ? 4 : 8
end

differentiate(::Methods.ForwardDiffSensitivity, plan, u0, p, tspan, saveat, hooks, start) =
    run_forward_mode(plan, u0, p, tspan, saveat, hooks, start)

"""
    run_forward_mode(plan, u0, p, tspan, saveat) -> Answer

Solve with dual numbers through the solver; the derivative of every saved state is there when the solve ends, and the pullback is
a product with it.
"""
function run_forward_mode(plan::Plan{T}, u0::Vector{T}, p::Vector{T}, tspan::Tuple{T,T}, saveat::Vector{T},
                          hooks::Hooks, start=nothing) where {T}
    s = plan.sensitivity
    nu, np = s.u0 ? length(u0) : 0, s.p ? length(p) : 0
    inst = checkout(plan.model)
    inst.hooks = hooks
    try
        m = nu + np
        N = dual_width(s, m)
        scale = scales(p, nu, np)
        S = start === nothing ? nothing : tangent(start, inst, p, nu, np) .* scale'
        result, jacobian = pass(plan, inst, u0, p, tspan, saveat, scale, nu, np, 0, Val(N), S)::Pass{T}
        if result.retcode !== :Success
            # A derivative that is not finite stops the solver too: then the states themselves can still be solved for.
            plain = at_runtime(run, plan, inst, odeproblem(plan, inst, u0, p, tspan), saveat, false)::Answer{T}
            plain.pullback = Refusal("with the derivatives carried along, the solver stopped with retcode $(result.retcode): " *
                                     "they are probably not finite")
            return plain
        end
        for offset in N:N:(m - 1)
            # The step size follows the values and all partials; every pass saves at the first one's times.
            at = isempty(saveat) ? result.t : saveat
            _, more = pass(plan, inst, u0, p, tspan, at, scale, nu, np, offset, Val(N), S)::Pass{T}
            size(more, 3) == size(jacobian, 3) || throw(GradientFailed("a pass of forward mode stopped early"))
            jacobian = cat(jacobian, more; dims=2)
        end
        result.pullback = Contraction{T}(jacobian ./ scale', nu, np, length(u0), length(p))
        return result
    finally
        checkin(plan.model, inst)
    end
end

"""
    scales(p, nu, np) -> (nu + np,)

The sizes of the directions in which solves carry derivatives along. Their errors are held to the tolerances of the states: the derivative
by a rate constant of 1e9, small itself, would lie below them (Hindmarsh & Serban 2005, CVODES, `pbar`). Parameters below 1 have no
scale of their own, as weights of networks have none.
"""
scales(p::Vector{T}, nu, np) where {T} = T[k <= nu ? one(T) : max(abs(p[k - nu]), one(T)) for k in 1:(nu + np)]

"""The derivatives of all saved states, `(state, direction, time)`, and the product with a cotangent."""
struct Contraction{T}
    jacobian::Array{T,3}
    nu::Int
    np::Int
    n::Int
    nparams::Int
end

function (c::Contraction{T})(du::AbstractMatrix{T}) where {T}
    g = zeros(T, c.nu + c.np)
    J = c.jacobian
    @inbounds for k in axes(du, 2), j in eachindex(g)
        s = zero(T)
        @simd for i in axes(du, 1)
            s += J[i, j, k] * du[i, k]
        end
        g[j] += s
    end
    du0, dp = zeros(T, c.n), zeros(T, c.nparams)
    c.nu > 0 && copyto!(du0, 1, g, 1, c.nu)
    c.np > 0 && copyto!(dp, 1, g, c.nu + 1, c.np)
    return du0, dp
end

seed(::Type{D}, x::T, direction::Int, scale::Vector{T}, offset::Int) where {T,N,D<:DualOf{T,N}} =
    D(x, ForwardDiff.Partials(ntuple(j -> j + offset == direction ? scale[direction] : zero(T), Val(N))))

const Pass{T} = Tuple{Answer{T},Array{T,3}}

seed(::Type{D}, x::T, row::AbstractVector, offset::Int) where {T,N,D<:DualOf{T,N}} =
    D(x, ForwardDiff.Partials(ntuple(j -> j + offset <= length(row) ? row[j + offset] : zero(T), Val(N))))

"""`S`: the derivatives of `u0` by the directions, unless they are those of its entries themselves."""
function pass(plan::Plan{T}, inst::Instance{T}, u0, p, tspan, saveat, scale, nu, np, offset, ::Val{N}, S=nothing) where {T,N}
    D = DualOf{T,N}
    prepare_duals!(inst, D)
    du0 = S === nothing ? D[seed(D, u0[i], nu > 0 ? i : 0, scale, offset) for i in eachindex(u0)] :
        D[seed(D, u0[i], view(S, i, :), offset) for i in eachindex(u0)]
    dp = D[seed(D, p[i], np > 0 ? nu + i : 0, scale, offset) for i in eachindex(p)]
    isempty(dp) && push!(dp, zero(D))  # LinearSolve looks at the first one; nothing reads it
    prob = odeproblem(plan, inst, du0, dp, tspan)
    return at_runtime(pass, plan, inst, prob, saveat, min(N, nu + np - offset))
end

function pass(plan::Plan{T}, inst::Instance{T}, prob, saveat::Vector{T}, directions::Int) where {T}
    sol = solve_raw(plan, inst, prob, saveat, false)
    states, jacobian = unpack(sol.u, directions, T)
    result = Answer{T}(Vector{T}(sol.t), states, Symbol(sol.retcode), Float64(inst.reached), counts(evaluations(inst), sol.stats), plan,
                       nothing, nothing, nothing)
    return result, jacobian
end

function unpack(us, directions::Int, ::Type{T}) where {T}
    states = Vector{T}[T[ForwardDiff.value(x) for x in u] for u in us]
    n = isempty(us) ? 0 : length(us[1])
    jacobian = Array{T,3}(undef, n, directions, length(us))
    @inbounds for (k, u) in enumerate(us), j in 1:directions, i in 1:n
        jacobian[i, j, k] = ForwardDiff.partials(u[i], j)
    end
    return states, jacobian
end
