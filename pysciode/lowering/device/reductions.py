"""Long folds for many threads: each thread folds a few elements, then the results are folded in the same way.

The order is the same in every run, so that results are, too: no atomic operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..loops.buffers import Affine, Buffer
from ..loops.program import Program
from ..loops.statements import Body, Reduction, Statement
from ..ops.backend import Kind

# From so many results on there is a thread for each; folds up to this length are not worth another kernel.
_MANY_RESULTS, _SHORT_FOLD = 2048, 128
# A device keeps about so many threads busy.
_MOST_THREADS = 2**18


@dataclass
class PartialReduction(Statement):
    """The fold of a :class:`Reduction` by `chunks` threads for each result: thread c takes the elements c, c + chunks, ….

    Neighbouring threads read neighbouring memory: they are those of one result, or with `kept_fastest` those of one chunk.
    `scratch` takes the partial folds in the order of the threads.
    """

    whole: Reduction
    chunks: int
    kept_fastest: bool
    scratch: Buffer

    def reads(self) -> set[Buffer]:
        return self.whole.reads()

    def writes(self) -> set[Buffer]:
        return {self.scratch}


def split_reductions(program: Program) -> None:
    """Replace each fold that is long and has few results by several shorter ones."""
    statements: list[Statement] = []
    for statement in program.statements:
        while isinstance(statement, Reduction) and (chunks := _chunks(*_extent(statement))) > 1:
            part = _partial(statement, chunks)
            statements.append(part)
            statement = _rest(part)
        statements.append(statement)
    program.statements = statements


def _extent(reduction: Reduction) -> tuple[int, int]:
    """The number of results, and of the elements of each."""
    inner = math.prod(reduction.sizes[a] for a in reduction.inner)
    return math.prod(n for a, n in enumerate(reduction.sizes) if a not in reduction.inner), inner


def _chunks(results: int, length: int) -> int:
    """Into how many parts each fold is split: as few and as short kernels one after another as can be."""
    if results >= _MANY_RESULTS or length <= _SHORT_FOLD or results == 0:
        return 1
    stages = 2
    while _SHORT_FOLD**stages < length:
        stages += 1
    each = math.ceil(length ** (1 / stages))
    return max(2, min(math.ceil(length / each), _MOST_THREADS // results))


def _partial(whole: Reduction, chunks: int) -> PartialReduction:
    kind: Kind = "bool" if whole.how in ("any", "all") else "float"
    results, _ = _extent(whole)
    reads = [index for _, index in whole.body.live_reads([whole.value]).values()]

    def step(axes: list[int]) -> float:
        """How far apart in memory neighbours along the innermost of `axes` are, over all reads."""
        live = [a for a in axes if whole.sizes[a] > 1]
        return sum(min(abs(x.coefficient(live[-1])), 8) for x in reads) if live else math.inf

    kept = [a for a in range(len(whole.sizes)) if a not in whole.inner]
    return PartialReduction(whole, chunks, step(kept) < step(list(whole.inner)), Buffer(results * chunks, kind))


def _rest(part: PartialReduction) -> Reduction:
    """The fold of the partial folds."""
    whole = part.whole
    kept = [a for a in range(len(whole.sizes)) if a not in whole.inner]
    sizes = (*(whole.sizes[a] for a in kept), part.chunks)
    results = math.prod(sizes[:-1])
    # The number of a result, from its index along the kept axes.
    number = Affine.combine(0, [(math.prod(sizes[k + 1 : -1]), Affine.axis(k)) for k in range(len(kept))])
    chunk = Affine.axis(len(kept))
    place = [(1, number), (results, chunk)] if part.kept_fastest else [(part.chunks, number), (1, chunk)]
    body = Body()
    value = body.read(part.scratch, Affine.combine(0, place))
    buffer, index = whole.target
    target = index.substitute({a: (k, 1) for k, a in enumerate(kept)})
    return Reduction(sizes, (len(kept),), whole.how, body, value, (buffer, target))
