"""A problem sees what its model reads as it is when the problem is made, wherever that is kept.

Every cell solves ``u' = -rate(x) u``, whose solution at 1 is ``exp(-rate(x)) u0``, changes `x` where it is kept, solves again, and puts
the first `x` back.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from every_cell import ALL

import pysciode as ps

pytestmark = pytest.mark.slow

VALUES = {
    "int": (2, 3),
    "float": (1.5, 2.5),
    "bool": (False, True),
    "str": ("slow", "faster"),
    "None": (None, 2.0),
    "list": ([1.0, 2.0], [1.0, 3.0]),
    "tuple": ((1.0, 2.0), (1.0, 0.5)),
    "dict": ({"rate": 1.0}, {"rate": 2.0}),
    "nested": ({"rates": [[0.0, 1.0]]}, {"rates": [[0.0, 2.0]]}),
    "array": (np.array([1.0, 2.0]), np.array([1.0, 3.0])),
    "large array": (np.linspace(0, 2, 20_000), np.linspace(0, 3, 20_000)),
    "tensor": (torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([1.0, 3.0], dtype=torch.float64)),
    "function": (functools.partial(lambda: 1.0), functools.partial(lambda: 2.0)),
}
CHANGED_IN_PLACE = ("list", "dict", "nested", "array", "large array", "tensor")


def rate(x):
    """The model's rate, by what kind of thing `x` is."""
    if x is None:
        return 0.5
    if isinstance(x, bool):
        return 2.0 if x else 1.0
    if isinstance(x, str):
        return 0.25 * len(x)
    if isinstance(x, (int, float)):
        return x
    if isinstance(x, dict):
        return rate(x["rate"]) if "rate" in x else rate(x["rates"][0])
    if callable(x):
        return x()
    return x[-1]


class Place:
    """Somewhere to keep a value: `read` is called by the model."""

    def put(self, value):
        raise NotImplementedError

    def read(self):
        raise NotImplementedError


class Settings:
    value = None


KEPT_GLOBALLY = None


def reads_a_global():
    return KEPT_GLOBALLY


def asks_a_helper():
    return reads_a_global()


@dataclass
class Record:
    value: object = None


class Slotted:
    __slots__ = ("value",)


class Holder:
    of_the_class = None

    def __init__(self):
        self.value = None
        self.inner = SimpleNamespace(value=None)
        self.items = [None, None]
        self.history = []

    @property
    def current(self):
        return self.value

    def __call__(self):
        return self.value

    def method(self):
        return self.current


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.value = None
        self.inner = torch.nn.Module()
        self.inner.value = None

    def extra(self):
        return self.value


def in_a_closure():
    value = None

    def read():
        return value

    def put(new):
        nonlocal value
        value = new

    return read, put


def in_a_dict_of_a_closure():
    box = {}
    return lambda: box["value"], lambda new: box.update(value=new)


def in_a_list_of_a_closure():
    box = [0, [None]]
    return lambda: box[1][0], lambda new: box[1].__setitem__(0, new)


def in_a_global():
    return lambda: KEPT_GLOBALLY, lambda new: globals().update(KEPT_GLOBALLY=new)


def in_a_global_of_a_helper():
    return reads_a_global, lambda new: globals().update(KEPT_GLOBALLY=new)


def in_a_global_of_a_helper_of_a_helper():
    return lambda: asks_a_helper(), lambda new: globals().update(KEPT_GLOBALLY=new)


def in_a_class():
    return lambda: Settings.value, lambda new: setattr(Settings, "value", new)


def in_the_class_of_an_object():
    holder = Holder()
    return lambda: holder.of_the_class, lambda new: setattr(Holder, "of_the_class", new)


def in_an_attribute():
    holder = Holder()
    return lambda: holder.value, lambda new: setattr(holder, "value", new)


def in_an_attribute_that_a_helper_reads():
    holder = Holder()

    def helper(x):
        return x.value

    return lambda: helper(holder), lambda new: setattr(holder, "value", new)


