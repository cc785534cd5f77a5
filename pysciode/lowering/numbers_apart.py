"""Models that differ in their numbers alone, as one source that is compiled once.

``-k * u`` with another ``k``, or a network with another mask, is captured anew, but compiled only once if numbers and arrays are passed
beside the source. Source with its numbers inside runs a little faster, and most models never come with other numbers.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from .lowered_model import LoweredModel

# As `julia_literal` writes them; whole numbers without a point are places and sizes.
_NUMBER = re.compile(r"(?<![\w.])(?:\d+\.\d+|\d+(?=[ef][-+\d]))(?:[ef][-+]?\d+)?(?![\w.])")
_HEAD = re.compile(r"^((?:@noinline )?function [\w!]+\()([^()]*)\)$", re.MULTILINE)
_PART = re.compile(r"^( +[\w!]+_part\d+!\([^()]*)\)$", re.MULTILINE)
_WORKSPACE = re.compile(r"^workspace\(::Type\{T\}\) where \{T\} = (.*)$", re.MULTILINE)


def with_numbers_apart(lowered: LoweredModel) -> LoweredModel:
    """`lowered` with its numbers in ``constants["numbers"]``, and a source that takes these and all other constants as arguments.

    ``workspace(T, given)`` and ``f_oop(u, p, t, given)`` take them as the fields of `given`. Equal sources with constants of the same
    names and lengths are one and the same program.
    """
    numbers: dict[str, int] = {}

    def name(match: re.Match[str]) -> str:
        text = match.group()
        # By powers of two compilers multiply and divide in a quicker way.
        return text if abs(np.frexp(float(text.replace("f", "e")))[0]) in (0.0, 0.5) else f"n{numbers.setdefault(text, len(numbers) + 1)}"

    source = _PART.sub(r"\1, w)", _WORKSPACE.sub(_given, _NUMBER.sub(name, lowered.source)))
    constants = dict(lowered.constants)
    if numbers:
        constants["numbers"] = np.array([text.replace("f", "e") for text in numbers], float).astype(lowered.dtype)
    names = re.compile(rf"\b(?:n\d+{''.join('|' + x for x in lowered.constants)})\b")
    parts = []
    starts = [match.start() for match in _HEAD.finditer(source)]
    for start, stop in zip(starts, [*starts[1:], len(source)], strict=True):
        head, newline, body = source[start:stop].partition("\n")
        if not head.endswith(", w)"):
            head = f"{head[:-1]}, w)"
        used = sorted(set(names.findall(body)))
        loads = [f"    {x} = w.{x}\n" if x in lowered.constants else f"    @inbounds {x} = w.numbers[{x[1:]}]\n" for x in used]
        parts.append(f"{head}{newline}{''.join(loads)}{body}")
    before = source[: starts[0]] if starts else source
    return replace(lowered, source=before + "".join(parts), constants=constants, apart=True)


def _given(match: re.Match[str]) -> str:
    own = match.group(1)
    return f"workspace(::Type{{T}}, given) where {{T}} = {'given' if own == 'nothing' else f'merge(given, {own})'}"
