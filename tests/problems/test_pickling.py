"""Copies and pickles of problems, solutions, errors and results, in this process and in others."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import pysciode as ps
from pysciode.arrays.parameters import ParameterLayout
from pysciode.compat.torchdiffeq.errors import StepsFailed
from pysciode.errors import JuliaError, PysciodeError

F64 = torch.float64
TIGHT = dict(rtol=1e-8, atol=1e-10)
COPIES: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {k}": lambda x, k=k: pickle.loads(pickle.dumps(x, k)) for k in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.fixture(params=COPIES)
def again(request) -> Callable[[Any], Any]:
    return COPIES[request.param]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Callable[..., Any]]:
    """Calls a function of this module in another process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda f, *arguments: pool.submit(f, *arguments).result(timeout=300)


def decay(u, p, t):
    return [-p[0] * u[0]]


def torch_decay(u, p, t):
    return -p["rate"] * u


def oscillator(v, u, p, t):
    return -p[0] * u


def velocity(v, u, p, t):
    return v


def half(u, p, t):
    return [-0.5 * p[0] * u[0]]


def explosion(u, p, t):
    return [u[0] ** 2]


def sympy_decay():
    import sympy

    x, k = sympy.symbols("x k")
    return (-k * x,), (x,), (k,)


def tensor(*x: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(x, dtype=F64, requires_grad=grad)


PROBLEMS: dict[str, tuple[Callable[[], ps.ODEProblem], float]] = {
    "NumPy": (lambda: ps.ODEProblem(decay, [3.0], (0, 1), [2.0], name="decay"), 3 * np.exp(-2)),
    "float32": (lambda: ps.ODEProblem(decay, np.float32([3.0]), (0, 1), [2.0]), 3 * np.exp(-2)),
    "torch": (lambda: ps.ODEProblem(torch_decay, tensor(3.0), (0, 1), {"rate": tensor(2.0, grad=True)}), 3 * np.exp(-2)),
    "times": (lambda: ps.ODEProblem(torch_decay, tensor(3.0), (0, torch.tensor(1.0, requires_grad=True)), {"rate": 2.0}), 3 * np.exp(-2)),
    "second order": (lambda: ps.SecondOrderODEProblem(oscillator, [0.0], [3.0], (0, 1), [4.0]), 3 * np.cos(2)),
    "dynamical": (lambda: ps.DynamicalODEProblem(oscillator, velocity, [0.0], [3.0], (0, 1), [4.0]), 3 * np.cos(2)),
    "split": (lambda: ps.SplitODEProblem(half, half, [3.0], (0, 1), [2.0]), 3 * np.exp(-2)),
    "SymPy": (lambda: ps.ODEProblem(sympy_decay(), [3.0], (0, 1), [2.0]), 3 * np.exp(-2)),
}


def end(problem: ps.ODEProblem, engine: str) -> float:
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine, rtol=1e-6, atol=1e-8).u
    return u.detach().item() if problem.is_torch else u.item()


@pytest.mark.parametrize("kind", PROBLEMS)
def test_problems(kind, engine):
    """Fresh ones and ones that were solved, by every protocol; what they hold is solved, too."""
    make, exact = PROBLEMS[kind]
    problem = make()
    for again in [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]:
        assert end(again(problem), engine) == pytest.approx(exact, rel=1e-5)
        assert end(problem, engine) == pytest.approx(exact, rel=1e-5)
    for name, again in COPIES.items():
        if kind == "SymPy" and name in ("pickle 0", "pickle 1"):
            continue  # SymPy knows no protocols below 2
        other = again(problem)
        assert repr(other) == repr(problem)
        assert other.layout == problem.layout and hash(other.layout) == hash(problem.layout)
        np.testing.assert_array_equal(other.flat_p(), problem.flat_p())
        np.testing.assert_array_equal(other.flat_u0(), problem.flat_u0())


def test_nothing_captured_travels():
    problem = ps.ODEProblem(decay, [3.0], (0, 1), [2.0])
    fresh = len(pickle.dumps(problem))
    end(problem, "embedded")
    assert len(pickle.dumps(problem)) == fresh
    assert pickle.loads(pickle.dumps(problem)).captured is None


@pytest.mark.slow
def test_a_copied_problem_has_tensors_of_its_own(engine):
    problem = PROBLEMS["torch"][0]()
    twin, shallow = copy.deepcopy(problem), copy.copy(problem)
    with torch.no_grad():
        problem.p["rate"].fill_(1.0)
    for other, rate in ((problem, 1.0), (shallow, 1.0), (twin, 2.0)):
        assert end(other, engine) == pytest.approx(3 * np.exp(-rate), rel=1e-5)
    ps.solve(twin, saveat=[1.0], engine=engine).u.sum().backward()
    assert problem.p["rate"].grad is None
    assert twin.p["rate"].grad.item() == pytest.approx(-3 * np.exp(-2), rel=1e-4)


