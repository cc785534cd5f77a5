"""What must hold of solves on a device, whichever it is: tests run these on the stand-in, and on GPUs.

Each takes torch's name of the device where the tensors are to lie. References are exact, or torchdiffeq's in double precision
on the CPU.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import nn
from torchdiffeq import odeint

import pysciode as ps

TIGHT = {"rtol": 1e-8, "atol": 1e-10}
DOUBLE = torch.float64


def network(device: str, dtype: torch.dtype = DOUBLE) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype).to(device)


def start(*shape: int, device: str, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)).to(dtype).to(device)


def reference(module: nn.Module, u0: torch.Tensor, times: Sequence[float]) -> list[torch.Tensor]:
    """States at `times` after 0, and the gradients of the sum of their sines to the start and to the weights."""
    twin = type(module)(*module.children()) if isinstance(module, nn.Sequential) else module
    weights = [p.detach().to("cpu", DOUBLE).requires_grad_() for p in module.parameters()]
    names = [name for name, _ in module.named_parameters()]
    u0 = u0.detach().to("cpu", DOUBLE).requires_grad_()

    def f(t, u):
        return torch.func.functional_call(twin, dict(zip(names, weights, strict=True)), (u,))

    u = odeint(f, u0, torch.tensor([0.0, *times], dtype=DOUBLE), rtol=1e-11, atol=1e-11, method="dopri5")[1:]
    return [u.detach(), *torch.autograd.grad(u.sin().sum(), [u0, *weights])]


def check_close(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], device: str, tolerance: float) -> None:
    """Relative to the largest entry; `found` must lie on the device."""
    for x, y in zip(found, expected, strict=True):
        assert x.device == torch.device(device)
        error = (x.detach().to("cpu", DOUBLE) - y.to("cpu", DOUBLE)).abs().max() / y.abs().max()
        assert error.item() < tolerance


# ---------------------------------------------------------------------------------------------------------------------


def check_adjoint(device: str, sensealg: str, tolerance: float = 2e-6) -> None:
    """States and gradients through one of the adjoints."""
    module, u0 = network(device), start(5, 3, device=device).requires_grad_()
    times = [0.3, 1.0]
    method = getattr(ps, sensealg)
    options = {"abstol": 1e-9, "reltol": 1e-8} if sensealg == "QuadratureAdjoint" else {}
    sol = ps.solve(ps.ODEProblem(module, u0, (0.0, 1.0)), ps.Tsit5(), saveat=times, sensealg=method(**options), **TIGHT)
    gradients = torch.autograd.grad(sol.u.sin().sum(), [u0, *module.parameters()])
    check_close([sol.u, *gradients], reference(module, u0, times), device, tolerance)
    assert sol.u.dtype == DOUBLE and sol.stats.nf > 0


def check_single_precision(device: str) -> None:
    module, u0 = network(device, torch.float32), start(5, 3, device=device, dtype=torch.float32).requires_grad_()
    sol = ps.solve(ps.ODEProblem(module, u0, (0.0, 1.0)), ps.Tsit5(), saveat=[1.0], rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(sol.u.sin().sum(), [u0, *module.parameters()])
    assert {x.dtype for x in (sol.u, *gradients)} == {torch.float32}
    check_close([sol.u, *gradients], reference(module, u0, [1.0]), device, 1e-3)


def check_images(device: str) -> None:
    """Convolutions and norms over states of four dimensions."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 2, 3, padding=1))
    module = nn.Sequential(*layers).to(DOUBLE).to(device)
    u0 = start(3, 2, 4, 4, device=device).requires_grad_()
    sol = ps.solve(ps.ODEProblem(module, u0, (0.0, 1.0)), ps.Tsit5(), saveat=[1.0], **TIGHT)
    gradients = torch.autograd.grad(sol.u.sin().sum(), [u0, *module.parameters()])
    check_close([sol.u, *gradients], reference(module, u0, [1.0]), device, 1e-6)


def linear(u, p, t):
    return u @ p["A"] * p["rate"] + torch.sin(t) * p["force"]


