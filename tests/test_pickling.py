"""Copies and pickles of problems, solutions, errors and modules, in this process and in others."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchdiffeq import odeint

import pysciode as ps
from pysciode import nn as psnn
from pysciode.errors import JuliaError, PysciodeError
from pysciode.parameters import ParameterLayout

F64 = torch.float64
TIGHT = dict(rtol=1e-8, atol=1e-10)
COPIES: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {k}": lambda x, k=k: pickle.loads(pickle.dumps(x, k)) for k in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.fixture(params=COPIES)
def again(request) -> Callable[[Any], Any]:
    return COPIES[request.param]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Callable[..., Any]]:
    """Calls a function of this module in another process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda f, *arguments: pool.submit(f, *arguments).result(timeout=300)


def decay(u, p, t):
    return [-p[0] * u[0]]


def torch_decay(u, p, t):
    return -p["rate"] * u


def oscillator(v, u, p, t):
    return -p[0] * u


def velocity(v, u, p, t):
    return v


def half(u, p, t):
    return [-0.5 * p[0] * u[0]]


def explosion(u, p, t):
    return [u[0] ** 2]


def sympy_decay():
    import sympy

    x, k = sympy.symbols("x k")
    return (-k * x,), (x,), (k,)


def tensor(*x: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(x, dtype=F64, requires_grad=grad)


PROBLEMS: dict[str, tuple[Callable[[], ps.ODEProblem], float]] = {
    "NumPy": (lambda: ps.ODEProblem(decay, [3.0], (0, 1), [2.0], name="decay"), 3 * np.exp(-2)),
    "float32": (lambda: ps.ODEProblem(decay, np.float32([3.0]), (0, 1), [2.0]), 3 * np.exp(-2)),
    "torch": (lambda: ps.ODEProblem(torch_decay, tensor(3.0), (0, 1), {"rate": tensor(2.0, grad=True)}), 3 * np.exp(-2)),
    "times": (lambda: ps.ODEProblem(torch_decay, tensor(3.0), (0, torch.tensor(1.0, requires_grad=True)), {"rate": 2.0}), 3 * np.exp(-2)),
    "second order": (lambda: ps.SecondOrderODEProblem(oscillator, [0.0], [3.0], (0, 1), [4.0]), 3 * np.cos(2)),
    "dynamical": (lambda: ps.DynamicalODEProblem(oscillator, velocity, [0.0], [3.0], (0, 1), [4.0]), 3 * np.cos(2)),
    "split": (lambda: ps.SplitODEProblem(half, half, [3.0], (0, 1), [2.0]), 3 * np.exp(-2)),
    "SymPy": (lambda: ps.ODEProblem(sympy_decay(), [3.0], (0, 1), [2.0]), 3 * np.exp(-2)),
}


def end(problem: ps.ODEProblem, engine: str) -> float:
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], engine=engine, rtol=1e-6, atol=1e-8).u
    return u.detach().item() if problem.is_torch else u.item()


@pytest.mark.parametrize("kind", PROBLEMS)
def test_problems(kind, engine):
    """Fresh ones and ones that were solved, by every protocol; what they hold is solved, too."""
    make, exact = PROBLEMS[kind]
    problem = make()
    for again in [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]:
        assert end(again(problem), engine) == pytest.approx(exact, rel=1e-5)
        assert end(problem, engine) == pytest.approx(exact, rel=1e-5)
    for name, again in COPIES.items():
        if kind == "SymPy" and name in ("pickle 0", "pickle 1"):
            continue  # SymPy knows no protocols below 2
        other = again(problem)
        assert repr(other) == repr(problem)
        assert other.layout == problem.layout and hash(other.layout) == hash(problem.layout)
        np.testing.assert_array_equal(other.flat_p(), problem.flat_p())
        np.testing.assert_array_equal(other.flat_u0(), problem.flat_u0())


def test_nothing_captured_travels():
    problem = ps.ODEProblem(decay, [3.0], (0, 1), [2.0])
    fresh = len(pickle.dumps(problem))
    end(problem, "embedded")
    assert len(pickle.dumps(problem)) == fresh
    assert pickle.loads(pickle.dumps(problem)).captured is None