def in_an_attribute_of_an_attribute():
    holder = Holder()
    return lambda: holder.inner.value, lambda new: setattr(holder.inner, "value", new)


def in_a_list_of_an_object():
    holder = Holder()
    return lambda: holder.items[1], lambda new: holder.items.__setitem__(1, new)


def behind_a_property():
    holder = Holder()
    return lambda: holder.current, lambda new: setattr(holder, "value", new)


def behind_a_method():
    holder = Holder()
    return holder.method, lambda new: setattr(holder, "value", new)


def behind_a_call():
    holder = Holder()
    return holder, lambda new: setattr(holder, "value", new)


def by_a_name_that_is_computed():
    holder = Holder()
    return lambda: getattr(holder, "val" + "ue"), lambda new: setattr(holder, "value", new)


def in_slots():
    slotted = Slotted()
    return lambda: slotted.value, lambda new: setattr(slotted, "value", new)


def in_a_dataclass():
    record = Record()
    return lambda: record.value, lambda new: setattr(record, "value", new)


def in_a_default():
    def read(value=None):
        return value

    return read, lambda new: setattr(read, "__defaults__", (new,))


def in_a_keyword_default():
    def read(*, value=None):
        return value

    return read, lambda new: read.__kwdefaults__.update(value=new)


def in_an_attribute_of_a_function():
    def read():
        return read.value

    return read, lambda new: setattr(read, "value", new)


def in_a_partial():
    part = functools.partial(lambda value: value, value=None)
    return part, lambda new: part.keywords.update(value=new)


def in_a_module():
    net = Network()
    return lambda: net.value, lambda new: setattr(net, "value", new)


def in_a_module_of_a_module():
    net = Network()
    return lambda: net.inner.value, lambda new: setattr(net.inner, "value", new)


def in_a_method_of_a_module():
    net = Network()
    return net.extra, lambda new: setattr(net, "value", new)


PLACES = [x for name, x in list(globals().items()) if name.startswith(("in_", "behind_", "by_a_"))]


def solved_by_python(read):
    def f(u, p, t):
        return -rate(read()) * u

    return lambda: ps.solve(ps.ODEProblem(f, np.array([1.0, 2.0]), (0.0, 1.0))).u[-1]


def solved_by_torch(read):
    def f(u, p, t):
        return torch.as_tensor(-rate(read())) * u

    return lambda: ps.solve(ps.ODEProblem(f, torch.tensor([1.0, 2.0], dtype=torch.float64), (0.0, 1.0))).u[-1]


def solved_by_callbacks(read):
    def f(u, p, t):
        return -rate(read()) * u

    return lambda: ps.solve(ps.ODEProblem(f, np.array([1.0, 2.0]), (0.0, 1.0), capture="callback")).u[-1]


def solved_again_by_remake(read):
    latest = []

    def f(u, p, t):
        return -rate(read()) * u

    def solve():
        latest[:] = [ps.remake(latest[0]) if latest else ps.ODEProblem(f, np.array([1.0, 2.0]), (0.0, 1.0))]
        return ps.solve(latest[0]).u[-1]

    return solve


def solved_by_a_layer(read):
    class Dynamics(torch.nn.Module):
        def forward(self, t, u):
            return torch.as_tensor(-rate(read())) * u

    layer = ps.nn.NeuralODE(Dynamics(), (0.0, 1.0), rtol=1e-6, atol=1e-9)
    return lambda: layer(torch.tensor([[1.0, 2.0]], dtype=torch.float64))[0]


def solved_by_odeint(read):
    def f(t, u):
        return torch.as_tensor(-rate(read())) * u

    start, times = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    return lambda: ps.odeint(f, start, times)[-1]


def solved_by_solve_ivp(read):
    def f(t, u):
        return -rate(read()) * u

    return lambda: ps.solve_ivp(f, (0.0, 1.0), np.array([1.0, 2.0]), rtol=1e-6, atol=1e-9).y[:, -1]


WAYS = [x for name, x in list(globals().items()) if name.startswith("solved_")]
READ_TENSORS = (solved_by_torch, solved_by_a_layer, solved_by_odeint)


