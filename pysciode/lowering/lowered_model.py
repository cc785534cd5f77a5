"""The result of lowering: Julia source, with what the Julia side must know about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class LoweredModel:
    """Julia source of a model's functions.

    All vectors are flat, in C order; one-based, read and written with ``x[i]`` only, so that the functions run on any
    ``AbstractVector`` with linear indexing: the project's raw-pointer vector, ``Vector``, views, and vectors of dual numbers.
    Every function takes a workspace as its last argument, made by the source's ``workspace(::Type{T})`` (``nothing`` where
    none is needed), and returns ``nothing``:

    ``f!(du, u, p, t, w)``, ``vjp!(dlam, lam, u, p, t, w)``, ``vjp_p!(dp, lam, u, p, t, w)``,
    ``vjp_both!(dlam, dp, lam, u, p, t, w)``, ``jvp!(dv, v, u, p, t, w)``, ``tgrad!(dT, u, p, t, w)``,
    ``jac!(J, u, p, t, w)`` and ``paramjac!(pJ, u, p, t, w)`` with `J` and `pJ` flat column-major matrices of ``n`` rows,
    ``jac_sparse!(nz, u, p, t, w)`` with the non-zeros in CSC order of `sparsity`,
    and ``f_oop(u, p, t) -> du``, out of place and free of mutation, for Zygote and Tracker.

    In the form ``"device"`` all vectors lie on a device, such as a GPU, and no element is read or written from the host: the
    functions launch kernels (``Kernels.launch!``). They are those above but for ``jac_sparse!`` and ``f_oop``;
    ``workspace(like)`` takes a vector of that device, and has the model's constants moved there, too. Vectors have the model's
    element type.

    Attributes
    ----------
    functions
        The names among these that the source defines.
    constants
        Large constants: each name is bound in the model's Julia module to a flat ``Vector`` before the source is evaluated.
    sparsity
        ``(colptr, rowval)``, one-based, of the Jacobian's structural non-zeros, where it is known.
    apart
        Whether the source takes the constants as arguments instead; see :mod:`pysciode.lowering.numbers_apart`.
    """

    source: str
    functions: frozenset[str]
    form: Literal["scalar", "array", "julia", "callback", "device"]
    n: int
    n_params: int
    dtype: np.dtype
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    sparsity: tuple[np.ndarray, np.ndarray] | None = None
    apart: bool = False
