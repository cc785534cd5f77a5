"""SciPy's methods and the SciML algorithms that run for them.

==========  ====================================  ==============================================================
SciPy       SciML                                 both are
==========  ====================================  ==============================================================
``RK45``    ``DP5``                               Dormand and Prince's pair of orders 5 and 4
``RK23``    ``BS3``                               Bogacki and Shampine's pair of orders 3 and 2
``DOP853``  ``DP8``                               Hairer's pair of order 8 with errors of orders 5 and 3
``Radau``   ``RadauIIA5``                         Radau IIA of order 5, after Hairer and Wanner
``BDF``     ``QNDF``                              NDF of variable order 1 to 5 in quasi-constant steps
``LSODA``   ``DefaultODEAlgorithm``               switch between stiff and non-stiff methods by themselves (SciML's
                                                  between Runge-Kutta, Rosenbrock and BDF, LSODA between Adams and BDF)
==========  ====================================  ==============================================================
"""

from __future__ import annotations

import inspect
from typing import Any

from ...methods.algorithms import Algorithm, check_algorithm

NAMES: dict[str, str] = {
    "RK23": "BS3",
    "RK45": "DP5",
    "DOP853": "DP8",
    "Radau": "RadauIIA5",
    "BDF": "QNDF",
    "LSODA": "auto",
}
"""SciPy's method -> SciML's algorithm."""

_COMMON = frozenset({"rtol", "atol", "max_step", "first_step"})
_JACOBIAN = _COMMON | {"jac", "jac_sparsity"}
OPTIONS: dict[str, frozenset[str]] = {
    "RK23": _COMMON,
    "RK45": _COMMON,
    "DOP853": _COMMON,
    "Radau": _JACOBIAN,
    "BDF": _JACOBIAN,
    "LSODA": _COMMON | {"jac", "min_step", "lband", "uband"},
}
"""The options that each of SciPy's methods knows."""

ALL_OPTIONS = frozenset().union(*OPTIONS.values())

_REAL_ONLY = frozenset({"Radau", "LSODA"})


class Method:
    """A method as the user named it, and the algorithm.

    Parameters
    ----------
    method
        A name of SciPy's or SciML's, a class of SciPy's, or an algorithm of this package.

    Attributes
    ----------
    scipy_name
        SciPy's name; None for an algorithm of SciML's.
    algorithm
        None is SciML's default.
    foreign
        A user's own subclass of ``OdeSolver``, which only SciPy can run; None otherwise.

    Raises
    ------
    ValueError
        For anything else.
    """

    def __init__(self, method: Any) -> None:
        self.scipy_name: str | None = None
        self.algorithm: Algorithm | None = None
        self.foreign: type | None = None
        if inspect.isclass(method):
            self._class(method)
        elif isinstance(method, Algorithm):
            self.algorithm = method
        else:
            self._name(method)

    @property
    def real_only(self) -> bool:
        return self.scipy_name in _REAL_ONLY

    def knows(self, option: str) -> bool:
        """Whether the method has this option; SciML's algorithms have all of SciPy's."""
        return option in (ALL_OPTIONS if self.scipy_name is None else OPTIONS[self.scipy_name])

    def _class(self, cls: type) -> None:
        from scipy.integrate import OdeSolver
        from scipy.integrate import __dict__ as known

        if issubclass(cls, Algorithm):
            raise ValueError(f"`method` is the class {cls.__name__}; pass an object: {cls.__name__}()")
        if not issubclass(cls, OdeSolver):
            raise _unknown(cls)
        if cls.__name__ in NAMES and known.get(cls.__name__) is cls:
            self._name(cls.__name__)
        else:
            self.foreign = cls

    def _name(self, name: Any) -> None:
        if not isinstance(name, str):
            raise _unknown(name)
        if name in NAMES:
            self.scipy_name = name
        try:
            self.algorithm = check_algorithm(NAMES.get(name, name))
        except ValueError:
            raise _unknown(name) from None


def _unknown(method: Any) -> ValueError:
    return ValueError(
        f"`method` must be one of {', '.join(NAMES)}, an OdeSolver class, or an algorithm of SciML's such as 'Rodas5P' "
        f"or Vern9(), not {method!r}"
    )
