"""The algorithms of OrdinaryDiffEq: names by family and sub-package.

Taken from the sub-packages' export lists (SciML/OrdinaryDiffEq.jl, August 2026). A star marks a method without step size
control, which needs ``dt``. An algorithm that SciML adds is a name here.
"""

from __future__ import annotations

from dataclasses import dataclass

ALGORITHMS: dict[tuple[str, str], str] = {
    ("explicit", "OrdinaryDiffEqAdamsBashforthMoulton"): "AB3* AB4* AB5* ABM32* ABM43* ABM54* VCAB3 VCAB4 VCAB5 VCABM3 VCABM4 VCABM5 VCABM",
    ("explicit", "OrdinaryDiffEqExtrapolation"): "AitkenNeville ExtrapolationMidpointDeuflhard ExtrapolationMidpointHairerWanner",
    ("explicit", "OrdinaryDiffEqFeagin"): "Feagin10 Feagin12 Feagin14",
    ("explicit", "OrdinaryDiffEqHighOrderRK"): "TanYam7 DP8 PFRK87 TsitPap8",
    ("explicit", "OrdinaryDiffEqLowOrderRK"): (
        "Euler* Heun Ralston Midpoint RK4 BS3 OwrenZen3 OwrenZen4 OwrenZen5 BS5 DP5 Anas5* RKO65* FRK65 RKM* MSRK5* "
        "MSRK6* PSRK4p7q6* PSRK3p5q4* PSRK3p6q5* Stepanov5 SIR54 Alshina2 Alshina3 Alshina6* Ralston4*"
    ),
    ("explicit", "OrdinaryDiffEqLowStorageRK"): (
        "ORK256* CarpenterKennedy2N54* SHLDDRK64* DGLDDRK73_C* DGLDDRK84_C* DGLDDRK84_F* NDBLSRK124* NDBLSRK134* "
        "NDBLSRK144* CFRLDDRK64* TSLDDRK74* CKLLSRK43_2 CKLLSRK54_3C CKLLSRK95_4S CKLLSRK95_4C CKLLSRK95_4M "
        "CKLLSRK54_3C_3R CKLLSRK54_3M_3R CKLLSRK54_3N_3R CKLLSRK85_4C_3R CKLLSRK85_4M_3R CKLLSRK85_4P_3R "
        "CKLLSRK54_3N_4R CKLLSRK54_3M_4R CKLLSRK65_4M_4R CKLLSRK85_4FM_4R CKLLSRK75_4M_5R "
        "ParsaniKetchesonDeconinck3S32* ParsaniKetchesonDeconinck3S82* ParsaniKetchesonDeconinck3S53* "
        "ParsaniKetchesonDeconinck3S173* ParsaniKetchesonDeconinck3S94* ParsaniKetchesonDeconinck3S184* "
        "ParsaniKetchesonDeconinck3S105* ParsaniKetchesonDeconinck3S205* AlJahdaliAdv3S42* AlJahdaliAdv3S82* "
        "AlJahdaliAdv3S53* AlJahdaliAdv3S113* AlJahdaliAdv3S64* AlJahdaliAdv3S154* AlJahdaliAdv3S85* "
        "AlJahdaliAdv3S165* AlJahdaliVor3S42* AlJahdaliVor3S82* AlJahdaliVor3S53* AlJahdaliVor3S113* "
        "AlJahdaliVor3S64* AlJahdaliVor3S154* AlJahdaliVor3S85* AlJahdaliVor3S165* RDPK3Sp35 RDPK3SpFSAL35 RDPK3Sp49 "
        "RDPK3SpFSAL49 RDPK3Sp510 RDPK3SpFSAL510 RK46NL* SHLDDRK_2N* SHLDDRK52*"
    ),
    ("explicit", "OrdinaryDiffEqNordsieck"): "AN5 JVODE JVODE_Adams JVODE_BDF",
    ("explicit", "OrdinaryDiffEqPRK"): "KuttaPRK2p5*",
    ("explicit", "OrdinaryDiffEqQPRK"): "QPRK98",
    ("explicit", "OrdinaryDiffEqSIMDRK"): "MER5v2 MER6v2 RK6v4",
    ("explicit", "OrdinaryDiffEqSSPRK"): (
        "SSPRK53_2N2* SSPRK22* SSPRK53* SSPRK63* SSPRK83* SSPRK43 SSPRK432 SSPRKMSVS32 SSPRK54* SSPRK53_2N1* "
        "SSPRK104* SSPRK932 SSPRKMSVS43 SSPRK73* SSPRK53_H* SSPRK33* KYKSSPRK42* KYK2014DGSSPRK_3S2* pRRK22* pRRK33* "
        "pRRK54*"
    ),
    ("explicit", "OrdinaryDiffEqTaylorSeries"): "ExplicitTaylor2* ExplicitTaylor ExplicitTaylorAdaptiveOrder",
    ("explicit", "OrdinaryDiffEqTsit5"): "Tsit5",
    ("explicit", "OrdinaryDiffEqVerner"): "Vern6 Vern7 Vern8 Vern9 RKV76IIa",
    ("auto", "OrdinaryDiffEqLowOrderRK"): "AutoDP5",
    ("auto", "OrdinaryDiffEqTsit5"): "AutoTsit5",
    ("auto", "OrdinaryDiffEqVerner"): "AutoVern6 AutoVern7 AutoVern8 AutoVern9",
    ("stabilized", "OrdinaryDiffEqStabilizedRK"): "ROCK2 ROCK4 RKC RKMC2 ESERK4 ESERK5 SERK2 TSRKC2 TSRKC3 RKL1 RKL2 RKG1 RKG2",
    ("rosenbrock", "OrdinaryDiffEqRosenbrock"): (
        "Rosenbrock23 Rosenbrock32 RosShamp4 Veldd4 Velds4 GRK4T GRK4A Ros4LStab ROS3P Rodas3 Rodas3d Rodas23W "
        "Rodas3P Rodas4 Rodas42 Rodas4P Rodas4P2 Rodas4PW Rodas5 Rodas5P Rodas5Pe Rodas5Pr Rodas6P "
        "HybridExplicitImplicitRK RosenbrockW6S4OS* ROS34PW1a ROS34PW1b ROS34PW2 ROS34PW3 ROS34PRw ROS3PRL ROS3PRL2 "
        "ROK4a ROS2 ROS2PR ROS2S ROS3 ROS3PR Scholz4_7"
    ),
    ("sdirk", "OrdinaryDiffEqPDIRK"): "PDIRK44*",
    ("sdirk", "OrdinaryDiffEqSDIRK"): (
        "ImplicitEuler ImplicitMidpoint* Trapezoid TRBDF2 SDIRK2 SDIRK22 Kvaerno3 Cash4 Hairer4 Hairer42 SSPSDIRK2* "
        "Kvaerno4 Kvaerno5 ESDIRK54I8L2SA SFSDIRK4* SFSDIRK5* SFSDIRK6* SFSDIRK7* SFSDIRK8* ESDIRK325L2SA "
        "ESDIRK436L2SA2 ESDIRK437L2SA ESDIRK547L2SA2 ESDIRK659L2SA"
    ),
    ("firk", "OrdinaryDiffEqFIRK"): "RadauIIA3 RadauIIA5 RadauIIA9 AdaptiveRadau GaussLegendre",
    ("bdf", "OrdinaryDiffEqBDF"): "ABDF2 QNDF1 QBDF1 QNDF2 QBDF2 QNDF QBDF FBDF MEBDF2* NordsieckBDF",
    ("implicit_extrapolation", "OrdinaryDiffEqExtrapolation"): (
        "ImplicitEulerExtrapolation ImplicitDeuflhardExtrapolation ImplicitHairerWannerExtrapolation ImplicitEulerBarycentricExtrapolation"
    ),
    ("imex_sdirk", "OrdinaryDiffEqSDIRK"): (
        "KenCarp3 KenCarp4 KenCarp47 KenCarp5 KenCarp58 CFNLIRK3* ARS343 ARS222 ARS232 ARS443 IMEXSSP222 IMEXSSP2322 "
        "IMEXSSP3332 IMEXSSP3433 BHR553"
    ),
    ("imex", "OrdinaryDiffEqBDF"): "SBDF* SBDF2* SBDF3* SBDF4* IMEXEuler* IMEXEulerARK*",
    ("imex", "OrdinaryDiffEqIMEXMultistep"): "CNAB2* CNLF2*",
    ("imex", "OrdinaryDiffEqStabilizedIRK"): "IRKC",
    ("symplectic", "OrdinaryDiffEqSymplecticRK"): (
        "SymplecticEuler* VelocityVerlet* VerletLeapfrog* LeapfrogDriftKickDrift* PseudoVerletLeapfrog* McAte2* "
        "Ruth3* McAte3* CandyRoz4* McAte4* McAte42* McAte5* CalvoSanz4* Yoshida6* KahanLi6* McAte8* KahanLi8* "
        "SofSpa10*"
    ),
    ("nystrom", "OrdinaryDiffEqRKN"): (
        "Nystrom4* FineRKN4 FineRKN5 Nystrom4VelocityIndependent* Nystrom5VelocityIndependent* IRKN3* IRKN4* DPRKN4 "
        "DPRKN5 DPRKN6 DPRKN6FM DPRKN8 DPRKN12 ERKN4 ERKN5 ERKN7 RKN4*"
    ),
    ("newmark", "OrdinaryDiffEqNewmark"): "NewmarkBeta GeneralizedAlpha",
    ("exponential", "OrdinaryDiffEqExponentialRK"): (
        "LawsonEuler* NorsettEuler* ETD1* ETDRK2* ETDRK3* ETDRK4* HochOst4* Exp4* EPIRK4s3A* EPIRK4s3B* EPIRK5s3* "
        "EXPRB53s3* EPIRK5P1* EPIRK5P2* ETD2* Exprb32 Exprb43"
    ),
    ("linear", "OrdinaryDiffEqLinear"): (
        "MagnusMidpoint* LinearExponential* MagnusLeapfrog* LieEuler* CayleyEuler* MagnusGauss4* MagnusNC6* "
        "MagnusGL6* MagnusGL8* MagnusNC8* MagnusGL4* MagnusAdapt4 RKMK2* RKMK4* LieRK4* CG2* CG3* CG4a*"
    ),
    ("dae", "OrdinaryDiffEqBDF"): "DABDF2 DImplicitEuler DFBDF DNordsieckBDF",
}


