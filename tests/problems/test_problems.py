"""What is to be solved: parameters in the user's structure, shared captures, remake."""

from __future__ import annotations

import copy
from collections import namedtuple

import numpy as np
import pytest
import torch
import torchdiffeq
from hypothesis import given
from hypothesis import strategies as st

import pysciode as ps
from pysciode.arrays.parameters import ParameterLayout

Rates = namedtuple("Rates", "growth decay")


def decay(u, p, t):
    return [-p[0] * u[0], p[0] * u[0] - p[1] * u[1]]


@pytest.mark.parametrize(
    "p, size, names",
    [
        (None, 0, ()),
        (2.0, 1, ("p",)),
        ([1.0, 2.0], 2, ("p[0]", "p[1]")),
        ((1, 2), 2, ("p[0]", "p[1]")),
        (np.ones((1, 2)), 2, ("p[0,0]", "p[0,1]")),
        ([[1.0, 2.0], [3.0, 4.0]], 4, ("p[0,0]", "p[0,1]", "p[1,0]", "p[1,1]")),
        ({"alpha": 1.0, "W": np.ones((2, 1))}, 3, ("alpha", "W[0,0]", "W[1,0]")),
        (Rates(1.0, [2.0, 3.0]), 3, ("growth", "decay[0]", "decay[1]")),
        ({"net": {"b": torch.ones(2)}, "k": 1.0}, 3, ("net.b[0]", "net.b[1]", "k")),
        ([np.ones(2), {"a": 1.0}], 3, ("p[0][0]", "p[0][1]", "p[1].a")),
    ],
)
def test_layout_names_and_round_trip(p, size, names):
    layout, leaves = ParameterLayout.of(p)
    assert layout.size == size
    assert layout.names == names
    flat = layout.flatten(p)
    assert flat.shape == (size,) and flat.dtype == np.float64
    again, _ = ParameterLayout.of(layout.unflatten(flat))
    assert again.size == size
    np.testing.assert_array_equal(layout.flatten(layout.rebuild(leaves)), flat)


def test_layout_keeps_containers():
    layout, _ = ParameterLayout.of({"a": Rates(1.0, 2.0), "b": (np.ones(1), np.zeros((2, 2)))})
    p = layout.unflatten(np.arange(7.0))
    assert isinstance(p["a"], Rates) and p["a"].decay == 1.0
    assert isinstance(p["b"], tuple) and p["b"][1].tolist() == [[3.0, 4.0], [5.0, 6.0]]


def test_layout_unflattens_tensors_with_gradient():
    layout, _ = ParameterLayout.of({"a": 1.0, "W": np.ones((2, 2))})
    flat = torch.arange(5.0, requires_grad=True)
    p = layout.unflatten(flat)
    (p["W"].sum() * p["a"]).backward()
    assert flat.grad.tolist() == [10.0, 0.0, 0.0, 0.0, 0.0]


