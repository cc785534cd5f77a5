"""How solutions are differentiated: one dataclass for each of SciML's methods, one file for each family.

The survey behind these methods is Rackauckas et al., "Universal Differential Equations for Scientific Machine Learning"
(2020, arXiv:2001.04385); their costs are compared in Ma, Dixit, Innes, Guo, Rackauckas, "A Comparison of Automatic
Differentiation and Continuous Sensitivity Analysis for Derivatives of Differential Equation Solutions" (HPEC 2021).

On stiff problems the solver matters as much as the method: ``docs/gradient_accuracy.md`` has eight problems, nine solvers and five
methods at three tolerances. Take a Rosenbrock method. The steps of other implicit methods, and what adjoints read between them, are
coarser; their reverse solves go by `Rodas5P` where there are no more than 200 states.
"""

from .base import AutoJacVec, SensitivityAlgorithm, check_sensealg
from .continuous import BacksolveAdjoint, GaussAdjoint, GaussKronrodAdjoint, InterpolatingAdjoint, QuadratureAdjoint
from .default import FORWARD_LIMIT, TAPE_LIMIT, default_sensealg
from .discrete import DiscreteAdjoint, EnzymeAdjoint, MooncakeAdjoint, ReverseDiffAdjoint, TrackerAdjoint, ZygoteAdjoint
from .forward import ForwardDiffSensitivity, ForwardSensitivity

SENSITIVITY_ALGORITHMS: dict[str, type[SensitivityAlgorithm]] = {
    cls.__name__: cls
    for cls in (
        ForwardSensitivity,
        ForwardDiffSensitivity,
        DiscreteAdjoint,
        BacksolveAdjoint,
        InterpolatingAdjoint,
        QuadratureAdjoint,
        GaussAdjoint,
        GaussKronrodAdjoint,
        ReverseDiffAdjoint,
        TrackerAdjoint,
        ZygoteAdjoint,
        EnzymeAdjoint,
        MooncakeAdjoint,
    )
}
"""The methods by name."""

__all__ = [
    "FORWARD_LIMIT",
    "SENSITIVITY_ALGORITHMS",
    "TAPE_LIMIT",
    "AutoJacVec",
    "BacksolveAdjoint",
    "DiscreteAdjoint",
    "EnzymeAdjoint",
    "ForwardDiffSensitivity",
    "ForwardSensitivity",
    "GaussAdjoint",
    "GaussKronrodAdjoint",
    "InterpolatingAdjoint",
    "MooncakeAdjoint",
    "QuadratureAdjoint",
    "ReverseDiffAdjoint",
    "SensitivityAlgorithm",
    "TrackerAdjoint",
    "ZygoteAdjoint",
    "check_sensealg",
    "default_sensealg",
]
