"""What a device can do at most, by torch itself: the rate of matrix products and the bandwidth of its memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def synchronize(device: str) -> None:
    """Wait for what torch has begun there."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: str, repeats: int) -> float:
    """Median time of one run, after one that doesn't count."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def product_rate(device: str, dtype: torch.dtype, precision: str, n: int, repeats: int = 10) -> float:
    """FLOP/s of the product of two n × n matrices; `precision` as `torch.set_float32_matmul_precision` takes it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        a, b = (torch.randn(n, n, dtype=dtype, device=device) for _ in range(2))
        out = torch.empty_like(a)
        return 2 * n**3 / seconds(lambda: torch.mm(a, b, out=out), device, repeats)
    finally:
        torch.set_float32_matmul_precision(before)


def bandwidth(device: str, size: int, repeats: int = 10) -> float:
    """Bytes per second, read and written, of copying `size` bytes from one place of the device's memory to another."""
    source = torch.zeros(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / seconds(lambda: target.copy_(source), device, repeats)


def ceilings(device: str, *, quick: bool) -> dict[str, float]:
    """Rates in FLOP/s by precision, and the bandwidth in bytes per second."""
    n, size = (512, 2**26) if quick else (8192, 2**31)
    found = {
        "float32": product_rate(device, torch.float32, "highest", n),
        "float64": product_rate(device, torch.float64, "highest", n),
        "bandwidth": bandwidth(device, size),
    }
    if device.startswith("cuda"):
        found["TF32"] = product_rate(device, torch.float32, "high", n)
    return found
