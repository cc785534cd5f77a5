"""From an ensemble to its solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from ..arrays.parameters import is_tensor
from ..engines import get_engine
from ..errors import SolveFailed
from ..methods.ensemble_algorithms import EnsembleGPUKernel, EnsembleSerial, EnsembleThreads, check_ensemblealg
from ..problems.ensemble import EnsembleProblem
from .ensemble_solution import EnsembleSolution
from .options import save_times
from .solution import ADVICE, SUCCESS, Solution
from .work_sharing import processors, share

_FIRST_NAMED = 5


def solve_ensemble(
    solve: Callable[..., Solution],
    ensemble: EnsembleProblem,
    algorithm: Any,
    *,
    ensemblealg: Any,
    throw: bool,
    progress: Any,
    options: dict[str, Any],
) -> EnsembleSolution:
    """Solve all members; see :func:`pysciode.solve`, which is `solve` and whose `options` these are.

    Raises
    ------
    SolveFailed
        If members gave up, with how many and the first of them; holds the whole :class:`EnsembleSolution`. `retcode` and `t`
        are those of the first one.
    """
    ensemblealg = check_ensemblealg(ensemblealg)
    if options["saveat"] is None:
        span = ensemble.problem.span
        options["saveat"] = np.array([span.end]) if span.end_tensor is None else span.end_tensor.reshape(1)
    if not (progress is True or progress is False or callable(progress)):
        raise TypeError(f"progress must be True, False or a function of the members solved, not {progress!r}")
    report: Callable[[int], object] = _Bar(len(ensemble)) if progress is True else progress or (lambda done: None)
    try:
        if isinstance(ensemblealg, EnsembleGPUKernel):
            from .ensemble_kernel import solve_in_kernel

            solution = solve_in_kernel(ensemble, algorithm, ensemblealg, options, report)
        else:
            solution = _solve_one_by_one(solve, ensemble, algorithm, ensemblealg, options, report)
    finally:
        if isinstance(report, _Bar):
            report.close()
    if throw and not solution.success:
        raise _failure(solution)
    return solution


def _failure(solution: EnsembleSolution) -> SolveFailed:
    failed = solution.failed
    first = failed[0]
    retcode = str(solution.retcodes[first])
    named = ", ".join(map(str, failed[:_FIRST_NAMED])) + (", …" if len(failed) > _FIRST_NAMED else "")
    text = f"that was member {first}, and {len(failed)} of {len(solution)} members failed ({named})"
    advice = ADVICE.get(retcode)
    return SolveFailed(retcode, float(solution.t_reached[first]), solution, f"{text}; {advice}" if advice else text)


def _solve_one_by_one(
    solve: Callable[..., Solution],
    ensemble: EnsembleProblem,
    algorithm: Any,
    ensemblealg: EnsembleSerial | EnsembleThreads,
    options: dict[str, Any],
    report: Callable[[int], object],
) -> EnsembleSolution:
    problem, engine = ensemble.problem, get_engine(options["engine"])
    options |= {"engine": engine, "dense": False if options["dense"] is None else options["dense"], "throw": False}
    if np.ndim(options["saveat"]) == 0:
        options["saveat"] = save_times(options["saveat"], *problem.tspan)
    saveat: Any = options["saveat"]
    times = np.asarray(saveat.detach().cpu() if is_tensor(saveat) else saveat, np.float64)
    states, parameters = ensemble.rows()
    # One step of autograd for all members, rather than one for each.
    states, parameters = (tuple(x.unbind(0)) if is_tensor(x) else x for x in (states, parameters))
    solutions: list[Solution | None] = [None] * len(ensemble)

    def run(start: int, stop: int) -> None:
        for i in range(start, stop):
            member = ensemble.member(states[i if len(states) > 1 else 0], parameters[i if len(parameters) > 1 else 0])
            solutions[i] = solve(member, algorithm, **options)

    workers = 1 if isinstance(ensemblealg, EnsembleSerial) else ensemblealg.workers or processors()
    share(len(ensemble), run, _in_this_mode(problem.is_torch), workers, report)
    found = [x for x in solutions if x is not None]
    return EnsembleSolution(
        ensemble,
        times,
        _stacked(found, len(times)),
        np.array([x.retcode for x in found]),
        np.array([x.t_reached for x in found]),
        found[0].algorithm,
        ensemblealg,
        engine.name,
        found[0]._save_idxs,
        found,
    )


def _stacked(solutions: Sequence[Solution], k: int) -> Any:
    """The states of all members, with NaN at times that a member did not reach."""
    whole = [_padded(x.states if x.retcode in SUCCESS or not is_tensor(x.states) else x.states.detach(), k) for x in solutions]
    if is_tensor(whole[0]):
        import torch

        return torch.stack(whole)
    return np.stack(whole)


def _padded(states: Any, k: int) -> Any:
    missing = k - len(states)
    if not missing:
        return states
    if is_tensor(states):
        import torch

        return torch.cat([states, states.new_full((missing, *states.shape[1:]), float("nan"))])
    return np.concatenate([states, np.full((missing, *states.shape[1:]), np.nan, states.dtype)])


def _in_this_mode(is_torch: bool) -> Callable[[], Any] | None:
    """A context for other threads, in which torch records gradients as it does in this one; None where no other may work."""
    if not is_torch:
        return nullcontext
    import torch

    from ..arrays.torch_transforms import transforming

    if transforming():
        return None  # a transformation belongs to its thread
    enabled = torch.is_grad_enabled()
    return lambda: torch.set_grad_enabled(enabled)


class _Bar:
    """A bar on stderr that shows how many members are solved."""

    def __init__(self, count: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=count, unit=" members")

    def __call__(self, done: int) -> None:
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()
