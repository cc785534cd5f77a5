"""A problem's loss and gradient as functions of one vector, solved as accurately as double precision allows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ...engines.base import Engine, SolveOptions, SolveRequest
from ...errors import SolveFailed
from ...methods.adjoints import SensitivityAlgorithm
from ...methods.algorithms import Algorithm
from ...problems.base import Problem
from ...solving.solution import SUCCESS
from .blocks import Blocks
from .losses import LossFunction


@dataclass(frozen=True)
class TightSolver:
    """One problem, solver and tolerance.

    Attributes
    ----------
    problem
        A torch problem; solved in double precision, whatever its own.
    blocks
        What is differentiated, and the order of the vectors that the methods take and give.
    """

    engine: Engine
    problem: Problem
    blocks: Blocks
    loss: LossFunction
    algorithm: Algorithm
    rtol: float
    atol: float
    maxiters: int = 1_000_000

    def __str__(self) -> str:
        return f"{self.algorithm.name}, rtol {self.rtol:.0e}, atol {self.atol:.0e}"

    def parameters(self) -> np.ndarray:
        """The values of what is differentiated."""
        return self.blocks.join(self.blocks.split(*self._values()))

    def loss_at(self, step: np.ndarray) -> float:
        """The loss with `step` added to what is differentiated.

        Raises
        ------
        SolveFailed
            If the solver gives up there.
        """
        u0, p = self.blocks.moved(*self._values(), step)
        raw = self.engine.solve(self._request(u0, p, None))
        return self.loss.value(self._states(raw))

    def gradient(self, sensealg: SensitivityAlgorithm) -> np.ndarray:
        """The gradient of the loss.

        Raises
        ------
        PysciodeError
            If the solver gives up, or the method refuses.
        """
        raw, pullback = self.engine.solve_with_pullback(self._request(*self._values(), sensealg))
        _, cotangent = self.loss(self._states(raw))
        gradient = self.blocks.join(self.blocks.split(**pullback(cotangent.reshape(len(raw.t), -1).numpy())))
        if not np.isfinite(gradient).all():
            raise ArithmeticError(f"{sensealg.name} gave a gradient that is not finite")
        return gradient

    def looser(self, rtol: float) -> TightSolver:
        """The same at another tolerance."""
        return replace(self, rtol=rtol, atol=self.atol * (rtol / self.rtol))

    def _values(self) -> tuple[np.ndarray, np.ndarray]:
        return self.problem.flat_u0().astype(np.float64), self.problem.flat_p().astype(np.float64)

    def _request(self, u0: np.ndarray, p: np.ndarray, sensealg: SensitivityAlgorithm | None) -> SolveRequest:
        options = SolveOptions(saveat=self.loss.times, rtol=self.rtol, atol=self.atol, maxiters=self.maxiters)
        wants = frozenset() if sensealg is None else self.blocks.wants
        return SolveRequest(self.problem, {"u0": u0, "p": p}, self.problem.tspan, self.algorithm, options, sensealg, wants)

    def _states(self, raw: Any) -> torch.Tensor:
        if raw.retcode not in SUCCESS:
            raise SolveFailed(raw.retcode, raw.t_reached, None)
        return torch.from_numpy(raw.u).view(len(raw.t), *self.problem.u0.shape)
