"""Models written in Julia."""

from __future__ import annotations

import os
from pathlib import Path

from ..graphs.captured_model import JuliaModel


def capture_julia(f: str | os.PathLike[str]) -> JuliaModel:
    """A model from Julia source, or from the path of a ``.jl`` file.

    The source defines ``f!(du, u, p, t)`` or ``f(u, p, t)``, or its last value is a function of these arguments. `u` and `p`
    arrive as flat vectors in C order, whatever the state's own shape. It may also define, by these names and in SciML's
    convention, ``jac!(J, u, p, t)``, ``paramjac!(pJ, u, p, t)``, ``tgrad!(dT, u, p, t)``, ``jvp!(dv, v, u, p, t)``,
    ``vjp!(dlam, lam, u, p, t)`` and ``vjp_p!(dp, lam, u, p, t)``; what it doesn't define is left to SciML's automatic
    differentiation.

    Raises
    ------
    FileNotFoundError
        If a path names no file.
    ValueError
        If there is no code.
    """
    if isinstance(f, os.PathLike) or (f.rstrip().endswith(".jl") and "\n" not in f):
        path = Path(f)
        source, filename = path.read_text(encoding="utf-8"), str(path)
    else:
        source, filename = f, None
    if not any(line.split("#")[0].strip() for line in source.splitlines()):
        raise ValueError("the Julia source of the model has no code")
    return JuliaModel(source, filename)
