"""How solutions are differentiated: one dataclass for each of SciML's methods.

The survey behind these methods is Rackauckas et al., "Universal Differential Equations for Scientific Machine Learning"
(2020, arXiv:2001.04385); their costs are compared in Ma, Dixit, Innes, Guo, Rackauckas, "A Comparison of Automatic
Differentiation and Continuous Sensitivity Analysis for Derivatives of Differential Equation Solutions" (HPEC 2021).

On stiff problems the solver matters as much as the method: ``docs/gradient_accuracy.md`` has eight problems, nine solvers and five
methods at three tolerances. Take a Rosenbrock method. The steps of other implicit methods, and what adjoints read between them, are
coarser; their reverse solves go by `Rodas5P` where there are no more than 200 states.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, get_args

from .errors import EngineUnavailable, GradientFailed
from .installation import installed_packages, julia_project
from .real_values import whole_number

AutoJacVec = Literal["generated", "ZygoteVJP", "ReverseDiffVJP", "ReverseDiffVJP(true)", "EnzymeVJP", "MooncakeVJP", "TrackerVJP"]
"""Who makes vector-Jacobian products: the model's own generated ones, or a Julia package. ``"ReverseDiffVJP(true)"`` compiles
its tape once, which would freeze every branch of the model: refused for models that have any."""

FORWARD_LIMIT = 40
"""Up to this many scalars in ``u0`` and ``p`` together, forward mode is the cheaper one for typical models."""

TAPE_LIMIT = 100_000
"""Up to this many scalars the embedded engine keeps every step's operations for the backward pass."""

MOONCAKE_UUID = "da2b9cff-9c12-43a0-ae48-6db2b0edb7d6"


@dataclass(frozen=True)
class SensitivityAlgorithm:
    """Base of the methods; not used itself."""

    continuous: ClassVar[bool] = False
    """Whether a second differential equation is solved, backwards in time."""

    @property
    def name(self) -> str:
        """SciML's name of the method."""
        return type(self).__name__

    @property
    def options(self) -> dict[str, object]:
        """The options by SciML's names; None stands for SciML's default."""
        return {x.name: getattr(self, x.name) for x in fields(self)}

    def __post_init__(self) -> None:
        for key, value in self.options.items():
            _check_option(self.name, key, value)


def _check_option(method: str, key: str, value: object) -> None:
    if key == "autojacvec":
        if value not in get_args(AutoJacVec):
            raise ValueError(f"{method}: autojacvec must be one of {', '.join(map(repr, get_args(AutoJacVec)))}, not {value!r}")
        if value == "TrackerVJP" and method not in ("InterpolatingAdjoint", "BacksolveAdjoint"):
            # SciMLSensitivity has no such case: GaussAdjoint fails, and QuadratureAdjoint gives zero for the parameters.
            raise ValueError(f"{method}: autojacvec='TrackerVJP' works with InterpolatingAdjoint and BacksolveAdjoint only")
    elif key in ("checkpointing", "compile", "convert_tspan"):
        if value is not None and not isinstance(value, bool):
            raise TypeError(f"{method}: {key} must be True, False or None, not {value!r}")
    elif key in ("abstol", "reltol") and value is not None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{method}: {key} must be a number, not {value!r}")
        if not 0 < value < float("inf"):
            raise ValueError(f"{method}: {key} must be positive, not {value!r}")
    elif key == "chunk_size":
        whole_number(value, f"{method}: chunk_size", 0)


@dataclass(frozen=True)
class ForwardSensitivity(SensitivityAlgorithm):
    """Solve the variational equations ``dS/dt = J S + ∂f/∂p`` beside the states, with the generated Jacobians.

    Costs one system of ``n (1 + n + n_params)`` equations; exact to the solver's tolerance.
    """


@dataclass(frozen=True)
class ForwardDiffSensitivity(SensitivityAlgorithm):
    """Run the solver itself on dual numbers: the default for few scalars.

    Revels, Lubin, Papamarkou, "Forward-Mode Automatic Differentiation in Julia" (2016, arXiv:1607.07892).

    Attributes
    ----------
    chunk_size
        Directions a pass carries; 0 takes 4 or 8, for which solvers are compiled ahead of time: another number costs a compilation.
    """

    chunk_size: int = 0


@dataclass(frozen=True)
class BacksolveAdjoint(SensitivityAlgorithm):
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

    continuous: ClassVar[bool] = True
    autojacvec: AutoJacVec = "generated"
    checkpointing: bool = True


@dataclass(frozen=True)
class InterpolatingAdjoint(SensitivityAlgorithm):
    """Solve the adjoint backwards over the interpolated forward solution.

    Rackauckas et al. (2020, arXiv:2001.04385). Memory grows with the number of steps, or with ``checkpointing`` with the
    number of saved points, at the price of solving forward twice.
    """

    continuous: ClassVar[bool] = True
    autojacvec: AutoJacVec = "generated"
    checkpointing: bool = False


@dataclass(frozen=True)
class QuadratureAdjoint(SensitivityAlgorithm):
    """Solve the adjoint of the states alone, then integrate for the parameters by adaptive quadrature.

    Kim, Ji, Deng, Ma, Rackauckas, "Stiff Neural Ordinary Differential Equations" (Chaos 31, 2021, arXiv:2103.15341). The
    quadrature samples at points of its own, so on stiff problems it can step over a fast transient unless its tolerances are
    strict: `GaussAdjoint`, which goes by the solver's steps, can't.

    Attributes
    ----------
    abstol, reltol
        Tolerances of the quadrature; None makes them those of the solve, divided by ten.
    """

    continuous: ClassVar[bool] = True
    autojacvec: AutoJacVec = "generated"
    abstol: float | None = None
    reltol: float | None = None


