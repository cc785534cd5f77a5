"""Broken, old, foreign and half-finished installations: the user is told what is wrong and what to do.

Nothing here touches the environment of whoever runs the tests: each process gets a project of its own, and a Julia that is a shell script.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pysciode import engines
from pysciode.doctor.report import examine
from pysciode.engines.julia import environment as julia_environment
from pysciode.engines.julia import installation
from pysciode.errors import INSTALL_COMMAND, EngineUnavailable

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the Julia that is a shell script needs a shell")

NAMED = """
import pysciode as ps
from pysciode.errors import EngineUnavailable
try:
    ps.solve(ps.ODEProblem(lambda u, p, t: [-u[0]], [1.0], (0.0, 1.0)), ps.Tsit5(), engine="julia")
except EngineUnavailable as error:
    print(error)
"""

AUTOMATIC = """
import math
import pysciode as ps
problem = ps.ODEProblem(lambda u, p, t: [-u[0]], [1.0], (0.0, 1.0))
for _ in range(2):
    solution = ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-8, atol=1e-8)
    assert abs(solution.u[0, 0] - math.exp(-1)) < 1e-6
print(solution.engine)
"""


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """An environment of its own, without Julia, network or anything that names another Julia."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON_JULIA", "JULIA_", "PYSCIODE_ENGINE"))}
    nowhere = "http://127.0.0.1:9"
    return kept | {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "PYTHON_JULIAPKG_PROJECT": str(tmp_path / "project"),
        "JULIA_DEPOT_PATH": str(tmp_path / "depot"),
        "HTTPS_PROXY": nowhere,
        "https_proxy": nowhere,
        "no_proxy": "",
    }


