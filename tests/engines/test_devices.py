"""Solves on a device, where JLArrays stands in for the GPU; what is said of devices that can't be used or have no memory left.

What has to run on a GPU itself is in tests/gpu.
"""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from device_checks import CHECKS, decay

import pysciode as ps
from pysciode.arrays import devices
from pysciode.engines.julia.device_errors import device_unavailable, out_of_device_memory
from pysciode.errors import INSTALL_COMMAND

on_stand_in = [pytest.mark.julia, pytest.mark.extra("jlarrays")]


@pytest.mark.slow
@pytest.mark.parametrize("check", [pytest.param(check, id=name, marks=on_stand_in) for name, check in CHECKS.items()])
def test_on_the_stand_in(check):
    with devices.stand_in():
        check("cpu")


def test_the_stand_in_is_for_problems_posed_within():
    u0, rate = torch.ones(2), torch.tensor(1.0)
    with devices.stand_in():
        problem = ps.ODEProblem(decay, u0, (0.0, 1.0), rate)
        assert problem.device == ps.remake(problem, u0=2 * u0).device == devices.STAND_IN
    assert ps.ODEProblem(decay, u0, (0.0, 1.0), rate).device is None


@pytest.mark.slow
@pytest.mark.julia
@pytest.mark.extra("jlarrays")
def test_solves_go_on_after_the_cache_is_emptied():
    ps.empty_cache()
    with devices.stand_in():
        problem = ps.ODEProblem(decay, torch.ones(3), (0.0, 1.0), torch.tensor(1.0))
        for _ in range(2):
            assert ps.solve(problem, ps.Tsit5(), saveat=[1.0]).u[0, 0].item() == pytest.approx(0.36788, rel=1e-3)
            ps.empty_cache()


PAGE = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()


@pytest.mark.julia
@pytest.mark.slow
@pytest.mark.extra("jlarrays")
@pytest.mark.parametrize("kind", ["gpu", "stand-in"])
def test_the_code_of_the_documentation(kind):
    (code,) = re.findall(rf"^```python {kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names = {"torch": torch, "ps": ps}
    with devices.stand_in() if kind == "gpu" else nullcontext():
        exec(code.replace('"cuda:0"', '"cpu"'), names)
    assert names["problem"].device == devices.STAND_IN
    if kind == "gpu":
        assert names["u"].shape == (2, 1000, 64) and names["net"][0].weight.grad.abs().sum() > 0
    else:
        assert names["u"][0, 0].item() == pytest.approx(0.13534, rel=1e-3)


REASONS = {
    "CUDA driver not found": "nvidia-smi",
    "CUDA driver not functional": "nvidia-smi",
    "NVIDIA driver too old": "525",
    "CUDA runtime not found": f"{INSTALL_COMMAND} cuda",
    "No CUDA-capable device found": "CUDA_VISIBLE_DEVICES",
    "CUDA initialization failed: unknown error (code 999)": "doctor",
}
"""What CUDA.jl says when it can't be used, and what the advice must name."""


@pytest.mark.parametrize(("reason", "advice"), REASONS.items())
def test_a_device_that_julia_can_not_use(reason, advice):
    error = device_unavailable("cuda:0", reason)
    assert isinstance(error, ps.EngineUnavailable)
    assert reason in str(error) and "cuda:0" in str(error) and advice in error.mend


def test_without_the_extra_the_command_is_named(monkeypatch, tmp_path):
    from pysciode.engines.julia import installation

    monkeypatch.setattr(installation, "julia_project", lambda: str(tmp_path))
    with pytest.raises(ps.EngineUnavailable, match=f"{INSTALL_COMMAND} cuda"):
        installation.require_extra("cuda", "a problem on a GPU")
    (tmp_path / "Manifest.toml").write_text('[[deps.CUDA]]\nversion = "6.1.0"\n')
    monkeypatch.setattr(installation, "_known", set())
    installation.require_extra("cuda", "a problem on a GPU")


OUT_OF_MEMORY = """Out of GPU memory trying to allocate 37.250 GiB
Effective GPU memory usage: 75.00% (12.000 GiB/16.000 GiB)
Memory pool usage: 9.250 GiB (10.000 GiB reserved)
Memory limit: soft = 1.000 GiB, hard = 11.000 GiB
"""
"""In CUDA.jl's words (`OutOfGPUMemoryError`, `pool_status`)."""
GIB = 2**30


def test_out_of_memory_says_who_holds_what(monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * GIB)
    error = out_of_device_memory("cuda:1", OUT_OF_MEMORY)
    assert isinstance(error, ps.OutOfDeviceMemory) and isinstance(error, MemoryError)
    assert (error.device, error.wanted) == ("cuda:1", 37.25 * GIB)
    assert error.memory == {
        "total": 16 * GIB, "free": 4 * GIB, "torch_allocated": GIB, "torch_reserved": 4 * GIB, "julia_reserved": 10 * GIB,
        "julia_limit": 11 * GIB,
    }  # fmt: skip
    for part in ("37.2 GiB", "4 GiB of 16 GiB are free", "3 GiB of these in no tensor", "empty_cache", "HARD_MEMORY_LIMIT"):
        assert part in str(error)


def test_out_of_memory_of_which_little_is_known(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: GIB)
    error = out_of_device_memory("cuda:0", "Out of GPU memory")
    assert error.wanted is None and error.memory["free"] == GIB
    assert "1 GiB of 16 GiB are free" in str(error)
    assert "empty_cache" not in str(error) and "HARD_MEMORY_LIMIT" not in str(error)
