"""Names, strings and numbers of the user's are data: whatever they hold, they can't become Julia code."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pysciode as ps
from pysciode.engines.julia.commands import toml
from pysciode.methods.algorithms import julia_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings there

F64 = torch.float64
TIGHT = dict(rtol=1e-8, atol=1e-10)
FEW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
# What would end a string, a statement or an interpolation, or clash with names in generated code.
NASTY = [
    'a"; global hacked = 1; "', "$(global hacked = 1)", "`touch hacked`", '"""', "'", "\\", "\n", "\t\x00", "end", "begin",
    "function", "u", "p", "du", "t", "w", "Kernels", "NaNMath", "u[1]", "p1", "x1", "true", "ü", "α₂", "😀", "\u2028", "#=", "",
]  # fmt: skip
names = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=8))


@pytest.fixture(autouse=True)
def _nothing_ran(tmp_path, monkeypatch, request):
    """No file was made, and no global of Julia's."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.glob("hacked*"))
    if "julia" in request.node.name:
        import juliacall

        assert not juliacall.Main.seval("any(m -> isdefined(m, :hacked), (Main, Base, PySciODE))")


@pytest.fixture(params=[pytest.param("julia", marks=pytest.mark.julia), "embedded"], scope="module")
def engine(request) -> str:
    return request.param


@FEW
@given(first=names, second=names, kind=st.sampled_from(["NumPy", "torch", "nested"]))
def test_keys_of_parameters(first, second, kind, engine):
    if first == second:
        second += "2"
    two, three = (2.0, 3.0) if kind == "NumPy" else (torch.tensor(x, dtype=F64) for x in (2.0, 3.0))
    u0 = [1.0] if kind == "NumPy" else torch.ones(1, dtype=F64)
    p = {first: {second: two, "": {first: three}}} if kind == "nested" else {first: two, second: three}

    def f(u, p, t):
        a, b = (p[first][second], p[first][""][first]) if kind == "nested" else (p[first], p[second])
        return -a / b * u

    if kind == "nested" and second == "":
        return
    problem = ps.ODEProblem(f, u0, (0.0, 1.0), p, name=first)
    sol = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine, **TIGHT)
    assert float(sol.u[0, 0]) == pytest.approx(math.exp(-2 / 3), rel=1e-6)
    assert problem.layout.size == 2 and len(set(map(id, problem.layout.names))) == 2


@FEW
@given(name=names.filter(lambda x: x and "." not in x))
def test_names_of_modules_and_their_tensors(name, engine):
    if name in ("forward",) or hasattr(torch.nn.Module, name):
        return

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_parameter(name, torch.nn.Parameter(torch.tensor(2.0, dtype=F64)))
            self.inner = torch.nn.ModuleDict({name + "_": torch.nn.Linear(1, 1, bias=False, dtype=F64)})
            self.register_buffer("buffer" + name, torch.tensor(0.5, dtype=F64))
            torch.nn.init.constant_(self.inner[name + "_"].weight, 3.0)

        def forward(self, u):
            return -getattr(self, name) * self.inner[name + "_"](u) * getattr(self, "buffer" + name) / 3

    try:
        model = Model()
    except (KeyError, AttributeError, TypeError):
        return  # torch has names of its own
    sol = ps.solve(ps.ODEProblem(model, torch.ones(2, 1, dtype=F64), (0, 1)), ps.Tsit5(), saveat=[1.0], engine=engine, **TIGHT)
    torch.testing.assert_close(sol.u[0], torch.full((2, 1), math.exp(-1), dtype=F64), rtol=1e-6, atol=0)


@FEW
@given(state=names, rate=names, time=names)
def test_names_of_symbols(state, rate, time, engine):
    import sympy

    x, k, t = (sympy.Symbol(name, real=True) for name in dict.fromkeys((state + "x", rate + "k", time + "t")))
    problem = ps.ODEProblem(((-k * x * (1 + t),), (x,), (k,), t), [1.0], (0.0, 1.0), [2.0])
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine, **TIGHT).u
    assert u[0, 0] == pytest.approx(math.exp(-3), rel=1e-6)


def test_functions_of_symbols_are_not_called():
    import sympy

    x, k = sympy.symbols("x k")
    for name in ("exit", "run", "hacked = 1; f"):
        problem = ps.ODEProblem(((-k * sympy.Function(name)(x),), (x,), (k,)), [1.0], (0.0, 1.0), [2.0])
        with pytest.raises(ps.CaptureError, match=name[:4]):
            ps.solve(problem, engine="embedded")


# Numbers that Julia writes otherwise than Python.
NUMBERS = [0.0, -0.0, 1e-320, 5e-324, 1e300, 1e22, 1e16, 0.1, -1e-5, 123456789.123456789, 1 / 3, 2.0**63, 3.0]


@FEW
@given(numbers=st.lists(st.one_of(st.sampled_from(NUMBERS), st.floats(-1e100, 1e100)), min_size=3, max_size=6))
def test_numbers_within_a_model(numbers, engine):
    """Constants of a captured model arrive bit for bit: the state moves by them in one Euler step of length 1."""

    def f(u, p, t):
        return [0.0 * x + number for x, number in zip(u, numbers, strict=True)]

    problem = ps.ODEProblem(f, np.zeros(len(numbers)), (0.0, 1.0))
    u = ps.solve(problem, ps.Euler(), dt=1.0, adaptive=False, saveat=[1.0], engine=engine).u[-1]
    np.testing.assert_array_equal(u, numbers)
    with np.errstate(over="ignore"):
        single = np.float32(numbers)
    if np.isfinite(single).all():
        problem = ps.ODEProblem(f, np.zeros(len(numbers), np.float32), (0.0, 1.0))
        u = ps.solve(problem, ps.Euler(), dt=1.0, adaptive=False, saveat=[1.0], engine=engine).u[-1]
        np.testing.assert_array_equal(u, single)


@pytest.mark.parametrize("kind", [int, np.float32, np.float64, np.int64, np.int8, bool])
def test_kinds_of_numbers(kind, engine):
    """In a closure and as a parameter."""
    one = kind(1)
    problem = ps.ODEProblem(lambda u, p, t: [-one * u[0]], [1.0], (0.0, 1.0))
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine, **TIGHT).u
    assert u[0, 0] == pytest.approx(math.exp(-1), rel=1e-6)
    problem = ps.ODEProblem(lambda u, p, t: [(-one + 0.0 * p[0]) * u[0]], [1.0], (0.0, 1.0), [5e-324])
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine, **TIGHT).u
    assert u[0, 0] == pytest.approx(math.exp(-1), rel=1e-6)


# Algorithms

UNWANTED = ["a; run(`x`)", "a b", "if", "end", 'a"b', "x\ny", "a=1; b", "", "1a", "a(b", "ü"]


@pytest.mark.parametrize("name", [*UNWANTED, "exit", "run", "Tsit5()", "Tsit5;x", "Tsit5\n", "Base.exit", "quit"])
def test_names_of_algorithms(name):
    with pytest.raises(ValueError, match="Julia"):
        ps.Algorithm(name)


@pytest.mark.parametrize("key", UNWANTED)
def test_names_of_their_options(key):
    for make in (ps.Tsit5, lambda **options: ps.Algorithm("New", **options), lambda **options: ps.AutoTsit5(ps.Rodas5P(**options))):
        with pytest.raises(ValueError, match="identifier"):
            make(**{key: 1})


@pytest.mark.parametrize(
    "text",
    [
        "Base.run(`x`)", "A($(exit()))", "A(; x = exit())", 'A("x")', "A.b(1)", "A\n;exit()", "A(1)(2)", "A()()", "A(1).B", "exit()",
        "Main.exit", "A{B}", "A(; b)", "", "()", ")A(", "A(", "A)", "A;B", "A, B", "A=B", "A();B()", "A(B) C", "let", "A(x=begin)",
        "A(()->exit())", "A(@x)", "A(#\n)", "A[1]", "A'", "A...", "A(x::B)", "A(x -> 1)",
    ],
)  # fmt: skip
def test_texts_of_constructors(text):
    with pytest.raises(ValueError, match="no plain Julia constructor"):
        julia_text(text)
    with pytest.raises(ValueError, match="no plain Julia constructor"):
        ps.Rodas5P(linsolve=text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("AaB1.:()=;, \n$`\"'{}[]@#-e_"), max_size=14))
def test_texts_that_pass_hold_nothing_else(text):
    try:
        accepted = julia_text(text)
    except ValueError:
        return
    assert not set(accepted) & set("$`\"'{}[]@#")
    assert accepted.count("(") == accepted.count(")") and (";" not in accepted or "(" in accepted.partition(";")[0])
    head = accepted.partition("(")[0].rpartition(".")[2].strip()
    assert head[:1].isupper() or head[:1] in "-0123456789:" or head in ("true", "false", "nothing")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.int64(3), "3"), (np.float32(0.5), "0.5"), (np.bool_(True), "true"), (torch.tensor(2.0), "2.0"), (1e-320, "1e-320"),
        (-0.0, "-0.0"), (math.nan, "NaN"), (-math.inf, "-Inf"), (None, "nothing"),
    ],
)  # fmt: skip
def test_values_of_options(value, text):
    assert ps.Algorithm("New", x=value).julia == f"New(; x = {text})"


@pytest.mark.parametrize("value", [1 + 2j, [1], b"x", object(), {"a": 1}, np.ones(2)])
def test_values_that_can_not_be_options(value):
    with pytest.raises(TypeError, match="option x"):
        ps.Algorithm("New", x=value)


def test_algorithms_that_julia_does_not_know(julia_engine):
    """An error, and nothing called that Base offers."""
    problem = ps.ODEProblem(lambda u, p, t: [-u[0]], [1.0], (0.0, 1.0))
    for algorithm in (ps.Algorithm("NoSuchThing"), ps.Rodas5P(linsolve="NoSuchThing"), ps.Algorithm("Cmd"), ps.Algorithm("Task")):
        with pytest.raises((ps.errors.JuliaError, ps.PysciodeError)):
            ps.solve(problem, algorithm, engine=julia_engine)
    assert ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=julia_engine).u[0, 0] == pytest.approx(math.exp(-1), rel=1e-5)


# Arguments of commands

values = st.recursive(
    st.one_of(
        st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False),
        st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(NASTY),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.one_of(names, st.text(st.characters(exclude_categories=["Cs"]))), values, max_size=4))
def test_commands_say_what_they_were_told(table):
    """Python's own reader of TOML is the judge; it wants no ``-0.0`` told from ``0.0``, hence the texts."""
    found = tomllib.loads(toml(table))
    assert found == table and repr(found) == repr(table)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 1 + 2j, object(), b"x", "\ud800"])
