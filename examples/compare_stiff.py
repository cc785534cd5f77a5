"""Which method for stiff chemistry? Robertson's reactions and the air pollution model POLLU.

BacksolveAdjoint solves the states backwards in time, in which direction the fast reactions that are damped forwards grow
without bound: it fails, and the report says so. Run: python examples/compare_stiff.py [--quick] [--output PNG]; the figure is
POLLU's, Robertson's is saved beside it.
"""

from __future__ import annotations

import numpy as np
import torch
from comparison_script import options, show

import pysciode as ps


def robertson(u, p, t):
    a, b, c = u
    slow, fast, back = p[0] * a, p[1] * b * b, p[2] * b * c
    return [back - slow, slow - back - fast, fast]


ROBERTSON_TIMES = np.logspace(-5, 4, 50)
ROBERTSON_SCALE = torch.tensor([1.0, 3e4, 1.0], dtype=torch.float64)  # the second species stays near 3e-5


def robertson_problem() -> ps.ODEProblem:
    """Robertson, "The solution of a set of reaction rate equations" (1966)."""
    return ps.ODEProblem(robertson, [1.0, 0.0, 0.0], (0.0, 1e4), [0.04, 3e7, 1e4], name="Robertson")


def robertson_loss(solution) -> torch.Tensor:
    """Sum of squares, with the states brought to one size."""
    return (solution.u * ROBERTSON_SCALE).square().sum()


POLLU_RATES = np.array(
    [0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9e3, 0.022, 1.2e4, 1.88]
    + [1.63e4, 4.8e6, 3.5e-4, 0.0175, 1e8, 4.44e11, 1240.0, 2.1, 5.78, 0.0474, 1780.0, 3.12]
)


def pollu(y, k, t):
    """20 species, 25 reactions; time in minutes, concentrations in ppm."""
    r1, r2, r3, r4, r5 = k[0] * y[0], k[1] * y[1] * y[3], k[2] * y[4] * y[1], k[3] * y[6], k[4] * y[6]
    r6, r7, r8, r9, r10 = k[5] * y[6] * y[5], k[6] * y[8], k[7] * y[8] * y[5], k[8] * y[10] * y[1], k[9] * y[10] * y[0]
    r11, r12, r13, r14, r15 = k[10] * y[12], k[11] * y[9] * y[1], k[12] * y[13], k[13] * y[0] * y[5], k[14] * y[2]
    r16, r17, r18, r19, r20 = k[15] * y[3], k[16] * y[3], k[17] * y[15], k[18] * y[15], k[19] * y[16] * y[5]
    r21, r22, r23, r24, r25 = k[20] * y[18], k[21] * y[18], k[22] * y[0] * y[3], k[23] * y[18] * y[0], k[24] * y[19]
    return [
        -r1 - r10 - r14 - r23 - r24 + r2 + r3 + r9 + r11 + r12 + r22 + r25,
        -r2 - r3 - r9 - r12 + r1 + r21,
        -r15 + r1 + r17 + r19 + r22,
        -r2 - r16 - r17 - r23 + r15,
        -r3 + 2 * r4 + r6 + r7 + r13 + r20,
        -r6 - r8 - r14 - r20 + r3 + 2 * r18,
        -r4 - r5 - r6 + r13,
        r4 + r5 + r6 + r7,
        -r7 - r8,
        -r12 + r7 + r9,
        -r9 - r10 + r8 + r11,
        r9,
        -r11 + r10,
        -r13 + r12,
        r14,
        -r18 - r19 + r16,
        -r20,
        r20,
        -r21 - r22 - r24 + r23 + r25,
        -r25 + r24,
    ]


def pollu_problem() -> ps.ODEProblem:
    """Verwer, "Gauss–Seidel iteration for stiff ODEs from chemical kinetics", SIAM J. Sci. Comput. 15 (1994), 1243–1250."""
    start = np.zeros(20)
    start[[1, 3, 6, 7, 8, 16]] = 0.2, 0.04, 0.1, 0.3, 0.01, 0.007
    return ps.ODEProblem(pollu, start, (0.0, 60.0), POLLU_RATES, name="POLLU")


def main() -> None:
    """Compare, print, draw."""
    chosen = options(__doc__, "compare_stiff.png")
    methods = [ps.ForwardDiffSensitivity(), ps.GaussAdjoint(), ps.BacksolveAdjoint()]
    if not chosen.quick:
        methods += [ps.ForwardSensitivity(), ps.InterpolatingAdjoint(), ps.QuadratureAdjoint(), ps.ReverseDiffAdjoint()]
    settings = {"sensealgs": methods, "tolerances": [1e-6], "repeats": 5, "time_limit": 10.0, "peers": not chosen.quick}
    report = ps.compare_adjoints(robertson_problem(), robertson_loss, saveat=ROBERTSON_TIMES, **settings)
    show(report)
    report.plot(chosen.output.with_stem(chosen.output.stem + "_robertson"))
    report = ps.compare_adjoints(pollu_problem(), saveat=np.linspace(0.0, 60.0, 13)[1:], **settings)
    show(report)
    report.plot(chosen.output)
    print(f"saved {chosen.output}, and Robertson's beside it")


if __name__ == "__main__":
    main()
