"""Experiments as functions of the unknown values: solves and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..problems.base import Problem, remake, with_values
from ..solving.solution import Solution
from ..solving.solve import solve
from .experiment import Experiment
from .observation import Observe, check_prediction
from .unknowns import Parameter, Unknown, as_parameter

_TORCH = {np.dtype("float32"): torch.float32, np.dtype("float64"): torch.float64}


class Simulation:
    """One experiment's solve.

    Attributes
    ----------
    problem
        With the initial state, time span and fixed parameters of the experiment.
    times, rows
        Different times in order, and of each observation the row among them.
    u0_places, p_places
        ``(place, unknown)``: which flat entries are unknown, and which of the unknowns they are; shapes ``(2, ·)``.
    """

    def __init__(self, problem: Problem, experiment: Experiment, observe: Observe) -> None:
        self.experiment = experiment
        self.observe = observe
        self.times, self.rows = np.unique(experiment.t, return_inverse=True)
        t0 = problem.tspan[0] if experiment.t0 is None else experiment.t0
        if self.times[0] < t0:
            raise ValueError(f"experiment {experiment.name!r} has a time, {self.times[0]:g}, before its start at {t0:g}")
        if self.times[-1] <= t0:
            raise ValueError(f"experiment {experiment.name!r} has no time after its start at {t0:g}")
        span = (float(t0), float(self.times[-1]))
        if experiment.u0 is None:
            self.problem = remake(problem, tspan=span)
        else:
            self.problem = problem.with_state(_like(problem.u0, experiment.u0, experiment.name), tspan=span)
        self.dtype = _TORCH[np.dtype(problem.dtype)]
        p = np.array(problem.flat_p())
        for name, value in experiment.p.items():
            p[place(problem, name)] = value
        self.p = torch.from_numpy(p)
        self.u0 = torch.from_numpy(np.array(self.problem.flat_u0()))

    def connect(self, names: Sequence[str]) -> None:
        """Note the places of the unknowns with these names."""
        own = f"@{self.experiment.name}"
        at = {name.removesuffix(own): i for i, name in enumerate(names) if name.endswith(own) or "@" not in name}
        fixed = self.experiment.p
        states = state_names(self.problem)
        self.u0_places = _places([(j, at[name]) for j, name in enumerate(states) if name in at])
        parameters = self.problem.layout.names
        self.p_places = _places([(j, at[name]) for j, name in enumerate(parameters) if name in at and name not in fixed])

    def until(self, end: float) -> Simulation:
        """The same experiment over a longer time."""
        longer = copy(self)
        longer.problem = remake(self.problem, tspan=(self.problem.tspan[0], end))
        return longer

    def values(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The flat initial state and flat parameters for the unknown values ``x``."""
        x = x.to(self.dtype)
        u0, p = self.u0, self.p
        if self.u0_places.numel():
            u0 = u0.index_copy(0, self.u0_places[0], x[self.u0_places[1]])
        if self.p_places.numel():
            p = p.index_copy(0, self.p_places[0], x[self.p_places[1]])
        return u0, p

    def solve(self, x: torch.Tensor, times: np.ndarray, options: Mapping[str, Any]) -> Solution:
        """The solution for the unknown values ``x`` at other times of the same experiment."""
        u0, p = self.values(x)
        problem = with_values(self.problem, u0.reshape(self.problem.shape), p)
        return solve(problem, saveat=times, **options)

    def predict(self, x: torch.Tensor, options: Mapping[str, Any], times: np.ndarray | None = None) -> torch.Tensor:
        """Predictions for each observation, or for other times in order, shape ``(k, m)``, in float64."""
        at = self.times if times is None else times
        solution = self.solve(x, at, options)
        p = self.problem.layout.unflatten(self.values(x)[1])
        y = self.observe(solution.states, p, torch.from_numpy(at))
        y = check_prediction(y, len(at), len(self.experiment.series)).double()
        return y[torch.from_numpy(self.rows)] if times is None else y


def state_names(problem: Problem) -> tuple[str, ...]:
    """Names of the initial values: ``u0[0]``, ``u0[1,2]``; ``u0`` for a number."""
    return tuple(f"u0{name.removeprefix('u')}" for name in problem.state_names)