REVERSIBLE: dict[str | None, str] = {
    "OrdinaryDiffEqFeagin": "",
    "OrdinaryDiffEqHighOrderRK": "",
    "OrdinaryDiffEqLowOrderRK": "Anas5",
    "OrdinaryDiffEqLowStorageRK": "",
    "OrdinaryDiffEqPRK": "",
    "OrdinaryDiffEqRosenbrock": (
        "Rosenbrock32 Rodas3d Rodas23W Rodas4PW HybridExplicitImplicitRK RosenbrockW6S4OS ROS34PW1a ROS34PW1b ROS34PW2 ROS34PW3 ROS34PRw "
        "ROK4a ROS2S"
    ),
    "OrdinaryDiffEqSSPRK": "SSPRKMSVS32 SSPRKMSVS43",
    "OrdinaryDiffEqTsit5": "",
    "OrdinaryDiffEqVerner": "RKV76IIa",
}
"""Packages whose steps `DiscreteAdjoint` goes back through, with the names of their algorithms for which it can't: those with a history of
steps, with a Jacobian kept from step to step, or with coefficients that depend on the equation."""

COARSE = frozenset(
    "ExtrapolationMidpointDeuflhard ExtrapolationMidpointHairerWanner Feagin10 Feagin12 Feagin14 TanYam7 TsitPap8 Stepanov5 RDPK3Sp510 "
    "QPRK98 Kvaerno5 KenCarp3 KenCarp47 KenCarp5 KenCarp58 AdaptiveRadau ImplicitEulerExtrapolation ImplicitDeuflhardExtrapolation "
    "ImplicitHairerWannerExtrapolation ImplicitEulerBarycentricExtrapolation Exprb32 Exprb43".split()
)
"""Algorithms whose steps are long and whose dense output is a cubic: between the steps it is off by more than a thousand times the
tolerance (`benchmarks/every_algorithm.py`; 0.5 for a state of size 3 at ``rtol=1e-4``)."""