def check_parameters_and_times(device: str) -> None:
    """Tensors and numbers as parameters, the time in the model, and a span that runs backwards."""
    A = torch.tensor([[-0.5, 1.0], [-1.0, -0.3]], dtype=DOUBLE, device=device, requires_grad=True)
    u0 = start(4, 2, device=device)
    problem = ps.ODEProblem(linear, u0, (1.0, -0.5), {"A": A, "rate": 2.0, "force": 0.0})
    u = ps.solve(problem, ps.Tsit5(), saveat=[-0.5], **TIGHT).u[-1]
    exact = u0 @ torch.linalg.matrix_exp(-3.0 * A)
    check_close([u, *torch.autograd.grad(u.sum(), A)], [exact.detach(), *torch.autograd.grad(exact.sum(), A)], device, 1e-6)
    parameters = {"A": torch.zeros_like(A), "rate": 1.0, "force": 3.0}
    forced = ps.remake(problem, u0=torch.zeros_like(u0), tspan=(0.0, 2.0), p=parameters)
    u = ps.solve(forced, ps.Tsit5(), saveat=[2.0], **TIGHT).u[-1]
    check_close([u], [torch.full_like(u, 3 * (1 - np.cos(2.0)))], device, 1e-7)


def check_stiff(device: str) -> None:
    """An implicit method, with its Jacobian and its linear solves on the device."""
    A = torch.tensor([[-1.0, 0.0, 0.5], [0.0, -1000.0, 0.0], [0.5, 1.0, -2.0]], dtype=DOUBLE, device=device, requires_grad=True)
    u0 = start(3, device=device)
    problem = ps.ODEProblem(lambda u, p, t: u @ p, u0, (0.0, 1.0), A)
    # GaussAdjoint's nodes miss what the fast decay adds to the gradient, on the CPU as well.
    sol = ps.solve(problem, ps.Rodas5P(), saveat=[1.0], sensealg=ps.InterpolatingAdjoint(), **TIGHT)
    exact = u0 @ torch.linalg.matrix_exp(A)
    found, expected = (torch.autograd.grad(x.sum(), A) for x in (sol.u, exact))
    check_close([sol.u[-1], *found], [exact.detach(), *expected], device, 1e-5)
    assert sol.stats.naccept < 500  # an explicit method would need as many for the fast decay alone


def decay(u, p, t):
    return -p * u


def check_dense_output_and_steps(device: str) -> None:
    u0 = start(6, device=device)
    problem = ps.ODEProblem(decay, u0, (0.0, 2.0), torch.tensor(1.5, dtype=DOUBLE, device=device))
    sol = ps.solve(problem, ps.Tsit5(), **TIGHT)
    t = sol.t.cpu().numpy()
    assert len(t) > 3 and (np.diff(t) > 0).all() and t[-1] == 2.0
    check_close([sol.u], [u0 * torch.exp(-1.5 * torch.tensor(t, device=device))[:, None]], device, 1e-7)
    check_close([sol(0.77)], [u0 * np.exp(-1.5 * 0.77)], device, 1e-6)
    some = ps.solve(problem, ps.Tsit5(), saveat=[1.0], save_idxs=[4, 1], **TIGHT)
    check_close([some.u[0]], [u0[[4, 1]] * np.exp(-1.5)], device, 1e-7)


def check_own_memory(device: str) -> None:
    """A result stays when all that made it is gone, and what went in is as it was."""
    u0 = start(1000, device=device)
    before = u0.clone()
    rate = torch.tensor(1.0, dtype=DOUBLE, device=device)
    u = ps.solve(ps.ODEProblem(decay, u0, (0.0, 1.0), rate), ps.Tsit5(), saveat=[0.5, 1.0], **TIGHT).u
    kept = u.clone()
    for _ in range(3):
        ps.solve(ps.ODEProblem(decay, torch.ones_like(u0), (0.0, 1.0), rate), ps.Tsit5(), saveat=[0.5, 1.0], **TIGHT)
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    junk = [torch.full_like(u, 7.0) for _ in range(10)]
    assert torch.equal(u, kept) and torch.equal(u0, before) and len(junk) == 10
    check_close([u[-1]], [before * np.exp(-1.0)], device, 1e-7)


def check_weights_are_read_anew(device: str) -> None:
    """An optimiser changes them in place between the solves."""
    module, u0 = network(device), start(8, 3, device=device)
    with torch.no_grad():
        target = 0.5 * u0
    problem = ps.ODEProblem(module, u0, (0.0, 1.0))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (ps.solve(problem, ps.Tsit5(), saveat=[1.0], rtol=1e-5, atol=1e-7).u[-1] - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], **TIGHT).u
    check_close([u], reference(module, u0, [1.0])[:1], device, 1e-6)


