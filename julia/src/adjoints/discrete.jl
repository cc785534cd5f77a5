# DiscreteAdjoint: the exact gradient of the steps that the solver took. SciML solves, and its accepted steps are kept; the pullback goes
# back through them with the generated vector-Jacobian products, the step sizes taken as constants (Hairer, Nørsett & Wanner, "Solving
# Ordinary Differential Equations I", 1993, II.6; Sandu, "On the properties of Runge-Kutta discrete adjoints", ICCS 2006).

"""
The accepted steps of a solve: from `t[n]`, `u[:, n]`, one of length `dt[n]` by the method number `choice[n]`. One more time and state than
steps. With `most`, no more than twice so many states are kept: one after `every[]` steps, which is doubled when there are too many. `offset`:
states before the first that is there.
"""
struct Steps{T}
    n::Int
    t::Vector{T}
    dt::Vector{T}
    u::Vector{T}  # state after state
    choice::Vector{Int}
    most::Int
    every::Base.RefValue{Int}
    offset::Int
end
Steps{T}(n, most=nothing) where {T} = Steps{T}(n, T[], T[], T[], Int[], something(most, typemax(Int) ÷ 2), Ref(1), 0)

"""The same steps with other states."""
with_states(s::Steps{T}, u, offset) where {T} = Steps{T}(s.n, s.t, s.dt, u, s.choice, s.most, Ref(1), offset)

state(s::Steps, k) = part_of(s.u, s.n, k - s.offset)
part_of(x::Vector, n, i) = view(x, ((i - 1) * n + 1):(i * n))

function keep!(s::Steps, t, u)
    push!(s.t, t)
    (length(s.t) - 1) % s.every[] == 0 || return nothing
    append!(s.u, u)
    count = length(s.u) ÷ s.n
    count > 2 * s.most || return nothing
    for k in 2:cld(count, 2)
        copyto!(part_of(s.u, s.n, k), part_of(s.u, s.n, 2k - 1))
    end
    resize!(s.u, cld(count, 2) * s.n)
    s.every[] *= 2
    return nothing
end

"""Solve step by step, and keep them."""
function solve_steps!(steps::Steps{T}, integrator) where {T}
    keep!(steps, integrator.t, integrator.u)
    for _ in integrator
        integrator.t == steps.t[end] && continue
        taken = integrator.t - steps.t[end]
        # The difference of the times has lost digits; the integrator's own step size is the next one's where the step was cut short.
        exact = T(integrator.dt)
        push!(steps.dt, abs(exact - taken) <= 4 * eps(max(abs(integrator.t), abs(steps.t[end]))) ? exact : taken)
        keep!(steps, integrator.t, integrator.u)
        push!(steps.choice, hasproperty(integrator.cache, :current) ? integrator.cache.current : 1)
    end
    sol = integrator.sol
    return sol.retcode == SciMLBase.ReturnCode.Default ? SciMLBase.solution_new_retcode(sol, SciMLBase.ReturnCode.Success) : sol
end

# ---------------------------------------------------------------------------------------------------------------------

"""
What a step computes. Its states within a step are weighted sums of its stages; `w` holds these weights at `NODES`, `b` those of the new
state. A kind of method reads one from SciML's algorithm (`read_method`), takes its stages again (`stages!`, and `state_stages!` where the new
state is all that is wanted), and goes back through a step (`reverse_step!`).
"""
abstract type StepMethod{T} end

const NODES = [(1 - cospi((2k - 1) / 32)) / 2 for k in 1:16]
const NODE_WEIGHTS = [(-1)^k * sinpi((2k - 1) / 32) for k in 1:16]

"""The weights of the stages at `θ`, by barycentric interpolation (Berrut & Trefethen, SIAM Review 46, 2004)."""
function dense_weights!(weights::Vector{T}, r::StepMethod{T}, θ) where {T}
    fill!(weights, zero(T))
    total = 0.0
    for (k, node) in enumerate(NODES)
        x = NODE_WEIGHTS[k] / (θ - node)
        isfinite(x) || return copyto!(weights, view(r.w, :, k))
        total += x
        weights .+= T(x) .* view(r.w, :, k)
    end
    weights ./= T(total)
    return weights
end

const METHODS = Dict{Any,Union{Nothing,StepMethod{Float64}}}()
const METHODS_LOCK = ReentrantLock()

