"""What can go wrong, as types: one class for each row of the contract that users see."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any, Protocol

INSTALL_COMMAND = "python -m pysciode install"


class PysciodeError(Exception):
    """Base class of the errors that pysciode raises beside ``ValueError`` and ``TypeError``."""

    def __reduce__(self) -> tuple:
        # Worker processes hand errors over pickled. Of itself a pickle would call the class with the message alone.
        return (_restored, (type(self), self.args, self.__dict__))


def _restored(kind: type[PysciodeError], args: tuple, state: dict[str, Any]) -> PysciodeError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class CaptureError(PysciodeError):
    """A model uses something that can't be turned into Julia source.

    Attributes
    ----------
    operation
        The operation at fault, such as ``"aten.sort.default"``.
    where
        ``"file.py:12: the line"`` of the user's code, where it is known.
    """

    def __init__(self, reason: str, *, operation: str | None = None, where: str | None = None) -> None:
        self.reason = reason
        self.operation = operation
        self.where = where
        message = reason
        if where:
            message += f"\n  at {where}"
        message += (
            "\nEither rewrite that part of the model, or pass capture='callback': then Python is called from the "
            "solver, which is correct but 10 to 100 times slower."
        )
        super().__init__(message)


class IndexOutOfRange(IndexError, PysciodeError):
    """A model reads or writes outside of an array, at an index that is computed from its state, time or parameters.

    Where only a trial step of a solver does, the solver takes a smaller step, and nothing is raised.

    Attributes
    ----------
    where
        File, line and text of the user's code; None if that is not known.
    """

    def __init__(self, reason: str, *, where: str | None = None) -> None:
        self.where = where
        super().__init__(reason + (f"\n  at {where}" if where else ""))


class PartialSolution(Protocol):
    """What a :class:`~pysciode.Solution` and a :class:`~pysciode.EnsembleSolution` have in common."""

    @property
    def t(self) -> Any: ...
    @property
    def u(self) -> Any: ...
    @property
    def v(self) -> Any: ...
    @property
    def success(self) -> bool: ...
    def to_numpy(self) -> tuple[Any, Any]: ...
    def __len__(self) -> int: ...


class SolveFailed(PysciodeError):
    """The solver gave up before the end of the time span.

    Attributes
    ----------
    retcode
        SciML's return code, such as ``"MaxIters"``.
    t
        The time reached.
    solution
        The partial solution, up to `t`: a :class:`~pysciode.Solution`, of an ensemble an :class:`~pysciode.EnsembleSolution`.
    advice
        The remedy; may be empty.
    """

    _otherwise = " (throw=False returns the partial solution instead)"

    def __init__(self, retcode: str, t: float, solution: PartialSolution | None, advice: str = "") -> None:
        self.retcode = retcode
        self.t = t
        self.solution = solution
        self.advice = advice
        message = f"the solver stopped at t = {t:g} with retcode {retcode}"
        if advice:
            message += f": {advice}"
        super().__init__(message + self._otherwise)


class GradientFailed(PysciodeError):
    """A sensitivity method did not produce a gradient that can be trusted.

    Attributes
    ----------
    sensealg
        The name of the method at fault.
    """

    def __init__(self, sensealg: str, reason: str, advice: str = "") -> None:
        self.sensealg = sensealg
        self.reason = reason
        message = f"{sensealg}: {reason}"
        if advice:
            message += f". {advice}"
        super().__init__(message)


class EngineUnavailable(PysciodeError):
    """A feature needs an engine, or a part of one, that is not installed.

    Attributes
    ----------
    feature
        The feature that is not available.
    reason
        Why it is not available; may be empty.
    mend
        The remedy.
    """

    def __init__(self, feature: str, reason: str = "", *, mend: str | None = f"Install it with: {INSTALL_COMMAND}") -> None:
        self.feature = feature
        self.reason = reason
        self.mend = mend
        message = f"{feature} needs the Julia engine" if not reason else f"{feature}: {reason}"
        super().__init__(f"{message}. {mend}" if mend else message)


class OutOfDeviceMemory(MemoryError, PysciodeError):
    """A GPU has too little memory left for a solve. What the solve held there is free again.

    Attributes
    ----------
    device
        Which, such as ``"cuda:0"``.
    wanted
        Bytes that were asked for; None where that is not known.
    memory
        Bytes by what they are: ``"total"`` and ``"free"`` on the device, ``"torch_allocated"`` in torch's tensors,
        ``"torch_reserved"`` those and what torch's allocator keeps for later ones, ``"julia_reserved"`` what CUDA.jl's pool
        holds, ``"julia_limit"`` the most that it may. Only what is known is there.
    """

    def __init__(self, device: str, wanted: int | None = None, memory: dict[str, int] | None = None) -> None:
        self.device = device
        self.wanted = wanted
        self.memory = memory or {}
        message = f"{device} is out of memory"
        if wanted:
            message += f": the solve asked for {_size(wanted)} more"
        super().__init__(f"{message}.{self._holders()} {self._advice()}")

    def _holders(self) -> str:
        said = []
        if {"free", "total"} <= self.memory.keys():
            said.append(f"{_size(self.memory['free'])} of {_size(self.memory['total'])} are free")
        if "torch_reserved" in self.memory:
            held, used = (self.memory.get(f"torch_{x}", 0) for x in ("reserved", "allocated"))
            said.append(f"torch holds {_size(held)}, {_size(held - used)} of these in no tensor")
        if "julia_reserved" in self.memory:
            said.append(f"CUDA.jl's pool holds {_size(self.memory['julia_reserved'])}")
        return f" {'; '.join(said)}." if said else ""

    def _advice(self) -> str:
        ways = []
        idle = self.memory.get("torch_reserved", 0) - self.memory.get("torch_allocated", 0)
        if idle > 0.05 * self.memory.get("total", idle):
            ways.append("call torch.cuda.empty_cache() before the solve, which gives back what torch keeps for later")
        if "julia_limit" in self.memory:
            ways.append(f"raise JULIA_CUDA_HARD_MEMORY_LIMIT, which lets CUDA.jl have {_size(self.memory['julia_limit'])}")
        ways += [
            "solve smaller batches",
            "save fewer times (saveat)",
            "for gradients take BacksolveAdjoint, or another adjoint with checkpointing=True, which keep less of the solution",
        ]
        return "Ways out: " + "; ".join(ways)


def _size(count: float) -> str:
    """A number of bytes for people."""
    unit = "bytes"
    for larger in ("KiB", "MiB", "GiB"):
        if count >= 1000:
            count, unit = count / 1024, larger
    return f"{count:.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"


class JuliaError(PysciodeError):
    """An exception of the Julia side, with Julia's message; its stack is in ``__cause__``."""


class FallbackWarning(UserWarning):
    """A stand-in hands a call to the library that it stands in for, or leaves an option out; the message says why."""


class AccuracyWarning(UserWarning):
    """What was asked for is known to be less accurate than its tolerances say; the message says why, and what to take."""


class CallbackWarning(UserWarning):
    """A function can't be captured, so the solver calls Python, which is slow; said once for each function."""


def depth_of_user() -> int:
    """For `warnings.warn`: the nearest frame that is not this package's, counted from the caller."""
    root, depth = __name__.partition(".")[0], 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == root:
        frame, depth = frame.f_back, depth + 1
    return depth


def require_extra_package(module: str, feature: str, extra: str) -> None:
    """See that an optional Python package is there.

    Raises
    ------
    ImportError
        With the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{feature} needs {module}: pip install 'pysciode[{extra}]'", name=module)
