"""``du/dt = f(u, p, t)``: what adjoints differentiate."""
struct FirstOrder <: Form end
form(::Val{:first_order}) = FirstOrder()

"""
    odeproblem(plan, inst, u0, p, tspan)

SciML's problem, in the plan's form. A form that was loaded later is found at run time.
"""
odeproblem(plan::Plan{T}, inst::Instance{T}, u0::Vector{S}, p::Vector{S}, tspan) where {T,S} =
    plan.form isa FirstOrder ? problem(FirstOrder(), plan, inst, u0, p, tspan) : at_runtime(problem, plan.form, plan, inst, u0, p, tspan)

problem(::FirstOrder, plan::Plan{T}, inst::Instance{T}, u0::Vector{S}, p::Vector{S}, tspan) where {T,S} =
    odeproblem(with_mass_matrix(plan, odefunction(inst, plan.odekind, S), u0), u0, tspan, p)

# A function barrier: `odefunction` is not inferred.
odeproblem(f::F, u0, tspan, p) where {F<:ODEFunction} = ODEProblem(f, u0, tspan, p)

"""
    part(plan, inst, name, S) -> RHS{T,S}

The function called `name` among the parts of a form, for element type `S`. Its buffers live and go with `inst`.
"""
function part(plan::Plan{T}, inst::Instance{T}, name::Symbol, ::Type{S}) where {T,S}
    model = plan.parts[name]
    own = get!(() -> Instance{T}(model.generated), inst.odefunctions, model)::Instance{T}
    S <: DualOf{T} && prepare_duals!(own, S)
    return RHS{T,S}(own)
end
