"""The Julia environment: whether it is there, and how it comes there.

juliapkg keeps the environment: it reads ``juliapkg.json`` of every installed Python package, finds or downloads Julia, and
resolves one Julia project for this Python environment. This module asks it and tells the user; nothing here starts Julia
in this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from .errors import INSTALL_COMMAND, EngineUnavailable

JULIA_PACKAGE = "PySciODE"
LOCK_PATIENCE = 2.0
"""Seconds to wait for another process that has the environment."""


@dataclass(frozen=True)
class Extra:
    """A further part of the Julia engine, for those who ask for it.

    Attributes
    ----------
    purpose
        What it is for, in a few words.
    packages
        Julia packages by name: UUID, and versions that go with SciMLBase 2 as well as 3.
    """

    purpose: str
    packages: dict[str, dict[str, str]]


EXTRAS = {
    "optimization": Extra(
        "fits whose whole search runs in Julia",
        {"OptimizationOptimJL": {"uuid": "36348300-93cb-4f02-beb5-3c3902f8871e", "version": "0.4.12 - 0.4"}},
    ),
    "diffeqflux": Extra(
        "DiffEqFlux's collocation and multiple shooting",
        {"DiffEqFlux": {"uuid": "aae7a2af-3d4f-5e19-a356-7da93b79d9d0", "version": "4.6 - 4"}},
    ),
}
"""What ``python -m pysciode install NAME`` adds. The Julia package has an extension for each, with the same bounds."""


def required_packages() -> dict[str, dict[str, str]]:
    """The Julia packages that ``juliapkg.json`` asks for, by name."""
    return json.loads(files("pysciode").joinpath("juliapkg.json").read_text())["packages"]


def julia_environment_is_resolved() -> bool:
    """Whether the Julia engine can start without installing anything.

    Costs a few milliseconds where Julia was never installed, and one ``julia --version`` where it was: juliapkg keeps that
    answer, and juliacall would have asked the same.
    """
    given = _environment_given_by_hand()
    if given is not None:
        return _manifest_is_current(given[1])
    try:
        import juliapkg
        from filelock import FileLock
        from juliapkg.state import STATE

        # Asked first, because juliapkg would create the project's directory.
        if not os.path.exists(STATE["meta"]):
            return False
        # juliapkg waits without limit while another process installs, and says so on stdout. A mere question holds its lock
        # for milliseconds.
        with FileLock(os.path.join(STATE["project"], "lock.pid")).acquire(timeout=LOCK_PATIENCE):
            pass
        return juliapkg.resolve(dry_run=True) and _manifest_is_current(STATE["project"])
    except Exception:
        # A broken, read-only or just being installed environment is one that can't start; `doctor` says what is wrong.
        return False


def julia_project() -> str | None:
    """The directory of the Julia project for this Python environment; None without juliapkg."""
    given = _environment_given_by_hand()
    if given is not None:
        return given[1]
    try:
        from juliapkg.state import STATE
    except ImportError:
        return None
    return STATE["project"]


def installed_packages(project: str) -> dict[str, str]:
    """Name to version of what a Julia project's manifest holds; empty without one."""
    manifest = Path(project) / "Manifest.toml"
    if not manifest.is_file():
        return {}
    found: dict[str, str] = {}
    # Two keys out of a file of thousands of lines: a whole TOML parse takes seconds.
    for entry in manifest.read_text().split("[[deps.")[1:]:
        name = entry.partition("]]")[0]
        version = re.search(r'^version = "(.*)"$', entry, re.MULTILINE)
        found[name] = version[1] if version else ""
    return found


def _manifest_is_current(project: str) -> bool:
    """Whether a project holds the Julia package with the dependencies and extensions that its Project.toml names today.

    juliapkg resolves again when a juliapkg.json changes; a checkout that moved on may have changed only Project.toml.
    """
    manifest = Path(project) / "Manifest.toml"
    if not manifest.is_file():
        return False
    entry = re.search(rf"^\[\[deps\.{JULIA_PACKAGE}\]\]$(.*?)(?=^\[\[|\Z)", manifest.read_text(), re.MULTILINE | re.DOTALL)
    if entry is None:
        return False
    described = files("pysciode").joinpath(required_packages()[JULIA_PACKAGE]["path"], "Project.toml").read_text()

    def named(section: str) -> set[str]:
        found = re.search(rf"^\[{section}\]$(.*?)(?=^\[|\Z)", described, re.MULTILINE | re.DOTALL)
        return set(re.findall(r"^(\w+) *=", found[1], re.MULTILINE)) if found else set()

    held = re.search(r"^deps = \[(.*?)\]", entry[1], re.MULTILINE | re.DOTALL)
    if held is None or set(re.findall(r"\w+", held[1])) != named("deps"):
        return False
    return named("weakdeps") | named("extensions") <= set(re.findall(r"\w+", entry[1]))


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
    given = _environment_given_by_hand()
    if given is not None:
        raise EngineUnavailable(
            "The Julia engine",
            f"PYTHON_JULIACALL_PROJECT names {given[1]}, which lacks {JULIA_PACKAGE}; unset it, so that juliapkg decides",
        )
    import juliapkg

    began = time.perf_counter()
    progress(
        f"[1/2] Julia and {len(required_packages())} packages into {julia_project()}: downloads some hundred megabytes and "
        "precompiles, which takes minutes the first time (Julia itself is fetched where it is missing)."
    )
    try:
        # Forced: what juliapkg remembers may be newer than what was done, after an interrupted installation.
        # juliapkg's notes go to stderr, so that a script's own output stays clean.
        with contextlib.redirect_stdout(sys.stderr):
            juliapkg.resolve(force=True, update=update)
    except (Exception, SystemExit) as error:
        raise EngineUnavailable("The Julia engine", f"juliapkg could not resolve its environment ({error})") from error
    progress(f"[2/2] Loading {JULIA_PACKAGE} once, to see that it works.")
    _load_once(juliapkg.executable(), juliapkg.project())
    progress(f"Julia is ready, after {time.perf_counter() - began:.0f} s.")


def extra_is_installed(name: str) -> bool:
    """Whether the Julia environment holds an extra's packages."""
    project = julia_project()
    return project is not None and EXTRAS[name].packages.keys() <= installed_packages(project).keys()


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
    given = _environment_given_by_hand()
    if given is not None:
        raise EngineUnavailable(
            name, f"PYTHON_JULIACALL_PROJECT names {given[1]}", mend=f"Add {', '.join(packages)} to that project with Julia's Pkg"
        )
    import juliapkg
    from juliapkg.deps import load_cur_deps

    # What users have asked for themselves, perhaps in another version, stays as it is.
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
    environment = os.environ | {"JULIA_PYTHONCALL_EXE": sys.executable}
    command = [executable, f"--project={project}", "--startup-file=no", "-e", f"using {JULIA_PACKAGE}"]
    loaded = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if loaded.returncode:
        last_lines = "\n".join(loaded.stdout.strip().splitlines()[:12])
        raise EngineUnavailable("The Julia engine", f"{JULIA_PACKAGE} does not load:\n{last_lines}\n")


def _environment_given_by_hand() -> tuple[str, str] | None:
    """Executable and project, where juliacall's own variables name them and juliapkg is thereby left out."""
    executable, project = (os.environ.get(f"PYTHON_JULIACALL_{key}") for key in ("EXE", "PROJECT"))
    return (executable, project) if executable and project else None