"""
    step_method(alg)

What the steps of an algorithm compute, read from steps that SciML takes; nothing if it is none of the kinds that can be read.
"""
step_method(alg) = @lock METHODS_LOCK get!(() -> read_method(alg), METHODS, alg)

function read_method(alg)
    alg isa OrdinaryDiffEqCore.OrdinaryDiffEqAlgorithm || return nothing
    try
        found = takes_jacobian(alg) ? read_rosenbrock(alg) : read_runge_kutta(alg)
        return found !== nothing && steps_agree(found, alg) ? found : nothing
    catch e
        e isa Union{InterruptException,Interrupted} && rethrow()
        return nothing  # a method that can't step the example has steps of another kind
    end
end

"""The methods of those steps that were taken, by the numbers in `Steps.choice`; nothing in the place of one that can't be read."""
step_methods(alg, choice) = Any[i in choice ? step_method(x) : nothing for (i, x) in enumerate(single_algorithms(alg))]

"""Those that an algorithm switches between, or itself."""
single_algorithms(alg) = hasproperty(alg, :algs) ? alg.algs : (alg,)

"""Equations that depend on everything, without parameters."""
module Example
function f!(du, u, p, t, w)
    n = length(u)
    for i in 1:n
        du[i] = sin(i * t / n + u[mod1(i + 1, n)]) - cos(u[i]) * u[mod1(i + 2, n)] / 3
    end
    return nothing
end
function jac!(J, u, p, t, w)
    n = length(u)
    fill!(J, 0.0)
    for i in 1:n
        J[(mod1(i + 1, n) - 1) * n + i] += cos(i * t / n + u[mod1(i + 1, n)])
        J[(i - 1) * n + i] += sin(u[i]) * u[mod1(i + 2, n)] / 3
        J[(mod1(i + 2, n) - 1) * n + i] -= cos(u[i]) / 3
    end
    return nothing
end
tgrad!(d, u, p, t, w) = (n = length(u); foreach(i -> d[i] = i / n * cos(i * t / n + u[mod1(i + 1, n)]), 1:n))
end

"""A plan to read a method with, by the same code as in a solve; with such tolerances every step is accepted."""
function reading_plan(alg, n, functions)
    model = Model{Float64}(Generated(@__MODULE__, n, 0, n, Dict{Symbol,Any}(functions), nothing, false, nothing))
    return plan(model, alg; options=Options{Float64}(; reltol=1e-3, abstol=1e30, dt=isadaptive(alg) ? 0.0 : 0.25, dense=true))
end

example_plan(alg, n) = reading_plan(alg, n, (:f! => Example.f!, :jac! => Example.jac!, :tgrad! => Example.tgrad!))
example_start(n) = [sin(1.0 + 2k) for k in 1:n]

function start_reading(plan, inst, u0, stop; saveat=Float64[], options...)
    prob = odeproblem(plan, inst, u0, Float64[], (0.0, stop))
    return init(prob, plan.alg; saveat, save_everystep=isempty(saveat), dense=isempty(saveat), keywords(plan, (0.0, stop))..., options...)
end

"""Whether the steps that a method has are the algorithm's, of the example, and the states within them too."""
function steps_agree(r::StepMethod{Float64}, alg)
    n = 24
    plan = example_plan(alg, n)
    inst = checkout(plan.model)
    steps = Steps{Float64}(n)
    # Coefficients that depend on the step size are not those that were read.
    others = isadaptive(alg) ? (; dtmax=0.25) : (; dt=0.2)
    sol = solve_steps!(steps, start_reading(plan, inst, example_start(n), 2.0; saveat=collect(0.05:0.1:1.95), others...))
    length(steps.dt) >= 4 || return false
    b = StepsPullback(plan, inst, steps, Any[r], Float64[], sol.t)
    w = ReverseWork(b, r)
    for step in eachindex(steps.dt)
        stages!(w, b, r, step)
        both_ends!(w, b, r, step)
        step_error(w, b, r, step) <= 1e-11 || return false
        for (k, t) in enumerate(sol.t)
            steps.t[step] < t < steps.t[step + 1] || continue
            dense_weights!(w.weights, r, (t - steps.t[step]) / steps.dt[step])
            copyto!(w.mu, state(steps, step))
            combine!(w.mu, 1.0, w.weights .* unit(r, steps.dt[step]), w.k, n, eachindex(w.weights))
            maximum(abs, w.mu .- sol.u[k]) <= 1e-10 || return false
        end
    end
    return true
