# DiscreteAdjoint: the exact gradient of the steps that the solver took. SciML solves, and its accepted steps are kept; the pullback goes
# back through them with the generated vector-Jacobian products, the step sizes taken as constants (Hairer, Nørsett & Wanner, "Solving
# Ordinary Differential Equations I", 1993, II.6; Sandu, "On the properties of Runge-Kutta discrete adjoints", ICCS 2006).

"""The accepted steps of a solve: from `t[n]`, `u[:, n]`, one of length `dt[n]`. One more time and state than steps."""
struct Steps{T}
    n::Int
    t::Vector{T}
    dt::Vector{T}
    u::Vector{T}  # state after state
end
Steps{T}(n) where {T} = Steps{T}(n, T[], T[], T[])

state(s::Steps, k) = view(s.u, ((k - 1) * s.n + 1):(k * s.n))

"""Solve step by step, and keep them."""
function solve_steps!(steps::Steps{T}, integrator) where {T}
    push!(steps.t, integrator.t)
    append!(steps.u, integrator.u)
    for _ in integrator
        integrator.t == steps.t[end] && continue
        taken = integrator.t - steps.t[end]
        # The difference of the times has lost digits; the integrator's own step size is the next one's where the step was cut short.
        exact = T(integrator.dt)
        push!(steps.dt, abs(exact - taken) <= 4 * eps(max(abs(integrator.t), abs(steps.t[end]))) ? exact : taken)
        push!(steps.t, integrator.t)
        append!(steps.u, integrator.u)
    end
    sol = integrator.sol
    return sol.retcode == SciMLBase.ReturnCode.Default ? SciMLBase.solution_new_retcode(sol, SciMLBase.ReturnCode.Success) : sol
end

# ---------------------------------------------------------------------------------------------------------------------
# What a step computes.

"""
    ExplicitRungeKutta

Stages ``k_i = f(u + dt Σ_j a_ij k_j, p, t + c_i dt)``, the new state ``u + dt Σ_j b_j k_j``, and within the step
``u + dt Σ_j w_j(θ) k_j``; `w` is given at Chebyshev nodes, which determine the polynomials. `first` is the stage at the old state, `last` that at the new one, which the next step starts with; 0 for methods without. `needed`: the stages on which
the new state depends.
"""
struct ExplicitRungeKutta{T}
    a::Matrix{T}
    b::Vector{T}
    c::Vector{T}
    w::Matrix{T}      # (stage, node)
    first::Int
    last::Int
    needed::Vector{Int}
end
Base.convert(::Type{ExplicitRungeKutta{T}}, r::ExplicitRungeKutta) where {T} =
    ExplicitRungeKutta{T}(T.(r.a), T.(r.b), T.(r.c), T.(r.w), r.first, r.last, r.needed)

const NODES = [(1 - cospi((2k - 1) / 32)) / 2 for k in 1:16]
const NODE_WEIGHTS = [(-1)^k * sinpi((2k - 1) / 32) for k in 1:16]

"""The weights of the stages at `θ`, by barycentric interpolation (Berrut & Trefethen, SIAM Review 46, 2004)."""
function dense_weights!(weights::Vector{T}, r::ExplicitRungeKutta{T}, θ) where {T}
    fill!(weights, zero(T))
    total = 0.0
    for (k, node) in enumerate(NODES)
        if node == θ
            copyto!(weights, view(r.w, :, k))
            return weights
        end
        x = NODE_WEIGHTS[k] / (θ - node)
        total += x
        weights .+= T(x) .* view(r.w, :, k)
    end
    weights ./= T(total)
    return weights
end

const TABLEAUX = Dict{Any,Union{Nothing,ExplicitRungeKutta{Float64}}}()
const TABLEAUX_LOCK = ReentrantLock()

"""
    tableau(alg)

The tableau of an algorithm, read from a step that SciML takes; nothing if its steps are not those of an explicit Runge-Kutta method.
"""
tableau(alg) = @lock TABLEAUX_LOCK get!(() -> read_tableau(alg), TABLEAUX, alg)

# The k-th evaluation of the probed right-hand side returns the k-th unit vector: what the next ones are given, and what comes out, are then
# the coefficients.
const MOST_EVALUATIONS = 128

mutable struct Probe
    const times::Vector{Float64}
    const states::Vector{Vector{Float64}}
end
function (probe::Probe)(du, u, p, t, w)
    push!(probe.times, t)
    push!(probe.states, collect(u))
    fill!(du, 0.0)
    k = length(probe.times)
    k <= length(du) && (du[k] = 1.0)
    return nothing
