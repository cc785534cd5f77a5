# DiffEqFlux's ways around hard trajectories, over flat arrays; the extension of DiffEqFlux does the work.

"""    collocate(data, t, kernel, bandwidth) -> (du, u)"""
function collocate end

"""    shoot(plan, p, data, t, group_size, continuity_term) -> loss"""
function shoot end

"""Smoothed states and their derivatives from data alone, written to `du` and `u`."""
function command(::Val{:collocate}, a::Arguments, _)
    require("DiffEqFlux")
    t = read_array(a["t"])
    data = reshape(read_array(a["data"]), :, length(t))
    bandwidth = haskey(a, "bandwidth") ? Float64(a["bandwidth"]) : nothing
    du, u = at_runtime(collocate, data, t, Symbol(a["kernel"]::String), bandwidth)::Tuple{Matrix{Float64},Matrix{Float64}}
    for (name, result) in ("du" => du, "u" => u)
        GC.@preserve result unsafe_copyto!(Ptr{Float64}(UInt(a[name])), pointer(result), length(data))
    end
    return 1
end

"""The loss of multiple shooting, written to `loss`."""
function command(::Val{:multiple_shoot}, a::Arguments, _)
    require("DiffEqFlux")
    t = read_array(a["t"])
    data = reshape(read_array(a["data"]), :, length(t))
    loss = at_runtime(shoot, get_object(PLANS, a["plan"]), read_array(a["p"]), data, t, a["group_size"]::Int, Float64(a["continuity_term"]))
    unsafe_store!(Ptr{Float64}(UInt(a["loss"])), Float64(loss))
    return 1
end
