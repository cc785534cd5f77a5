"""The scalar graph: its simplifications, and its derivatives against SymPy, finite differences and torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ode_models import MODELS, Model, call

from pysciode.capture.scalar_trace import trace_function
from pysciode.capture.symbolic import to_sympy
from pysciode.graphs.captured_model import ScalarModel
from pysciode.graphs.scalar_derivatives import forward, jacobian, reverse
from pysciode.graphs.scalar_graph import Scalar, ScalarGraph
from pysciode.graphs.scalar_ops import SCALAR_OPS
from pysciode.lowering.scalars.python_function import evaluate, python_function


def traced(model: Model) -> ScalarModel:
    return trace_function(model.f, model.u.shape, model.p.size)


def values(model: ScalarModel, outputs: list[Scalar], point: Model) -> np.ndarray:
    return python_function(model, outputs=outputs)(point.u.ravel(), point.p, point.t)


def dense_jacobian(model: ScalarModel, inputs: tuple[Scalar, ...], point: Model) -> np.ndarray:
    entries = jacobian(model.graph, model.rhs, inputs)
    out = np.zeros((len(model.rhs), len(inputs)))
    if entries:
        rows, columns = zip(*entries, strict=True)
        out[rows, columns] = values(model, list(entries.values()), point)
    return out


def central_differences(f, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Jacobian to fourth order, with a step in proportion to each entry, and the size of its rounding errors."""
    h = 1e-3 * np.maximum(np.abs(x), 1e-2)
    columns = [(8 * (f(x + e) - f(x - e)) - (f(x + 2 * e) - f(x - 2 * e))) / (12 * e.sum()) for e in np.diag(h)]
    rounding = 1e-13 * np.abs(f(x))[:, None] / h
    return np.stack(columns, 1) if columns else np.zeros((f(x).size, 0)), rounding


@pytest.mark.parametrize("name", MODELS)
def test_value(name):
    point = MODELS[name]
    model = traced(point)
    expected = call(point, point.u, point.p, point.t)
    np.testing.assert_allclose(evaluate(model, point.u, point.p, point.t), expected, rtol=1e-12)
    np.testing.assert_allclose(values(model, list(model.rhs), point), expected, rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_jacobians_against_finite_differences(name):
    point = MODELS[name]
    model = traced(point)
    du = central_differences(lambda x: call(point, x.reshape(point.u.shape), point.p, point.t), point.u.ravel())
    dp = central_differences(lambda x: call(point, point.u, x, point.t), point.p)
    for (expected, rounding), inputs in ((du, model.u), (dp, model.p)):
        found = dense_jacobian(model, inputs, point)
        assert np.all(np.abs(found - expected) <= 1e-6 * np.abs(expected) + 1e-8 + rounding)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("brusselator", "pleiades")])
def test_jacobian_against_sympy(name):
    point = MODELS[name]
    model = traced(point)
    u = sympy.symbols(f"u0:{len(model.u)}", real=True)
    p = sympy.symbols(f"p0:{len(model.p)}", real=True)
    t = sympy.Symbol("t", real=True)
    rhs = to_sympy(model, u, p, t)
    at = {**dict(zip(u, point.u, strict=True)), **dict(zip(p, point.p, strict=True)), t: point.t}
    entries = jacobian(model.graph, model.rhs, model.u)
    found = dense_jacobian(model, model.u, point)
    for i, e in enumerate(rhs):
        for j, x in enumerate(u):
            exact = float(e.diff(x).subs(at))
            assert found[i, j] == pytest.approx(exact, rel=1e-9, abs=1e-12)
            if exact != 0:
                assert (i, j) in entries


@pytest.mark.parametrize("name", MODELS)
def test_reverse_and_forward_are_the_jacobian(name):
    point = MODELS[name]
    model = traced(point)
    graph, n = model.graph, len(model.u)
    rng = np.random.default_rng(1)
    lam, v = rng.normal(size=(2, n))
    ju, jp = dense_jacobian(model, model.u, point), dense_jacobian(model, model.p, point)
    scale = np.abs(ju).max()
    weights = [graph.const(x) for x in lam]
    bars = values(model, reverse(graph, model.rhs, weights, [*model.u, *model.p]), point)
    np.testing.assert_allclose(bars[:n], lam @ ju, rtol=1e-9, atol=1e-12 * scale)
    np.testing.assert_allclose(bars[n:], lam @ jp, rtol=1e-9, atol=1e-12 * max(1, np.abs(jp).max()))
    tangents = {x.id: graph.const(dot) for x, dot in zip(model.u, v, strict=True)}
    dots = values(model, forward(graph, model.rhs, tangents), point)
    np.testing.assert_allclose(dots, ju @ v, rtol=1e-9, atol=1e-12 * scale)