end

function probe_plan(f, n, alg)
    model = Model{Float64}(Generated(@__MODULE__, n, 0, n, Dict{Symbol,Any}(:f! => f), nothing, false, nothing))
    # With such tolerances every step is accepted, and the same code runs as in a solve.
    dt = isadaptive(alg) ? 0.0 : 1.0
    return plan(model, alg; odekind=:plain, options=Options{Float64}(; reltol=1e-3, abstol=1e30, dt, dense=true))
end

function read_tableau(alg)
    alg isa OrdinaryDiffEqCore.OrdinaryDiffEqAlgorithm && !takes_jacobian(alg) || return nothing
    n = MOST_EVALUATIONS
    probe = Probe(Float64[], Vector{Float64}[])
    plan = probe_plan(probe, n, alg)
    inst = checkout(plan.model)
    found = try
        integrator = init(odeproblem(plan, inst, zeros(n), Float64[], (0.0, 1.0)), alg; saveat=Float64[], save_everystep=true, dense=true,
                          keywords(plan, (0.0, 1.0))...)
        # The initial step size takes evaluations of its own.
        before = length(probe.times)
        step!(integrator)
        dt = integrator.t
        u = copy(integrator.u)
        w = [integrator.sol(θ * dt) for θ in NODES]
        (; before, dt, u, w)
    catch e
        e isa InterruptException && rethrow()
        return nothing
    end
    length(probe.times) <= n || return nothing
    r = arrange(probe, found)
    return r !== nothing && steps_agree(r, alg) ? r : nothing
end

"""The evaluations on which `rows` depend, themselves or through others."""
function reach(a, rows)
    needed = Set{Int}()
    todo = [j for row in rows for j in eachindex(row) if row[j] != 0]
    while !isempty(todo)
        j = pop!(todo)
        j in needed && continue
        push!(needed, j)
        append!(todo, findall(!iszero, view(a, j, :)))
    end
    return sort!(collect(needed))
end

function arrange(probe::Probe, found)
    count = length(probe.times)
    a = permutedims(reduce(hcat, [u[1:count] ./ found.dt for u in probe.states]))
    b, w = found.u[1:count] ./ found.dt, [x[1:count] ./ found.dt for x in found.w]
    all(iszero, b) && return nothing
    # What is evaluated twice is one stage.
    for j in 2:count
        i = findfirst(i -> probe.times[i] == probe.times[j] && a[i, :] == a[j, :], 1:(j - 1))
        i === nothing && continue
        for x in (eachrow(a)..., b, w...)
            x[i] += x[j]
            x[j] = 0
        end
    end
    # An evaluation that depends on itself or on later ones belongs to no explicit method.
    any(a[i, j] != 0 for i in 1:count for j in i:count) && return nothing
    used, from_b = reach(a, [[b]; w]), reach(a, [b])
    c = [probe.times[i] / found.dt for i in used]
    a = a[used, used]
    position(j) = findfirst(==(j), used)
    needed = Int[position(j) for j in from_b]
    first = findfirst(i -> c[i] == 0 && all(iszero, view(a, i, :)), eachindex(used))
    last = findfirst(i -> !(i in needed) && c[i] ≈ 1 && a[i, :] ≈ b[used], eachindex(used))
    return ExplicitRungeKutta{Float64}(a, b[used], c, reduce(hcat, [x[used] for x in w]), something(first, 0), something(last, 0), needed)
end

"""Whether the tableau's steps are the algorithm's, of equations that depend on everything."""
function steps_agree(r::ExplicitRungeKutta{Float64}, alg)
    f(du, u, p, t, w) = (for i in 1:3
            du[i] = sin(i * t + u[mod1(i + 1, 3)]) - u[i] * u[mod1(i + 2, 3)] / 3
        end; nothing)
    plan = probe_plan(f, 3, alg)
    inst = checkout(plan.model)
    steps, times = Steps{Float64}(3), collect(0.05:0.1:1.95)
    integrator = init(odeproblem(plan, inst, [0.3, -0.5, 0.8], Float64[], (0.0, 2.0)), alg; saveat=times, save_everystep=false, dense=false,
                      keywords(plan, (0.0, 2.0))..., dtmax=0.4, (isadaptive(alg) ? (;) : (; dt=0.25))...)
    sol = solve_steps!(steps, integrator)
    length(steps.dt) >= 4 || return false
    K, weights, stage, du = zeros(3, length(r.b)), zeros(length(r.b)), zeros(3), zeros(3)
    for n in eachindex(steps.dt)
        u, dt = state(steps, n), steps.dt[n]
        for i in eachindex(r.b)
            stage .= u .+ dt .* (K * view(r.a, i, :))
            f(du, stage, nothing, steps.t[n] + r.c[i] * dt, nothing)
            K[:, i] .= du
        end
        u .+ dt .* (K * r.b) ≈ state(steps, n + 1) || return false
        for (k, t) in enumerate(sol.t)
            steps.t[n] < t < steps.t[n + 1] || continue
            u .+ dt .* (K * dense_weights!(weights, r, (t - steps.t[n]) / dt)) ≈ sol.u[k] || return false
        end
    end
    return true
