"""What ``solve_ivp`` makes of functions: they are captured once, and yet what they reach counts as it is at each call."""

from __future__ import annotations

import functools
import types
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.integrate import solve_ivp as scipys

import pysciode as ps
from pysciode.capture.parts import FLOATS, NOTHING, NUMBERS
from pysciode.capture.reach import Reached
from pysciode.capture.substituted import Substituted
from pysciode.compat.scipy.model import Form, _functions, model_of
from pysciode.graphs.captured_model import ScalarModel

RATE = 1.0
MATRIX = np.array([[-1.0, 0.0], [0.0, -2.0]])
SETTINGS = types.SimpleNamespace(rate=1.0)


def end(fun, **options):
    return ps.solve_ivp(fun, (0, 1), [1.0, 2.0], rtol=1e-9, atol=1e-12, **options).y[:, -1]


def decayed(*rates):
    return np.array([1.0, 2.0]) * np.exp(-np.array(rates))


def helper(y):
    return -RATE * y


def by_helper(t, y):
    return helper(y)


def by_matrix(t, y):
    return MATRIX @ y


def by_settings(t, y):
    return -SETTINGS.rate * y


class Model:
    factor = 1.0

    def __init__(self, rate):
        self.rate = rate

    @property
    def twice(self):
        return 2 * self.rate

    def rhs(self, t, y):
        out = np.zeros(2)
        out[:] = -self.twice * self.factor * y
        return out


@pytest.mark.usefixtures("on_julia")
def test_values_count_as_they_are_at_each_call(monkeypatch):
    module = globals()
    model = Model(0.5)
    for k in (1.0, 2.0, 3.0):
        monkeypatch.setitem(module, "RATE", k)
        np.testing.assert_allclose(end(by_helper), decayed(k, k), rtol=1e-7)
        MATRIX[0, 0] = -k  # in place
        np.testing.assert_allclose(end(by_matrix), decayed(k, 2.0), rtol=1e-7)
        SETTINGS.rate = k
        np.testing.assert_allclose(end(by_settings), decayed(k, k), rtol=1e-7)
        model.rate = k / 2
        np.testing.assert_allclose(end(model.rhs), decayed(k, k), rtol=1e-7)
        np.testing.assert_allclose(end(lambda t, y, k=k: -k * y), decayed(k, k), rtol=1e-7)
        np.testing.assert_allclose(end(functools.partial(lambda t, y, k: -k * y, k=k)), decayed(k, k), rtol=1e-7)
        np.testing.assert_allclose(end(lambda t, y, k, r: -k * r[0] * y, args=(k, [1.0])), decayed(k, k), rtol=1e-7)
    monkeypatch.setattr(Model, "factor", 2.0)
    np.testing.assert_allclose(end(model.rhs), decayed(6.0, 6.0), rtol=1e-7)


@pytest.mark.usefixtures("on_julia")
def test_a_function_made_anew_is_not_captured_anew():
    def made(k):
        return lambda t, y: -k * y

    for k in (1, 2.5, 4):
        np.testing.assert_allclose(end(made(k)), decayed(k, k), rtol=1e-7)
    assert len(_functions[made(1).__code__].models) == 1