def test_a_copied_problem_has_tensors_of_its_own(engine):
    problem = PROBLEMS["torch"][0]()
    twin, shallow = copy.deepcopy(problem), copy.copy(problem)
    with torch.no_grad():
        problem.p["rate"].fill_(1.0)
    for other, rate in ((problem, 1.0), (shallow, 1.0), (twin, 2.0)):
        assert end(other, engine) == pytest.approx(3 * np.exp(-rate), rel=1e-5)
    ps.solve(twin, saveat=[1.0], engine=engine).u.sum().backward()
    assert problem.p["rate"].grad is None
    assert twin.p["rate"].grad.item() == pytest.approx(-3 * np.exp(-2), rel=1e-4)


def test_a_tensor_that_appears_twice_stays_one():
    weight = tensor(1.0, grad=True)
    problem = pickle.loads(pickle.dumps(ps.ODEProblem(torch_decay, tensor(1.0), (0, 1), {"rate": weight, "twice": weight})))
    assert problem.p["rate"] is problem.p["twice"] and problem.p["rate"].requires_grad
    assert not problem.u0.requires_grad


@pytest.mark.parametrize("solved", [False, True])
def test_functions_that_can_not_be_pickled(solved):
    problem = ps.ODEProblem(lambda u, p, t: -u, [1.0], (0, 1))
    if solved:
        end(problem, "embedded")
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(problem)


def test_cloudpickle_takes_closures(elsewhere):
    cloudpickle = pytest.importorskip("cloudpickle")
    rate = 2.0
    problem = ps.ODEProblem(lambda u, p, t: -rate * u, [3.0], (0, 1))
    end(problem, "embedded")
    assert elsewhere(end_of_pickle, cloudpickle.dumps(problem)) == pytest.approx(3 * np.exp(-2), rel=1e-5)


def end_of_pickle(data: bytes) -> float:
    return end(pickle.loads(data), "embedded")


def test_problems_go_to_other_processes(elsewhere, engine):
    for kind in ("NumPy", "torch", "second order", "SymPy"):
        make, exact = PROBLEMS[kind]
        problem = make()
        end(problem, engine)
        assert elsewhere(end, problem, "embedded") == pytest.approx(exact, rel=1e-5)


# Solutions


def solved(problem: ps.ODEProblem, engine: str, **options: Any) -> ps.Solution:
    return ps.solve(problem, ps.Tsit5(), engine=engine, **TIGHT, **options)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_solutions(kind, engine):
    make, exact = PROBLEMS[kind]
    sol = solved(make(), engine)
    for name, again in COPIES.items():
        if kind == "SymPy" and name in ("pickle 0", "pickle 1"):
            continue
        other = again(sol)
        for x, y in zip(other.to_numpy(), sol.to_numpy(), strict=True):
            np.testing.assert_array_equal(x, y)
        assert (other.retcode, other.success, other.engine, other.algorithm) == ("Success", True, engine, sol.algorithm)
        assert other.stats.nf == sol.stats.nf > 0 and dict(other.stats) == dict(sol.stats)
        assert other.t_reached == sol.t_reached == 1.0 and repr(other) == repr(sol)
        assert other.sensealg == sol.sensealg
        if kind in ("second order", "dynamical"):
            np.testing.assert_array_equal(other.v, sol.v)
        if name.startswith("pickle"):
            with pytest.raises(ValueError, match="dense"):
                other(1.0)
        else:
            assert float(other(1.0).reshape(())) == pytest.approx(exact, rel=1e-5)


def test_a_copied_solution_leaves_the_gradient_with_the_original(engine):
    problem = PROBLEMS["torch"][0]()
    sol = solved(problem, engine, saveat=[0.5, 1.0])
    for other in (copy.deepcopy(sol), pickle.loads(pickle.dumps(sol))):
        assert not other.u.requires_grad
    copy.copy(sol).u[-1].sum().backward()
    assert problem.p["rate"].grad.item() == pytest.approx(-3 * np.exp(-2), rel=1e-5)


