"""Forward or adjoint? The crossing that Ma et al. found, on a family of models that grows.

The competition of N species (generalised Lotka–Volterra) has ``N + N²`` parameters: from 6 to some hundreds. Forward methods
pay for each parameter, adjoints hardly. Ma, Dixit, Innes, Guo, Rackauckas, "A Comparison of Automatic Differentiation and
Continuous Sensitivity Analysis for Derivatives of Differential Equation Solutions" (HPEC 2021, arXiv:1812.01892), figures 1 to
4; Rackauckas et al., "Universal Differential Equations for Scientific Machine Learning" (2020, arXiv:2001.04385), find the
crossing near 100 parameters. The second panel shows a stiff problem, on which the states solved backwards diverge.
Run: python examples/reproduce_adjoint_costs.py [--quick] [--output PNG]
"""

from __future__ import annotations

import numpy as np
from compare_stiff import ROBERTSON_TIMES, robertson_loss, robertson_problem
from comparison_script import line_styles, new_figure, options, save

import pysciode as ps
from pysciode.comparison.report.advice import FORWARD_METHODS

FORWARD = (ps.ForwardDiffSensitivity(), ps.ForwardSensitivity())
ADJOINT = (ps.GaussAdjoint(), ps.InterpolatingAdjoint(), ps.QuadratureAdjoint(), ps.BacksolveAdjoint())


def competition(species: int) -> ps.ODEProblem:
    """``dx_i/dt = r_i x_i (1 - Σ_j a_ij x_j)`` with mild competition: ``species (species + 1)`` parameters."""
    rng = np.random.default_rng(0)
    a = np.eye(species) + rng.uniform(0.0, 0.8, (species, species)) / species
    p = {"r": rng.uniform(0.5, 1.5, species), "a": a}

    def f(x, p, t):
        return p["r"] * x * (1.0 - p["a"] @ x)

    return ps.ODEProblem(f, rng.uniform(0.1, 0.5, species), (0.0, 10.0), p, name=f"{species} species")


Curve = list[tuple[int, float]]
"""Parameters and seconds."""


def crossing(forward: Curve, adjoint: Curve) -> float | None:
    """Parameters at which the adjoint becomes the cheaper one, by straight lines between logarithms; None if it never does."""
    sizes = [n for n, _ in adjoint]
    times = dict(forward)
    sizes = [n for n in sizes if n in times]
    gaps = [np.log(times[n] / dict(adjoint)[n]) for n in sizes]
    for i in range(1, len(sizes)):
        if gaps[i - 1] < 0 <= gaps[i]:
            part = gaps[i - 1] / (gaps[i - 1] - gaps[i])
            return float(np.exp(np.log(sizes[i - 1]) * (1 - part) + np.log(sizes[i]) * part))
    return None


def measure(species: tuple[int, ...], repeats: int) -> dict[str, Curve]:
    """Median times of the gradient by method; prints each error."""
    curves: dict[str, Curve] = {}
    for n in species:
        parameters = n * (n + 1)
        report = ps.compare_adjoints(
            competition(n),
            saveat=np.linspace(1.0, 10.0, 10),
            # The variational equations of hundreds of parameters take seconds.
            sensealgs=(*FORWARD, *ADJOINT) if n < 24 else (FORWARD[0], *ADJOINT),
            tolerances=[1e-6],
            repeats=repeats,
            time_limit=60.0,
            memory=False,
            peers=False,
        )
        for row in report.rows:
            what = row.reason if row.status != "ok" else f"{1e3 * row.total.median:8.3f} ms, error {row.error:.1e}"
            print(f"{parameters:5d} parameters  {row.label:24s} {what}")
            if row.status == "ok":
                curves.setdefault(row.label, []).append((parameters, row.total.median))
    return curves


def cheapest(curves: dict[str, Curve], forward: bool) -> Curve:
    """At each size the least time of the forward methods, or of the others."""
    best: dict[int, float] = {}
    for name, points in curves.items():
        if (name in FORWARD_METHODS) == forward:
            for n, seconds in points:
                best[n] = min(seconds, best.get(n, np.inf))
    return sorted(best.items())


def main() -> None:
    """Measure, print, draw."""
    chosen = options(__doc__, "reproduce_adjoint_costs.png")
    curves = measure((2, 6, 12) if chosen.quick else (2, 4, 6, 9, 14, 20, 28), 5 if chosen.quick else 15)
    figure, (left, right) = new_figure(2)
    for name, style in line_styles(curves).items():
        left.loglog(*np.transpose(curves[name]), label=name, **style)
    found = crossing(cheapest(curves, True), cheapest(curves, False))
    if found is None:
        print("the curves don't cross in this range")
    else:
        print(f"adjoints become cheaper than forward methods at {found:.0f} parameters")
        left.axvline(found, color="0.5", linestyle=":")
        left.set_title(f"time of the gradient: adjoints win above {found:.0f} parameters", loc="left", fontsize=10)
    left.set_xlabel("parameters")
    left.set_ylabel("seconds")
    left.legend(frameon=False, fontsize=8)

    stiff = ps.compare_adjoints(
        robertson_problem(),
        robertson_loss,
        saveat=ROBERTSON_TIMES,
        sensealgs=(*FORWARD, *ADJOINT),
        tolerances=[1e-5, 1e-7] if chosen.quick else [1e-4, 1e-5, 1e-6, 1e-7, 1e-8],
        repeats=1,
        time_limit=60.0,
        memory=False,
        peers=False,
    )
    print(stiff.to_text(140))
    for name, style in line_styles(list(dict.fromkeys(row.label for row in stiff.rows))).items():
        rows = [row for row in stiff.rows if row.label == name]
        good = [(row.rtol, row.error) for row in rows if row.status == "ok"]
        failed = f": failed at {len(rows) - len(good)} of {len(rows)}" if len(good) < len(rows) else ""
        right.loglog(*(np.transpose(good) if good else ([], [])), label=name + failed, **style)
    right.set_title("Robertson, stiff: error of the gradient", loc="left", fontsize=10)
    right.set_xlabel("relative tolerance")
    right.set_ylabel("relative error")
    right.legend(frameon=False, fontsize=8)
    save(figure, chosen.output)


if __name__ == "__main__":
    main()