@pytest.mark.usefixtures("on_julia")
def test_integers_may_be_sizes_and_branches_may_depend_on_parameters():
    def f(t, y, n, k):
        out = [0.0, 0.0]
        for _ in range(n):
            out = [a - (k if k > 1 else 2 * k) * b for a, b in zip(out, y)]
        return out

    for n, k, rate in ((1, 2.0, 2.0), (2, 2.0, 4.0), (1, 0.5, 1.0)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_allclose(end(f, args=(n, k)), decayed(rate, rate), rtol=1e-7)


@pytest.mark.usefixtures("on_julia")
def test_positions_count_and_not_names():
    np.testing.assert_allclose(end(lambda u, p, t: -t * p, args=(2.0,)), decayed(2.0, 2.0), rtol=1e-7)
    np.testing.assert_allclose(end(lambda y, t: -t), decayed(1.0, 1.0), rtol=1e-7)


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("fun", [by_helper, by_matrix, by_settings])
def test_ordinary_functions_are_captured_without_an_engine(fun, dtype):
    model, _ = model_of(fun, (), np.array([1.0, 2.0], dtype), 0.0, Form(2, dtype is complex))
    assert not model.in_python
    assert isinstance(model.problem.model, ScalarModel)


@pytest.mark.usefixtures("on_julia")
def test_a_function_that_stays_in_python_is_warned_of_once():
    def f(t, y, k):
        return -k * y if t < 2 else y

    for k in (1.0, 2.0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            np.testing.assert_allclose(end(f, args=(k,)), decayed(k, k), rtol=1e-7)
        assert [x.category for x in caught] == ([ps.errors.CallbackWarning] if k == 1.0 else [])
        assert not caught or (caught[0].filename == __file__ and "truth value" in str(caught[0].message))


@pytest.mark.slow
@pytest.mark.usefixtures("on_julia")
@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA"])
def test_a_jacobian_serves_a_function_that_stays_in_python(method):
    calls = []

    def f(t, y):
        return [-1e4 * y[0] + y[1], -y[1]] if t < 10 else [0, 0]

    def jac(t, y):
        calls.append(t)
        return np.array([[-1e4, 1.0], [0.0, -1.0]])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said with the first method
        result = ps.solve_ivp(f, (0, 1), [1.0, 2.0], method, jac=jac, rtol=1e-7, atol=1e-10)
    assert result.y[1, -1] == pytest.approx(2 * np.exp(-1), rel=1e-4)
    assert len(calls) > 0


@pytest.mark.usefixtures("on_julia")
def test_what_a_function_raises_comes_out():
    def early(t, y):
        raise KeyError("at the start")

    def late(t, y):
        if t > 0.5:
            raise KeyError("later")
        return -y

    with pytest.raises(KeyError, match="at the start"):
        end(early)
    with pytest.warns(ps.errors.CallbackWarning), pytest.raises(KeyError, match="later"):
        end(late)


@pytest.mark.usefixtures("on_julia")
def test_a_function_that_is_no_formula_is_not_taken_for_one():
    calls = [0]

    def counting(t, y):
        calls[0] += 1
        return -y * (1.0 + calls[0] % 2)

    state = np.random.default_rng(0)
    for f in (counting, lambda t, y: -y * state.uniform()):
        with pytest.warns(ps.errors.CallbackWarning):
            ps.solve_ivp(f, (0, 0.1), [1.0, 2.0])


@pytest.mark.usefixtures("on_julia")
def test_solves_inside_of_a_function_and_in_threads():
    def inner(t, y):
        return -y if t < 2 else y

    def outer(t, y):
        half = ps.solve_ivp(inner, (0, 1), [float(y[0])], rtol=1e-8, atol=1e-10).y[0, -1]
        return [-half * np.e, -y[1]]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(end(outer), decayed(1.0, 1.0), rtol=1e-6)

        def run(k):
            return end(lambda t, y: -k * y if t < 2 else y)

        with ThreadPoolExecutor(4) as pool:
            for k, found in zip(range(1, 9), pool.map(run, range(1, 9))):
                np.testing.assert_allclose(found, decayed(k, k), rtol=1e-7)


@pytest.mark.slow
@pytest.mark.usefixtures("on_julia")
def test_a_large_right_hand_side_with_a_sparse_jacobian():
    n = 60

    def diffusion(t, y):
        out = np.zeros_like(y)
        out[1:-1] = 50 * (y[2:] - 2 * y[1:-1] + y[:-2])
        return out

    y0 = np.sin(np.pi * np.arange(n) / (n - 1))
    structure = np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1)
    ours = ps.solve_ivp(diffusion, (0, 1), y0, "BDF", jac_sparsity=structure, rtol=1e-6, atol=1e-9)
    reference = scipys(diffusion, (0, 1), y0, "Radau", rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.y[:, -1], reference.y[:, -1], atol=1e-5)


def test_reach_finds_numbers_and_keys_the_rest():
    size, rate, table = 3, 0.5, np.arange(100.0)

    def f(t, y):
        return rate * y[:size] * table[0] * RATE

    reached = Reached(f, (2.0, "name"), NUMBERS)
    assert sorted(map(float, reached.values)) == sorted([rate, float(size), RATE, 2.0])
    assert Reached(f, (3.0, "name"), NUMBERS).key == reached.key
    assert Reached(f, (3.0, "other"), NUMBERS).key != reached.key
    assert sorted(map(float, Reached(f, (2.0, "name"), FLOATS).values)) == sorted([rate, RATE, 2.0])
    assert Reached(f, (2.0, "name"), NOTHING).values == []
    table[5] = -1.0
    assert Reached(f, (2.0, "name"), NUMBERS).key != reached.key
    floats = Reached(f, (2.0, "name"), FLOATS)
    changed = Substituted(f, (2.0, "name"), floats, [10 * x for x in floats.values])
    assert changed.args == (20.0, "name")
    np.testing.assert_allclose(changed.f(0.0, np.ones(4)), 0.0)
    table[0] = 1.0
    np.testing.assert_allclose(changed.f(0.0, np.ones(4)), np.full(3, 100 * rate * RATE))


def test_reach_of_functions_that_call_themselves():
    def f(t, y, depth=2.0):
        return -y if depth < 0 else f(t, y, depth - 1.0)

    assert Reached(f, (), NUMBERS).level == NOTHING