def test_saved_entries_travel(engine):
    problem = ps.ODEProblem(decay_of_three, np.arange(1.0, 4.0), (0, 1))
    sol = solved(problem, engine, save_idxs=[2, 0], saveat=[0.0, 1.0], dense=True)
    other = pickle.loads(pickle.dumps(sol))
    np.testing.assert_allclose(other.u, np.exp([[0.0], [-1.0]]) * [3.0, 1.0], rtol=1e-6)
    assert other.names == sol.names == ("u[2]", "u[0]")
    np.testing.assert_allclose(copy.deepcopy(sol)(0.5), np.exp(-0.5) * np.array([3.0, 1.0]), rtol=1e-6)


def decay_of_three(u, p, t):
    return -u


def solution_and_its_end(engine: str) -> ps.Solution:
    return solved(PROBLEMS["torch"][0](), engine)


def test_solutions_come_from_other_processes(elsewhere, engine):
    sol = elsewhere(solution_and_its_end, engine)
    assert sol.u[-1].item() == pytest.approx(3 * np.exp(-2), rel=1e-6) and sol.stats.nf > 0
    assert sol.t[-1].item() == 1.0 and sol.success


def test_dense_output_where_the_solve_carries_derivatives(engine):
    """It is that of a solve without, of the values that were then."""
    rate = tensor(2.0, grad=True)
    for sensealg in (ps.ForwardDiffSensitivity(), ps.ForwardSensitivity()) if engine == "julia" else (None,):
        with torch.no_grad():
            rate.fill_(2.0)
        sol = solved(ps.ODEProblem(torch_decay, tensor(3.0), (0, 1), {"rate": rate}), engine, sensealg=sensealg)
        if engine == "julia":
            with torch.no_grad():
                rate.fill_(0.0)
        assert sol(0.5).item() == pytest.approx(3 * np.exp(-1), rel=1e-6)
        assert sol(0.5, 1).item() == pytest.approx(-6 * np.exp(-1), rel=1e-5)


def upwards(u, p, t):
    return u[0] - 0.5


def test_events_travel(julia_engine):
    problem = ps.ODEProblem(decay, [1.0], (0.0, 1.0), [1.0])
    event = ps.ContinuousCallback(upwards, terminal=True)
    sol = solved(problem, julia_engine, callback=pickle.loads(pickle.dumps(event)))
    for again in COPIES.values():
        other = again(sol)
        assert other.retcode == "Terminated" and other.success
        np.testing.assert_allclose(other.events[0].t, [np.log(2)], rtol=1e-6)
        np.testing.assert_allclose(other.events[0].u, [[0.5]], rtol=1e-6)


# Errors

ERRORS = [
    ps.CaptureError("no such thing", operation="aten.sort", where="model.py:1"),
    ps.SolveFailed("MaxIters", 0.5, None, "try again"),
    ps.GradientFailed("GaussAdjoint", "not finite", "tighter"),
    ps.EngineUnavailable("a stiff solver"),
    ps.EngineUnavailable("Mooncake", "not there", mend=None),
    JuliaError("MethodError"),
    PysciodeError("anything"),
]


def every_error() -> set[type]:
    from pysciode.comparison.losses import LossNotFinite

    found, new = set(), [PysciodeError]
    while new:
        found.add(new[-1])
        new.extend(new.pop().__subclasses__())
    return {x for x in found if x.__module__.startswith("pysciode")} - {LossNotFinite}


def test_every_error_is_tested():
    assert {type(x) for x in ERRORS} == every_error()


@pytest.mark.parametrize("error", ERRORS, ids=lambda x: type(x).__name__)
def test_errors(error, again):
    other = again(error)
    assert type(other) is type(error) and str(other) == str(error) and other.args == error.args
    assert vars(other) == vars(error)


def fail(engine: str) -> None:
    ps.solve(ps.ODEProblem(explosion, [1.0], (0, 2)), ps.Tsit5(), saveat=[0.5, 1.5], engine=engine)


def test_a_failed_solve_in_another_process(elsewhere, engine):
    with pytest.raises(ps.SolveFailed, match="retcode") as caught:
        elsewhere(fail, engine)
    error = caught.value
    assert 0.5 <= error.t < 1.01 and error.retcode == error.solution.retcode
    np.testing.assert_allclose(error.solution.u, [[2.0]], rtol=1e-4)  # 1 / (1 - t)


# Small things


