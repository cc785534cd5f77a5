"""SciML's methods that torchdiffeq lacks, as solvers of torchdiffeq."""

from __future__ import annotations

from typing import Any

import torch
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver, _ButcherTableau, rk4_step_func
from torchdiffeq._impl.solvers import FixedGridODESolver

TSIT5, RK4 = "pysciode_tsit5", "pysciode_rk4"

_STAGES = [
    [0.161],
    [-0.008480655492356989, 0.335480655492357],
    [2.8971530571054935, -6.359448489975075, 4.3622954328695815],
    [5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525],
    [5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383],
    [0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774],
]
_ERROR = [
    -0.00178001105222577714,
    -0.0008164344596567469,
    0.007880878010261995,
    -0.1447110071732629,
    0.5823571654525552,
    -0.45808210592918697,
    0.015151515151515152,
]
# The weights of the paper's interpolant in the middle of a step; with values and slopes at both ends they fix its quartic.
_MIDDLE = [
    0.10741235230096878,
    0.01135625,
    0.3956090305604531,
    -0.3447521435259353,
    1.316185364958165,
    -1.0170608542936517,
    0.03125,
]


def _tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Tsit5Solver(RKAdaptiveStepsizeODESolver):
    """Tsitouras' method of orders 5(4); the last stage is the next step's first.

    Tsitouras, "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption", Computers and
    Mathematics with Applications 62 (2011), 770-775.
    """

    order = 5
    tableau = _ButcherTableau(
        alpha=_tensor([0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0]),
        beta=[_tensor(row) for row in _STAGES],
        c_sol=_tensor([*_STAGES[-1], 0.0]),
        c_error=_tensor(_ERROR),
    )
    mid = _tensor(_MIDDLE)


class RK4Solver(FixedGridODESolver):
    """The classical method of order 4, with a fixed step (Kutta, 1901)."""

    order = 4

    def _step_func(
        self, func: Any, t0: torch.Tensor, dt: torch.Tensor, t1: torch.Tensor, y0: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        f0 = func(t0, y0)
        return rk4_step_func(func, t0, dt, t1, y0, f0=f0), f0


SOLVERS[TSIT5] = Tsit5Solver
SOLVERS[RK4] = RK4Solver
