"""Right-hand sides from the literature, in plain NumPy, at a point where all their terms count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Model:
    f: Callable[..., Any]
    u: np.ndarray
    p: np.ndarray
    t: float = 0.3


def lotka_volterra(u, p, t):
    x, y = u
    a, b, c, d = p
    return [a * x - b * x * y, d * x * y - c * y]


def lorenz(u, p, t):
    x, y, z = u
    return np.array([p[0] * (y - x), x * (p[1] - z) - y, x * y - p[2] * z])


def robertson(du, u, p, t):
    k1, k2, k3 = p
    du[0] = -k1 * u[0] + k3 * u[1] * u[2]
    du[1] = k1 * u[0] - k2 * u[1] ** 2 - k3 * u[1] * u[2]
    du[2] = k2 * u[1] ** 2


def van_der_pol(u, p, t):
    return [u[1], p[0] * ((1 - u[0] ** 2) * u[1]) - u[0]]


def oregonator(u, p, t):
    s, w, q = p
    return [s * (u[1] + u[0] * (1 - q * u[0] - u[1])), (u[2] - (1 + u[0]) * u[1]) / s, w * (u[0] - u[2])]


def hires(u, p, t):
    y1, y2, y3, y4, y5, y6, y7, y8 = u
    k1, k2, k3, k4, k5, k6, kp, k8 = p
    r = k6 * y6 * y8
    return [
        -k1 * y1 + 0.43 * y2 + k2 * y3 + 0.0007,
        k1 * y1 - k3 * y2,
        -10.03 * y3 + 0.43 * y4 + k4 * y5,
        8.32 * y2 + k1 * y3 - k5 * y4,
        -1.745 * y5 + 0.43 * (y6 + y7),
        -r + 0.69 * y4 + k1 * y5 - 0.43 * y6 + 0.69 * y7,
        r - kp * y7,
        -r + k8 * y7,
    ]


def pollu(y, k, t):
    """Verwer's air pollution model: 20 species, 25 reactions."""
    r = np.zeros(25)
    r[0], r[1], r[2], r[3] = k[0] * y[0], k[1] * y[1] * y[3], k[2] * y[4] * y[1], k[3] * y[6]
    r[4], r[5], r[6], r[7] = k[4] * y[6], k[5] * y[6] * y[5], k[6] * y[8], k[7] * y[8] * y[5]
    r[8], r[9], r[10], r[11] = k[8] * y[10] * y[1], k[9] * y[10] * y[0], k[10] * y[12], k[11] * y[9] * y[1]
    r[12], r[13], r[14], r[15] = k[12] * y[13], k[13] * y[0] * y[5], k[14] * y[2], k[15] * y[3]
    r[16], r[17], r[18], r[19] = k[16] * y[3], k[17] * y[15], k[18] * y[15], k[19] * y[16] * y[5]
    r[20], r[21], r[22], r[23] = k[20] * y[18], k[21] * y[18], k[22] * y[0] * y[3], k[23] * y[18] * y[0]
    r[24] = k[24] * y[19]
    return np.array(
        [
            -r[0] - r[9] - r[13] - r[22] - r[23] + r[1] + r[2] + r[8] + r[10] + r[11] + r[21] + r[24],
            -r[1] - r[2] - r[8] - r[11] + r[0] + r[20],
            -r[14] + r[0] + r[16] + r[18] + r[21],
            -r[1] - r[15] - r[16] - r[22] + r[14],
            -r[2] + 2 * r[3] + r[5] + r[6] + r[12] + r[19],
            -r[5] - r[7] - r[13] - r[19] + r[2] + 2 * r[17],
            -r[3] - r[4] - r[5] + r[12],
            r[3] + r[4] + r[5] + r[6],
            -r[6] - r[7],
            -r[11] + r[6] + r[8],
            -r[8] - r[9] + r[7] + r[10],
            r[8],
            -r[10] + r[9],
            -r[12] + r[11],
            r[13],
            -r[17] - r[18] + r[15],
            -r[19],
            r[19],
            -r[20] - r[21] - r[23] + r[22] + r[24],
            -r[24] + r[23],
        ]
    )


def brusselator(u, p, t):
    """On a periodic grid, state of shape (n, n, 2)."""
    a, b, alpha = p
    grid = np.linspace(0, 1, u.shape[0])
    inside = (grid[:, None] - 0.3) ** 2 + (grid[None, :] - 0.6) ** 2 <= 0.1**2
    source = np.where(t >= 0.2, 5.0 * inside, 0.0)
    x, y = u[..., 0], u[..., 1]

    def laplacian(z):
        return sum(np.roll(z, s, axis) for axis in (0, 1) for s in (-1, 1)) - 4 * z

    dx = b + x**2 * y - (a + 1) * x + alpha * laplacian(x) + source
    dy = a * x - x**2 * y + alpha * laplacian(y)
    return np.stack([dx, dy], -1)


def pleiades(z, p, t):
    x, y, vx, vy = z[:7], z[7:14], z[14:21], z[21:]
    dx, dy = x[None, :] - x[:, None], y[None, :] - y[:, None]
    r = (dx**2 + dy**2 + np.eye(7)) ** 1.5
    return np.concatenate([vx, vy, np.sum(p * dx / r, axis=1), np.sum(p * dy / r, axis=1)])


