"""From the arguments of a solve to an engine's options: checks, and the choice of the sensitivity method."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from ..engines.base import Engine, SolveOptions, UnstableSteps
from ..graphs.captured_model import CallbackModel, CapturedModel, JuliaModel
from ..lowering.julia_functions import defined_functions
from ..methods.adjoints import ForwardDiffSensitivity, GaussAdjoint, SensitivityAlgorithm, check_sensealg, default_sensealg
from ..methods.algorithms import Algorithm, check_algorithm, is_coarse
from ..problems.base import Problem
from .latest_call import recall, remember
from .method_fit import check_fit, warn_of_coarse_output
from .options import solve_options


def prepare(
    problem: Problem, algorithm: Any, engine: Engine, progress: Any, asked: dict[str, Any], extra: dict[str, Any]
) -> tuple[Algorithm | None, SolveOptions]:
    """The algorithm and the options of a solve, checked; those of the latest solve of this model where the arguments are the same.

    Parameters
    ----------
    progress
        False, or a function of the time reached.
    asked, extra
        The arguments of :func:`pysciode.solve` by name, and those that go to SciML as they are.

    Raises
    ------
    TypeError, ValueError, PysciodeError
        For an argument that is invalid or does not fit the problem; the message names it.
    """
    given = (algorithm, *_compared(asked))
    plain = progress is False and not extra and all(x is None for x in _not_compared(asked)) and problem.mass_matrix is None
    known = recall(problem, given, asked["saveat"]) if plain else None
    if known is not None:
        return known
    algorithm = check_algorithm(algorithm)
    if algorithm is not None and algorithm.family is not None:
        check_fit(problem, algorithm, asked["dt"], asked["adaptive"] is not False)
    sensealg = check_sensealg(asked["sensealg"])
    if sensealg is not None:
        engine.require(sensealg)
    if progress is not False and not callable(progress):
        raise TypeError(f"progress must be True, False or a function of the time, not {progress!r}")
    arguments = {name: value for name, value in asked.items() if name != "sensealg"}
    if algorithm is not None and algorithm.fixed_step:
        arguments["adaptive"] = False
    options = solve_options(problem, **arguments, progress=progress or None, extra=extra)
    if algorithm is not None and is_coarse(algorithm) and options.events and engine.name != "embedded":
        warn_of_coarse_output(problem, algorithm.name, "the search for events reads")
    if plain:
        remember(problem, given, asked["saveat"], algorithm, options)
    return algorithm, options


_compared = itemgetter("sensealg", "tstops", "rtol", "atol", "dt", "dtmin", "dtmax", "maxiters", "adaptive", "save_idxs", "dense")
_not_compared = itemgetter("callback", "internalnorm", "initializealg")
"""Arguments by whose values a solve is known again, beside `saveat`; and those with which it is prepared anew."""


def choose_sensealg(
    sensealg: SensitivityAlgorithm | None, problem: Problem, algorithm: Algorithm | None, engine: Engine
) -> SensitivityAlgorithm:
    """Return the user's method, or the default.

    Raises
    ------
    ValueError
        If the method can't see the whole model: one that stays in Python, or that the solver takes in parts.
    """
    embedded, in_python = engine.name == "embedded", isinstance(problem.model, CallbackModel)
    in_parts = not embedded and problem.form.takes(algorithm)
    if sensealg is None:
        if in_parts:
            return ForwardDiffSensitivity()
        on_device = problem.device is not None
        chosen = default_sensealg(problem.n, problem.layout.size, algorithm, embedded=embedded, in_python=in_python, on_device=on_device)
        if chosen.goes_back_through_steps and (
            algorithm in problem.compiled.get(UnstableSteps, ()) or not _has(problem.model, chosen.functions)
        ):
            return GaussAdjoint()
        return chosen
    if in_parts and not sensealg.takes_parts:
        raise ValueError(
            f"{sensealg.name} needs the first-order system, but {algorithm.name} solves a {type(problem).__name__} in parts: "
            "take ForwardDiffSensitivity(), or an algorithm for first-order systems"
        )
    if not embedded and not sensealg.fits(algorithm, in_python):
        name = "the default algorithm" if algorithm is None else algorithm
        raise ValueError(
            f"{sensealg.name} does not go back through the steps of {name}{' for a model that stays in Python' if in_python else ''}: "
            f"take {'Tsit5() or Vern7()' if in_python else 'Tsit5(), Vern7() or Rodas5P()'}, or GaussAdjoint()"
        )
    if problem.mass_matrix is not None and not sensealg.takes_mass_matrix:
        raise ValueError(
            f"{sensealg.name} does not differentiate equations with a mass_matrix: take GaussAdjoint(), InterpolatingAdjoint(), "
            "QuadratureAdjoint() or ForwardDiffSensitivity()"
        )
    if in_python and not embedded and not sensealg.calls_python:
        # Its numbers carry derivatives, which a call into Python would drop silently.
        raise ValueError(
            f"{sensealg} can't differentiate a model that stays in Python (capture='callback'): take GaussAdjoint(), "
            "InterpolatingAdjoint(), QuadratureAdjoint() or BacksolveAdjoint(), which use torch's vector-Jacobian products"
        )
    return sensealg


def _has(model: CapturedModel, functions: frozenset[str]) -> bool:
    """Whether these are generated for a model; those of a model in Julia are what the user wrote."""
    return not isinstance(model, JuliaModel) or functions <= defined_functions(model.source)
