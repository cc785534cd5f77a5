"""Errors that torchdiffeq's users may catch as they did."""

from __future__ import annotations

from ...errors import SolveFailed


class InputError(ValueError, AssertionError):
    """An argument is invalid. torchdiffeq raises an AssertionError in most of these cases."""


class StepsFailed(SolveFailed, AssertionError):
    """The solver gave up. torchdiffeq raises an AssertionError ("underflow in dt", "max_num_steps exceeded")."""

    _otherwise = ""  # nothing else can be asked of torchdiffeq's functions

    @classmethod
    def of(cls, error: SolveFailed) -> StepsFailed:
        """The same error as one of this class."""
        return cls(error.retcode, error.t, error.solution, error.advice)
