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
from importlib.resources import files
from pathlib import Path

from .errors import EngineUnavailable

JULIA_PACKAGE = "PySciODE"
LOCK_PATIENCE = 2.0
"""Seconds to wait for another process that has the environment."""


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
