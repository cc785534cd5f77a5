"""From an ensemble to its solution."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import numpy as np

from .engines import get_engine
from .ensemble_algorithms import EnsembleGPUKernel, EnsembleSerial, EnsembleThreads, check_ensemblealg
from .ensemble_solution import EnsembleSolution
from .ensembles import EnsembleProblem
from .errors import SolveFailed
from .options import save_times
from .parameters import is_tensor
from .solution import SUCCESS, Solution

_SECONDS = 0.1
"""What a thread does at a time: less would be spent on handing it over, more on waiting where one thread has too much."""
_FIRST_NAMED = 5


def solve_ensemble(
    ensemble: EnsembleProblem, algorithm: Any, *, ensemblealg: Any, throw: bool, progress: Any, options: dict[str, Any]
) -> EnsembleSolution:
    """Solve all members; see :func:`pysciode.solve`, whose `options` these are.

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
    report = _Bar(len(ensemble)) if progress is True else progress or (lambda done: None)
    try:
        if isinstance(ensemblealg, EnsembleGPUKernel):
            from .engines.julia_ensembles import solve_in_kernel

            solution = solve_in_kernel(ensemble, algorithm, ensemblealg, options, report)
        else:
            solution = _solve_one_by_one(ensemble, algorithm, ensemblealg, options, report)
    finally:
        if isinstance(report, _Bar):
            report.close()
    if throw and not solution.success:
        raise _failure(solution)
    return solution


def _failure(solution: EnsembleSolution) -> SolveFailed:
    from .solving import ADVICE

    failed = solution.failed
    first = failed[0]
    retcode = str(solution.retcodes[first])
    named = ", ".join(map(str, failed[:_FIRST_NAMED])) + (", …" if len(failed) > _FIRST_NAMED else "")
    text = f"that was member {first}, and {len(failed)} of {len(solution)} members failed ({named})"
    advice = ADVICE.get(retcode)
    return SolveFailed(retcode, float(solution.t_reached[first]), solution, f"{text}; {advice}" if advice else text)


def _solve_one_by_one(
    ensemble: EnsembleProblem,
    algorithm: Any,
    ensemblealg: EnsembleSerial | EnsembleThreads,
    options: dict[str, Any],
    report: Callable[[int], None],
) -> EnsembleSolution:
    from .solving import solve

    problem, engine = ensemble.problem, get_engine(options["engine"])
    options |= {"engine": engine, "dense": False if options["dense"] is None else options["dense"], "throw": False}
    if np.ndim(options["saveat"]) == 0:
        options["saveat"] = save_times(options["saveat"], *problem.tspan)
    times = np.asarray(options["saveat"].detach().cpu() if is_tensor(options["saveat"]) else options["saveat"], np.float64)
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

    from .torch_transforms import transforming

    if transforming():
        return None  # a transformation belongs to its thread
    enabled = torch.is_grad_enabled()
    return lambda: torch.set_grad_enabled(enabled)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(
    count: int,
    run: Callable[[int, int], None],
    mode: Callable[[], Any] | None,
    workers: int,
    report: Callable[[int], None],
    first: int = 1,
) -> None:
    """Have threads do ``run(start, stop)`` for all of ``0 … count``, part by part.

    Parameters
    ----------
    mode
        Makes the context in which other threads work; None: only this thread does.
    report
        Called with the number of members done, in this thread.
    first
        Members of the first part, which is this thread's own: what is made once for all members is made there.
    """
    parts = _Parts(count, workers)
    start, stop = parts.take(first)
    run(start, stop)
    parts.finish(stop - start)
    report(parts.done)
    if workers == 1 or mode is None:
        _work(parts, run, nullcontext, first, report)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pysciode-ensemble")
    try:
        pending = {pool.submit(_work, parts, run, mode, first) for _ in range(workers)}
        while pending:
            ready, pending = wait(pending, timeout=_SECONDS, return_when=FIRST_COMPLETED)
            for x in ready:
                x.result()
            report(parts.done)
    finally:
        parts.stop()  # after Ctrl-C or an error: parts under way come to their end by themselves
        pool.shutdown(wait=False)


def _work(
    parts: _Parts,
    run: Callable[[int, int], None],
    mode: Callable[[], Any],
    size: int,
    report: Callable[[int], None] | None = None,
) -> None:
    """Do parts while there are any, each of about the time that is worth its handing out."""
    with mode():
        while (part := parts.take(size)) is not None:
            began = perf_counter()
            run(*part)
            length = part[1] - part[0]
            each = max(perf_counter() - began, 1e-9) / length
            size = max(1, min(int(_SECONDS / each), 4 * size))
            parts.finish(length)
            if report is not None:
                report(parts.done)


class _Parts:
    """The members of an ensemble, handed out to threads."""

    def __init__(self, count: int, workers: int) -> None:
        self.done = 0
        self._count = count
        self._workers = workers
        self._next = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> tuple[int, int] | None:
        """The next part, of at most `size` members; None where none are left."""
        with self._lock:
            start, left = self._next, self._count - self._next
            self._next += min(size, -(-left // self._workers))
            return (start, self._next) if left else None

    def finish(self, length: int) -> None:
        with self._lock:
            self.done += length

    def stop(self) -> None:
        with self._lock:
            self._next = self._count


class _Bar:
    """A bar on stderr that shows how many members are solved."""

    def __init__(self, count: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=count, unit=" members")

    def __call__(self, done: int) -> None:
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()
