"""Time series with missing values, observed at times of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


class Steps(NamedTuple):
    """Observed rows only, the latest first, filled up with zeros.

    Attributes
    ----------
    values, mask
        Shape ``(batch, m, d)``; the mask is one where a value was observed.
    times
        Shape ``(batch, m)``; a row is filled up with its earliest time.
    observed
        Shape ``(batch, m)``: False where a row is only filled up.
    """

    values: torch.Tensor
    mask: torch.Tensor
    times: torch.Tensor
    observed: torch.Tensor


@dataclass(frozen=True)
class Observations:
    """Checked observations; make them with :meth:`of`.

    Attributes
    ----------
    values
        Shape ``(batch, n, d)``, zero where nothing was observed.
    mask
        The same shape, bool.
    times
        Shape ``(n,)`` or ``(batch, n)``; finite, and where a whole row is missing of no consequence.
    """

    values: torch.Tensor
    mask: torch.Tensor
    times: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, times: Any, mask: torch.Tensor | None = None) -> Observations:
        """Check and clean.

        Parameters
        ----------
        x
            Shape ``(batch, n, d)``; NaN is a missing value.
        times
            Shape ``(n,)``, the same for all samples, or ``(batch, n)``; in any order. Where all of ``x[i, j]`` is missing
            ``times[i, j]`` may be anything, so that shorter series can be filled up.
        mask
            What was observed: bool or 0 and 1, shape ``(batch, n, d)`` or, for whole rows, ``(batch, n)``.

        Raises
        ------
        TypeError, ValueError
            If an argument is invalid; the message names it.
        """
        if not (isinstance(x, torch.Tensor) and x.dtype in (torch.float32, torch.float64)):
            raise TypeError(f"x must be a float32 or float64 tensor, not {getattr(x, 'dtype', type(x).__name__)}")
        if x.ndim != 3:
            raise ValueError(f"x has shape {tuple(x.shape)}; it must be (batch, n, d)")
        times = check_times(times, "times", x.dtype, batch=len(x), count=x.shape[1])
        present = ~torch.isnan(x)
        if mask is not None:
            present = present & _check_mask(mask, x)
        values = torch.where(present, x, 0)
        if torch.isinf(values).any():
            raise ValueError("x must be finite where it is observed")
        rows = present.any(2)
        bad = ~torch.isfinite(times)
        if bad.any():
            if (bad & rows).any():
                raise ValueError("times must be finite where something is observed")
            times = torch.where(bad, 0, times)
        return cls(values, present, times)

    @property
    def rows(self) -> torch.Tensor:
        """Where at least one value was observed, shape ``(batch, n)``."""
        return self.mask.any(2)

    def observed_times(self) -> torch.Tensor:
        """The times at which something was observed, in a row."""
        return self.times.expand(self.rows.shape)[self.rows]

    def backwards(self) -> Steps:
        """Each sample's observed rows from its last to its first, as many columns as the longest has rows."""
        rows = self.rows
        times = self.times.expand(rows.shape)
        order = torch.where(rows, times, -torch.inf).argsort(stable=True, dim=1, descending=True)
        order = order[:, : max(int(rows.sum(1).max()), 1)]
        observed = rows.gather(1, order)
        times = times.gather(1, order)
        earliest = torch.where(observed, times, torch.inf).amin(1, keepdim=True)
        columns = order[..., None].expand(-1, -1, self.values.shape[2])
        return Steps(
            self.values.gather(1, columns),
            self.mask.gather(1, columns).to(self.values.dtype),
            torch.where(observed, times, torch.where(earliest < torch.inf, earliest, 0)),
            observed,
        )


def check_times(times: Any, name: str, dtype: torch.dtype, batch: int | None, count: int | None = None) -> torch.Tensor:
    """`times` as a tensor of shape ``(count,)`` or ``(batch, count)``; they may be NaN.

    Raises
    ------
    TypeError, ValueError
        For times of another shape, or that are no numbers.
    """
    try:
        times = torch.as_tensor(times).to(dtype)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be an array of times, not {times!r}") from None
    right = times.ndim in ((1,) if batch is None else (1, 2)) and times.shape[-1] == (count or times.shape[-1])
    if not right or times.numel() == 0 or (times.ndim == 2 and len(times) != batch):
        n = "n" if count is None else count
        wanted = f"({n},)" if batch is None else f"({n},) or ({batch}, {n})"
        raise ValueError(f"{name} has shape {tuple(times.shape)}; it must be {wanted}")
    return times


def _check_mask(mask: Any, x: torch.Tensor) -> torch.Tensor:
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"mask must be a tensor, not {type(mask).__name__}")
    if tuple(mask.shape) not in (tuple(x.shape), tuple(x.shape[:2])):
        raise ValueError(f"mask has shape {tuple(mask.shape)}; it must be {tuple(x.shape)} or {tuple(x.shape[:2])}")
    if mask.dtype is not torch.bool:
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError("mask must hold 0 and 1 only")
        mask = mask.bool()
    return mask if mask.ndim == 3 else mask[..., None]
