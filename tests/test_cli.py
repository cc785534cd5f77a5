"""The command line, in fresh processes as users run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pysciode import doctor, installation
from pysciode.cli import app
from pysciode.errors import INSTALL_COMMAND

ROOT = Path(__file__).parent.parent


def run(*arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pysciode", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=300, **kwargs
    )


def test_help_names_the_commands():
    shown = run("--help")
    assert shown.returncode == 0
    for command in ("demo", "install", "doctor"):
        assert command in shown.stdout


def test_doctor_in_json_names_every_part():
    shown = run("doctor", "--json")
    assert shown.returncode == 0, shown.stderr
    checks = {check["part"].strip(): check for check in json.loads(shown.stdout)}
    parts = {"Python", "torch", "juliacall", "Julia", "Julia environment", "PySciODE.jl", "threads", "GPU", "engine"}
    assert parts <= checks.keys()
    assert all(check["status"] in {"ok", "missing", "note"} for check in checks.values())
    # Whatever is missing comes with the way out.
    assert all(check["mend"] for check in checks.values() if check["status"] == "missing")


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
    assert checks["Julia environment"].mend == INSTALL_COMMAND
    assert checks["engine"].detail.startswith("embedded")


def test_doctor_prints_a_table():
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 0
    assert "juliacall" in shown.output


@pytest.mark.parametrize("extra", ["cuda", "something"])
def test_install_of_what_does_not_exist_says_so(extra):
    shown = run("install", extra)
    assert shown.returncode == 2
    assert "not available yet" in shown.stderr
    assert "Nothing was installed" in shown.stderr


def test_an_environment_given_by_hand_is_not_resolved_over(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHON_JULIACALL_EXE", "/usr/bin/julia")
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(tmp_path))
    assert not installation.julia_environment_is_resolved()
    dependencies = re.findall(r"^(\w+) = \"[0-9a-f-]{36}\"", (ROOT / "julia" / "Project.toml").read_text(), re.MULTILINE)
    entry = '[[deps.PySciODE]]\ndeps = {}\npath = "x"\nversion = "0.1.0"\n\n[[deps.Other]]\nversion = "1.2.3"\n'
    (tmp_path / "Manifest.toml").write_text(entry.format(json.dumps(dependencies)))
    assert installation.installed_packages(str(tmp_path)) == {"PySciODE": "0.1.0", "Other": "1.2.3"}
    assert installation.julia_environment_is_resolved()
    dependencies.remove("DiffEqBase")
    # A checkout whose Julia package has since got another dependency must be resolved again.
    (tmp_path / "Manifest.toml").write_text(entry.format(json.dumps(dependencies)))
    assert not installation.julia_environment_is_resolved()


def test_a_failed_installation_is_one_error_with_the_reason(monkeypatch):
    import juliapkg

    def no_network(**kwargs):
        raise OSError("no route to host")

    monkeypatch.delenv("PYTHON_JULIACALL_PROJECT", raising=False)
    monkeypatch.setattr(juliapkg, "resolve", no_network)
    monkeypatch.setattr(installation, "julia_environment_is_resolved", lambda: False)
    shown = CliRunner().invoke(app, ["install"])
    assert shown.exit_code == 1
    assert "no route to host" in shown.output
    assert "Traceback" not in shown.output
