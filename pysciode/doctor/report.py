"""The state of each part of the installation; a missing part never makes these checks fail."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from ..engines.julia.environment import (
    JULIA_PACKAGE,
    OLDEST_JULIA,
    Trouble,
    failure_to_start,
    find_trouble,
    installed_packages,
    julia_project,
    julia_version,
    required_packages,
)
from ..engines.julia.installation import EXTRAS, extra_is_installed
from ..errors import INSTALL_COMMAND

PYTHON_PACKAGES = ("numpy", "scipy", "torch", "torchdiffeq", "sympy", "juliacall", "juliapkg")


@dataclass(frozen=True)
class Check:
    """One part of the installation.

    Attributes
    ----------
    status
        ``"ok"``, ``"missing"`` or ``"note"`` (nothing is wrong, but worth knowing).
    mend
        The remedy; empty where none is needed.
    """

    part: str
    status: str
    detail: str
    mend: str = ""


def examine() -> list[Check]:
    """All checks, in the order of what needs what. The last starts Julia in a process of its own, where it is installed."""
    trouble = find_trouble()
    return [
        _python(), *_python_packages(), _julia(), *_julia_packages(trouble), *_extras(), _threads(), *_gpu(), _engine(trouble),
    ]  # fmt: skip


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _python_packages() -> Iterator[Check]:
    for name in PYTHON_PACKAGES:
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "missing", "not installed", f"pip install {name}")


def _julia() -> Check:
    executable = _julia_executable()
    if executable is None:
        return Check("Julia", "missing", "none found", INSTALL_COMMAND)
    found = julia_version(executable)
    if found is None:
        return Check("Julia", "missing", f"{executable} does not run as Julia", INSTALL_COMMAND)
    said = f"{'.'.join(map(str, found))} at {executable}"
    if found < OLDEST_JULIA:
        oldest = ".".join(map(str, OLDEST_JULIA))
        return Check("Julia", "missing", f"{said} is too old", f"Install Julia {oldest} or newer, or leave it to {INSTALL_COMMAND}")
    return Check("Julia", "ok", said)


def _julia_executable() -> str | None:
    named = os.environ.get("PYTHON_JULIACALL_EXE")
    if named:
        return shutil.which(named)
    try:
        from juliapkg.deps import load_meta
        from juliapkg.find_julia import find_julia
        from juliapkg.state import STATE

        if STATE["override_executable"]:
            return STATE["override_executable"]
        remembered = (load_meta() or {}).get("executable")
        if remembered and os.path.exists(remembered):
            return remembered
        return find_julia(prefix=STATE["install"])[0]
    except Exception:
        # juliapkg is missing, or looked and found none.
        return shutil.which("julia")


def _julia_packages(trouble: Trouble | None) -> Iterator[Check]:
    project = julia_project()
    if trouble is None:
        yield Check("Julia environment", "ok", f"resolved: {project}")
    else:
        yield Check("Julia environment", "missing", f"not resolved ({trouble.reason}): {project}", trouble.mend)
    present = installed_packages(project) if project else {}
    for name in required_packages():
        if name in present:
            yield Check(f"  {name}.jl", "ok", present[name])
        else:
            yield Check(f"  {name}.jl", "missing", "not in the environment", INSTALL_COMMAND)


def _extras() -> Iterator[Check]:
    for name, extra in EXTRAS.items():
        if name != "cuda":  # which stands with the GPU
            yield from _extra(name, f"not installed: {extra.purpose}, with {INSTALL_COMMAND} {name}")


def _extra(name: str, absent: str, mend: str = "") -> Iterator[Check]:
    project = julia_project()
    present = installed_packages(project) if project else {}
    if extra_is_installed(name):
        yield Check(f"  {name}", "ok", ", ".join(f"{package} {present[package]}" for package in EXTRAS[name].packages))
    elif EXTRAS[name].offered:
        yield Check(f"  {name}", "note", absent, mend)


def _threads() -> Check:
    julia_threads = os.environ.get("PYTHON_JULIACALL_THREADS") or os.environ.get("JULIA_NUM_THREADS") or "1"
    return Check("threads", "ok", f"Julia {julia_threads} (PYTHON_JULIACALL_THREADS), {os.cpu_count()} processors")


def _gpu() -> Iterator[Check]:
    """What torch sees; CUDA.jl is looked for in the manifest, since loading it takes a while and memory of the GPU."""
    try:
        import torch

        if not torch.cuda.is_available():
            yield Check("GPU", "note", f"none that torch can use ({_why_no_gpu(torch)}); models run on the CPU")
            return
        if torch.version.cuda is None:
            yield Check("GPU", "note", "torch is built for ROCm, and solves run on NVIDIA's GPUs only; models run on the CPU")
            return
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    except Exception as error:
        yield Check("GPU", "note", f"torch does not load, or not its GPU: {error}", "pip install torch")
        return
    yield Check("GPU", "ok", f"torch is built for CUDA {torch.version.cuda} and sees {len(devices)} of these:")
    for i, device in enumerate(devices):
        memory = f"{device.total_memory / 2**30:.1f} GiB"
        yield Check(f"  cuda:{i}", "ok", f"{device.name}, {memory}, compute capability {device.major}.{device.minor}")
    install = f"{INSTALL_COMMAND} cuda"
    yield from _extra("cuda", "not installed: CUDA tensors can't be solved without it", install)


def _why_no_gpu(torch: ModuleType) -> str:
    if not torch.backends.cuda.is_built():
        return "it is a build without CUDA"
    try:
        torch.cuda.init()
    except Exception as error:  # of several kinds: no driver, one that is too old, no device
        return str(error).strip().splitlines()[0].partition(". ")[0].rstrip(".")
    return "there is no device, or CUDA_VISIBLE_DEVICES hides it"


def _engine(trouble: Trouble | None) -> Check:
    if trouble is None:
        failure = failure_to_start()
        if failure is None:
            return Check("engine", "ok", f"julia ({JULIA_PACKAGE} loads)")
        return Check("engine", "missing", f"julia is installed, and does not start: {failure}", INSTALL_COMMAND)
    return Check("engine", "note", "embedded (torchdiffeq): explicit solvers only", trouble.mend)