@dataclass(frozen=True)
class GaussAdjoint(SensitivityAlgorithm):
    """Solve the adjoint of the states, integrating for the parameters by Gauss quadrature step by step: the default for
    many parameters.

    As cheap in the parameters as `QuadratureAdjoint`, in the memory of `InterpolatingAdjoint` (SciMLSensitivity's manual,
    "Sensitivity Algorithms").

    Attributes
    ----------
    checkpointing
        Keep only the saved points of the forward solution; refused by SciMLSensitivity before 7.110.
    """

    continuous: ClassVar[bool] = True
    autojacvec: AutoJacVec = "generated"
    checkpointing: bool = False


@dataclass(frozen=True)
class GaussKronrodAdjoint(SensitivityAlgorithm):
    """`GaussAdjoint` with adaptive Gauss–Kronrod quadrature in each step."""

    continuous: ClassVar[bool] = True
    autojacvec: AutoJacVec = "generated"
    checkpointing: bool = False


@dataclass(frozen=True)
class ReverseDiffAdjoint(SensitivityAlgorithm):
    """Differentiate through the solver with a tape of scalar operations (ReverseDiff.jl; on the embedded engine torch's
    own tape): the discrete adjoint, exact for the steps taken."""


@dataclass(frozen=True)
class TrackerAdjoint(SensitivityAlgorithm):
    """Differentiate through the solver with a tape of array operations (Tracker.jl; on the embedded engine torch's own)."""


@dataclass(frozen=True)
class ZygoteAdjoint(SensitivityAlgorithm):
    """Differentiate through the solver by source transformation (Zygote.jl).

    Here for its name alone: Zygote can't differentiate code that mutates arrays, and SciML's solvers do. `check_sensealg`
    refuses it, before minutes of compilation end in Zygote's own error.
    """


@dataclass(frozen=True)
class EnzymeAdjoint(SensitivityAlgorithm):
    """Differentiate through the solver on the level of LLVM (Enzyme.jl; Moses and Churavy, NeurIPS 2020)."""


@dataclass(frozen=True)
class MooncakeAdjoint(SensitivityAlgorithm):
    """Differentiate through the solver with Mooncake.jl, a Julia package to be installed beside those of pysciode."""


SENSITIVITY_ALGORITHMS: dict[str, type[SensitivityAlgorithm]] = {cls.__name__: cls for cls in SensitivityAlgorithm.__subclasses__()}
"""The methods by name."""


def check_sensealg(sensealg: object) -> SensitivityAlgorithm | None:
    """`sensealg` if it is a method that can work; a class instead of an object is a common slip and told.

    Raises
    ------
    TypeError
        For anything else.
    GradientFailed
        For `ZygoteAdjoint`.
    EngineUnavailable
        If the method needs a Julia package that the environment lacks.
    """
    if sensealg is None:
        return None
    if isinstance(sensealg, SensitivityAlgorithm):
        _check_supported(sensealg)
        return sensealg
    if isinstance(sensealg, type) and issubclass(sensealg, SensitivityAlgorithm):
        raise TypeError(f"sensealg is the class {sensealg.__name__}; pass an object: {sensealg.__name__}()")
    raise TypeError(f"sensealg must be a sensitivity method such as GaussAdjoint(), not {sensealg!r}")


def _check_supported(sensealg: SensitivityAlgorithm) -> None:
    if isinstance(sensealg, ZygoteAdjoint):
        raise GradientFailed(
            sensealg.name,
            "Zygote can't differentiate through SciML's solvers, which mutate their arrays",
            "Take ReverseDiffAdjoint() or TrackerAdjoint(), which differentiate the solver's steps too, or GaussAdjoint(), "
            "whose autojacvec may be 'ZygoteVJP'",
        )
    vjp = getattr(sensealg, "autojacvec", None)
    if vjp == "MooncakeVJP" or isinstance(sensealg, MooncakeAdjoint):
        project = julia_project()
        packages = installed_packages(project) if project else {}
        # Without any package it is the engine that is missing, and tells.
        if packages and "Mooncake" not in packages:
            raise EngineUnavailable(
                vjp or sensealg.name,
                f"the Julia package Mooncake is not in {project}; ask for it with juliapkg.add('Mooncake', '{MOONCAKE_UUID}')",
            )


_FORWARD = ForwardDiffSensitivity()
_ADJOINT = GaussAdjoint()
_EMBEDDED_SMALL = ReverseDiffAdjoint()
_EMBEDDED_LARGE = BacksolveAdjoint()


def default_sensealg(
    n: int, n_params: int, *, embedded: bool = False, in_python: bool = False, on_device: bool = False
) -> SensitivityAlgorithm:
    """The method where the user names none.

    Julia: `ForwardDiffSensitivity` up to `FORWARD_LIMIT` scalars in state and parameters together, `GaussAdjoint` above
    and for models that stay in Python or are solved on a device. Embedded: through the solver (`ReverseDiffAdjoint`) up to
    `TAPE_LIMIT` scalars, `BacksolveAdjoint` above, where the tape would fill the memory.

    Parameters
    ----------
    n, n_params
        Sizes of the flat state and of the flat parameters.
    embedded
        Whether the embedded engine solves.
    in_python
        Whether the model stays in Python, where dual numbers can't go.
    on_device
        Whether the state is in the memory of a GPU, where they don't go either.
    """
    if embedded:
        return _EMBEDDED_SMALL if n + n_params <= TAPE_LIMIT else _EMBEDDED_LARGE
    return _FORWARD if n + n_params <= FORWARD_LIMIT and not (in_python or on_device) else _ADJOINT
