# What reviewers of Julia packages look at first: ambiguities, bounds, piracy, imports that nobody wrote down, and types on the hot path.

@testset "Aqua" begin
    # Packages that wait for tasks are looked for by precompiling a copy of this one, which takes minutes.
    Aqua.test_all(PySciODE; ambiguities=(; recursive=false), persistent_tasks=false)
end

@testset "Imports" begin
    @test ExplicitImports.check_no_implicit_imports(PySciODE) === nothing
    @test ExplicitImports.check_no_stale_explicit_imports(PySciODE) === nothing
    @test ExplicitImports.check_all_explicit_imports_via_owners(PySciODE) === nothing
    @test ExplicitImports.check_all_qualified_accesses_via_owners(PySciODE; ignore=(:libblastrampoline, :allowscalar)) === nothing
    @test ExplicitImports.check_no_self_qualified_accesses(PySciODE) === nothing
end

"""Calls of `f` that are dispatched at run time, but for those of opaque closures: these are what a slot is for."""
function dispatched(f, arguments...)
    reports = JET.get_reports(JET.report_opt(f, typeof.(arguments); target_modules=(PySciODE,)))
    return filter(r -> !(r isa JET.RuntimeDispatchReport && r.sig.tt <: Tuple{Core.OpaqueClosure,Vararg}), reports)
end

@testset "Types of what solvers call" begin
    for T in (Float64, Float32)
        inst = PySciODE.Instance{T}(PySciODE.generate(LOTKA_VOLTERRA, 2, 4))
        f, vjp, jac = PySciODE.RHS{T}(inst), PySciODE.VJP{T}(inst), PySciODE.Jacobian{T}(inst)
        u, p, out, J = T[1, 1], T[1.5, 1, 3, 1], zeros(T, 2), zeros(T, 2, 2)
        @test isempty(dispatched(f, out, u, p, zero(T)))
        @test isempty(dispatched(vjp, out, u, u, p, zero(T)))
        @test isempty(dispatched(jac, J, u, p, zero(T)))
    end
end
