"""The state of the Julia environment: whether the engine can start, and what prevents it.

juliapkg keeps the environment: it reads ``juliapkg.json`` of every installed Python package, finds or downloads Julia, and
resolves one Julia project for this Python environment. Nothing here changes it, or starts Julia in this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...errors import INSTALL_COMMAND, EngineUnavailable

JULIA_PACKAGE = "PySciODE"
OLDEST_JULIA = (1, 10)
LOCK_PATIENCE = 2.0
"""Seconds to wait for another process that has the environment."""


def required_packages() -> dict[str, dict[str, str]]:
    """The Julia packages that ``juliapkg.json`` asks for, by name."""
    return json.loads(files("pysciode").joinpath("juliapkg.json").read_text())["packages"]


@dataclass(frozen=True)
class Trouble:
    """A reason why the Julia engine can't start, and the remedy."""

    reason: str
    mend: str = f"Install it with: {INSTALL_COMMAND}"


def unavailable(trouble: Trouble) -> EngineUnavailable:
    """The exception for `trouble`."""
    return EngineUnavailable("The Julia engine", trouble.reason, mend=trouble.mend)


def julia_environment_is_resolved() -> bool:
    """Whether the Julia engine can start without installing anything, as far as `find_trouble` sees."""
    return find_trouble() is None


def find_trouble() -> Trouble | None:
    """Return why the Julia engine can't start, as far as this shows without starting Julia; None if nothing prevents it.

    Costs a few milliseconds where Julia was never installed, and one ``julia --version`` where it was: juliapkg keeps that
    answer, and juliacall would have asked the same.
    """
    trouble = trouble_with_options()
    if trouble is not None:
        return trouble
    given = environment_given_by_hand()
    if given is not None:
        return trouble_by_hand(*given)
    with existing_directory():
        return _trouble_of_juliapkg()


def _trouble_of_juliapkg() -> Trouble | None:
    try:
        from filelock import FileLock, Timeout
        from juliapkg import resolve as juliapkg_resolve
        from juliapkg.deps import can_skip_resolve, load_meta
        from juliapkg.state import STATE
    except Exception as error:
        return _trouble_with_import(error)
    project = STATE["project"]
    try:
        # Asked first, because juliapkg would create the project's directory.
        if not os.path.exists(STATE["meta"]):
            return Trouble("it is not installed")
        # juliapkg waits without limit while another process installs, and says so on stdout. A mere question holds its lock
        # for milliseconds.
        try:
            with FileLock(os.path.join(project, "lock.pid")).acquire(timeout=LOCK_PATIENCE):
                pass
            resolved = juliapkg_resolve(dry_run=True)
        except Timeout:
            return Trouble(f"another process is just installing it in {project}", "Try again when that is done")
        except OSError:  # nothing can be written there, and need not be
            resolved = bool(can_skip_resolve())
        if not resolved:
            return _what_changed(load_meta())
    except Exception as error:
        return Trouble(f"what juliapkg keeps in {project} can't be read ({type(error).__name__}: {error})")
    return _trouble_with_manifest(project)


def _trouble_with_import(error: Exception) -> Trouble:
    """juliapkg is missing, or refuses its variables, which it reads when it is imported."""
    return Trouble(f"juliapkg can't be imported ({error})", "pip install juliapkg, or see to what it names")


def trouble_with_options() -> Trouble | None:
    """Variables that juliacall or Julia would refuse; of the number of threads, by ending the process."""
    executable, project = (f"PYTHON_JULIACALL_{key}" for key in ("EXE", "PROJECT"))
    if bool(os.environ.get(executable)) != bool(os.environ.get(project)):
        one, other = (executable, project) if os.environ.get(executable) else (project, executable)
        return Trouble(f"{one} is set without {other}", f"Unset {one}, so that juliapkg decides, or set both")
    for name in ("PYTHON_JULIACALL_THREADS", "JULIA_NUM_THREADS"):
        threads = os.environ.get(name)
        if threads and not re.fullmatch(r"(auto|[1-9]\d*)(,(auto|\d+))?", threads):
            return Trouble(f"{name} is {threads!r}, which is no number of threads", "Set it to a number or to auto, or unset it")
    return None


def trouble_by_hand(executable: str, project: str) -> Trouble | None:
    mend = f"Unset PYTHON_JULIACALL_EXE and PYTHON_JULIACALL_PROJECT, so that juliapkg decides, and then: {INSTALL_COMMAND}"
    reason = _trouble_with_julia(executable, "PYTHON_JULIACALL_EXE")
    if reason is not None:
        return Trouble(reason, mend)
    found = _trouble_with_manifest(project)
    if found is not None:
        return Trouble(f"PYTHON_JULIACALL_PROJECT names {project}, where {found.reason}", mend)
    return None


def _trouble_with_julia(executable: str, named_by: str) -> str | None:
    found = julia_version(executable)
    if found is None:
        return f"{named_by} names {executable}, which does not run as Julia"
    if found < OLDEST_JULIA:
        wanted = ".".join(map(str, OLDEST_JULIA))
        return f"{executable} is Julia {'.'.join(map(str, found))}, which is too old: {wanted} or newer is needed"
    return None


def julia_version(executable: str) -> tuple[int, int, int] | None:
    """What a program says that its version is; None where it isn't Julia, or doesn't run."""
    try:
        said = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    version = re.match(r"julia version (\d+)\.(\d+)\.(\d+)", said)
    return tuple(map(int, version.groups())) if version else None  # type: ignore[return-value]


