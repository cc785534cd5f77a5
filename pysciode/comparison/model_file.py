"""Problems and losses from a user's Python file."""

from __future__ import annotations

import ast
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..methods.adjoints import SENSITIVITY_ALGORITHMS, SensitivityAlgorithm
from ..problems.ode import ODEProblem


class ModelFileError(ValueError):
    """A file that can't be used, or a name that is not in it."""


def load_module(path: Path) -> ModuleType:
    """Import the file under its own name, with its directory first on ``sys.path``, as where it is run.

    Raises `ModelFileError` if there is no such file, its name is taken by another module, or it raises.
    """
    if not path.is_file():
        raise ModelFileError(f"there is no file {path}")
    if path.suffix != ".py":
        raise ModelFileError(f"{path} is no Python file (.py)")
    path = path.resolve()
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) != str(path):
        raise ModelFileError(f"{path} has the name of the module {name}, which is in use: rename the file")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelFileError(f"{path} can't be imported: {_told(error, path)}") from error
    return module


def _told(error: BaseException, path: Path) -> str:
    """What an error says, with its line in the file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{f'line {lines[-1]}: ' if lines else ''}{type(error).__name__}: {error}"


def find_problems(module: ModuleType, names: Sequence[str] = ()) -> dict[str, ODEProblem]:
    """The module's problems by name; `names` are problems, or functions without arguments that return one, by default all problems.

    Raises `ModelFileError` if there is none, or a name is neither.
    """
    problems = {name: x for name, x in vars(module).items() if isinstance(x, ODEProblem) and not name.startswith("_")}
    if names:
        return {name: _problem(module, name, problems) for name in names}
    if not problems:
        raise ModelFileError(
            f"{module.__file__} has no ODEProblem among its names; name a function that returns one: --problem NAME{_functions(module)}"
        )
    first = {id(x): name for name, x in reversed(problems.items())}
    return {name: x for name, x in problems.items() if first[id(x)] == name}


def _problem(module: ModuleType, name: str, problems: dict[str, ODEProblem]) -> ODEProblem:
    found = getattr(module, name, None)
    if isinstance(found, ODEProblem):
        return found
    if not callable(found):
        there = f"; there are {', '.join(problems)}" if problems else ""
        raise ModelFileError(f"{module.__file__} has no problem {name!r}{there}{_functions(module)}")
    try:
        made = found()
    except Exception as error:
        raise ModelFileError(f"{name}() failed: {_told(error, Path(module.__file__))}") from error
    if not isinstance(made, ODEProblem):
        raise ModelFileError(f"{name}() returned a {type(made).__name__}, not an ODEProblem")
    return made


def find_loss(module: ModuleType, name: str) -> Callable[..., Any]:
    """The module's function called `name`; raises `ModelFileError` if there is none."""
    found = getattr(module, name, None)
    if not callable(found):
        raise ModelFileError(f"{module.__file__} has no function {name!r} for a loss{_functions(module)}")
    return found


def _functions(module: ModuleType) -> str:
    public = {name: x for name, x in vars(module).items() if not name.startswith("_")}
    own = [name for name, x in public.items() if callable(x) and getattr(x, "__module__", None) == module.__name__]
    return f" (functions there: {', '.join(own)})" if own else ""


def parse_sensealg(text: str) -> SensitivityAlgorithm:
    """``"GaussAdjoint"``, or with options ``"InterpolatingAdjoint(checkpointing=True)"``.

    Raises ValueError if it is no method or has no such option.
    """
    name, bracket, _ = text.partition("(")
    if name.strip() not in SENSITIVITY_ALGORITHMS:
        raise ValueError(f"{text!r} is no sensitivity method; there are {', '.join(SENSITIVITY_ALGORITHMS)}")
    try:
        call = ast.parse(text if bracket else f"{text}()", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise TypeError("its options have names")
        return SENSITIVITY_ALGORITHMS[name.strip()](**{x.arg: ast.literal_eval(x.value) for x in call.keywords})
    except (TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{text!r}: {error}") from None
