"""
    Rosenbrock

Stages ``(M / (γ dt) - J) k_i = f(u + Σ_j a_ij k_j, p, t + c_i dt) + dt d_i ∂f/∂t + M Σ_j c_ij / dt k_j`` with the Jacobian ``J`` at the old state,
and the new state ``u + Σ_j b_j k_j`` (Hairer & Wanner, "Solving Ordinary Differential Equations II", 1996, IV.7). Within the step, `dt f` at
the old and at the new state may count as well: the last two rows of `w`.
"""
struct Rosenbrock{T} <: StepMethod{T}
    a::Matrix{T}
    coupling::Matrix{T}
    gamma::T
    b::Vector{T}
    c::Vector{T}
    d::Vector{T}
    w::Matrix{T}
    before::Vector{Vector{Int}}
    first::Bool  # whether the first stage is at the old state
end
Base.convert(::Type{StepMethod{T}}, r::Rosenbrock{T}) where {T} = r
Base.convert(::Type{StepMethod{T}}, r::Rosenbrock) where {T} =
    Rosenbrock{T}(r.a, r.coupling, r.gamma, r.b, r.c, r.d, r.w, r.before, r.first)

function rosenbrock(a, coupling, gamma, b, c, d, w=zeros(length(b) + 2, length(NODES)))
    # Some tables leave the last column of zeros out.
    square(x) = [x zeros(length(b), length(b) - size(x, 2))]
    a, coupling = square(a), square(coupling)
    before = [findall(j -> a[i, j] != 0 || coupling[i, j] != 0, eachindex(b)) for i in eachindex(b)]
    return Rosenbrock{Float64}(a, coupling, gamma, b, c, d, w, before, c[1] == 0 && all(iszero, view(a, 1, :)))
end

function read_rosenbrock(alg)
    # Methods that keep a Jacobian for later steps depend on where it was made.
    hasproperty(alg, :max_jac_age) && OrdinaryDiffEqCore.isWmethod(alg) && alg.max_jac_age != 1 && return nothing
    n = 24
    plan = example_plan(alg, n)
    inst = checkout(plan.model)
    integrator = start_reading(plan, inst, example_start(n), 10.0; dtmax=0.25)
    r = read_coefficients(integrator.cache)
    r === nothing && return nothing
    # In short steps the stages are nearly the same.
    while integrator.t - integrator.tprev < 0.2
        step!(integrator)
    end
    start, dt = integrator.tprev, integrator.t - integrator.tprev
    # The dense output, as weights of the stages: there are fewer of them than equations.
    steps = Steps{Float64}(n, [start, integrator.t], [dt], [integrator.uprev; integrator.u], [1], 2, Ref(1), 0)
    b = StepsPullback(plan, inst, steps, Any[r], Float64[], Float64[])
    w = ReverseWork(b, r)
    stages!(w, b, r, 1)
    both_ends!(w, b, r, 1)
    inside = reduce(hcat, [integrator.sol(start + θ * dt) .- state(steps, 1) for θ in NODES])
    basis = reshape(w.k, n, :) .* unit(r, dt)'
    weights = zeros(length(r.b) + 2, length(NODES))
    # Where the stages do without the right-hand sides at both ends, they have to.
    for columns in (1:length(r.b), 1:(length(r.b) + 2))
        weights .= 0
        weights[columns, :] = basis[:, columns] \ inside
        maximum(abs, basis * weights .- inside) <= 1e-12 * maximum(abs, inside) && break
    end
    weights[abs.(weights) .< 1e-13] .= 0
    return rosenbrock(r.a, r.coupling, r.gamma, r.b, r.c, r.d, weights)
end

"""The coefficients, where the cache of an algorithm has them."""
function read_coefficients(cache)
    hasproperty(cache, :tab) || return nothing
    tab = cache.tab
    has(names...) = all(x -> hasproperty(tab, x), names)
    has(:A, :C, :gamma, :b, :c, :d) && return rosenbrock(tab.A, tab.C, tab.gamma, tab.b, tab.c, tab.d)
    # Rosenbrock23, in the form of Shampine & Reichelt, "The MATLAB ODE Suite" (SIAM J. Sci. Comput. 18, 1997): its stages are those of the form
    # above, divided by γ dt and added up.
    nameof(typeof(cache)) === :Rosenbrock23Cache && has(:d) || return nothing
    γ = tab.d
    return rosenbrock([0 0; 1 / 2γ 0], [0 0; -1/γ 0], γ, [1 / γ, 1 / γ], [0, 1 / 2], [γ, 0.0])