COARSE_GRADIENTS = {"sdirk": 1e-4, "imex_sdirk": 1e-4, "firk": 1e-6, "QNDF": 1e-6, "QNDF1": 1e-6, "QNDF2": 1e-6, "Rosenbrock23": 1e-8}
"""Families and algorithms whose gradients of stiff problems are off by more than a thousand times ``rtol`` where that is as small as
this: the states are so too, between saved times (`benchmarks/gradient_accuracy.py`)."""


@dataclass(frozen=True)
class Misfit:
    """Equations that an algorithm is not made for, decided from the captured model.

    Attributes
    ----------
    names
        The algorithms; a family stands for all of its own.
    when
        A key of :data:`PROPERTIES`.
    refused
        Whether they are refused with a ValueError; otherwise an AccuracyWarning says so. A model that stays in Python or is written in
        Julia can't be looked into: it is never refused, but warned of.
    why, take
        The consequence, and the algorithm to take instead.
    unless
        An option with which it does fit.
    """

    names: str
    when: str
    refused: bool
    why: str
    take: str
    unless: str | None = None


PROPERTIES = {
    "velocity": "the acceleration depends on the velocity",
    "not_second_order": "the second equation is not du/dt = v",
    "not_separable": "dv/dt depends on v, or du/dt on u",
    "time": "the right-hand side depends on the time",
    "always": "as in any other",
    "controlled": "where the step size is controlled",
}
"""What a right-hand side may be that an algorithm does not take."""