end

# ---------------------------------------------------------------------------------------------------------------------

function differentiate(::Methods.DiscreteAdjoint, plan::Plan{T}, u0::Vector{T}, p::Vector{T}, tspan::Tuple{T,T}, saveat::Vector{T}, hooks, _) where {T}
    method = at_runtime(tableau, plan.alg)
    method === nothing && throw(GradientFailed("the steps of $(nameof(typeof(plan.alg))) are not those of an explicit Runge-Kutta method"))
    inst = checkout(plan.model)
    inst.hooks = hooks
    try
        prob = odeproblem(plan, inst, u0, p, tspan)
        return at_runtime(run_steps, plan, inst, prob, saveat, method)::Answer{T}
    catch
        checkin(plan.model, inst)
        rethrow()
    end
end

function run_steps(plan::Plan{T}, inst::Instance{T}, prob, saveat::Vector{T}, method::ExplicitRungeKutta{Float64}) where {T}
    steps = Steps{T}(length(prob.u0))
    sol = solve_raw(plan, inst, prob, saveat, false; steps)
    result = answer(plan, inst, sol, saveat; keep=true)
    result.solution = nothing
    result.pullback = successful_retcode(sol.retcode) ? StepsPullback{T}(plan.sensitivity, inst, steps, convert(ExplicitRungeKutta{T}, method), prob.p, result.t) :
        Refusal("the forward solve ended with retcode $(sol.retcode), so there is nothing to differentiate")
    return result
end

"""The pullback through the steps of a solve; `t` are the saved times."""
struct StepsPullback{T}
    sensitivity::Sensitivity
    inst::Instance{T}
    steps::Steps{T}
    method::ExplicitRungeKutta{T}
    p::Vector{T}
    t::Vector{T}
end

"""What going back through steps works with. Vectors of stages hold one after the other."""
struct ReverseWork{T}
    k::Vector{T}        # stages
    at::Vector{T}       # where they are evaluated
    l::Vector{T}        # cotangents of the stages
    lam::Vector{T}      # cotangent of the state
    below::Vector{T}    # what goes on to the state before
    pending::Vector{T}  # cotangent of the next step's first stage, which is evaluated at this step's new state
    mu::Vector{T}
    dp::Vector{T}
    dp_of_stage::Vector{T}
    weights::Vector{T}
end
function ReverseWork{T}(n, np, s) where {T}
    return ReverseWork{T}(zeros(T, n * s), zeros(T, n * s), zeros(T, n * s), zeros(T, n), zeros(T, n), zeros(T, n), zeros(T, n), zeros(T, np), zeros(T, np),
                          zeros(T, s))
end

part_of(x::Vector, n, i) = view(x, ((i - 1) * n + 1):(i * n))

function (b::StepsPullback{T})(du::AbstractMatrix{T}) where {T}
    reset!(b.inst)  # Python's functions lived as long as the solve
    w = ReverseWork{T}(b.steps.n, length(b.p), length(b.method.b))
    forward, column = RHS{T}(b.inst), length(b.t)
    for step in length(b.steps.dt):-1:1
        column = reverse_step!(w, b, forward, step, du, column)
    end
    product!(w, b, w.pending, state(b.steps, 1), b.steps.t[1])
    w.lam .+= w.mu
    while column >= 1
        w.lam .+= view(du, :, column)
        column -= 1
    end
    when = nonfinite_product(b.inst)
    when === nothing || throw(GradientFailed("the model's vector-Jacobian product is not finite$when"))
    all(isfinite, w.lam) && all(isfinite, w.dp) || throw(GradientFailed("the gradient is not finite"))
    return w.lam, w.dp
end