def _what_changed(meta: dict[str, Any] | None) -> Trouble:
    if meta is None:
        return Trouble("its installation was not finished, or is of another version of juliapkg")
    found = julia_version(meta["executable"])
    if found is None:
        return Trouble(f"{meta['executable']}, with which it was installed, does not run")
    if ".".join(map(str, found)) != meta["version"]:
        return Trouble(f"it was installed with Julia {meta['version']}, and {meta['executable']} is another version now")
    return Trouble("what this Python environment asks of Julia has changed since it was installed")


def julia_project() -> str | None:
    """The directory of the Julia project for this Python environment; None without juliapkg."""
    given = environment_given_by_hand()
    if given is not None:
        return given[1]
    try:
        from juliapkg.state import STATE
    except Exception:  # `find_trouble` says why
        return None
    return STATE["project"]


def installed_packages(project: str) -> dict[str, str]:
    """Name to version of what a Julia project's manifest holds; empty without one that can be read."""
    found: dict[str, str] = {}
    # Two keys out of a file of thousands of lines: a whole TOML parse takes seconds.
    for entry in (_manifest(project) or "").split("[[deps.")[1:]:
        name = entry.partition("]]")[0]
        version = re.search(r'^version = "(.*)"$', entry, re.MULTILINE)
        found[name] = version[1] if version else ""
    return found


def _manifest(project: str) -> str | None:
    try:
        return (Path(project) / "Manifest.toml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _trouble_with_manifest(project: str) -> Trouble | None:
    """Whether a project holds the Julia package with the dependencies and extensions that its Project.toml names today.

    juliapkg resolves again when a juliapkg.json changes; a checkout that moved on may have changed only Project.toml.
    """
    manifest = _manifest(project)
    if manifest is None:
        return Trouble("there is no Manifest.toml that can be read")
    entry = re.search(rf"^\[\[deps\.{JULIA_PACKAGE}\]\]$(.*?)(?=^\[\[|\Z)", manifest, re.MULTILINE | re.DOTALL)
    if entry is None:
        return Trouble(f"Manifest.toml lacks {JULIA_PACKAGE}")
    described = (files("pysciode") / required_packages()[JULIA_PACKAGE]["path"] / "Project.toml").read_text("utf-8")

    def named(section: str) -> set[str]:
        found = re.search(rf"^\[{section}\]$(.*?)(?=^\[|\Z)", described, re.MULTILINE | re.DOTALL)
        return set(re.findall(r"^(\w+) *=", found[1], re.MULTILINE)) if found else set()

    held = re.search(r"^deps = \[(.*?)\]", entry[1], re.MULTILINE | re.DOTALL)
    if (
        held is None
        or set(re.findall(r"\w+", held[1])) != named("deps")
        or not named("weakdeps") | named("extensions") <= set(re.findall(r"\w+", entry[1]))
    ):
        return Trouble(f"Manifest.toml is of another version of {JULIA_PACKAGE}")
    return None


def trouble_with_override() -> Trouble | None:
    try:
        from juliapkg.state import STATE
    except Exception as error:
        return _trouble_with_import(error)
    executable = STATE["override_executable"]
    reason = _trouble_with_julia(executable, "PYTHON_JULIAPKG_EXE") if executable else None
    return Trouble(reason, "Name another, or unset PYTHON_JULIAPKG_EXE, so that juliapkg finds one or downloads it") if reason else None


_TRY = """
import sys
from pysciode.engines.julia.runtime import start_julia
from pysciode.errors import EngineUnavailable
try:
    start_julia()
except EngineUnavailable as error:
    sys.exit(f"\\n{error.reason}")
"""


def failure_to_start() -> str | None:
    """Start the engine in a process of its own, which takes seconds: what goes wrong, or None."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", _TRY], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"the process that tried to start it was ended by signal {-done.returncode}"
    return done.stderr.strip().rpartition("\n\n")[2] or f"the process that tried to start it ended with status {done.returncode}"


@contextlib.contextmanager
def existing_directory() -> Iterator[None]:
    """Where the working directory was removed, that of the system's root for a while: juliapkg and Julia ask for it."""
    try:
        os.getcwd()
    except OSError:
        here = os.open(".", os.O_RDONLY)
        os.chdir("/")
        try:
            yield
        finally:
            os.fchdir(here)
            os.close(here)
    else:
        yield


@contextlib.contextmanager
def complete_load_path() -> Iterator[None]:
    """Where JULIA_LOAD_PATH leaves out the project or Julia's own packages, it has them for a while: nothing would load without."""
    given = os.environ.get("JULIA_LOAD_PATH")
    entries = ["@", "@stdlib"] if given == "" else (given or "").split(os.pathsep)
    if "" in entries:  # stands for Julia's default
        yield
        return
    os.environ["JULIA_LOAD_PATH"] = os.pathsep.join(dict.fromkeys(("@", *entries, "@stdlib")))
    try:
        yield
    finally:
        os.environ["JULIA_LOAD_PATH"] = given  # type: ignore[assignment]


def environment_given_by_hand() -> tuple[str, str] | None:
    """Executable and project, where juliacall's own variables name them and juliapkg is thereby left out."""
    executable, project = (os.environ.get(f"PYTHON_JULIACALL_{key}") for key in ("EXE", "PROJECT"))
    return (executable, project) if executable and project else None
