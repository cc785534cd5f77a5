"""Problems and losses from a user's Python file."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..problems.base import Problem, is_problem


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
        raise ValueError(f"{path} can't be imported: {_told(error, path)}") from error


def _told(error: BaseException, path: Path) -> str:
    """What an error says, with its line in the file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{f'line {lines[-1]}: ' if lines else ''}{type(error).__name__}: {error}"


def find_problems(module: ModuleType, names: Sequence[str] = ()) -> dict[str, Problem]:
    """The module's problems by name; `names` are problems, or functions without arguments that return one, by default all problems."""
    problems = {name: x for name, x in vars(module).items() if is_problem(x) and not name.startswith("_")}
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
    if is_problem(found):
        return found
    if not callable(found):
        there = f"; there are {', '.join(problems)}" if problems else ""
        raise ValueError(f"{module.__file__} has no problem {name!r}{there}{_functions(module)}")
    try:
        made = found()
    except Exception as error:
        raise ValueError(f"{name}() failed: {_told(error, Path(module.__file__))}") from error
    if not is_problem(made):
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
