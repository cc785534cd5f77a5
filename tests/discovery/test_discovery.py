"""Discovery from samples and trajectories whose equations are known."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import sympy
import torch
from scipy.integrate import solve_ivp

from pysciode.discovery import Physics, discover, information_criteria
from pysciode.discovery.criteria import correlation_time, deviance

pysindy = pytest.importorskip("pysindy")

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
x, y, z = sympy.symbols("x y z")


def lorenz(t, u):
    return [SIGMA * (u[1] - u[0]), u[0] * (RHO - u[2]) - u[1], u[0] * u[1] - BETA * u[2]]


@pytest.fixture(scope="module")
def trajectory() -> tuple[np.ndarray, np.ndarray]:
    t = np.arange(0.0, 10.0, 0.01)
    return t, solve_ivp(lorenz, (0.0, 10.0), [-8.0, 7.0, 27.0], t_eval=t, rtol=1e-10, atol=1e-10).y.T


LORENZ = {
    "x[x]": -SIGMA, "x[y]": SIGMA, "y[x]": RHO, "y[y]": -1.0, "y[x*z]": -1.0, "z[z]": -BETA, "z[x*y]": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(("noise", "tolerance"), [(0.0, 2e-3), (0.05, 0.05)])
def test_lorenz_from_noisy_trajectories(trajectory, noise, tolerance):
    t, u = trajectory
    noisy = u + noise * np.random.default_rng(1).standard_normal(u.shape)
    found = discover(noisy, t=t, symbols="x y z")
    assert set(found.coefficients) == set(LORENZ)
    for name, value in LORENZ.items():
        assert found.coefficients[name] == pytest.approx(value, rel=tolerance), name
    assert found.terms == tuple(
        tuple(e.xreplace({s: sympy.Integer(1) for s in map(sympy.Symbol, LORENZ)}) for e in sympy.Add.make_args(form))
        for form in found.forms
    )


def test_two_trajectories_are_not_joined(trajectory):
    t, u = trajectory
    parts = [u[:500], u[700:]]
    found = discover(parts, t=[t[:500], t[:300]], symbols="x y z")
    assert set(found.coefficients) == set(LORENZ)
    for name, value in LORENZ.items():
        assert found.coefficients[name] == pytest.approx(value, rel=2e-3), name


def test_smoothing_does_not_bias_coefficients():
    """A sine of 24 samples a period, through a window of 11: its derivative loses 10 %, the coefficient nothing."""
    t = np.arange(240) * 2 * np.pi / 24
    u = np.stack([np.cos(t), -np.sin(t)], 1)
    found = discover(u, t=t, symbols="x v", library=1)
    assert found.coefficients == {"x[v]": pytest.approx(1.0, rel=2e-3), "v[x]": pytest.approx(-1.0, rel=2e-3)}
    biased = discover(u, t=t, symbols="x v", library=1, differentiation=pysindy.SmoothedFiniteDifference(), max_terms=1)
    assert abs(biased.coefficients["x[v]"] - 1.0) > 3e-3


def samples(n: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 2.0, (n, 2))


def test_criteria_are_the_textbook_ones():
    """Burnham and Anderson (2002), section 2.2 and 2.4: n log(RSS/n) + 2K, and the correction 2K(K+1)/(n-K-1)."""
    found = information_criteria(deviance(3.0, 20, 20), 20, 4)
    base = 20 * np.log(3.0 / 20)
    assert found["aic"] == pytest.approx(base + 8)
    assert found["aicc"] == pytest.approx(base + 8 + 40 / 15)
    assert found["bic"] == pytest.approx(base + 4 * np.log(20))
    assert information_criteria(1.0, 5, 4)["aicc"] == np.inf


def test_correlation_time_of_an_autoregression():
    rng = np.random.default_rng(0)
    errors, noise = np.zeros(100_000), rng.standard_normal(100_000)
    for i in range(1, len(errors)):
        errors[i] = 0.8 * errors[i - 1] + noise[i]
    assert correlation_time(errors) == pytest.approx((1 + 0.8) / (1 - 0.8), rel=0.1)
    assert correlation_time(noise) == pytest.approx(1.0, abs=0.1)


def test_chosen_by_the_criterion_with_the_fewest_terms_within_two():
    u = samples()
    target = 1.5 * u[:, 0] * u[:, 1] + 0.1 * np.random.default_rng(3).standard_normal(len(u))
    found = discover(u, target, symbols="x y", outputs=["f"])
    table = found.table
    close = table[table["aicc"] <= table["aicc"].min() + 2]
    assert len(found.coefficients) == close["terms"].min() == table["terms"].iloc[0]
    assert list(found.coefficients) == ["f[x*y]"]
    # its residuals and coefficient are those of least squares by hand
    column = u[:, 0] * u[:, 1]
    slope = column @ target / (column @ column)
    assert found.coefficients["f[x*y]"] == pytest.approx(slope, rel=1e-10)
    row = table[table["expression"] == f"{slope:.4g}*x*y"].iloc[0]
    assert row["rss"] == pytest.approx(((target - slope * column) ** 2).sum(), rel=1e-8)
    assert row["aic"] == pytest.approx(len(u) * np.log(row["rss"] / len(u)) + 4)


def test_resolution_stops_at_the_error_of_a_network():
    u = samples(60)
    target = u[:, 0] * u[:, 1] * (1 + 0.02 * np.sin(3 * u[:, 0]))  # smooth, and no polynomial
    assert len(discover(u, target, symbols="x y", library=4).coefficients) > 1
    found = discover(u, target, symbols="x y", library=4, resolution=0.03)
    assert list(found.coefficients) == ["y0[x*y]"]


LIBRARIES = {
    "degree": 3,
    "expressions": [x * y, x, y, sympy.sin(x), sympy.exp(-y)],
    "text": ["x*y", "x", "sin(x)", "y**3"],
    "polynomials": pysindy.PolynomialLibrary(degree=2),
    "concatenated": pysindy.PolynomialLibrary(degree=1) + pysindy.FourierLibrary(n_frequencies=2, include_cos=False),
    "tensored": pysindy.PolynomialLibrary(degree=1, include_bias=False) * pysindy.FourierLibrary(include_cos=False),
    "custom": pysindy.CustomLibrary([lambda a: np.exp(-a), lambda a, b: a * b / (1 + b), lambda a: np.sqrt(a)]),
    "named": pysindy.CustomLibrary([lambda a, b: a * b], function_names=[lambda a, b: f"({a}){b}"]),
}


@pytest.mark.parametrize("library", list(LIBRARIES))
def test_every_term_of_a_library_is_its_expression(library):
    """One output for each feature, which must be found with a coefficient of one."""
    library, u = LIBRARIES[library], samples()
    if hasattr(library, "transform"):
        library.fit(u)
        targets = np.asarray(library.transform(u))
    else:
        targets = None
    if targets is None:
        targets = np.stack([u[:, 0] * u[:, 1], u[:, 0]], 1)
    found = discover(u, targets, symbols="x y", library=library, thresholds=[0.1], exhaustive=1)
    np.testing.assert_allclose(found(u), targets, rtol=1e-6, atol=1e-8)
    assert len(found.coefficients) == targets.shape[1]
    values = sympy.lambdify([x, y], found.expressions)(*u.T)
    for value, column in zip(values, targets.T, strict=True):
        np.testing.assert_allclose(np.broadcast_to(value, len(u)), column, rtol=1e-6, atol=1e-8)


def test_a_feature_without_expression_is_named():
    library = pysindy.CustomLibrary([lambda a: np.where(np.asarray(a).cumsum() > 3, a, 0.5)])
    with pytest.raises(ValueError, match=r"f0\(x\), f0\(y\)"):
        discover(samples(), samples(seed=1), symbols="x y", library=library)


@pytest.mark.parametrize(
    "optimizer",
    [
        pysindy.STLSQ(alpha=1e-3),
        pysindy.SR3(),
        pysindy.SSR(max_iter=10),
        pysindy.FROLS(max_iter=5),
        pysindy.EnsembleOptimizer(pysindy.STLSQ(), bagging=True, n_models=5),
        [pysindy.STLSQ(), pysindy.SR3()],
    ],
    ids=lambda x: type(x).__name__,
)
def test_optimisers_of_pysindy(optimizer):
    u = 2 * samples() - 2
    target = 2.0 * u[:, 0] ** 2 - 0.7 * u[:, 1] + 0.5 + 0.01 * np.random.default_rng(5).standard_normal(len(u))
    thresholds = np.logspace(-2, 0, 10)
    found = discover(u, target, symbols="x y", library=2, optimizer=optimizer, thresholds=thresholds, exhaustive=0)
    assert set(found.coefficients) == {"y0[1]", "y0[x**2]", "y0[y]"}
    assert found.coefficients["y0[x**2]"] == pytest.approx(2.0, rel=0.01)


def test_units_do_not_matter():
    u = samples()
    target = 3.0 * u[:, 0] * u[:, 1] - 0.5 * u[:, 1] + 0.02 * np.random.default_rng(6).standard_normal(len(u))
    one = discover(u, target, symbols="x y")
    scale = np.array([1e4, 1e-3])
    other = discover(u * scale, target * 1e-6, symbols="x y")
    assert set(one.coefficients) == set(other.coefficients) == {"y0[x*y]", "y0[y]"}
    assert other.coefficients["y0[x*y]"] == pytest.approx(one.coefficients["y0[x*y]"] * 1e-6 / scale.prod(), rel=1e-8)


def test_tensors_are_samples():
    u = torch.from_numpy(samples())
    found = discover(u, (2 * u[:, 0] * u[:, 1]).requires_grad_(), symbols="x y")
    assert found.coefficients == {"y0[x*y]": pytest.approx(2.0)}


def test_latex_and_text():
    u = samples()
    found = discover(u, np.stack([u[:, 1], -4.0 * u[:, 0]], 1), symbols="x v")
    assert str(found).splitlines()[:2] == ["dx/dt = 1.0*v", "dv/dt = -4.0*x"]
    latex = found.to_latex()
    assert latex.startswith(r"\begin{aligned}") and r"\frac{\mathrm{d}v}{\mathrm{d}t} &= - 4.0 x" in latex


def test_back_into_known_physics():
    """Names that SymPy has another meaning for, too."""
    u = samples()
    found = discover(u, 0.4 * u[:, :1] * u[:, 1:], symbols="S I", outputs=["infection"])
    physics = Physics(["-infection", "infection - gamma*I"], ["infection"], "S I", {"gamma": 0.1})
    whole = found.inside(physics)
    S, I = sympy.symbols("S I")
    expected = [-0.4 * S * I, 0.4 * S * I - 0.1 * I]
    for e, right in zip(whole.rhs, expected, strict=True):
        difference = sympy.lambdify([S, I], e - right)(*u.T)
        np.testing.assert_allclose(difference, 0.0, atol=1e-12)
    problem = whole.problem([0.99, 0.01], (0.0, 30.0))
    assert problem.layout.names == ("infection[I*S]", "gamma")
    with pytest.raises(ValueError, match="2 unknowns"):
        found.inside(Physics(["a", "b"], "a b", "S I"))
    with pytest.raises(ValueError, match="known physics"):
        found.problem([0.99, 0.01], (0.0, 30.0))


def test_the_problem_solves_as_the_truth(engine):
    import pysciode as ps

    t = np.linspace(0.0, 5.0, 400)
    u = np.stack([np.exp(-0.3 * t) * np.cos(2 * t), np.exp(-0.3 * t) * np.sin(2 * t)], 1)
    right = u @ np.array([[-0.3, 2.0], [-2.0, -0.3]])
    problem = discover(u, right, symbols="x y", library=1).problem(u[0], (0.0, 5.0))
    found = ps.solve(problem, saveat=t, rtol=1e-9, atol=1e-9, engine=engine)
    np.testing.assert_allclose(found.u, u, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, ValueError, "one of the two"),
        ({"y": np.ones(5), "t": np.arange(5.0)}, ValueError, "one of the two"),
        ({"y": np.ones(7)}, ValueError, "y must have as many samples"),
        ({"y": np.full(200, np.nan)}, ValueError, "y must be finite"),
        ({"y": "abc"}, TypeError, "y must be numbers"),
        ({"t": np.zeros(200)}, ValueError, "t must be increasing"),
        ({"t": np.arange(200.0) ** 2}, ValueError, "equal steps"),
        ({"y": np.ones(200), "symbols": "x"}, ValueError, "symbols must name each of the 2"),
        ({"y": np.ones(200), "symbols": ["x", 3]}, TypeError, "symbols must be"),
        ({"y": np.ones(200), "symbols": "x x"}, ValueError, "different"),
        ({"y": np.ones(200), "outputs": ["a", "b"]}, ValueError, "outputs must name"),
        ({"y": np.ones(200), "library": "poly"}, TypeError, "library must be"),
        ({"y": np.ones(200), "library": ["q"]}, ValueError, "library has q"),
        ({"y": np.ones(200), "library": ["log(x0 - 5)"]}, ValueError, "not finite"),
        ({"y": np.ones(200), "optimizer": 3}, TypeError, "optimizer must be"),
        ({"y": np.ones(200), "thresholds": [-1.0]}, ValueError, "thresholds"),
        ({"y": np.ones(200), "criterion": "r2"}, ValueError, "criterion"),
        ({"y": np.ones(200), "resolution": 2}, ValueError, "resolution"),
        ({"y": np.ones(200), "max_terms": 0}, ValueError, "max_terms"),
        ({"y": np.ones(200), "method": "magic"}, ValueError, "method"),
        ({"y": np.ones(200), "niterations": 5}, TypeError, "niterations"),
        ({"y": np.ones(200), "method": "pysr", "library": 2}, ValueError, "library, optimizer and thresholds"),
    ],
)
def test_bad_input(arguments, error, text):
    with pytest.raises(error, match=text):
        discover(samples(), **arguments)


def test_constraints_are_refused():
    optimizer = pysindy.STLSQ()
    optimizer.constraint_lhs = np.ones((1, 10))  # PySINDy's own ones need cvxpy
    with pytest.raises(ValueError, match="constraints"):
        discover(samples(), np.ones(200), optimizer=optimizer)


class StandIn:
    """What ``pysr.PySRRegressor`` is documented to have: ``fit``, ``equations_`` and ``sympy``."""

    made: list = []

    def __init__(self, **options):
        self.options = options
        self.made.append(self)

    def fit(self, X, y, variable_names=None):
        self.X, self.y, self.names = X, y, variable_names
        a, b = sympy.symbols(variable_names)
        self.found = [
            sympy.Float(1.3),
            sympy.Float(0.5) * a * b,
            sympy.Float(0.5) * a * b / (sympy.Float(2.0) + b**2.0),
            sympy.Float(0.5) * a * b / (sympy.Float(2.0) + b**2) + sympy.Float(1e-9) * sympy.sin(a),
            sympy.log(a - 100),
        ]
        self.equations_ = pd.DataFrame({"complexity": [1, 3, 7, 11, 4], "loss": 0.0}, index=range(5))
        return self

    def sympy(self, index=None):
        return self.found[index]


def test_expressions_of_pysr_are_translated(monkeypatch):
    module = ModuleType("pysr")
    module.PySRRegressor = StandIn
    monkeypatch.setitem(sys.modules, "pysr", module)
    u = samples()
    target = 0.5 * u[:, 0] * u[:, 1] / (2 + u[:, 1] ** 2)
    found = discover(u, target, symbols="E beta", outputs=["rate"], method="pysr", niterations=7)
    made = StandIn.made[-1]
    assert made.options == {"niterations": 7}
    np.testing.assert_array_equal(made.X, u)
    np.testing.assert_array_equal(made.y, target)
    E, beta = sympy.symbols("E beta")
    assert sorted(found.coefficients.values()) == [0.5, 2.0]
    np.testing.assert_allclose(found(u)[:, 0], target, rtol=1e-12)
    assert found.forms[0].free_symbols == {E, beta, *map(sympy.Symbol, found.coefficients)}
    assert beta**2 in found.forms[0].atoms(sympy.Pow)  # the exponent is no coefficient
    assert len(found.table) == 4  # the logarithm has no value
    problem = found.inside(Physics(["-rate", "rate"], ["rate"], "E beta")).problem([1.0, 1.0], (0.0, 1.0))
    assert problem.layout.size == 2


def test_what_to_install_for_pysr(monkeypatch):
    monkeypatch.setitem(sys.modules, "pysr", None)
    with pytest.raises(ImportError, match="pip install pysr"):
        discover(samples(), np.ones(200), method="pysr")


def test_what_to_install_for_pysindy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pysindy", None)
    with pytest.raises(ImportError, match=r"pysciode\[discovery\]"):
        discover(samples(), np.ones(200))
