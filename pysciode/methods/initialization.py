"""Consistent initial values for equations with algebraic ones among them: SciML's methods."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..arrays.real_values import positive


@dataclass(frozen=True)
class Initialization:
    """Base of the ways to consistent initial values."""

    def julia(self, atol: float) -> str:
        """The call of SciML's constructor; `atol` is the solve's tolerance."""
        return f"{type(self).__name__}()"


@dataclass(frozen=True)
class BrownFullBasicInit(Initialization):
    """Keep the differential variables, and solve the algebraic equations for the algebraic variables.

    The default where the mass matrix is singular (Brown, Hindmarsh & Petzold 1998, SIAM J. Sci. Comput. 19, 1495-1512). Gradients go
    through it.

    Parameters
    ----------
    abstol
        Absolute tolerance of the algebraic equations; by default a tenth of the solve's.
    """

    abstol: float | None = None

    def __post_init__(self) -> None:
        positive(self.abstol, "abstol")

    def julia(self, atol: float) -> str:
        return f"BrownFullBasicInit(; abstol = {(atol / 10 if self.abstol is None else float(self.abstol))!r})"


@dataclass(frozen=True)
class ShampineCollocationInit(Initialization):
    """Take a small implicit step: all variables may move, so the start need not be near to a consistent one.

    No gradient goes through it (Shampine 2002, Appl. Math. Comput. 131, 435-445).

    Parameters
    ----------
    initdt
        The step; by default SciML's choice.
    """

    initdt: float | None = None

    def __post_init__(self) -> None:
        positive(self.initdt, "initdt")

    def julia(self, atol: float) -> str:
        return "ShampineCollocationInit()" if self.initdt is None else f"ShampineCollocationInit({float(self.initdt)!r})"


@dataclass(frozen=True)
class CheckInit(Initialization):
    """Refuse a start that is not consistent."""


@dataclass(frozen=True)
class NoInit(Initialization):
    """Start from the values given, consistent or not."""


def check_initialization(initializealg: Any, mass_matrix: Any) -> Initialization | None:
    """Return the user's method, or the default: None where every start is consistent.

    Raises
    ------
    TypeError
        For anything else.
    """
    if initializealg is not None and not isinstance(initializealg, Initialization):
        names = "BrownFullBasicInit(), ShampineCollocationInit(), CheckInit() or NoInit()"
        raise TypeError(f"initializealg must be {names}, not {initializealg!r}")
    if not is_singular(mass_matrix):
        return None
    return BrownFullBasicInit() if initializealg is None else initializealg


def is_singular(mass_matrix: Any) -> bool:
    """Whether some of the equations are algebraic."""
    if mass_matrix is None:
        return False
    matrix = dense(mass_matrix)
    return _is_singular(matrix.tobytes(), len(matrix))


@lru_cache(maxsize=8)  # a decomposition costs more than many a solve
def _is_singular(matrix: bytes, n: int) -> bool:
    return bool(np.linalg.matrix_rank(np.frombuffer(matrix).reshape(n, n)) < n)


def dense(mass_matrix: Any) -> np.ndarray:
    """A mass matrix, dense or SciPy sparse, as a float64 array."""
    return np.asarray(mass_matrix.toarray() if hasattr(mass_matrix, "toarray") else mass_matrix, dtype=np.float64)
