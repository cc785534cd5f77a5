"""The base of the sensitivity methods: name, options and traits.

Engines, the comparison and the checks of a solve never ask for a method's name: they read the traits declared here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, get_args

from ...arrays.real_values import whole_number
from ..algorithms import Algorithm

AutoJacVec = Literal["generated", "ZygoteVJP", "ReverseDiffVJP", "ReverseDiffVJP(true)", "EnzymeVJP", "MooncakeVJP", "TrackerVJP"]
"""The source of vector-Jacobian products: the model's own generated ones, or a Julia package. ``"ReverseDiffVJP(true)"`` compiles
its tape once, which would freeze every branch: models with branches refuse it."""

VJP_PACKAGES = {"ZygoteVJP": "Zygote", "EnzymeVJP": "Enzyme", "MooncakeVJP": "Mooncake", "TrackerVJP": "Tracker"}
"""The Julia package behind a choice of `AutoJacVec`, beside SciMLSensitivity and its own dependencies."""


@dataclass(frozen=True)
class SensitivityAlgorithm:
    """Base of the methods; not used itself."""

    continuous: ClassVar[bool] = False
    """Whether a second differential equation is solved, backwards in time."""
    forward: ClassVar[bool] = False
    """Whether derivatives are carried along with the solve: the cost grows with the number of parameters, and the pullback is a product."""
    through_solver: ClassVar[bool] = False
    """Whether the solver's own steps are differentiated."""
    goes_back_through_steps: ClassVar[bool] = False
    """Whether it is the gradient of steps that were chosen for the states alone, which the adjoint may outrun."""
    solves_states_backwards: ClassVar[bool] = False
    """Whether the states are solved for again, backwards in time, so that they may drift from those of the forward solve."""
    takes_mass_matrix: ClassVar[bool] = False
    """Whether equations with a mass matrix are differentiated."""
    takes_parts: ClassVar[bool] = False
    """Whether problems that the solver takes in parts (second-order, partitioned, split ones) are differentiated as such."""
    embedded: ClassVar[Literal["tape", "adjoint"] | None] = None
    """How the embedded engine computes it: by torch's tape through the solver, by an adjoint equation, or not at all."""
    tape_limit: ClassVar[int | None] = None
    """Scalars in state and parameters above which the record of the solver's operations fills the memory; None where none is kept."""
    package: ClassVar[str | None] = None
    """The Julia package of the method, beside SciMLSensitivity and its own dependencies."""
    calls_beside_vjp: ClassVar[frozenset[str]] = frozenset()
    """Generated functions of a model that the method calls; of a method with a choice of VJP, beside that."""
    advice: ClassVar[str] = ""
    """What to do where a gradient by generated products fails."""

    @property
    def name(self) -> str:
        """SciML's name of the method."""
        return type(self).__name__

    @property
    def options(self) -> dict[str, object]:
        """The options by SciML's names; None stands for SciML's default."""
        return {x.name: getattr(self, x.name) for x in fields(self) if x.name not in self.reverse_tolerances}

    @property
    def reverse_tolerances(self) -> dict[str, float | None]:
        """Tolerances of the reverse solve by their fields' names; None stands for those of the forward solve."""
        return {}

    @property
    def reads_dense_output(self) -> bool:
        """Whether the forward solution is read between the solver's steps."""
        return self.continuous and not self.solves_states_backwards

    @property
    def generated(self) -> bool:
        """Whether vector-Jacobian products, where the method takes any, are the model's own generated ones."""
        return self.options.get("autojacvec", "generated") == "generated"

    @property
    def on_device(self) -> bool:
        """Whether the method works on vectors in a GPU's memory."""
        return self.continuous and self.generated

    @property
    def calls_python(self) -> bool:
        """Whether models that stay in Python are differentiated; dual numbers and tapes can't pass through Python."""
        return self.continuous and self.generated

    @property
    def packages(self) -> frozenset[str]:
        """Julia packages that are needed beside SciMLSensitivity and its own dependencies."""
        found = (self.package, VJP_PACKAGES.get(str(self.options.get("autojacvec"))))
        return frozenset(x for x in found if x is not None)

    @property
    def functions(self) -> frozenset[str]:
        """The generated functions that the method calls, beside those of the solver."""
        if not self.continuous or self.generated:
            return self.calls_beside_vjp
        return frozenset({"f_oop"})

    def fits(self, algorithm: Algorithm | None, in_python: bool = False) -> bool:
        """Whether solves by this algorithm are differentiated; None is the default one. `in_python`: of a model that stays in Python."""
        return True

    def refuse(self) -> None:
        """Raise where the method can't work with any model.

        Raises
        ------
        GradientFailed
            With the reason and what to take instead.
        """

    def __post_init__(self) -> None:
        for key, value in (self.options | self.reverse_tolerances).items():
            self._check_option(key, value)

    def _check_option(self, key: str, value: object) -> None:
        method = self.name
        if key == "autojacvec":
            if value not in get_args(AutoJacVec):
                raise ValueError(f"{method}: autojacvec must be one of {', '.join(map(repr, get_args(AutoJacVec)))}, not {value!r}")
        elif key in ("checkpointing", "compile", "convert_tspan"):
            if value is not None and not isinstance(value, bool):
                raise TypeError(f"{method}: {key} must be True, False or None, not {value!r}")
        elif key.endswith(("abstol", "reltol")) and value is not None:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{method}: {key} must be a number, not {value!r}")
            if not 0 < value < float("inf"):
                raise ValueError(f"{method}: {key} must be positive, not {value!r}")
        elif key == "checkpoints" and value is not None:
            whole_number(value, f"{method}: checkpoints", 2)
        elif key == "chunk_size":
            whole_number(value, f"{method}: chunk_size", 0)


def check_sensealg(sensealg: object) -> SensitivityAlgorithm | None:
    """Return `sensealg` if the method can work; a class instead of an object gets an error that says so.

    Raises
    ------
    TypeError
        For anything else.
    GradientFailed
        For `ZygoteAdjoint`.
    """
    if sensealg is None:
        return None
    if isinstance(sensealg, SensitivityAlgorithm):
        sensealg.refuse()
        return sensealg
    if isinstance(sensealg, type) and issubclass(sensealg, SensitivityAlgorithm):
        raise TypeError(f"sensealg is the class {sensealg.__name__}; pass an object: {sensealg.__name__}()")
    raise TypeError(f"sensealg must be a sensitivity method such as GaussAdjoint(), not {sensealg!r}")