def test_jacobian_leaves_out_structural_zeros():
    model = traced(MODELS["brusselator"])
    entries = jacobian(model.graph, model.rhs, model.u)
    # itself and four neighbours of its kind, and the other species at the same place
    assert len(entries) == 50 * 6


def test_time_derivative():
    model = trace_function(lambda u, p, t: [np.sin(p[0] * t) * u[0], u[1]], (2,), 1)
    dots = forward(model.graph, model.rhs, {model.t.id: model.graph.const(1.0)})
    found = python_function(model, outputs=dots)(np.array([2.0, 1.0]), np.array([3.0]), 0.4)
    assert found == pytest.approx([2 * 3 * math.cos(1.2), 0.0])


def test_equal_nodes_are_one():
    g = ScalarGraph()
    x, y = g.symbol("u[1]"), g.symbol("u[2]")
    assert (x * y + 1).id == (1 + y * x).id
    assert (x - y).id != (y - x).id
    # a difference both ways is computed once
    assert (y - x).id == (-(x - y)).id


@pytest.mark.parametrize(
    ("expression", "simple"),
    [
        (lambda x, y: x + 0, lambda x, y: x),
        (lambda x, y: 0.0 - x, lambda x, y: -x),
        (lambda x, y: x * 1, lambda x, y: x),
        (lambda x, y: x * -1, lambda x, y: -x),
        (lambda x, y: -(-x), lambda x, y: x),
        (lambda x, y: x - -y, lambda x, y: x + y),
        (lambda x, y: x + -y, lambda x, y: x - y),
        (lambda x, y: x**1, lambda x, y: x),
        (lambda x, y: x**2, lambda x, y: x * x),
        (lambda x, y: x**-1, lambda x, y: 1 / x),
        (lambda x, y: x + x, lambda x, y: 2 * x),
        (lambda x, y: ~~(x > y), lambda x, y: x > y),
    ],
)
def test_simplification(expression, simple):
    g = ScalarGraph()
    x, y = g.symbol("u[1]"), g.symbol("u[2]")
    assert expression(x, y).id == simple(x, y).id


def test_constants_are_folded_but_not_into_exceptions():
    g = ScalarGraph()
    assert g.apply("exp", g.const(0.0)).constant == 1.0
    assert g.apply("log", g.const(-1.0)).constant is None
    assert g.apply("div", g.const(1.0), g.const(0.0)).constant is None
    assert g.apply("pow", g.const(-1.0), g.const(0.3)).constant != 0  # NaN, not a complex number
    assert math.isnan(g.apply("max", g.const(math.nan), g.const(1.0)).constant)


def test_derivative_of_a_choice_ignores_the_pole_next_door():
    """np.where(u > 0, u * log(u), 0) at u = 0: no 0 * inf."""
    model = trace_function(lambda u, p, t: [np.where(u[0] > 0, u[0] * np.log(u[0]) + np.sqrt(u[0]), 0.0)], (1,), 0)
    graph = model.graph
    lam = graph.symbol("p[1]")
    for out in (reverse(graph, model.rhs, [lam], model.u), list(jacobian(graph, model.rhs, model.u).values())):
        assert python_function(model, outputs=out)(np.array([0.0]), np.array([2.0]), 0.0) == [0.0]


def test_truth_values_become_numbers_in_arithmetic():
    model = trace_function(lambda u, p, t: [(u[0] > 0) * 2.0 + (u[1] > 0), -(u[0] < 0) + True], (2,), 0)
    assert list(evaluate(model, np.array([1.0, 3.0]), np.zeros(0), 0.0)) == [3.0, 1.0]
    assert list(evaluate(model, np.array([-1.0, 3.0]), np.zeros(0), 0.0)) == [1.0, 0.0]


# --- each operation, and random expressions of them, against NumPy and torch ----------------------------------------

POINTS = {"atanh": 0.4, "erfinv": 0.4, "asin": 0.4, "acos": 0.4, "acosh": 1.7}


