"""Wrong arguments of ``solve_ivp`` meet the exceptions and warnings that SciPy has for them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.integrate import RK45, Radau
from scipy.integrate import solve_ivp as scipys
from scipy.sparse import csc_matrix

import pysciode as ps


def decay(t, y):
    return -0.5 * np.asarray(y)


def fails(t, y):
    raise ZeroDivisionError("of the user's own")


def wrong_size(t, y):
    return [1.0, 2.0, 3.0]


def no_numbers(t, y):
    return ["a", "b"]


def event(t, y):
    return y[0] - 1.0


def terminal(value):
    def f(t, y):
        return y[0] - 1.0

    f.terminal = value
    return f


GOOD = dict(fun=decay, t_span=(0, 1), y0=[1.0, 2.0])
WRONG = {
    "method": dict(method="RK46"),
    "method class": dict(method=int),
    "y0 of two dimensions": dict(y0=[[1.0, 2.0]]),
    "y0 a number": dict(y0=1.0),
    "y0 nan": dict(y0=[1.0, np.nan]),
    "y0 inf": dict(y0=[1.0, np.inf]),
    "complex Radau": dict(y0=[1j, 2.0], method="Radau"),
    "complex LSODA": dict(y0=[1j, 2.0], method="LSODA"),
    "t_span of three": dict(t_span=(0, 1, 2)),
    "t_span a word": dict(t_span=("a", 1)),
    "t_span a number": dict(t_span=1.0),
    "t_eval outside": dict(t_eval=[0.5, 1.5]),
    "t_eval before": dict(t_eval=[-0.5, 0.5]),
    "t_eval unsorted": dict(t_eval=[0.5, 0.2]),
    "t_eval repeated": dict(t_eval=[0.5, 0.5]),
    "t_eval increasing backwards": dict(t_span=(1, 0), t_eval=[0.2, 0.5]),
    "t_eval of two dimensions": dict(t_eval=[[0.5, 0.7]]),
    "t_eval a number": dict(t_eval=0.5),
    "args a number": dict(args=3),
    "atol negative": dict(atol=-1e-3),
    "atol of another size": dict(atol=[1e-3, 1e-3, 1e-3]),
    "max_step 0": dict(max_step=0),
    "max_step negative": dict(max_step=-1.0),
    "first_step 0": dict(first_step=0),
    "first_step negative": dict(first_step=-0.1),
    "first_step too long": dict(first_step=2.0),
    "min_step negative": dict(method="LSODA", min_step=-1.0),
    "terminal negative": dict(events=terminal(-1)),
    "terminal broken": dict(events=terminal(1.5)),
    "event no function": dict(events=[event, 3]),
    "events a number": dict(events=3),
    "jac of another size": dict(method="Radau", jac=np.eye(3)),
    "jac function of another size": dict(method="BDF", jac=lambda t, y: np.eye(3)),
    "jac sparse of another size": dict(method="BDF", jac=csc_matrix(np.eye(3))),
    "fun fails": dict(fun=fails),
    "fun of another size": dict(fun=wrong_size),
    "fun of words": dict(fun=no_numbers),
    "fun takes other arguments": dict(args=(1.0, 2.0)),
}


@pytest.mark.usefixtures("on_julia")
@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_raise_what_scipy_raises(name):
    arguments = {**GOOD, **WRONG[name]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as theirs:
            scipys(**arguments)
        with pytest.raises(type(theirs.value)) as ours:
            ps.solve_ivp(**arguments)
    if str(theirs.value).startswith("`") and name not in ("method", "method class"):
        assert str(ours.value) == str(theirs.value)


WARNED = {
    "rtol 0": dict(rtol=0.0),
    "rtol too small": dict(rtol=[1e-3, 1e-16]),
    "jac": dict(jac=lambda t, y: -0.5 * np.eye(2)),
    "two unknown": dict(method="RK23", lband=1, strange=3),
    "min_step": dict(method="BDF", min_step=1e-9),
    "jac_sparsity": dict(method="LSODA", jac_sparsity=np.eye(2)),
}


@pytest.mark.slow
@pytest.mark.usefixtures("on_julia")
@pytest.mark.parametrize("name", WARNED)
def test_warnings_are_scipys(name):
    found = []
    for solver in (scipys, ps.solve_ivp):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            solver(**{**GOOD, **WARNED[name]})
        found.append([(x.category, str(x.message)) for x in caught])
        assert solver is scipys or caught[0].filename == __file__
    assert found[0] == found[1] and len(found[0]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        dict(y0=[], dense_output=True),
        dict(t_span=(1, 1), dense_output=True),
        dict(t_span=(1, 1), t_eval=[1]),
        dict(t_span=(1, 1), events=lambda t, y: y[0] - 1.0),
    ],
)
@pytest.mark.usefixtures("on_julia")
def test_where_there_is_nothing_to_integrate(arguments):
    ours, theirs = (solver(**{**GOOD, **arguments}) for solver in (ps.solve_ivp, scipys))
    assert ours.status == theirs.status
    np.testing.assert_array_equal(ours.t, theirs.t)
    np.testing.assert_array_equal(ours.y, theirs.y)
    if theirs.t_events is not None:
        np.testing.assert_array_equal(ours.t_events[0], theirs.t_events[0])


@pytest.mark.usefixtures("on_julia")
def test_an_endless_time_needs_an_event_that_ends_it():
    with pytest.raises(ValueError, match="never ends"):
        ps.solve_ivp(decay, (0, np.inf), [1.0, 2.0], events=event)


def test_the_embedded_engine_hands_the_call_to_scipy():
    ps.set_engine("embedded")
    try:
        ours = ps.solve_ivp(decay, (0, 1), [1.0, 2.0], "BDF", dense_output=True)
        with pytest.raises(ps.EngineUnavailable, match="Rodas5P"):
            ps.solve_ivp(decay, (0, 1), [1.0, 2.0], "Rodas5P")
    finally:
        ps.set_engine("auto")
    theirs = scipys(decay, (0, 1), [1.0, 2.0], "BDF", dense_output=True)
    np.testing.assert_array_equal(ours.y, theirs.y)
    assert type(ours) is type(theirs)


class OwnSolver(RK45):
    """A method of the user's."""


def test_a_solver_class_of_the_users_own_is_run_by_scipy():
    ours, theirs = (solver(decay, (0, 1), [1.0, 2.0], OwnSolver) for solver in (ps.solve_ivp, scipys))
    np.testing.assert_array_equal(ours.y, theirs.y)


@pytest.mark.usefixtures("on_julia")
def test_scipys_classes_are_their_names():
    by_class, by_name = (ps.solve_ivp(decay, (0, 1), [1, 2], method) for method in (Radau, "Radau"))
    np.testing.assert_array_equal(by_class.y, by_name.y)
    assert by_class.y.dtype == np.float64  # also of integers
