"""A neural ODE learns a spiral: any ``nn.Module`` as right-hand side, trained with torch's own optimiser.

Run: python examples/neural_ode.py
"""

import torch

import pysciode as ps

TRUE = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
TIMES = torch.linspace(0.0, 1.5, 30)
START = torch.tensor([[2.0, 0.0]])


class Spiral(torch.nn.Module):
    """What is to be found: ``u' = u³ A``."""

    def forward(self, t, u):
        return u**3 @ TRUE


class Network(torch.nn.Module):
    """What is to find it."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 50), torch.nn.Tanh(), torch.nn.Linear(50, 2))

    def forward(self, t, u):
        return self.net(u**3)


def states(model, times=TIMES):
    """The states at `times`."""
    return ps.solve(ps.ODEProblem(model, START, (0.0, float(times[-1]))), saveat=times, rtol=1e-5, atol=1e-6).u


def train(steps=201, keep=()):
    """The data, and the path of the network after each number of steps in `keep`."""
    torch.manual_seed(0)
    with torch.no_grad():
        data = states(Spiral())
    network, kept = Network(), {}
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for step in range(steps):
        optimiser.zero_grad()
        if step in keep:
            with torch.no_grad():
                kept[step] = states(network, torch.linspace(0.0, 1.5, 300))
        loss = (states(network) - data).abs().mean()
        loss.backward()
        optimiser.step()
        if step % 40 == 0:
            print(f"step {step:4d}  mean absolute error {loss.item():.4f}")
    return data, kept


if __name__ == "__main__":
    train()
