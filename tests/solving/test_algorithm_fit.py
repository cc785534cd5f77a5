"""Algorithms that do not fit the equations are refused or warned of: every row of the table, on models that have the property and ones that lack it."""

from __future__ import annotations

import itertools
import pathlib
import warnings

import numpy as np
import pytest
import torch

import pysciode as ps
from pysciode.methods.algorithm_table import MISFITS, PROPERTIES
from pysciode.solving.method_fit import check_fit, table

# What f1 and f2 of dv/dt = f1(v, u, p, t), du/dt = f2(v, u, p, t) are, by the properties that they have.
DYNAMICAL = {
    "plain": ("-p * u", "v", set()),
    "pushed": ("-p * u + lib.cos(3.0 * t)", "v", {"time"}),
    "damped": ("-p * u - 0.1 * v", "v", {"velocity", "not_separable"}),
    "friction": ("-p * u - 0.1 * lib.where(v > 0.0, 1.0 + 0.0 * v, -1.0 + 0.0 * v)", "v", {"velocity", "not_separable"}),
    "scaled": ("-p * u", "2.0 * v", {"not_second_order"}),
    "relativistic": ("-p * u", "v / lib.sqrt(1.0 + v * v)", {"not_second_order"}),
    "coupled": ("-p * u", "v * (1.0 + u)", {"not_second_order", "not_separable"}),
    "drifting": ("-p * u", "v + t", {"not_second_order", "time"}),
}
FIRST_ORDER = {"autonomous": ("-p * u", set()), "driven": ("-p * u + t", {"time"}), "gated": ("lib.where(t > 0.5, u, -p * u)", {"time"})}
SIZES = {"few": 2, "many": 600}  # unrolled to scalars, and kept as arrays


def function(text: str, arguments: str, library: str):
    module = torch if library == "torch" else np
    return eval(f"lambda {arguments}: {text}", {"lib": module, "__name__": __name__})


def problems(kind: str, library: str, size: str):
    """Problems, with the properties that each of them has."""
    n = SIZES[size]
    u0 = torch.ones(n, dtype=torch.float64) if library == "torch" else np.ones(n)
    if kind == "dynamical":
        for f1, f2, has in DYNAMICAL.values():
            parts = (function(x, "v, u, p, t", library) for x in (f1, f2))
            yield ps.DynamicalODEProblem(*parts, u0, u0, (0.0, 1.0), 1.0), has
    elif kind == "second_order":
        for f1, f2, has in DYNAMICAL.values():
            if f2 == "v":
                yield ps.SecondOrderODEProblem(function(f1, "v, u, p, t", library), u0, u0, (0.0, 1.0), 1.0), has
    else:
        for f, has in FIRST_ORDER.values():
            yield ps.ODEProblem(function(f, "u, p, t", library), u0, (0.0, 1.0), 1.0), has


def names_of(row):
    for x in row.names.split():
        yield from [x] if hasattr(ps, x) else ps.list_algorithms(x)


CASES = sorted({name for row in MISFITS for name in names_of(row)} | {"Nystrom4", "FineRKN5", "Tsit5", "Rodas5P", "KenCarp4"})


@pytest.mark.parametrize("library, size", [*itertools.product(("numpy", "torch"), ("few",)), ("torch", "many")])
@pytest.mark.parametrize("kind", ["ode", "second_order", "dynamical"])
def test_what_the_table_says_happens(kind, library, size):
    cells = 0
    for problem, has in problems(kind, library, size):
        for name in CASES:
            algorithm = ps.Algorithm(name) if name not in ("AutoTsit5",) else ps.AutoTsit5(ps.Rodas5P())
            if algorithm.family in ("symplectic", "nystrom", "newmark") and kind == "ode":
                continue
            rows = [x for x in MISFITS if name in names_of(x) and (x.when in has or x.when in ("always", "controlled"))]
            cells += 1
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if any(x.refused for x in rows):
                    refusing = next(x for x in rows if x.refused)
                    where = f" does not fit.*{PROPERTIES[refusing.when]}" if refusing.when in has else ": "
                    with pytest.raises(ValueError, match=f"{name}{where}"):
                        check_fit(problem, algorithm, 0.1)
                else:
                    check_fit(problem, algorithm, 0.1)
            said = [str(w.message) for w in caught if w.category is ps.AccuracyWarning]
            if not any(x.refused for x in rows):
                assert len(said) == len(rows), (name, has, said)
                assert all(name in text and "Take" in text for text in said)
    assert cells >= 30


def test_the_documentation_has_the_table():
    page = pathlib.Path(__file__).parents[2] / "docs" / "algorithm_fit.md"
    assert table() in page.read_text(encoding="utf-8")


def test_models_that_cannot_be_looked_into_are_warned_of():
    problem = ps.SecondOrderODEProblem(lambda v, u, p, t: -u - v, [0.0], [1.0], (0.0, 1.0), capture="callback")
    with pytest.warns(ps.AccuracyWarning, match="DPRKN6.*may be so in this model"):
        check_fit(problem, ps.DPRKN6(), None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_fit(problem, ps.FineRKN5(), None)


def test_solve_refuses_before_an_engine_starts():
    problem = ps.SecondOrderODEProblem(lambda v, u, p, t: -u - v, [0.0], [1.0], (0.0, 1.0))
    with pytest.raises(ValueError, match="DPRKN6 does not fit this model.*velocity.*FineRKN4"):
        ps.solve(problem, ps.DPRKN6())


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("name", ["DPRKN6", "ERKN7", "IRKN3", "Nystrom5VelocityIndependent"])
def test_refused_methods_are_wrong_there(name, monkeypatch, julia_engine):
    """If one of these gets accurate, SciML has mended it, and the row goes."""
    monkeypatch.setattr("pysciode.solving.method_fit.MISFITS", ())
    problem = ps.SecondOrderODEProblem(lambda v, u, p, t: -u - 0.5 * v, [0.0], [1.0], (0.0, 3.0))
    fixed = {"dt": 0.02} if ps.Algorithm(name).fixed_step else {}
    found, exact = (
        ps.solve(problem, x, saveat=[3.0], rtol=1e-8, atol=1e-8, engine=julia_engine, **y).u[0, 0]
        for x, y in ((ps.Algorithm(name), fixed), (ps.Vern9(), {}))
    )
    assert abs(found - exact) > 1e-6


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.parametrize("name", ["ROS3P", "ROS34PW1b", "CKLLSRK95_4C"])
def test_methods_that_are_wrong_anywhere_still_are(name, monkeypatch, julia_engine):
    """As above: of `cos(3t)`."""
    monkeypatch.setattr("pysciode.solving.method_fit.MISFITS", ())
    problem = ps.ODEProblem(lambda u, p, t: [u[1], -9 * u[0]], [1.0, 0.0], (0.0, 3.0))
    found = ps.solve(problem, name, saveat=[3.0], rtol=1e-8, atol=1e-8, engine=julia_engine).u[0, 0]
    assert abs(found - np.cos(9.0)) > 1e-2