end

state_scale(::Rosenbrock{T}, dt) where {T} = one(T)
unit(r::Rosenbrock{T}, dt) where {T} = [fill(one(T), length(r.b)); dt; dt]

"""The linear equations of a step."""
struct Equations{T,J}
    jacobian::J
    matrix::J
    rhs::Vector{T}
    tgrad::Vector{T}
    psi::Vector{T}
end
Equations(b::StepsPullback{T}) where {T} = (J = jacobian_buffer(b); Equations(J, copy(J), (zeros(T, b.steps.n) for _ in 1:3)...))

"""The vector-Jacobian products for dual numbers, whose derivatives are second ones, and its arguments."""
struct SecondProduct{D,F}
    both::F
    u::Vector{D}
    p::Vector{D}
    l::Vector{D}
    mu::Vector{D}
    dp::Vector{D}
end
function SecondProduct(b::StepsPullback{T}) where {T}
    inst, D = b.inst, DualOf{T,1}
    both = get!(() -> at_runtime(make_closure, inst, D, :both, :vjp_both!, g -> 0, D), inst.closures, (:vjp_both!, D))::Slot6{D,D}
    states() = zeros(D, b.steps.n)
    return SecondProduct(both, states(), D.(b.p), states(), states(), zeros(D, length(b.p)))
end

linear_work(b, ::Rosenbrock) = (Equations(b), SecondProduct(b))

function jacobian_buffer(b::StepsPullback{T}) where {T}
    kind, n = b.plan.odekind, b.steps.n
    kind in (:full, :implicit, :jac) && return zeros(T, n, n)
    kind === :sparse || throw(GradientFailed("the steps were taken without a Jacobian matrix, which going back through them takes"))
    colptr, rowval = b.inst.generated.sparsity
    J = SparseMatrixCSC{T,Int}(n, n, colptr, rowval, ones(T, length(rowval)))
    return J + spdiagm(ones(T, n))  # with room on the diagonal
end

"""`M / (γ dt) - J`, factorised."""
function factorise!(work::Equations{T}, b::StepsPullback{T}, r, step) where {T}
    u, t, dt = state(b.steps, step), b.steps.t[step], b.steps.dt[step]
    J = jacobian!(work.jacobian, b, u, t)
    V = work.matrix
    V .= .-J
    if b.mass_matrix === nothing
        for i in axes(V, 1)
            V[i, i] += 1 / (r.gamma * dt)
        end
    else
        V .+= like(V, b.mass_matrix) ./ (r.gamma * dt)
    end
    any(!iszero, r.d) && TimeGradient{T}(b.inst)(work.tgrad, u, b.p, t)
    F = V isa Matrix ? lu!(V; check=false) : lu(V; check=false)
    issuccess(F) || throw(GradientFailed("the linear equations of the step from t = $t are singular"))
    return F
end

like(::Matrix, M) = M
like(::SparseMatrixCSC, M) = sparse(M)

jacobian!(J::Matrix{T}, b, u, t) where {T} = (Jacobian{T}(b.inst)(J, u, b.p, t); J)
function jacobian!(J::SparseMatrixCSC{T}, b, u, t) where {T}
    colptr, rowval = b.inst.generated.sparsity
    own = SparseMatrixCSC{T,Int}(size(J)..., colptr, rowval, zeros(T, length(rowval)))
    Jacobian{T}(b.inst)(own, u, b.p, t)
    fill!(nonzeros(J), zero(T))
    return J .+ own
end

mass_transposed(b::StepsPullback, x) = b.mass_matrix === nothing ? x : b.mass_matrix' * x

function stages!(w::ReverseWork{T}, b::StepsPullback{T}, r::Rosenbrock{T}, step) where {T}
    work = Equations(b)
    return stages!(w, b, r, step, work, factorise!(work, b, r, step))
