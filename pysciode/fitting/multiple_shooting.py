"""Multiple shooting: many short solves instead of a long one, with a penalty on the gaps between them.

The loss of one solve over a long horizon is rugged, and a fit of oscillations often ends where the trajectory lies flat
through their mean. Short solves that begin at the data can't drift from them, so their loss has no such minimum; the penalty
makes one trajectory of them in the end.

Bock, Plitt, "A multiple shooting algorithm for direct solution of optimal control problems" (9th IFAC World Congress, 1984),
whose states at the beginning of each group are unknowns of their own; Turan, Jäschke, "Multiple shooting for training neural
differential equations on time series" (IEEE Control Systems Letters 6, 2022, arXiv:2109.06786). Groups and loss are those of
``multiple_shoot`` in DiffEqFlux.jl.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arrays.real_values import whole_number
from ..methods.algorithms import Algorithm
from ..problems.base import Problem, check_problem, remake
from ..solving.solve import solve

GroupLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``loss(predicted, observed)`` or ``continuity_loss(end, start)`` to a tensor of one number."""

_KEEP: Any = object()


def sum_of_squares(predicted: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """The default loss of a group."""
    return (predicted - observed).square().sum()


def sum_of_distances(end: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """The default penalty of a gap."""
    return (end - start).abs().sum()


def group_ranges(n: int, group_size: int) -> list[range]:
    """Groups of `group_size` points of which neighbours share one; the last has what is left.

    Raises
    ------
    ValueError
        If `group_size` is below 2 or above `n`.

    Examples
    --------
    >>> group_ranges(10, 5)
    [range(0, 5), range(4, 9), range(8, 10)]
    """
    whole_number(group_size, "group_size", 2, n)
    return [range(i, min(n, i + group_size)) for i in range(0, n - 1, group_size - 1)]


class MultipleShooting(nn.Module):
    """A differentiable loss: the misfits of short solves, and the gaps between them.

    The times are split into groups of which neighbours share a point, see :func:`group_ranges`. Each group is a solve of its
    own, from the observation at its first time on. The loss is ``Σ loss(predicted, observed) + continuity · Σ
    continuity_loss(end of a group, start of the next)``. Called without arguments, the module returns it.

    Parameters
    ----------
    problem
        The model and its parameters; of ``u0`` only shape and dtype count, and ``tspan`` doesn't.
    t
        Times of the observations, shape ``(k,)``, strictly monotone.
    observed
        States at these times, shape ``(k, *shape of u0)``; NaN where nothing was observed.
    group_size
        Points in a group, from 2 to `k`; with `k` there is one group, which is single shooting.
    continuity
        Weight of the gaps. Being a sum of absolute values, the default penalty closes them exactly once its weight is large
        enough.
    loss
        ``loss(predicted, observed)`` of one group, both of shape ``(points, *shape of u0)``; in a group with missing values
        both hold the observed entries alone, as vectors. By default the sum of squares.
    continuity_loss
        ``continuity_loss(end, start)``, both of the shape of `u0`. By default the sum of absolute values.
    free_states
        True makes the groups' initial states parameters of their own, :attr:`states`: recommended for noisy or missing
        data. They start at the data, interpolated in time where these are missing, or at an array of shape
        ``(groups, *shape of u0)`` given instead of True.
    algorithm
        As in :func:`pysciode.solve`.
    solve_options
        Further arguments of :func:`pysciode.solve`: ``rtol``, ``atol``, ``sensealg``, ``engine``, …

    Attributes
    ----------
    groups
        Which observations each group has.
    states
        The free initial states, a ``nn.Parameter`` of shape ``(groups, *shape of u0)``, or None.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid (the message names it), or a group must start at a missing observation.

    Notes
    -----
    ``parameters()`` has the free states and every ``nn.Parameter`` of the problem, those of modules included. Other tensors
    in ``problem.p`` that require grad get gradients too, but the optimiser must be told of them.

    Examples
    --------
    >>> shooting = MultipleShooting(problem, t, observed, group_size=5, algorithm=ps.Tsit5())
    >>> optimizer = torch.optim.Adam(shooting.parameters(), lr=0.01)
    >>> train(shooting, lambda shooting, _: shooting(), None, optimizer, steps=500)
    """

    def __init__(
        self,
        problem: Problem,
        t: Any,
        observed: Any,
        group_size: int,
        *,
        continuity: float = 100.0,
        loss: GroupLoss | None = None,
        continuity_loss: GroupLoss | None = None,
        free_states: Any = False,
        algorithm: Algorithm | str | None = None,
        **solve_options: Any,
    ) -> None:
        super().__init__()
        _check_problem(problem)
        for name in ("saveat", "save_idxs", "throw", "dense"):
            if name in solve_options:
                raise TypeError(f"{name} can't be given: groups are solved for whole states at their times")
        if not isinstance(continuity, (int, float)) or not 0 <= continuity < float("inf"):
            raise ValueError(f"continuity must be a number, 0 or more, not {continuity!r}")
        self.continuity = continuity
        self.loss = sum_of_squares if loss is None else loss
        self.continuity_loss = sum_of_distances if continuity_loss is None else continuity_loss
        self.options = {"algorithm": algorithm, **solve_options}
        self._times = check_times(t)
        data = check_observed(observed, self._times, problem)
        self.groups = group_ranges(len(self._times), group_size)
        seen = ~np.isnan(data)
        self._seen = [None if seen[x].all() else torch.from_numpy(seen[x]) for x in self.groups]
        self._observed = [torch.from_numpy(data[x]) for x in self.groups]
        self.states: nn.Parameter | None = None
        if free_states is not False:
            shape = (len(self.groups), *problem.shape)
            starts = self._first_guess(data, problem) if free_states is True else _check_states(free_states, shape)
            self.states = nn.Parameter(torch.as_tensor(starts, dtype=self._observed[0].dtype))
        else:
            _check_starts(seen, self._times, self.groups)
        self.problem = remake(problem, u0=torch.zeros(problem.shape, dtype=self._observed[0].dtype))
        self.model_parameters = nn.ParameterList(x for x in problem.tensors if isinstance(x, nn.Parameter))

    def forward(self, p: Any = _KEEP) -> torch.Tensor:
        """The loss.

        Parameters
        ----------
        p
            Parameters that replace the problem's, in the same structure: for those that are computed anew at each step,
            such as the exponential of what is learnt.

        Raises
        ------
        SolveFailed
            If the solver gave up in one of the groups.
        """
        return self.loss_of(self.predict(p))

    def predict(self, p: Any = _KEEP) -> list[torch.Tensor]:
        """States of each group at its times, shape ``(points, *shape of u0)``; the first of them is where it starts."""
        if p is not _KEEP:
            problem = remake(self.problem, p=p)
        else:
            problem = self.problem
            _ = problem.model  # which the groups share then
        found = []
        for group, start in zip(self.groups, self._starts(), strict=True):
            times = self._times[group]
            piece = remake(problem, u0=start, tspan=(times[0], times[-1]))
            found.append(solve(piece, saveat=times, **self.options).u)
        return found

    def loss_of(self, predictions: Sequence[torch.Tensor]) -> torch.Tensor:
        """The loss of what :meth:`predict` returned."""
        total = torch.zeros((), dtype=predictions[0].dtype)
        for predicted, observed, seen in zip(predictions, self._observed, self._seen, strict=True):
            total = total + self.loss(*((predicted, observed) if seen is None else (predicted[seen], observed[seen])))
        for before, after in zip(predictions[:-1], predictions[1:], strict=True):
            total = total + self.continuity * self.continuity_loss(before[-1], after[0])
        return total

    def gaps(self, predictions: Sequence[torch.Tensor]) -> torch.Tensor:
        """End of each group less start of the next, shape ``(groups - 1, *shape of u0)``."""
        ends = [before[-1] - after[0] for before, after in zip(predictions[:-1], predictions[1:], strict=True)]
        return torch.stack(ends) if ends else predictions[0].new_zeros(0, *self.problem.shape)

    def _starts(self) -> Sequence[torch.Tensor]:
        return [x[0] for x in self._observed] if self.states is None else self.states.unbind()

    def _first_guess(self, data: np.ndarray, problem: Problem) -> np.ndarray:
        """The data at the groups' first times, interpolated linearly where they are missing."""
        order = np.argsort(self._times)
        first = self._times[[group[0] for group in self.groups]]
        columns = []
        for name, column in zip(problem.state_names, data.reshape(len(data), -1)[order].T, strict=True):
            seen = ~np.isnan(column)
            if not seen.any():
                raise ValueError(
                    f"{name} was never observed, so there is nothing to start it from: give the groups' initial states as free_states"
                )
            columns.append(np.interp(first, self._times[order][seen], column[seen]))
        return np.stack(columns, 1).reshape(-1, *problem.shape)

    def extra_repr(self) -> str:
        free = ", free states" if self.states is not None else ""
        return f"{len(self._times)} times in {len(self.groups)} groups, continuity={self.continuity:g}{free}"


def multiple_shooting(
    problem: Problem, t: Any, observed: Any, *, group_size: int, **options: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of multiple shooting, and the predictions of each group.

    For a training loop, :class:`MultipleShooting` checks its arguments once.

    Parameters
    ----------
    problem, t, observed, group_size, options
        As in :class:`MultipleShooting`. Free states are not supported here: they would be lost after the call.

    Returns
    -------
    loss
        A tensor without dimensions, with gradients to what `problem` depends on.
    predictions
        For each group shape ``(points, *shape of u0)``.

    Raises
    ------
    TypeError, ValueError, SolveFailed
        As there.
    """
    if options.get("free_states", False) is not False:
        raise ValueError("free_states are parameters that must be kept: use MultipleShooting")
    shooting = MultipleShooting(problem, t, observed, group_size, **options)
    predictions = shooting.predict()
    return shooting.loss_of(predictions), predictions


def check_times(t: Any, name: str = "t") -> np.ndarray:
    """Times as a float64 vector.

    Raises
    ------
    ValueError
        If they are not a vector of at least two, finite and strictly monotone.
    """
    times = np.array(_plain(t), np.float64)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"{name} has shape {times.shape}; it must be a vector of at least two times")
    steps = np.diff(times)
    if not np.isfinite(times).all() or not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError(f"{name} must be finite and strictly monotone")
    return times


def check_observed(observed: Any, times: np.ndarray, problem: Problem, name: str = "observed") -> np.ndarray:
    """Observed states as an array of the problem's dtype, shape ``(len(times), *shape of u0)``; NaN is allowed.

    Raises
    ------
    ValueError
        If the shape is another, or a value is infinite.
    """
    data = np.array(_plain(observed), problem.dtype)
    expected = (len(times), *problem.shape)
    if data.shape != expected:
        raise ValueError(f"{name} has shape {data.shape}; {len(times)} times of a state {problem.shape} are {expected}")
    if np.isinf(data).any():
        raise ValueError(f"{name} must be finite, or NaN where nothing was observed")
    return data


def _check_problem(problem: Any) -> None:
    check_problem(problem)
    if problem.velocity is not None:
        raise ValueError(f"problem must be of first order, not a {type(problem).__name__}: write velocities as states")


def _check_starts(seen: np.ndarray, times: np.ndarray, groups: list[range]) -> None:
    missing = [float(times[x[0]]) for x in groups if not seen[x[0]].all()]
    if missing:
        raise ValueError(
            f"observed has missing values where groups start (t = {', '.join(f'{x:g}' for x in missing)}): use "
            "free_states=True, or another group_size"
        )


def _check_states(states: Any, shape: tuple[int, ...]) -> np.ndarray:
    states = np.array(_plain(states), np.float64)
    if states.shape != shape:
        raise ValueError(f"free_states has shape {states.shape}, but the states of {shape[0]} groups are {shape}")
    if not np.isfinite(states).all():
        raise ValueError("free_states must be finite")
    return states


def _plain(x: Any) -> Any:
    return x.numpy(force=True) if isinstance(x, torch.Tensor) else x
