"""What `import pysciode` gives, at run time and to editors."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import pysciode as ps
from pysciode.methods.algorithms import list_algorithms

ROOT = Path(__file__).parent.parent
WRITER = ROOT / "tools" / "write_stubs.py"


@pytest.mark.parametrize("name", ps.__all__)
def test_each_name_is_there(name):
    found = getattr(ps, name)
    assert getattr(found, "__name__", name).rpartition(".")[2] == name


def test_all_algorithms_are_among_them():
    assert set(list_algorithms()) <= set(ps.__all__)


@pytest.mark.skipif(not WRITER.is_file(), reason="the tools are not here")
def test_stubs_are_as_the_table_of_algorithms_has_it():
    spec = importlib.util.spec_from_file_location("write_stubs", WRITER)
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    public = ROOT / "pysciode" / "__init__.pyi"
    assert (ROOT / "pysciode" / "methods" / "algorithm_classes.pyi").read_text() == writer.classes_stub()
    assert public.read_text() == writer.public_stub(public.read_text())


def test_importing_imports_neither_numpy_nor_torch():
    code = "import sys, pysciode; print(sorted({'numpy', 'torch', 'pandas', 'scipy', 'sympy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="nonsense"):
        ps.nonsense