def test_algorithms_and_sensitivity_methods(again):
    from pysciode.sensitivity import SENSITIVITY_ALGORITHMS

    for x in (ps.Tsit5(), ps.Rodas5P(linsolve="KLUFactorization"), ps.AutoTsit5(ps.Rodas5P()), ps.Algorithm("New", 3)):
        assert again(x) == x and repr(again(x)) == repr(x)
    for name in SENSITIVITY_ALGORITHMS:
        x = getattr(ps, name)()
        assert again(x) == x and hash(again(x)) == hash(x)


def layout_of(p: Any) -> ParameterLayout:
    layout = ParameterLayout.of(p)[0]
    hash(layout)
    return layout


def is_key(layout: ParameterLayout, p: Any) -> bool:
    return layout in {layout_of(p): None}


def test_a_layout_is_a_key_in_other_processes(elsewhere):
    """Hashes of strings differ from process to process."""
    p = {"rate": 1.0, "matrix": np.zeros((2, 2)), "rest": (1.0, [2.0, np.ones(3)])}
    assert elsewhere(is_key, layout_of(p), p)
    assert is_key(elsewhere(layout_of, p), p)


def test_fit_results(engine):
    from pysciode.fitting import Experiment, Parameter, fit

    t = np.linspace(0.25, 4.0, 16)
    observed = 3 * np.exp(-0.9 * t) + 0.05 * np.random.default_rng(0).standard_normal(16)
    problem = ps.ODEProblem(decay, [3.0], (0, 4), [0.5])
    result = fit(problem, Experiment(t, observed), {"p[0]": Parameter(lower=0)}, progress=False, engine=engine)
    for again in COPIES.values():
        other = again(result)
        assert str(other) == str(result)
        np.testing.assert_allclose(other.predict(t).mean[:, 0], 3 * np.exp(-other.estimates["p[0]"] * t), rtol=1e-4)


@pytest.mark.julia
def test_comparison_reports():
    problem = ps.ODEProblem(decay, [2.0], (0, 1), [0.5])
    report = ps.compare_adjoints(problem, sensealgs=["ForwardDiffSensitivity"], tolerances=[1e-4], repeats=1, peers=False)
    for again in COPIES.values():
        other = again(report)
        assert str(other) == str(report) and str(other.recommend()) == str(report.recommend())
        assert other.to_dataframe().equals(report.to_dataframe())


# Modules

def network(inputs: int = 2, outputs: int = 2, hidden: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).double()


def regularized(block: nn.Module) -> torch.Tensor:
    return torch.cat([block(X), block.regularization[:, None]], 1)


def latent(engine: str) -> nn.Module:
    encoder = psnn.ODERNNEncoder(2, 6, 2, network(6, 6), dt=0.5, engine=engine).double()
    return psnn.LatentODE(encoder, network(), network(), 2, engine=engine).double()


def elbo(model: nn.Module) -> torch.Tensor:
    torch.manual_seed(0)
    return model.elbo(torch.linspace(-1, 1, 24, dtype=F64).reshape(3, 4, 2), torch.linspace(0, 1, 4, dtype=F64))


X = torch.linspace(-1, 1, 12, dtype=F64).reshape(6, 2)
MODULES: dict[str, tuple[Callable[[str], nn.Module], Callable[[nn.Module], torch.Tensor]]] = {
    "NeuralODE": (lambda e: psnn.NeuralODE(network(), engine=e), lambda x: x(X)),
    "AugmentedNeuralODE": (lambda e: psnn.AugmentedNeuralODE(network(3, 3), 1, engine=e), lambda x: x(X)),
    "Regularization": (lambda e: psnn.NeuralODE(network(), regularization=psnn.Regularization(1.0), engine=e), regularized),
    "ScaledField": (lambda e: psnn.NeuralODE(psnn.ScaledField(network(), [1.0, 2.0], 3.0), engine=e), lambda x: x(X)),
    "ConcatSquashNetwork": (lambda e: psnn.NeuralODE(psnn.ConcatSquashNetwork(2, [8]).double(), engine=e), lambda x: x(X)),
    "ContinuousFlow": (lambda e: psnn.ContinuousFlow(network(), 2, engine=e), lambda x: x.log_prob(X)),
    "LatentODE": (latent, elbo),
}


