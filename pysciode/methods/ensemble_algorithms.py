"""The ways to solve the members of an ensemble, by SciML's names."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays.real_values import whole_number


@dataclass(frozen=True)
class EnsembleSerial:
    """One member after the other: any problem, algorithm and engine, with gradients."""


@dataclass(frozen=True)
class EnsembleThreads:
    """Members side by side, in threads: any problem, algorithm and engine, with gradients. The default.

    Parameters
    ----------
    workers
        Number of threads; by default one for each processor that this process may use.

    Notes
    -----
    Solves release Python's lock, but what is around each of them, some 40 µs, does not: on two processors, members of 60 µs gained
    nothing, and members of 220 µs took 150 µs each. Backward passes run one after the other.
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            whole_number(self.workers, "workers", 1)


@dataclass(frozen=True)
class EnsembleGPUKernel:
    """Each member one thread of one kernel, with steps of its own: DiffEqGPU.jl. For very many systems of very few states.

    On a GPU where the states are CUDA tensors, otherwise on the CPU, where it saves the way through Python for each member. For
    scalar models of up to 20 states, and the algorithms Tsit5, Vern7, Vern9, Rosenbrock23, Rodas4, Rodas5P, Kvaerno3 and
    Kvaerno5; without gradients and events. Needs ``python -m pysciode install ensembles``.
    """


EnsembleAlgorithm = EnsembleSerial | EnsembleThreads | EnsembleGPUKernel


def check_ensemblealg(ensemblealg: object) -> EnsembleAlgorithm:
    """The ensemble algorithm, where None is the default.

    Raises
    ------
    TypeError
        For anything else.
    """
    if ensemblealg is None:
        return EnsembleThreads()
    if isinstance(ensemblealg, (EnsembleSerial, EnsembleThreads, EnsembleGPUKernel)):
        return ensemblealg
    raise TypeError(f"ensemblealg must be EnsembleSerial(), EnsembleThreads() or EnsembleGPUKernel(), not {ensemblealg!r}")
