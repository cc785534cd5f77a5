"""Devices for the Julia engine: whether one is available, and arrays on it, which are torch tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...arrays.devices import torch_device
from ...graphs.captured_model import CallbackModel
from ..base import FlatArray, SolveRequest
from .installation import require_extra

_PACKAGES = {"cuda": "CUDA", "stand_in": "JLArrays"}


def device_arguments(device: str) -> dict[str, Any]:
    """A device, as the commands of julia/src/border/commands.jl take it."""
    kind, _, index = device.partition(":")
    return {"device": kind, "index": int(index)}


class Devices:
    """The devices that were asked for so far."""

    def __init__(self, command: Callable[..., int]) -> None:
        self._command = command
        self._ready: set[str] = set()
        self._precision = "highest"

    def prepare(self, request: SolveRequest, device: str) -> None:
        """Prepare a solve on a device: load Julia's package, finish torch's pending work, pass torch's settings on.

        Raises
        ------
        ValueError
            If the request asks for what devices don't support.
        EngineUnavailable
            If there is no such device for Julia.
        """
        check_request(request)
        if device not in self._ready:
            if device.startswith("cuda"):
                require_extra("cuda", "a problem on a GPU")
            arguments = device_arguments(device)
            self._command("use_device", {**arguments, "package": _PACKAGES[arguments["device"]]})
            self._ready.add(device)
        import torch

        precision = torch.get_float32_matmul_precision()
        if precision != self._precision:
            self._command("set_precision", {"precision": precision})
            self._precision = precision
        wait_for_torch(device)

    def reclaim(self, device: str) -> None:
        """Have torch and Julia give what is free there back to the driver."""
        import torch

        self._command("reclaim", device_arguments(device))
        if device.startswith("cuda"):
            torch.cuda.empty_cache()

    def empty_caches(self) -> None:
        """Have Julia give what is free on each device that was solved on back to its driver."""
        for device in self._ready:
            self._command("reclaim", device_arguments(device))


def wait_for_torch(device: str | None) -> None:
    """Wait for torch's work on its current stream: Julia works on streams of its own.

    New tensors count, too: their memory may be that of older ones, which work that waits still reads.
    """
    if device is not None and device.startswith("cuda"):
        import torch

        torch.cuda.current_stream(torch.device(device)).synchronize()


def check_request(request: SolveRequest) -> None:
    """Refuse what devices don't support.

    Raises
    ------
    ValueError
        Naming the argument, with a way out.
    """
    problem, options, sensealg = request.problem, request.options, request.sensealg
    move = f"move the problem to the CPU, or do without on {problem.device}"
    if isinstance(problem.model, CallbackModel):
        raise ValueError(f"capture: a model that stays in Python is solved in main memory only: {move}")
    algorithm = request.algorithm
    if problem.form.takes(algorithm):
        name = type(problem).__name__
        raise ValueError(f"algorithm: {algorithm.name} takes a {name} in parts, which is solved so in main memory only: {move}")
    if options.events or options.steps:
        raise ValueError(f"callback: events and calls after steps are looked for in main memory only: {move}")
    if options.norm is not None:
        raise ValueError(f"internalnorm: a norm of one's own is computed in main memory only: {move}")
    if problem.jac_sparsity is not None:
        raise ValueError(f"jac_sparsity: sparse Jacobians are made in main memory only: {move}")
    if sensealg is not None and not sensealg.on_device:
        raise ValueError(
            f"sensealg: {sensealg} is not supported on {problem.device}; GaussAdjoint(), InterpolatingAdjoint(), QuadratureAdjoint() and "
            "BacksolveAdjoint() are, with the generated vector-Jacobian products"
        )


def empty(request: SolveRequest, shape: tuple[int, ...]) -> FlatArray:
    """An uninitialised array of the problem's dtype where its vectors lie."""
    problem = request.problem
    if problem.device is None:
        return np.empty(shape, dtype=request.dtype)
    import torch

    return torch.empty(shape, dtype=problem.u0.dtype, device=torch_device(problem.device))


def contiguous(request: SolveRequest, x: Any) -> FlatArray:
    """`x`, which lies where the problem's vectors do, as a contiguous array of its dtype."""
    problem = request.problem
    if problem.device is None:
        return np.ascontiguousarray(x, dtype=request.dtype)
    return x.to(problem.u0.dtype).contiguous()
