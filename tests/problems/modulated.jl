# The Julia side of the kind of problem in test_new_kind.py: du/dt = gain(u, p, t) f(u, p, t).
module ModulatedForm

using PySciODE: PySciODE, Form, Instance, Plan, RHS, part
using SciMLBase: FullSpecialize, ODEFunction, ODEProblem

struct Modulated <: Form end
PySciODE.form(::Val{:modulated}) = Modulated()

struct Product{F,G} <: Function
    f::F
    gain::G
end
function (m::Product)(du, u, p, t)
    m.f(du, u, p, t)
    factor = similar(du, 1)
    m.gain(factor, u, p, t)
    du .*= factor[1]
    return nothing
end

function PySciODE.problem(::Modulated, plan::Plan{T}, inst::Instance{T}, u0::Vector{S}, p::Vector{S}, tspan) where {T,S}
    f = Product(RHS{T,S}(inst), part(plan, inst, :gain, S))
    return ODEProblem(ODEFunction{true,FullSpecialize}(f), u0, tspan, p)
end

end
