"""Weights of the Kullback–Leibler term that grow during training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KLAnnealing:
    """``schedule(step)`` is the weight at that step: `start` for `wait` steps, then linearly up to `stop` within `steps`.

    A weight that grows from nearly zero keeps the posterior from collapsing onto the prior before the decoder has learnt
    to use it: Bowman et al., "Generating Sentences from a Continuous Space" (CoNLL 2016, arXiv:1511.06349), section 3.1.
    With `cycles` the growth begins anew, each time with half of the cycle at the full weight: Fu et al., "Cyclical
    Annealing Schedule" (NAACL 2019, arXiv:1903.10145).

    Parameters
    ----------
    steps
        Steps from `start` to `stop`, those of all cycles together.
    wait
        Steps before.
    start, stop
        The weights; the bound is one on the likelihood at a weight of 1.
    cycles
        How often it grows.

    Raises
    ------
    ValueError
        If a number is invalid; the message names the argument.
    """

    steps: int
    wait: int = 0
    start: float = 0.0
    stop: float = 1.0
    cycles: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.cycles < 1 or self.wait < 0:
            raise ValueError(f"steps and cycles must be at least 1, wait at least 0, not {self.steps}, {self.cycles} and {self.wait}")
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"start and stop must be weights with start <= stop, not {self.start} and {self.stop}")

    def __call__(self, step: int) -> float:
        """The weight at `step`, counted from 0."""
        done = (step - self.wait) / self.steps
        if done >= 1 or done < 0:
            return self.stop if done >= 1 else self.start
        if self.cycles > 1:
            done = min(2 * (done * self.cycles % 1), 1)
        return self.start + (self.stop - self.start) * done