end

# ---------------------------------------------------------------------------------------------------------------------

function differentiate(::Methods.DiscreteAdjoint, plan::Plan{T}, u0::Vector{T}, p::Vector{T}, tspan::Tuple{T,T}, saveat::Vector{T}, hooks,
                       start) where {T}
    inst = checkout(plan.model)
    inst.hooks = hooks
    result = try
        prob = odeproblem(plan, inst, u0, p, tspan)
        at_runtime(run_steps, plan, inst, prob, saveat)::Answer{T}
    catch
        checkin(plan.model, inst)
        rethrow()
    end
    return through_start(result, start, plan, p)
end

function run_steps(plan::Plan{T}, inst::Instance{T}, prob, saveat::Vector{T}) where {T}
    steps = Steps{T}(length(prob.u0), option(plan.sensitivity, :checkpoints))
    sol = solve_raw(plan, inst, prob, saveat, false; steps)
    result = answer(plan, inst, sol, saveat; keep=true)
    result.solution = nothing
    methods = at_runtime(step_methods, plan.alg, steps.choice)::Vector{Any}
    unknown = findfirst(i -> methods[i] === nothing, steps.choice)
    result.pullback = if !successful_retcode(sol.retcode)
        Refusal("the forward solve ended with retcode $(sol.retcode), so there is nothing to differentiate")
    elseif unknown !== nothing
        Refusal("the solver took steps by $(nameof(typeof(single_algorithms(plan.alg)[steps.choice[unknown]]))), which it does not go back through")
    else
        StepsPullback(plan, inst, steps, methods, prob.p, result.t)
    end
    return result
end

"""The pullback through the steps of a solve; `t` are the saved times."""
struct StepsPullback{T}
    plan::Plan
    inst::Instance{T}
    steps::Steps{T}
    methods::Vector{Any}
    p::Vector{T}
    t::Vector{T}
    wants_p::Bool
    mass_matrix::Union{Nothing,Matrix{T}}
    adaptive::Bool
    doubt::Base.RefValue{Float64}  # the largest estimate of how far off the adjoint is by a step
end
StepsPullback(plan::Plan{T}, inst, steps, methods, p, t) where {T} =
    StepsPullback{T}(plan, inst, steps, methods, p, t, !isempty(p) && (plan.sensitivity === nothing || plan.sensitivity.p),
                     plan.mass_matrix === nothing ? nothing : Matrix{T}(plan.mass_matrix),
                     plan.options.adaptive && isadaptive(plan.alg), Ref(0.0))

doubt(b::StepsPullback) = b.doubt[]

"""What going back through steps works with. Vectors of stages hold one after the other."""
struct ReverseWork{T}
    k::Vector{T}        # stages
    at::Vector{T}       # where they are evaluated
    l::Vector{T}        # cotangents of the stages
    lam::Vector{T}      # cotangent of the state
    below::Vector{T}    # what goes on to the state before
    pending::Vector{T}  # cotangent of the right-hand side at the step's new state, from the step after
    mu::Vector{T}
    dp::Vector{T}
    dp_of_stage::Vector{T}
    weights::Vector{T}
end

"""Work for another method, the cotangents being those of `w`."""
function ReverseWork(b::StepsPullback{T}, r::StepMethod{T}, w=nothing) where {T}
    n, np, s = b.steps.n, length(b.p), size(r.w, 1)
    stages() = zeros(T, n * s)
    w === nothing && return ReverseWork{T}(stages(), stages(), stages(), (zeros(T, n) for _ in 1:4)..., zeros(T, np), zeros(T, np), zeros(T, s))
    return ReverseWork{T}(stages(), stages(), stages(), w.lam, w.below, w.pending, w.mu, w.dp, w.dp_of_stage, zeros(T, s))
end

