"""Which gradients are compared: the initial state and the parameters that require grad, as named blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...arrays.parameters import is_tensor
from ...problems.base import Problem, remake, with_model_of

STATE = "u0"
"""Name of the initial state's block."""


@dataclass(frozen=True)
class Blocks:
    """The differentiated part of ``(u0, p)``, in this order: the state's `n` entries where `wants_u0`, and named parts of the flat
    parameters by their places."""

    n: int
    wants_u0: bool
    places: Mapping[str, slice]

    @classmethod
    def of(cls, problem: Problem) -> Blocks:
        """The blocks of a torch problem that require grad."""
        places: dict[str, slice] = {}
        for (name, _, _), leaf, place in zip(problem.layout.entries, problem.leaves, problem.layout.slices, strict=True):
            if is_tensor(leaf) and leaf.requires_grad:
                name = f"p.{name}" if name == STATE else name
                while name in places:  # a parameter and a module's parameter may share a name
                    name += "'"
                places[name] = place
        return cls(problem.n, bool(problem.u0.requires_grad), places)

    @property
    def wants(self) -> frozenset[str]:
        """Which of ``"u0"`` and ``"p"`` an engine is asked for."""
        return frozenset([STATE] * self.wants_u0 + ["p"] * bool(self.places))

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Entries of each block, by name."""
        sizes = {STATE: self.n} if self.wants_u0 else {}
        return sizes | {name: place.stop - place.start for name, place in self.places.items()}

    @property
    def size(self) -> int:
        """Scalars that are differentiated."""
        return sum(self.sizes.values())

    def split(self, u0: np.ndarray, p: np.ndarray) -> dict[str, np.ndarray]:
        """The blocks, flat and in float64, of something that belongs to flat `u0` and flat `p` (values, gradients)."""
        found = {STATE: u0} if self.wants_u0 else {}
        found |= {name: p[place] for name, place in self.places.items()}
        return {name: np.array(x, np.float64).reshape(-1) for name, x in found.items()}

    def join(self, blocks: Mapping[str, Any]) -> np.ndarray:
        """One flat vector of the blocks."""
        return np.concatenate([np.asarray(blocks[name], np.float64).reshape(-1) for name in self.sizes])

    def cut(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """The blocks of a flat vector that `join` made."""
        ends = np.cumsum(list(self.sizes.values()))
        return dict(zip(self.sizes, np.split(flat, ends[:-1]), strict=True))

    def moved(self, u0: np.ndarray, p: np.ndarray, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat `u0` and `p` with `step`, a vector such as `join` makes, added to what is differentiated."""
        u0, p = u0.copy(), p.copy()
        for name, x in self.cut(step).items():
            if name in self.places:
                p[self.places[name]] += x
            else:
                u0 += x
        return u0, p


def differentiable(problem: Problem) -> Problem:
    """`problem`, if something in it requires grad; otherwise a torch problem like it whose parameters do.

    Without parameters it is the initial state that does.
    """
    if any(is_tensor(x) and x.requires_grad for x in (problem.u0, *problem.leaves)):
        return problem
    layout = problem.layout
    if layout.n_leaves:
        changes = {"p": layout.rebuild([_variable(x, problem.dtype) for x in problem.leaves[: layout.n_leaves]])}
    else:
        changes = {"u0": _variable(problem.u0, problem.dtype)}
        if problem.velocity is not None:
            velocity, position = changes["u0"]
            changes = {problem.velocity: velocity, "u0": position}
    changed = remake(problem, **changes)
    # Torch might not capture what was written for NumPy.
    return changed if problem.is_torch else with_model_of(changed, problem)


def _variable(x: Any, dtype: np.dtype) -> torch.Tensor:
    array = x.detach().numpy() if is_tensor(x) else np.asarray(x)
    return torch.from_numpy(np.array(array, dtype)).requires_grad_()
