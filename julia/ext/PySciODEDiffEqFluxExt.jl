"""DiffEqFlux's collocation and multiple shooting, on generated models."""
module PySciODEDiffEqFluxExt

using DiffEqFlux: DiffEqFlux
using PySciODE
using PySciODE: Plan, checkin, checkout, keywords, odeproblem

PySciODE.collocate(data::Matrix{Float64}, t::Vector{Float64}, kernel::Symbol, bandwidth) =
    map(Matrix{Float64}, DiffEqFlux.collocate_data(data, t, getfield(DiffEqFlux, kernel)(), bandwidth))

function PySciODE.shoot(plan::Plan{T}, p::Vector{T}, data::Matrix{T}, t::Vector{Float64}, group_size::Int, continuity_term::Float64) where {T}
    inst = checkout(plan.model)
    try
        times = T.(t)
        tspan = (times[1], times[end])
        prob = odeproblem(plan, inst, data[:, 1], p, tspan)
        loss, _ = DiffEqFlux.multiple_shoot(p, data, times, prob, sum_of_squares, plan.alg, group_size; continuity_term,
                                            keywords(plan, tspan)...)
        return Float64(loss)
    finally
        checkin(plan.model, inst)
    end
end

sum_of_squares(data, prediction) = sum(abs2, data - prediction)

end
