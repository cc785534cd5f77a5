"""Tests marked ``julia`` need the Julia engine: skipped without it, or failed where PYSCIODE_REQUIRE_JULIA=1 demands it."""

from __future__ import annotations

import os

import pytest

from pysciode.installation import julia_environment_is_resolved

REQUIRED = os.environ.get("PYSCIODE_REQUIRE_JULIA") == "1"


@pytest.fixture(scope="session")
def julia_is_installed() -> bool:
    """Whether the Julia engine can start here."""
    return julia_environment_is_resolved()


@pytest.fixture(autouse=True)
def _julia_where_it_is_needed(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("julia") is None or request.getfixturevalue("julia_is_installed"):
        return
    if REQUIRED:
        pytest.fail("PYSCIODE_REQUIRE_JULIA=1, but the Julia environment is not resolved: python -m pysciode install")
    pytest.skip("needs the Julia engine: python -m pysciode install")


@pytest.fixture(params=[pytest.param("julia", marks=pytest.mark.julia), "embedded"])
def engine(request: pytest.FixtureRequest) -> str:
    """Name of an engine: what is tested with it must hold on both."""
    return request.param


@pytest.fixture(params=[pytest.param("julia", marks=pytest.mark.julia)])
def julia_engine(request: pytest.FixtureRequest) -> str:
    """For what only the Julia engine can do."""
    return request.param