function (b::StepsPullback{T})(du::AbstractMatrix{T}) where {T}
    reset!(b.inst)  # Python's functions lived as long as the solve
    b.doubt[] = 0.0
    steps, column, w = b.steps, length(b.t), nothing
    every, start = steps.every[], Vector{T}(part_of(steps.u, steps.n, 1))
    isempty(steps.dt) && return vec(sum(du; dims=2)), zero(b.p)
    if every == 1
        w, column = reverse_range!(w, b, 1:length(steps.dt), du, column)
    else
        for first in (every * ((length(steps.dt) - 1) ÷ every) + 1):-every:1
            u = Vector{T}(part_of(steps.u, steps.n, (first - 1) ÷ every + 1))
            w, column = from_checkpoint!(w, b, first:min(first + every - 1, length(steps.dt)), u, du, column)
        end
    end
    product!(w, b, w.pending, start, steps.t[1])
    w.lam .+= w.mu
    for k in 1:column
        w.lam .+= view(du, :, k)
    end
    when = nonfinite_product(b.inst)
    when === nothing || throw(GradientFailed("the model's vector-Jacobian product is not finite$when"))
    all(isfinite, w.lam) && all(isfinite, w.dp) || throw(GradientFailed("the gradient is not finite"))
    return w.lam, w.dp
end

"""
Back through the steps of `range`, whose first state is `u`: the others are computed again. Where they are more than may be kept, every so many
of them are, and each part is gone through likewise: `k log N / log k` states for `N` steps (the schedule that is best for a given number of steps is Griewank
& Walther's, ACM TOMS 26, 2000; it takes their number beforehand).
"""
function from_checkpoint!(w, b::StepsPullback{T}, range, u, du, column) where {T}
    most, n = b.steps.most, b.steps.n
    every = cld(length(range), most)
    states = at_runtime(states_again, b, range, u, every)::Vector{T}
    every == 1 && return reverse_range!(w, with_states(b, states, first(range) - 1), range, du, column)
    for k in cld(length(range), every):-1:1
        start = first(range) + (k - 1) * every
        w, column = from_checkpoint!(w, b, start:min(start + every - 1, last(range)), Vector{T}(part_of(states, n, k)), du, column)
    end
    return w, column
end

with_states(b::StepsPullback{T}, u, offset) where {T} =
    StepsPullback{T}(b.plan, b.inst, with_states(b.steps, u, offset), b.methods, b.p, b.t, b.wants_p, b.mass_matrix, b.adaptive, b.doubt)

"""The states before every so many steps of a range, and if every one is asked for the last one too."""
function states_again(b::StepsPullback{T}, range, u, every) where {T}
    n, works, states = b.steps.n, Dict{Int,ReverseWork{T}}(), copy(u)
    for step in range
        step > first(range) && (step - first(range)) % every == 0 && append!(states, u)
        step == last(range) && every > 1 && break
        r = convert(StepMethod{T}, b.methods[b.steps.choice[step]])
        w = get!(() -> ReverseWork(b, r), works, b.steps.choice[step])
        at_runtime(advance!, u, w, with_states(b, copy(u), step - 1), r, step)
    end
    return every == 1 ? append!(states, u) : states
end

function advance!(u, w::ReverseWork, b::StepsPullback, r, step)
    state_stages!(w, b, r, step)
    combine!(u, state_scale(r, b.steps.dt[step]), r.b, w.k, b.steps.n, eachindex(r.b))
    return nothing
end

"""Back through the steps of `range`, whose states are there."""
function reverse_range!(w, b::StepsPullback{T}, range, du, column) where {T}
    choice, stop = b.steps.choice, last(range)
    while stop >= first(range)
        # Steps by one method, one after the other.
        other = findprev(!=(choice[stop]), choice, stop)
        start = max(first(range), other === nothing ? 1 : other + 1)
        r = convert(StepMethod{T}, b.methods[choice[stop]])
        w = ReverseWork(b, r, w)
        column = at_runtime(reverse_steps!, w, b, r, start:stop, du, column)::Int
        stop = start - 1
    end
    return w, column
end

function reverse_steps!(w::ReverseWork{T}, b::StepsPullback{T}, r::StepMethod{T}, range, du, column) where {T}
    more = linear_work(b, r)
    for step in Iterators.reverse(range)
        fill!(w.l, zero(T))
        fill!(w.below, zero(T))
        before = column
        column = saved_states!(w, b, r, step, du, column)
        # Some steps are looked at: do the stages make the state that the solver came to?
        checked = (step - 1) % max(1, length(b.steps.dt) ÷ 8) == 0
        reverse_step!(w, b, r, more, step, any_inside(b, step, column, before), checked)
        w.lam .+= w.below
    end
    return column
