"""Continuous adjoints: the adjoint equation is solved backwards in time, along the forward solution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from .base import AutoJacVec, SensitivityAlgorithm

_STATES_ALONE = frozenset({"vjp!", "vjp_p!"})
_WITH_PARAMETERS = frozenset({"vjp!", "vjp_p!", "vjp_both!"})


@dataclass(frozen=True)
class ContinuousAdjoint(SensitivityAlgorithm):
    """Base of the continuous adjoints; not used itself.

    Attributes
    ----------
    autojacvec
        ``"generated"`` uses the model's own vector-Jacobian products; the others let a Julia package make them.
    reverse_abstol, reverse_reltol
        Tolerances of the reverse solve; None takes those of the forward one.
    """

    continuous: ClassVar[bool] = True
    takes_mass_matrix: ClassVar[bool] = True
    calls_beside_vjp: ClassVar[frozenset[str]] = _STATES_ALONE
    advice: ClassVar[str] = "Try tighter tolerances, a stiff algorithm, or a larger maxiters"
    takes_tracker: ClassVar[bool] = False
    """Whether SciMLSensitivity has ``TrackerVJP`` for it: GaussAdjoint fails, and QuadratureAdjoint gives zero for the parameters."""

    autojacvec: AutoJacVec = "generated"
    reverse_abstol: float | None = field(default=None, kw_only=True, repr=False)
    reverse_reltol: float | None = field(default=None, kw_only=True, repr=False)

    @property
    def reverse_tolerances(self) -> dict[str, float | None]:
        return {"reverse_abstol": self.reverse_abstol, "reverse_reltol": self.reverse_reltol}

    def _check_option(self, key: str, value: object) -> None:
        super()._check_option(key, value)
        if key == "autojacvec" and value == "TrackerVJP" and not self.takes_tracker:
            raise ValueError(f"{self.name}: autojacvec='TrackerVJP' works with InterpolatingAdjoint and BacksolveAdjoint only")


@dataclass(frozen=True)
class BacksolveAdjoint(ContinuousAdjoint):
    """Solve states and adjoint together backwards in time: memory flat in the number of steps.

    Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations" (NeurIPS 2018, arXiv:1806.07366). The
    backward states drift from the forward ones on stiff or dissipative problems (Kim et al., "Stiff Neural Ordinary
    Differential Equations", Chaos 31, 2021, arXiv:2103.15341): use a Gauss or interpolating adjoint there.

    Attributes
    ----------
    autojacvec
        ``"generated"`` uses the model's own vector-Jacobian products; the others let a Julia package make them.
    checkpointing
        Restart the backward states from the saved ones.
    """

    solves_states_backwards: ClassVar[bool] = True
    embedded: ClassVar[Literal["tape", "adjoint"] | None] = "adjoint"
    calls_beside_vjp: ClassVar[frozenset[str]] = _WITH_PARAMETERS
    advice: ClassVar[str] = (
        "BacksolveAdjoint runs the equation backwards, which is unstable for stiff and many dissipative systems: "
        "try GaussAdjoint or InterpolatingAdjoint"
    )
    takes_tracker: ClassVar[bool] = True

    checkpointing: bool = True


@dataclass(frozen=True)
class InterpolatingAdjoint(ContinuousAdjoint):
    """Solve the adjoint backwards over the interpolated forward solution.

    Rackauckas et al. (2020, arXiv:2001.04385). Memory grows with the number of steps, or with ``checkpointing`` with the
    number of saved points, at the price of solving forward twice.
    """

    calls_beside_vjp: ClassVar[frozenset[str]] = _WITH_PARAMETERS
    takes_tracker: ClassVar[bool] = True

    checkpointing: bool = False


@dataclass(frozen=True)
class QuadratureAdjoint(ContinuousAdjoint):
    """Solve the adjoint of the states alone, then integrate for the parameters by adaptive quadrature.

    Kim, Ji, Deng, Ma, Rackauckas, "Stiff Neural Ordinary Differential Equations" (Chaos 31, 2021, arXiv:2103.15341). The
    quadrature samples at points of its own, so on stiff problems it can step over a fast transient unless its tolerances are
    strict: `GaussAdjoint`, which goes by the solver's steps, can't.

    Attributes
    ----------
    abstol, reltol
        Tolerances of the quadrature; None makes them those of the solve, divided by ten.
    """

    abstol: float | None = None
    reltol: float | None = None


@dataclass(frozen=True)
class GaussAdjoint(ContinuousAdjoint):
    """Solve the adjoint of the states, integrating for the parameters by Gauss quadrature step by step: the default for
    many parameters.

    It is as cheap in the parameters as `QuadratureAdjoint`, with the memory of `InterpolatingAdjoint` (SciMLSensitivity's manual,
    "Sensitivity Algorithms").

    Attributes
    ----------
    checkpointing
        Keep only the saved points of the forward solution; refused by SciMLSensitivity before 7.110.
    """

    checkpointing: bool = False


@dataclass(frozen=True)
class GaussKronrodAdjoint(ContinuousAdjoint):
    """`GaussAdjoint` with adaptive Gauss–Kronrod quadrature in each step."""

    checkpointing: bool = False
