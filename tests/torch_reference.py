"""What torch itself says about a model at a point, and models of many operations, for tests of generated code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch_models import ACTIVATIONS, POINTWISE, REDUCTIONS, STRUCTURE

from pysciode.capture.torch.array_capture import discover_parameters

TIME = 0.3
TOLERANCE = {torch.float32: 3e-4, torch.float64: 1e-9}


@dataclass
class Reference:
    """What torch's own autograd says about a model at a point."""

    model: nn.Module
    u: torch.Tensor
    v: torch.Tensor

    def __post_init__(self) -> None:
        self.u = self.u.clone().requires_grad_()
        self.t = torch.tensor(TIME, dtype=self.u.dtype, requires_grad=True)
        self.parameters = list(discover_parameters(self.model).values())
        self.du = self.model(self.t, self.u)

    def p(self) -> np.ndarray:
        return _flat(self.parameters, self.u.dtype)

    def gradients(self, cotangent: torch.Tensor) -> list[torch.Tensor]:
        inputs = [self.u, self.t, *self.parameters]
        if not self.du.requires_grad:
            return [torch.zeros_like(x) for x in inputs]
        found = torch.autograd.grad(self.du, inputs, cotangent, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]

    def results(self, names: Collection[str]) -> dict[str, np.ndarray]:
        n, dtype = self.u.numel(), self.u.dtype
        du, dt, *dp = self.gradients(self.v)
        out = {name: _flat([self.du], dtype) for name in ("f!", "f_oop")}
        out |= {"vjp!": _flat([du], dtype), "vjp_p!": _flat(dp, dtype), "vjp_both!": _flat([du, *dp], dtype)}
        if not {"jvp!", "jac!", "paramjac!", "tgrad!"}.isdisjoint(names):
            rows = [self.gradients(row.reshape(self.u.shape)) for row in torch.eye(n, dtype=dtype)]
            jacobian = np.stack([_flat([row[0]], dtype) for row in rows])
            out["jac!"] = jacobian.T.reshape(-1)
            out["jvp!"] = jacobian @ self.v.reshape(-1).numpy()
            out["tgrad!"] = np.stack([_flat([row[1]], dtype) for row in rows]).reshape(-1)
            out["paramjac!"] = np.stack([_flat(row[2:], dtype) for row in rows]).T.reshape(-1)
        return out


def _flat(tensors: Collection[torch.Tensor], dtype: torch.dtype) -> np.ndarray:
    parts = [x.detach().reshape(-1) for x in tensors]
    return torch.cat(parts).numpy() if parts else torch.zeros(0, dtype=dtype).numpy()


class Each(nn.Module):
    """``du[i] = operations[i](u[i])``: many operations in one model."""

    def __init__(self, operations) -> None:
        super().__init__()
        self.operations = operations

    def forward(self, t, u):
        return torch.stack([f(u[i]) * (1 + t) for i, f in enumerate(self.operations)])


def operation_groups() -> list:
    """All operations, some at a time, as parameters of a test."""
    tables = {"pointwise": POINTWISE, "activation": ACTIVATIONS, "reduction": REDUCTIONS, "structure": STRUCTURE}
    groups = []
    for label, table in tables.items():
        items = list(table.items())
        size = 12
        for k in range(0, len(items), size):
            groups.append(pytest.param(items[k : k + size], id=f"{label}-{items[k][0]}"))
    return groups
