"""Odd surroundings: no home, no directory, closed or missing streams, Python's flags, names that are not ASCII, juliacall of the user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import MODELS, ROOT, check_script, run_script

from pysciode.engines.julia.environment import environment_given_by_hand, julia_project

pytestmark = [pytest.mark.slow, pytest.mark.julia, pytest.mark.skipif(sys.platform == "win32", reason="surroundings of Unix")]

WRITE = (
    MODELS
    + """
check_numbers()
with open(os.environ["ANSWER"], "w") as file:
    file.write("right")
"""
)


def check(tmp_path: Path, first: str = "", *flags: str, **environment: str | None) -> None:
    """Solve after the statements `first`, in an environment with these changes (None: without that variable)."""
    answer = tmp_path / "answer"
    changed = {**os.environ, "ANSWER": str(answer), "PYTHONPATH": os.pathsep.join((str(ROOT), *filter(None, sys.path)))}
    for name, value in environment.items():
        changed.pop(name, None)
        if value is not None:
            changed[name] = value
    done = subprocess.run([sys.executable, *flags, "-c", first + WRITE], env=changed, timeout=200, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert answer.read_text() == "right"


@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_without_a_home(tmp_path, home):
    from juliapkg.deps import load_meta

    # Where Julia and its packages are must be said then: by default that is in the home.
    given = environment_given_by_hand() or (load_meta()["executable"], julia_project())
    depot = os.environ.get("JULIA_DEPOT_PATH") or f"{Path.home() / '.julia'}:"
    check(tmp_path, HOME=home, TMPDIR="/nonexistent", JULIA_DEPOT_PATH=depot, MPLCONFIGDIR=str(tmp_path),
          PYTHON_JULIACALL_EXE=given[0], PYTHON_JULIACALL_PROJECT=given[1])  # fmt: skip


STREAMS = """
import os, sys
for number in range(3):
    os.close(number)
sys.stdin = sys.stdout = sys.stderr = None
"""


def test_without_streams(tmp_path):
    check(tmp_path, STREAMS)


def test_in_a_directory_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    check(tmp_path, f"import torch, os\nos.chdir({str(gone)!r}); os.rmdir({str(gone)!r})\n")


@pytest.mark.parametrize("flags", [("-OO",), ("-X", "utf8=0"), ("-W", "error", "-X", "dev")], ids=" ".join)
def test_flags_of_python(tmp_path, flags):
    first = 'import sys\nassert __debug__ is False or "-OO" not in sys.orig_argv\n'
    check(tmp_path, first, *flags, LC_ALL="C", LANG="C", PYTHONUTF8=None)


def test_a_script_whose_path_is_neither_ascii_nor_without_spaces(tmp_path):
    folder = tmp_path / "ein Verzeichnis für Schwingungen"
    folder.mkdir()
    (folder / "größe.py").write_text("def f(u, p, t):\n    return [-p[0] * u[0]]\n", encoding="utf-8")
    first = f"import sys\nsys.path.insert(0, {str(folder)!r})\n"
    code = """
import größe
import numpy as np
import pysciode as ps
for capture in ("auto", "callback"):
    problem = ps.ODEProblem(größe.f, [1.0], (0.0, 1.0), [1.0], capture=capture, name="größe")
    assert abs(ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine="julia").u[0, 0] - np.exp(-1)) < 1e-4
try:
    ps.solve(ps.ODEProblem(größe.f, [1.0], (0.0, 1.0), [1.0], name="größe"), ps.Tsit5(), maxiters=1, engine="julia")
except ps.SolveFailed as error:
    print("told")
"""
    assert run_script(first + code).split() == ["told"]


def test_a_juliacall_that_the_user_runs_already(tmp_path):
    check(tmp_path, 'import juliacall\njuliacall.Main.seval("answer = 42")\n')


def test_julia_code_of_the_user_while_threads_solve():
    """juliacall holds Python's lock while it collects garbage; a thread that waits for that lock must not be waited for."""
    check_script(
        MODELS
        + """
check_numbers()
import juliacall
in_python = ps.ODEProblem(lambda u, p, t: -p[0] * u, np.ones(3), (0.0, 1.0), [1.0], capture="callback")

def work():
    for _ in range(10):
        assert abs(ps.solve(in_python, ps.Tsit5(), saveat=[1.0], engine="julia").u[0, 0] - np.exp(-1)) < 1e-4
        check_numbers()

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
while any(thread.is_alive() for thread in threads):
    juliacall.Main.seval("GC.gc(); sum(sum, [rand(1000) for _ in 1:100])")
    time.sleep(0.01)
""",
        timeout=150,
    )


def test_deep_recursion_and_small_stacks():
    out = run_script(
        MODELS
        + """
check_numbers()
sys.setrecursionlimit(10**6)

def deep(k):
    return check_numbers() if k == 0 else deep(k - 1)

deep(10_000)
threading.stack_size(1024 * 1024)
thread = threading.Thread(target=lambda: (check_numbers(), print("finished")))
thread.start()
thread.join()
"""
    )
    assert out.split() == ["finished"]


def test_a_module_that_ipython_loads_again(tmp_path):
    """The model is another one after an edit."""
    pytest.importorskip("IPython")
    out = run_script(
        f"""
import os, sys, time
sys.path.insert(0, {str(tmp_path)!r})
path = {str(tmp_path / "edited_model.py")!r}

def write(rate):
    with open(path, "w") as file:
        file.write(f"def f(u, p, t):\\n    return [-{{rate}} * u[0]]\\n")
    os.utime(path, (time.time() + rate, time.time() + rate))

write(1.0)
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()

def run(code):
    result = shell.run_cell(code)
    result.raise_error()

run("%load_ext autoreload")
run("%autoreload 2")
run("import pysciode as ps, edited_model, math")
solve = "u = ps.solve(ps.ODEProblem(edited_model.f, [1.0], (0.0, 1.0)), ps.Tsit5(), saveat=[1.0], engine='julia').u[0, 0]"
run(solve + "; assert abs(u - math.exp(-1)) < 1e-4, u")
write(2.0)
run(solve + "; assert abs(u - math.exp(-2)) < 1e-4, u")
print("finished")
"""
    )
    assert out.split()[-1] == "finished"