def check(solve, value):
    expected = math.exp(-float(rate(value))) * np.array([1.0, 2.0])
    np.testing.assert_allclose(np.asarray(solve()), expected, rtol=1e-4, err_msg=f"with {value!r}")


@pytest.mark.filterwarnings("ignore::pysciode.CallbackWarning")
@pytest.mark.parametrize("way", WAYS, ids=lambda x: x.__name__)
@pytest.mark.parametrize("place", PLACES, ids=lambda x: x.__name__)
def test_a_changed_value_counts(chosen_engine, place, way):
    read, put = place()
    solve = way(read)
    # Of places, ways and kinds of value each pair is drawn, on both engines.
    for i, kind in enumerate(VALUES):
        drawn = ALL or kind == "tensor" or (PLACES.index(place) + WAYS.index(way) + i) % len(WAYS) == 0
        if not drawn or (kind == "tensor" and way not in READ_TENSORS):
            continue
        first, second = VALUES[kind]
        for value in (first, second, first):
            put(value)
            check(solve, value)


@pytest.mark.filterwarnings("ignore::pysciode.CallbackWarning")
@pytest.mark.parametrize("kind", CHANGED_IN_PLACE)
@pytest.mark.parametrize("way", WAYS, ids=lambda x: x.__name__)
def test_a_value_changed_in_place_counts(chosen_engine, way, kind):
    if kind == "tensor" and way not in READ_TENSORS:
        pytest.skip("a NumPy model reads no tensor")
    start = (WAYS.index(way) + CHANGED_IN_PLACE.index(kind)) % 4
    for place in PLACES if ALL or kind == "tensor" else PLACES[start::4]:
        read, put = place()
        solve = way(read)
        first, second = VALUES[kind]
        value = copied(first)
        put(value)
        for now in (first, second, first):
            overwrite(value, now)
            check(solve, now)


def copied(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    return value.copy() if not isinstance(value, dict) or "rate" in value else {"rates": [[*value["rates"][0]]]}


def overwrite(value, new):
    """`value` becomes equal to `new`, without a trace that a version counter would show."""
    if isinstance(value, torch.Tensor):
        value.data.copy_(new)
    elif isinstance(value, dict) and "rates" in value:
        value["rates"][0][-1] = new["rates"][0][-1]
    elif isinstance(value, dict):
        value.update(new)
    else:
        value[:] = new


def test_a_module_of_the_users(chosen_engine, tmp_path, monkeypatch):
    (tmp_path / "settings_of_a_model.py").write_text("k = 1.0\n\ndef rate():\n    return k\n")
    spec = importlib.util.spec_from_file_location("settings_of_a_model", tmp_path / "settings_of_a_model.py")
    settings = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "settings_of_a_model", settings)
    spec.loader.exec_module(settings)

    def by_attribute(u, p, t):
        return -settings.k * u

    def by_function(u, p, t):
        return -settings.rate() * u

    def by_import(u, p, t):
        import settings_of_a_model

        return -settings_of_a_model.k * u

    for f in (by_attribute, by_function, by_import):
        for k in (1.0, 2.0, 1.0):
            settings.k = k
            sol = ps.solve(ps.ODEProblem(f, [1.0], (0.0, 1.0)))
            np.testing.assert_allclose(sol.u[-1], math.exp(-k), rtol=1e-4)


def test_what_a_model_never_reads_costs_no_capture():
    net = Network()
    net.forward = lambda t, u: -u
    net.optimiser, net.losses = object(), []
    start = torch.ones(2)
    model = ps.ODEProblem(net, start, (0, 1)).model
    net.losses.append(1.0)
    net.optimiser = object()
    assert ps.ODEProblem(net, start, (0, 1)).model is model


