# A ball that falls from height h: it lands at √(2h/g), and after each bounce with restitution e flies for 2v/g.
const FALL = """
workspace(::Type{T}) where {T} = nothing
f!(du, u, p, t, w) = (@inbounds du[1] = u[2]; @inbounds du[2] = -p[1]; nothing)
"""
const HEIGHT = """
workspace(::Type{T}) where {T} = nothing
f!(du, u, p, t, w) = (@inbounds du[1] = u[1] - p[1]; @inbounds du[2] = 0; nothing)
"""
const BOUNCE = """
workspace(::Type{T}) where {T} = nothing
f!(du, u, p, t, w) = (@inbounds du[1] = 0; @inbounds du[2] = -p[1] * u[2]; nothing)
"""

simple(source, np) = PySciODE.Model{Float64}(PySciODE.generate(source, 2, np))
fall(events; dense=false) = PySciODE.plan(simple(FALL, 1), PySciODE.algorithm("Tsit5()", ("OrdinaryDiffEqTsit5",)); events,
                                          options=Options(; reltol=1e-10, abstol=1e-10, dense))
drop(plan, event_p, saveat=Float64[]; hooks=PySciODE.Hooks(), u0=[10.0, 0.0]) =
    PySciODE.dispatch(plan, u0, [9.81], (0.0, 10.0), saveat, hooks, event_p)
event(affect=nothing; direction=0, stop_after=0) = PySciODE.Event{Float64}(simple(HEIGHT, 1), affect, direction, stop_after, false)

steps_seen = Float64[]
note_step(t::Float64, u::Ptr{Float64})::Cint = (push!(steps_seen, t); Cint(0))
largest(u::Ptr{Float64}, out::Ptr{Float64})::Cint = (unsafe_store!(out, maximum(abs, unsafe_wrap(Vector{Float64}, u, 2))); Cint(0))

@testset "events" begin
    landing = sqrt(20 / 9.81)
    a = drop(fall([event(; stop_after=1)]), [0.0], [0.5, 1.0, 2.0, 3.0])
    @test a.retcode === :Terminated
    @test a.t == [0.5, 1.0]
    @test a.t_reached ≈ landing atol = 1e-12
    @test a.events.states[1] ≈ [0.0, -9.81landing] atol = 1e-10
    # Every step, and the event at the end.
    @test drop(fall([event(; stop_after=1)]), [0.0]).t[end] ≈ landing atol = 1e-12
    # Only upward changes: none.
    @test isempty(drop(fall([event(; direction=1, stop_after=1)]), [0.0]).events.times)

    bouncing = fall([event(simple(BOUNCE, 1); direction=-1)]; dense=true)
    b = drop(bouncing, [0.0, 0.9], [2.0, 5.0])
    flights = 2 * 9.81 * landing / 9.81 .* 0.9 .^ (1:3)
    @test b.events.times ≈ landing .+ [0.0; cumsum(flights)] atol = 1e-11
    since = 2.0 - landing
    @test b.u[1][1] ≈ 0.9 * 9.81 * landing * since - 9.81 / 2 * since^2 atol = 1e-9
    # From the ground upwards: the start is no event, the landing is.
    c = drop(fall([event(; stop_after=1)]), [0.0]; u0=[0.0, 9.81])
    @test c.events.times ≈ [2.0] atol = 1e-12
    # Two at the same time, and one with another parameter.
    d = drop(fall([event(), event(; direction=-1), event()]), [0.0, 0.0, 5.0])
    @test d.events.index[1] == 3
    @test sort(d.events.index) == [1, 2, 3]
    # Instances come back.
    @test length(bouncing.events[1].condition.idle) == 1

    empty!(steps_seen)
    hooks = PySciODE.Hooks(C_NULL, @cfunction(note_step, Cint, (Float64, Ptr{Float64})),
                           @cfunction(largest, Cint, (Ptr{Float64}, Ptr{Float64})))
    e = drop(fall(PySciODE.Event{Float64}[]), Float64[]; hooks)
    @test steps_seen == e.t
end

@testset "how far a failed solve came" begin
    # u' = u², u(0) = 1 has a pole at 1.
    pole = simple("workspace(::Type{T}) where {T} = nothing\nf!(du, u, p, t, w) = (@inbounds du[1] = u[1]^2; @inbounds du[2] = 0; nothing)\n", 0)
    plan = PySciODE.plan(pole, PySciODE.algorithm("Tsit5()", ("OrdinaryDiffEqTsit5",)))
    for saveat in ([2.0], [0.5, 2.0], Float64[])
        a = PySciODE.dispatch(plan, [1.0, 0.0], Float64[], (0.0, 2.0), saveat, PySciODE.Hooks(), Float64[])
        @test a.retcode !== :Success
        @test a.t_reached ≈ 1.0 atol = 1e-3
        @test isempty(saveat) || a.t == saveat[1:(end - 1)]
    end
end
