"""Problems for ``solve_ivp``, with references that owe nothing to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.sparse import diags

ALL = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
STIFF = ("Radau", "BDF", "LSODA")
COMPLEX = ("RK23", "RK45", "DOP853", "BDF")


@dataclass
class Problem:
    """An initial value problem as ``solve_ivp`` takes it, and the methods that can solve it in reasonable time."""

    fun: Callable[..., Any]
    span: tuple[float, float]
    y0: Any
    args: tuple | None = None
    methods: tuple[str, ...] = ALL
    events: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    exact: Callable[[np.ndarray], np.ndarray] | None = None
    slack: float = 60.0  # errors accumulate: some tens of the tolerance are usual, of SciPy's methods too

    @property
    def times(self) -> np.ndarray:
        return np.linspace(*self.span, 13)[1:]

    @cached_property
    def reference(self) -> np.ndarray:
        """The solution at `times`, whatever events would end it."""
        if self.exact is not None:
            return self.exact(self.times)
        method = "Radau" if self.methods == STIFF else "DOP853"
        return solve_ivp(self.fun, self.span, self.y0, method, self.times, args=self.args, rtol=1e-11, atol=1e-13).y

    def solve(self, solver: Callable[..., Any], method: Any, **changes: Any) -> Any:
        options = {"t_eval": self.times, "args": self.args, "events": self.events, **self.options, **changes}
        return solver(self.fun, self.span, self.y0, method, **options)

    def error(self, result: Any, rtol: float, atol: float) -> float:
        """The largest error, in units of the tolerance for each component at its largest."""
        k = len(result.t)
        scale = atol + rtol * np.abs(self.reference).max(axis=1, keepdims=True)
        return float(np.max(np.abs(result.y - self.reference[:, :k]) / scale, initial=0.0)) if k else 0.0


def decay(t, y):
    return -0.5 * y


def rational(t, y):
    return np.array([y[1] / t, y[1] * (y[0] + 2 * y[1] - 1) / (t * (y[0] - 1))])


def rational_exact(t):
    return np.array([t / (t + 10), 10 * t / (t + 10) ** 2])


def lotka_volterra(t, z, a, b, c, d):
    x, y = z
    return [a * x - b * x * y, -c * y + d * x * y]


def van_der_pol(t, y, mu):
    return [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]


def robertson(t, y):
    first, second, third = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return [-first + second, first - second - third, third]


def lorenz(t, y, sigma=10.0, rho=28.0, beta=8 / 3):
    return [sigma * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - beta * y[2]]


def cannon(t, y):
    return [y[1], -0.5]


def cannon_exact(t):
    return np.array([10 * t - 0.25 * t**2, 10 - 0.5 * t])


def height(t, y):
    return y[0]


def speed(t, y):
    return y[1]


def landing(t, y):
    return y[0]


landing.terminal = True
landing.direction = -1


def harmonic(t, y, w):
    return [y[1], -(w**2) * y[0]]


def harmonic_exact(t):
    return np.array([np.cos(2 * t), -2 * np.sin(2 * t)])


def upward(t, y, w):
    return y[0]


upward.direction = 1


def third_crossing(t, y, w):
    return y[0] - 0.3


third_crossing.terminal = 3

PHASES = np.array([[-0.25 + 0.14j, 0, 0.33 + 0.44j], [0.25 + 0.58j, -0.2 + 0.14j, 0], [0, 0.2 + 0.4j, -0.1 + 0.97j]])


def complex_linear(t, y):
    return PHASES @ y


def forced(t, y):
    return [y[1], -y[0] - 0.1 * y[1] + np.cos(1.3 * t)]


MATRIX = np.array([[-1.0, 2.0, 0.0], [-2.0, -1.0, 0.5], [0.0, -0.5, -3.0]])


def matrix_product(t, y):
    return np.dot(MATRIX, y)


def branching(t, y):
    return [-y[0] if t < 1.0 else -2.0 * y[0], y[0]]


def branching_exact(t):
    y = np.where(t < 1.0, np.exp(-t), np.exp(-1.0 - 2.0 * (t - 1.0)))
    integral = np.where(t < 1.0, 1 - np.exp(-t), 1 - np.exp(-1.0) + (np.exp(-1.0) - np.exp(-1.0 - 2.0 * (t - 1.0))) / 2)
    return np.array([y, integral])


CELLS = 20
LAPLACE = diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(CELLS, CELLS)).tocsr()


def brusselator(t, y):
    u, v = y[:CELLS], y[CELLS:]
    diffusion = (CELLS + 1) ** 2 / 50
    padded = np.concatenate([[1.0], u, [1.0]]), np.concatenate([[3.0], v, [3.0]])
    spread = [x[2:] - 2 * x[1:-1] + x[:-2] for x in padded]
    return np.concatenate([1 + u**2 * v - 4 * u + diffusion * spread[0], 3 * u - u**2 * v + diffusion * spread[1]])


def brusselator_structure():
    one = LAPLACE != 0
    eye = diags([1.0], [0], shape=(CELLS, CELLS)) != 0
    return np.block([[one.toarray(), eye.toarray()], [eye.toarray(), one.toarray()]]).astype(float)


_GRID = np.arange(1, CELLS + 1) / (CELLS + 1)

PROBLEMS = {
    "decay": Problem(decay, (0, 10), [2, 4, 8], exact=lambda t: np.outer([2, 4, 8], np.exp(-0.5 * t))),
    "rational": Problem(rational, (5, 9), [1 / 3, 2 / 9], exact=rational_exact),
    "rational backwards": Problem(rational, (5, 1), [1 / 3, 2 / 9], exact=rational_exact),
    "lotka_volterra": Problem(lotka_volterra, (0, 8), [10, 5], (1.5, 1, 3, 1)),
    "van_der_pol": Problem(van_der_pol, (0, 50), [2, 0], (50.0,), STIFF),
    "robertson": Problem(robertson, (0, 1e4), [1, 0, 0], None, STIFF, options={"atol": 1e-9}),
    "lorenz": Problem(lorenz, (0, 2), [1, 1, 1]),
    "cannon": Problem(cannon, (0, 50), [0, 10], events=[height, speed], exact=cannon_exact),
    "landing": Problem(cannon, (0, 100), [0, 10], events=[landing, speed], exact=cannon_exact),
    "direction": Problem(harmonic, (0, 10), [1, 0], (2.0,), events=upward, exact=harmonic_exact),
    "third": Problem(harmonic, (0, 10), [1, 0], (2.0,), events=third_crossing, exact=harmonic_exact),
    "harmonic backwards": Problem(
        harmonic, (3, -3), [np.cos(6), -2 * np.sin(6)], (2,), events=[upward, third_crossing],
        exact=harmonic_exact,
    ),
    "complex": Problem(complex_linear, (0, 5), np.array([10 + 0j, 20 + 0j, 30 + 0j]), None, COMPLEX),
    "forced": Problem(forced, (0, 10), [0, 0]),
    "matrix": Problem(matrix_product, (0, 3), [1, 2, 3]),
    "branching": Problem(branching, (0, 2), [1, 0], exact=branching_exact, slack=1000.0),  # where the jump falls in a step is luck
    "brusselator": Problem(
        brusselator, (0, 2), np.concatenate([1 + np.sin(2 * np.pi * _GRID), 3 + 0 * _GRID]), None, ("Radau", "BDF"),
        options={"jac_sparsity": brusselator_structure()},
    ),
}  # fmt: skip
