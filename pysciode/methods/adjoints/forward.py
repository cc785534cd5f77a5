"""Forward methods: derivatives are carried along with the solve, one direction for each scalar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import SensitivityAlgorithm


@dataclass(frozen=True)
class ForwardSensitivity(SensitivityAlgorithm):
    """Solve the variational equations ``dS/dt = J S + ∂f/∂p`` beside the states, with the generated Jacobians.

    Costs one system of ``n (1 + n + n_params)`` equations; exact to the solver's tolerance.
    """

    forward: ClassVar[bool] = True
    takes_mass_matrix: ClassVar[bool] = True
    calls_beside_vjp: ClassVar[frozenset[str]] = frozenset({"jac!", "paramjac!"})


@dataclass(frozen=True)
class ForwardDiffSensitivity(SensitivityAlgorithm):
    """Run the solver itself on dual numbers: the default for few scalars.

    Revels, Lubin, Papamarkou, "Forward-Mode Automatic Differentiation in Julia" (2016, arXiv:1607.07892).

    Attributes
    ----------
    chunk_size
        Directions a pass carries; 0 takes 4 or 8, for which solvers are compiled ahead of time: another number costs a compilation.
    """

    forward: ClassVar[bool] = True
    through_solver: ClassVar[bool] = True
    takes_mass_matrix: ClassVar[bool] = True
    takes_parts: ClassVar[bool] = True
    chunk_size: int = 0
