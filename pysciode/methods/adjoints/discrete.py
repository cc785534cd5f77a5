"""Discrete adjoints: the solver's own steps are differentiated in reverse, by generated products, one of Julia's packages or torch's tape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ...errors import GradientFailed
from ..algorithms import Algorithm, is_reversible
from .base import SensitivityAlgorithm


@dataclass(frozen=True)
class AdjointThroughSolver(SensitivityAlgorithm):
    """Base of the methods that differentiate the solver's steps in reverse; not used itself."""

    through_solver: ClassVar[bool] = True
    calls_beside_vjp: ClassVar[frozenset[str]] = frozenset({"f_oop"})


@dataclass(frozen=True)
class DiscreteAdjoint(AdjointThroughSolver):
    """Go back through the steps that the solver took, with the model's generated vector-Jacobian products.

    The gradient is exact for these steps, whose sizes are taken as constants: it agrees with finite differences over the same
    steps to rounding, whatever the tolerance. No second equation is solved, the saved times cost nothing, and no other package
    is loaded: the cost is a few times that of the forward solve. Memory grows with the number of steps, by one state each, or with
    `checkpoints` by its logarithm.

    The step sizes were chosen for the states. Where an adjoint changes faster than the steps of an explicit method can follow, as in stiff
    equations, the gradient of the steps is not that of the solution: an `AccuracyWarning` says so, and where pysciode has chosen the
    method, it goes over to `GaussAdjoint`.

    Explicit Runge-Kutta methods (`Tsit5`, `Vern7`, `DP8`, `RK4`, those of low storage, …) and Rosenbrock methods (`Rosenbrock23`,
    `Rodas5P`, …, with a mass matrix too), read from steps that SciML takes: no coefficient is written down here.

    Hairer, Nørsett & Wanner, "Solving Ordinary Differential Equations I" (Springer 1993, II.6); Sandu, "On the properties of
    Runge-Kutta discrete adjoints" (ICCS 2006, LNCS 3994); for Rosenbrock methods Daescu, Carmichael & Sandu, "Adjoint
    implementation of Rosenbrock methods applied to variational data assimilation problems" (J. Comput. Phys. 165, 2000).

    Attributes
    ----------
    checkpoints
        Keep about so many states, at least 2, and compute those between again, in several levels: the forward solve is repeated once for each
        level. None keeps all.
    """

    goes_back_through_steps: ClassVar[bool] = True
    embedded: ClassVar[Literal["tape", "adjoint"] | None] = "tape"
    calls_beside_vjp: ClassVar[frozenset[str]] = frozenset({"vjp!", "vjp_both!"})
    takes_mass_matrix: ClassVar[bool] = True
    advice: ClassVar[str] = "The model may have no derivative at a state that the solver visits"

    checkpoints: int | None = None

    @property
    def calls_python(self) -> bool:
        return True

    def fits(self, algorithm: Algorithm | None, in_python: bool = False) -> bool:
        # Steps of an implicit method take second derivatives, which torch does not give on the way.
        return is_reversible(algorithm) and not (in_python and (algorithm is None or algorithm.family != "explicit"))


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