MISFITS = (
    Misfit(
        "Nystrom4VelocityIndependent Nystrom5VelocityIndependent IRKN3 IRKN4 DPRKN4 DPRKN5 DPRKN6 DPRKN6FM DPRKN8 DPRKN12 ERKN4 ERKN5 ERKN7 RKN4",
        "velocity",
        True,
        "its stages take the velocity from the start of the step, so the errors are of order one or two, which no tolerance controls",
        "Nystrom4, FineRKN4, FineRKN5, or an algorithm for first-order systems such as Vern7",
    ),
    Misfit(
        "nystrom newmark VelocityVerlet",
        "not_second_order",
        True,
        "it takes du/dt for the velocity, and solves another equation",
        "a symplectic method such as KahanLi6 where dv/dt depends on u alone and du/dt on v alone, or an algorithm for first-order systems",
    ),
    Misfit(
        "symplectic",
        "not_separable",
        False,
        "it is symplectic and has its order for separable equations alone; here it has order one or two, whatever its name says",
        "a small step, or an algorithm for first-order systems such as Vern7 (for implicit and symplectic, ImplicitMidpoint)",
    ),
    Misfit(
        "PseudoVerletLeapfrog McAte2 Ruth3 McAte3 CandyRoz4 McAte4 McAte42 McAte5 CalvoSanz4 Yoshida6 KahanLi6 McAte8 KahanLi8 SofSpa10",
        "time",
        False,
        "it takes the force at wrong times, so it has order one",
        "VelocityVerlet or VerletLeapfrog, or a Nyström method such as DPRKN6",
    ),
    Misfit(
        "IRKN4",
        "time",
        False,
        "it has order three then, not four",
        "DPRKN4 or Nystrom4VelocityIndependent",
    ),
    Misfit(
        "Exp4 EPIRK4s3A EPIRK4s3B EPIRK5s3 EXPRB53s3 EPIRK5P1 EPIRK5P2 Exprb32 Exprb43",
        "time",
        True,
        "it is made for autonomous equations, and has order one or two for others",
        "another stiff algorithm such as Rodas5P, or the time as one more state with derivative 1",
    ),
    Misfit("McAte42", "always", False, "it converges with order one, not four", "CandyRoz4 or KahanLi6"),
    Misfit("EPIRK5s3", "always", False, "it converges with order two, not five", "EPIRK5P1 or EXPRB53s3"),
    Misfit(
        "LawsonEuler NorsettEuler ETD1 ETD2 ETDRK2 ETDRK3 ETDRK4 HochOst4",
        "always",
        True,
        "without the option krylov=True it needs the linear part as an operator, which can't be posed here",
        "krylov=True, m=… (the dimension of Krylov's subspace)",
        unless="krylov",
    ),
    # `benchmarks/every_algorithm.py` and SciML by itself: OrdinaryDiffEqRosenbrock 2.4, LowStorageRK 2.2, Nordsieck 2.1, Verner 2.0, SDIRK 2.7.
    Misfit(
        "ROS3P ROS34PW1a ROS34PW1b ROS3PR CKLLSRK95_4C CKLLSRK85_4FM_4R",
        "controlled",
        True,
        "it reports success and is wrong at any tolerance: of an oscillator with speeds up to 3, by 0.1 to 3 at rtol=1e-8",
        "Rodas5P for stiff problems, Tsit5 for others",
    ),
    Misfit(
        "AN5 RKV76IIa",
        "controlled",
        False,
        "its errors are far above loose tolerances: of an oscillator with speeds up to 3, 4 and 0.4 at rtol=1e-4",
        "Tsit5 or Vern7",
    ),
    Misfit(
        "TRBDF2 Kvaerno3 KenCarp3 SDIRK2 RKL1 RKG1",
        "controlled",
        False,
        "its errors are more than a thousand times the tolerance: of an oscillator with speeds up to 3, 1e-3 to 7e-2 at rtol=1e-6",
        "Rodas5P, KenCarp4 or ROCK2",
    ),
    # OrdinaryDiffEqSDIRK 2.7.2. On a pendulum that is pushed by cos(3t), at tolerances of 1e-8, the three were off by 6e-3, 3e-4 and
    # 8e-3; with the time as a state, by 9e-7, 9e-8 and 2e-5.
    Misfit(
        "Kvaerno3 Kvaerno4 SDIRK2",
        "time",
        False,
        "it takes a stage at a wrong time, so errors are many times the tolerances",
        "Kvaerno5 or KenCarp4",
    ),
)
