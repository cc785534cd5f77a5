# Equations M u' = f(u, p, t). Where M is singular, some of them are algebraic, and initial values must satisfy these: SciML finds such
# values, and what is differentiated is the way from the values given to those found, by the implicit function theorem.

"""The mass matrix, where the state `u0` lies."""
mass_matrix(plan::Plan{T}, u0) where {T} = T.(plan.mass_matrix)

with_mass_matrix(plan, f, u0) = plan.mass_matrix === nothing ? f : remake(f; mass_matrix=mass_matrix(plan, u0))

"""
Where a solve with algebraic equations starts. `J`: the derivatives of `algebraic.equations` by the state.
"""
struct Start{T}
    u0::Vector{T}
    t0::T
    algebraic::Algebraic
    J::Matrix{T}
end

"""
    consistent_start(plan, u0, p, tspan) -> Start, or nothing where no consistent values were found

By `plan.algebraic.initialize`.
"""
function consistent_start(plan::Plan{T}, u0::Vector{T}, p, tspan) where {T}
    inst = checkout(plan.model)
    try
        prob = odeproblem(plan, inst, u0, p, tspan)
        u, found = at_runtime(initialize, plan, prob)::Tuple{Vector{T},Bool}
        found && !(plan.algebraic.initialize isa SciMLBase.NoInit) && (found = is_consistent(plan, inst, u, p, tspan[1]))
        found || return nothing
        J = plan.sensitivity === nothing ? zeros(T, 0, 0) :
            equation_rows(VJP{T}(inst), inst, plan.algebraic.equations, length(u), u, p, tspan[1])
        return Start{T}(u, tspan[1], plan.algebraic, J)
    finally
        checkin(plan.model, inst)
    end
end

function initialize(plan::Plan{T}, prob) where {T}
    integrator = try
        init(prob, plan.alg; save_everystep=false, dense=false, keywords(plan, prob.tspan)..., initializealg=plan.algebraic.initialize)
    catch e
        e isa SciMLBase.CheckInitFailureError || rethrow()
        return T[], false
    end
    return Vector{T}(flat(integrator.u)), integrator.sol.retcode !== SciMLBase.ReturnCode.InitialFailure
end

"""
Whether the equations without a derivative hold: those combinations of rows in which M vanishes. SciML does nothing for matrices that are
singular without columns of zeros, and says nothing.
"""
function is_consistent(plan::Plan{T}, inst, u, p, t) where {T}
    du = similar(u)
    RHS{T}(inst)(du, u, p, t)
    o = plan.options
    residual = plan.algebraic.free * du
    allowed = 100 * (maximum(o.abstol) + o.reltol * maximum(abs, u; init=zero(T))) + 100 * eps(T) * maximum(abs, du; init=zero(T))
    return all(x -> abs(x) <= allowed, residual)
end

"""The derivatives of some equations, a row for each, by vector-Jacobian products of width `n`."""
function equation_rows(product, inst::AbstractInstance{T}, equations, n, u, p, t) where {T}
    haskey(inst.generated.functions, product isa VJP ? :vjp! : :vjp_p!) || throw(GradientFailed(
        "algebraic equations are differentiated by vector-Jacobian products, which this model has not"))
    rows, l, out = zeros(T, length(equations), n), zeros(T, length(u)), zeros(T, n)
    for (k, i) in enumerate(equations)
        l[i] = 1
        n == 0 || product(out, l, u, p, t)
        rows[k, :] = out
        l[i] = 0
    end
    return rows
end

"""
    tangent(start, inst, p, nu, np) -> (n, nu + np)

The derivatives of the consistent values by those given and the parameters.
"""
function tangent(s::Start{T}, inst, p, nu, np) where {T}
    n = length(s.u0)
    S = zeros(T, n, nu + np)
    differential = setdiff(1:n, s.algebraic.variables)
    A = lu(s.J[:, s.algebraic.variables])
    if nu > 0
        foreach(i -> S[i, i] = 1, differential)
        S[s.algebraic.variables, differential] = -(A \ s.J[:, differential])
    end
    np > 0 && (S[s.algebraic.variables, (nu + 1):end] = -(A \ equation_rows(ParamVJP{T}(inst), inst, s.algebraic.equations, np, s.u0, p, s.t0)))
    return S
end

"""
    through(start, plan, p, du0, dp)

Gradients by consistent initial values and parameters, as gradients by the values given and the parameters.
"""
function through(s::Start{T}, plan, p, du0, dp) where {T}
    isempty(s.algebraic.variables) && return du0, dp
    back = zeros(T, length(s.u0))
    back[s.algebraic.equations] = -(transpose(s.J[:, s.algebraic.variables]) \ du0[s.algebraic.variables])
    du0 = du0 .+ transpose(s.J) * back[s.algebraic.equations]
    du0[s.algebraic.variables] .= 0
    if !isempty(dp)
        inst = checkout(plan.model)
        more = zero(dp)
        ParamVJP{T}(inst)(more, back, s.u0, p, s.t0)
        checkin(plan.model, inst)
        dp = dp .+ more
    end
    return du0, dp
end

no_start(plan::Plan{T}, tspan) where {T} =
    new_answer(T[], Vector{T}[], :InitialFailure, Float64(tspan[1]), counts(0, nothing), plan, nothing, nothing,
               Refusal("no consistent initial state was found for the algebraic equations"))
