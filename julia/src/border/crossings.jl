# Where a function of time changes its sign first. SciML's callbacks compare the signs of a condition at a few times of each step, and
# so overlook an even number of changes between two of them, and take any one of an odd number. Here the step is divided until the
# function is a parabola as far as its changes of sign go, and SciML is shown no more than the first change.

"""The function at a time; `value` is 0 only where no side can be told."""
struct Sample{T}
    t::Float64
    value::T
end

"""Where the sign changes first: between two times, at which it is known. `before.t == after.t`: it doesn't change."""
struct Change{T}
    before::Sample{T}
    after::Sample{T}
end

# Where a piece is divided, turn and turn about: irregular, so that the samples of no periodic function all fall on the same phase.
const SPLITS = (0.43, 0.59)
split_left(a, b) = a + SPLITS[1] * (b - a)
split_right(a, b) = a + SPLITS[2] * (b - a)
const DEEPEST = 26  # a piece of 1.5e-8 of the step, in which a parabola is lost in rounding
const SHORTEST = 1e-12  # relative to the time: in shorter pieces, that is lost in rounding
const MOST_SAMPLES = 10_000

"""Of one search: what was last seen with a sign, and how many samples may still be taken."""
mutable struct Search{T}
    last::Sample{T}
    left::Int
    const noise::T
end

"""
    first_change(g, nodes, start) -> (change, settled)

The first change of the sign of `g` along `nodes`, nine samples from one end of the step to the other, with times as
[`step_nodes`](@ref) puts them. `start`: the sign at the first of them, where it is known better than by its value; 0 where it is not.
Samples are added while a piece of the step is not settled: either no parabola within the deviation of the samples from theirs reaches
zero there, or all of them are monotone. `settled` is false where that ended for want of samples.
"""
function first_change(g::G, nodes::AbstractVector{Sample{T}}, start) where {G,T}
    scale = maximum(x -> abs(x.value), nodes)
    first = nodes[1]
    s = Search{T}(iszero(start) ? first : Sample{T}(first.t, T(sign(start)) * max(abs(first.value), floatmin(T))), MOST_SAMPLES, 8 * eps(T) * scale)
    found = in_piece(g, s, nodes[1], nodes[2], nodes[3], nodes[4], nodes[5], 0)
    found === nothing && (found = in_piece(g, s, nodes[5], nodes[6], nodes[7], nodes[8], nodes[9], 0))
    return (found === nothing ? Change{T}(s.last, s.last) : found), s.left > 0
end

"""The times of a step from `a` to `b` at which a search begins."""
function step_nodes(a, b)
    ts = [a, b]
    for _ in 1:3
        ts = vcat([[ts[k], (isodd(k) ? split_left : split_right)(ts[k], ts[k + 1])] for k in 1:(length(ts) - 1)]..., [b])
    end
    return ts
end

function in_piece(g::G, s::Search{T}, a, p, m, q, b, depth) where {G,T}
    if depth == DEEPEST || s.left <= 0 || is_settled(g, s, a, p, m, q, b)
        for x in (p, m, q, b)
            iszero(x.value) && continue
            s.last.value * sign(x.value) < 0 && return Change{T}(s.last, x)
            s.last = x
        end
        return nothing
    end
    found = in_half(g, s, a, p, m, depth + 1)
    return found === nothing ? in_half(g, s, m, q, b, depth + 1) : found
end

function in_half(g::G, s::Search, a, m, b, depth) where {G}
    s.left -= 2
    return in_piece(g, s, a, g(split_left(a.t, m.t)), m, g(split_right(m.t, b.t)), b, depth)
end

"""
Whether the parabola through `a`, `m` and `b`, and all functions that lie as near to it as `g` does at `p` and `q`, keep their sign or are
monotone. Between the ends the slopes count too: values alone may agree by chance where `g` goes up and down many times.
"""
function is_settled(g::G, s::Search{T}, a, p, m, q, b) where {G,T}
    h = b.t - a.t
    (abs(h) <= SHORTEST * abs(a.t) || all(x -> iszero(x.value), (a, p, m, q, b))) && return true
    place(t) = (t - a.t) / h
    # value(x) = a + slope x + bend x²
    xm = place(m.t)
    bend = ((m.value - a.value) / xm - (b.value - a.value)) / (xm - 1)
    slope = b.value - a.value - bend
    deviation(x) = x.value - (a.value + place(x.t) * (slope + place(x.t) * bend))
    vertex = iszero(bend) ? -one(slope) : -slope / 2bend
    inside = 0 < vertex < 1
    turn = inside ? a.value + vertex * (slope + vertex * bend) : a.value
    lowest, highest = min(a.value, b.value, turn), max(a.value, b.value, turn)
    # A cubic that is `away` from zero between its roots at 0, 1/2 and 1 has slopes of 11 times that at its ends.
    settles(away) = lowest > away || highest < -away || (!inside && min(abs(slope), abs(slope + 2bend)) > 11away)
    away = 2 * max(abs(deviation(p)), abs(deviation(q))) + s.noise
    settles(away) || return false
    s.left -= 3
    for x in (p, m, q)
        away = max(away, abs(deviation(g(x.t + h / 100)) - deviation(x)) * 50)
    end
    return settles(away)
end
