"""What code reads, by its instructions: globals, attributes, imported modules; and whether it is the user's."""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from weakref import ref

_ATTRIBUTE_READS = frozenset({"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"})
_BY_ANY_NAME = frozenset({"getattr", "vars", "__dict__", "attrgetter", "__getattribute__", "eval", "exec"})
"""Names that give access to attributes whose names the code does not hold."""
_ANY_GLOBAL = frozenset({"globals", "eval", "exec"})


@dataclass(eq=False)
class CodeReads:
    """What a code object reads, with the code nested in it.

    Attributes
    ----------
    globals
        Names that it looks up globally, each once, in the order of their first use.
    attributes
        Names of the attributes that it reads; strings that may be such names too, where it reads by any name.
    imports
        Names of the modules that it imports when it runs.
    by_any_name
        Whether it may read attributes by names that are not in it.
    any_global
        Whether it may read globals by names that are not in it.
    writes_globals
        Whether it assigns to globals.
    is_users
        Whether it lies in a file of the user's, not of an installed library.
    """

    code: ref[CodeType]
    globals: tuple[str, ...]
    attributes: frozenset[str]
    imports: tuple[str, ...]
    by_any_name: bool
    any_global: bool
    writes_globals: bool
    is_users: bool


_known: dict[int, CodeReads] = {}


def reads_of(code: CodeType) -> CodeReads:
    """What `code` reads; found once for each code object."""
    found = _known.get(id(code))
    if found is None or found.code() is not code:
        number = id(code)
        found = _known[number] = _read(code, ref(code, lambda _: _known.pop(number, None)))
    return found


def _read(code: CodeType, itself: ref[CodeType]) -> CodeReads:
    names: dict[str, None] = {}
    attributes: set[str] = set()
    imports: dict[str, None] = {}
    writes = matches = False
    for x in _instructions(code):
        if x.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names[x.argval] = None
        elif x.opname in _ATTRIBUTE_READS:
            attributes.add(x.argval)
        elif x.opname == "MATCH_CLASS":
            matches = True
        elif x.opname == "IMPORT_NAME":
            imports[x.argval] = None
        elif x.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            writes = True
    return CodeReads(
        code=itself,
        globals=tuple(names),
        attributes=frozenset(attributes),
        imports=tuple(imports),
        by_any_name=matches or not _BY_ANY_NAME.isdisjoint(attributes) or not _BY_ANY_NAME.isdisjoint(names),
        any_global=not _ANY_GLOBAL.isdisjoint(names),
        writes_globals=writes,
        is_users=is_users_file(code.co_filename),
    )


def _instructions(code: CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)


@functools.lru_cache(maxsize=4096)
def is_users_file(filename: str) -> bool:
    """Whether code of that file is the user's, and not a library's."""
    filename = filename.replace("\\", "/")
    return "/site-packages/" not in filename and "/lib/python" not in filename and not filename.startswith("<__array_function__")


def is_users_module(name: str) -> bool:
    """Whether the module of that name is the user's: a file outside of the installed libraries, or ``__main__``."""
    if name == "__main__":
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and is_users_file(file)


def is_users_class(cls: type) -> bool:
    """Whether `cls` is the user's, and not a library's: by the file of its module, or where that is not known, of its code.

    Code that is executed from text may have no module, or one that nobody can look up.
    """
    name = cls.__module__ or ""
    module = sys.modules.get(name)
    if name == "__main__" or getattr(module, "__file__", None) is not None:
        return is_users_module(name)
    if not cls.__flags__ & _HEAP_TYPE or (module is not None and name != "builtins" and name in sys.builtin_module_names):
        return False
    files = [x.__code__.co_filename for x in vars(cls).values() if isinstance(x, FunctionType)]
    return not files or any(map(is_users_file, files))  # dataclasses have methods of the library's beside the user's


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, or by few of C's modules


def is_users_function(f: FunctionType) -> bool:
    """Whether `f` is the user's, and not a library's."""
    return reads_of(f.__code__).is_users and (f.__module__ or "").partition(".")[0] not in _LIBRARIES


_LIBRARIES = frozenset({"numpy", "scipy", "torch"})
