"""The declarations of a kind of problem: signatures of its functions, and the form in which SciML solves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..methods.algorithms import Algorithm


@dataclass(frozen=True)
class Signature:
    """What a function of a problem takes and returns.

    Attributes
    ----------
    inputs
        Names of its arguments, in their order; in place, the result comes before them.
    output
        What it returns: something of the state's shape, of half of a state ``[v, u]``, or one number.
    """

    inputs: tuple[str, ...] = ("u", "p", "t")
    output: Literal["state", "half", "number"] = "state"

    def shape(self, state: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what it returns, for a state of this shape."""
        return {"state": state, "half": state[1:], "number": ()}[self.output]


@dataclass(frozen=True)
class Form:
    """The form in which SciML solves a kind of problem.

    Attributes
    ----------
    name
        The form's name on the Julia side (``julia/src/forms``).
    families
        Families of algorithms that take this form; every other algorithm takes the first-order system.
    parts
        Functions that are captured on their own for it, by their names.
    """

    name: str
    families: frozenset[str] = frozenset()
    parts: tuple[str, ...] = ()

    def takes(self, algorithm: Algorithm | None) -> bool:
        """Whether `algorithm` solves this form, rather than the first-order system."""
        return algorithm is not None and algorithm.family in self.families


FIRST_ORDER = Form("first_order")
"""``du/dt = f(u, p, t)``, which all algorithms take."""
