"""Buffers, and where a loop reads and writes in them: indices affine in the loop's axes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..ops.backend import AxisMap, Kind


@dataclass(eq=False)
class Buffer:
    """A flat vector: an input, an output, a constant, or memory of the workspace.

    A temporary that is a whole output, or a part of one, is renamed to it: `name` and `shift` say where it lies.
    """

    size: int
    kind: Kind = "float"
    name: str = ""
    shift: int = 0

    @property
    def temporary(self) -> bool:
        return not self.name


@dataclass(frozen=True)
class Indirect:
    """An index that is read from an integer buffer; it is one-based there as little as anywhere else here."""

    buffer: Buffer
    index: Affine


Variable: TypeAlias = "int | Indirect"


@dataclass(frozen=True)
class Affine:
    """``constant + Σ coefficient * variable``; a variable is the number of a loop axis, or an :class:`Indirect`."""

    constant: int
    terms: tuple[tuple[Variable, int], ...] = ()

    @staticmethod
    def axis(a: int) -> Affine:
        return Affine(0, ((a, 1),))

    @staticmethod
    def combine(constant: int, parts: Iterable[tuple[int, Affine]]) -> Affine:
        """``constant + Σ factor * part``."""
        terms: dict[Variable, int] = {}
        for factor, part in parts:
            constant += factor * part.constant
            for variable, coefficient in part.terms:
                terms[variable] = terms.get(variable, 0) + factor * coefficient
        # In the order of the axes, so that equal ones compare equal.
        kept = [(v, c) for v, c in terms.items() if c]
        kept.sort(key=lambda term: (0, term[0]) if isinstance(term[0], int) else (1, id(term[0].buffer)))
        return Affine(constant, tuple(kept))

    def axis_map(self) -> AxisMap:
        """Of a place that depends on axes alone."""
        return self.constant, tuple((v, c) for v, c in self.terms if isinstance(v, int))

    def coefficient(self, axis: int) -> int:
        return next((c for v, c in self.terms if v == axis), 0)

    def nested(self) -> Iterator[Affine]:
        """This and the indices of all indirections in it."""
        yield self
        for variable, _ in self.terms:
            if isinstance(variable, Indirect):
                yield from variable.index.nested()

    def buffers(self) -> Iterator[Buffer]:
        for variable, _ in self.terms:
            if isinstance(variable, Indirect):
                yield variable.buffer
                yield from variable.index.buffers()

    def substitute(self, axes: dict[int, tuple[int, int]]) -> Affine:
        """With each axis a replaced by ``factor * axis b``, ``axes[a] = (b, factor)``; factor 0 drops it."""
        parts = []
        for variable, coefficient in self.terms:
            if isinstance(variable, Indirect):
                parts.append((coefficient, Affine(0, ((Indirect(variable.buffer, variable.index.substitute(axes)), 1),))))
            else:
                b, factor = axes[variable]
                parts.append((coefficient * factor, Affine.axis(b)))
        return Affine.combine(self.constant, parts)

    def text(self, names: Sequence[str], shift: int = 0) -> str:
        constant = self.constant + shift
        parts = [] if constant == 0 and self.terms else [str(constant)]
        for variable, c in self.terms:
            name = names[variable] if isinstance(variable, int) else access(variable.buffer, variable.index, names)
            parts.append(name if c == 1 else f"{c}*{name}")
        return " + ".join(parts).replace("+ -", "- ")


def access(buffer: Buffer, index: Affine, names: Sequence[str]) -> str:
    return f"{buffer.name}[{index.text(names, buffer.shift + 1)}]"