@pytest.mark.parametrize("op", [op for op, row in SCALAR_OPS.items() if row.partials is not None])
def test_partial_derivatives_of_each_operation_against_torch(op):
    arity = SCALAR_OPS[op].julia.count("{")
    point = np.array([POINTS.get(op, 1.3), 0.7, 2.1][:arity])
    g = ScalarGraph()
    u = tuple(g.symbol(f"u[{i + 1}]") for i in range(3))
    t = g.symbol("t")
    operands = (u[0] > 1.0, u[1], u[2]) if op == "select" else u[:arity]
    model = ScalarModel(g, u, (), t, (g.apply(op, *operands),))
    point = np.resize(point, 3)
    derivative = python_function(model, outputs=reverse(g, model.rhs, [g.const(1.0)], u))(point, np.zeros(0), 0.0)
    x = torch.tensor(point, requires_grad=True)
    y = python_function(model, "torch")(x, torch.zeros(0), 0.0)
    assert y.item() == pytest.approx(evaluate(model, point, np.zeros(0), 0.0)[0], rel=1e-12)
    (expected,) = torch.autograd.grad(y.sum(), x)
    np.testing.assert_allclose(derivative, expected, rtol=1e-8, atol=1e-14)  # torch has trigamma to 9 digits


SAFE_UNARY = {
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "arctan": np.arctan, "abs": np.abs, "square": np.square,
    "negative": np.negative, "arcsinh": np.arcsinh, "log1p_abs": lambda x: np.log1p(np.abs(x)),
    "exp_tanh": lambda x: np.exp(np.tanh(x)), "sqrt_square": lambda x: np.sqrt(1 + x * x),
    "where": lambda x: np.where(x > 0.3, x * x, np.sin(x)), "clip": lambda x: np.clip(x, -0.7, 0.9),
    "power": lambda x: (1 + x * x) ** 1.5, "cube": lambda x: x**3,
}  # fmt: skip
SAFE_BINARY = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
    "divide": lambda a, b: a / (2 + np.sin(b)), "arctan2": lambda a, b: np.arctan2(a, 1.5 + np.cos(b)),
    "hypot": lambda a, b: np.hypot(a, 1 + b * b), "logaddexp": np.logaddexp,
    "where": lambda a, b: np.where(a < b, a * b, a - b), "power": lambda a, b: (1 + a * a) ** b,
    "mod": lambda a, b: np.mod(a, 1.7 + 0 * b),
}  # fmt: skip
LEAVES = st.sampled_from(["x", "y", "z", 0.5, -1.25, 2.0, 3])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(sorted(SAFE_UNARY)), inner), st.tuples(st.sampled_from(sorted(SAFE_BINARY)), inner, inner)
    ),
    max_leaves=12,
)


def build(expression, x, y, z):
    match expression:
        case (name, a):
            return SAFE_UNARY[name](build(a, x, y, z))
        case (name, a, b):
            return SAFE_BINARY[name](build(a, x, y, z), build(b, x, y, z))
        case str():
            return {"x": x, "y": y, "z": z}[expression]
        case _:
            return expression


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS, st.integers(0, 2**32 - 1))
def test_random_expressions(first, second, seed):
    """The value is NumPy's, all three derivatives are torch's."""
    u = np.random.default_rng(seed).normal(size=3)

    def f(u, p, t):
        return [build(first, u[0], u[1], p[0]), build(second, u[1], p[0], t), 1.0]

    point = Model(f, u, np.array([0.8]), 0.6)
    with np.errstate(all="ignore"):
        expected = np.array([float(x) for x in f(u, point.p, point.t)])
    if not np.all(np.abs(expected) < 1e6):
        return
    model = traced(point)
    np.testing.assert_allclose(evaluate(model, u, point.p, point.t), expected, rtol=1e-10, atol=1e-10)
    f_torch = python_function(model, "torch")
    u_leaf, p_leaf = torch.tensor(u, requires_grad=True), torch.tensor(point.p, requires_grad=True)
    lam = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    out = f_torch(u_leaf, p_leaf, point.t)
    np.testing.assert_allclose(out.detach(), expected, rtol=1e-10, atol=1e-10)
    if not out.requires_grad:
        return
    grads = torch.autograd.grad(out @ lam, (u_leaf, p_leaf), allow_unused=True)
    du, dp = (np.zeros(k) if g is None else g.numpy() for k, g in zip((3, 1), grads, strict=True))
    graph = model.graph
    bars = values(model, reverse(graph, model.rhs, [graph.const(float(x)) for x in lam], [*model.u, *model.p]), point)
    if not (np.isfinite(du).all() and np.isfinite(dp).all()):
        return
    tolerance = {"rtol": 1e-8, "atol": 1e-8 * max(1.0, np.abs(du).max(), np.abs(dp).max())}
    np.testing.assert_allclose(bars, [*du, *dp], **tolerance)
    np.testing.assert_allclose(lam.numpy() @ dense_jacobian(model, model.u, point), du, **tolerance)
    np.testing.assert_allclose(lam.numpy() @ dense_jacobian(model, model.p, point), dp, **tolerance)
