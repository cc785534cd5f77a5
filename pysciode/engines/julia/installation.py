"""Installation of the Julia environment.

juliapkg does it; this module asks it, tells the user, and keeps processes from doing it at once. Nothing here starts Julia in this
process.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError

from ...errors import INSTALL_COMMAND, EngineUnavailable
from .environment import (
    JULIA_PACKAGE,
    LOCK_PATIENCE,
    OLDEST_JULIA,
    Trouble,
    complete_load_path,
    environment_given_by_hand,
    installed_packages,
    julia_environment_is_resolved,
    julia_project,
    required_packages,
    trouble_by_hand,
    trouble_with_options,
    trouble_with_override,
    unavailable,
)


@dataclass(frozen=True)
class Extra:
    """A further part of the Julia engine, for those who ask for it.

    Attributes
    ----------
    purpose
        Its purpose, in a few words.
    packages
        Julia packages by name: UUID, and versions that go with SciMLBase 2 as well as 3.
    offered
        Whether users are told of it; what only tests need is not.
    """

    purpose: str
    packages: dict[str, dict[str, str]]
    offered: bool = True


EXTRAS = {
    "optimization": Extra(
        "fits whose whole search runs in Julia",
        {"OptimizationOptimJL": {"uuid": "36348300-93cb-4f02-beb5-3c3902f8871e", "version": "0.4.12 - 0.4"}},
    ),
    "diffeqflux": Extra(
        "DiffEqFlux's collocation and multiple shooting",
        {"DiffEqFlux": {"uuid": "aae7a2af-3d4f-5e19-a356-7da93b79d9d0", "version": "4.6 - 4"}},
    ),
    "ensembles": Extra(
        "ensembles of small systems, each of them one thread of a kernel (EnsembleGPUKernel)",
        {"DiffEqGPU": {"uuid": "071ae1c0-96b5-11e9-1965-c90190d839ea", "version": "3.13 - 3"}},
    ),
    "cuda": Extra(
        "solves of CUDA tensors, on the GPU",
        {"CUDA": {"uuid": "052768ef-5323-5732-b1bb-66c8b64840ba", "version": "5.11 - 6"}},
    ),
    # The first of its versions for GPUArrays 11, which CUDA 5.11 has too.
    "jlarrays": Extra(
        "arrays on the CPU that behave like a GPU's, with which tests do without one",
        {"JLArrays": {"uuid": "27aeb0d3-9eb9-45fb-866b-73c2ecf80fcb", "version": "0.2 - 0.3"}},
        offered=False,
    ),
}
"""What ``python -m pysciode install NAME`` adds. The Julia package has an extension for each, with the same bounds."""


def resolve(progress: Callable[[str], None] = print, *, update: bool = False) -> None:
    """Install Julia, where it is missing, and resolve and precompile its packages.

    Julia's own progress goes to the terminal; `progress` gets one line for each stage.

    Parameters
    ----------
    progress
        Called with a line of text.
    update
        Also move packages that are already there to their newest allowed versions.

    Raises
    ------
    EngineUnavailable
        If a stage fails, with the reason.
    """
    trouble = trouble_with_options()
    given = environment_given_by_hand()
    if trouble is None and given is not None:
        # juliapkg is left out, so it can't help.
        trouble = trouble_by_hand(*given) or Trouble("it is installed in the project that PYTHON_JULIACALL_PROJECT names", "")
    if trouble is None:
        trouble = trouble_with_override()
    if trouble is not None:
        raise unavailable(trouble)
    import juliapkg

    with _alone(progress) as waited:
        if waited and not update and julia_environment_is_resolved():
            progress("The other process has installed it.")
            return
        began = time.perf_counter()
        progress(
            f"[1/2] Julia and {len(required_packages())} packages into {julia_project()}: downloads some hundred megabytes and "
            "precompiles, which takes minutes the first time (Julia itself is fetched where it is missing)."
        )
        try:
            # Forced: what juliapkg remembers may be newer than what was done, after an interrupted installation.
            # juliapkg's notes go to stderr, so that a script's own output stays clean.
            with contextlib.redirect_stdout(sys.stderr), complete_load_path():
                juliapkg.resolve(force=True, update=update)
        except (Exception, SystemExit) as error:
            raise unavailable(_why_it_failed(error)) from error
        progress(f"[2/2] Loading {JULIA_PACKAGE} once, to see that it works.")
        _load_once(juliapkg.executable(), juliapkg.project())
        progress(f"Julia is ready, after {time.perf_counter() - began:.0f} s.")


_locks: dict[str, Any] = {}  # a lock can be taken again through the same object only


@contextlib.contextmanager
def _alone(progress: Callable[[str], None]) -> Iterator[bool]:
    """Keep other processes from installing into the same environment meanwhile; whether one had to be waited for."""
    from filelock import FileLock, Timeout

    project = str(julia_project())
    try:
        os.makedirs(project, exist_ok=True)
        lock = _locks.setdefault(project, FileLock(os.path.join(project, "pysciode.lock")))
        waited = False
        try:
            lock.acquire(timeout=LOCK_PATIENCE)
        except Timeout:
            progress(f"Another process is installing into {project}: waiting for it.")
            lock.acquire()
            waited = True
    except OSError as error:
        raise unavailable(_why_it_failed(error)) from error
    try:
        yield waited
    finally:
        lock.release()


def _why_it_failed(error: BaseException) -> Trouble:
    """The error for a failed installation, with its remedy."""
    oldest = ".".join(map(str, OLDEST_JULIA))
    if isinstance(error, subprocess.CalledProcessError):
        return Trouble(
            f"Julia's package manager ended with status {error.returncode}, and said above why",
            f"See to that (the network, a proxy, room on the disk, rights to write), and then: {INSTALL_COMMAND}",
        )
    if isinstance(error, URLError):
        return Trouble(
            f"no Julia of version {oldest} or newer was found, and none can be downloaded ({error.reason})",
            f"See to the network or the proxy, or install Julia by hand, and then: {INSTALL_COMMAND}",
        )
    if isinstance(error, OSError) and error.filename is not None:
        return Trouble(
            f"{error.filename} can't be written ({error.strerror})",
            "Have it made writable, or name another place for Julia's packages with JULIA_DEPOT_PATH and for the project with "
            f"PYTHON_JULIAPKG_PROJECT (an absolute path), and then: {INSTALL_COMMAND}",
        )
    return Trouble(f"juliapkg could not resolve its environment ({error})", f"See to that, and then: {INSTALL_COMMAND}")


def extra_is_installed(name: str) -> bool:
    """Whether the Julia environment holds an extra's packages."""
    project = julia_project()
    return project is not None and EXTRAS[name].packages.keys() <= installed_packages(project).keys()