def test_a_tensor_that_appears_twice_stays_one():
    weight = tensor(1.0, grad=True)
    problem = pickle.loads(pickle.dumps(ps.ODEProblem(torch_decay, tensor(1.0), (0, 1), {"rate": weight, "twice": weight})))
    assert problem.p["rate"] is problem.p["twice"] and problem.p["rate"].requires_grad
    assert not problem.u0.requires_grad


@pytest.mark.parametrize("solved", [False, True])
def test_functions_that_can_not_be_pickled(solved):
    problem = ps.ODEProblem(lambda u, p, t: -u, [1.0], (0, 1))
    if solved:
        end(problem, "embedded")
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(problem)


def test_cloudpickle_takes_closures(elsewhere):
    cloudpickle = pytest.importorskip("cloudpickle")
    rate = 2.0
    problem = ps.ODEProblem(lambda u, p, t: -rate * u, [3.0], (0, 1))
    end(problem, "embedded")
    assert elsewhere(end_of_pickle, cloudpickle.dumps(problem)) == pytest.approx(3 * np.exp(-2), rel=1e-5)


def end_of_pickle(data: bytes) -> float:
    return end(pickle.loads(data), "embedded")


def test_problems_go_to_other_processes(elsewhere, engine):
    for kind in ("NumPy", "torch", "second order", "SymPy"):
        make, exact = PROBLEMS[kind]
        problem = make()
        end(problem, engine)
        assert elsewhere(end, problem, "embedded") == pytest.approx(exact, rel=1e-5)


# Solutions


def solved(problem: ps.ODEProblem, engine: str, **options: Any) -> ps.Solution:
    return ps.solve(problem, ps.Tsit5(), engine=engine, **TIGHT, **options)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_solutions(kind, engine):
    make, exact = PROBLEMS[kind]
    sol = solved(make(), engine)
    for name, again in COPIES.items():
        if kind == "SymPy" and name in ("pickle 0", "pickle 1"):
            continue
        other = again(sol)
        for x, y in zip(other.to_numpy(), sol.to_numpy(), strict=True):
            np.testing.assert_array_equal(x, y)
        assert (other.retcode, other.success, other.engine, other.algorithm) == ("Success", True, engine, sol.algorithm)
        assert other.stats.nf == sol.stats.nf > 0 and dict(other.stats) == dict(sol.stats)
        assert other.t_reached == sol.t_reached == 1.0 and repr(other) == repr(sol)
        assert other.sensealg == sol.sensealg
        if kind in ("second order", "dynamical"):
            np.testing.assert_array_equal(other.v, sol.v)
        if name.startswith("pickle"):
            with pytest.raises(ValueError, match="dense"):
                other(1.0)
        else:
            assert float(other(1.0).reshape(())) == pytest.approx(exact, rel=1e-5)


def test_a_copied_solution_leaves_the_gradient_with_the_original(engine):
    problem = PROBLEMS["torch"][0]()
    sol = solved(problem, engine, saveat=[0.5, 1.0])
    for other in (copy.deepcopy(sol), pickle.loads(pickle.dumps(sol))):
        assert not other.u.requires_grad
    copy.copy(sol).u[-1].sum().backward()
    assert problem.p["rate"].grad.item() == pytest.approx(-3 * np.exp(-2), rel=1e-5)


def test_saved_entries_travel(engine):
    problem = ps.ODEProblem(decay_of_three, np.arange(1.0, 4.0), (0, 1))
    sol = solved(problem, engine, save_idxs=[2, 0], saveat=[0.0, 1.0], dense=True)
    other = pickle.loads(pickle.dumps(sol))
    np.testing.assert_allclose(other.u, np.exp([[0.0], [-1.0]]) * [3.0, 1.0], rtol=1e-6)
    assert other.names == sol.names == ("u[2]", "u[0]")
    np.testing.assert_allclose(copy.deepcopy(sol)(0.5), np.exp(-0.5) * np.array([3.0, 1.0]), rtol=1e-6)


def decay_of_three(u, p, t):
    return -u


def solution_and_its_end(engine: str) -> ps.Solution:
    return solved(PROBLEMS["torch"][0](), engine)


def test_solutions_come_from_other_processes(elsewhere, engine):
    sol = elsewhere(solution_and_its_end, engine)
    assert sol.u[-1].item() == pytest.approx(3 * np.exp(-2), rel=1e-6) and sol.stats.nf > 0
    assert sol.t[-1].item() == 1.0 and sol.success


def test_dense_output_where_the_solve_carries_derivatives(engine):
    """It is that of a solve without, of the values that were then."""
    rate = tensor(2.0, grad=True)
    for sensealg in (ps.ForwardDiffSensitivity(), ps.ForwardSensitivity()) if engine == "julia" else (None,):
        with torch.no_grad():
            rate.fill_(2.0)
        sol = solved(ps.ODEProblem(torch_decay, tensor(3.0), (0, 1), {"rate": rate}), engine, sensealg=sensealg)
        if engine == "julia":
            with torch.no_grad():
                rate.fill_(0.0)
        assert sol(0.5).item() == pytest.approx(3 * np.exp(-1), rel=1e-6)
        assert sol(0.5, 1).item() == pytest.approx(-6 * np.exp(-1), rel=1e-5)


