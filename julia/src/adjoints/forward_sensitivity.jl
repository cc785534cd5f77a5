# ForwardSensitivity: the sensitivity equations of SciMLSensitivity's method of that name, with the generated Jacobians, for
# initial values as well as for parameters.

differentiate(::Methods.ForwardSensitivity, plan, u0, p, tspan, saveat, hooks, start) =
    run_forward_sensitivity(plan, u0, p, tspan, saveat, hooks, start)

"""
The state and its sensitivities as one system: `M u' = f`, `M s_j' = J s_j + ∂f/∂p_j` (Hindmarsh & Serban 2005, CVODES, eq. 2.9),
where `s_j` is the derivative by a parameter times that one's scale.
"""
struct SensitivityRHS{T} <: Function
    f::RHS{T,T}
    # Not `jac` and `paramjac`: SciMLBase takes fields of these names for the Jacobians of the whole system.
    model_jac::Jacobian{T}
    model_paramjac::ParamJacobian{T}
    n::Int
    nu::Int
    np::Int
    scale::Matrix{T}  # of the parameters, a row; see `scales`
    J::Matrix{T}
    pJ::Matrix{T}
end

function (s::SensitivityRHS{T})(dz, z, p, t) where {T}
    n, nu, np = s.n, s.nu, s.np
    u = view(z, 1:n)
    s.f(view(dz, 1:n), u, p, t)
    # Implicit methods differentiate this in turn, with dual numbers.
    J, pJ = eltype(dz) === T ? (s.J, s.pJ) : (similar(s.J, eltype(dz)), similar(s.pJ, eltype(dz)))
    s.model_jac(J, u, p, t)
    S = reshape(view(z, (n + 1):length(z)), n, nu + np)
    dS = reshape(view(dz, (n + 1):length(dz)), n, nu + np)
    mul!(dS, J, S)
    if np > 0
        s.model_paramjac(pJ, u, p, t)
        dS[:, (nu + 1):end] .+= pJ .* s.scale
    end
    return nothing
end

function run_forward_sensitivity(plan::Plan{T}, u0::Vector{T}, p::Vector{T}, tspan::Tuple{T,T}, saveat::Vector{T},
                                 hooks::Hooks, start=nothing) where {T}
    s = plan.sensitivity
    n = length(u0)
    nu, np = s.u0 ? n : 0, s.p ? length(p) : 0
    inst = checkout(plan.model)
    inst.hooks = hooks
    scale = scales(p, nu, np)
    try
        f = SensitivityRHS{T}(RHS{T}(inst), Jacobian{T}(inst), ParamJacobian{T}(inst), n, nu, np,
                              permutedims(scale[(nu + 1):end]), zeros(T, n, n), zeros(T, n, length(p)))
        S = start === nothing ? hcat(Matrix{T}(I, n, nu), zeros(T, n, np)) : tangent(start, inst, p, nu, np) .* scale'
        g = ODEFunction{true,FullSpecialize}(f)
        plan.mass_matrix === nothing || (g = remake(g; mass_matrix=kron(Matrix{T}(I, 1 + nu + np, 1 + nu + np), mass_matrix(plan, u0))))
        prob = odeproblem(g, vcat(u0, vec(S)), tspan, p)
        result = at_runtime(run, plan, inst, prob, saveat, false)::Answer{T}
        jacobian = Array{T,3}(undef, n, nu + np, length(result.u))
        for (k, z) in enumerate(result.u)
            jacobian[:, :, k] .= reshape(view(z, (n + 1):length(z)), n, nu + np) ./ scale'
            result.u[k] = z[1:n]
        end
        result.pullback = Contraction{T}(jacobian, nu, np, n, length(p))
        return result
    finally
        checkin(plan.model, inst)
    end
end

