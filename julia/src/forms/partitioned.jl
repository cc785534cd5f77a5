"""``dv/dt = f1(v, u, p, t)``, ``du/dt = f2(v, u, p, t)``: the model computes both from ``[v, u]``."""
struct Partitioned <: Form end
form(::Val{:partitioned}) = Partitioned()

function problem(::Partitioned, plan::Plan{T}, inst::Instance{T}, u0::Vector{S}, p::Vector{S}, tspan) where {T,S}
    n = length(u0) ÷ 2
    return DynamicalODEProblem{true}(Half(RHS{T,S}(inst), true), Half(RHS{T,S}(inst), false), u0[1:n], u0[(n + 1):end], tspan, p)
end

"""One half of a partitioned system: the model computes the derivatives of velocities and positions together, from both."""
struct Half{T,S} <: Function
    f::RHS{T,S}
    first::Bool
end
function (h::Half)(out, v, u, p, t)
    S = promote_type(eltype(out), eltype(v), eltype(u))
    z, dz = vcat(v, u), Vector{S}(undef, 2length(v))
    h.f(dz, z, p, t)
    n = length(v)
    copyto!(out, 1, dz, h.first ? 1 : n + 1, n)
    return nothing
end
