"""Write the model in Python; Julia's SciML solves it with any solver and any adjoint; NumPy and torch get the answer and
the gradient."""

from __future__ import annotations

import importlib
from typing import Any

from .algorithm_table import ALGORITHMS

# The names and where they are: nothing is imported before it is used, so that `import pysciode` is quick.
_HOMES = {
    "problems": "ODEProblem remake",
    "partitioned": "SecondOrderODEProblem DynamicalODEProblem SplitODEProblem",
    "ensembles": "EnsembleProblem",
    "ensemble_algorithms": "EnsembleSerial EnsembleThreads EnsembleGPUKernel",
    "ensemble_solution": "EnsembleSolution EnsembleSummary",
    "solving": "solve",
    "solution": "Solution Statistics",
    "algorithms": "Algorithm list_algorithms",
    "sensitivity": (
        "ForwardSensitivity ForwardDiffSensitivity BacksolveAdjoint InterpolatingAdjoint QuadratureAdjoint GaussAdjoint "
        "GaussKronrodAdjoint ReverseDiffAdjoint TrackerAdjoint ZygoteAdjoint EnzymeAdjoint MooncakeAdjoint default_sensealg"
    ),
    "parameters": "ParameterLayout",
    "capture.symbolic": "SymbolicModel",
    "comparison.adjoints": "compare_adjoints",
    "comparison.report": "AdjointReport SolverReport",
    "comparison.work_precision": "work_precision",
    "initialization": "BrownFullBasicInit ShampineCollocationInit CheckInit NoInit",
    "callbacks": "ContinuousCallback FunctionCallingCallback",
    "compat.torchdiffeq": "odeint odeint_adjoint odeint_dense odeint_event",
    "compat.scipy": "solve_ivp",
    "model_cache": "clear_models",
    "engines": "set_engine get_engine",
    "errors": (
        "PysciodeError CaptureError IndexOutOfRange SolveFailed GradientFailed EngineUnavailable OutOfDeviceMemory JuliaError CallbackWarning "
        "FallbackWarning AccuracyWarning"
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
_HOME |= {name.rstrip("*"): "algorithms" for names in ALGORITHMS.values() for name in names.split()}
_MODULES = ("discovery", "fitting", "nn")

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
