# Densities of one observation `y`, given what the model predicts, and bounds of what is estimated. Both as torch.distributions has them,
# so that a fit in Julia and one in Python have one optimum and one likelihood.

"""How observations scatter around a prediction `μ`; `s` is the noise parameter."""
@enum Likelihood begin
    normal             # mean μ, standard deviation s
    lognormal          # median μ, standard deviation s of the logarithm
    poisson            # mean μ; s is not used
    negative_binomial  # mean μ, variance μ + μ²/s
end
const LIKELIHOODS = Dict{String,Likelihood}(string(x) => x for x in instances(Likelihood))

"""Predictions that must be positive are at least this, as on the Python side: a solver may step slightly below zero on a bad guess."""
const SMALLEST = 1e-12

"""
    log_density(kind, y, μ, s) -> (value, by_μ, by_s)

The logarithm of the density or probability of `y`, normalisation included, and its derivatives; `-Inf` where `μ` is not finite, or `s`
not positive.
"""
function log_density(kind::Likelihood, y::Float64, μ::Float64, s::Float64)
    outside = (-Inf, NaN, NaN)
    isfinite(μ) || return outside
    if kind === normal
        s > 0 || return outside
        r = (y - μ) / s
        return (-r^2 / 2 - log(s) - log(2π) / 2, r / s, (r^2 - 1) / s)
    end
    if μ < SMALLEST
        value, _, by_s = log_density(kind, y, SMALLEST, s)
        return (value, 0.0, by_s)
    end
    if kind === poisson
        return (y * log(μ) - μ - loggamma(y + 1), y / μ - 1, 0.0)
    end
    s > 0 || return outside
    if kind === lognormal
        r = (log(y) - log(μ)) / s
        return (-r^2 / 2 - log(s) - log(y) - log(2π) / 2, r / (s * μ), (r^2 - 1) / s)
    end
    # log1p: of a large s the factor is close to one, and its logarithm is multiplied by s.
    value = loggamma(y + s) - loggamma(s) - loggamma(y + 1) - s * log1p(μ / s) + y * log(μ / (s + μ))
    by_s = digamma(y + s) - digamma(s) - log1p(μ / s) + (μ - y) / (s + μ)
    return (value, y / μ - (y + s) / (s + μ), by_s)
end

"""
    bounded(z, lower, upper) -> (x, dx/dz)

A number between bounds from one without: `lower + exp(z)`, `upper - exp(z)`, `lower + (upper - lower) / (1 + exp(-z))`; infinite bounds
are none.
"""
function bounded(z::Float64, lower::Float64, upper::Float64)
    if isfinite(lower) && isfinite(upper)
        share = 1 / (1 + exp(-z))
        return lower + (upper - lower) * share, (upper - lower) * share * (1 - share)
    end
    e = exp(z)
    isfinite(lower) && return lower + e, e
    isfinite(upper) && return upper - e, -e
    return z, 1.0
end