def hodgkin_huxley(u, p, t):
    v, n, m, h = u
    g_na, g_k, g_l, e_na, e_k, e_l = p
    alpha_n = 0.01 * (v + 55) / (1 - np.exp(-(v + 55) / 10))
    alpha_m = 0.1 * (v + 40) / (1 - np.exp(-(v + 40) / 10))
    alpha_h = 0.07 * np.exp(-(v + 65) / 20)
    beta_n = 0.125 * np.exp(-(v + 65) / 80)
    beta_m = 4 * np.exp(-(v + 65) / 18)
    beta_h = 1 / (1 + np.exp(-(v + 35) / 10))
    current = np.where((t > 0.1) & (t < 0.5), 10.0, 0.0)
    return [
        current - g_na * m**3 * h * (v - e_na) - g_k * n**4 * (v - e_k) - g_l * (v - e_l),
        alpha_n * (1 - n) - beta_n * n,
        alpha_m * (1 - m) - beta_m * m,
        alpha_h * (1 - h) - beta_h * h,
    ]


def michaelis_menten(u, p, t):
    """Kinks, powers and special functions in one model."""
    s, e = u
    hill = s ** p[0] / (p[1] ** p[0] + s ** p[0])
    pulse = np.maximum(0.0, np.sin(t * p[2])) * np.clip(e, 0.1, 0.9)
    return [-hill * e + pulse, np.tanh(hill) - np.abs(e - 0.5) * np.log1p(s) + np.arctan2(s, e) * np.hypot(s, e)]


def diffusion_in_a_rod(u, p, t):
    """Unlike coefficients at each place, fixed ends, a nonlinear source, and one sum over all places."""
    n = len(u)
    conductivity = 1 + np.sin(np.arange(n + 1.0)) ** 2
    padded = np.concatenate([[p[0]], u, [0.0]])
    flux = conductivity * np.diff(padded)
    source = np.where(u > p[1], u**2.5, np.exp(-u)) - np.arange(n) ** 1.5 * np.tanh(u * t)
    return np.diff(flux) * p[2] + source * np.sum(u**2) / n


def all_to_all(u, p, t):
    """Kuramoto's oscillators."""
    return p[0] + p[1] / len(u) * np.sum(np.sin(u[None, :] - u[:, None]), axis=1) + 0.1 * np.arange(len(u))


_POLLU_K = np.array(
    [0.35, 26.6, 123.0, 8.6e-4, 8.2e-4, 1.5e3, 1.3e-4, 2.4e4, 1.65e4, 9.0e3, 0.22e-1, 1.2e4, 1.88, 1.63e4, 4.8e6, 3.5e-4,
     0.175e-1, 1e8, 4.44e11, 1.24e3, 2.1, 5.78, 4.74e-2, 1.78e3, 3.12]
)  # fmt: skip
_rng = np.random.default_rng(7)

MODELS: dict[str, Model] = {
    "lotka_volterra": Model(lotka_volterra, np.array([1.2, 0.7]), np.array([1.5, 1.0, 3.0, 1.0])),
    "lorenz": Model(lorenz, np.array([1.0, 2.0, 3.0]), np.array([10.0, 28.0, 8 / 3])),
    "robertson": Model(robertson, np.array([0.8, 1e-4, 0.2]), np.array([0.04, 3e7, 1e4])),
    "van_der_pol": Model(van_der_pol, np.array([2.0, 0.1]), np.array([1e3])),
    "oregonator": Model(oregonator, np.array([1.0, 2.0, 3.0]), np.array([77.27, 0.161, 8.375e-6])),
    "hires": Model(hires, _rng.uniform(0.1, 1, 8), np.array([1.71, 8.32, 8.75, 0.035, 1.12, 280.0, 1.81, 1.81])),
    "pollu": Model(pollu, _rng.uniform(1e-3, 1, 20), _POLLU_K),
    "brusselator": Model(brusselator, _rng.uniform(0.5, 2, (5, 5, 2)), np.array([3.4, 1.0, 10.0])),
    "pleiades": Model(pleiades, _rng.normal(size=28), np.arange(1.0, 8.0)),
    "hodgkin_huxley": Model(hodgkin_huxley, np.array([-60.0, 0.4, 0.1, 0.5]), np.array([120.0, 36.0, 0.3, 50.0, -77.0, -54.4])),
    "michaelis_menten": Model(michaelis_menten, np.array([0.8, 0.3]), np.array([2.2, 0.6, 1.7])),
}


LARGE: dict[str, Model] = {
    "brusselator": Model(brusselator, _rng.uniform(0.5, 2, (8, 8, 2)), np.array([3.4, 1.0, 10.0])),
    "diffusion": Model(diffusion_in_a_rod, _rng.uniform(0.1, 2, 60), np.array([0.5, 0.9, 2.0])),
    "kuramoto": Model(all_to_all, _rng.uniform(0, 6, 24), np.array([0.3, 1.7])),
}
"""Models that are written as loops."""


def call(model: Model, u: np.ndarray, p: np.ndarray, t: float) -> np.ndarray:
    """The flat right-hand side as NumPy computes it."""
    if model.f is robertson:
        du = np.zeros_like(u)
        model.f(du, u, p, t)
        return du
    return np.asarray(model.f(u, p, t), float).ravel()
