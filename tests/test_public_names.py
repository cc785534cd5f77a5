"""What `import pysciode` gives, at run time and to editors."""

from __future__ import annotations

import ast
import importlib.util
import inspect
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


def _overloaded() -> list:
    """Each function with overloads in the package: its overloads, and the function itself."""
    found = []
    for path in sorted((ROOT / "pysciode").rglob("*.py")):
        functions = {}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                functions.setdefault(node.name, []).append(node)
        for name, definitions in functions.items():
            overloads = [x for x in definitions if any(ast.unparse(d).endswith("overload") for d in x.decorator_list)]
            if overloads:
                found.append(pytest.param(overloads, *(x for x in definitions if x not in overloads), id=f"{path.stem}.{name}"))
    return found


def _parameters(function: ast.FunctionDef) -> dict:
    """Name, kind, and default as text, of each parameter but ``**options``."""
    namespace = {}
    exec(f"def function({_without_annotations(function)}): ...", namespace)
    found = inspect.signature(namespace["function"]).parameters.values()
    return {x.name: (x.kind, x.default) for x in found if x.kind is not inspect.Parameter.VAR_KEYWORD}


def _without_annotations(function: ast.FunctionDef) -> str:
    arguments = function.args
    for x in ast.walk(arguments):
        if isinstance(x, ast.arg):
            x.annotation = None
    return ast.unparse(arguments)


@pytest.mark.parametrize("overloads, function", _overloaded())
def test_overloads_have_the_signature_of_their_function(overloads, function):
    expected, together = _parameters(function), {}
    for overload in overloads:
        found = _parameters(overload)
        order = [name for name in expected if name in found]
        assert list(found) == order
        for name, (kind, default) in found.items():
            # An overload may require an argument that is optional elsewhere; another default it can't have.
            assert kind == expected[name][0] and default in (expected[name][1], inspect.Parameter.empty)
        together |= found
    assert together == expected


def test_importing_imports_neither_numpy_nor_torch():
    code = "import sys, pysciode; print(sorted({'numpy', 'torch', 'pandas', 'scipy', 'sympy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="nonsense"):
        ps.nonsense
