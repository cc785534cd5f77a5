"""The choice of a sensitivity method where the user names none."""

from __future__ import annotations

from ..algorithms import Algorithm
from .base import SensitivityAlgorithm
from .continuous import BacksolveAdjoint, GaussAdjoint
from .discrete import DiscreteAdjoint, ReverseDiffAdjoint
from .forward import ForwardDiffSensitivity

FORWARD_LIMIT = 40
"""Up to this many scalars in ``u0`` and ``p`` together, forward mode is the cheaper one for typical models."""

TAPE_LIMIT = 100_000
"""Up to this many scalars the embedded engine keeps every step's operations for the backward pass."""

_FORWARD = ForwardDiffSensitivity()
_STEPS = DiscreteAdjoint()
_ADJOINT = GaussAdjoint()
_EMBEDDED_SMALL = ReverseDiffAdjoint()
_EMBEDDED_LARGE = BacksolveAdjoint()


def default_sensealg(
    n: int,
    n_params: int,
    algorithm: Algorithm | None = None,
    *,
    embedded: bool = False,
    in_python: bool = False,
    on_device: bool = False,
) -> SensitivityAlgorithm:
    """Return the method where the user names none.

    Julia: `ForwardDiffSensitivity` up to `FORWARD_LIMIT` scalars in state and parameters together; above, and for models that stay
    in Python, `DiscreteAdjoint` for the algorithms whose steps it goes back through, the default one among them; else, and on a device,
    `GaussAdjoint`. It takes over, too, where the adjoint changes faster than the steps, or the default algorithm came to a multistep method.
    Embedded: through the solver (`ReverseDiffAdjoint`) up to
    `TAPE_LIMIT` scalars, `BacksolveAdjoint` above, where the tape would fill the memory.

    Parameters
    ----------
    n, n_params
        Sizes of the flat state and of the flat parameters.
    algorithm
        What solves; None is the default algorithm.
    embedded
        Whether the embedded engine solves.
    in_python
        Whether the model stays in Python, where dual numbers can't go.
    on_device
        Whether the state is in the memory of a GPU, where they don't go either.
    """
    if embedded:
        return _EMBEDDED_SMALL if n + n_params <= TAPE_LIMIT else _EMBEDDED_LARGE
    if n + n_params <= FORWARD_LIMIT and not (in_python or on_device):
        return _FORWARD
    return _STEPS if not on_device and _STEPS.fits(algorithm, in_python) else _ADJOINT
