"""Capture of plain Python, NumPy, SymPy, Julia source and callbacks: values against the function itself, and what goes wrong."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections import namedtuple
from math import exp as bare_exp

import numpy as np
import pytest
import sympy
from numpy import array as bare_array
from numpy import zeros as bare_zeros

from pysciode.arrays.parameters import ParameterLayout
from pysciode.capture import CallbackModel, JuliaModel, ScalarModel, capture
from pysciode.capture.scalar_trace import trace_function
from pysciode.capture.symbolic import SymbolicModel, to_sympy
from pysciode.errors import CaptureError
from pysciode.lowering.scalars.python_function import evaluate, python_function

P = np.array([0.7, 1.3, 2.1])
U = np.array([0.4, -0.8, 1.7, 0.25])
T = 0.35


def assert_captured(f, u=U, p=P, t=T, rtol=1e-12):
    """The graph of `f` gives what `f` gives, at a few points."""
    u, p = np.asarray(u, float), np.asarray(p, float)
    model = trace_function(f, u.shape, p.size)
    rng = np.random.default_rng(0)
    for k in range(4):
        at = u + 0.3 * k * rng.normal(size=u.shape)
        with np.errstate(all="ignore"):
            expected = np.asarray(f(at if u.ndim else at[()], p, t + k), float).ravel()
        found = evaluate(model, at.ravel(), p, t + k)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-13)
    return model


UNARY = [
    "sin", "cos", "tan", "arctan", "sinh", "cosh", "tanh", "arcsinh", "exp", "exp2", "expm1", "square", "abs", "absolute",
    "fabs", "sign", "floor", "ceil", "trunc", "rint", "negative", "positive", "reciprocal", "cbrt", "deg2rad", "rad2deg",
    "degrees", "radians", "sinc", "isnan", "isinf", "isfinite", "signbit", "round", "real", "conjugate",
]  # fmt: skip
POSITIVE = ["log", "log2", "log10", "log1p", "sqrt"]
BINARY = [
    "add", "subtract", "multiply", "divide", "true_divide", "floor_divide", "mod", "remainder", "fmod", "maximum", "minimum",
    "fmax", "fmin", "arctan2", "hypot", "logaddexp", "logaddexp2", "heaviside", "copysign", "less", "less_equal", "greater",
    "greater_equal", "equal", "not_equal",
]  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_unary_function(name):
    g = getattr(np, name)
    assert_captured(lambda u, p, t: g(u))
    assert_captured(lambda u, p, t: [g(u[0]), g(p[1]) * u[1], g(t), g(np.array([u[2]]))[0]])


@pytest.mark.parametrize("name", POSITIVE)
def test_function_of_positive_numbers(name):
    g = getattr(np, name)
    assert_captured(lambda u, p, t: g(u * u + 0.1))
    assert_captured(lambda u, p, t: [g(x * x + 1.0) for x in u])


@pytest.mark.parametrize("name", ["arcsin", "arccos", "arctanh"])
def test_function_on_the_unit_interval(name):
    g = getattr(np, name)
    assert_captured(lambda u, p, t: g(np.sin(u) * 0.9))


def test_arccosh():
    assert_captured(lambda u, p, t: np.arccosh(1 + u * u))


@pytest.mark.parametrize("name", BINARY)
def test_binary_function(name):
    g = getattr(np, name)
    assert_captured(lambda u, p, t: g(u, 0.5))
    assert_captured(lambda u, p, t: g(u, u[::-1]))
    assert_captured(lambda u, p, t: [g(u[0], u[1]), g(u[2], np.float64(0.3)), g(np.ones(2), u[:2])[1], g(1.5, u[0])])


def test_truth_values():
    assert_captured(lambda u, p, t: np.logical_and(u > 0, u < 1) * 1.0 + np.logical_or(u > 1, u < -1))
    assert_captured(lambda u, p, t: ((u > 0) & (u < 1)) * u - (~(u > 0) | (u > p[0])) + ((u > 0) ^ (u < 1)))
    assert_captured(lambda u, p, t: np.logical_not(u > 0) + np.logical_xor(u > 0, u < 1) * 2.0)
    assert_captured(lambda u, p, t: u * np.any(u > 0) + np.all(u > 0) + (u > 0).any())


def test_choices():
    assert_captured(lambda u, p, t: np.where(u > 0, u, -2 * u))
    assert_captured(lambda u, p, t: np.where(t > 0.5, 1.0, 0.0) * u)
    assert_captured(lambda u, p, t: np.where(np.arange(4) > 1, u, p[0]))
    assert_captured(lambda u, p, t: np.clip(u, -0.5, p[0]))
    assert_captured(lambda u, p, t: u.clip(0, 1) + np.clip(u, None, 0.2) + np.clip(u[0], 0, 1))
    assert_captured(lambda u, p, t: np.select([u > 1, u > 0], [u**2, u], default=-1.0))
    assert_captured(lambda u, p, t: np.piecewise(u, [u < 0, u >= 0], [lambda x: -x, lambda x: x * x]), u=U)
    assert_captured(lambda u, p, t: [np.where(u[0] > 0, u[1], u[2]), *np.where([True, False, True], u[:3], 0)])


def test_interpolation():
    xs, ys = np.array([0.0, 0.5, 2.0, 3.0]), np.array([1.0, -1.0, 4.0, 0.5])
    assert_captured(lambda u, p, t: u * np.interp(t, xs, ys))
    assert_captured(lambda u, p, t: np.interp(u, xs, ys))
    assert_captured(lambda u, p, t: np.interp(u, xs, ys, left=-3.0, right=9.0))
    assert_captured(lambda u, p, t: u * np.interp(t, [0.0, 1.0, 4.0], [p[0], u[1], p[2]]))


def test_reductions():
    assert_captured(lambda u, p, t: u * np.sum(u) + u.sum() + sum(u) + np.prod(u) + u.prod())
    assert_captured(lambda u, p, t: u - np.mean(u) + u.mean() * np.std(u) + np.var(u) + u.std(ddof=1) + u.var())
    assert_captured(lambda u, p, t: u * np.max(u) + np.min(u) + u.max() - u.min() + np.amax(u))
    assert_captured(lambda u, p, t: np.cumsum(u) + u.cumsum() + np.cumprod(u))
    assert_captured(lambda u, p, t: u.sum(axis=0, keepdims=True) + u.mean(axis=1)[:, None], u=U.reshape(2, 2))
    assert_captured(lambda u, p, t: u * np.average(u) + np.average(u, weights=[1, 2, 3, 4]) + np.ptp(u))


def test_linear_algebra():
    a = np.arange(16.0).reshape(4, 4) / 7 - 1
    assert_captured(lambda u, p, t: a @ u + u @ a + np.dot(a, u) + a.dot(u) + np.matmul(a, u))
    assert_captured(lambda u, p, t: np.einsum("ij,j->i", a, u) + np.einsum("i,i->", u, u))
    assert_captured(lambda u, p, t: np.einsum("ii->i", np.outer(u, u)) + np.einsum("ij,k,jk", a, u, a) + np.einsum("jk,ij->ik", a, a) @ u)
    assert_captured(lambda u, p, t: np.einsum("ji", u) + np.einsum("ij,jk->ik", u, u) * np.einsum("ii", u), u=U.reshape(2, 2))
    assert_captured(lambda u, p, t: np.tensordot(a, u, 1) + np.inner(u, u) + np.vdot(u, u) + np.outer(u, u)[1])
    assert_captured(lambda u, p, t: u / np.linalg.norm(u) + np.linalg.norm(u, 1) + np.linalg.norm(u, np.inf))
    assert_captured(lambda u, p, t: np.array([*np.cross(u[:3], p), 1.0]))
    assert_captured(lambda u, p, t: np.convolve(u, [1, -2, 1], mode="same") + np.kron(u[:2], p[:2]))
    assert_captured(lambda u, p, t: (u @ u.T) @ a[:2, :2] + np.trace(u) + u.T, u=U.reshape(2, 2))
    assert_captured(lambda u, p, t: np.linalg.solve(a + np.diag(u) + 5 * np.eye(4), u), rtol=1e-9)
    assert_captured(lambda u, p, t: np.linalg.inv(u + 3 * np.eye(2)) * np.linalg.det(u), u=U.reshape(2, 2), rtol=1e-9)


def test_shapes():
    assert_captured(lambda u, p, t: np.concatenate([u[:2] * p[0], u[2:]]) + np.roll(u, 1) + np.flip(u) + u[::-1])
    assert_captured(lambda u, p, t: np.stack([u[0], u[1], t, p[0]]) + np.hstack([u[2:], u[:2]]))
    assert_captured(lambda u, p, t: np.array([u[0], 1, u[1] * p[2], t]))
    assert_captured(lambda u, p, t: np.append(np.diff(u), 0.0) + np.gradient(u) + np.pad(u[1:3], 1))
    assert_captured(lambda u, p, t: np.tile(u[:2], 2) + np.repeat(u[:2], 2) + np.ravel(u.reshape(2, 2).T))
    assert_captured(lambda u, p, t: np.vstack([u[1], u[0]]) + np.transpose(u) + np.expand_dims(u[0], 0), u=U.reshape(2, 2))
    assert_captured(lambda u, p, t: np.meshgrid(u[0], u[1])[0] + u[[1, 0]] + u[np.ix_([1, 0], [0, 1])], u=U.reshape(2, 2))
    assert_captured(lambda u, p, t: np.broadcast_to(u[0], (4,)) + np.squeeze(u[None]) + np.atleast_1d(u[3]) + u[[3, 2, 1, 0]])
    integral = getattr(np, "trapezoid", None) or np.trapz
    assert_captured(lambda u, p, t: u.copy().astype(float) + np.asarray(u) + np.split(u, 2)[0][0] + integral(u))
    assert_captured(lambda u, p, t: u[..., ::-1] + u[:, None, 0], u=np.ones((2, 2)))


def test_filling_arrays():
    def f(u, p, t):
        a, b, c, d = np.zeros(4), np.zeros_like(u), np.empty(4), np.ones(4)
        for k in range(4):
            a[k] = u[k] * k
            c[k] = p[0] * u[k]
        b[1:] = u[:-1]
        d[2] = u[2]
        d[0] += t
        e = np.full(4, 2.0)
        e[3] *= u[0]
        m = np.eye(4)
        m[0, 1] = u[1]
        return a + b + c + d + e + m @ u

    def g(u, p, t):
        du = bare_zeros(4)
        du[:] = bare_array([u[0], 1.0, u[1], bare_exp(u[2])])
        du[u < 0] = 0.0
        du[1] = np.full_like(u, 3.0)[0] + np.ones_like(u)[1]
        return du

    assert_captured(f)
    assert_captured(g)


def test_python_numbers():
    def f(u, p, t):
        x, y, z, w = u
        return [
            math.sin(x) + math.exp(y) * math.pi + math.sqrt(z * z) + math.atan2(x, 2.0),
            abs(x) + max(x, y, 0.3) - min(x, p[0]) + round(z) + pow(z, 2),
            x // 0.3 + x % 0.3 + divmod(y, 0.4)[0] + 2**x + (1 + x * x) ** y + math.floor(z),
            math.hypot(x, y) + math.log(1 + x * x, 10) + math.erf(w) + math.tanh(w) + max([x, y]) + 1 / (2 + x) - (-w) + +w,
        ]

    assert_captured(f)


def test_scipy_special():
    special = pytest.importorskip("scipy.special")
    assert_captured(lambda u, p, t: special.expit(u) + special.erf(u) + special.erfc(u) + special.gammaln(u * u + 1))


class Heat:
    """A model that holds a sparse matrix."""

    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, u, p, t):
        return p[0] * (self.matrix @ u)


def test_sparse_matrices():
    sparse = pytest.importorskip("scipy.sparse")
    laplacian = sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(4, 4), format="csr")
    array = sparse.csr_array(laplacian)
    other = 2.0 * laplacian
    assert_captured(Heat(laplacian))
    assert_captured(lambda u, p, t: laplacian @ u + laplacian.dot(u * u) - laplacian.T @ u + laplacian * u)
    assert_captured(lambda u, p, t: array @ u + u @ array + (array - 2 * array) @ u + (-array + array.T) @ u)
    assert_captured(lambda u, p, t: (other @ laplacian.toarray()) @ u + laplacian.shape[0] + laplacian.diagonal() * u)
    assert_captured(lambda u, p, t: array[:2, :2] @ u + u @ array[:2, :2], u=U.reshape(2, 2))
    rectangular = sparse.coo_array(np.arange(12.0).reshape(4, 3))
    assert_captured(lambda u, p, t: rectangular @ p * u)
    with pytest.raises(ValueError, match="dimension mismatch"):
        trace_function(lambda u, p, t: laplacian @ u, (3,), 0)


def test_shapes_of_the_state():
    assert_captured(lambda u, p, t: -p[0] * u + t, u=np.array(2.0))
    assert_captured(lambda u, p, t: [-p[0] * u[0]], u=np.array([2.0]))
    assert_captured(lambda u, p, t: [[u[0, 0], 1], [u[1, 0] * u[0, 1], t]], u=U.reshape(2, 2))
    assert_captured(lambda u, p, t: -u, u=np.ones((2, 3, 2)))


def test_constant_and_empty_results():
    model = assert_captured(lambda u, p, t: [1, np.float32(2.0), True, np.pi])
    assert [x.constant for x in model.rhs] == [1.0, 2.0, 1.0, np.pi]


def test_in_place():
    def f(du, u, p, t):
        du[0] = -p[0] * u[0]
        du[1:] = u[1:] * 2
        du *= 0.5

    model = trace_function(f, (4,), 3)
    du = np.zeros(4)
    f(du, U, P, T)
    assert evaluate(model, U, P, T) == pytest.approx(du)


@pytest.mark.parametrize(
    "f", [lambda t, y: -y * t, lambda t, y, args: -y * t + 0 * args[0], lambda u, t: -u * t, lambda y, p, time: -y * time]
)
def test_order_of_arguments(f):
    model = capture(f, U, P)
    assert evaluate(model, U, P, T) == pytest.approx(-U * T)
    assert capture(f, U, P, capture="callback").f(U, P, T) == pytest.approx(-U * T)
    assert evaluate(capture(lambda u: 2 * u, U), U, [], T) == pytest.approx(2 * U)


Rates = namedtuple("Rates", "birth death")


@pytest.mark.parametrize(
    ("p", "f"),
    [
        (None, lambda u, p, t: -u),
        (2.0, lambda u, p, t: -p * u),
        ([1.0, 2.0], lambda u, p, t: -p[0] * u + p[1]),
        (
            {"k": 2.0, "inner": {"a": np.eye(2), "b": (3.0, 4.0)}},
            lambda u, p, t: p["inner"]["a"] @ u * p["k"] + p["inner"]["b"][1],
        ),
        (Rates(1.0, 0.5), lambda u, p, t: p.birth * u - p.death),
        ([[1.0, 2.0], [3.0, 4.0]], lambda u, p, t: p @ u),
        ((1.0, np.array([1.0, 2.0])), lambda u, p, t: p[0] * u + p[1]),
    ],
)
def test_structures_of_parameters(p, f):
    u = np.array([0.3, 0.9])
    model = capture(f, u, p)
    layout, _ = ParameterLayout.of(p)
    flat = layout.flatten(p)
    assert len(model.p) == layout.size
    assert evaluate(model, u, flat, 0.0) == pytest.approx(f(u, layout.unflatten(flat), 0.0))


class Oscillator:
    """A model with methods and attributes."""

    def __init__(self, omega):
        self.omega = omega

    def force(self, x, t):
        return -(self.omega**2) * x + np.sin(t)

    def __call__(self, u, p, t):
        du = np.zeros(2)
        du[0], du[1] = u[1], self.force(u[0], t) - p[0] * u[1]
        return du

    def rhs(self, u, p, t):
        return self(u, p, t)


def damped(c, u, p, t):
    return np.array([u[1], -u[0] - math.sinh(c) * u[1]])


def helper(x):
    out = np.zeros(2)
    out[:] = np.maximum(x, 0.1)
    return out


def test_kinds_of_callables():
    u = np.array([0.5, -0.3])
    assert_captured(Oscillator(2.0), u)
    assert_captured(Oscillator(2.0).rhs, u)
    assert_captured(functools.partial(damped, 0.4), u)
    assert_captured(lambda u, p, t: helper(u) * p[0], u)
    scale = np.array([1.0, 2.0])

    def inner(x):
        y = np.zeros(2)
        y[0] = x[1]
        return y

    assert_captured(lambda u, p, t: inner(u) * scale, u)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def branches(u, p, t):
    if u[0] > 0:
        return -u
    return u


def converts(u, p, t):
    import numpy  # out of reach of the substitutes

    out = numpy.zeros(2)
    out[0] = u[0]
    return out


def indexes(u, p, t):
    return u * np.arange(4)[int(t)]


def masks(u, p, t):
    return u - u[u > 0].sum()


def sorts(u, p, t):
    return np.sort(u)


def factorises(u, p, t):
    return np.linalg.eigvals(np.outer(u, u))


def unknown_ufunc(u, p, t):
    return np.spacing(u)


def imaginary(u, p, t):
    return [u[0] * 1j, u[1]]


def loops(u, p, t):
    x = u[0]
    while x < 3:
        x = x + 1
    return [x, x]


@pytest.mark.parametrize(
    ("f", "advice"),
    [
        (branches, "np.where"),
        (converts, "np.zeros_like"),
        (indexes, "index"),
        (masks, "np.where"),
        (sorts, "np.sort"),
        (factorises, "eigvals"),
        (unknown_ufunc, "spacing"),
        (imaginary, "complex"),
        (loops, "np.where"),
    ],
)
def test_what_cannot_be_captured_says_where_and_why(f, advice):
    with pytest.raises(CaptureError, match=advice) as caught:
        trace_function(f, (2,), 1)
    first = f.__code__.co_firstlineno
    assert caught.value.where is not None, str(caught.value)
    filename, line, _ = caught.value.where.split(":", 2)
    assert filename == __file__
    assert first < int(line) <= first + 6
    assert "capture='callback'" in str(caught.value)


def test_the_users_line_is_shown():
    with pytest.raises(CaptureError, match=r"test_symbolic_capture\.py:\d+: if u\[0\] > 0:"):
        trace_function(branches, (2,), 0)


def test_the_users_own_exceptions_pass_unchanged():
    def f(u, p, t):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trace_function(f, (2,), 0)
    with pytest.raises(ZeroDivisionError):
        trace_function(lambda u, p, t: [1 / 0, u[1]], (2,), 0)
    with pytest.raises(IndexError):
        trace_function(lambda u, p, t: [u[7], u[1]], (2,), 0)


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda u, p, t: [u[0]], ValueError, r"shape \(1,\), but the state has shape \(2,\)"),
        (lambda u, p, t: u[:, None] * u, ValueError, r"shape \(2, 2\)"),
        (lambda u, p, t: None, ValueError, "returned None"),
        (lambda u, p, t: [u[0], None], ValueError, r"du\[1\] = None"),
        (lambda u, p, t: [u[0], "x"], TypeError, r"du\[1\] is a str"),
        (lambda u, p, t: {"x": u[0]}, TypeError, "dict"),
        (lambda u, p: u, TypeError, r"2 arguments \(u, p\); it must be f\(u, p, t\)"),
        (lambda a, b, c, d, e: a, TypeError, r"5 arguments"),
    ],
)
def test_wrong_results(f, error, message):
    with pytest.raises(error, match=message):
        trace_function(f, (2,), 0)


def test_an_entry_left_unset_in_place():
    def f(du, u, p, t):
        du[0] = u[0]

    with pytest.raises(ValueError, match=r"leaves du\[1\] unset"):
        trace_function(f, (2,), 0)


def test_a_model_too_large_for_scalars():
    def f(u, p, t):
        for _ in range(30):
            u = u + np.sin(u)
        return u

    with pytest.raises(CaptureError, match="torch") as caught:
        trace_function(f, (100,), 0, limit=2000)
    assert "u = u + np.sin(u)" in caught.value.where


def test_values_of_an_earlier_capture():
    kept = []

    def f(u, p, t):
        kept.append(u[0])
        return [kept[0] * u[1], u[0]]

    trace_function(f, (2,), 0)
    with pytest.raises(CaptureError, match="earlier capture"):
        trace_function(f, (2,), 0)


def test_a_function_with_hidden_state_is_noticed():
    calls = []

    def counting(u, p, t):
        calls.append(1)
        return [u[0] * len(calls), u[1]]

    with pytest.raises(CaptureError, match="count its calls"):
        capture(counting, np.ones(2))
    rng = np.random.default_rng(0)
    with pytest.raises(CaptureError, match="random"):
        capture(lambda u, p, t: u + rng.normal(), np.ones(2))


def test_nothing_is_patched():
    zeros, sin = np.zeros, math.sin
    trace_function(lambda u, p, t: np.zeros(2) + math.sin(u[0]), (2,), 0)
    assert np.zeros is zeros and math.sin is sin
    assert np.zeros(2).dtype == float


def test_numpy_users_do_not_pay_for_torch_or_sympy():
    code = (
        "import sys, numpy as np\n"
        "from pysciode.capture import capture\n"
        "from pysciode.lowering import lower\n"
        "m = capture(lambda u, p, t: -p * u, np.ones(2), 2.0)\n"
        "lower(m, np.float64, n=2, n_params=1, want={'f!', 'jac!', 'vjp!'})\n"
        "assert not {'torch', 'sympy', 'scipy'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- SymPy ----------------------------------------------------------------------------------------------------------

x, y, a = sympy.symbols("x y a", real=True)
EXPRESSIONS = [
    x**2 / y - a * x, sympy.sqrt(y) + x**-2, sympy.exp(-x) * sympy.log(y), sympy.Rational(1, 3) * x + sympy.pi,
    sympy.Piecewise((x, x > 0), (x**2, sympy.And(x < -1, y > 0)), (a, True)), sympy.Abs(x) + sympy.sign(x),
    sympy.Max(x, y, 0) - sympy.Min(x, 1), sympy.Heaviside(x) + sympy.Heaviside(x, 1), sympy.floor(y) + sympy.ceiling(x),
    sympy.Mod(x, 2), sympy.atan2(x, y), sympy.sec(x) + sympy.csc(y) + sympy.cot(y), sympy.sinh(x) * sympy.tanh(y),
    sympy.asinh(x) + sympy.atan(x) + sympy.acot(y), sympy.erf(x) + sympy.erfc(y), sympy.gamma(y) + sympy.loggamma(y),
    sympy.gamma(x), sympy.digamma(y), y**x, sympy.Symbol("t") * x, sympy.E**x + sympy.GoldenRatio,
    sympy.sinc(x), sympy.Integer(0), sympy.Integer(7), sympy.Or(x > 0, y > 5).to_nnf(), sympy.ITE(x > 0, y > 1, y < 1),
    sympy.coth(y) + sympy.sech(x), sympy.factorial(y), sympy.exp(-(x**2) / (2 * a**2)), sympy.log(y, 2),
    sympy.Piecewise((x**2, x < 5)),
]  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
def test_sympy_there_and_back(expression):
    model = capture(SymbolicModel([expression, y], [x, y], [a]), np.ones(2), [1.0])
    assert isinstance(model, ScalarModel)
    t = sympy.Symbol("t")
    back = to_sympy(model, [x, y], [a], t)[0]
    for at in ((0.3, 1.6, 0.7), (-1.4, 2.3, 1.1), (-0.6, 0.4, 2.0)):
        point = {x: at[0], y: at[1], a: at[2], t: 0.9}
        value = expression.subs(point)
        expected = float(value) if value not in (sympy.true, sympy.false) else float(bool(value))
        assert evaluate(model, at[:2], at[2:], 0.9)[0] == pytest.approx(expected, rel=1e-12)
        assert float(back.subs(point)) == pytest.approx(expected, rel=1e-9)


def test_sympy_forms():
    t = sympy.Symbol("t")
    s = sympy.Function("s")(t)
    model = capture((sympy.Matrix([-a * s * sympy.sin(t)]), [s], [a], t), np.array([1.0]), [2.0])
    assert evaluate(model, [3.0], [2.0], 0.5)[0] == pytest.approx(-6 * np.sin(0.5))
    indexed = sympy.IndexedBase("v")
    model = capture(([indexed[1], -indexed[0]], [indexed[0], indexed[1]]), np.ones(2))
    assert list(evaluate(model, [3.0, 4.0], [], 0.0)) == [4.0, -3.0]
    callable_model = SymbolicModel([a * x], [x], [a])
    assert callable_model(np.array([2.0]), np.array([3.0]), 0.0) == pytest.approx([6.0])


def test_simple_expressions_come_back_as_they_were():
    rhs = [a * x - x * y, x**2 + sympy.sin(y)]
    model = capture(SymbolicModel(rhs, [x, y], [a]), np.ones(2), [1.0])
    assert [sympy.simplify(p - q) for p, q in zip(to_sympy(model, [x, y], [a]), rhs, strict=True)] == [0, 0]
    named = to_sympy(trace_function(lambda u, p, t: [p[0] * u[0] ** 2], (1,), 1), ["n"], ["k"])
    assert str(named[0]) == "k*n**2"


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (SymbolicModel([sympy.besselj(0, x)], [x]), CaptureError, "besselj"),
        (SymbolicModel([sympy.Function("g")(x)], [x]), CaptureError, "g"),
        (SymbolicModel([x * sympy.I], [x]), CaptureError, "I is not a real number"),
        (SymbolicModel([x * a], [x]), ValueError, "symbol a is neither"),
        (SymbolicModel([x, y], [x]), ValueError, "2 expressions for 1 states"),
        (SymbolicModel([x], [x], [x]), ValueError, "named twice"),
        (SymbolicModel([x, y], [x, y]), ValueError, "2 states, but u0 has 1"),
        (SymbolicModel([x], [x], [a]), ValueError, "1 parameters, but p has 0"),
    ],
)
def test_sympy_errors(model, error, message):
    with pytest.raises(error, match=message):
        capture(model, np.ones(1))


# --- Julia source, callbacks, choices --------------------------------------------------------------------------------


def test_julia_source_is_recognised(tmp_path):
    source = "f(u, p, t) = -u"
    assert capture(source, np.ones(1)) == JuliaModel(source, None)
    path = tmp_path / "model.jl"
    path.write_text(source)
    assert capture(path, np.ones(1)) == JuliaModel(source, str(path)) == capture(str(path), np.ones(1))
    with pytest.raises(FileNotFoundError):
        capture("missing.jl", np.ones(1))
    with pytest.raises(ValueError, match="no code"):
        capture("# nothing\n", np.ones(1))
    with pytest.raises(TypeError, match="capture='julia'"):
        capture(branches, np.ones(1), capture="julia")


def test_choices_are_checked():
    with pytest.raises(ValueError, match="'auto'"):
        capture(branches, np.ones(2), capture="magic")
    with pytest.raises(TypeError, match="int"):
        capture(3, np.ones(2))
    with pytest.raises(CaptureError):
        capture(branches, np.ones(2))  # never a callback by itself


def test_callback_on_numpy():
    seen = []

    def f(u, p, t):
        seen.append((u, p, t))
        return -p["k"] * u if u[0, 0] > 0 else u

    model = capture(f, np.ones((2, 2)), {"k": 3.0}, capture="callback")
    assert isinstance(model, CallbackModel) and model.vjp is None
    u = np.ones((2, 2))
    assert (model.f(u, np.array([3.0]), 0.5) == -3).all()
    assert seen[0][0] is not u and not np.shares_memory(seen[0][0], u)


def test_callback_in_place_and_of_a_number():
    def f(du, u, p, t):
        du[:] = -u

    assert list(capture(f, np.ones(2), capture="callback").f(np.ones(2), np.zeros(0), 0.0)) == [-1, -1]
    scalar = capture(lambda u, p, t: -2 * u, np.array(1.0), capture="callback")
    assert scalar.f(np.array(3.0), np.zeros(0), 0.0) == -6


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda u, p, t: u[:1], ValueError, r"shape \(1,\), but the state has shape \(2,\)"),
        (lambda u, p, t: None, ValueError, "None"),
        (lambda u, p, t: u * 1j, TypeError, "complex"),
    ],
)
def test_callback_errors(f, error, message):
    model = capture(f, np.ones(2), capture="callback")
    with pytest.raises(error, match=message):
        model.f(np.ones(2), np.zeros(0), 0.0)


def test_parameters_of_a_callback_cannot_be_overwritten():
    def f(u, p, t):
        p[0] = 1.0
        return u

    p = np.array([3.0])
    with pytest.raises(ValueError, match="read-only"):
        capture(f, np.ones(1), p, capture="callback").f(np.ones(1), p, 0.0)
    assert p[0] == 3.0


# --- torch ----------------------------------------------------------------------------------------------------------


def test_plain_arithmetic_on_tensors_is_captured_without_torch():
    torch = pytest.importorskip("torch")
    u0, p = torch.tensor([1.0, 2.0]), torch.tensor([0.5])
    assert isinstance(capture(lambda u, p, t: [p[0] * u[1], -u[0]], u0, p), ScalarModel)


def test_a_method_that_means_something_else_in_torch():
    """u.std() divides by n - 1 in torch and by n in NumPy."""
    torch = pytest.importorskip("torch")
    u0 = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    model = capture(lambda u, p, t: u * u.std(), u0)
    assert isinstance(model, ScalarModel)
    expected = (u0 * u0.std()).numpy()
    assert evaluate(model, u0.numpy(), np.zeros(0), 0.0) == pytest.approx(expected, rel=1e-6)


def test_a_parameter_in_a_closure_is_no_constant():
    torch = pytest.importorskip("torch")
    k = torch.tensor(2.0, requires_grad=True)
    model = capture(lambda u, p, t: [-k * u[0]], torch.ones(1))
    assert len(model.p) == 1


def test_callback_of_a_module():
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 2).double()
    u0 = torch.ones(2, dtype=torch.float64)
    model = capture(lambda u, p, t: torch.tanh(net(u)) * p[0] * t, u0, torch.tensor([2.0]).double(), capture="callback")
    before = [x.detach().clone() for x in net.parameters()]
    weights = np.arange(6.0) / 10
    flat = np.concatenate([[2.0], weights])
    found = model.f(np.ones(2), flat, 0.5)
    expected = np.tanh(weights[:4].reshape(2, 2) @ np.ones(2) + weights[4:]) * 2 * 0.5
    assert found == pytest.approx(expected)
    lam, u = np.array([1.0, -2.0]), np.array([0.3, 0.4])
    du, dp = model.vjp(lam, u, flat, 0.5)

    def value(u, flat):
        return lam @ model.f(u, flat, 0.5)

    for bars, x, at in ((du, u, lambda z: value(z, flat)), (dp, flat, lambda z: value(u, z))):
        for k in range(x.size):
            e = np.zeros(x.size)
            e[k] = 1e-6
            assert bars[k] == pytest.approx((at(x + e) - at(x - e)) / 2e-6, rel=1e-6, abs=1e-8)
    assert all(torch.equal(x, y) for x, y in zip(net.parameters(), before, strict=True))


def test_python_function_in_batches():
    torch = pytest.importorskip("torch")
    model = trace_function(lambda u, p, t: [np.where(u[0] > t, u[1] * p[0], 1.0), np.maximum(u[1], 0)], (2,), 1)
    u = np.array([[1.0, 2.0], [-1.0, -2.0]])
    expected = [[6.0, 2.0], [1.0, 0.0]]
    assert python_function(model)(u, np.array([3.0]), 0.0).tolist() == expected
    out = python_function(model, "torch")(torch.tensor(u, dtype=torch.float32), torch.tensor([3.0]), 0.0)
    assert out.dtype == torch.float32 and out.tolist() == expected
