"""What travels inside the wheel, and that the versions agree."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def toml_value(path: Path, key: str) -> str:
    """One top-level string of a TOML file; Python 3.10 has no TOML parser."""
    return re.search(rf'^{key} = "(.*)"$', path.read_text(), re.MULTILINE)[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), str(ROOT)], check=True)
    (built,) = target.glob("pysciode-*.whl")
    return zipfile.ZipFile(built)


def test_the_julia_package_travels_where_the_wheels_juliapkg_says(wheel):
    asked = json.loads(wheel.read("pysciode/juliapkg.json"))["packages"]["PySciODE"]
    names = set(wheel.namelist())
    for part in ("Project.toml", "src/PySciODE.jl"):
        assert f"pysciode/{asked['path']}/{part}" in names
    assert not any("Manifest" in name for name in names)
    assert len(names) == len(wheel.namelist()), "a file is in the wheel twice"


def test_the_data_travels(wheel):
    assert "pysciode/data/hudson-bay-lynx-hare.csv" in wheel.namelist()


def test_types_travel(wheel):
    assert {"pysciode/py.typed", "pysciode/__init__.pyi", "pysciode/methods/algorithm_classes.pyi"} <= set(wheel.namelist())


def test_the_checkouts_juliapkg_finds_the_julia_package():
    asked = json.loads((ROOT / "pysciode" / "juliapkg.json").read_text())["packages"]["PySciODE"]
    project = ROOT / "pysciode" / asked["path"] / "Project.toml"
    assert toml_value(project, "name") == "PySciODE"
    assert toml_value(project, "uuid") == asked["uuid"]


def test_python_and_julia_versions_move_together():
    # juliapkg resolves again after an upgrade only if juliapkg.json changed: the version in it sees to that.
    version = toml_value(ROOT / "pyproject.toml", "version")
    asked = json.loads((ROOT / "pysciode" / "juliapkg.json").read_text())["packages"]["PySciODE"]
    assert toml_value(ROOT / "julia" / "Project.toml", "version") == version
    assert asked["version"] == f"={version}"


def test_both_lines_of_sciml_are_allowed_and_the_broken_release_is_not():
    from juliapkg.compat import Compat, Version

    packages = json.loads((ROOT / "pysciode" / "juliapkg.json").read_text())["packages"]
    assert "OrdinaryDiffEq" not in packages, "the umbrella keeps the newer line out"
    allowed = Compat.parse(packages["SciMLBase"]["version"])
    for version, expected in {"2.146.0": False, "2.155.1": True, "3.31.0": True, "3.32.0": False, "3.33.1": True}.items():
        assert (Version.parse(version) in allowed) is expected, version


WITHOUT = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pandas", "matplotlib", "nutpie", "pysindy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.partition(".")[0] in {"pandas", "matplotlib", "nutpie", "pysindy"} else find(name, *more)
sys.meta_path.insert(0, Absent())
import pysciode as ps
import torch

rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
problem = ps.ODEProblem(lambda u, p, t: -p * u, torch.ones(1, dtype=torch.float64), (0.0, 1.0), rate)
solution = ps.solve(problem, saveat=[1.0], engine="embedded")
solution.u.sum().backward()
print(rate.grad.item())
for what in (solution.to_dataframe, solution.plot, lambda: ps.fitting, lambda: ps.discovery):
    try:
        what()
    except ImportError as error:
        print(error)
"""


def test_solves_and_gradients_need_no_optional_package():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    gradient, *messages = done.stdout.splitlines()
    assert abs(float(gradient) + math.exp(-2.0)) < 1e-5
    assert len(messages) == 4 and all("pip install 'pysciode[analysis]'" in x for x in messages)
