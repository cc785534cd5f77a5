"""Errors that torchdiffeq's users may catch as they did."""

from __future__ import annotations

from ..errors import SolveFailed


class InputError(ValueError, AssertionError):
    """An argument can't be right. torchdiffeq raises an AssertionError in most of these cases."""


class StepsFailed(SolveFailed, AssertionError):
    """The solver gave up. torchdiffeq raises an AssertionError ("underflow in dt", "max_num_steps exceeded")."""

    @classmethod
    def of(cls, error: SolveFailed) -> StepsFailed:
        """The same error as one of this class."""
        out = cls.__new__(cls, *error.args)
        out.__dict__.update(error.__dict__)
        return out