def test_values_that_no_command_can_hold(value):
    with pytest.raises((TypeError, ValueError)):
        toml({"key": value})
    with pytest.raises((TypeError, ValueError)):
        toml({"key": [{"inner": value}]})


@pytest.mark.slow
def test_options_of_solves(julia_engine):
    """They are keywords with values; SciML says which it doesn't know."""
    problem = ps.ODEProblem(lambda u, p, t: [-u[0]], [1.0], (0.0, 1.0))
    for key in ("a; global hacked = 1", "$(global hacked = 1)", "force_dtmin"):
        for value in (True, 'x"; global hacked = 1; "', "$(global hacked = 1)", "😀", "\x00\x7f"):
            try:
                u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=julia_engine, **{key: value}).u
            except (ps.PysciodeError, TypeError, ValueError):
                continue
            assert u[0, 0] == pytest.approx(math.exp(-1), rel=1e-5)


# Julia source


def test_source_with_strings_and_comments(julia_engine):
    source = '''
    const text = "quotes \\" and \\$(dollars) \\\\ \\n end"   # $(1 + 1) "
    """ 😀 $(2 + 1) α """
    const factor = length("$(1 + 1)αβ")
    f(u, p, t) = -p[1] / factor .* u   #= " =#
    '''
    u = ps.solve(ps.ODEProblem(source, [1.0], (0.0, 1.0), [3.0]), ps.Tsit5(), saveat=[1.0], engine=julia_engine, **TIGHT).u
    assert u[0, 0] == pytest.approx(math.exp(-1), rel=1e-6)


@pytest.mark.parametrize("name", ['a"; global hacked = 1; ".jl', "$(global hacked = 1).jl", "ü 😀 '`.jl", "back\\slash\n.jl"])
def test_paths_of_source(name, tmp_path, julia_engine):
    path = tmp_path / "src" / name
    path.parent.mkdir()
    path.write_text("f(u, p, t) = -p[1] .* u")
    for given_path in (path, Path(str(path))):
        u = ps.solve(ps.ODEProblem(given_path, [1.0], (0.0, 1.0), [1.0]), ps.Tsit5(), saveat=[1.0], engine=julia_engine, **TIGHT).u
        assert u[0, 0] == pytest.approx(math.exp(-1), rel=1e-6)


@pytest.mark.slow
def test_models_do_not_see_each_others_names(julia_engine):
    """Each source has a module of its own."""
    first = "const rate = 1.0\nf(u, p, t) = -rate .* u"
    second = "f(u, p, t) = -rate .* u"
    assert ps.solve(ps.ODEProblem(first, [1.0], (0.0, 1.0)), engine=julia_engine).success
    with pytest.raises(ps.errors.JuliaError, match="rate"):
        ps.solve(ps.ODEProblem(second, [1.0], (0.0, 1.0)), engine=julia_engine)