@pytest.mark.parametrize("kind", MODULES)
def test_modules_of_every_kind(kind, engine):
    """Copies made before and after use give the same numbers and gradients, and lead their own lives."""
    make, call = MODULES[kind]
    torch.manual_seed(0)
    module = make(engine)
    fresh = pickle.loads(pickle.dumps(module))
    value, gradient = value_and_gradient(module, call)
    assert torch.isfinite(value).all() and any(x.abs().max() > 0 for x in gradient)
    stored = io.BytesIO()
    torch.save(module, stored)
    stored.seek(0)
    torch.manual_seed(1)
    other = make(engine)
    assert not torch.allclose(call(other).detach(), value)
    other.load_state_dict(saved_and_loaded(module.state_dict()))
    twins = [fresh, pickle.loads(pickle.dumps(module)), copy.deepcopy(module), torch.load(stored, weights_only=False), other]
    with torch.no_grad():
        for x in module.parameters():
            x.mul_(1.5)
    for twin in twins:
        same, slopes = value_and_gradient(twin, call)
        torch.testing.assert_close(same, value)
        for x, y in zip(slopes, gradient, strict=True):
            torch.testing.assert_close(x, y)
    assert not torch.allclose(call(module).detach(), value)


def value_and_gradient(module: nn.Module, call: Callable) -> tuple[torch.Tensor, list[torch.Tensor]]:
    module.zero_grad()
    value = call(module)
    value.square().sum().backward()
    return value.detach(), [torch.zeros_like(x) if x.grad is None else x.grad.clone() for x in module.parameters()]


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    stored = io.BytesIO()
    torch.save(state, stored)
    stored.seek(0)
    return torch.load(stored, weights_only=True)


@pytest.fixture
def block(engine) -> psnn.NeuralODE:
    """One that was used."""
    torch.manual_seed(0)
    made = psnn.NeuralODE(network(), engine=engine, **TIGHT)
    check(made)
    return made


def check(block: psnn.NeuralODE, x: torch.Tensor = X, rtol: float = 1e-5) -> None:
    """Values and gradients as torchdiffeq has them."""
    wanted = [x for x in block.parameters() if x.requires_grad]
    times = torch.tensor([0.0, 1.0], dtype=F64)
    tight = dict(rtol=1e-9, atol=1e-10) if x.dtype == F64 else dict(rtol=1e-6, atol=1e-6)
    expected = odeint(lambda t, u: block.dynamics(u), x, times, **tight)[-1]
    found = block(x)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)
    if wanted:
        slopes = (torch.autograd.grad(y.square().sum(), wanted) for y in (found, expected))
        for a, b in zip(*slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=10 * rtol, atol=10 * rtol)
    else:
        assert not found.requires_grad


