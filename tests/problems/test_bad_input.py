"""What can go wrong, and what the user sees: each row of the contract. After each failure the session goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

import pysciode as ps

F64 = torch.float64


def decay(u, p, t):
    return [-p * u[0]]


@pytest.fixture
def problem():
    return ps.ODEProblem(decay, [1.0], (0.0, 1.0), 2.0)


@pytest.fixture
def alive(engine):
    """After whatever the test did, the engine still solves."""
    yield engine
    sol = ps.solve(ps.ODEProblem(decay, [1.0], (0.0, 1.0), 2.0), ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine=engine)
    assert sol.u[0, 0] == pytest.approx(np.exp(-2.0), rel=1e-7)


# --- arguments of problems: before any engine ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((3.0, [1.0], (0, 1)), TypeError, "f must be a function"),
        ((decay, None, (0, 1)), TypeError, "u0"),
        ((decay, "one", (0, 1)), TypeError, "u0"),
        ((decay, [], (0, 1)), ValueError, "u0 is empty"),
        ((decay, [[1.0], [1.0, 2.0]], (0, 1)), ValueError, "u0 is ragged"),
        ((decay, [torch.tensor(1.0), 2.0], (0, 1)), TypeError, "u0 is a list of tensors"),
        ((decay, [torch.tensor(1.0)], (0, 1), torch.ones(1)), TypeError, "u0 is a list of tensors"),
        ((decay, [1.0, np.nan], (0, 1)), ValueError, r"u0\[1\] is nan"),
        ((decay, torch.tensor([1.0, np.inf]), (0, 1)), ValueError, r"u0\[1\] is inf"),
        ((decay, [1j], (0, 1)), TypeError, "u0 is complex"),
        ((decay, torch.ones(1, dtype=torch.complex64), (0, 1)), TypeError, "u0 is complex"),
        ((decay, np.ones(1, np.float16), (0, 1)), TypeError, "u0 has dtype float16"),
        ((decay, torch.ones(1, dtype=torch.bfloat16), (0, 1)), TypeError, "u0 has dtype torch.bfloat16"),
        ((decay, [True], (0, 1)), TypeError, "u0 has dtype bool"),
        ((decay, torch.ones(1, device="meta"), (0, 1)), ValueError, "u0 is on device meta"),
        ((decay, [1.0], 1.0), TypeError, "tspan"),
        ((decay, [1.0], (0, 1, 2)), TypeError, "tspan"),
        ((decay, [1.0], (0, "1")), TypeError, r"tspan\[1\]"),
        ((decay, [1.0], (0, 1j)), TypeError, r"tspan\[1\]"),
        ((decay, [1.0], (np.nan, 1)), ValueError, r"tspan\[0\] is nan"),
        ((decay, [1.0], (0, np.inf)), ValueError, r"tspan\[1\] is inf"),
        ((decay, [1.0], (1, 1)), ValueError, "must differ"),
        ((decay, [1.0], (0, 1), [1.0, np.nan]), ValueError, r"p\[1\] is nan"),
        ((decay, [1.0], (0, 1), {"k": {"a": np.inf}}), ValueError, "k.a is inf"),
        ((decay, [1.0], (0, 1), {"W": np.array([[1.0, np.nan]])}), ValueError, r"W\[0, 1\] is nan"),
        ((decay, [1.0], (0, 1), "fast"), TypeError, "p is of type str"),
        ((decay, [1.0], (0, 1), {"k": ["a"]}), TypeError, r"p\['k'\]\[0\] is of type str"),
        ((decay, [1.0], (0, 1), 1j), TypeError, "p is complex"),
        ((decay, [1.0], (0, 1), np.array([1j])), TypeError, "p is complex"),
        ((decay, [1.0], (0, 1), np.array([None])), TypeError, "p has dtype object"),
        ((decay, torch.ones(1), (0, 1), torch.ones(1, dtype=F64)), TypeError, "p is float64 but u0 is float32"),
        ((decay, np.ones(1), (0, 1), {"k": torch.ones(1)}), TypeError, "k is float32 but u0 is float64"),
        ((decay, torch.ones(1), (0, 1), torch.ones(1, device="meta")), ValueError, "p is on device meta"),
        ((torch.nn.Linear(1, 1), torch.ones(1, dtype=F64), (0, 1)), TypeError, "weight is float32 but u0 is float64"),
    ],
)
def test_problems_name_the_argument_at_fault(arguments, error, message):
    with pytest.raises(error, match=message):
        ps.ODEProblem(*arguments)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"mass_matrix": np.eye(2)}, ValueError, r"mass_matrix has shape \(2, 2\)"),
        ({"jac_sparsity": np.ones((1, 2))}, ValueError, "jac_sparsity has shape"),
    ],
)
def test_options_of_problems(options, error, message):
    with pytest.raises(error, match=message):
        ps.ODEProblem(decay, [1.0], (0, 1), **options)


def test_second_order_arguments():
    with pytest.raises(ValueError, match=r"du0 has shape \(2,\) and u0 \(1,\)"):
        ps.SecondOrderODEProblem(lambda v, u, p, t: -u, [0.0, 1.0], [1.0], (0, 1))
    with pytest.raises(TypeError, match="f1 must be a Python function"):
        ps.DynamicalODEProblem("f", lambda v, u, p, t: v, [0.0], [1.0], (0, 1))


# --- arguments of solve ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"saveat": [0.5, 0.2]}, ValueError, "saveat must strictly increase"),
        ({"saveat": [0.2, 0.2]}, ValueError, "saveat must strictly increase"),
        ({"saveat": [0.5, 2.0]}, ValueError, "saveat holds 2, outside tspan"),
        ({"saveat": [-1.0, 0.5]}, ValueError, "saveat holds -1, outside tspan"),
        ({"saveat": [0.5, np.nan]}, ValueError, "saveat must be finite"),
        ({"saveat": []}, ValueError, "saveat"),
        ({"saveat": [[0.5]]}, ValueError, "saveat has shape"),
        ({"saveat": -0.1}, ValueError, "saveat = -0.1"),
        ({"saveat": "end"}, TypeError, "saveat"),
        ({"tstops": [3.0]}, ValueError, "tstops holds 3"),
        ({"rtol": -1.0}, ValueError, "rtol"),
        ({"rtol": [1e-3]}, TypeError, "rtol must be one number"),
        ({"rtol": "tight"}, TypeError, "rtol"),
        ({"atol": np.nan}, ValueError, "atol"),
        ({"atol": [1e-3, 1e-3]}, ValueError, r"atol has shape \(2,\)"),
        ({"rtol": 0, "atol": 0}, ValueError, "both 0"),
        ({"dt": 0.0}, ValueError, "dt must be positive"),
        ({"dtmax": np.inf}, ValueError, "dtmax"),
        ({"dtmin": "small"}, TypeError, "dtmin"),
        ({"maxiters": 0}, ValueError, "maxiters"),
        ({"maxiters": 1.5}, TypeError, "maxiters"),
        ({"adaptive": False}, ValueError, "needs a step size"),
        ({"save_idxs": [1]}, IndexError, "save_idxs holds 1"),
        ({"save_idxs": [0.0]}, TypeError, "save_idxs"),
        ({"save_idxs": np.array([True, False])}, ValueError, "save_idxs is a mask"),
        ({"progress": "yes"}, TypeError, "progress"),
        ({"reltol": 1e-3}, TypeError, "rtol"),
        ({"qmax": 5.0}, TypeError, "no option 'qmax'"),
        ({"save_everystep": False}, TypeError, "saveat"),
        ({"sensealg": "adjoint"}, TypeError, "sensealg"),
        ({"sensealg": ps.GaussAdjoint}, TypeError, r"GaussAdjoint\(\)"),
        ({"algorithm": ps.Tsit5}, TypeError, r"Tsit5\(\)"),
        ({"algorithm": "Tist5"}, ValueError, "no algorithm 'Tist5'"),
        ({"algorithm": 5}, TypeError, "algorithm"),
        ({"algorithm": ps.Euler()}, ValueError, "dt="),
        ({"algorithm": ps.VelocityVerlet(), "dt": 0.1}, ValueError, "SecondOrderODEProblem"),
        ({"algorithm": ps.SBDF2(), "dt": 0.1}, ValueError, "SplitODEProblem"),
        ({"algorithm": ps.DFBDF()}, ValueError, "not for an ODEProblem"),
        ({"engine": "fortran"}, ValueError, "engine must be one of"),
    ],
)
def test_solve_names_the_argument_at_fault(problem, options, error, message):
    options = {"engine": "embedded"} | options
    with pytest.raises(error, match=message):
        ps.solve(problem, **options)


def test_solve_of_something_else():
    with pytest.raises(TypeError, match="problem must be an ODEProblem"):
        ps.solve(decay)


def test_decreasing_times_for_a_backward_solve(alive):
    problem = ps.ODEProblem(decay, [1.0], (1.0, 0.0), 2.0)
    with pytest.raises(ValueError, match="strictly decrease"):
        ps.solve(problem, ps.Tsit5(), saveat=[0.2, 0.5], engine=alive)


def test_save_times_rounded_to_float32_are_not_outside(alive):
    problem = ps.ODEProblem(decay, torch.ones(1), (0.0, 0.1), 2.0)
    sol = ps.solve(problem, ps.Tsit5(), saveat=torch.linspace(0, 0.1, 5), engine=alive)
    assert len(sol) == 5


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: ps.GaussAdjoint(autojacvec="Zygote"), ValueError, "autojacvec must be one of"),
        (lambda: ps.GaussAdjoint(checkpointing="yes"), TypeError, "checkpointing"),
        (lambda: ps.QuadratureAdjoint(abstol=-1.0), ValueError, "abstol must be positive"),
        (lambda: ps.QuadratureAdjoint(reltol="x"), TypeError, "reltol must be a number"),
        (lambda: ps.ForwardDiffSensitivity(chunk_size=-1), ValueError, "chunk_size"),
        (lambda: ps.ForwardDiffSensitivity(chunk_size=1.5), TypeError, "chunk_size"),
        (lambda: ps.ReverseDiffAdjoint(checkpointing=True), TypeError, "checkpointing"),
        (lambda: ps.Algorithm("Tsit5; rm"), ValueError, "name of a Julia type"),
        (lambda: ps.FBDF(nlsolve="run(cmd)"), ValueError, "not a type"),
        (lambda: ps.FBDF(linsolve="Base.run(`ls`)"), ValueError, "not allowed"),
        (lambda: ps.FBDF(linsolve="KLU(Meta.parse(X))"), ValueError, "not a type"),
        (lambda: ps.FBDF(linsolve="evil"), ValueError, "not a type"),
        (lambda: ps.FBDF(linsolve="KLU(x)"), ValueError, "not a type"),
        (lambda: ps.FBDF(linsolve=["KLU"]), TypeError, "option linsolve"),
        (lambda: ps.set_engine("fortran"), ValueError, "engine must be one of"),
        (lambda: ps.list_algorithms("magic"), ValueError, "no family"),
    ],
)
def test_methods_check_their_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_parameter_that_becomes_nan_is_named(alive):
    p = {"k": torch.tensor(2.0, dtype=F64, requires_grad=True)}
    problem = ps.ODEProblem(lambda u, p, t: -p["k"] * u, [1.0], (0.0, 1.0), p)
    with torch.no_grad():
        p["k"].fill_(float("nan"))
    with pytest.raises(ValueError, match="k is nan"):
        ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=alive)


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "f, error",
    [
        (lambda u, p, t: [u[0], u[0]], ValueError),
        (lambda u, p, t: None, (ValueError, TypeError, ps.CaptureError)),
        (lambda u, p, t: ["a"], (ValueError, TypeError, ps.CaptureError)),
        (lambda a, b, c, d, e: a, TypeError),
    ],
)
def test_models_that_return_something_else(alive, f, error):
    with pytest.raises(error):
        ps.solve(ps.ODEProblem(f, [1.0], (0.0, 1.0)), ps.Tsit5(), engine=alive)


def test_what_cannot_be_captured_names_line_and_ways_out(alive):
    def branches(u, p, t):
        if u[0] > 0.5:  # the line at fault
            return [-u[0]]
        return [u[0]]

    with pytest.raises(ps.CaptureError) as caught:
        ps.solve(ps.ODEProblem(branches, [1.0], (0.0, 1.0)), ps.Tsit5(), engine=alive)
    assert "the line at fault" in str(caught.value) and "test_bad_input.py" in str(caught.value)
    assert "rewrite" in str(caught.value) and "capture='callback'" in str(caught.value)
    problem = ps.ODEProblem(branches, [1.0], (0.0, 0.5), capture="callback")
    sol = ps.solve(problem, ps.Tsit5(), saveat=[0.5], rtol=1e-8, atol=1e-8, engine=alive)
    assert sol.u[0, 0] == pytest.approx(np.exp(-0.5), rel=1e-6)


def test_an_exception_in_a_callback_comes_through(alive):
    def f(u, p, t):
        if t > 0.3:
            raise ZeroDivisionError("the user's own")
        return [-u[0]]

    with pytest.raises(ZeroDivisionError, match="the user's own"):
        ps.solve(ps.ODEProblem(f, [1.0], (0.0, 1.0), capture="callback"), ps.Tsit5(), engine=alive)


# --- solvers that give up --------------------------------------------------------------------------------------------


def blow_up(u, p, t):
    return [u[0] ** 2]  # 1 / (1 - t)


def assert_partial(sol, until):
    assert not sol.success and 0 < sol.t_reached <= until
    assert len(sol) > 0 and float(sol.t[-1]) <= sol.t_reached + 1e-12
    exact = 1 / (1 - np.asarray(sol.t))
    good = np.asarray(sol.t) < 0.9
    np.testing.assert_allclose(np.asarray(sol.u)[good, 0], exact[good], rtol=1e-3)


def test_a_singularity(alive):
    problem = ps.ODEProblem(blow_up, [1.0], (0.0, 2.0))
    with pytest.raises(ps.SolveFailed) as caught:
        ps.solve(problem, ps.Tsit5(), saveat=0.1, engine=alive)
    error = caught.value
    assert error.retcode in ("DtLessThanMin", "Unstable", "DtNaN", "MaxIters")
    assert error.t == pytest.approx(1.0, abs=1e-3)
    assert error.retcode in str(error) and "throw=False" in str(error)
    assert_partial(error.solution, 1.0 + 1e-4)
    assert len(error.solution) in (10, 11)  # 0, 0.1, …, 0.9, and maybe one just before the singularity


def test_too_few_steps(alive):
    problem = ps.ODEProblem(lambda u, p, t: [-p * (u[0] - np.cos(t))], [0.0], (0.0, 10.0), 1e4)
    with pytest.raises(ps.SolveFailed, match="stiff") as caught:
        ps.solve(problem, ps.Tsit5(), saveat=0.01, maxiters=100, engine=alive)
    assert caught.value.retcode == "MaxIters" and "maxiters" in str(caught.value)
    assert 0 < caught.value.t < 10


def test_a_smallest_step(alive):
    problem = ps.ODEProblem(blow_up, [1.0], (0.0, 2.0))
    sol = ps.solve(problem, ps.Tsit5(), dtmin=1e-4, throw=False, engine=alive)
    assert sol.retcode == "DtLessThanMin"
    assert_partial(sol, 1.0)


def test_fixed_steps_that_overflow(alive):
    problem = ps.ODEProblem(blow_up, [1.0], (0.0, 5.0))
    sol = ps.solve(problem, ps.Euler(), dt=0.01, saveat=0.5, throw=False, engine=alive)
    assert sol.retcode in ("Unstable", "DtNaN") and np.isfinite(sol.u).all()
    with pytest.raises(ps.SolveFailed):
        ps.solve(problem, ps.Euler(), dt=0.01, saveat=0.5, engine=alive)


def test_a_model_that_turns_nan(alive):
    problem = ps.ODEProblem(lambda u, p, t: [-np.sqrt(0.5 - t)], [1.0], (0.0, 1.0))
    sol = ps.solve(problem, ps.Tsit5(), throw=False, engine=alive)
    assert not sol.success and sol.t_reached <= 0.5 + 1e-6
    assert np.isfinite(sol.u).all()


def test_a_partial_solution_of_a_torch_problem(alive):
    problem = ps.ODEProblem(blow_up, torch.ones(1, dtype=F64), (0.0, 2.0))
    sol = ps.solve(problem, ps.Tsit5(), throw=False, engine=alive)
    assert isinstance(sol.u, torch.Tensor)
    assert_partial(sol, 1.0 + 1e-4)
    assert sol(0.5).item() == pytest.approx(2.0, rel=1e-4)
    with pytest.raises(ValueError, match="where the solution is known"):
        sol(1.5)


# --- engines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm, options, feature",
    [
        (ps.Rodas5P(), {}, "Rodas5P"),
        (ps.Vern7(), {}, "Vern7"),
        (ps.FBDF(), {}, "FBDF"),
        (ps.Tsit5(thread="OrdinaryDiffEqCore.True"), {}, "with options"),
        (ps.RK4(), {}, "RK4"),
        (None, {"isoutofdomain": 1}, "isoutofdomain"),
    ],
)
def test_what_the_embedded_engine_lacks_is_named(problem, algorithm, options, feature):
    with pytest.raises(ps.EngineUnavailable, match=feature) as caught:
        ps.solve(problem, algorithm, engine="embedded", **options)
    assert "python -m pysciode install" in str(caught.value)


@pytest.mark.parametrize(
    "sensealg",
    [
        ps.GaussAdjoint(),
        ps.ForwardDiffSensitivity(),
        ps.BacksolveAdjoint(autojacvec="ZygoteVJP"),
        ps.BacksolveAdjoint(checkpointing=False),
    ],
)
def test_sensitivity_methods_that_the_embedded_engine_lacks(sensealg):
    problem = ps.ODEProblem(decay, [1.0], (0.0, 1.0), torch.tensor(2.0, dtype=F64, requires_grad=True))
    with pytest.raises(ps.EngineUnavailable, match=sensealg.name):
        ps.solve(problem, saveat=[1.0], sensealg=sensealg, engine="embedded")


def test_mass_matrices_and_julia_source_need_julia():
    with pytest.raises(ps.EngineUnavailable, match="mass matrix"):
        ps.solve(ps.ODEProblem(decay, [1.0], (0.0, 1.0), 2.0, mass_matrix=np.eye(1)), engine="embedded")
    source = "f!(du, u, p, t) = (du[1] = -u[1]; nothing)"
    with pytest.raises(ps.EngineUnavailable, match="Julia source"):
        ps.solve(ps.ODEProblem(source, [1.0], (0.0, 1.0)), engine="embedded")


def test_the_choice_of_the_engine_is_told_once(tmp_path):
    """In a process of its own, without a Julia environment."""
    code = textwrap.dedent(
        """
        import pysciode.engines as engines
        from pysciode.engines.julia.environment import Trouble
        engines.find_trouble = lambda: Trouble("nothing is there")
        import pysciode as ps
        problem = ps.ODEProblem(lambda u, p, t: [-u[0]], [1.0], (0.0, 1.0))
        for _ in range(3):
            print(ps.solve(problem).engine)
        """
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == ["embedded"] * 3
    assert out.stderr.count("\n") == 1 and "embedded engine" in out.stderr and "install" in out.stderr


# --- interruption and threads ----------------------------------------------------------------------------------------


def test_ctrl_c_in_a_long_solve(alive):
    # Steps limited by stability: this would take minutes.
    problem = ps.ODEProblem(lambda u, p, t: [-p * (u[0] - np.cos(t))], [0.0], (0.0, 1e3), 1e7)
    ps.solve(ps.remake(problem, tspan=(0.0, 1e-6)), ps.Tsit5(), saveat=[1e-6], engine=alive)
    timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    timer.start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            ps.solve(problem, ps.Tsit5(), saveat=[1e3], maxiters=10**12, engine=alive)
    finally:
        timer.cancel()
    assert time.monotonic() - began < 30


def test_solves_in_threads(alive):
    def f(u, p, t):
        return [-p * u[0]]

    found = {}

    def work(k):
        problem = ps.ODEProblem(f, [1.0], (0.0, 1.0), float(k))
        found[k] = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine=alive).u[0, 0]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: pytest.approx(np.exp(-k), rel=1e-6) for k in range(1, 9)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_solves_after_a_fork(engine):
    """In a process of its own: a forked worker solves, or says why it can't; it never hangs or crashes."""
    code = textwrap.dedent(
        f"""
        import os, pysciode as ps
        problem = ps.ODEProblem(lambda u, p, t: [-u[0]], [1.0], (0.0, 1.0))
        solve = lambda: ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine={engine!r}).u[0, 0]
        first = solve()
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if solve() == first else 1)
            except RuntimeError as error:
                os._exit(7 if "spawn" in str(error) else 2)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert solve() == first
        print(status)
        """
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) == (0 if engine == "embedded" else 7)


def test_gradients_in_threads(alive):
    found = {}

    def work(k):
        p = torch.tensor(float(k), dtype=F64, requires_grad=True)
        problem = ps.ODEProblem(decay, [1.0], (0.0, 1.0), p)
        ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine=alive).u.sum().backward()
        found[k] = p.grad.item()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: pytest.approx(-np.exp(-k), rel=1e-6) for k in range(1, 5)}
