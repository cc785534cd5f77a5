"""The command line, in fresh processes as users run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from pysciode import engines
from pysciode.cli import app
from pysciode.doctor import report as doctor
from pysciode.engines.julia import environment as julia_environment
from pysciode.engines.julia import installation
from pysciode.errors import INSTALL_COMMAND, EngineUnavailable

ROOT = Path(__file__).parent.parent


def run(*arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pysciode", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=300, **kwargs)


def test_help_names_the_commands():
    shown = run("--help")
    assert shown.returncode == 0
    for command in ("demo", "compare", "install", "doctor"):
        assert command in shown.stdout


@pytest.mark.slow
def test_doctor_in_json_names_every_part():
    shown = run("doctor", "--json")
    assert shown.returncode == 0, shown.stderr
    checks = {check["part"].strip(): check for check in json.loads(shown.stdout)}
    parts = {"Python", "torch", "juliacall", "Julia", "Julia environment", "PySciODE.jl", "threads", "GPU", "engine"}
    assert parts <= checks.keys()
    assert all(check["status"] in {"ok", "missing", "note"} for check in checks.values())
    # Whatever is missing comes with the way out.
    assert all(check["mend"] for check in checks.values() if check["status"] == "missing")


class TestDoctorOfGPUs:
    """No GPU is needed: torch says what these tests have it say."""

    @pytest.fixture
    def card(self, monkeypatch, tmp_path):
        import torch

        card = SimpleNamespace(name="NVIDIA H200", total_memory=139 * 2**30, major=9, minor=0)
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: card)
        for module in (doctor, installation):
            monkeypatch.setattr(module, "julia_project", lambda: str(tmp_path))
        return tmp_path / "Manifest.toml"

    def gpu(self) -> dict[str, doctor.Check]:
        return {check.part.strip(): check for check in doctor._gpu()}

    def test_each_is_shown(self, card):
        checks = self.gpu()
        assert checks["GPU"].detail.startswith("torch is built for CUDA 12.8 and sees 2")
        for name in ("cuda:0", "cuda:1"):
            assert checks[name].detail == "NVIDIA H200, 139.0 GiB, compute capability 9.0"

    def test_the_extra_is_named_where_it_lacks(self, card):
        assert (self.gpu()["cuda"].status, self.gpu()["cuda"].mend) == ("note", f"{INSTALL_COMMAND} cuda")
        card.write_text('[[deps.CUDA]]\nversion = "6.1.0"\n')
        assert (self.gpu()["cuda"].status, self.gpu()["cuda"].detail) == ("ok", "CUDA 6.1.0")

    def test_of_amd(self, card, monkeypatch):
        monkeypatch.setattr("torch.version.cuda", None)
        (check,) = doctor._gpu()
        assert (check.status, check.mend) == ("note", "") and "ROCm" in check.detail

    @pytest.mark.parametrize(
        ("built", "said", "shown"),
        [
            (False, None, "(it is a build without CUDA)"),
            (True, "Found no NVIDIA driver on your system. Please check\nthat", "(Found no NVIDIA driver on your system)"),
            (True, None, "CUDA_VISIBLE_DEVICES"),
        ],
    )
    def test_without_one_there_is_one_line_that_asks_for_nothing(self, monkeypatch, built, said, shown):
        import torch

        def init():
            if said:
                raise RuntimeError(said)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
        monkeypatch.setattr(torch.cuda, "init", init)
        (check,) = doctor._gpu()
        assert (check.status, check.mend) == ("note", "") and shown in check.detail


def test_doctor_survives_a_machine_without_anything(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", str(tmp_path / "no-julia"))
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(tmp_path / "no-project"))

    def absent(name):
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", absent)
    checks = {check.part.strip(): check for check in doctor.examine()}
    assert checks["torch"].status == "missing"
    assert checks["Julia"].status == "missing"
    assert INSTALL_COMMAND in checks["Julia environment"].mend
    assert checks["engine"].detail.startswith("embedded")


@pytest.mark.slow
def test_doctor_prints_a_table():
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 0
    assert "juliacall" in shown.output


def test_install_of_what_does_not_exist_says_so():
    shown = run("install", "something")
    assert shown.returncode == 2
    assert "no part 'something'; there are optimization (" in shown.stderr
    assert "; cuda (" in shown.stderr
    assert "Nothing was installed" in shown.stderr


def test_an_environment_given_by_hand_is_not_resolved_over(monkeypatch, tmp_path):
    monkeypatch.setattr(julia_environment, "julia_version", lambda executable: (1, 10, 8))
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", "/usr/bin/julia")
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(tmp_path))
    assert not installation.julia_environment_is_resolved()
    described = (ROOT / "julia" / "Project.toml").read_text()
    sections = dict(re.findall(r"^\[(\w+)\]\n(.*?)(?=^\[|\Z)", described, re.MULTILINE | re.DOTALL))
    deps, weak, extensions = (re.findall(r"^(\w+) = ", sections[x], re.MULTILINE) for x in ("deps", "weakdeps", "extensions"))

    def write_manifest(deps, weak):
        entry = f'[[deps.PySciODE]]\ndeps = {json.dumps(deps)}\npath = "x"\nversion = "0.1.0"\nweakdeps = {json.dumps(weak)}\n'
        entry += "    [deps.PySciODE.extensions]\n" + "".join(f'    {x} = "Y"\n' for x in extensions)
        (tmp_path / "Manifest.toml").write_text(entry + '\n[[deps.Other]]\nversion = "1.2.3"\n')

    write_manifest(deps, weak)
    assert installation.installed_packages(str(tmp_path)) == {"PySciODE": "0.1.0", "Other": "1.2.3"}
    assert installation.julia_environment_is_resolved()
    # A checkout whose Julia package has since got other dependencies must be resolved again.
    for stale in ((deps[1:], weak), ([*deps, "Gone"], weak), (deps, weak[1:])):
        write_manifest(*stale)
        assert not installation.julia_environment_is_resolved()


def test_a_failed_installation_is_one_error_with_the_reason(monkeypatch, tmp_path):
    import juliapkg

    def no_network(**kwargs):
        raise OSError("no route to host")

    monkeypatch.delenv("PYTHON_JULIACALL_PROJECT", raising=False)
    monkeypatch.setattr(juliapkg, "resolve", no_network)
    monkeypatch.setattr(julia_environment, "julia_environment_is_resolved", lambda: False)
    monkeypatch.setitem(juliapkg.state.STATE, "project", str(tmp_path))
    shown = CliRunner().invoke(app, ["install"])
    assert shown.exit_code == 1
    assert "no route to host" in shown.output
    assert "Traceback" not in shown.output


def test_an_extra_is_asked_of_juliapkg_and_taken_back_where_that_fails(monkeypatch, tmp_path):
    import juliapkg

    asked = tmp_path / "juliapkg.json"
    asked.write_text('{"packages": {"Mooncake": {"uuid": "da2b9cff-9c12-43a0-ae48-6db2b0edb7d6"}}}')
    monkeypatch.delenv("PYTHON_JULIACALL_PROJECT", raising=False)
    monkeypatch.setitem(juliapkg.state.STATE, "deps", str(asked))
    monkeypatch.setitem(juliapkg.state.STATE, "project", str(tmp_path))
    monkeypatch.setitem(juliapkg.state.STATE, "resolved", juliapkg.state.STATE.get("resolved"))
    monkeypatch.setattr(installation, "extra_is_installed", lambda name: False)
    seen = []

    def resolve(progress, *, update):
        seen.append(set(json.loads(asked.read_text())["packages"]))
        if len(seen) > 1:
            raise EngineUnavailable("The Julia engine", "no route to host")

    monkeypatch.setattr(installation, "resolve", resolve)
    assert CliRunner().invoke(app, ["install", "optimization"]).exit_code == 0
    assert seen == [{"Mooncake", "OptimizationOptimJL"}]
    failed = CliRunner().invoke(app, ["install", "diffeqflux"])
    assert failed.exit_code == 1
    assert "no route to host" in failed.output
    assert seen[1] == {"Mooncake", "OptimizationOptimJL", "DiffEqFlux"}
    assert set(json.loads(asked.read_text())["packages"]) == {"Mooncake", "OptimizationOptimJL"}


def test_cuda_is_asked_for_within_its_bounds(monkeypatch, tmp_path):
    import juliapkg

    asked = tmp_path / "juliapkg.json"
    monkeypatch.delenv("PYTHON_JULIACALL_PROJECT", raising=False)
    for key, value in {"deps": str(asked), "project": str(tmp_path), "resolved": None}.items():
        monkeypatch.setitem(juliapkg.state.STATE, key, value)
    monkeypatch.setattr(installation, "extra_is_installed", lambda name: False)
    monkeypatch.setattr(installation, "resolve", lambda progress, *, update: None)
    assert CliRunner().invoke(app, ["install", "CUDA"]).exit_code == 0
    assert json.loads(asked.read_text())["packages"] == installation.EXTRAS["cuda"].packages


def test_bounds_of_extras_are_those_of_the_julia_package():
    described = (ROOT / "julia" / "Project.toml").read_text()
    for extra in installation.EXTRAS.values():
        for package, asked in extra.packages.items():
            assert f'{package} = "{asked["uuid"]}"' in described
            lowest, highest = asked["version"].split(" - ")
            bounds = re.search(rf'^{package} = "([\d., ]+)"$', described, re.MULTILINE)[1].split(", ")
            assert bounds[0] == lowest
            # A lower bound of Julia's package manager admits all that is compatible with it.
            assert bounds[-1] == highest or lowest.startswith(highest + ".")


# --- compare ---------------------------------------------------------------------------------------------------------

MODEL = """
import neighbour_of_models as neighbour
import pysciode as ps

