"""``du/dt = f1(u, p, t) + f2(u, p, t)``: the model is `f1`, the stiff part."""
struct Split <: Form end
form(::Val{:split}) = Split()

function problem(::Split, plan::Plan{T}, inst::Instance{T}, u0::Vector{S}, p::Vector{S}, tspan) where {T,S}
    second = ODEFunction{true,FullSpecialize}(part(plan, inst, :f2, S))
    return SplitODEProblem(SplitFunction{true,FullSpecialize}(odefunction(inst, plan.odekind, S), second), u0, tspan, p)
end
