"""What a row says, of contestants whose gradient and manners are known."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import pysciode as ps
from pysciode.comparison.adjoints import ComparisonInterrupted, compare_adjoints
from pysciode.comparison.measure.blocks import Blocks, differentiable
from pysciode.comparison.measure.contestants import Contestant, Run, Task
from pysciode.comparison.measure.losses import LossFunction, sum_of_squares
from pysciode.comparison.measure.measurement import Effort, Target, measure
from pysciode.comparison.measure.process import OutOfTime, peak_growth, time_limit
from pysciode.comparison.measure.reference import discrepancy, ridders
from pysciode.errors import EngineUnavailable, SolveFailed

RATE, START, END = 0.7, 2.0, 1.5
TIMES = np.linspace(0.0, END, 7)


def decay(u, p, t):
    return [-p[0] * u[0]]


def problem() -> ps.ODEProblem:
    return differentiable(ps.ODEProblem(decay, [START], (0.0, END), [RATE]))


def exact_gradient() -> float:
    """``d/dk Σ u(t)²`` of ``u = u0 exp(-k t)``."""
    return float(np.sum(-2 * TIMES * (START * np.exp(-RATE * TIMES)) ** 2))


@dataclass(frozen=True)
class Exact(Contestant):
    """The analytic gradient times a factor; `behaviour` is called in each forward pass."""

    factor: float = 1.0
    behaviour: object = None

    def prepare(self, task: Task) -> Run:
        if self.behaviour == "unavailable":
            raise EngineUnavailable("the method", "its package is not there", mend=None)
        return _ExactRun(self, task)


class _ExactRun(Run):
    def __init__(self, contestant: Exact, task: Task) -> None:
        self.contestant, self.task = contestant, task

    def forward(self) -> torch.Tensor:
        if callable(self.contestant.behaviour):
            self.contestant.behaviour()
        return torch.from_numpy(START * np.exp(-RATE * self.task.saveat))[:, None]

    def backward(self, cotangent: torch.Tensor) -> dict[str, np.ndarray]:
        slope = -self.task.saveat * START * np.exp(-RATE * self.task.saveat)
        return {"p": self.contestant.factor * np.array([cotangent[:, 0].numpy() @ slope])}


def exact(factor: float = 1.0, behaviour: object = None) -> Exact:
    return Exact("none", "Exact", None, "test", {}, factor, behaviour)


def row_of(contestant: Contestant, *, limit: float | None = 5.0, estimated_error: float = 0.0, memory: bool = False):
    target = Target({"p": np.array([exact_gradient()])}, estimated_error)
    task = Task(problem(), TIMES, 1e-6, 1e-8)
    return measure(contestant, task, LossFunction(sum_of_squares, TIMES, False), target, Effort(3, limit, memory))


def test_errors_are_those_of_the_gradient():
    assert row_of(exact()).error < 1e-14
    row = row_of(exact(1.01), memory=True)
    assert row.status == "ok"
    assert row.error == pytest.approx(0.01, rel=1e-9)
    assert row.block_errors == {"p": pytest.approx(0.01, rel=1e-9)}
    assert row.loss == pytest.approx(np.sum((START * np.exp(-RATE * TIMES)) ** 2), rel=1e-14)
    assert len(row.total.seconds) == 3


def test_errors_by_block_and_of_a_block_without_influence():
    target = Target({"a": np.array([3.0, 4.0]), "b": np.zeros(2)}, 0.0)
    whole, blocks = target.errors({"a": np.array([3.0, 4.5]), "b": np.array([0.0, 1.0])})
    assert blocks == {"a": pytest.approx(0.1), "b": pytest.approx(0.2)}
    assert whole == pytest.approx(np.hypot(0.5, 1.0) / 5)
    with pytest.raises(ValueError, match="blocks|gradients of"):
        target.errors({"a": np.zeros(2)})


@pytest.mark.slow
def test_a_gradient_as_wrong_as_none_is_a_failure_unless_the_reference_is_in_doubt():
    row = row_of(exact(-1.0))
    assert row.status == "failed" and "2" in row.reason
    assert row_of(exact(-1.0), estimated_error=0.5).status == "ok"
    assert row_of(exact(np.nan)).status == "failed"


def test_failures_are_told_in_one_line():
    def give_up() -> None:
        raise SolveFailed("MaxIters", 0.25, None, "advice")

    def crash() -> None:
        raise RuntimeError("something\nand its stack")

    row = row_of(exact(behaviour=give_up))
    assert (row.status, row.reason) == ("failed", "the solver stopped at t = 0.25 with retcode MaxIters")
    assert row_of(exact(behaviour=crash)).reason == "RuntimeError: something"
    row = row_of(exact(behaviour="unavailable"))
    assert row.status == "unavailable" and row.reason == "the method: its package is not there"


def test_time_limit_ends_a_first_call_and_a_later_one():
    began = time.monotonic()
    row = row_of(exact(behaviour=lambda: time.sleep(30)), limit=0.2)
    assert time.monotonic() - began < 10
    assert row.status == "failed" and "time limit" in row.reason and row.total is None

    calls = []

    def slow_later() -> None:
        calls.append(1)
        if len(calls) > 1:
            time.sleep(30)

    row = row_of(exact(behaviour=slow_later), limit=0.2)
    assert row.status == "failed" and "time limit" in row.reason


def test_time_limit_leaves_signals_as_they_were():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OutOfTime), time_limit(0.05):
        time.sleep(10)
    with time_limit(10.0):
        pass
    with pytest.raises(ZeroDivisionError), time_limit(10.0):
        1 / 0
    with pytest.raises(KeyboardInterrupt), time_limit(10.0):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    ran = []
    thread = threading.Thread(target=lambda: ran.append(_in_a_thread()))
    thread.start()
    thread.join()
    assert ran == [True]


def _in_a_thread() -> bool:
    with time_limit(1e-3):
        time.sleep(0.05)
    return True


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="real signals only")
def test_peak_memory_is_that_of_the_call():
    peak = peak_growth(lambda: np.ones(8_000_000))
    assert peak is None or peak > 60_000_000


def test_ridders_differences():
    value, error = ridders(lambda x: np.exp(3 * x))
    assert abs(value - 3.0) < 1e-10
    assert error < 1e-8


def test_discrepancy_is_the_relative_error_of_a_gradient():
    rng = np.random.default_rng(1)
    a = rng.standard_normal(2000)
    right = np.cos(0.3) * a

    def loss(step: np.ndarray) -> float:
        return float(np.sin(0.3 + a @ step / np.linalg.norm(a)) * np.linalg.norm(a))

    scale = np.ones(2000)
    assert discrepancy(right, loss, scale, rng) < 1e-7
    wrong = right + 0.05 * np.linalg.norm(right) / np.sqrt(2000) * rng.choice([-1.0, 1.0], 2000)
    found = discrepancy(wrong, loss, scale, np.random.default_rng(2), directions=20)
    assert 0.02 < found < 0.1


def test_blocks_of_problems():
    network = torch.nn.Linear(2, 2)
    both = ps.ODEProblem(network, torch.ones(2, requires_grad=True), (0.0, 1.0))
    assert Blocks.of(both).sizes == {"u0": 2, "weight": 4, "bias": 2}
    numpy = differentiable(ps.ODEProblem(decay, [1.0], (0.0, 1.0), {"u0": [1.0], "k": 2.0}))
    assert Blocks.of(numpy).sizes == {"p.u0": 1, "k": 1}
    frozen = torch.ones(3, dtype=torch.float64)
    rates = torch.ones(2, dtype=torch.float64, requires_grad=True)
    some = ps.ODEProblem(decay, [1.0], (0.0, 1.0), {"a": frozen, "b": rates})
    blocks = Blocks.of(some)
    assert blocks.sizes == {"b": 2} and blocks.wants == {"p"}
    gradient = blocks.split(np.array([9.0]), np.arange(5.0))
    assert gradient["b"].tolist() == [3.0, 4.0]
    u0, p = blocks.moved(np.array([9.0]), np.arange(5.0), np.array([1.0, -1.0]))
    assert u0.tolist() == [9.0] and p.tolist() == [0.0, 1.0, 2.0, 4.0, 3.0]
    without = differentiable(ps.ODEProblem(lambda u, p, t: [-u[0]], [1.0], (0.0, 1.0)))
    assert Blocks.of(without).sizes == {"u0": 1}


def test_a_model_for_numpy_stays_one_when_its_parameters_become_tensors():
    def diffusion(u, p, t):
        return p[0] * np.where(t > -1, np.roll(u, 1, 0) + np.roll(u, -1, 0) - 2 * u, 0.0)

    given = ps.ODEProblem(diffusion, np.ones((3, 2)), (0.0, 1.0), [2.0])
    changed = differentiable(given)
    assert changed.is_torch and changed.model is given.model


def test_losses_that_are_no_losses_are_refused():
    states = torch.ones(7, 1, dtype=torch.float64)
    for loss, error in (
        (lambda sol: 1.0, TypeError),
        (lambda sol: sol.u, ValueError),
        (lambda sol: sol.u.detach().sum(), ValueError),
    ):
        with pytest.raises(error, match="loss"):
            LossFunction(loss, TIMES, False)(states)


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("problem", 1, TypeError),
        ("loss", 3, TypeError),
        ("algorithms", ["Tsit55"], ValueError),
        ("algorithms", [], ValueError),
        ("sensealgs", ["Gauss"], ValueError),
        ("sensealgs", [ps.GaussAdjoint], TypeError),
        ("vjps", ["Zygote"], ValueError),
        ("tolerances", [], ValueError),
        ("tolerances", [-1e-3], ValueError),
        ("tolerances", ["tight"], TypeError),
        ("repeats", 0, ValueError),
        ("time_limit", -1, ValueError),
        ("saveat", [0.0, 99.0], ValueError),
        ("maxiters", 1.5, TypeError),
        ("reference", np.ones(3), ValueError),
        ("reference", {"q": [1.0]}, ValueError),
        ("reference", ps.GaussAdjoint, TypeError),
    ],
)
def test_bad_arguments_are_named(argument, value, error):
    arguments = {"problem": problem(), argument: value}
    with pytest.raises(error, match=argument.rstrip("s")):
        compare_adjoints(arguments.pop("problem"), **arguments)


def test_ctrl_c_keeps_the_rows(monkeypatch, capsys):
    """The comparison's own loop, on the embedded engine; contestants are told apart by their factor."""
    monkeypatch.setattr("pysciode.comparison.adjoints.julia_is_installed", lambda: False)

    def press() -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        compare_adjoints(
            problem(),
            sensealgs=["GaussAdjoint"],
            tolerances=[1e-6],
            saveat=TIMES,
            reference=np.array([exact_gradient()]),
            peers=[exact(), exact(behaviour=press), exact(1.5)],
            repeats=2,
            progress=False,
        )
    assert isinstance(caught.value, ComparisonInterrupted)
    rows = caught.value.report.rows
    assert [x.status for x in rows] == ["unavailable", "ok"]
    assert "Exact" in capsys.readouterr().err


@pytest.mark.slow
def test_without_julia_the_embedded_engine_makes_the_reference(monkeypatch):
    monkeypatch.setattr("pysciode.comparison.adjoints.julia_is_installed", lambda: False)
    report = compare_adjoints(
        problem(),
        sensealgs=["GaussAdjoint"],
        tolerances=[1e-6],
        saveat=TIMES,
        peers=[exact(), exact(1.01)],
        repeats=2,
        memory=False,
        progress=False,
    )
    assert report.reference.estimated_error < 1e-7
    assert report.rows[0].status == "unavailable" and "install" in report.rows[0].reason
    assert report.rows[1].error <= report.reference.estimated_error
    assert report.rows[2].error == pytest.approx(0.01, rel=1e-4)