def upwards(u, p, t):
    return u[0] - 0.5


def test_events_travel(julia_engine):
    problem = ps.ODEProblem(decay, [1.0], (0.0, 1.0), [1.0])
    event = ps.ContinuousCallback(upwards, terminal=True)
    sol = solved(problem, julia_engine, callback=pickle.loads(pickle.dumps(event)))
    for again in COPIES.values():
        other = again(sol)
        assert other.retcode == "Terminated" and other.success
        np.testing.assert_allclose(other.events[0].t, [np.log(2)], rtol=1e-6)
        np.testing.assert_allclose(other.events[0].u, [[0.5]], rtol=1e-6)


# Errors

ERRORS = [
    ps.CaptureError("no such thing", operation="aten.sort", where="model.py:1"),
    ps.IndexOutOfRange("index 12 is out of bounds", where="model.py:1"),
    ps.SolveFailed("MaxIters", 0.5, None, "try again"),
    StepsFailed.of(ps.SolveFailed("MaxIters", 0.5, None, "try again")),
    ps.GradientFailed("GaussAdjoint", "not finite", "tighter"),
    ps.EngineUnavailable("a stiff solver"),
    ps.EngineUnavailable("Mooncake", "not there", mend=None),
    ps.OutOfDeviceMemory("cuda:0", 2**30, {"total": 2**34, "free": 2**29}),
    JuliaError("MethodError"),
    PysciodeError("anything"),
]


def every_error() -> set[type]:
    from pysciode.comparison.measure.losses import LossNotFinite

    found, new = set(), [PysciodeError]
    while new:
        found.add(new[-1])
        new.extend(new.pop().__subclasses__())
    return {x for x in found if x.__module__.startswith("pysciode")} - {LossNotFinite}


def test_every_error_is_tested():
    assert {type(x) for x in ERRORS} == every_error()


@pytest.mark.parametrize("error", ERRORS, ids=lambda x: type(x).__name__)
def test_errors(error, again):
    other = again(error)
    assert type(other) is type(error) and str(other) == str(error) and other.args == error.args
    assert vars(other) == vars(error)


def fail(engine: str) -> None:
    ps.solve(ps.ODEProblem(explosion, [1.0], (0, 2)), ps.Tsit5(), saveat=[0.5, 1.5], engine=engine)


def test_a_failed_solve_in_another_process(elsewhere, engine):
    with pytest.raises(ps.SolveFailed, match="retcode") as caught:
        elsewhere(fail, engine)
    error = caught.value
    assert 0.5 <= error.t < 1.01 and error.retcode == error.solution.retcode
    np.testing.assert_allclose(error.solution.u, [[2.0]], rtol=1e-4)  # 1 / (1 - t)


# Small things


def test_algorithms_and_sensitivity_methods(again):
    from pysciode.methods.adjoints import SENSITIVITY_ALGORITHMS

    for x in (ps.Tsit5(), ps.Rodas5P(linsolve="KLUFactorization"), ps.AutoTsit5(ps.Rodas5P()), ps.Algorithm("New", 3)):
        assert again(x) == x and repr(again(x)) == repr(x)
    for name in SENSITIVITY_ALGORITHMS:
        x = getattr(ps, name)()
        assert again(x) == x and hash(again(x)) == hash(x)


def layout_of(p: Any) -> ParameterLayout:
    layout = ParameterLayout.of(p)[0]
    hash(layout)
    return layout


def is_key(layout: ParameterLayout, p: Any) -> bool:
    return layout in {layout_of(p): None}


def test_a_layout_is_a_key_in_other_processes(elsewhere):
    """Hashes of strings differ from process to process."""
    p = {"rate": 1.0, "matrix": np.zeros((2, 2)), "rest": (1.0, [2.0, np.ones(3)])}
    assert elsewhere(is_key, layout_of(p), p)
    assert is_key(elsewhere(layout_of, p), p)


def test_fit_results(engine):
    from pysciode.fitting import Experiment, Parameter, fit

    t = np.linspace(0.25, 4.0, 16)
    observed = 3 * np.exp(-0.9 * t) + 0.05 * np.random.default_rng(0).standard_normal(16)
    problem = ps.ODEProblem(decay, [3.0], (0, 4), [0.5])
    result = fit(problem, Experiment(t, observed), {"p[0]": Parameter(lower=0)}, progress=False, engine=engine)
    for again in COPIES.values():
        other = again(result)
        assert str(other) == str(result)
        np.testing.assert_allclose(other.predict(t).mean[:, 0], 3 * np.exp(-other.estimates["p[0]"] * t), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.julia
def test_comparison_reports():
    problem = ps.ODEProblem(decay, [2.0], (0, 1), [0.5])
    report = ps.compare_adjoints(problem, sensealgs=["ForwardDiffSensitivity"], tolerances=[1e-4], repeats=1, peers=False)
    for again in COPIES.values():
        other = again(report)
        assert str(other) == str(report) and str(other.recommend()) == str(report.recommend())
        assert other.to_dataframe().equals(report.to_dataframe())
