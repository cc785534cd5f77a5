"""The user pressed Ctrl-C while a solve was running."""
struct Interrupted <: Exception end

"""A model that stays in Python raised an exception; Python keeps it and raises it again."""
struct CallbackFailed <: Exception end

"""A sensitivity method did not produce a gradient that can be trusted."""
struct GradientFailed <: Exception
    reason::String
end
Base.showerror(io::IO, e::GradientFailed) = print(io, e.reason)

"""The condition of an event is not a number, so nobody knows whether it occurs."""
struct EventFailed <: Exception
    index::Int
    t::Float64
end
Base.showerror(io::IO, e::EventFailed) = print(io, "the condition of event ", e.index - 1, " is not a number at t = ", e.t)

"""Stands for a pullback where there is none."""
struct Refusal
    reason::String
end
(r::Refusal)(_) = throw(GradientFailed(r.reason))

"""A function that this model does not have was called."""
struct MissingFunction <: Exception
    name::Symbol
end
Base.showerror(io::IO, e::MissingFunction) = print(io, "the model has no function ", e.name)