def decay(u, p, t):
    return [-p["k"] * x for x in u]

problem = ps.ODEProblem(decay, [1.0, 2.0], (0.0, 1.0), {"k": neighbour.RATE}, name="decay")
_hidden = ps.ODEProblem(decay, [1.0], (0.0, 1.0), {"k": 1.0})
again = problem

def slow():
    return ps.ODEProblem(decay, [1.0], (0.0, 1.0), {"k": 0.1})

def broken():
    return 1 / 0

def last(solution):
    return solution.u[-1].sum()
"""


@pytest.fixture
def model(tmp_path, monkeypatch, request) -> Path:
    """A file of problems beside a module that it imports; solved without Julia unless it is asked for."""
    if request.node.get_closest_marker("julia") is None:
        monkeypatch.setattr(engines, "_chosen", "embedded")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "neighbour_of_models.py").write_text("RATE = 2.0\n")
    path = tmp_path / f"model_of_{tmp_path.name}.py"  # modules of other tests are still there
    path.write_text(MODEL)
    return path


def compare(*arguments: object):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def solvers(*arguments: object):
    return compare(*arguments, "--solvers-only", "--algorithm", "Tsit5", "--rtol", "1e-4")


@pytest.mark.slow
def test_compare_prints_a_table_of_solvers(model, tmp_path):
    shown = solvers(model, "--plot", tmp_path / "figure.png", "--quiet")
    assert shown.exit_code == 0, shown.output
    assert "decay" in shown.stdout
    assert "scipy: Radau" in shown.stdout
    assert shown.stderr == ""
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.slow
def test_compare_as_json_is_json_alone_with_each_problem_once(model):
    shown = solvers(model, "--json", "-")
    assert shown.exit_code == 0, shown.output
    reports = json.loads(shown.stdout)
    assert list(reports) == ["problem"]
    rows = reports["problem"]["rows"]
    assert {(row["rtol"], row["atol"]) for row in rows} == {(1e-4, 1e-6)}
    assert {"Tsit5", "DOP853", "dopri5"} <= {row["solver"] for row in rows}
    assert all(row["error"] < 1e-2 for row in rows if row["status"] == "ok")


@pytest.mark.slow
def test_compare_takes_problems_and_functions_by_name(model, tmp_path):
    shown = solvers(model, "--problem", "slow", "--problem", "again", "--json", tmp_path / "found.json", "--plot", tmp_path / "f.svg")
    assert shown.exit_code == 0, shown.output
    assert json.loads((tmp_path / "found.json").read_text()).keys() == {"slow", "again"}
    assert (tmp_path / "f-slow.svg").exists()
    assert (tmp_path / "f-again.svg").exists()
    assert "slow\n====" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], "there is no file nowhere.py"),
        (["{model}", "--problem", "absent"], "no problem 'absent'; there are problem, again (functions there: decay, slow, broken, last)"),
        (["{model}", "--problem", "broken"], "broken() failed: line 16: ZeroDivisionError"),
        (["{model}", "--problem", "neighbour"], "no problem 'neighbour'"),
        (["{model}", "--loss", "absent"], "no function 'absent' for a loss"),
        (["{model}", "--sensealg", "Gauss"], "'Gauss' is no sensitivity method; there are"),
        (["{model}", "--sensealg", "GaussAdjoint(speed=3)"], "unexpected keyword argument 'speed'"),
        (["{model}", "--sensealg", "GaussAdjoint(checkpointing=open('x'))"], "GaussAdjoint(checkpointing=open"),
        (["{model}", "--algorithm", "Tsit6"], "no algorithm 'Tsit6' is known"),
        (["{model}", "--solvers-only", "--rtol", "-1"], "tolerances must be positive"),
        (["{model}", "--solvers-only", "--loss", "last"], "leave out --loss and --sensealg"),
        (["{model}", "--rtol", "tight"], "Invalid value for '--rtol'"),
    ],
)
def test_compare_names_what_is_wrong(model, arguments, message):
    shown = compare(*(str(model) if x == "{model}" else x for x in arguments))
    assert shown.exit_code == 2, shown.output
    assert message in " ".join(shown.stderr.replace("│", " ").split())
    assert "Traceback" not in shown.output


def test_compare_names_the_line_of_a_file_that_can_not_be_imported(tmp_path):
    path = tmp_path / "faulty_model.py"
    path.write_text("import math\n\nproblem = math.sqrt(-1)\n")
    shown = compare(path)
    assert shown.exit_code == 2
    assert "line 3: ValueError: " in shown.stderr
    path.write_text("x = 1\n")
    shown = compare(path)
    assert shown.exit_code == 2
    assert "has no ODEProblem among its names" in shown.stderr


def test_compare_does_not_take_the_name_of_another_module(tmp_path):
    path = tmp_path / "json.py"
    path.write_text(MODEL)
    shown = compare(path)
    assert shown.exit_code == 2
    assert "has the name of the module json, which is in use" in shown.stderr


def test_compare_of_what_can_not_be_solved_is_status_1(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "_chosen", "embedded")
    path = tmp_path / "unsolvable_model.py"
    path.write_text(
        "import pysciode as ps\ndef f(u, p, t):\n    return [1.0 if u[0] > 0.5 else 2.0]\nproblem = ps.ODEProblem(f, [1.0], (0.0, 1.0))\n"
    )
    shown = solvers(path)
    assert shown.exit_code == 1
    assert "problem: " in shown.stderr
    assert "nothing could be compared" in shown.stderr


@pytest.mark.slow
@pytest.mark.julia
def test_compare_of_adjoints_prints_the_report_then_the_recommendation(model, tmp_path):
    shown = compare(model, "--loss", "last", "--sensealg", "ForwardDiffSensitivity", "--sensealg", "InterpolatingAdjoint(checkpointing=True)",
                    "--rtol", "1e-6", "--quiet", "--json", tmp_path / "report.json")  # fmt: skip
    assert shown.exit_code == 0, shown.output
    report = json.loads((tmp_path / "report.json").read_text())["problem"]
    rows = {row["method"]: row for row in report["rows"] if row["status"] == "ok"}
    assert {"ForwardDiffSensitivity", "InterpolatingAdjoint", "odeint", "odeint_adjoint"} <= rows.keys()
    assert rows["InterpolatingAdjoint"]["options"] == {"checkpointing": True}
    assert report["settings"]["loss"] == "last"
    # d/dk 3 exp(-k) at k = 2
    assert report["reference"]["norm"] == pytest.approx(3 * np.exp(-2.0), rel=1e-8)
    assert all(row["error"] < 1e-3 for row in rows.values())
    table, advice = shown.stdout.index("InterpolatingAdjoint"), shown.stdout.lower().rindex("forwarddiffsensitivity")
    assert table < advice