def check_flow(device: str) -> None:
    """A continuous flow by a linear field, whose density is known."""
    field = nn.Linear(2, 2, bias=False).to(DOUBLE).to(device)
    with torch.no_grad():
        field.weight.copy_(torch.tensor([[0.3, -0.8], [0.5, -0.1]]))
    flow = ps.nn.ContinuousFlow(field, 2, **TIGHT)
    x = start(7, 2, device=device)
    log_prob = flow.log_prob(x)
    z = x @ torch.linalg.matrix_exp(-field.weight.T)
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) - field.weight.trace()
    found, expected = (torch.autograd.grad(y.sum(), field.weight) for y in (log_prob, exact))
    check_close([log_prob, *found], [exact.detach(), *expected], device, 1e-6)


def blow_up(u, p, t):
    return u * u


def check_partial_solution(device: str) -> None:
    problem = ps.ODEProblem(blow_up, torch.ones(3, dtype=DOUBLE, device=device), (0.0, 2.0))
    with pytest.raises(ps.SolveFailed) as caught:
        ps.solve(problem, ps.Tsit5(), saveat=[0.5, 1.5], **TIGHT)
    assert 0.9 < caught.value.t < 1.001
    check_close([caught.value.solution.u], [torch.full((1, 3), 2.0, dtype=DOUBLE)], device, 1e-6)
    check_single_solve(device)


def root(u, p, t):
    return torch.sqrt(u)


def check_gradient_that_is_not_finite(device: str) -> None:
    u0 = torch.zeros(3, dtype=DOUBLE, device=device, requires_grad=True)
    with pytest.raises(ps.GradientFailed):
        ps.solve(ps.ODEProblem(root, u0, (0.0, 1.0)), ps.Tsit5(), saveat=[1.0], **TIGHT).u.sum().backward()
    check_single_solve(device)


def check_single_solve(device: str) -> None:
    """After something went wrong, solves are as ever."""
    u0, rate = torch.ones(3, dtype=DOUBLE, device=device), torch.tensor(2.0, dtype=DOUBLE, device=device)
    problem = ps.ODEProblem(decay, u0, (0.0, 1.0), rate)
    u = ps.solve(problem, ps.Tsit5(), saveat=[1.0], **TIGHT).u[-1]
    check_close([u], [torch.full((3,), np.exp(-2.0), dtype=DOUBLE)], device, 1e-7)


def upwards(u, p, t):
    return u[0] - 0.5


def check_what_is_refused(device: str) -> None:
    """By the name of the argument, before Julia is asked."""
    u0 = torch.ones(3, dtype=DOUBLE, device=device, requires_grad=True)
    problem = ps.ODEProblem(blow_up, u0, (0.0, 0.5))
    refused: dict[str, Callable[[], object]] = {
        "capture": lambda: ps.solve(ps.ODEProblem(blow_up, u0, (0.0, 0.5), capture="callback"), ps.Tsit5()),
        "callback": lambda: ps.solve(problem, ps.Tsit5(), callback=ps.ContinuousCallback(upwards, terminal=True)),
        "internalnorm": lambda: ps.solve(problem, ps.Tsit5(), internalnorm=lambda x: abs(x).max()),
        "sensealg": lambda: ps.solve(problem, ps.Tsit5(), sensealg=ps.ForwardDiffSensitivity()),
        "algorithm": lambda: ps.solve(ps.SplitODEProblem(decay, decay, u0, (0.0, 0.5), 1.0), ps.KenCarp4()),
    }
    for argument, call in refused.items():
        with pytest.raises(ValueError, match=f"^{argument}"):
            call()


CHECKS: dict[str, Callable[[str], None]] = {
    "GaussAdjoint": lambda device: check_adjoint(device, "GaussAdjoint"),
    "InterpolatingAdjoint": lambda device: check_adjoint(device, "InterpolatingAdjoint"),
    "BacksolveAdjoint": lambda device: check_adjoint(device, "BacksolveAdjoint"),
    "QuadratureAdjoint": lambda device: check_adjoint(device, "QuadratureAdjoint"),
    "single precision": check_single_precision,
    "images": check_images,
    "parameters and times": check_parameters_and_times,
    "stiff": check_stiff,
    "dense output and steps": check_dense_output_and_steps,
    "own memory": check_own_memory,
    "weights are read anew": check_weights_are_read_anew,
    "flow": check_flow,
    "partial solution": check_partial_solution,
    "gradient that is not finite": check_gradient_that_is_not_finite,
    "what is refused": check_what_is_refused,
}
"""By what tests call them."""
