"""Tests in this directory need a GPU that torch and CUDA.jl can use: skipped without, or failed where PYSCIODE_REQUIRE_GPU=1
demands one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from pysciode.engines.julia.installation import extra_is_installed, julia_environment_is_resolved

REQUIRED = os.environ.get("PYSCIODE_REQUIRE_GPU") == "1"


def _missing() -> str | None:
    if not torch.cuda.is_available():
        return "a GPU that torch can use (torch.cuda.is_available() is False)"
    if torch.version.cuda is None:
        return "a GPU of NVIDIA's"
    if not julia_environment_is_resolved():
        return "python -m pysciode install"
    return None if extra_is_installed("cuda") else "python -m pysciode install cuda"


@pytest.fixture(scope="session")
def what_is_missing() -> str | None:
    """What keeps these tests from running, if anything does."""
    return _missing()


@pytest.fixture(autouse=True)
def _gpu_where_it_is_needed(what_is_missing: str | None) -> None:
    if what_is_missing is not None:
        (pytest.fail if REQUIRED else pytest.skip)(f"needs {what_is_missing}")


@pytest.fixture
def device() -> str:
    """torch's name of the GPU."""
    return "cuda:0"


@pytest.fixture
def float32_products() -> Iterator[None]:
    """How exact products of float32 are may be changed, and is put back."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them are marked, wherever they are run from."""
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker("gpu")
