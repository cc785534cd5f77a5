"""Fisher's information: standard errors, and which parameters the data can't tell apart."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from .objective import Objective

SINGULAR = 1e-10
"""Eigenvalues of the scaled information below this part of the largest count as zero: their direction is not determined."""


class NotIdentifiable(UserWarning):
    """The data don't determine some combination of the parameters."""


@dataclass(frozen=True, eq=False)
class Information:
    """Fisher's information about all unknowns, on their own scale.

    Attributes
    ----------
    matrix
        The expected information about the model's parameters and the observed one about the noise, with the priors'
        curvature, shape ``(q, q)``.
    covariance
        Its inverse; rows and columns of parameters that are not determined are infinite.
    undetermined
        For each direction that is not determined, the parameters that take part in it with their weights.
    condition
        Ratio of the largest to the smallest eigenvalue of the matrix, scaled to ones on its diagonal.
    """

    matrix: np.ndarray
    covariance: np.ndarray
    undetermined: list[dict[str, float]]
    condition: float

    @property
    def standard_errors(self) -> np.ndarray:
        """Shape ``(q,)``; infinite where a parameter is not determined."""
        return np.sqrt(np.diag(self.covariance))


def fisher_information(objective: Objective, z: np.ndarray) -> Information:
    """The information at `z`, by forward sensitivities of the solution.

    For independent observations with predictions ``μ(x)`` it is ``Σ wᵢ I(μᵢ) ∂μᵢ/∂x ∂μᵢ/∂xᵀ``, where ``I`` belongs to the
    distribution (Seber & Wild, *Nonlinear Regression*, 1989, section 2.1, for normal noise).

    Warns
    -----
    NotIdentifiable
        If the matrix is singular to working precision.
    """
    matrix = objective.information_of_values(z)
    names = objective.unknowns.names
    # Scaled, so that units don't matter.
    scale = np.sqrt(np.diag(matrix))
    scale[scale == 0] = 1.0
    eigenvalues, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    null = eigenvalues < SINGULAR * eigenvalues[-1]
    inverse = (vectors[:, ~null] / eigenvalues[~null]) @ vectors[:, ~null].T / np.outer(scale, scale)
    undetermined = []
    for vector in vectors[:, null].T:
        taking_part = np.abs(vector) > 1e-3
        inverse[taking_part, :] = np.inf
        inverse[:, taking_part] = np.inf
        undetermined.append({name: float(v) for name, v, yes in zip(names, vector, taking_part, strict=True) if yes})
    smallest = max(float(eigenvalues[0]), 0.0)
    condition = float(eigenvalues[-1]) / smallest if smallest else np.inf
    if undetermined:
        together = "; ".join(" with ".join(x) if len(x) > 1 else next(iter(x)) for x in undetermined)
        warnings.warn(
            f"the data don't determine {together}: Fisher's information is singular there, and their standard errors are "
            "infinite. Fix one of them, give a prior, or observe more",
            NotIdentifiable,
            stacklevel=3,
        )
    return Information(matrix, inverse, undetermined, condition)