end

any_inside(b, step, column, before) = any(k -> b.t[k] != b.steps.t[step + 1], (column + 1):before)

"""The cotangents of the states that were saved within a step, to its stages; `column`: the last saved time that is not dealt with yet."""
function saved_states!(w::ReverseWork{T}, b::StepsPullback{T}, r, step, du, column) where {T}
    t, dt, stop = b.steps.t[step], b.steps.dt[step], b.steps.t[step + 1]
    while column >= 1 && b.t[column] != t && (b.t[column] > t) == (dt > 0)
        g = view(du, :, column)
        if b.t[column] == stop
            add!(w.lam, one(T), g)
        else
            add!(w.below, one(T), g)
            dense_weights!(w.weights, r, (b.t[column] - t) / dt)
            w.weights .*= unit(r, dt)
            spread!(w.l, one(T), w.weights, g, b.steps.n, eachindex(w.weights))
        end
        column -= 1
    end
    return column
end

function check_step(w, b::StepsPullback{T}, r, step) where {T}
    off = step_error(w, b, r, step)
    off <= sqrt(eps(T)) || throw(GradientFailed("the step from t = $(b.steps.t[step]) is not one of the method's: it is off by $off of its size"))
    return nothing
end

"""How far the state that the stages make is from the one that the solver came to."""
function step_error(w::ReverseWork{T}, b::StepsPullback{T}, r, step) where {T}
    n, scale = b.steps.n, state_scale(r, b.steps.dt[step])
    copyto!(w.mu, state(b.steps, step))
    size = maximum(abs, w.mu; init=zero(T))
    for j in eachindex(r.b)
        k = part_of(w.k, n, j)
        iszero(r.b[j]) && continue
        add!(w.mu, scale * r.b[j], k)
        size += abs(scale * r.b[j]) * maximum(abs, k; init=zero(T))
    end
    w.mu .-= state(b.steps, step + 1)
    off = maximum(abs, w.mu; init=zero(T))
    return iszero(off) ? off : off / size
end

"""The evaluation at the new state, and from that state to the stages that make it."""
function new_state!(w::ReverseWork{T}, b::StepsPullback{T}, r, step, stages) where {T}
    product!(w, b, w.pending, state(b.steps, step + 1), b.steps.t[step + 1])
    fill!(w.pending, zero(T))
    add!(w.lam, one(T), w.mu)
    spread!(w.l, state_scale(r, b.steps.dt[step]), r.b, w.lam, b.steps.n, stages)
    return nothing
end

"""``μ = (∂f/∂u)' l``, and ``(∂f/∂p)' l`` added to the gradient."""
function product!(w::ReverseWork{T}, b::StepsPullback{T}, l, u, t::T) where {T}
    inst, p, mu, dp = b.inst, b.p, w.mu, w.dp_of_stage
    if all(iszero, l)
        fill!(mu, zero(T))
        return nothing
    end
    note_vjp!(inst, t)
    if b.wants_p
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

"""
    combine!(out, scale, coefficients, x, n, stages)

Add `scale Σ_j coefficients[j] x_j` to `out`, over the `stages`; `x` holds one after the other.
"""
function combine!(out::AbstractVector{T}, scale::T, coefficients, x::Vector{T}, n, stages) where {T}
    if n <= 16  # a loop for each stage would cost more than its numbers
        @inbounds for i in 1:n
            s = zero(T)
            for j in stages
                s += coefficients[j] * x[(j - 1) * n + i]
            end
            out[i] += scale * s
        end
    else
        for j in stages
            add!(out, scale * coefficients[j], part_of(x, n, j))
        end
    end
    return nothing
end

"""
    spread!(x, scale, coefficients, l, n, stages)

The transpose of `combine!`: add `scale coefficients[j] l` to each `x_j`.
"""
function spread!(x::Vector{T}, scale::T, coefficients, l, n, stages) where {T}
    if n <= 16
        @inbounds for i in 1:n
            s = scale * l[i]
            for j in stages
                x[(j - 1) * n + i] += coefficients[j] * s
            end
        end
    else
        for j in stages
            add!(part_of(x, n, j), scale * coefficients[j], l)
        end
    end
    return nothing
end
