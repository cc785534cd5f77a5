"""Symbolic regression by PySR, which runs in the Julia process that the solvers run in.

Cranmer, "Interpretable machine learning for science with PySR and SymbolicRegression.jl" (2023, arXiv:2305.01582).

PySR is no dependency: the first ``import pysr`` adds SymbolicRegression.jl to the Julia environment. What stands
here, the translation of its expressions, is tested with a stand-in that has the documented interface of
``PySRRegressor`` (``fit``, ``equations_``, ``sympy(index)``), not with PySR itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sympy

from .equations import Candidate, evaluate, substituted

_MISSING = (
    "method='pysr' needs PySR: pip install pysr. Its first import adds the Julia package SymbolicRegression to the "
    "environment that pysciode uses too, which takes some minutes and a network."
)


def pysr_candidates(
    x: np.ndarray,
    y: np.ndarray,
    symbols: Sequence[sympy.Symbol],
    output: str,
    options: Mapping[str, Any],
    max_constants: int | None,
) -> list[Candidate]:
    """The hall of fame of one search, each expression with its constants as coefficients.

    Parameters
    ----------
    x, y
        Shapes ``(n, d)`` and ``(n,)``.
    options
        Of ``PySRRegressor``.
    max_constants
        Expressions with more constants are left out.

    Raises
    ------
    ImportError
        If PySR is not installed.
    ValueError
        If no expression is left, or one has symbols that are no inputs.
    """
    try:
        from pysr import PySRRegressor  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(_MISSING) from error
    # PySR refuses names that SymPy has another meaning for, so it gets names of its own.
    names = [f"input_{i}" for i in range(len(symbols))]
    regressor = PySRRegressor(**options)
    regressor.fit(x, y, variable_names=names)
    inputs = dict(zip(names, symbols, strict=True))
    out = []
    for index in regressor.equations_.index:
        expression = _with_symbols(sympy.sympify(regressor.sympy(index=index)), inputs)
        form, coefficients = _split(expression, output)
        residuals = y - evaluate([expression], symbols, x)[:, 0]
        if not np.isfinite(residuals).all() or (max_constants is not None and len(coefficients) > max_constants):
            continue
        out.append(Candidate(coefficients, float(residuals @ residuals), nonlinear=form))
    if not out:
        raise ValueError("PySR found no expression that is finite at all samples")
    return out


def _with_symbols(e: sympy.Expr, inputs: Mapping[str, sympy.Symbol]) -> sympy.Expr:
    foreign = {str(s) for s in e.free_symbols} - set(inputs)
    if foreign:
        raise ValueError(f"PySR's expression {e} has {', '.join(sorted(foreign))}, which is no input")
    return substituted(e, {s: inputs[str(s)] for s in e.free_symbols})


def _split(e: sympy.Expr, output: str) -> tuple[sympy.Expr, dict[str, float]]:
    """The expression with symbols in place of its floating-point constants, and these; whole numbers stay.

    An exponent that is whole but for its type stays, too: with a coefficient there, negative inputs had no power.
    """
    whole: Any = e.replace(
        lambda x: x.is_Pow and x.exp.is_Float and float(x.exp).is_integer(),
        lambda x: x.base ** int(float(x.exp)),
    )
    constants = sorted(whole.atoms(sympy.Float), key=float)
    coefficients = {f"{output}[{i}]": float(value) for i, value in enumerate(constants)}
    form = substituted(whole, {c: sympy.Symbol(name) for c, name in zip(constants, coefficients, strict=True)})
    return form, coefficients
