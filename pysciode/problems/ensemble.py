"""Ensembles: one problem with many initial states and parameters."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from ..arrays.checks import check_leaves, state_of
from ..arrays.parameters import ParameterLayout, is_tensor
from .base import Problem, check_problem, with_values


class EnsembleProblem:
    """Many problems that differ in initial state and parameters alone.

    Parameters
    ----------
    problem
        The problem of all members; its own `u0` and `p` hold where none are given here.
    u0
        Initial states, shape ``(N, *problem.shape)``, NumPy or torch; None: that of `problem`. Of second-order and dynamical
        problems whole states, velocities before positions.
    p
        Parameters in the structure of the problem's, each array with a leading axis of length `N` (so a number becomes an
        array of shape ``(N,)``); None: those of `problem`. Parameters of modules are the same for all members.

    Attributes
    ----------
    problem
        The first member.

    Raises
    ------
    TypeError, ValueError
        Where an argument has a wrong type, shape or dtype, or is not finite; the argument is named.

    Examples
    --------
    >>> ensemble = EnsembleProblem(problem, p=rng.uniform(20.0, 30.0, (1000, 3)))
    >>> sol = solve(ensemble, Tsit5(), saveat=1.0)
    """

    ensemble: ClassVar[Literal[True]] = True

    def __init__(self, problem: Problem, u0: Any = None, p: Any = None) -> None:
        check_problem(problem)
        if u0 is None and p is None:
            raise ValueError("u0 or p must be given, with a leading axis: otherwise all members are the same")
        leaves: list[Any] = []
        if p is not None:
            layout, leaves = ParameterLayout.of(p)
            _check_structure(problem, layout)
        in_torch = problem.is_torch or is_tensor(u0) or any(map(is_tensor, leaves))
        sizes = {len(x) for x in leaves}
        if u0 is not None:
            u0, dtype = state_of(u0, leaves, in_torch)
            if tuple(u0.shape[1:]) != problem.shape or u0.ndim != len(problem.shape) + 1:
                wanted = ", ".join(("N", *map(str, problem.shape)))
                raise ValueError(f"u0 has shape {tuple(u0.shape)}; it must be ({wanted}), a state of the problem for each member")
            sizes.add(len(u0))
        else:
            dtype = problem.dtype
        if len(sizes) != 1:
            raise ValueError(f"u0 and p are of {' and '.join(map(str, sorted(sizes)))} members; they must be of one number")
        (size,) = sizes
        if not size:
            raise ValueError("p has no members" if u0 is None else "u0 has no members")
        if p is not None:
            check_leaves(leaves, [f"p: {name}" for name, _, _ in layout.entries], dtype)
        changes = {} if p is None else {"p": layout.rebuild([x[0] for x in leaves])}
        first = problem.u0 if u0 is None else u0[0]
        self.problem = problem.with_state(first, **changes)
        self.u0 = u0
        self.p = p
        self._size = size
        self._leaves = leaves
        self._rows = None if self.problem.is_torch else self._numpy_rows()

    def __len__(self) -> int:
        return self._size

    @property
    def is_torch(self) -> bool:
        """Whether the states are tensors."""
        return self.problem.is_torch

    def __getitem__(self, i: int) -> Problem:
        """One member, as a problem of its own."""
        i = range(len(self))[i]
        u0, p = self.rows()
        return self.member(u0[i if len(u0) > 1 else 0], p[i if len(p) > 1 else 0])

    def __repr__(self) -> str:
        varied = " and ".join(name for name, x in (("u0", self.u0), ("p", self.p)) if x is not None)
        return f"<EnsembleProblem: {len(self)} members that differ in {varied}, of {self.problem!r}>"

    def rows(self) -> tuple[Any, Any]:
        """Flat states and parameters, shapes ``(N, n)`` and ``(N, size of the parameters)``; one row where all have the same.

        Of tensors, the values that they have now, with their gradients.
        """
        return self._torch_rows() if self._rows is None else self._rows

    def member(self, u0: Any, p: Any) -> Problem:
        """The problem with a row of states and one of parameters; nothing is checked again."""
        problem = self.problem
        u0 = u0.reshape(problem.shape)
        if self.is_torch:
            return with_values(problem, u0, p)
        problem.model  # captured once, for all members
        return problem._copy(u0=u0, _flat_p=p, leaves=problem.layout.split(p))

    def _numpy_rows(self) -> tuple[np.ndarray, np.ndarray]:
        problem, n = self.problem, self.problem.n
        u0 = (problem.u0 if self.u0 is None else self.u0).reshape(-1, n)
        if self.p is None:
            return u0, problem.flat_p().reshape(1, -1)
        parts = [np.asarray(x, problem.dtype).reshape(len(self), -1) for x in self._leaves]
        return u0, np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), problem.dtype)

    def _torch_rows(self) -> tuple[Any, Any]:
        import torch

        problem, n = self.problem, self.problem.n
        u0 = (problem.u0 if self.u0 is None else self.u0).reshape(-1, n)
        leaves, count = (problem.leaves, 1) if self.p is None else (self._leaves, len(self))
        given = [torch.as_tensor(x, dtype=u0.dtype, device=u0.device).reshape(count, -1) for x in leaves]
        if self.p is not None:
            modules = problem.leaves[problem.layout.n_leaves :]
            given += [x.reshape(1, -1).expand(count, -1) for x in modules]
        return u0, torch.cat(given, dim=1) if given else u0.new_zeros((1, 0))


def _check_structure(problem: Problem, layout: ParameterLayout) -> None:
    """Each array of the members' parameters must be the problem's, with a leading axis."""
    wanted = problem.layout.entries[: problem.layout.n_leaves]
    if [name for name, _, _ in wanted] != [name for name, _, _ in layout.entries]:
        names = ", ".join(name for name, _, _ in wanted) or "none"
        raise ValueError(f"p must have the structure of the problem's parameters ({names}), each with a leading axis of N")
    for (name, _, one), (_, _, found) in zip(wanted, layout.entries, strict=True):
        if len(found) != len(one) + 1 or found[1:] != one:
            shape = ", ".join(("N", *map(str, one)))
            raise ValueError(f"p: {name} has shape {found}; it must be ({shape}), a value for each of the N members")