@pytest.mark.parametrize("in_torch", [True, False])
def test_what_counts_evaluations_costs_no_capture_and_no_trace_stays(in_torch):
    class Counting:
        def __init__(self):
            self.calls, self.seen, self.latest = 0, [], None

        def __call__(self, u, p, t):
            self.calls += 1
            self.seen.append(u)
            self.latest = u
            return -u

    f = Counting()
    start = torch.ones(2) if in_torch else np.ones(2)
    ps.ODEProblem(f, start, (0, 1)).model
    assert (f.calls, f.seen, f.latest) == (0, [], None)
    model = ps.ODEProblem(f, start, (0, 1)).model
    f.calls = 17
    assert ps.ODEProblem(f, start, (0, 1)).model is model


def test_a_constant_is_copied_when_it_is_captured(chosen_engine):
    """A model that another one with equal constants shares must not change with them."""
    constant = torch.full((500, 2), 1.0, dtype=torch.float64)
    box = [constant]

    def f(u, p, t):
        return -box[0].mean(0) * u

    start = torch.ones(2, dtype=torch.float64)
    first = ps.ODEProblem(f, start, (0.0, 1.0))
    first.model
    constant.data.fill_(2.0)
    np.testing.assert_allclose(ps.solve(first).u[-1], np.full(2, math.exp(-1.0)), rtol=1e-4)
    box[0] = torch.full((500, 2), 1.0, dtype=torch.float64)
    np.testing.assert_allclose(ps.solve(ps.ODEProblem(f, start, (0.0, 1.0))).u[-1], np.full(2, math.exp(-1.0)), rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_attribute_of_a_scripted_module(chosen_engine):
    class Scripted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.k = 1

        def forward(self, t, u):
            return -self.k * u

    net = torch.jit.script(Scripted())
    for k in (1, 2, 1):
        net.k = k
        sol = ps.solve(ps.ODEProblem(net, torch.ones(2, dtype=torch.float64), (0.0, 1.0)))
        np.testing.assert_allclose(sol.u[-1], np.full(2, math.exp(-k)), rtol=1e-4)


EXECUTED = """
import dataclasses
import sys

class Attribute:
    rate = 2.0
    def __call__(self, u, p, t):
        return -self.rate * u
    def put(self, value):
        self.rate = value

class OfTheClass(Attribute):
    def put(self, value):
        type(self).rate = value

class Property(Attribute):
    def __init__(self):
        self.kept = [2.0]
    @property
    def rate(self):
        return self.kept[0]
    def put(self, value):
        self.kept[0] = value

class Inner:
    def __init__(self):
        self.rate = 2.0

if __name__ in sys.modules:  # dataclasses look their module up
    @dataclasses.dataclass
    class Inner:
        rate: float = 2.0

class Nested:
    def __init__(self):
        self.inner = Inner()
    def __call__(self, u, p, t):
        return -self.inner.rate * u
    def put(self, value):
        self.inner.rate = value

class Data:
    rate = 2.0

class Closed:
    def __init__(self):
        self.data = data = Data()
        self.f = lambda u, p, t: -data.rate * u
    def put(self, value):
        self.data.rate = value

rate = 2.0
class Global:
    def __call__(self, u, p, t):
        return -rate * u
    def put(self, value):
        globals()["rate"] = value
"""
NAMESPACES = {
    "none": dict,
    "a name that nobody knows": lambda: {"__name__": "nowhere"},
    "the main module's": lambda: {"__name__": "__main__"},
    "a module without a file": lambda: vars(sys.modules["without_a_file"]),
}


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("kind", ["Attribute", "OfTheClass", "Property", "Nested", "Closed", "Global"])
def test_code_that_was_executed_from_text(chosen_engine, monkeypatch, kind, namespace):
    monkeypatch.setitem(sys.modules, "without_a_file", type(sys)("without_a_file"))
    names = NAMESPACES[namespace]()
    exec(EXECUTED, names)
    kept = names[kind]()
    model = getattr(kept, "f", kept)
    for value in (2.0, 0.5, 0.7, 2.0):
        kept.put(value)
        found = ps.solve(ps.ODEProblem(model, [1.0], (0.0, 1.0)), saveat=[1.0], rtol=1e-8, atol=1e-8).u[0, 0]
        assert found == pytest.approx(math.exp(-value), rel=1e-6)
