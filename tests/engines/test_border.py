"""What crosses between Python and Julia by C functions: a failure there is an error, and never an array that nobody filled."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import pysciode as ps
from pysciode.engines import get_engine
from pysciode.engines.julia import engine as julia
from pysciode.errors import EngineUnavailable, JuliaError


def decay():
    return ps.ODEProblem(lambda u, p, t: -u, np.ones(2), (0.0, 1.0))


def layout():
    out = {"version": julia._BORDER_VERSION, "report": ctypes.sizeof(julia._Report), "hooks": ctypes.sizeof(julia._Hooks)}
    return {name: str(x) for name, x in (out | dict.fromkeys(julia._SIGNATURES, 1)).items()}


@pytest.mark.parametrize("name", ["version", "report", "hooks"])
def test_another_layout_is_refused(name):
    julia._check_layout(layout())
    found = layout()
    found[name] = str(int(found[name]) + 8)
    with pytest.raises(EngineUnavailable, match="another version"):
        julia._check_layout(found)


@pytest.mark.parametrize("name", ["version", "report", "hooks", "solve", "fetch_events"])
def test_a_layout_with_less_is_refused(name):
    found = layout()
    del found[name]
    with pytest.raises(EngineUnavailable, match="another version"):
        julia._check_layout(found)


@pytest.mark.parametrize("name", ["fetch", "fetch_events", "event_count"])
def test_what_can_not_be_fetched_is_an_error(julia_engine, name, monkeypatch):
    engine = get_engine(julia_engine)
    event = ps.ContinuousCallback(lambda u, p, t: u[0] - 0.5)
    ps.solve(decay(), ps.Tsit5(), callback=event, engine=julia_engine)
    monkeypatch.setitem(engine._calls, name, lambda *arguments: -1)
    with pytest.raises(JuliaError, match="could not hand over"):
        ps.solve(decay(), ps.Tsit5(), callback=event, engine=julia_engine)


def test_unknown_handles_are_failures_and_no_crash(julia_engine):
    engine = get_engine(julia_engine)
    ps.solve(decay(), ps.Tsit5(), engine=julia_engine)
    room = (ctypes.c_double * 4)()
    at = ctypes.addressof(room)
    for name in ("fetch", "fetch_events"):
        pointers = len(julia._SIGNATURES[name]) - 2  # besides the status and the handle
        assert engine._calls[name](10**9, *[at] * pointers) != 0, name
    assert engine._calls["event_count"](10**9) == -1
    assert engine._calls["release"](10**9) == 0  # there is nothing to release
    assert engine._calls["error"](10**9, None, 0) > 0  # the length of "unknown error"
