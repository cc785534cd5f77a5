"""Solves on a real GPU: what the stand-in shows too, and what it can't."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest
import torch
from device_checks import CHECKS, DOUBLE, TIGHT, check_close, check_single_solve, decay, network, reference, start
from torch import nn
from torchdiffeq import odeint

import pysciode as ps


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_as_on_the_stand_in(check, device):
    check(device)


# Against the same card, and the CPU


def solve_with_gradients(module: nn.Module, u0: torch.Tensor) -> list[torch.Tensor]:
    u0 = u0.clone().requires_grad_()
    u = ps.solve(ps.ODEProblem(module, u0, (0.0, 1.0)), ps.Tsit5(), saveat=[0.4, 1.0], **TIGHT).u
    return [u, *torch.autograd.grad(u.sin().sum(), [u0, *module.parameters()])]


def test_torchdiffeq_on_the_same_card(device):
    module, u0 = network(device), start(50, 3, device=device).requires_grad_()
    times = torch.tensor([0.0, 0.4, 1.0], dtype=DOUBLE, device=device)
    u = odeint(lambda t, u: module(u), u0, times, rtol=1e-10, atol=1e-10, method="dopri5")[1:]
    expected = [u, *torch.autograd.grad(u.sin().sum(), [u0, *module.parameters()])]
    check_close(solve_with_gradients(module, u0.detach()), [x.detach() for x in expected], device, 1e-6)


def test_the_cpu_takes_the_same_steps(device):
    u0 = start(50, 3, device="cpu")
    on_cpu, on_card = solve_with_gradients(network("cpu"), u0), solve_with_gradients(network(device), u0.to(device))
    check_close(on_card, [x.detach() for x in on_cpu], device, 1e-9)


def test_a_large_batch(device):
    """More threads than one launch has blocks of, and vectors of some hundred megabytes."""
    u0 = torch.rand(10_000_000, 4, device=device, dtype=torch.float32)
    rate = torch.tensor(1.0, device=device, dtype=torch.float32)
    u = ps.solve(ps.ODEProblem(decay, u0, (0.0, 1.0), rate), ps.Tsit5(), saveat=[1.0]).u[0]
    assert (u - u0 * np.exp(-1.0)).abs().max().item() < 1e-3


# Precision


def wide(device: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 256)).to(device)
    return module, torch.randn(512, 256, generator=torch.Generator().manual_seed(1)).to(device)


def test_products_are_as_exact_as_torch_is_told(device, float32_products):
    """A ten-bit mantissa gives errors near 1e-3, full float32 near 1e-6: solvers' own errors lie far below in both."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        pytest.skip("this GPU has no TF32")
    module, u0 = wide(device)
    (expected, *_) = reference(module, u0, [1.0])
    errors = {}
    for precision in ("highest", "high", "highest"):
        torch.set_float32_matmul_precision(precision)
        with torch.no_grad():
            problem = ps.ODEProblem(module, u0, (0.0, 1.0))
            u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], adaptive=False, dt=0.05).u
        errors[precision] = ((u.to("cpu", DOUBLE) - expected).norm() / expected.norm()).item()
    assert errors["highest"] < 2e-6
    assert 1e-5 < errors["high"] < 5e-3


# Streams


def test_a_solve_waits_for_what_torch_has_queued(device):
    """On a stream of the user's, behind work that takes some hundred milliseconds."""
    rate = torch.tensor(1.0, dtype=DOUBLE, device=device)
    u0 = torch.zeros(1000, dtype=DOUBLE, device=device)
    problem = ps.ODEProblem(decay, u0, (0.0, 1.0), rate)
    ps.solve(problem, ps.Tsit5(), saveat=[1.0], **TIGHT)
    slow = torch.randn(6000, 6000, device=device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(20):
            slow = torch.tanh(slow @ slow)
        u0.copy_(torch.ones_like(u0) + 0 * slow[0, 0])
        u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], **TIGHT).u[-1]
        later = 2 * u
    torch.cuda.current_stream(device).wait_stream(stream)
    check_close([u, later], [torch.full((1000,), c * np.exp(-1.0), dtype=DOUBLE) for c in (1, 2)], device, 1e-7)