_METHOD_PACKAGES = {"Mooncake": "da2b9cff-9c12-43a0-ae48-6db2b0edb7d6"}
"""UUIDs of packages that some sensitivity methods need and no other part brings."""


def require_packages(method: str, packages: frozenset[str]) -> None:
    """See that the Julia packages of a sensitivity method are installed.

    Raises
    ------
    EngineUnavailable
        With the command that installs the missing one.
    """
    project = julia_project()
    present = installed_packages(project) if packages and project else {}
    # Without any package the engine is missing, and its own error says so.
    for package in sorted(packages - present.keys() if present else ()):
        uuid = _METHOD_PACKAGES.get(package)
        way = f"juliapkg.add({package!r}, {uuid!r})" if uuid else f"{INSTALL_COMMAND} --update"
        raise EngineUnavailable(method, f"the Julia package {package} is not in {project}; ask for it with {way}")


_known: set[tuple[str, str | None]] = set()
"""Extras that were found, with the project: looking takes a millisecond or two, and what is there stays."""


def require_extra(name: str, feature: str) -> None:
    """See that an extra is installed.

    Raises
    ------
    EngineUnavailable
        With the command that installs it; `feature` is what needs it.
    """
    key = (name, julia_project())
    if key in _known:
        return
    if not extra_is_installed(name):
        packages = " and ".join(EXTRAS[name].packages)
        raise EngineUnavailable(
            feature, f"the Julia package {packages} is not installed", mend=f"Install it with: {INSTALL_COMMAND} {name}"
        )
    _known.add(key)


def install_extra(name: str, progress: Callable[[str], None] = print, *, update: bool = False) -> None:
    """Add an extra to this Python environment's Julia project, where it stays, and resolve that; see `resolve`.

    Raises
    ------
    EngineUnavailable
        If a stage fails, with the reason; then nothing was added.
    """
    packages = EXTRAS[name].packages
    given = environment_given_by_hand()
    if given is not None:
        raise EngineUnavailable(
            name, f"PYTHON_JULIACALL_PROJECT names {given[1]}", mend=f"Add {', '.join(packages)} to that project with Julia's Pkg"
        )
    import juliapkg
    from juliapkg.deps import load_cur_deps

    # What users have asked for themselves, perhaps in another version, stays as it is.
    with _alone(progress):
        mine = packages.keys() - load_cur_deps().get("packages", {}).keys()
        for package in sorted(mine):
            juliapkg.add(package, **packages[package])
        try:
            resolve(progress, update=update)
        except BaseException:
            for package in sorted(mine):
                juliapkg.rm(package)
            raise


def _load_once(executable: str, project: str) -> None:
    """Load the package in a process of its own, which also compiles what resolving left out."""
    with complete_load_path():
        environment = os.environ | {"JULIA_PYTHONCALL_EXE": sys.executable}
    command = [executable, f"--project={project}", "--startup-file=no", "-e", f"using {JULIA_PACKAGE}"]
    loaded = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if loaded.returncode:
        first_lines = "\n".join(loaded.stdout.strip().splitlines()[:12])
        raise EngineUnavailable("The Julia engine", f"{JULIA_PACKAGE} does not load:\n{first_lines}\n")
