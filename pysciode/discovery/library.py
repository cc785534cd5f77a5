"""Candidate terms: SymPy expressions, or a library of PySINDy's with its SymPy expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy

from .equations import evaluate
from .physics import as_expressions

DEFAULT_DEGREE = 3


def candidate_terms(library: Any, symbols: Sequence[sympy.Symbol], x: np.ndarray) -> tuple[tuple[sympy.Expr, ...], np.ndarray]:
    """The terms and their values at samples.

    Parameters
    ----------
    library
        A degree of polynomials in all symbols; a list of SymPy expressions; a feature library of PySINDy; None for
        polynomials of degree 3.
    x
        Samples, shape ``(n, d)``.

    Returns
    -------
    terms, values
        `m` expressions, and shape ``(n, m)``.

    Raises
    ------
    TypeError, ValueError
        If `library` is none of these, its features have no SymPy expression, or a term isn't finite at a sample.
    """
    library = DEFAULT_DEGREE if library is None else library
    if isinstance(library, (bool, str)):
        raise TypeError(f"library must be a degree, SymPy expressions or a PySINDy library, not {library!r}")
    if isinstance(library, int):
        if library < 0:
            raise ValueError(f"library must be a degree of 0 or more, not {library}")
        terms = _monomials(symbols, library)
        values = evaluate(terms, symbols, x)
    elif hasattr(library, "get_feature_names") and hasattr(library, "transform"):
        terms, values = _pysindy_terms(library, symbols, x)
    else:
        terms = _given_terms(library, symbols)
        values = evaluate(terms, symbols, x)
    bad = [str(term) for term, column in zip(terms, values.T, strict=True) if not np.isfinite(column).all()]
    if bad:
        raise ValueError(f"these terms of the library are not finite at all samples: {', '.join(bad)}")
    empty = [str(term) for term, column in zip(terms, values.T, strict=True) if not column.any()]
    if empty:
        raise ValueError(f"these terms of the library are zero at all samples: {', '.join(empty)}")
    return terms, values


def _monomials(symbols: Sequence[sympy.Symbol], degree: int) -> tuple[sympy.Expr, ...]:
    from sympy.polys.monomials import itermonomials
    from sympy.polys.orderings import monomial_key

    found = itermonomials(list(symbols), degree)
    return tuple(sorted(found, key=monomial_key("grlex", list(reversed(symbols)))))


def _given_terms(library: Any, symbols: Sequence[sympy.Symbol]) -> tuple[sympy.Expr, ...]:
    if not hasattr(library, "__iter__"):
        kind = type(library).__name__
        raise TypeError(f"library must be a degree, SymPy expressions or a PySINDy library, not {kind}")
    terms = as_expressions(library, "library", symbols)
    if not terms:
        raise ValueError("library must have a term")
    foreign = {str(s) for e in terms for s in e.free_symbols} - set(map(str, symbols))
    if foreign:
        names = ", ".join(map(str, symbols))
        raise ValueError(f"library has {', '.join(sorted(foreign))}, but the inputs are {names}")
    if len(set(terms)) != len(terms):
        raise ValueError("library names a term twice")
    return terms


def _pysindy_terms(library: Any, symbols: Sequence[sympy.Symbol], x: np.ndarray) -> tuple[tuple[sympy.Expr, ...], np.ndarray]:
    """PySINDy's own values; expressions that give the same, which is checked."""
    library.fit(x)
    values = np.asarray(library.transform(x), float)
    # Names that SymPy can't take for anything else, such as its E, I or N.
    inputs = [sympy.Symbol(f"input_{i}_") for i in range(len(symbols))]
    terms = _expressions(library, inputs)
    wrong = []
    found = evaluate([e if e is not None else sympy.nan for e in terms], inputs, x)
    for j, name in enumerate(library.get_feature_names([str(s) for s in symbols])):
        scale = np.abs(values[:, j]).max()
        if not np.allclose(found[:, j], values[:, j], rtol=1e-8, atol=1e-10 * scale):
            wrong.append(name)
    if wrong:
        raise ValueError(
            f"these features of the library have no SymPy expression: {', '.join(wrong)}. Give the terms as a list of "
            "SymPy expressions instead."
        )
    back = dict(zip(inputs, symbols, strict=True))
    return tuple(e.xreplace(back) for e in terms), values


def _expressions(library: Any, inputs: Sequence[sympy.Symbol]) -> list[Any]:
    """One for each feature; None where there is none."""
    from pysindy.feature_library import ConcatLibrary, CustomLibrary

    if isinstance(library, ConcatLibrary):
        return [e for part in library.libraries for e in _expressions(part, inputs)]
    if isinstance(library, CustomLibrary):
        return _traced(library, inputs)
    return [_parsed(name, inputs) for name in library.get_feature_names([str(s) for s in inputs])]


def _parsed(name: str, inputs: Sequence[sympy.Symbol]) -> Any:
    from sympy.parsing.sympy_parser import convert_xor, implicit_multiplication, parse_expr, standard_transformations

    rules = (*standard_transformations, convert_xor, implicit_multiplication)
    try:
        e = parse_expr(name, {str(s): s for s in inputs}, rules)
    except Exception:  # whatever a name that isn't mathematics runs into
        return None
    known = isinstance(e, sympy.Expr) and not e.atoms(sympy.core.function.AppliedUndef)
    return e if known and e.free_symbols <= set(inputs) else None


def _traced(library: Any, inputs: Sequence[sympy.Symbol]) -> list[Any]:
    """The user's functions, run once on symbols; their names may say anything."""
    from ..capture.scalar_trace import trace_function
    from ..capture.symbolic import to_sympy

    out: list[Any] = [sympy.Integer(1)] if library.include_bias else []
    for function in library.functions:
        count = function.__code__.co_argcount
        try:
            traced = trace_function(lambda u, p, t, f=function, n=count: [f(*u)] + [0.0] * (n - 1), (count,), 0)
        except Exception:  # it does what symbols can't
            traced = None
        for places in library._combinations(len(inputs), count, library.interaction_only):
            arguments = [inputs[i] for i in places]
            out.append(None if traced is None else to_sympy(traced, arguments)[0])
    return out
