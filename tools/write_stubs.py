"""Write the stubs from which editors complete SciML's algorithms: `python tools/write_stubs.py`, after a change of the table of algorithms."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pysciode.methods.algorithms as algorithms
from pysciode.methods.algorithms import Algorithm, list_algorithms

PACKAGE = Path(__file__).parent.parent / "pysciode"
_START = "from .methods.algorithms import (  # written by tools/write_stubs.py\n"


def classes_stub() -> str:
    """The text of ``methods/algorithm_classes.pyi``."""
    lines = [
        '"""SciML\'s algorithms, as type checkers see them. Written by tools/write_stubs.py."""',
        "",
        "from typing_extensions import Self",
        "",
        "from .algorithms import Algorithm",
        "",
    ]
    for name in list_algorithms():
        cls: type[Algorithm] = getattr(algorithms, name)
        lines += [f"class {name}(Algorithm):", f'    """{cls.__doc__}"""']
        required = "stiff: Algorithm, /, " if cls.family == "auto" else ""
        lines += [
            f"    def __new__(cls, {required}*arguments: object, **options: object) -> Self: ...",
            f"    def __init__(self, {required}*arguments: object, **options: object) -> None: ...",
        ]
        lines.append("")
    return "\n".join(lines)


def public_stub(stub: str) -> str:
    """The text of ``__init__.pyi`` with the algorithms' names replaced."""
    before, _, rest = stub.partition(_START)
    after = rest.partition(")\n")[2]
    names = textwrap.fill(
        ", ".join(f"{name} as {name}" for name in list_algorithms()), 130, initial_indent="    ", subsequent_indent="    "
    )
    return f"{before}{_START}{names},\n)\n{after}"


def main() -> None:
    (PACKAGE / "methods" / "algorithm_classes.pyi").write_text(classes_stub())
    public = PACKAGE / "__init__.pyi"
    public.write_text(public_stub(public.read_text()))


if __name__ == "__main__":
    main()