def place(problem: Problem, name: str) -> int:
    """Where a parameter lies in the flat vector.

    Raises
    ------
    ValueError
        If no parameter has this name.
    """
    try:
        return problem.layout.names.index(name)
    except ValueError:
        raise ValueError(f"the problem has no parameter {name!r}; it has {_some(problem.layout.names)}") from None


def find_unknowns(problem: Problem, simulations: Sequence[Simulation], parameters: Any) -> list[Unknown]:
    """Return the unknowns, with a start for each.

    Parameters
    ----------
    parameters
        Names, or a dict from names to what :func:`~pysciode.fitting.unknowns.as_parameter` takes; the name of an array
        stands for all its entries, ``u0`` for the whole initial state. None is all parameters.

    Raises
    ------
    TypeError, ValueError
        For a name that does not exist or comes twice, or a start outside its bounds.
    """
    layout, states = problem.layout, state_names(problem)
    if parameters is None:
        parameters = dict.fromkeys(layout.names)
    elif isinstance(parameters, str):
        parameters = {parameters: None}
    elif not isinstance(parameters, Mapping):
        parameters = dict.fromkeys(parameters)
    if not parameters:
        raise ValueError("there is nothing to estimate: the problem has no parameters, and parameters names none")
    blocks = {name: layout.names[at] for (name, _, _), at in zip(layout.entries, layout.slices, strict=True)}
    blocks |= {name: (name,) for name in layout.names} | {"u0": states} | {name: (name,) for name in states}
    values = dict(zip((*states, *layout.names), np.concatenate([problem.flat_u0(), problem.flat_p()]), strict=True))
    found: dict[str, Unknown] = {}
    for key, given in parameters.items():
        if key not in blocks:
            raise ValueError(f"parameters names {key!r}, which the problem hasn't; it has {_some((*layout.names, *states))}")
        parameter = as_parameter(key, given)
        for name in blocks[key]:
            for unknown in _unknowns_of(name, parameter, values[name], name in states, simulations):
                if unknown.name in found:
                    raise ValueError(f"parameters names {name!r} twice")
                found[unknown.name] = unknown
    return list(found.values())


def _unknowns_of(name: str, parameter: Parameter, value: float, is_state: bool, simulations: Sequence[Simulation]) -> list[Unknown]:
    if not parameter.local:
        own = [s.experiment.name for s in simulations if is_state and s.experiment.u0 is not None]
        if own and len(simulations) > 1:
            raise ValueError(
                f"{name} is to be estimated for all experiments, but {own[0]!r} has an initial state of its own: "
                f"Parameter(local=True) estimates one for each"
            )
        own_value = float(simulations[0].u0[state_names(simulations[0].problem).index(name)]) if own else value
        return [Unknown(name, _started(name, parameter, own_value))]
    found = []
    for simulation in simulations:
        experiment = simulation.experiment
        if name in experiment.p:
            continue
        if is_state:
            value = float(simulation.u0[state_names(simulation.problem).index(name)])
        found.append(Unknown(f"{name}@{experiment.name}", _started(name, parameter, value)))
    return found


def _started(name: str, parameter: Parameter, value: float) -> Parameter:
    if parameter.start is not None:
        return parameter
    if not parameter.contains(value):
        raise ValueError(
            f"{name} is {value:g} in the problem, which does not lie between its bounds {parameter.lower} and "
            f"{parameter.upper}: give Parameter a start"
        )
    return replace(parameter, start=float(value))


def _places(pairs: list[tuple[int, int]]) -> torch.Tensor:
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T.contiguous()


def _like(u0: Any, given: Any, name: str | None) -> Any:
    """An initial state of the type that the problem's has."""
    if isinstance(u0, torch.Tensor):
        given = torch.as_tensor(given, dtype=u0.dtype)
    else:
        given = np.asarray(given, u0.dtype)
    if given.shape != u0.shape:
        raise ValueError(f"u0 of experiment {name!r} must have the problem's shape {tuple(u0.shape)}, not {tuple(given.shape)}")
    return given


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