nested = st.recursive(
    st.one_of(
        st.floats(-1e6, 1e6),
        st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3).map(np.array),
        st.integers(1, 3).map(lambda n: np.ones((n, 2))),
    ),
    lambda children: st.one_of(
        st.dictionaries(st.text("abc", min_size=1, max_size=3), children, max_size=3),
        st.tuples(children, children),
        st.lists(children, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


@given(nested)
def test_any_structure_comes_back(p):
    layout, _ = ParameterLayout.of(p)
    flat = layout.flatten(p)
    assert len(layout.names) == layout.size == flat.size
    again, leaves = ParameterLayout.of(layout.unflatten(flat))
    assert np.array_equal(np.concatenate([np.zeros(0), *(np.ravel(x) for x in leaves)]), flat)
    assert again.size == layout.size


def test_another_structure_is_refused():
    layout, _ = ParameterLayout.of({"a": 1.0})
    with pytest.raises(ValueError, match="structure"):
        layout.flatten({"b": 1.0})


def test_integers_become_float64_and_the_problem_keeps_a_copy():
    u0 = np.array([1, 2])
    problem = ps.ODEProblem(decay, u0, (0, 1), [1.0, 2.0])
    u0[0] = 100
    assert problem.u0.dtype == np.float64 and problem.u0[0] == 1.0
    with pytest.raises(AttributeError, match="remake"):
        problem.u0 = u0


def test_float32_parameters_follow_the_state():
    problem = ps.ODEProblem(decay, np.ones(2, np.float32), (0, 1), np.array([1.0, 2.0]))
    assert problem.flat_p().dtype == np.float32


def test_numbers_take_the_dtype_of_tensors():
    problem = ps.ODEProblem(decay, [1, 1], (0, 1), torch.ones(2))
    assert problem.is_torch and problem.u0.dtype == torch.float32


def test_module_parameters_are_parameters():
    net = torch.nn.Linear(2, 2)
    problem = ps.ODEProblem(net, torch.ones(2), (0, 1))
    assert problem.layout.size == 6
    assert "weight[0,1]" in problem.layout.names and "bias[1]" in problem.layout.names


def test_one_capture_for_equal_problems():
    first = ps.ODEProblem(decay, [1.0, 1.0], (0, 1), [1.0, 2.0])
    second = ps.ODEProblem(decay, [3.0, 1.0], (0, 5), [7.0, 2.0])
    assert first.model is second.model
    assert ps.remake(first, p=[5.0, 6.0]).model is first.model
    assert ps.ODEProblem(decay, [1.0, 1.0], (0, 1), (1.0, np.float64(2.0))).model is first.model


def test_another_structure_is_another_capture():
    def f(u, p, t):
        return -p["k"] * u

    first = ps.ODEProblem(f, [1.0], (0, 1), {"k": 1.0})
    assert ps.remake(first, u0=[1.0, 2.0]).model is not first.model
    assert len(ps.remake(first, u0=[1.0, 2.0]).model.rhs) == 2


K = 1.0


def with_global(u, p, t):
    return [-K * u[0]]


def test_a_changed_global_is_seen(monkeypatch):
    first = ps.ODEProblem(with_global, [1.0], (0, 1)).model
    assert ps.ODEProblem(with_global, [1.0], (0, 1)).model is first
    monkeypatch.setitem(globals(), "K", 2.0)
    assert ps.ODEProblem(with_global, [1.0], (0, 1)).model is not first


def test_new_weights_in_a_frozen_network_are_seen():
    net = torch.nn.Linear(1, 1, bias=False).requires_grad_(False)
    problem = ps.ODEProblem(lambda u, p, t: net(u), torch.ones(1), (0.0, 1.0))
    first = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine="embedded").u.item()
    with torch.no_grad():
        net.weight.add_(1.0)
    second = ps.solve(ps.remake(problem, tspan=(0.0, 1.0)), ps.Tsit5(), saveat=[1.0], engine="embedded").u.item()
    assert second == pytest.approx(first * np.exp(1.0), rel=1e-3)


def test_clear_models_forgets():
    first = ps.ODEProblem(decay, [1.0, 1.0], (0, 1), [1.0, 2.0]).model
    ps.clear_models(decay)
    assert ps.ODEProblem(decay, [1.0, 1.0], (0, 1), [1.0, 2.0]).model is not first


def test_copies_of_a_module_start_without_captures():
    net = torch.nn.Linear(2, 2)
    model = ps.ODEProblem(net, torch.ones(2), (0, 1)).model
    assert ps.ODEProblem(net, torch.ones(2), (0, 1)).model is model
    other = copy.deepcopy(net)
    assert ps.ODEProblem(other, torch.ones(2), (0, 1)).model is not model
    assert not any("pysciode" in key for key in net.state_dict())


def test_remake_changes_what_is_named_and_nothing_else():
    problem = ps.ODEProblem(decay, [1.0, 1.0], (0.0, 1.0), [1.0, 2.0], name="decay")
    other = ps.remake(problem, tspan=(0.0, 9.0))
    assert other.tspan == (0.0, 9.0) and other.name == "decay" and other.p == problem.p
    assert problem.tspan == (0.0, 1.0)
    with pytest.raises(TypeError, match="no argument 'u'"):
        ps.remake(problem, u=[1.0])


def test_remake_of_a_second_order_problem():
    problem = ps.SecondOrderODEProblem(lambda v, u, p, t: -u, [0.0], [1.0], (0.0, 1.0))
    other = ps.remake(problem, u0=[2.0])
    assert isinstance(other, ps.SecondOrderODEProblem) and other.u0.tolist() == [[0.0], [2.0]]
    assert ps.remake(problem, du0=[3.0]).u0.tolist() == [[3.0], [1.0]]
    assert ps.remake(problem, f=lambda v, u, p, t: -2 * u).model is not problem.model


def test_parts_sum_to_the_model():
    from pysciode.lowering.scalars.python_function import python_function

    problem = ps.SplitODEProblem(lambda u, p, t: -p * u, lambda u, p, t: u[::-1] + t, [0.5, 2.0], (0.0, 1.0), 3.0)
    x, p = np.array([0.5, 2.0]), np.array([3.0])
    whole, first, second = (python_function(m)(x, p, 1.0) for m in (problem.model, problem.parts["f1"], problem.parts["f2"]))
    np.testing.assert_allclose(whole, [1.5, -4.5])
    np.testing.assert_allclose(first, [-1.5, -6.0])
    np.testing.assert_allclose(second, [3.0, 1.5])


@pytest.mark.parametrize("kind", ["ode", "second_order", "dynamical", "split"])
def test_a_problem_has_the_fields_that_its_class_declares(kind):
    from pysciode.problems.base import Problem

    def f(*arguments):
        return -arguments[0]

    span = (0.0, 1.0)
    problem = {
        "ode": lambda: ps.ODEProblem(f, [1.0], span),
        "second_order": lambda: ps.SecondOrderODEProblem(f, [1.0], [1.0], span),
        "dynamical": lambda: ps.DynamicalODEProblem(f, f, [1.0], [1.0], span),
        "split": lambda: ps.SplitODEProblem(f, f, [1.0], span),
    }[kind]()
    assert problem.model is not None
    declared = {name for name, hint in Problem.__annotations__.items() if not hint.startswith("ClassVar")}
    assert vars(problem).keys() == vars(ps.remake(problem, tspan=(0.0, 2.0))).keys() == declared
    assert problem.functions.keys() == problem.signatures.keys()


def test_repr_says_what_it_is():
    text = repr(ps.ODEProblem(decay, [1.0, 1.0], (0.0, 1.0), [1.0, 2.0], name="decay"))
    assert "decay" in text and "float64" in text and "2 parameters" in text


def test_a_layer_put_in_another_s_place_gives_a_new_capture():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh()).double()
    u0 = torch.tensor([0.5, -0.3], dtype=torch.float64)
    ps.ODEProblem(net, u0, (0.0, 1.0)).model  # captured
    net[1] = torch.nn.Softplus()
    found = ps.solve(ps.ODEProblem(net, u0, (0.0, 1.0)), ps.Tsit5(), saveat=[1.0], rtol=1e-9, atol=1e-9, engine="embedded").u
    with torch.no_grad():
        expected = torchdiffeq.odeint(lambda t, u: net(u), u0, torch.tensor([0.0, 1.0]).double(), rtol=1e-10, atol=1e-10)[-1:]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
