"""Parameters that a model only compares with time or state: their gradient of zero is said by name and line, and no other's is."""

from __future__ import annotations

import warnings

import pytest
import torch

import pysciode as ps

STEPPED = {  # s reaches the model through steps alone
    "where": lambda u, p, t: torch.where(t < p["s"], 1.0, -1.0) * u * p["k"],
    "where of the state": lambda u, p, t: torch.where(u > p["s"], -u, u) * p["k"],
    "product": lambda u, p, t: (t < p["s"]).to(u.dtype) * u * p["k"],
    "and": lambda u, p, t: torch.where((t > p["s"]) & (u > 0), u, -u) * p["k"],
    "floor": lambda u, p, t: torch.floor(t / p["s"]) * u * p["k"],
    "ceil": lambda u, p, t: torch.ceil(t * p["s"]) * u * p["k"],
    "round": lambda u, p, t: torch.round(u * p["s"]) * p["k"],
    "trunc": lambda u, p, t: torch.trunc(u / p["s"]) * p["k"],
    "sign": lambda u, p, t: torch.sign(u - p["s"]) * p["k"],
    "long": lambda u, p, t: (t / p["s"]).long().to(u.dtype) * u * p["k"],
    "heaviside": lambda u, p, t: torch.heaviside(t - p["s"], torch.tensor(1.0, dtype=u.dtype)) * u * p["k"],
    "searchsorted": lambda u, p, t: torch.searchsorted(torch.stack([p["s"], 2 * p["s"]]), t).to(u.dtype) * u * p["k"],
    "period": lambda u, p, t: torch.where(t % p["s"] < 0.1, u, -u) * p["k"],
    "plain Python": lambda u, p, t: (t < p["s"]) * u * p["k"],
}
SMOOTH = {
    "no step": lambda u, p, t: -p["s"] * u * p["k"],
    "relu": lambda u, p, t: torch.relu(u - p["s"]) * p["k"],
    "clamp": lambda u, p, t: torch.maximum(u, p["s"]) * p["k"],
    "abs": lambda u, p, t: (u - p["s"]).abs() * p["k"],
    "ramp": lambda u, p, t: torch.where(t < p["s"], t / p["s"], 1.0) * u * p["k"],
    "of parameters alone": lambda u, p, t: torch.where(p["s"] > 0, 1.0, 2.0) * u * p["k"],
    "not there": lambda u, p, t: -u * p["k"],
}


def solve(f, n, *, s=True, k=True):
    p = {"s": torch.tensor(0.5, dtype=torch.float64, requires_grad=s), "k": torch.tensor(1.0, dtype=torch.float64, requires_grad=k)}
    problem = ps.ODEProblem(f, torch.full((n,), 0.8, dtype=torch.float64), (0.0, 0.2), p)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ps.solve(problem, saveat=[0.2], engine="embedded")
        ps.solve(problem, saveat=[0.2], engine="embedded")
    return [str(w.message) for w in caught if w.category is ps.AccuracyWarning]


@pytest.mark.parametrize("n", [2, 1000])
@pytest.mark.parametrize("name", STEPPED)
def test_said_once_by_name_and_line(name, n):
    (text,) = solve(STEPPED[name], n)
    assert "compares or rounds s with" in text and "test_step_gradients.py" in text and "two solves" in text


@pytest.mark.parametrize("n", [2, 1000])
@pytest.mark.parametrize("name", SMOOTH)
def test_not_said_of_others(name, n):
    assert solve(SMOOTH[name], n) == []


def test_not_said_where_no_gradient_to_it_is_asked_for():
    assert solve(lambda u, p, t: torch.where(t < p["s"], 1.0, -1.0) * u * p["k"], 2, s=False) == []


def test_entries_of_arrays():
    p = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    problem = ps.ODEProblem(lambda u, p, t: torch.where(t < p[1], 1.0, -1.0) * p[0], torch.tensor(1.0, dtype=torch.float64), (0.0, 1.0), p)
    with pytest.warns(ps.AccuracyWarning, match=r"compares or rounds p\[1\] with"):
        ps.solve(problem, saveat=[1.0], engine="embedded")


def test_what_is_advised_gives_the_jump():
    """du/dt is 1 up to s and -1 from there: u(1) = 2 s, whose slope is 2."""
    s = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    first = ps.solve(ps.ODEProblem(lambda u, p, t: 0 * u + 1.0, 0 * one, (0.0, s)), saveat=s[None], engine="embedded")
    second = ps.solve(ps.ODEProblem(lambda u, p, t: 0 * u - 1.0, first.u[-1], (s, 1.0)), saveat=[1.0], engine="embedded")
    second.u[-1].sum().backward()
    assert second.u[-1].item() == pytest.approx(-0.2) and s.grad.item() == pytest.approx(2.0)
