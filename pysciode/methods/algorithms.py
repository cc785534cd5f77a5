"""SciML's algorithms, by their SciML names.

Every algorithm of OrdinaryDiffEq is a class here (``Tsit5``, ``Rodas5P``, ``FBDF``, …), made from the table in
:mod:`pysciode.methods.algorithm_table`; any other is an :class:`Algorithm` of its name. Options are SciML's keyword arguments::

    Rodas5P(linsolve="KLUFactorization", autodiff=False)
    AutoTsit5(Rosenbrock23())
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from .algorithm_table import ALGORITHMS, COARSE, REVERSIBLE

if TYPE_CHECKING:
    from .algorithm_classes import *  # noqa: F403  (made below from the table)  # pyright: ignore[reportMissingModuleSource]

_FAMILIES = {
    "explicit": "explicit, for problems that are not stiff",
    "auto": "switches by itself between an explicit and a stiff algorithm, the latter given as first argument",
    "stabilized": "stabilised explicit, for mildly stiff problems with real eigenvalues (diffusion)",
    "rosenbrock": "Rosenbrock, for stiff problems with few states",
    "sdirk": "singly diagonally implicit Runge-Kutta, for stiff problems",
    "firk": "fully implicit Runge-Kutta, for stiff problems at strict tolerances",
    "bdf": "backward differentiation, for large stiff problems",
    "implicit_extrapolation": "implicit extrapolation, for stiff problems",
    "imex_sdirk": "implicit-explicit Runge-Kutta: for a `SplitODEProblem`, or implicit for any stiff problem",
    "imex": "implicit-explicit multistep or stabilised, for a `SplitODEProblem`",
    "symplectic": "symplectic, for a `SecondOrderODEProblem` or `DynamicalODEProblem`",
    "nystrom": "Runge-Kutta-Nyström, for a `SecondOrderODEProblem`",
    "newmark": "Newmark, for a `SecondOrderODEProblem`",
    "exponential": "exponential, for semilinear stiff problems",
    "linear": "for linear problems ``u' = A(t) u`` given as an operator",
    "dae": "for implicit differential-algebraic problems",
}
STIFF = frozenset({"rosenbrock", "sdirk", "firk", "bdf", "implicit_extrapolation", "imex_sdirk"})
PARTITIONED = frozenset({"symplectic", "nystrom", "newmark"})
"""Families that need both parts of a second-order or dynamical problem."""


class Algorithm:
    """An algorithm by its SciML name.

    Parameters
    ----------
    name
        A type of Julia's: ``"Tsit5"``; or one of the functions that stand for Fortran's solvers, such as ``"lsoda"``.
    arguments
        Positional arguments: other algorithms (``AutoTsit5(Rosenbrock23())``), numbers.
    package
        The Julia package that defines it, where it is none of those in :func:`list_algorithms`: ``Algorithm("lsoda", package="LSODA")``.
        It must be installed in the Julia environment, and is loaded when the algorithm is first used. Such a solver ignores options
        that it does not know; one without an integrator takes no callbacks.
    options
        SciML's keyword arguments: numbers, bools, other algorithms, or the text of a Julia constructor such as
        ``"KLUFactorization"`` or ``"NLNewton(max_iter = 20)"``, which may consist of capitalised names, numbers,
        symbols and nested constructors, nothing else.

    Raises
    ------
    ValueError
        For another name or text.
    TypeError
        For an option of another type.

    Attributes
    ----------
    family
        A key of the families described in this module; None if the name is not known here.
    package
        The Julia package that exports it; None if not known here.
    fixed_step
        Whether it has no step size control and so needs ``dt``.
    """

    __slots__ = ("name", "arguments", "options", "_julia", "__dict__")
    family: ClassVar[str | None] = None
    package: str | None = None
    fixed_step: ClassVar[bool] = False

    def __new__(cls, name: str | None = None, *arguments: Any, package: str | None = None, **options: Any) -> Algorithm:
        # Algorithm("Tsit5") is Tsit5(): so what is known of a name is known however it is written.
        known = _CLASSES.get(name) if cls is Algorithm and isinstance(name, str) else None
        return object.__new__(known if known is not None and package in (None, known.package) else cls)

    def __init__(self, name: str, *arguments: Any, package: str | None = None, **options: Any) -> None:
        if package is not None and not (isinstance(package, str) and _is_identifier(package)):
            raise ValueError(f"package is the name of a Julia package, such as 'Sundials', not {package!r}")
        if not isinstance(name, str) or not (_is_identifier(name) and (name[0].isupper() or name in _FORTRAN or name in _CLASSES)):
            raise ValueError(f"an algorithm's name is the name of a Julia type, such as 'Tsit5', not {name!r}")
        for key in options:
            if not _is_identifier(key) or key in _KEYWORDS:
                raise ValueError(f"an option's name is a Julia identifier, not {key!r}")
        set_ = object.__setattr__
        set_(self, "name", name)
        if package is not None:
            set_(self, "package", package)
        set_(self, "arguments", arguments)
        set_(self, "options", options)
        set_(self, "_julia", _julia_call(name, arguments, options) if arguments or options else f"{name}()")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an algorithm does not change; make another")

    @property
    def julia(self) -> str:
        """The Julia expression that makes it: ``Rodas5P(; linsolve = KLUFactorization())``."""
        return self._julia

    @property
    def is_stiff(self) -> bool:
        """Whether it is implicit in the whole right-hand side, so that the Jacobian is used."""
        return self.family in STIFF

    def __repr__(self) -> str:
        inside = [repr(x) for x in self.arguments] + [f"{k}={v!r}" for k, v in self.options.items()]
        if type(self) is Algorithm:
            inside.insert(0, repr(self.name))
            if self.package is not None:
                inside.append(f"package={self.package!r}")
        return f"{type(self).__name__}({', '.join(inside)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Algorithm) and self._julia == other._julia and self.package == other.package

    def __hash__(self) -> int:
        return hash(self._julia)

    def __reduce__(self) -> tuple:
        return (_restore, (self.name, self.arguments, self.options, self.package if type(self) is Algorithm else None))


# Of ODEInterface and LSODA; any other lower-case name might be a function that does something.
_FORTRAN = frozenset("dopri5 dop853 odex seulex radau radau5 rodas ddeabm ddebdf lsoda".split())
_KEYWORDS = frozenset(
    "baremodule begin break catch const continue do else elseif end export false finally for function global if import let "
    "local macro module nothing quote return struct true try using while".split()
)


def is_coarse(algorithm: Algorithm) -> bool:
    """Whether the dense output does not keep up with the steps, or that of an algorithm that this one switches to."""
    return algorithm.name in COARSE or any(isinstance(x, Algorithm) and is_coarse(x) for x in algorithm.arguments)


def is_reversible(algorithm: Algorithm | None) -> bool:
    """Whether `DiscreteAdjoint` goes back through the steps; through those of the default algorithm, None, as long as it takes no multistep
    method, and through those of one that switches if it does through each."""
    if algorithm is None:
        return True
    if algorithm.family == "auto":
        stiff = [x for x in algorithm.arguments if isinstance(x, Algorithm)]
        return all(is_reversible(x) for x in (Algorithm(algorithm.name.removeprefix("Auto")), *stiff))
    if algorithm.family not in ("explicit", "rosenbrock") or "max_jac_age" in algorithm.options or is_matrix_free(algorithm):
        return False
    return algorithm.package in REVERSIBLE and algorithm.name not in REVERSIBLE[algorithm.package].split()


def is_matrix_free(algorithm: Algorithm) -> bool:
    """Whether it solves its linear equations without their matrix."""
    return "Krylov" in str(algorithm.options.get("linsolve", "")) and algorithm.options.get("concrete_jac") is not True


@cache
def _is_identifier(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z_]\w*", name) is not None


def _restore(name: str, arguments: tuple, options: dict[str, Any], package: str | None = None) -> Algorithm:
    out = Algorithm.__new__(Algorithm, name, package=package)
    Algorithm.__init__(out, name, *arguments, package=package, **options)
    return out


_TOKEN = re.compile(r"\s*(?:(?P<name>[A-Za-z_][\w.]*)|(?P<symbol>:[A-Za-z_]\w*)|(?P<number>-?\d+(\.\d+)?(e-?\d+)?)|(?P<sign>[(),=;]))")


def julia_text(text: str) -> str:
    """`text` if it is a constructor's name or call; a bare name gets its parentheses.

    Raises
    ------
    ValueError
        If it holds anything but capitalised names, keywords, numbers, symbols, ``true``, ``false`` and ``nothing``.
    """
    tokens: list[tuple[str, str]] = []
    position = 0
    stripped = text.strip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None:
            raise ValueError(f"{text!r} is no plain Julia constructor: {stripped[position:]!r} is not allowed in it")
        tokens.append((match.lastgroup or "", match.group().strip()))
        position = match.end()
    depth = 0
    for i, (kind, token) in enumerate(tokens):
        following = tokens[i + 1][1] if i + 1 < len(tokens) else ""
        depth += (token == "(") - (token == ")")
        if kind == "name":
            # The last part of a dotted name must be a type, so that nothing but constructors is ever called.
            constructor = token.rpartition(".")[2][:1].isupper()
            allowed = constructor or token in ("true", "false", "nothing") or (following == "=" and depth > 0)
            if not allowed or (following == "(" and not constructor):
                raise ValueError(f"{text!r} is no plain Julia constructor: {token!r} is not a type")
        elif token == "(" and (i == 0 or tokens[i - 1][0] != "name"):
            raise ValueError(f"{text!r} is no plain Julia constructor: a parenthesis without a name before it")
        if depth < 0:
            break
        if depth == 0 and following not in ("", "("):
            raise ValueError(f"{text!r} is no plain Julia constructor: {following!r} stands outside of its parentheses")
    if depth != 0 or not tokens or tokens[0][0] == "sign":
        raise ValueError(f"{text!r} is no plain Julia constructor: the parentheses don't match")
    if len(tokens) == 1 and tokens[0][0] == "name" and tokens[0][1][:1].isupper():
        return f"{tokens[0][1]}()"
    return stripped


def _julia_value(key: str, value: Any) -> str:
    if isinstance(value, Algorithm):
        return value.julia
    if getattr(value, "shape", None) == ():
        value = value.item()  # a number of NumPy's or torch's
    if key == "autodiff" and isinstance(value, bool):
        # Both SciML lines take these; a bool is an error on the newer one.
        return "AutoForwardDiff()" if value else "AutoFiniteDiff()"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "nothing"
    if isinstance(value, (int, float)):
        return {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}.get(repr(value), repr(value))
    if isinstance(value, str):
        return julia_text(value)
    raise TypeError(f"option {key}: expected a number, a bool, an algorithm or the text of a Julia constructor, not {value!r}")


def _julia_call(name: str, arguments: tuple, options: dict[str, Any]) -> str:
    inside = ", ".join(_julia_value("argument", x) for x in arguments)
    keywords = ", ".join(f"{key} = {_julia_value(key, value)}" for key, value in options.items())
    return f"{name}({inside}{'; ' + keywords if keywords else ''})"


def _make_class(name: str, family: str, package: str, fixed_step: bool) -> type[Algorithm]:
    def __init__(self: Algorithm, *arguments: Any, **options: Any) -> None:
        # Reached with the name in front through Algorithm("Tsit5"), and without it through Tsit5().
        if arguments and arguments[0] == name and isinstance(arguments[0], str):
            arguments = arguments[1:]
        if family == "auto" and not arguments:
            raise TypeError(f"{name} needs the stiff algorithm that it may switch to: {name}(Rodas5P())")
        options.pop("package", None)  # its own: Algorithm("Tsit5", package="OrdinaryDiffEqTsit5")
        Algorithm.__init__(self, name, *arguments, **options)

    step = " It has no step size control: `dt` must be given." if fixed_step else ""
    return type(
        name,
        (Algorithm,),
        {
            "__slots__": (),
            "__init__": __init__,
            "__module__": __name__,
            "__doc__": f"SciML's ``{name}`` ({package}): {_FAMILIES[family]}.{step}",
            "family": family,
            "package": package,
            "fixed_step": fixed_step,
        },
    )


def _classes() -> Iterator[tuple[str, type[Algorithm]]]:
    for (family, package), names in ALGORITHMS.items():
        for entry in names.split():
            name = entry.rstrip("*")
            yield name, _make_class(name, family, package, entry.endswith("*"))


_CLASSES: dict[str, type[Algorithm]] = {}
_CLASSES.update(_classes())
globals().update(_CLASSES)

__all__ = ["Algorithm", "list_algorithms", *_CLASSES]  # pyright: ignore[reportUnsupportedDunderAll]


def list_algorithms(family: str | None = None) -> list[str]:
    """Names of the algorithms known here; of one family, if given.

    Raises
    ------
    ValueError
        For an unknown family.
    """
    if family is not None and family not in _FAMILIES:
        raise ValueError(f"no family {family!r}; there are {', '.join(_FAMILIES)}")
    return [name for name, cls in _CLASSES.items() if family in (None, cls.family)]


def check_algorithm(algorithm: object) -> Algorithm | None:
    """Return the algorithm of what ``solve`` takes: an algorithm, its name, or None and ``"auto"`` for SciML's default.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For a name that is not known here (`Algorithm` with a `package` takes any).
    """
    if algorithm is None or isinstance(algorithm, Algorithm):
        return algorithm
    if isinstance(algorithm, str):
        if algorithm == "auto":
            return None
        if algorithm in _CLASSES:
            return Algorithm(algorithm)
        raise ValueError(f"no algorithm {algorithm!r} is known; Algorithm({algorithm!r}, package=…) takes one from any Julia package")
    if isinstance(algorithm, type) and issubclass(algorithm, Algorithm):
        raise TypeError(f"algorithm is the class {algorithm.__name__}; pass an object: {algorithm.__name__}()")
    raise TypeError(f"algorithm must be an algorithm such as Tsit5(), 'auto' or None, not {algorithm!r}")
