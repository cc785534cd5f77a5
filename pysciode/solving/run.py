"""One call of an engine, and the solution from its answer; torch problems go through :mod:`.autograd`."""

from __future__ import annotations

from typing import Any

from ..engines.base import Engine, SolveOptions, SolveRequest
from ..methods.adjoints import SensitivityAlgorithm
from ..methods.algorithms import Algorithm
from ..problems.base import Problem
from .solution import Solution


def run_numpy(
    problem: Problem,
    algorithm: Algorithm | None,
    options: SolveOptions,
    sensealg: SensitivityAlgorithm | None,
    engine: Engine,
    saveat: Any,
) -> Solution:
    request = SolveRequest(problem, problem.flat_values(), problem.tspan, algorithm, options)
    raw = engine.solve(request)
    u = raw.u if options.save_idxs is not None else raw.u.reshape(-1, *problem.shape)
    return Solution(problem, raw, u, None, engine.name, algorithm_name(algorithm, raw), None, options.save_idxs)


def algorithm_name(algorithm: Algorithm | None, raw: Any) -> str:
    """The name of what ran."""
    return raw.algorithm or (algorithm.name if algorithm is not None else "auto")