end

function stages!(w::ReverseWork{T}, b::StepsPullback{T}, r::Rosenbrock{T}, step, work, F) where {T}
    n, u, t, dt, f = b.steps.n, state(b.steps, step), b.steps.t[step], b.steps.dt[step], RHS{T}(b.inst)
    for i in eachindex(r.b)
        at, rhs = part_of(w.at, n, i), work.rhs
        copyto!(at, u)
        combine!(at, one(T), view(r.a, i, :), w.k, n, r.before[i])
        f(rhs, at, b.p, t + r.c[i] * dt)
        add!(rhs, dt * r.d[i], work.tgrad)
        if b.mass_matrix === nothing
            combine!(rhs, inv(dt), view(r.coupling, i, :), w.k, n, r.before[i])
        else
            coupled = zeros(T, n)
            combine!(coupled, inv(dt), view(r.coupling, i, :), w.k, n, r.before[i])
            mul!(rhs, b.mass_matrix, coupled, one(T), one(T))
        end
        ldiv!(F, rhs)
        copyto!(part_of(w.k, n, i), rhs)
    end
    return nothing
end

state_stages!(w, b, r::Rosenbrock, step) = stages!(w, b, r, step)

"""The right-hand sides at both ends of a step, of which the dense output may be made."""
function both_ends!(w::ReverseWork{T}, b::StepsPullback{T}, r::Rosenbrock, step) where {T}
    for (k, at) in ((length(r.b) + 1, step), (length(r.b) + 2, step + 1))
        RHS{T}(b.inst)(part_of(w.k, b.steps.n, k), state(b.steps, at), b.p, b.steps.t[at])
    end
    return nothing
end

function reverse_step!(w::ReverseWork{T}, b::StepsPullback{T}, r::Rosenbrock{T}, (work, second), step, inside, checked) where {T}
    n, t, dt, s = b.steps.n, b.steps.t[step], b.steps.dt[step], length(r.b)
    F = factorise!(work, b, r, step)
    stages!(w, b, r, step, work, F)
    checked && check_step(w, b, r, step)
    add!(w.pending, one(T), part_of(w.l, n, s + 2))
    new_state!(w, b, r, step, 1:s)
    copyto!(w.pending, part_of(w.l, n, s + 1))
    for i in s:-1:1
        psi = work.psi
        copyto!(psi, part_of(w.l, n, i))
        all(iszero, psi) && continue
        ldiv!(F', psi)
        second_product!(w, b, second, psi, part_of(w.k, n, i), step, r.d[i] * dt)
        spread!(w.l, inv(dt), view(r.coupling, i, :), mass_transposed(b, psi), n, r.before[i])
        if i == 1 && r.first
            add!(w.pending, one(T), psi)
            continue
        end
        product!(w, b, psi, part_of(w.at, n, i), t + r.c[i] * dt)
        add!(w.below, one(T), w.mu)
        spread!(w.l, one(T), view(r.a, i, :), w.mu, n, r.before[i])
    end
    return nothing
end

"""
The derivatives of ``ψ' (J k + τ ∂f/∂t)`` by state and parameters: those of the vector-Jacobian product in the direction of `k` in the state and
`τ` in time.
"""
function second_product!(w::ReverseWork{T}, b::StepsPullback{T}, second::SecondProduct{D}, psi, k, step, tau::T) where {T,D}
    u0, (; u, p, l, mu, dp) = state(b.steps, step), second
    for i in eachindex(u)
        u[i] = D(u0[i], ForwardDiff.Partials((k[i],)))
        l[i] = D(psi[i])
    end
    t = D(b.steps.t[step], ForwardDiff.Partials((tau,)))
    note_vjp!(b.inst, b.steps.t[step])
    GC.@preserve mu dp l u p second.both(pointer(mu), pointer(dp), pointer(l), pointer(u), pointer(p), t)
    for i in eachindex(mu)
        w.below[i] += ForwardDiff.partials(mu[i], 1)
    end
    for i in eachindex(dp)
        w.dp[i] += ForwardDiff.partials(dp[i], 1)
    end
    return nothing
end
