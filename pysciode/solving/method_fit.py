"""Whether an algorithm fits the equations: by the kind of problem, and by what the captured right-hand side depends on."""

from __future__ import annotations

import warnings

from ..errors import AccuracyWarning, depth_of_user
from ..methods.adjoints import SensitivityAlgorithm
from ..methods.algorithm_table import COARSE_GRADIENTS, MISFITS, PROPERTIES, Misfit
from ..methods.algorithms import PARTITIONED, STIFF, Algorithm, is_coarse
from ..problems.base import Problem


def check_fit(problem: Problem, algorithm: Algorithm, dt: object, adaptive: bool = True) -> None:
    """Refuse algorithms of another kind of problem or of other equations, and fixed steps without a step.

    Raises
    ------
    ValueError
        That names the algorithm, says why, and what fits.

    Warns
    -----
    AccuracyWarning
        Where the algorithm has less than its order, and where a model that can't be looked into may be of such a kind.
    """
    if algorithm.fixed_step and dt is None:
        raise ValueError(f"{algorithm.name} has no step size control: give it a step, dt=…")
    if algorithm.family in PARTITIONED and not problem.form.takes(algorithm):
        raise ValueError(f"{algorithm.name} is for second-order problems: pose a SecondOrderODEProblem or a DynamicalODEProblem")
    if algorithm.family == "imex" and not problem.form.takes(algorithm):
        raise ValueError(f"{algorithm.name} is for split problems: pose a SplitODEProblem")
    if problem.mass_matrix is not None and algorithm.family not in STIFF:
        raise ValueError(f"{algorithm.name} takes no mass_matrix: take Rodas5P(), FBDF(), RadauIIA5() or another method for stiff problems")
    if algorithm.family == "linear":
        raise ValueError(f"{algorithm.name} is for linear problems given as an operator, which can't be posed here")
    if algorithm.family == "dae":
        raise ValueError(f"{algorithm.name} is for implicit differential-algebraic problems, not for an ODEProblem")
    for each in (algorithm, *(x for x in algorithm.arguments if isinstance(x, Algorithm))):
        for row in MISFITS:
            named = each.name in row.names.split() or each.family in row.names.split()
            if row.when == "controlled" and not adaptive:
                continue
            if named and not (row.unless and each.options.get(row.unless)):
                _check(problem, each, row)


def warn_of_coarse_output(problem: Problem, name: str, reader: str) -> None:
    """Warn that `reader` uses the dense output of an algorithm between its steps, where it is less accurate than the steps.

    Warns
    -----
    AccuracyWarning
        Once a problem.
    """
    _say(
        problem,
        f"SciML's {name}: its dense output, which {reader}, is a cubic through its long steps, and does not keep the tolerance. "
        "Take Vern9 or Tsit5, or for stiff problems Rodas5P",
    )


def warn_of_gradients(problem: Problem, algorithm: Algorithm | None, sensealg: SensitivityAlgorithm, rtol: float) -> None:
    """Warn of algorithms that can't give a gradient of this accuracy.

    Warns
    -----
    AccuracyWarning
        Once a problem.
    """
    if algorithm is None:
        return
    if sensealg.reads_dense_output and is_coarse(algorithm):
        warn_of_coarse_output(problem, algorithm.name, "the adjoint reads")
    limit = COARSE_GRADIENTS.get(algorithm.name, COARSE_GRADIENTS.get(algorithm.family or "", 0.0))
    if rtol <= limit:
        _say(
            problem,
            f"gradients by {algorithm.name} at rtol={rtol:g} may be off by more than a thousand times that where the problem is stiff, as its "
            "states may. Rodas5P keeps within it",
        )


def _say(problem: Problem, text: str) -> None:
    said = problem.compiled.setdefault(_say, set())
    if text not in said:
        said.add(text)
        warnings.warn(text, AccuracyWarning, stacklevel=depth_of_user())


def _check(problem: Problem, algorithm: Algorithm, row: Misfit) -> None:
    if row.when in ("always", "controlled"):
        has: dict[str, bool] | None = {row.when: True}
    else:
        has = _properties(problem)
    found = has.get(row.when) if has is not None else None
    if found is False or (found is None and row.when == "not_second_order" and problem.second_order):
        return
    name, known = algorithm.name, PROPERTIES[row.when]
    if row.when in ("always", "controlled"):
        text = f"SciML's {name}: {row.why}. Take {row.take}"
    elif found is None:
        text = f"SciML's {name}: {row.why}, where {known}, as may be so in this model, which can't be looked into. Take {row.take} then"
    else:
        text = f"SciML's {name} does not fit this model, in which {known}: {row.why}. Take {row.take}"
    if found and row.refused:
        raise ValueError(text)
    _say(problem, text)


def _properties(problem: Problem) -> dict[str, bool] | None:
    """Which of `PROPERTIES` the right-hand side has; None where its formulas are unknown."""
    from ..graphs.captured_model import CallbackModel, JuliaModel

    model, known = problem.model, problem.compiled
    if isinstance(model, (CallbackModel, JuliaModel)):
        return None
    if _properties not in known:
        from ..lowering.dependence import FIRST, SECOND, TIME, of_halves, second_is_first

        first, second = of_halves(model)
        velocity = bool(first & FIRST)
        known[_properties] = {
            "time": bool((first | second) & TIME),
            "velocity": velocity,
            "not_separable": velocity or bool(second & SECOND),
            "not_second_order": not (problem.second_order or second_is_first(model)),
        }
    return known[_properties]


def table() -> str:
    """`MISFITS` as a table in Markdown."""
    rows = ["| algorithm | where | what happens | take |", "| --- | --- | --- | --- |"]
    for x in MISFITS:
        names = ", ".join(f"`{name}`" if name[0].isupper() else f"all {name} ones" for name in x.names.split())
        rows.append(f"| {names} | {PROPERTIES[x.when]} | {'refused' if x.refused else 'AccuracyWarning'}: {x.why} | {x.take} |")
    return "\n".join(rows)
