"""Results of fits as JSON files."""

from __future__ import annotations

import inspect
import json
import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributions

from ..engines import get_engine
from ..methods.algorithms import Algorithm
from ..problems.base import Problem
from . import likelihoods
from .experiment import Experiment
from .objective import Objective
from .observation import as_observation
from .unknowns import Parameter, Unknown, Unknowns

if TYPE_CHECKING:
    from .fit_result import FitResult

FORMAT = 1
_ARRAYS = ("values", "covariance", "searches")


def save(result: FitResult, path: str | os.PathLike[str]) -> None:
    """See :meth:`FitResult.save`."""
    objective = result._objective()
    numbers = {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in vars(result).items()
        if key not in ("objective", "problem")
    }
    algorithm: Algorithm | None = objective.options.get("algorithm")
    content = {
        "format": FORMAT,
        "pysciode": version("pysciode"),
        "result": numbers,
        "parameters": [_parameter_to_json(x) for x in objective.unknowns.parameters],
        "n_model": objective.n_model,
        "likelihood": {
            "name": type(objective.likelihood).__name__,
            "scatter": _scatter_to_json(objective.likelihood, len(objective.series)),
        },
        "experiments": [_experiment_to_json(x.experiment) for x in objective.simulations],
        "options": {key: value for key, value in objective.options.items() if _is_plain(value)},
        "algorithm": None if algorithm is None else algorithm.name,
    }
    Path(path).write_text(json.dumps(content, indent=1) + "\n")


def load(path: str | os.PathLike[str], problem: Problem | None, observe: Any) -> dict[str, Any]:
    """The fields of a :class:`FitResult`; see :meth:`FitResult.load`."""
    try:
        content = json.loads(Path(path).read_text())
        known = content["format"] == FORMAT
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a saved fit: {error}") from error
    if not known:
        raise ValueError(f"{path} has format {content['format']}, of another version of pysciode; this one reads {FORMAT}")
    numbers = content["result"]
    for key in _ARRAYS:
        if numbers[key] is not None:
            numbers[key] = np.array(numbers[key], float)
    numbers["names"] = tuple(numbers["names"])
    return numbers if problem is None else {**numbers, "objective": _objective(content, problem, observe)}


def _objective(content: dict[str, Any], problem: Problem, observe: Any) -> Objective:
    n = content["n_model"]
    parameters = [_parameter_from_json(x) for x in content["parameters"]]
    unknowns = [Unknown(*x) for x in zip(content["result"]["names"], parameters, strict=True)]
    kind = getattr(likelihoods, content["likelihood"]["name"])
    scatter = content["likelihood"]["scatter"]
    rest = iter(unknowns[n:])
    likelihood = kind() if scatter is None else kind([next(rest).parameter if x is None else x for x in scatter])
    names = dict.fromkeys(x.name.partition("@")[0] for x in unknowns[:n])
    first = {x.name.partition("@")[0]: x.parameter for x in reversed(unknowns[:n])}
    local = {x.name.partition("@")[0] for x in unknowns[:n] if "@" in x.name}
    asked = {name: replace(first[name], local=name in local) for name in names}
    # Whichever engine there is: the file may have come from another machine.
    options = content["options"] | {"engine": get_engine(None)}
    if content["algorithm"] is not None:
        options["algorithm"] = Algorithm(content["algorithm"])
    experiments = [Experiment(**x) for x in content["experiments"]]
    objective = Objective(problem, experiments, asked, likelihood, as_observation(observe, problem), options)
    if objective.unknowns.names != tuple(x.name for x in unknowns):
        raise ValueError("problem is not the one of the saved fit: its parameters have other names")
    objective.unknowns = Unknowns(unknowns)
    return objective


def _scatter_to_json(likelihood: likelihoods.Likelihood, count: int) -> list[float | None] | None:
    """The known scatter of each series, None where it was estimated; None for distributions without one."""
    if likelihood.noise is None:
        return None
    return [None if np.isnan(x) else float(x) for x in likelihood.known(count)]


def _experiment_to_json(experiment: Experiment) -> dict[str, Any]:
    found = {key: getattr(experiment, key) for key in ("t", "observed", "u0", "p", "t0", "weights", "series", "name")}
    return {key: _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    return value.tolist() if isinstance(value, np.ndarray) else value


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _parameter_to_json(parameter: Parameter) -> dict[str, Any]:
    found = {key: getattr(parameter, key) for key in ("start", "lower", "upper")}
    prior = parameter.prior
    if prior is not None:
        # Of two parametrisations (probabilities, logits) the constructor takes either.
        takes = inspect.signature(type(prior)).parameters
        arguments = [key for key in prior.arg_constraints if key in takes]
        if "probs" in arguments and "logits" in arguments:
            arguments.remove("logits")
        found["prior"] = {"name": type(prior).__name__, "arguments": {key: getattr(prior, key).tolist() for key in arguments}}
    return found


def _parameter_from_json(found: dict[str, Any]) -> Parameter:
    prior = found.pop("prior", None)
    if prior is not None:
        arguments = {key: torch.tensor(value) for key, value in prior["arguments"].items()}
        prior = getattr(distributions, prior["name"])(**arguments)
    return Parameter(**found, prior=prior)
