"""Tests marked ``julia`` need the Julia engine, those marked ``extra("name")`` a part of it that is installed on request: skipped
without, or failed where PYSCIODE_REQUIRE_JULIA=1 demands them."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

from pysciode.engines.julia.installation import extra_is_installed, julia_environment_is_resolved

REQUIRED = os.environ.get("PYSCIODE_REQUIRE_JULIA") == "1"

# No example has a time limit: machines are busy, and the first example may start Julia.
hypothesis.settings.register_profile("pysciode", deadline=None)
hypothesis.settings.load_profile("pysciode")


def pytest_configure() -> None:
    """Tests press Ctrl-C, which processes of pytest-xdist, and their children with them, would ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@functools.cache
def _julia_is_installed() -> bool:
    return julia_environment_is_resolved()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture of a test, which may start Julia, is made."""
    missing = None
    if item.get_closest_marker("julia") is not None and not _julia_is_installed():
        missing = "python -m pysciode install"
    for marker in item.iter_markers("extra"):
        if not extra_is_installed(*marker.args):
            missing = f"python -m pysciode install {marker.args[0]}"
    if missing is not None:
        (pytest.fail if REQUIRED else pytest.skip)(f"needs {missing}")


@pytest.fixture(params=[pytest.param("julia", marks=pytest.mark.julia), "embedded"])
def engine(request: pytest.FixtureRequest) -> str:
    """Name of an engine: what is tested with it must hold on both."""
    return request.param


@pytest.fixture(params=[pytest.param("julia", marks=pytest.mark.julia)])
def julia_engine(request: pytest.FixtureRequest) -> str:
    """For what only the Julia engine can do."""
    return request.param


@contextlib.contextmanager
def _chosen(engine: str) -> Iterator[None]:
    from pysciode import engines

    before = engines._chosen
    engines.set_engine(engine)
    yield
    engines.set_engine(before)


@pytest.fixture
def chosen_engine(engine: str) -> Iterator[str]:
    """`engine`, chosen for functions that can't be told which to take."""
    with _chosen(engine):
        yield engine


@pytest.fixture
def on_julia(julia_engine: str) -> Iterator[str]:
    """`julia_engine`, chosen in the same way."""
    with _chosen(julia_engine):
        yield julia_engine
