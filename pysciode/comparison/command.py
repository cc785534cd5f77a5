"""``python -m pysciode compare``: from problems and losses in a user's file to a printed report."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console

from ..errors import PysciodeError
from ..problems.base import Problem
from .adjoints import compare_adjoints
from .report.rendering import to_text
from .report.reports import AdjointReport, SolverReport
from .work_precision import work_precision


def compare(
    model: Path,
    problems: Sequence[str],
    loss: str | None,
    sensealgs: Sequence[str],
    algorithms: Sequence[str],
    rtols: Sequence[float],
    solvers_only: bool,
    json_file: str | None,
    plot: Path | None,
    quiet: bool,
) -> int:
    """Compare, print, save; the exit status, 0 where at least one problem could be compared, and otherwise 1.

    The arguments are those of the command, whose help explains them; raises ValueError or TypeError for invalid ones.
    """
    if solvers_only and (loss or sensealgs):
        raise ValueError("--solvers-only compares without gradients: leave out --loss and --sensealg")
    module = load_module(model)
    found = find_problems(module, problems)
    asked = {"algorithms": algorithms, "sensealgs": sensealgs, "tolerances": rtols, "loss": find_loss(module, loss) if loss else None}
    arguments: dict[str, Any] = {"progress": not quiet, **{name: x for name, x in asked.items() if x}}
    reports: dict[str, AdjointReport | SolverReport] = {}
    for name, problem in found.items():
        try:
            report = work_precision(problem, **arguments) if solvers_only else compare_adjoints(problem, **arguments)
        except PysciodeError as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        reports[name] = report
        if json_file != "-":
            if len(found) > 1:
                print(f"\n{name}\n{'=' * len(name)}")
            advice = ["", report.recommend()] if isinstance(report, AdjointReport) and _has_results(report) else []
            for x in (report, *advice):
                if sys.stdout.isatty():
                    Console().print(x)
                else:
                    print(to_text(x))
    if json_file is not None:
        text = json.dumps({name: x.to_dict() for name, x in reports.items()}, indent=2, ensure_ascii=False, allow_nan=False)
        if json_file == "-":
            print(text)
        else:
            Path(json_file).write_text(text + "\n", encoding="utf-8")
    if plot is not None:
        for name, report in reports.items():
            report.plot(plot if len(reports) == 1 else plot.with_stem(f"{plot.stem}-{name}"))
    if any(_has_results(x) for x in reports.values()):
        return 0
    print("nothing could be compared", file=sys.stderr)
    return 1


def _has_results(report: AdjointReport | SolverReport) -> bool:
    return any(row.status == "ok" for row in report.rows)


def load_module(path: Path) -> ModuleType:
    """Import the file under its own name, with its directory first on ``sys.path``, as where it is run.

    Raises ValueError if there is no such file, its name is taken by another module, or it raises.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix != ".py":
        raise ValueError(f"{path} is no Python file (.py)")
    path = path.resolve()
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) != str(path):
        raise ValueError(f"{path} has the name of the module {path.stem}, which is in use: rename the file")
    sys.path.insert(0, str(path.parent))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(path.stem)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} can't be imported: {_told(error, str(path))}") from error


def _told(error: BaseException, path: str | None) -> str:
    """The message of an error, with its line in the file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{f'line {lines[-1]}: ' if lines else ''}{type(error).__name__}: {error}"


def find_problems(module: ModuleType, names: Sequence[str] = ()) -> dict[str, Problem]:
    """The module's problems by name; `names` are problems, or functions without arguments that return one, by default all problems."""
    problems = {name: x for name, x in vars(module).items() if isinstance(x, Problem) and not name.startswith("_")}
    if names:
        return {name: _problem(module, name, problems) for name in names}
    if not problems:
        raise ValueError(
            f"{module.__file__} has no ODEProblem among its names; name a function that returns one: --problem NAME{_functions(module)}"
        )
    first = {id(x): name for name, x in reversed(problems.items())}
    return {name: x for name, x in problems.items() if first[id(x)] == name}


def _problem(module: ModuleType, name: str, problems: dict[str, Problem]) -> Problem:
    found = getattr(module, name, None)
    if isinstance(found, Problem):
        return found
    if not callable(found):
        there = f"; there are {', '.join(problems)}" if problems else ""
        raise ValueError(f"{module.__file__} has no problem {name!r}{there}{_functions(module)}")
    try:
        made = found()
    except Exception as error:
        raise ValueError(f"{name}() failed: {_told(error, module.__file__)}") from error
    if not isinstance(made, Problem):
        raise ValueError(f"{name}() returned a {type(made).__name__}, not an ODEProblem")
    return made


def find_loss(module: ModuleType, name: str) -> Callable[..., Any]:
    """The module's function called `name`; raises ValueError if there is none."""
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f"{module.__file__} has no function {name!r} for a loss{_functions(module)}")
    return found


def _functions(module: ModuleType) -> str:
    public = {name: x for name, x in vars(module).items() if not name.startswith("_")}
    own = [name for name, x in public.items() if callable(x) and getattr(x, "__module__", None) == module.__name__]
    return f" (functions there: {', '.join(own)})" if own else ""
