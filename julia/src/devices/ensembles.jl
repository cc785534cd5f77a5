# Ensembles of small independent systems, a thread of one kernel for each; the extension of DiffEqGPU does the work.

"""    static_model(source, n) -> model: the functions of `source` on static vectors of length `n`"""
function static_model end

"""    solve_members(model, algorithm, arguments): solve, and write states, outcomes and times reached where `arguments` say"""
function solve_members end

"""A model on static vectors: a handle."""
function command(::Val{:static_model}, a::Arguments, source::String)
    require("DiffEqGPU")
    return hold!(MODELS, at_runtime(static_model, source, Int(a["n"])))
end

"""Some members of an ensemble, from arrays of Python's to arrays of Python's."""
function command(::Val{:solve_members}, a::Arguments, _)
    at_runtime(solve_members, get_object(MODELS, a["model"]), a)
    return 1
end
