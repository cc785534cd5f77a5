"""States of bfloat16 and float16 in odeint: solved in float32, and rounded once, at the end."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from pysciode.compat.torchdiffeq import odeint, odeint_adjoint, odeint_event  # noqa: E402

pytestmark = pytest.mark.julia


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

    def forward(self, t, y):
        return self.layers(y) * torch.cos(t)


@pytest.mark.parametrize("solver", [odeint, odeint_adjoint])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_and_gradients(julia_engine, solver, dtype):
    net = Net().to(dtype)
    found = []
    for f, kind in ((net, dtype), (Net().to(dtype).double(), torch.float64)):
        y = torch.tensor([1.0, 2.0], dtype=kind, requires_grad=True)
        u = solver(f, y, torch.tensor([0.0, 1.0, 2.0], dtype=kind))
        found.append((u, *torch.autograd.grad(u[-1].sum(), [y, *f.parameters()])))
    eps = torch.finfo(dtype).eps
    for x, exact in zip(*found, strict=True):
        assert x.dtype == dtype
        torch.testing.assert_close(x.double(), exact, rtol=eps, atol=eps)


def test_tuples_and_events(julia_engine):
    y = (torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([[0.0]], dtype=torch.bfloat16))
    height, speed = odeint(lambda t, y: (y[1].reshape(1), -torch.ones_like(y[1])), y, torch.tensor([0.0, 1.0]))
    assert height.dtype == speed.dtype == torch.bfloat16 and height[-1].item() == 0.5 and speed[-1].item() == -1.0
    t, _ = odeint_event(lambda t, y: -y, torch.ones(1, dtype=torch.float16), torch.tensor(0.0), event_fn=lambda t, y: y[0] - 0.5)
    assert t.item() == pytest.approx(0.693147, rel=2e-3)
