"""Loops found again in unrolled models.

A discretised partial differential equation is the same formula at each place of a grid. Tracing it gives that formula as many
times as there are places; here formulas of one shape are gathered, and written as one loop over tables of the places where they
read and write. Long sums, such as the gradient to a parameter that acts at each place, become loops in the same way. So the
compiler's work does not grow with the grid.

Capture as array operations does not replace this: a Python loop over the grid, or SymPy's expressions, would become some array
operations for each place. A heat equation in a loop over 500 places takes 0.2 s to its first solve here, 1.1 s as straight-line
code, and 60 s as array operations, whose solves then take 80 times as long; over 5000 places 2 s and, as straight-line code, 11 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...graphs.scalar_graph import Scalar, ScalarGraph
from ...graphs.scalar_ops import SCALAR_OPS
from .straight_line import Store, straight_line

# Fewer formulas of one shape than this are not worth a loop.
_SMALLEST_GROUP = 4
# Sums of fewer terms stay as they are.
_LONG_SUM = 16


@dataclass
class Group:
    """Formulas that differ only in their inputs.

    Attributes
    ----------
    roots
        The formulas' values.
    slots
        Numbers of the input nodes of each formula, in the order of the first's.
    places
        Index of each value's place, in a vector of that name; empty for the terms of a sum.
    size
        Number of operations and inputs of one formula.
    """

    vector: str
    size: int
    roots: list[int] = field(default_factory=list)
    slots: list[tuple[int, ...]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class Roller:
    """Writes stores as loops, and collects the tables that these need.

    Parameters
    ----------
    name
        The function's name, which starts the names of its tables.
    """

    def __init__(self, graph: ScalarGraph, dtype: np.dtype, name: str) -> None:
        self.graph = graph
        self.dtype = dtype
        self.name = name
        self.tables: dict[str, np.ndarray] = {}
        # Sums that have been computed, by their node.
        self.sums: dict[int, str] = {}
        self.loops = 0

    def lines(self, stores: Sequence[Store]) -> list[str] | None:
        """Julia code of all `stores`, or None where loops would not make it several times shorter."""
        operations = len(stores) + len(self.graph.reachable(x for _, _, x in stores))
        # A sum that many formulas share would otherwise be in each of them.
        shared = self._sums(stores, users=_SMALLEST_GROUP)
        groups = self._groups(stores, budget=20 * operations)
        if groups is None:
            return None
        repeated, rest = self._split(groups)
        loops = [line for group in repeated for line in self._loop(group)]
        size = sum(group.size for group in repeated)
        # What is not in a loop comes first: it reads before loops write.
        first = [*shared, *self._sums(rest)]
        code = straight_line(self.graph, [x for _, _, x in rest], self.dtype, names=self.sums)
        results = [f"{vector}[{k}] = {value}" for (vector, k, _), value in zip(rest, code.values, strict=True)]
        lines = [*first, *code.loads, *code.statements, *results, *loops]
        return lines if 4 * max(size, len(lines)) <= operations else None

    def expression(self, values: Sequence[Scalar]) -> tuple[list[str], str]:
        """Code without mutation of vectors, and the vector of all `values` as an expression after it."""
        stores = [("u", k, x) for k, x in enumerate(values, 1)]
        shared = self._sums(stores, users=_SMALLEST_GROUP)
        repeated, rest = self._split(self._groups(stores, budget=10**9) or [])
        first = [*shared, *self._sums(rest)]
        code = straight_line(self.graph, [x for _, _, x in rest], self.dtype, names=self.sums)
        lines, parts, places = [*first, *code.loads, *code.statements], [], [k for _, k, _ in rest]
        if rest:
            parts.append(f"[{', '.join(code.values)}]")
        for group in repeated:
            parts.append(f"g{len(parts) + 1}")
            lines += self._loop(group, comprehension=parts[-1])
            places += group.places
        order = self._table("order", np.argsort(places) + 1)
        return lines, f"vcat({', '.join(parts)})[{order}]"

    def _split(self, groups: Sequence[Group]) -> tuple[list[Group], list[Store]]:
        """The groups that are worth a loop, and the stores of the others."""
        repeated = [group for group in groups if len(group.roots) >= _SMALLEST_GROUP]
        rest = [
            (group.vector, k, Scalar(self.graph, i))
            for group in groups
            if len(group.roots) < _SMALLEST_GROUP
            for k, i in zip(group.places, group.roots, strict=True)
        ]
        return repeated, rest

    # --- formulas of one shape ----------------------------------------------------------------------------------------

    def _groups(self, stores: Sequence[Store], budget: int) -> list[Group] | None:
        """`stores` by the shape of their formulas; None if these together have more than `budget` operations."""
        shapes = self._shapes([x for _, _, x in stores])
        groups: dict[tuple, Group] = {}
        for vector, place, x in stores:
            key, slots = self._template(x.id, shapes)
            budget -= len(key)
            if budget < 0:
                return None
            group = groups.setdefault((vector, key), Group(vector, len(key)))
            group.roots.append(x.id)
            group.slots.append(slots)
            group.places.append(place)
        return list(groups.values())

    def _shapes(self, roots: Sequence[Scalar]) -> dict[int, int]:
        """A hash of each node's expression that doesn't see which inputs it has."""
        graph = self.graph
        shapes: dict[int, int] = {}
        for i in graph.reachable(roots, stop=self.sums):
            if self._is_leaf(i):
                shapes[i] = hash(self._kind(i))
            else:
                op, args = self._formula(i)
                inner = [shapes[a] for a in args]
                shapes[i] = hash((op, *(sorted(inner) if SCALAR_OPS[op].commutative else inner)))
        return shapes

    def _formula(self, i: int) -> tuple[str, tuple[int, ...]]:
        """Operation and operands; ``-(a - b)`` is ``b - a``, whichever of the two was met first."""
        op, args = self.graph.ops[i], self.graph.args[i]
        if op == "neg" and self.graph.ops[args[0]] == "sub" and args[0] not in self.sums:
            return "sub", self.graph.args[args[0]][::-1]
        return op, args

    def _is_leaf(self, i: int) -> bool:
        return self.graph.ops[i] in ("symbol", "const") or i in self.sums

    def _kind(self, i: int) -> tuple:
        """What must be the same for two inputs to be read by one loop."""
        op, args = self.graph.ops[i], self.graph.args[i]
        if i in self.sums:
            return ("sum", i)
        if op == "const":
            # Exponents stay, as small ones are written as products; so do truth values.
            return ("const", type(args[0]))
        return ("symbol", _symbol(args[0])[0])

    def _template(self, root: int, shapes: dict[int, int]) -> tuple[tuple, tuple[int, ...]]:
        """The formula of `root` with its inputs numbered in the order in which they are met, and those inputs."""
        graph = self.graph
        numbers: dict[int, int] = {}
        key: list[tuple] = []
        slots: list[int] = []
        stack = [(root, False)]
        while stack:
            i, done = stack.pop()
            if i in numbers:
                continue
            if self._is_leaf(i):
                numbers[i] = len(key)
                key.append(self._kind(i))
                slots.append(i)
                continue
            op, args = self._formula(i)
            if SCALAR_OPS[op].commutative:
                # An order that doesn't depend on which node was made first.
                args = tuple(sorted(args, key=shapes.__getitem__))
            if not done:
                stack.append((i, True))
                stack.extend((a, False) for a in reversed(args))
                continue
            numbers[i] = len(key)
            exponent = graph.args[args[1]] if op == "pow" and graph.ops[args[1]] == "const" else ()
            key.append((op, *(numbers[a] for a in args), exponent))
        return tuple(key), tuple(slots)

    # --- loops --------------------------------------------------------------------------------------------------------

    def _loop(self, group: Group, accumulator: str = "", comprehension: str = "") -> list[str]:
        """A loop that stores the values of a group, or adds them to `accumulator` (``"name +"`` or ``"name -"``).

        With `comprehension`, a name, the values become a vector of that name instead.
        """
        graph = self.graph
        self.loops += 1
        number = self.loops
        names = dict(self.sums)
        loads: list[str] = []
        varying: set[int] = set()
        for k, column in enumerate(zip(*group.slots, strict=True), 1):
            if len(set(column)) == 1:
                continue
            name = names[column[0]] = f"a{number}_{k}"
            varying.add(column[0])
            if graph.ops[column[0]] == "const":
                table = self._table(f"c{number}_{k}", np.array([graph.args[i][0] for i in column], self.dtype))
                loads.append(f"{name} = {table}[k]")
            else:
                source = _symbol(graph.args[column[0]][0])[0]
                indices = np.array([_symbol(graph.args[i][0])[1] for i in column])
                loads.append(f"{name} = {source}[{self._index(f'i{number}_{k}', indices)}]")
        root = Scalar(graph, group.roots[0])
        for i in graph.reachable([root], stop=names):
            if not self._is_leaf(i) and not varying.isdisjoint(graph.args[i]):
                varying.add(i)
        code = straight_line(graph, [root], self.dtype, names=names, varying=varying, prefix=f"x{number}_")
        if comprehension:
            body = [*loads, *code.inner, code.values[0]]
            opening, closing = f"{comprehension} = [begin", f"end for k in 1:{len(group.roots)}]"
            return [*code.loads, *code.statements, opening, *(f"    {line}" for line in body), closing]
        if accumulator:
            result = f"{accumulator}= {code.values[0]}"
        else:
            result = f"{group.vector}[{self._index(f'o{number}', np.array(group.places))}] = {code.values[0]}"
        return [
            *code.loads,
            *code.statements,
            f"for k in 1:{len(group.roots)}",
            *(f"    {line}" for line in [*loads, *code.inner, result]),
            "end",
        ]

    def _index(self, name: str, indices: np.ndarray) -> str:
        """The place in terms of ``k``: by a rule where there is one, else from a table."""
        steps = np.unique(np.diff(indices))
        if len(steps) == 1:
            step, offset = int(steps[0]), int(indices[0] - steps[0])
            product = "k" if step == 1 else f"{step} * k"
            return product if offset == 0 else f"{product} {'+' if offset > 0 else '-'} {abs(offset)}"
        return f"{self._table(name, indices.astype(np.int64))}[k]"

    def _table(self, name: str, values: np.ndarray) -> str:
        name = f"{self.name}_{name}"
        self.tables[name] = values
        return name

    # --- sums ---------------------------------------------------------------------------------------------------------

    def _sums(self, stores: Sequence[Store], users: int = 1) -> list[str]:
        """Code of the long sums that `stores` need and that have so many users; they have names in ``self.sums`` then."""
        lines: list[str] = []
        if not stores:
            return lines
        zero = f"zero(eltype({stores[0][0]}))"
        for root, terms in self._long_sums([x for _, _, x in stores], users).items():
            name = f"s{len(self.sums) + 1}"
            lines.append(f"{name} = {zero}")
            for sign in "+-":
                values = [(sign, 0, Scalar(self.graph, i)) for s, i in terms if s == sign]
                groups = self._groups(values, budget=10**9) or []
                few: list[Scalar] = []
                for group in groups:
                    if len(group.roots) < _SMALLEST_GROUP:
                        few.extend(Scalar(self.graph, i) for i in group.roots)
                    else:
                        lines += self._loop(group, f"{name} {sign}")
                if few:
                    code = straight_line(self.graph, few, self.dtype, names=self.sums, prefix=f"{name}_")
                    lines += [*code.loads, *code.statements, *(f"{name} {sign}= {value}" for value in code.values)]
            self.sums[root] = name
        return lines

    def _long_sums(self, values: Sequence[Scalar], at_least: int) -> dict[int, list[tuple[str, int]]]:
        """The sums of many terms, from the innermost outwards, each with the signs and the numbers of its terms."""
        graph = self.graph
        order = graph.reachable(values, stop=self.sums)
        users: dict[int, list[int]] = {x.id: [-1] for x in values}
        for i in order:
            if not self._is_leaf(i):
                for a in graph.args[i]:
                    users.setdefault(a, []).append(i)

        def is_part(i: int) -> bool:
            """Whether a sum or difference does nothing but enter another one."""
            used = users[i]
            return graph.ops[i] in _SUMS and i not in self.sums and len(used) == 1 and used[0] >= 0 and graph.ops[used[0]] in _SUMS

        found: dict[int, list[tuple[str, int]]] = {}
        for root in order:
            if graph.ops[root] not in ("add", "sub") or root in self.sums or len(users[root]) < at_least or is_part(root):
                continue
            terms: list[tuple[str, int]] = []
            stack = [("+", root)]
            while stack:
                sign, i = stack.pop()
                if i != root and not is_part(i):
                    terms.append((sign, i))
                    continue
                op, args = graph.ops[i], graph.args[i]
                other = "-" if sign == "+" else "+"
                if op == "neg":
                    stack.append((other, args[0]))
                else:
                    stack.append((other if op == "sub" else sign, args[1]))
                    stack.append((sign, args[0]))
            if len(terms) >= _LONG_SUM:
                found[root] = terms
        return found


_SUMS = ("add", "sub", "neg")


def _symbol(name: str) -> tuple[str, int]:
    """``u[3]`` as ``("u", 3)``; index 0 for what is no vector."""
    vector, _, index = name.partition("[")
    return vector, int(index[:-1]) if index else 0