def shell_julia(path: Path, version: str = "1.10.8", installing: str = "exit 1") -> str:
    """A program that says that it is Julia, knows where its library would be, and does `installing` when packages are added.

    Shell variables: ``$project``, the directory of the Julia project.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        textwrap.dedent(
            f"""\
            #!/bin/sh
            for argument; do
                case "$argument" in
                --version) echo "julia version {version}"; exit 0 ;;
                --project=*) project="${{argument#--project=}}" ;;
                *libjulia*) printf '%s\\0%s' /nowhere/libjulia.so /nowhere; exit 0 ;;
                *"import Pkg"*) {installing} ;;
                esac
            done
            exit 0
            """
        )
    )
    path.chmod(0o755)
    return str(path)


def manifest() -> str:
    """A manifest with the Julia package as its Project.toml has it today."""
    described = (ROOT / "julia" / "Project.toml").read_text()
    sections = dict(re.findall(r"^\[(\w+)\]\n(.*?)(?=^\[|\Z)", described, re.MULTILINE | re.DOTALL))
    deps, weak, extensions = (re.findall(r"^(\w+) = ", sections[x], re.MULTILINE) for x in ("deps", "weakdeps", "extensions"))
    entry = f'[[deps.PySciODE]]\ndeps = {json.dumps(deps)}\npath = "x"\nversion = "0.1.0"\nweakdeps = {json.dumps(weak)}\n'
    return entry + "    [deps.PySciODE.extensions]\n" + "".join(f'    {x} = "Y"\n' for x in extensions)


def run(code: str, environment: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=100, env=environment, cwd=ROOT)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    return done


def doctor(environment: dict[str, str]) -> dict[str, dict[str, str]]:
    done = subprocess.run(
        [sys.executable, "-m", "pysciode", "doctor", "--json"], capture_output=True, text=True, timeout=100, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    checks = {check["part"].strip(): check for check in json.loads(done.stdout)}
    assert all(check["mend"] for check in checks.values() if check["status"] == "missing")
    return checks


# Each of these is a trouble with an environment that is named by hand: executable, project, a piece of the reason.


def old(tmp_path):
    (tmp_path / "Manifest.toml").write_text(manifest())
    return shell_julia(tmp_path / "julia", "1.6.7"), tmp_path, "1.6.7, which is too old: 1.10 or newer"


def not_julia(tmp_path):
    return "/bin/false", tmp_path, "/bin/false, which does not run as Julia"


def absent(tmp_path):
    return str(tmp_path / "julia"), tmp_path, "julia, which does not run as Julia"


def project_of_another_package(tmp_path):
    (tmp_path / "Manifest.toml").write_text('[[deps.SymbolicRegression]]\nversion = "1.0.0"\n')
    return shell_julia(tmp_path / "julia"), tmp_path, "Manifest.toml lacks PySciODE"


def no_manifest(tmp_path):
    return shell_julia(tmp_path / "julia"), tmp_path, "no Manifest.toml that can be read"


def manifest_of_noise(tmp_path):
    (tmp_path / "Manifest.toml").write_bytes(bytes(range(128, 256)) * 10)
    return shell_julia(tmp_path / "julia"), tmp_path, "Manifest.toml lacks PySciODE"


def stale_manifest(tmp_path):
    (tmp_path / "Manifest.toml").write_text(manifest().replace('"LinearAlgebra"', '"Gone"'))
    return shell_julia(tmp_path / "julia"), tmp_path, "of another version of PySciODE"


def only_a_project(tmp_path):
    return "", tmp_path, "PYTHON_JULIACALL_PROJECT is set without PYTHON_JULIACALL_EXE"


@pytest.mark.parametrize(
    "trouble",
    [old, not_julia, absent, project_of_another_package, no_manifest, manifest_of_noise, stale_manifest, only_a_project],
    ids=lambda x: x.__name__,
)
def test_an_environment_named_by_hand(trouble, tmp_path, monkeypatch, capsys):
    executable, project, reason = trouble(tmp_path)
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", executable)
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(project))
    check_what_is_said(reason, "Unset PYTHON_JULIACALL_", monkeypatch, capsys)


@pytest.mark.parametrize("name", ["JULIA_NUM_THREADS", "PYTHON_JULIACALL_THREADS"])
def test_a_number_of_threads_at_which_julia_would_end_the_process(name, monkeypatch, capsys):
    monkeypatch.setenv(name, "many")
    check_what_is_said(f"{name} is 'many'", "a number or to auto", monkeypatch, capsys)
    for good in ("auto", "4", "2,1", "auto,1"):
        monkeypatch.setenv(name, good)
        assert julia_environment.trouble_with_options() is None


def check_what_is_said(reason: str, mend: str, monkeypatch, capsys) -> None:
    """By the automatic choice of an engine, once; by the installation; by the doctor."""
    monkeypatch.setattr(engines, "_automatic", None)
    assert engines.get_engine("auto").name == "embedded" and engines.get_engine("auto").name == "embedded"
    said = capsys.readouterr().err
    assert said.count("pysciode:") == 1 and reason in said and mend in said
    with pytest.raises(EngineUnavailable, match=re.escape(reason)) as raised:
        installation.resolve()
    assert mend in str(raised.value)
    checks = {check.part.strip(): check for check in examine()}
    assert reason in checks["Julia environment"].detail and mend in checks["Julia environment"].mend
    assert checks["engine"].detail.startswith("embedded")
    assert all(check.mend for check in checks.values() if check.status == "missing")


@pytest.mark.slow
def test_without_julia_and_without_network(surroundings):
    done = run(AUTOMATIC + NAMED, surroundings)
    assert done.stdout.startswith("embedded")
    assert done.stderr.count("pysciode:") == 1 and "(it is not installed)" in done.stderr and INSTALL_COMMAND in done.stderr
    assert "none can be downloaded" in done.stdout and "the proxy, or install Julia by hand" in done.stdout


@pytest.mark.slow
def test_a_variable_that_juliapkg_refuses(surroundings):
    odd = surroundings | {"PYTHON_JULIAPKG_PROJECT": "relative"}
    assert "must be an absolute path" in run(NAMED, odd).stdout
    checks = doctor(odd)
    assert "must be an absolute path" in checks["Julia environment"]["detail"]


def test_a_julia_that_is_too_old_to_install_with(surroundings, tmp_path):
    old = shell_julia(tmp_path / "old", "1.6.7")
    said = run(NAMED, surroundings | {"PYTHON_JULIAPKG_EXE": old}).stdout
    assert "1.6.7, which is too old: 1.10 or newer is needed" in said and "unset PYTHON_JULIAPKG_EXE" in said
    checks = doctor(surroundings | {"PYTHON_JULIAPKG_EXE": old})
    assert "1.6.7" in checks["Julia"]["detail"] and "too old" in checks["Julia"]["detail"]


def test_packages_that_can_not_be_added(surroundings, tmp_path):
    julia = shell_julia(tmp_path / "julia", installing="echo 'could not resolve host' >&2; exit 7")
    done = run(NAMED, surroundings | {"PYTHON_JULIAPKG_EXE": julia})
    assert "could not resolve host" in done.stderr
    assert "ended with status 7" in done.stdout and INSTALL_COMMAND in done.stdout
    assert "import Pkg" not in done.stdout, "the whole script is no reason"


def test_a_place_that_can_not_be_written(surroundings, tmp_path):
    (tmp_path / "file").touch()
    julia = shell_julia(tmp_path / "julia")
    place = str(tmp_path / "file" / "project")
    environment = surroundings | {"PYTHON_JULIAPKG_PROJECT": place, "PYTHON_JULIAPKG_EXE": julia}
    said = run(NAMED, environment).stdout
    assert "can't be written" in said and "PYTHON_JULIAPKG_PROJECT" in said


@pytest.fixture
def installed(surroundings, tmp_path) -> dict[str, str]:
    """An environment that was installed with a Julia that is a shell script."""
    manifest_file = tmp_path / "made" / "Manifest.toml"
    manifest_file.parent.mkdir()
    manifest_file.write_text(manifest())
    julia = shell_julia(
        tmp_path / "julia", installing=f'echo x >> "{tmp_path}/installations"; sleep 1; cp "{manifest_file}" "$project"; exit 0'
    )
    environment = surroundings | {"PYTHON_JULIAPKG_EXE": julia}
    run("from pysciode.engines.julia.installation import resolve; resolve()", environment)
    assert find(environment) == "None"
    return environment


def find(environment: dict[str, str]) -> str:
    code = "from pysciode.engines.julia.environment import find_trouble; trouble = find_trouble(); print(trouble and trouble.reason)"
    return run(code, environment).stdout.strip()


@pytest.mark.slow
def test_what_came_after_the_installation(installed, tmp_path):
    project = tmp_path / "project"
    meta = project / "pyjuliapkg" / "meta.json"
    # An installation that was not finished.
    (project / "Manifest.toml").rename(tmp_path / "away")
    assert "no Manifest.toml" in find(installed)
    (tmp_path / "away").rename(project / "Manifest.toml")
    # A Julia that was replaced, or went away.
    shell_julia(tmp_path / "julia", "1.11.2")
    assert "installed with Julia 1.10.8" in find(installed) and "another version" in find(installed)
    (tmp_path / "julia").unlink()
    assert "does not run" in find(installed)
    shell_julia(tmp_path / "julia")
    assert find(installed) == "None"
    # What juliapkg wrote is broken.
    whole = meta.read_text()
    meta.write_text(whole[: len(whole) // 2])
    assert "can't be read" in find(installed)
    doctor(installed)
    meta.write_text("{}")
    assert "not finished" in find(installed)
    # Each is mended by installing again.
    shell_julia(tmp_path / "julia", installing=f'cp "{tmp_path}/made/Manifest.toml" "$project"; exit 0')
    run("from pysciode.engines.julia.installation import resolve; resolve()", installed)
    assert find(installed) == "None"


def test_an_environment_that_nobody_may_write_to_is_used(installed, tmp_path):
    lock = tmp_path / "project" / "lock.pid"
    lock.unlink(missing_ok=True)
    lock.mkdir()  # stops root too
    assert find(installed) == "None"


@pytest.mark.slow
def test_a_julia_that_does_not_start_is_said(installed):
    """The shell script has no library: the same as a broken one."""
    done = run(AUTOMATIC + NAMED, installed)
    assert done.stdout.startswith("embedded")
    assert "juliacall did not start" in done.stderr and "python -m pysciode doctor" in done.stderr
    engine = doctor(installed)["engine"]
    assert engine["status"] == "missing" and "does not start: juliacall did not start" in engine["detail"]
    assert "juliacall did not start" in done.stdout


@pytest.mark.slow
def test_processes_install_one_after_the_other_and_once(surroundings, tmp_path):
    manifest_file = tmp_path / "Manifest.toml"
    manifest_file.write_text(manifest())
    # Fails where two are at it at once.
    at_work = tmp_path / "at-work"
    julia = shell_julia(
        tmp_path / "julia",
        installing=f'mkdir "{at_work}" || exit 9; echo x >> "{tmp_path}/installations"; sleep 3; '
        f'cp "{manifest_file}" "$project"; rmdir "{at_work}"; exit 0',
    )
    environment = surroundings | {"PYTHON_JULIAPKG_EXE": julia}
    command = [sys.executable, "-c", "from pysciode.engines.julia.installation import resolve; resolve()"]
    processes = [
        subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert (tmp_path / "installations").read_text().count("x") == 1
    assert sum("waiting for it" in out and "The other process has installed it" in out for out, _ in said) == 2
    assert find(environment) == "None"


def test_while_another_process_installs(surroundings, tmp_path, monkeypatch):
    from filelock import FileLock
    from juliapkg.state import STATE

    project = tmp_path / "project"
    (project / "pyjuliapkg").mkdir(parents=True)
    (project / "pyjuliapkg" / "meta.json").write_text("{}")
    monkeypatch.setitem(STATE, "project", str(project))
    monkeypatch.setitem(STATE, "meta", str(project / "pyjuliapkg" / "meta.json"))
    monkeypatch.setattr(julia_environment, "LOCK_PATIENCE", 0.1)
    for name in ("PYTHON_JULIACALL_EXE", "PYTHON_JULIACALL_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    with FileLock(project / "lock.pid"):
        trouble = julia_environment.find_trouble()
    assert "another process is just installing it" in trouble.reason and "Try again" in trouble.mend


def test_install_mends_what_is_installed_and_does_not_start(monkeypatch):
    from typer.testing import CliRunner

    from pysciode.cli import app

    called = []
    monkeypatch.setattr(julia_environment, "julia_environment_is_resolved", lambda: True)
    monkeypatch.setattr(julia_environment, "failure_to_start", lambda: "PySciODE does not load (LoadError)")
    monkeypatch.setattr(installation, "resolve", lambda show, *, update: called.append(update))
    shown = CliRunner().invoke(app, ["install"])
    assert shown.exit_code == 0 and called == [False]
    assert "does not start: PySciODE does not load (LoadError)" in shown.output
    monkeypatch.setattr(julia_environment, "failure_to_start", lambda: None)
    assert "installed already" in CliRunner().invoke(app, ["install"]).output and called == [False]


def test_automatic_falls_back_where_julia_is_installed_and_does_not_start(monkeypatch, capsys):
    class Broken:
        def start(self):
            raise EngineUnavailable("The Julia engine", "PySciODE does not load (LoadError)", mend="Mend it")

    monkeypatch.setattr(engines, "find_trouble", lambda: None)
    monkeypatch.setattr(engines, "_engines", {"julia": Broken()})
    monkeypatch.setattr(engines, "_automatic", None)
    assert engines.get_engine("auto").name == "embedded" and engines.get_engine("auto").name == "embedded"
    assert capsys.readouterr().err.count("(PySciODE does not load (LoadError)), so the embedded engine") == 1


def test_the_oldest_julia_is_that_of_juliapkg():
    asked = json.loads((ROOT / "pysciode" / "juliapkg.json").read_text())["julia"]
    assert asked.split(" - ")[0] == ".".join(map(str, julia_environment.OLDEST_JULIA))


@pytest.mark.slow
@pytest.mark.julia
def test_odd_paths_of_julia_do_no_harm(tmp_path):
    odd = {"JULIA_LOAD_PATH": "/nonexistent", "JULIA_PROJECT": str(tmp_path)}
    done = run(AUTOMATIC + "import os; print(os.environ['JULIA_LOAD_PATH'])", os.environ | odd)
    assert done.stdout.split() == ["julia", "/nonexistent"]


@pytest.mark.julia
@pytest.mark.slow
def test_a_julia_package_that_does_not_load(tmp_path):
    """A copy of the real environment whose Julia package is broken; what Julia compiles goes to a depot of its own."""
    from juliapkg.deps import load_meta

    given = julia_environment.environment_given_by_hand()
    executable, project = given or (load_meta()["executable"], julia_environment.julia_project())
    package = tmp_path / "broken"
    shutil.copytree(ROOT / "julia", package, ignore=shutil.ignore_patterns("test", "Manifest*.toml"))
    source = package / "src" / "PySciODE.jl"
    source.write_text(source.read_text().replace("module PySciODE\n", 'module PySciODE\nerror("this package is broken")\n'))
    copy = tmp_path / "project"
    copy.mkdir()
    shutil.copy(Path(project) / "Project.toml", copy)
    text = (Path(project) / "Manifest.toml").read_text()
    entry = re.search(r"(?s)\[\[deps\.PySciODE\]\].*?^path = \"(.*?)\"", text, re.MULTILINE)
    (copy / "Manifest.toml").write_text(text[: entry.start(1)] + str(package) + text[entry.end(1) :])
    depots = os.environ.get("JULIA_DEPOT_PATH") or str(Path.home() / ".julia")
    named = {
        "PYTHON_JULIACALL_EXE": executable,
        "PYTHON_JULIACALL_PROJECT": str(copy),
        "JULIA_DEPOT_PATH": os.pathsep.join((str(tmp_path / "depot"), depots)),
    }
    done = run(NAMED + AUTOMATIC, os.environ | named)
    assert "PySciODE does not load" in done.stdout and "python -m pysciode doctor" in done.stdout
    assert done.stdout.split()[-1] == "embedded"
    assert done.stderr.count("pysciode:") == 1
    engine = doctor(os.environ | named)["engine"]
    assert "does not start: PySciODE does not load" in engine["detail"] and engine["mend"]
