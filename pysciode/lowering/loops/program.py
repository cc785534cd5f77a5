"""Statements in order: which of their loops become one, and where their buffers lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ...graphs.scalar_graph import Scalar
from ..ops.backend import Kind
from .buffers import Affine, Buffer
from .statements import Body, Loop, Reduction, Statement


@dataclass
class Program:
    """Statements in order."""

    statements: list[Statement] = field(default_factory=list)

    def fuse(self, conditions: bool = False) -> None:
        """Merge loops over the same axes where each element depends on its own predecessors only.

        With `conditions`, what is to hold for all elements is looked at in a loop that computes them.
        """
        done: list[Statement] = []
        for statement in self.statements:
            if isinstance(statement, Loop) and self._merge(done, statement):
                continue
            if conditions and isinstance(statement, Reduction) and self._merge_condition(done, statement):
                continue
            done.append(statement)
        self.statements = done
        self._drop_unread()

    @staticmethod
    def _merge(done: list[Statement], loop: Loop) -> bool:
        """Add `loop` to an earlier one, if it may move up there."""
        if loop.ordered or loop.accumulate:
            return False
        for earlier, stored in _joinable(done, loop, loop.body, [s for *_, s in loop.stores], [i for _, i, _ in loop.stores]):
            if not loop.writes() & earlier.writes():
                translate = earlier.body.absorb(loop.body, stored)
                earlier.stores += [(b, i, translate(s)) for b, i, s in loop.stores]
                return True
        return False

    @staticmethod
    def _merge_condition(done: list[Statement], fold: Reduction) -> bool:
        """Add ``all`` over all axes to an earlier loop: to the first that makes integers, as what is asked is most often an index."""
        if fold.how != "all" or len(fold.inner) != len(fold.sizes):
            return False
        candidates = list(_joinable(done, fold, fold.body, [fold.value], []))
        if not candidates:
            return False
        makes_integers = (x for x in candidates if any(b.kind == "int" for b in x[0].writes()))
        loop, stored = next(makes_integers, candidates[-1])
        loop.conditions.append((*fold.target, loop.body.absorb(fold.body, stored)(fold.value)))
        return True

    def _drop_unread(self) -> None:
        """Drop stores to temporaries that nothing reads."""
        while True:
            read: set[Buffer] = set()
            for statement in self.statements:
                read |= statement.reads()
            kept: list[Statement] = []
            changed = False
            for statement in self.statements:
                wanted = {b for b in statement.writes() if not b.temporary or b in read}
                if isinstance(statement, Loop) and wanted != statement.writes():
                    statement.stores = [s for s in statement.stores if s[0] in wanted]
                    statement.conditions = [s for s in statement.conditions if s[0] in wanted]
                    changed = True
                if wanted:
                    kept.append(statement)
                else:
                    changed = True
            self.statements = kept
            if not changed:
                return

    def buffers(self) -> list[Buffer]:
        """All buffers, in the order of their first use."""
        seen: dict[Buffer, None] = {}
        for statement in self.statements:
            for buffer in sorted(statement.reads() | statement.writes(), key=lambda b: (b.name, b.size)):
                seen.setdefault(buffer)
        return list(seen)


def _joinable(
    done: list[Statement], new: Loop | Reduction, body: Body, values: Sequence[Scalar], places: Sequence[Affine]
) -> Iterator[tuple[Loop, dict[tuple[Buffer, Affine], Scalar]]]:
    """The loops that `new`, which computes `values` and stores at `places`, may move up to, the latest first; and what each has stored."""
    reads, writes = new.reads(), new.writes()
    needed = list(body.live_reads(values).values())
    indirect = {x for i in (*(i for _, i in body.reads.values()), *places) for x in i.buffers()}
    for earlier in reversed(done):
        made = earlier.writes()
        if isinstance(earlier, Loop) and earlier.sizes == new.sizes and not (earlier.ordered or earlier.accumulate):
            stored = {(b, i): s for b, i, s in earlier.stores}
            if all(r in stored for r in needed if r[0] in made) and not (indirect & made):
                yield earlier, stored
        if made & (reads | writes) or earlier.reads() & writes:
            return


class Workspace:
    """The vectors that the temporaries of several functions share, one function running at a time."""

    def __init__(self) -> None:
        self.slots: dict[str, tuple[Kind, int]] = {}
        self._counts: dict[Kind, int] = {}

    def vector(self, name: str, size: int) -> None:
        self.slots[name] = ("float", max(size, self.slots.get(name, ("float", 0))[1]))

    def place(self, program: Program) -> None:
        """Give each temporary of `program` a slot; a slot is free again after the last use of its buffer."""
        last: dict[Buffer, int] = {}
        for i, statement in enumerate(program.statements):
            for buffer in statement.reads() | statement.writes():
                if buffer.temporary:
                    last[buffer] = i
        free: dict[Kind, list[str]] = {}
        for name, (kind, _) in self.slots.items():
            if name[1:].isdigit():
                free.setdefault(kind, []).append(name)
        placed: set[Buffer] = set()
        for i, statement in enumerate(program.statements):
            for buffer in sorted(statement.writes(), key=lambda b: -b.size):
                if buffer.temporary:
                    buffer.name = self._slot(buffer, free)
                    placed.add(buffer)
            for buffer in placed:
                if last[buffer] == i:
                    free.setdefault(buffer.kind, []).append(buffer.name)

    def _slot(self, buffer: Buffer, free: dict[Kind, list[str]]) -> str:
        names = free.get(buffer.kind, [])
        if names:
            # The one that fits best: least growth, then least waste.
            best = min(names, key=lambda n: (max(0, buffer.size - self.slots[n][1]), abs(self.slots[n][1] - buffer.size)))
            names.remove(best)
        else:
            number = self._counts.get(buffer.kind, 0) + 1
            self._counts[buffer.kind] = number
            best = f"{ {'float': 'b', 'int': 'k', 'bool': 'q'}[buffer.kind] }{number}".replace(" ", "")
        self.slots[best] = (buffer.kind, max(buffer.size, self.slots.get(best, (buffer.kind, 0))[1]))
        return best

    def source(self) -> str:
        types = {"float": "T", "int": "Int", "bool": "Bool"}
        fields = ", ".join(f"{name} = Vector{{{types[kind]}}}(undef, {size})" for name, (kind, size) in self.slots.items())
        return f"workspace(::Type{{T}}) where {{T}} = (; {fields})" if fields else "workspace(::Type{T}) where {T} = nothing"
