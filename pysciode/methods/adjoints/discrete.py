"""Discrete adjoints: the solver's own steps are differentiated in reverse, by one of Julia's packages or by torch's tape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ...errors import GradientFailed
from .base import SensitivityAlgorithm


@dataclass(frozen=True)
class AdjointThroughSolver(SensitivityAlgorithm):
    """Base of the methods that differentiate the solver's steps in reverse; not used itself."""

    through_solver: ClassVar[bool] = True
    calls_beside_vjp: ClassVar[frozenset[str]] = frozenset({"f_oop"})


@dataclass(frozen=True)
class ReverseDiffAdjoint(AdjointThroughSolver):
    """Differentiate through the solver with a tape of scalar operations (ReverseDiff.jl; on the embedded engine torch's
    own tape): the discrete adjoint, exact for the steps taken."""

    embedded: ClassVar[Literal["tape", "adjoint"] | None] = "tape"
    calls_beside_vjp: ClassVar[frozenset[str]] = frozenset()
    tape_limit: ClassVar[int | None] = 10_000  # of scalar operations


@dataclass(frozen=True)
class TrackerAdjoint(AdjointThroughSolver):
    """Differentiate through the solver with a tape of array operations (Tracker.jl; on the embedded engine torch's own)."""

    embedded: ClassVar[Literal["tape", "adjoint"] | None] = "tape"
    tape_limit: ClassVar[int | None] = 100_000
    package: ClassVar[str | None] = "Tracker"


@dataclass(frozen=True)
class ZygoteAdjoint(AdjointThroughSolver):
    """Differentiate through the solver by source transformation (Zygote.jl).

    Not supported: Zygote can't differentiate code that mutates arrays, and SciML's solvers do. `check_sensealg`
    refuses it before minutes of compilation end in Zygote's own error.
    """

    package: ClassVar[str | None] = "Zygote"

    def refuse(self) -> None:
        raise GradientFailed(
            self.name,
            "Zygote can't differentiate through SciML's solvers, which mutate their arrays",
            "Take ReverseDiffAdjoint() or TrackerAdjoint(), which differentiate the solver's steps too, or GaussAdjoint(), "
            "whose autojacvec may be 'ZygoteVJP'",
        )


@dataclass(frozen=True)
class EnzymeAdjoint(AdjointThroughSolver):
    """Differentiate through the solver on the level of LLVM (Enzyme.jl; Moses and Churavy, NeurIPS 2020)."""

    package: ClassVar[str | None] = "Enzyme"


@dataclass(frozen=True)
class MooncakeAdjoint(AdjointThroughSolver):
    """Differentiate through the solver with Mooncake.jl, a Julia package to be installed beside those of pysciode."""

    package: ClassVar[str | None] = "Mooncake"
