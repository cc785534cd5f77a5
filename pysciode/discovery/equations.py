"""Discovered equations: expressions with coefficients, and the ODEProblem made of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import sympy

from ..capture.symbolic import SymbolicModel
from ..problems.base import Problem
from ..problems.ode import ODEProblem
from .physics import Physics


@dataclass(frozen=True, eq=False)
class Candidate:
    """One expression for one output.

    Attributes
    ----------
    coefficients
        Values by name.
    rss
        Sum of squared residuals of the samples.
    terms
        The terms that the coefficients multiply, in their order.
    nonlinear
        An expression with symbols for the coefficients, where it is no such sum.
    threshold
        The largest threshold of the sweep that gave it; NaN where it came otherwise.
    """

    coefficients: Mapping[str, float]
    rss: float
    terms: tuple[sympy.Expr, ...] = ()
    nonlinear: sympy.Expr | None = None
    threshold: float = float("nan")

    @property
    def count(self) -> int:
        """Number of coefficients."""
        return len(self.coefficients)

    @cached_property
    def form(self) -> sympy.Expr:
        """The expression, with symbols for its coefficients."""
        if self.nonlinear is not None:
            return self.nonlinear
        return sympy.Add(*(sympy.Symbol(name) * term for name, term in zip(self.coefficients, self.terms, strict=True)))

    @property
    def expression(self) -> sympy.Expr:
        """With numbers for the coefficients."""
        return _with_numbers(self.form, self.coefficients)

    def __str__(self) -> str:
        if self.nonlinear is not None:
            return str(_rounded(self.expression, 4))
        # As text, since SymPy takes seconds for hundreds of sums.
        parts = zip(self.coefficients.values(), self.terms, strict=True)
        return " + ".join(f"{value:.4g}" if term == 1 else f"{value:.4g}*{term}" for value, term in parts) or "0"


@dataclass(frozen=True, eq=False)
class DiscoveredEquations:
    """Expressions found for one or more outputs.

    Attributes
    ----------
    symbols
        The inputs, a SymPy symbol each.
    outputs
        Names of the outputs. Where they are the derivatives of all states, these are the states' names.
    forms
        One expression for each output, with symbols for its coefficients, named ``output[term]``.
    coefficients
        Values of the coefficients by name.
    standard_errors
        The same for their standard errors; empty before :func:`pysciode.discovery.refit`.
    table
        All candidates: output, number of terms, criteria, residuals; one row each, the best of each output first.
    criterion
        The criterion by which the terms were chosen.
    alternatives
        For each output the best candidate of each number of terms, as far as more terms lowered the residuals.
    physics
        The known physics around the outputs; None where they are the derivatives themselves.
    fit
        The result of the last fit through the solver; None before.
    """

    symbols: tuple[sympy.Symbol, ...]
    outputs: tuple[str, ...]
    forms: tuple[sympy.Expr, ...]
    coefficients: Mapping[str, float]
    table: pd.DataFrame
    criterion: str
    alternatives: tuple[tuple[Candidate, ...], ...]
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    physics: Physics | None = None
    fit: Any = None

    @property
    def expressions(self) -> tuple[sympy.Expr, ...]:
        """One for each output, with numbers for its coefficients."""
        return tuple(_with_numbers(e, self.coefficients) for e in self.forms)

    @property
    def terms(self) -> tuple[tuple[sympy.Expr, ...], ...]:
        """The terms that the coefficients multiply, for each output; for other expressions than sums of these, the summands."""
        coefficients = self._coefficient_symbols()
        ones = dict.fromkeys(coefficients, sympy.Integer(1))
        return tuple(
            tuple(substituted(term, ones) for term in sympy.Add.make_args(e) if e != 0) for e in self.forms
        )  # fmt: skip

    @property
    def states(self) -> tuple[sympy.Symbol, ...]:
        """The states of the whole system."""
        if self.physics is not None:
            return tuple(self.physics.states)
        return tuple(s for s in self.symbols if str(s) in self.outputs)

    @property
    def rhs(self) -> tuple[sympy.Expr, ...]:
        """The derivative of each state, known physics included, with numbers for all parameters."""
        forms = self._rhs_forms()
        return tuple(_with_numbers(e, self._parameters()) for e in forms)

    def __call__(self, x: Any) -> np.ndarray:
        """The outputs at inputs `x`, shape ``(n, d)``: shape ``(n, outputs)``."""
        x = np.asarray(x, float)
        if x.ndim != 2 or x.shape[1] != len(self.symbols):
            raise ValueError(f"x must have shape (n, {len(self.symbols)}), not {x.shape}")
        return evaluate(self.expressions, self.symbols, x)

    def __str__(self) -> str:
        left = [f"d{s}/dt" for s in self.states] if self._is_closed() else list(self.outputs)
        right = self.rhs if self._is_closed() else self.expressions
        lines = [f"{a} = {_rounded(e, 4)}" for a, e in zip(left, right, strict=True)]
        lines += [
            f"  {name} = {value:.4g}" + (f" ± {self.standard_errors[name]:.2g}" if name in self.standard_errors else "")
            for name, value in self.coefficients.items()
        ]
        return "\n".join(lines)

    def to_latex(self, digits: int = 4) -> str:
        """The equations in an ``aligned`` block, numbers to so many significant digits."""
        closed = self._is_closed()
        left = [rf"\frac{{\mathrm{{d}}{sympy.latex(s)}}}{{\mathrm{{d}}t}}" for s in self.states] if closed else None
        left = left or [sympy.latex(sympy.Symbol(name)) for name in self.outputs]
        right = self.rhs if closed else self.expressions
        rows = [f"{a} &= {sympy.latex(_rounded(e, digits))}" for a, e in zip(left, right, strict=True)]
        return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"

    def inside(self, physics: Physics) -> DiscoveredEquations:
        """These terms within known physics.

        Raises
        ------
        ValueError
            If the physics has another number of unknowns, or not the symbols of the terms.
        """
        if not isinstance(physics, Physics):
            raise TypeError(f"physics must be a Physics, not {type(physics).__name__}")
        physics.insert(self.forms)
        known = {*map(str, physics.states), *physics.parameters, "t"}
        missing = {str(s) for s in self.symbols} - known
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))}: neither states, parameters nor the time of the physics")
        return replace(self, physics=physics)

    def model(self) -> SymbolicModel:
        """The right-hand side as SymPy expressions, with all coefficients and known parameters as parameters.

        Raises
        ------
        ValueError
            If the outputs aren't the derivatives of all states, and there is no known physics around them.
        """
        forms = self._rhs_forms()
        return SymbolicModel(forms, self.states, [sympy.Symbol(name) for name in self._parameters()])

    def problem(self, u0: Any, tspan: Any) -> Problem:
        """The initial value problem of the equations; its parameters are the coefficients and known parameters by name.

        Parameters
        ----------
        u0
            The states at the start, in the order of :attr:`states`.
        tspan
            Start and end time.

        Raises
        ------
        ValueError
            As :meth:`model`.
        """
        parameters = self._parameters()
        return ODEProblem(self.model(), u0, tspan, parameters or None, name="discovered")

    def with_candidates(self, candidates: Sequence[Candidate]) -> DiscoveredEquations:
        """The equations with other candidates, one for each output."""
        if len(candidates) != len(self.outputs):
            raise ValueError(f"{len(candidates)} candidates for {len(self.outputs)} outputs")
        return replace(
            self,
            forms=tuple(x.form for x in candidates),
            coefficients={name: value for x in candidates for name, value in x.coefficients.items()},
            standard_errors={},
            fit=None,
        )

    def with_coefficients(
        self, coefficients: Mapping[str, float], standard_errors: Mapping[str, float], fit: Any = None
    ) -> DiscoveredEquations:
        """The same terms with other values; those not named stay."""
        unknown = set(coefficients) - set(self.coefficients)
        if unknown:
            raise ValueError(f"no coefficients of these equations: {', '.join(sorted(unknown))}")
        values = {name: float(coefficients.get(name, value)) for name, value in self.coefficients.items()}
        return replace(self, coefficients=values, standard_errors=dict(standard_errors), fit=fit)

    def with_table(self, table: pd.DataFrame, criterion: str) -> DiscoveredEquations:
        """The equations with the table of another comparison."""
        return replace(self, table=table, criterion=criterion)

    def _coefficient_symbols(self) -> list[sympy.Symbol]:
        return [sympy.Symbol(name) for name in self.coefficients]

    def _parameters(self) -> dict[str, float]:
        return {**self.coefficients, **(self.physics.parameters if self.physics is not None else {})}

    def _is_closed(self) -> bool:
        """Whether there is an equation for every state."""
        inputs = {str(s) for s in self.symbols} - {"t"}
        return self.physics is not None or inputs == set(self.outputs)

    def _rhs_forms(self) -> tuple[sympy.Expr, ...]:
        if self.physics is not None:
            return self.physics.insert(self.forms)
        if not self._is_closed():
            raise ValueError(
                f"the outputs {', '.join(self.outputs)} are not the derivatives of the states "
                f"{', '.join(map(str, self.symbols))}: put them into known physics with inside(Physics(…))"
            )
        by_name = dict(zip(self.outputs, self.forms, strict=True))
        return tuple(by_name[str(s)] for s in self.states)


def evaluate(expressions: Sequence[Any], symbols: Sequence[sympy.Symbol], x: np.ndarray) -> np.ndarray:
    """Values of expressions at samples: ``(n, d)`` to ``(n, expressions)``; not finite where they aren't defined."""
    function = sympy.lambdify(list(symbols), list(expressions), "numpy", cse=True)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        columns = function(*x.T)
    if not len(expressions):
        return np.empty((len(x), 0))
    return np.stack([np.broadcast_to(np.asarray(c, float), len(x)) for c in columns], axis=1)


def substituted(e: sympy.Expr, values: Mapping[Any, Any]) -> sympy.Expr:
    """`e` with other expressions for these."""
    found: Any = e.xreplace(values)
    return found


def _with_numbers(e: sympy.Expr, values: Mapping[str, float]) -> sympy.Expr:
    return substituted(e, {sympy.Symbol(name): sympy.Float(value, 17) for name, value in values.items()})


def _rounded(e: sympy.Expr, digits: int) -> sympy.Expr:
    return substituted(e, {x: sympy.Float(float(x), digits) for x in e.atoms(sympy.Float)})
