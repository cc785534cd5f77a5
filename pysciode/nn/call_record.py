"""The record of a module's latest call."""

from __future__ import annotations

from typing import Any

import torch

from ..solving.solution import Solution, Statistics
from .regularization import Regularization


class LatestCall:
    """Evaluations, the engine, and the integrals of a regularisation; for modules that solve, beside ``nn.Module``.

    They call `_forget` where a call begins and `_note` after each solve, and set `_integrals`, shape ``(batch,
    terms)``, where there are any.
    """

    _pysciode_notes = frozenset({"_statistics", "_integrals", "_engine"})
    regularizer: Regularization | None = None

    def _forget(self) -> None:
        self._statistics: list[Statistics] = []
        self._integrals: torch.Tensor | None = None
        self._engine: str | None = None

    def _note(self, solution: Solution) -> None:
        self._statistics.append(solution.stats)
        self._engine = solution.engine

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles start without a latest call, whose tensors have a graph."""
        return self.__dict__ | {"_statistics": [], "_integrals": None, "_engine": None}

    @property
    def statistics(self) -> tuple[Statistics, ...]:
        """The statistics of the latest call's solves: one for a block, or one for each column where samples have their own times."""
        return tuple(self._statistics)

    @property
    def nfe_forward(self) -> int:
        """Evaluations of the dynamics in the latest call; for densities, with their divergence; an encoder's included."""
        return sum(x.nf for x in self._statistics)

    @property
    def nfe_backward(self) -> int:
        """Evaluations in the reverse solve of the latest call's backward pass, each a vector-Jacobian product.

        0 before that pass, and for methods that solve nothing backwards because they differentiate the forward solve's
        own steps (`ForwardDiffSensitivity`, `ReverseDiffAdjoint`, …).
        """
        return sum(max(x.get("nvjp", 0), x.get("nf_reverse", 0)) for x in self._statistics)

    @property
    def engine(self) -> str | None:
        """Which engine solved the latest call."""
        return self._engine

    @property
    def regularization(self) -> torch.Tensor | None:
        """The weighted sum of the integrals of the latest call, shape ``(batch,)``, with gradient: for a loss to add.

        None in evaluation mode, without a regularisation, and after calls for samples alone.
        """
        regularizer, integrals = self.regularizer, self._integrals
        return None if regularizer is None or integrals is None else integrals @ regularizer.weights(integrals)

    @property
    def regularization_terms(self) -> dict[str, torch.Tensor]:
        """The integrals themselves by name, without their weights, each of shape ``(batch,)``."""
        regularizer, integrals = self.regularizer, self._integrals
        return {} if regularizer is None or integrals is None else dict(zip(regularizer.terms, integrals.T, strict=True))