def test_averages_of_weights(block):
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    average = AveragedModel(block, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.SGD(block.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        block(X).square().mean().backward()
        optimizer.step()
        average.update_parameters(block)
        average(X)
    check(block)
    check(average.module)
    assert not torch.allclose(average(X), block(X))


def test_weights_loaded_into_a_used_block(block):
    other = copy.deepcopy(block)
    with torch.no_grad():
        for x in block.parameters():
            x.mul_(-1.5)
    other.load_state_dict(saved_and_loaded(block.state_dict()))
    check(other)
    torch.testing.assert_close(other(X), block(X))
    other.load_state_dict(network_state(other, 7), assign=True)
    check(other)


def network_state(block: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: torch.randn_like(x) for name, x in block.state_dict().items()}


def test_training_goes_on_in_a_copy(block):
    optimizer = torch.optim.Adam(block.parameters(), 0.05)
    step(block, optimizer)
    twin = pickle.loads(pickle.dumps(block))
    follower = torch.optim.Adam(twin.parameters(), 0.05)
    follower.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    third, third_optimizer = copy.deepcopy((block, optimizer))
    for _ in range(2):
        for pair in ((block, optimizer), (twin, follower), (third, third_optimizer)):
            step(*pair)
    for other in (twin, third):
        torch.testing.assert_close(other(X), block(X))
    check(block)


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    module(X).square().mean().backward()
    optimizer.step()


def test_other_precisions(block):
    block.options.update(rtol=1e-5, atol=1e-6)
    for dtype, tolerance in ((torch.float32, 1e-3), (F64, 1e-4), (torch.float32, 1e-3)):
        block.to(dtype)
        check(block, X.to(dtype), tolerance)
        assert block(X.to(dtype)).dtype == dtype
    block.half()
    with pytest.raises(TypeError, match="float16"):
        block(X.half())
    with pytest.raises(TypeError, match=r"float16|Half"):
        block(X)


def test_frozen_weights(block):
    block.requires_grad_(False)
    check(block)
    with torch.no_grad():
        block.dynamics[0].weight.mul_(1.5)
    check(block)
    block.dynamics[2].requires_grad_(True)
    check(block)
    block.requires_grad_(True)
    check(block)


def test_other_layers(block):
    changes: list[Callable[[nn.Sequential], Any]] = [
        lambda net: net.append(nn.Linear(2, 2, dtype=F64)),
        lambda net: net.__setitem__(1, nn.SiLU()),
        lambda net: net.__delitem__(3),
        lambda net: setattr(net[0], "weight", nn.Parameter(torch.ones(8, 2, dtype=F64))),
        lambda net: setattr(net[0].weight, "data", torch.linspace(-1, 1, 16, dtype=F64).reshape(8, 2)),
        lambda net: setattr(net[0], "bias", None),
        lambda net: setattr(net[0], "forward", lambda x: 2 * nn.functional.linear(x, net[0].weight)),
    ]
    for change in changes:
        change(block.dynamics)
        check(block)


def test_hooks(block):
    def half(module, inputs):
        return (0.5 * inputs[0],)

    for register, hook in (
        (block.dynamics[0].register_forward_hook, lambda module, inputs, output: 2 * output),
        (block.dynamics.register_forward_pre_hook, half),
    ):
        handle = register(hook)
        check(block)
        handle.remove()
        check(block)
    calls = []
    block.register_forward_hook(lambda *given: calls.append(1))
    check(block)
    assert calls == [1]


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.scale, self.bounded, self.calls = nn.Linear(2, 2, dtype=F64), 1.0, True, 0

    def forward(self, u):
        self.calls += 1
        u = self.linear(u)
        return self.scale * (torch.tanh(u) if self.bounded else u)


def test_attributes(block):
    block.dynamics = Scaled()
    check(block)
    for name, value in (("scale", -0.5), ("bounded", False)):
        setattr(block.dynamics, name, value)
        check(block)
    # One that counts calls does not cost a capture each time.
    block(X)
    calls = block.dynamics.calls
    block(X)
    assert block.dynamics.calls == calls


def test_parametrized_weights(block):
    from torch.nn.utils import parametrizations, parametrize, prune

    class Symmetric(nn.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).T

    block.dynamics.append(nn.Linear(2, 2, dtype=F64))
    parametrize.register_parametrization(block.dynamics[3], "weight", Symmetric())
    check(block)
    parametrizations.weight_norm(block.dynamics[0])
    check(block)
    check(copy.deepcopy(block))
    parametrize.remove_parametrizations(block.dynamics[0], "weight")
    check(block)
    for _ in range(2):
        prune.l1_unstructured(block.dynamics[2], "weight", amount=0.25)
        check(block)
    prune.remove(block.dynamics[2], "weight")
    check(block)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_older_weight_norm(block):
    torch.nn.utils.weight_norm(block.dynamics[0])
    optimizer = torch.optim.SGD(block.parameters(), 0.1)
    for _ in range(2):
        step(block, optimizer)
        check(block)
    torch.nn.utils.remove_weight_norm(block.dynamics[0])
    check(block)


def test_layers_that_change_themselves(block):
    """Power iterations and running statistics, which an adaptive solver would repeat as it likes."""
    from torch.nn.utils.parametrizations import spectral_norm

    for change in (
        lambda net: spectral_norm(net[0]),
        lambda net: net.append(nn.BatchNorm1d(2, dtype=F64)),
    ):
        block.dynamics = network()
        change(block.dynamics)
        block.train()
        with pytest.raises(ps.CaptureError, match=r"in place|statistics"):
            block(X)
        block.eval()
        check(block)
    block.dynamics[3].running_mean.fill_(0.3)
    check(block)
