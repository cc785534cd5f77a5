"""Algorithms by name: classes, options, and the Julia text they become."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import numpy as np
import pytest

import pysciode as ps
from pysciode.methods.algorithm_table import ALGORITHMS


def test_every_name_is_a_class_with_its_place():
    names = ps.list_algorithms()
    assert len(names) == len(set(names)) > 300
    for (family, package), listed in ALGORITHMS.items():
        for entry in listed.split():
            cls = getattr(ps, entry.rstrip("*"))
            assert cls.family == family and cls.package == package and cls.fixed_step == entry.endswith("*")
            assert package in cls.__doc__
    assert ps.list_algorithms("symplectic")[0] == "SymplecticEuler"


def test_a_name_and_its_class_are_the_same():
    assert ps.Algorithm("Tsit5") == ps.Tsit5() and type(ps.Algorithm("Tsit5")) is ps.Tsit5
    assert hash(ps.FBDF(autodiff=False)) == hash(ps.Algorithm("FBDF", autodiff=False))
    assert ps.FBDF() != ps.FBDF(autodiff=False)
    unknown = ps.Algorithm("NotYetKnown", order=3)
    assert unknown.package is None and unknown.julia == "NotYetKnown(; order = 3)"


NAMES = {name: getattr(ps, name) for name in ps.list_algorithms()}


@pytest.mark.parametrize("name", ps.list_algorithms())
def test_each_that_is_listed_can_be_made(name):
    stiff = (ps.Rodas5P(),) if name in ps.list_algorithms("auto") else ()
    assert getattr(ps, name)(*stiff) == ps.Algorithm(name, *stiff) == eval(repr(ps.Algorithm(name, *stiff)), NAMES)


OSCILLATOR = ps.ODEProblem(lambda u, p, t: [u[1], -9 * u[0]], np.array([1.0, 0.0]), (0.0, 3.0))
BETWEEN = np.array([0.377, 1.234, 2.718])


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("name", ["ExtrapolationMidpointDeuflhard", "Feagin12", "QPRK98", "Stepanov5"])
def test_saved_states_of_long_steps(julia_engine, name):
    """Steps end at the saved times: between them a cubic was off by up to 0.5 at rtol=1e-4."""
    for rtol in (1e-4, 1e-8):
        sol = ps.solve(OSCILLATOR, name, saveat=BETWEEN, rtol=rtol, atol=rtol, engine=julia_engine)
        np.testing.assert_allclose(sol.u[:, 0], np.cos(3 * BETWEEN), rtol=0, atol=1000 * rtol)
    whole = ps.solve(OSCILLATOR, name, rtol=1e-8, atol=1e-8, engine=julia_engine)
    with pytest.warns(ps.AccuracyWarning, match="dense output"):
        whole(1.234)


@pytest.mark.parametrize("name", ["ROS3P", "ROS34PW1a", "ROS34PW1b", "ROS3PR", "CKLLSRK95_4C", "CKLLSRK85_4FM_4R"])
def test_what_is_wrong_at_any_tolerance_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}: it reports success and is wrong"):
        ps.solve(OSCILLATOR, name)


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("name", ["TRBDF2", "Kvaerno3", "SDIRK2", "AN5"])
def test_what_misses_its_tolerance_by_far_is_told(julia_engine, name):
    problem = ps.remake(OSCILLATOR, f=lambda u, p, t: [u[1], -9 * u[0]])
    with pytest.warns(ps.AccuracyWarning, match=name):
        ps.solve(problem, name, engine=julia_engine)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ps.AccuracyWarning)
        if name != "AN5":
            ps.solve(problem, name, dt=0.001, adaptive=False, engine=julia_engine)


def test_any_package():
    algorithm = ps.Algorithm("CVODE_BDF", package="Sundials", method="Newton")
    assert algorithm.package == "Sundials" and algorithm != ps.Algorithm("CVODE_BDF", method="Newton")
    assert pickle.loads(pickle.dumps(algorithm)) == algorithm and "package='Sundials'" in repr(algorithm)
    assert type(ps.Algorithm("Tsit5", package="OrdinaryDiffEqTsit5")) is ps.Tsit5
    other = ps.Algorithm("Tsit5", package="MySolvers")
    assert type(other) is ps.Algorithm and other.package == "MySolvers" and other.family is None
    for bad in ("Sun dials", "", 3):
        with pytest.raises(ValueError, match="package"):
            ps.Algorithm("CVODE_BDF", package=bad)


@pytest.mark.julia
def test_a_package_that_is_not_there(julia_engine):
    problem = ps.ODEProblem(lambda u, p, t: -u, [1.0], (0.0, 1.0))
    with pytest.raises(ps.JuliaError, match="NoSuchSolvers is not in this Julia environment"):
        ps.solve(problem, ps.Algorithm("Tsit5", package="NoSuchSolvers"), engine=julia_engine)


@pytest.mark.slow
@pytest.mark.julia
def test_a_solver_from_a_package_outside_the_table(julia_engine):
    from juliacall import JuliaError, Main

    try:
        Main.seval("import DiffEqGPU")  # which brings SimpleDiffEq
    except JuliaError:
        pytest.skip("DiffEqGPU is not in this Julia environment")
    problem = ps.ODEProblem(lambda u, p, t: -u, [1.0], (0.0, 1.0))
    algorithm = ps.Algorithm("SimpleATsit5", package="SimpleDiffEq")
    sol = ps.solve(problem, algorithm, rtol=1e-8, atol=1e-10, engine=julia_engine)
    assert sol.u[:, 0] == pytest.approx(np.exp(-sol.t), rel=1e-7) and sol.t[-1] == 1.0
    event = ps.ContinuousCallback(lambda u, p, t: u[0] - 0.5)
    with pytest.raises(ps.JuliaError, match="takes no callback"):
        ps.solve(problem, algorithm, callback=event, engine=julia_engine)


@pytest.mark.parametrize(
    "algorithm, text",
    [
        (lambda: ps.Tsit5(), "Tsit5()"),
        (lambda: ps.Rodas5P(linsolve="KLUFactorization"), "Rodas5P(; linsolve = KLUFactorization())"),
        (lambda: ps.Rodas5P(autodiff=False), "Rodas5P(; autodiff = AutoFiniteDiff())"),
        (lambda: ps.FBDF(nlsolve="NLNewton(max_iter = 20)"), "FBDF(; nlsolve = NLNewton(max_iter = 20))"),
        (lambda: ps.AutoTsit5(ps.Rosenbrock23(autodiff=True)), "AutoTsit5(Rosenbrock23(; autodiff = AutoForwardDiff()))"),
        (lambda: ps.RadauIIA5(smooth_est=False, max_iter=3, kappa=0.1), "RadauIIA5(; smooth_est = false, max_iter = 3, kappa = 0.1)"),
        (lambda: ps.SBDF(2), "SBDF(2)"),
        (lambda: ps.FBDF(max_factor=np.float64(2.5), kappa=float("-inf")), "FBDF(; max_factor = 2.5, kappa = -Inf)"),
    ],
)
def test_the_julia_text(algorithm, text):
    assert algorithm().julia == text


def test_algorithms_are_values():
    algorithm = ps.Rodas5P(linsolve="KLUFactorization")
    for other in (pickle.loads(pickle.dumps(algorithm)), copy.deepcopy(algorithm)):
        assert other == algorithm and type(other) is ps.Rodas5P
    assert repr(algorithm) == "Rodas5P(linsolve='KLUFactorization')"
    with pytest.raises(AttributeError, match="does not change"):
        algorithm.name = "FBDF"


def test_switching_algorithms_need_what_they_switch_to():
    with pytest.raises(TypeError, match=r"AutoTsit5\(Rodas5P\(\)\)"):
        ps.AutoTsit5()


@pytest.mark.julia
def test_julia_knows_every_algorithm():
    """Each sub-package that is installed exports what the table says of it, but for what is newer than the package."""
    from pysciode.engines import get_engine
    from pysciode.engines.julia.installation import installed_packages, julia_project

    get_engine("julia").start()
    from juliacall import Main

    installed = installed_packages(julia_project())
    missing, present = [], 0
    for (_, package), names in ALGORITHMS.items():
        if package not in installed:
            continue
        Main.seval(f"import {package}")
        for name in names.replace("*", "").split():
            if Main.seval(f"isdefined({package}, :{name})"):
                present += 1
            else:
                missing.append(name)
    assert present > 200
    newer = {"Rodas3d", "NordsieckBDF", "DNordsieckBDF"}
    assert {name for name in missing if not name.startswith("AlJahdali")} <= newer


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("name", ["Kvaerno3", "Kvaerno4", "SDIRK2"])
def test_methods_that_take_a_stage_at_a_wrong_time_say_so(name):
    """If one of these gets accurate, SciML has mended it, and the warning goes."""
    algorithm = getattr(ps, name)()
    exact = math.sin(3.0)

    def error(f, u0):
        problem = ps.ODEProblem(f, u0, (0.0, 3.0))
        return abs(ps.solve(problem, algorithm, saveat=[3.0], rtol=1e-6, atol=1e-6, engine="julia").u[0, 0] - exact)

    with pytest.warns(ps.AccuracyWarning, match=f"{name}.*takes a stage at a wrong time"):
        pushed = error(lambda u, p, t: [np.cos(t) - 10 * (u[0] - np.sin(t))], [0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "SciML's .* its errors are more than", ps.AccuracyWarning)  # of Kvaerno3 and SDIRK2 anywhere
        as_state = error(lambda u, p, t: [np.cos(u[1]) - 10 * (u[0] - np.sin(u[1])), 1.0 + 0 * u[0]], [0.0, 0.0])
    assert pushed > 10 * as_state