def test_the_backward_pass_waits_too(device):
    A = torch.tensor([[-0.5, 1.0], [-1.0, -0.3]], dtype=DOUBLE, device=device, requires_grad=True)
    u0 = start(4, 2, device=device)
    slow = torch.randn(6000, 6000, device=device)
    with torch.cuda.stream(torch.cuda.Stream(device)):
        u = ps.solve(ps.ODEProblem(lambda u, p, t: u @ p, u0, (0.0, 1.0), A), ps.Tsit5(), saveat=[1.0], **TIGHT).u[-1]
        for _ in range(20):
            slow = torch.tanh(slow @ slow)
        weight = torch.ones_like(u) + 0 * slow[0, 0]  # not there yet when the backward pass begins
        (gradient,) = torch.autograd.grad((u * weight).sum(), A)
    torch.cuda.synchronize(device)
    (expected,) = torch.autograd.grad((u0 @ torch.linalg.matrix_exp(A)).sum(), A)
    check_close([gradient], [expected], device, 1e-6)


# Memory


def used(device: str) -> int:
    """Bytes of the card that anybody holds, when everybody has given back what is free."""
    gc.collect()
    torch.cuda.synchronize(device)
    ps.empty_cache()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def test_memory_is_flat_over_many_solves(device):
    """While torch's cache is emptied now and then, as training loops do."""
    module, u0 = network(device, torch.float32), start(20_000, 3, device=device, dtype=torch.float32)
    problem = ps.ODEProblem(module, u0, (0.0, 1.0))

    def step() -> None:
        module.zero_grad()
        ps.solve(problem, ps.Tsit5(), saveat=[0.5, 1.0], rtol=1e-5, atol=1e-6).u.square().mean().backward()

    for _ in range(20):
        step()
    before = used(device)
    for i in range(200):
        step()
        if i % 20 == 0:
            torch.cuda.empty_cache()
    assert used(device) - before < 64 * 2**20


def test_out_of_memory_leaves_all_usable_and_free(device):
    before = used(device)
    free, _ = torch.cuda.mem_get_info(device)
    u0 = torch.ones(free // 8 // 5, dtype=DOUBLE, device=device)  # a fifth of it; a solver has ten such
    rate = torch.tensor(1.0, dtype=DOUBLE, device=device)
    with pytest.raises(ps.OutOfDeviceMemory, match="saveat") as caught:
        ps.solve(ps.ODEProblem(decay, u0, (0.0, 1.0), rate), ps.Tsit5(), saveat=[1.0], **TIGHT)
    assert caught.value.device == device and caught.value.memory["total"] > 0
    del u0, caught
    assert used(device) - before < 256 * 2**20
    check_single_solve(device)


LIMITED = """
import torch, pysciode as ps
u0 = torch.ones(60_000_000, device="cuda:0")
try:
    ps.solve(ps.ODEProblem(lambda u, p, t: -u, u0, (0.0, 1.0)), ps.Tsit5(), saveat=[1.0])
except ps.OutOfDeviceMemory as error:
    print(error)
print(ps.solve(ps.ODEProblem(lambda u, p, t: -u, u0[:2], (0.0, 1.0)), ps.Tsit5(), saveat=[1.0]).u[0, 0].item())
"""


def test_the_limit_of_the_pool_is_kept(monkeypatch):
    """240 MB for a state, and 1 GB in all."""
    monkeypatch.setenv("JULIA_CUDA_HARD_MEMORY_LIMIT", "1GiB")
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=900)
    assert "raise JULIA_CUDA_HARD_MEMORY_LIMIT, which lets CUDA.jl have 1 GiB" in done.stdout, done.stderr
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(np.exp(-1.0), rel=1e-3)


# Devices


def test_tensors_in_different_places(device):
    u0 = torch.ones(3, dtype=DOUBLE, device=device)
    with pytest.raises(ValueError, match="p is on cpu|but p is on cpu"):
        ps.ODEProblem(decay, u0, (0.0, 1.0), torch.tensor(1.0, dtype=DOUBLE))
    with pytest.raises(ValueError, match="is on cuda:0|is on cpu"):
        ps.ODEProblem(network("cpu"), u0, (0.0, 1.0))


def test_problems_on_the_card_and_in_main_memory_in_turn(device):
    module = network(device)
    twin = network("cpu")
    for _ in range(3):
        found = [solve_with_gradients(m, start(5, 3, device=place)) for m, place in ((module, device), (twin, "cpu"))]
        check_close(found[0], [x.detach() for x in found[1]], device, 1e-9)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_several_cards():
    """Each problem is solved where it is; the current device stays what the user has set."""
    expected = [x.detach() for x in solve_with_gradients(network("cpu"), start(5, 3, device="cpu"))]
    with torch.cuda.device(0):
        for device in ("cuda:1", "cuda:0", "cuda:1"):
            check_close(solve_with_gradients(network(device), start(5, 3, device=device)), expected, device, 1e-9)
            assert torch.cuda.current_device() == 0
    with pytest.raises(ValueError, match="cuda:1"):
        ps.ODEProblem(network("cuda:1"), start(5, 3, device="cuda:0"), (0.0, 1.0))
