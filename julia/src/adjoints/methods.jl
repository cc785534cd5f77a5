"""
The sensitivity methods, one type each, by SciML's names, and what there is to know of them. Nothing asks for a name.

A new method is a type here or in an extension, and a method of [`differentiate`](@ref).
"""
module Methods

abstract type Method end
"""Solves an adjoint equation backwards in time."""
abstract type Continuous <: Method end
"""Differentiates the solver's own steps in reverse."""
abstract type Discrete <: Method end

struct DiscreteAdjoint <: Method end
struct ForwardDiffSensitivity <: Method end
struct ForwardSensitivity <: Method end
struct BacksolveAdjoint <: Continuous end
struct InterpolatingAdjoint <: Continuous end
struct QuadratureAdjoint <: Continuous end
struct GaussAdjoint <: Continuous end
struct GaussKronrodAdjoint <: Continuous end
struct ReverseDiffAdjoint <: Discrete end
struct TrackerAdjoint <: Discrete end
struct ZygoteAdjoint <: Discrete end
struct EnzymeAdjoint <: Discrete end
struct MooncakeAdjoint <: Discrete end

"""Whether it asks for both vector-Jacobian products, by states and by parameters, at one point."""
joint(::Method) = false
joint(::Union{InterpolatingAdjoint,BacksolveAdjoint}) = true

"""Whether it solves the states backwards too, and keeps nothing between the saved times."""
backwards(::Method) = false
backwards(::BacksolveAdjoint) = true

"""By what it integrates for the parameters: a quadrature over the `:steps` of the reverse solve, one over the saved `:times`, or nothing."""
quadrature(::Method) = nothing
quadrature(::Union{GaussAdjoint,GaussKronrodAdjoint}) = :steps
quadrature(::QuadratureAdjoint) = :times

"""Whether it differentiates the model's own code, and wants that out of place."""
out_of_place(::Method) = false
out_of_place(::Union{TrackerAdjoint,ZygoteAdjoint,EnzymeAdjoint,MooncakeAdjoint}) = true

"""Whether it runs the model on its own numbers, so that no generated derivative serves it."""
own_numbers(::Method) = false
own_numbers(::ReverseDiffAdjoint) = true

"""Whether it runs the solver on dual numbers."""
duals(::Method) = false
duals(::ForwardDiffSensitivity) = true

"""The Julia package whose extension has it; nothing where it is here."""
package(::Union{Continuous,Discrete}) = "SciMLSensitivity"
package(::Method) = nothing

end

"""The method that Python calls by this name."""
sensitivity_method(::Val{name}) where {name} = getfield(Methods, name)()::Methods.Method

"""
    differentiate(method, plan, u0, p, tspan, saveat, hooks, start) -> Answer

Solve, with a `pullback` in the answer. `start`: what made the initial values consistent, where they were not.
"""
function differentiate end