"""``μ = (∂f/∂u)' l``, and ``(∂f/∂p)' l`` added to the gradient."""
function product!(w::ReverseWork{T}, b::StepsPullback{T}, l, u, t::T) where {T}
    inst, p, mu, dp = b.inst, b.p, w.mu, w.dp_of_stage
    if all(iszero, l)
        fill!(mu, zero(T))
        return nothing
    end
    note_vjp!(inst, t)
    if b.sensitivity.p && !isempty(p)
        GC.@preserve mu dp l u p slot(inst, Val(:both))(pointer(mu), pointer(dp), pointer(l), pointer(u), pointer(p), t)
        add!(w.dp, one(T), dp)
        watch!(inst, dp, t)
    else
        GC.@preserve mu l u p slot(inst, Val(:vjp))(pointer(mu), pointer(l), pointer(u), pointer(p), t)
    end
    watch!(inst, mu, t)
    return nothing
end

function add!(out, a::T, x) where {T}
    iszero(a) && return nothing
    @inbounds @simd for i in eachindex(out, x)
        out[i] += a * x[i]
    end
    return nothing
end

"""Back through one step; `column`: the last saved time that is not dealt with yet."""
function reverse_step!(w::ReverseWork{T}, b::StepsPullback{T}, forward, step, du, column) where {T}
    r, steps, n = b.method, b.steps, b.steps.n
    u, t, dt, stop = state(steps, step), steps.t[step], steps.dt[step], steps.t[step + 1]
    fill!(w.l, zero(T))
    fill!(w.below, zero(T))
    inner = false
    while column >= 1 && b.t[column] != t && (b.t[column] > t) == (dt > 0)
        g = view(du, :, column)
        if b.t[column] == stop
            add!(w.lam, one(T), g)
        else
            inner = true
            add!(w.below, one(T), g)
            dense_weights!(w.weights, r, (b.t[column] - t) / dt)
            for j in eachindex(w.weights)
                add!(part_of(w.l, n, j), dt * w.weights[j], g)
            end
        end
        column -= 1
    end
    stages = inner ? eachindex(r.b) : r.needed
    checked = (step - 1) % max(1, length(steps.dt) ÷ 8) == 0
    for i in stages
        at = part_of(w.at, n, i)
        copyto!(at, u)
        for j in stages
            j < i && add!(at, dt * r.a[i, j], part_of(w.k, n, j))
        end
        i == stages[end] && !checked || forward(part_of(w.k, n, i), at, b.p, t + r.c[i] * dt)
    end
    checked && check_step(w, b, step)
    r.last in stages || new_state!(w, b, step)
    for i in Iterators.reverse(stages)
        l = part_of(w.l, n, i)
        if i == r.last
            add!(w.pending, one(T), l)
            new_state!(w, b, step)
            continue
        elseif i == r.first
            copyto!(w.pending, l)
            continue
        end
        product!(w, b, l, part_of(w.at, n, i), t + r.c[i] * dt)
        add!(w.below, one(T), w.mu)
        for j in stages
            j < i && add!(part_of(w.l, n, j), dt * r.a[i, j], w.mu)
        end
    end
    w.lam .+= w.below
    return column
end

"""Some steps are looked at: do the stages make the state that the solver came to?"""
function check_step(w::ReverseWork{T}, b::StepsPullback{T}, step) where {T}
    r, n, dt = b.method, b.steps.n, b.steps.dt[step]
    copyto!(w.mu, state(b.steps, step))
    size = maximum(abs, w.mu; init=zero(T))
    for j in r.needed
        k = part_of(w.k, n, j)
        add!(w.mu, dt * r.b[j], k)
        size += abs(dt * r.b[j]) * maximum(abs, k; init=zero(T))
    end
    w.mu .-= state(b.steps, step + 1)
    off = maximum(abs, w.mu; init=zero(T))
    off <= 10_000 * eps(T) * size || throw(GradientFailed("the step from t = $(b.steps.t[step]) is not one of the method's: it is off by $off"))
    return nothing
end

"""The evaluation at the new state, and from that state to the stages that make it."""
function new_state!(w::ReverseWork{T}, b::StepsPullback{T}, step) where {T}
    r, steps = b.method, b.steps
    product!(w, b, w.pending, state(steps, step + 1), steps.t[step + 1])
    fill!(w.pending, zero(T))
    add!(w.lam, one(T), w.mu)
    for j in r.needed
        add!(part_of(w.l, steps.n, j), steps.dt[step] * r.b[j], w.lam)
    end
    return nothing
end
