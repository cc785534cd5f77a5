"""
    ExplicitRungeKutta

Stages ``k_i = f(u + dt Σ_j a_ij k_j, p, t + c_i dt)``, the new state ``u + dt Σ_j b_j k_j``, and within the step
``u + dt Σ_j w_j(θ) k_j``. `first` is the stage at the old state, `last` that at the new one, which the next step starts with; 0 for
methods without. `needed`: the stages on which the new state depends. `before`: those on which each stage depends.
"""
struct ExplicitRungeKutta{T} <: StepMethod{T}
    a::Matrix{T}
    b::Vector{T}
    c::Vector{T}
    w::Matrix{T}      # (stage, node)
    first::Int
    last::Int
    needed::Vector{Int}
    before::Vector{Vector{Int}}
    order::Int
end
Base.convert(::Type{StepMethod{T}}, r::ExplicitRungeKutta{T}) where {T} = r
Base.convert(::Type{StepMethod{T}}, r::ExplicitRungeKutta) where {T} =
    ExplicitRungeKutta{T}(r.a, r.b, r.c, r.w, r.first, r.last, r.needed, r.before, r.order)

# The k-th evaluation of the probed right-hand side returns the k-th unit vector: what the next ones are given, and what comes out, are then
# the coefficients.
const MOST_EVALUATIONS = 128

struct Probe
    times::Vector{Float64}
    states::Vector{Vector{Float64}}
end
function (probe::Probe)(du, u, p, t, w)
    push!(probe.times, t)
    push!(probe.states, collect(u))
    fill!(du, 0.0)
    k = length(probe.times)
    k <= length(du) && (du[k] = 1.0)
    return nothing
end

function read_runge_kutta(alg)
    n = MOST_EVALUATIONS
    probe = Probe(Float64[], Vector{Float64}[])
    plan = reading_plan(alg, n, (:f! => probe,))
    integrator = start_reading(plan, checkout(plan.model), zeros(n), 1.0)
    step!(integrator)
    dt = integrator.t
    u, inside = copy(integrator.u), [integrator.sol(θ * dt) for θ in NODES]
    count = length(probe.times)
    count <= n || return nothing
    a = permutedims(reduce(hcat, [x[1:count] ./ dt for x in probe.states]))
    return arrange(a, u[1:count] ./ dt, probe.times ./ dt, [x[1:count] ./ dt for x in inside], SciMLBase.alg_order(alg))
end

function arrange(a, b, c, w, order)
    all(iszero, b) && return nothing
    # An evaluation that depends on itself or on later ones belongs to no explicit method.
    any(a[i, j] != 0 for i in axes(a, 1) for j in i:size(a, 2)) && return nothing
    # What is evaluated twice is one stage.
    for j in 2:length(c)
        i = findfirst(i -> c[i] == c[j] && a[i, :] == a[j, :], 1:(j - 1))
        i === nothing && continue
        for x in (eachrow(a)..., b, w...)
            x[i] += x[j]
            x[j] = 0
        end
    end
    used, needed = reach(a, [[b]; w]), reach(a, [b])
    a, b, c, w = a[used, used], b[used], c[used], reduce(hcat, [x[used] for x in w])
    needed = Int[findfirst(==(j), used) for j in needed]
    first = findfirst(i -> c[i] == 0 && all(iszero, view(a, i, :)), eachindex(c))
    last = findfirst(i -> !(i in needed) && c[i] ≈ 1 && a[i, :] ≈ b, eachindex(c))
    return ExplicitRungeKutta{Float64}(a, b, c, w, something(first, 0), something(last, 0), needed, [findall(!iszero, row) for row in eachrow(a)],
                                       order)
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

both_ends!(w, b, ::ExplicitRungeKutta, step) = nothing
state_stages!(w, b, r::ExplicitRungeKutta, step) = stages!(w, b, r, step, r.needed)
state_scale(::ExplicitRungeKutta, dt) = dt
unit(::ExplicitRungeKutta, dt) = dt
linear_work(b, ::ExplicitRungeKutta) = nothing

"""Take the `stages` again; the value of the last one is of use only where the step is checked."""
function stages!(w::ReverseWork{T}, b::StepsPullback{T}, r::ExplicitRungeKutta{T}, step, stages=eachindex(r.b), all=true) where {T}
    n, u, t, dt, f = b.steps.n, state(b.steps, step), b.steps.t[step], b.steps.dt[step], RHS{T}(b.inst)
    for i in stages
        at = part_of(w.at, n, i)
        copyto!(at, u)
        combine!(at, dt, view(r.a, i, :), w.k, n, r.before[i])
        i == stages[end] && !all || f(part_of(w.k, n, i), at, b.p, t + r.c[i] * dt)
    end
    return nothing
end

function reverse_step!(w::ReverseWork{T}, b::StepsPullback{T}, r::ExplicitRungeKutta{T}, _, step, inside, checked) where {T}
    n, t, dt = b.steps.n, b.steps.t[step], b.steps.dt[step]
    # Those that the dense output alone is made of count where states were saved.
    stages = inside ? (1:length(r.b)) : r.needed
    stages!(w, b, r, step, stages, checked)
    checked && check_step(w, b, r, step)
    r.last in stages || new_state!(w, b, r, step, r.needed)
    for i in Iterators.reverse(stages)
        l = part_of(w.l, n, i)
        if i == r.last
            add!(w.pending, one(T), l)
            new_state!(w, b, r, step, r.needed)
        elseif i == r.first
            copyto!(w.pending, l)
        else
            product!(w, b, l, part_of(w.at, n, i), t + r.c[i] * dt)
            i == r.needed[end] && !inside && note_speed!(b, r, i, w)
            add!(w.below, one(T), w.mu)
            spread!(w.l, dt, view(r.a, i, :), w.mu, n, r.before[i])
        end
    end
    return nothing
end

"""
Whether the adjoint changes too fast for the step: where it does so by ``z`` within one, it is off by about ``z^(q+1) / (q+1)!`` of itself, as an
exponential is by a method of order ``q``. The step size was chosen for the states, which may hardly move along the fastest directions. At
stage `i`, which no later one depends on, ``μ = dt b_i (∂f/∂u)' λ``.
"""
function note_speed!(b::StepsPullback{T}, r::ExplicitRungeKutta{T}, i, w::ReverseWork{T}) where {T}
    size, change = zero(T), zero(T)
    @inbounds for j in eachindex(w.lam)
        size = max(size, abs(w.lam[j]))
        change = max(change, abs(w.mu[j]))
    end
    b.adaptive && size > 0 || return nothing
    z = Float64(change / (size * abs(r.b[i])))
    b.doubt[] = max(b.doubt[], z^(r.order + 1) / prod(1.0:(r.order + 1)))
    return nothing
end
