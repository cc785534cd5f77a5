"""What can go wrong, as types: one class for each row of the contract that users see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .solution import Solution

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


class SolveFailed(PysciodeError):
    """The solver gave up before the end of the time span.

    Attributes
    ----------
    retcode
        SciML's return code, such as ``"MaxIters"``.
    t
        The time reached.
    solution
        The partial solution, up to `t`.
    """

    def __init__(self, retcode: str, t: float, solution: Solution | None, advice: str = "") -> None:
        self.retcode = retcode
        self.t = t
        self.solution = solution
        message = f"the solver stopped at t = {t:g} with retcode {retcode}"
        if advice:
            message += f": {advice}"
        super().__init__(message + " (throw=False returns the partial solution instead)")


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
    """What was asked for needs an engine, or a part of it, that is not installed.

    Attributes
    ----------
    feature
        What was asked for.
    reason
        Why it can't be had; may be empty.
    mend
        What to do about it.
    """

    def __init__(
        self, feature: str, reason: str = "", *, mend: str | None = f"Install it with: {INSTALL_COMMAND}"
    ) -> None:
        self.feature = feature
        self.reason = reason
        self.mend = mend
        message = f"{feature} needs the Julia engine" if not reason else f"{feature}: {reason}"
        super().__init__(f"{message}. {mend}" if mend else message)


class JuliaError(PysciodeError):
    """An exception of the Julia side, with Julia's message; its stack is in ``__cause__``."""


class FallbackWarning(UserWarning):
    """A stand-in hands a call to the library that it stands in for, or leaves an option out; the message says why."""


class CallbackWarning(UserWarning):
    """A function can't be captured, so the solver calls Python, which is slow; said once for each function."""
