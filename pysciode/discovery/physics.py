"""Known physics with gaps: the terms that a network stands in for, and that are to be discovered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy


@dataclass(frozen=True, eq=False)
class Physics:
    """A right-hand side that is known but for some terms.

    Attributes
    ----------
    rhs
        One expression for each state, SymPy's or as text, in which symbols stand for the unknown terms.
    unknowns
        These symbols, in the order of the outputs of what is discovered.
    states
        The states, symbols or their names.
    parameters
        Values of the known parameters, by symbol or name.

    Raises
    ------
    TypeError, ValueError
        If the parts don't fit together.

    Examples
    --------
    >>> physics = Physics(["alpha*x + U1", "U2 - delta*y"], "U1 U2", "x y", {"alpha": 1.3, "delta": 1.8})
    """

    rhs: Sequence[Any]
    unknowns: Sequence[Any]
    states: Sequence[Any]
    parameters: Mapping[Any, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        states, unknowns = as_symbols(self.states, "states"), as_symbols(self.unknowns, "unknowns")
        parameters = {}
        for name, value in dict(self.parameters).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"parameters[{name}] must be a number, not {value!r}")
            parameters[str(name)] = float(value)
        rhs = as_expressions(self.rhs, "rhs", [*states, *unknowns, *map(sympy.Symbol, parameters)])
        if len(rhs) != len(states):
            raise ValueError(f"rhs has {len(rhs)} expressions for {len(states)} states")
        declared = {*map(str, states), *parameters, *map(str, unknowns), "t"}
        unknown = {str(s) for e in rhs for s in e.free_symbols} - declared
        if unknown:
            raise ValueError(f"rhs has {', '.join(sorted(unknown))}: neither states, parameters nor unknowns")
        for key, value in {"rhs": rhs, "unknowns": unknowns, "states": states, "parameters": parameters}.items():
            object.__setattr__(self, key, value)

    def insert(self, terms: Sequence[sympy.Expr]) -> tuple[sympy.Expr, ...]:
        """The right-hand side with `terms` in place of the unknowns.

        Raises
        ------
        ValueError
            If their numbers differ.
        """
        if len(terms) != len(self.unknowns):
            raise ValueError(f"the physics has {len(self.unknowns)} unknowns, but {len(terms)} terms were discovered")
        return tuple(e.xreplace(dict(zip(self.unknowns, terms, strict=True))) for e in self.rhs)


def as_symbols(given: Any, name: str) -> tuple[sympy.Symbol, ...]:
    """Symbols from symbols or their names.

    Raises
    ------
    TypeError, ValueError
        If they are neither, or not different.
    """
    if isinstance(given, str):
        given = given.replace(",", " ").split()
    try:
        out = tuple(sympy.Symbol(x) if isinstance(x, str) else x for x in given)
    except TypeError:
        raise TypeError(f"{name} must be symbols or names, not {given!r}") from None
    for x in out:
        if not isinstance(x, sympy.Symbol):
            raise TypeError(f"{name} must be symbols or names, not {x!r}")
    out = tuple(sympy.Symbol(str(x)) for x in out)
    if len({str(x) for x in out}) != len(out):
        raise ValueError(f"{name} must be different, not {', '.join(map(str, out))}")
    return out


def as_expressions(given: Any, name: str, symbols: Sequence[sympy.Symbol]) -> tuple[sympy.Expr, ...]:
    """Expressions from expressions or text, with these symbols for whatever has their name.

    Text that says ``gamma`` or ``E`` then means the symbol, not what SymPy has of this name; and symbols with
    assumptions of their own (real, positive, …) are those without.

    Raises
    ------
    TypeError
        If they are neither.
    """
    own = {str(s): s for s in symbols}
    if isinstance(given, (str, sympy.Basic)):
        raise TypeError(f"{name} must be a list of SymPy expressions, not {given!r}")
    try:
        found = tuple(sympy.sympify(e, locals=dict(own)) for e in given)  # pyright: ignore[reportCallIssue]
    except (TypeError, AttributeError, SyntaxError, sympy.SympifyError):
        raise TypeError(f"{name} must be SymPy expressions, not {given!r}") from None
    for e in found:
        if not isinstance(e, sympy.Expr):
            raise TypeError(f"{name} must be SymPy expressions, not {e!r}")
    return tuple(e.xreplace({s: own.get(str(s), s) for s in e.free_symbols}) for e in found)
