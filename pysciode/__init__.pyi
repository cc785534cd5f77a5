from . import discovery as discovery, fitting as fitting, nn as nn
from .problems.base import Problem as Problem, remake as remake
from .problems.ode import ODEProblem as ODEProblem
from .problems.second_order import DynamicalODEProblem as DynamicalODEProblem, SecondOrderODEProblem as SecondOrderODEProblem
from .problems.split import SplitODEProblem as SplitODEProblem
from .problems.ensemble import EnsembleProblem as EnsembleProblem
from .methods.ensemble_algorithms import (
    EnsembleSerial as EnsembleSerial,
    EnsembleThreads as EnsembleThreads,
    EnsembleGPUKernel as EnsembleGPUKernel,
)
from .solving.ensemble_solution import EnsembleSolution as EnsembleSolution, EnsembleSummary as EnsembleSummary
from .solving.solve import solve as solve
from .solving.solution import Solution as Solution, Statistics as Statistics
from .methods.algorithms import Algorithm as Algorithm, list_algorithms as list_algorithms
from .methods.algorithms import (  # written by tools/write_stubs.py
    AB3 as AB3, AB4 as AB4, AB5 as AB5, ABM32 as ABM32, ABM43 as ABM43, ABM54 as ABM54, VCAB3 as VCAB3, VCAB4 as VCAB4, VCAB5 as
    VCAB5, VCABM3 as VCABM3, VCABM4 as VCABM4, VCABM5 as VCABM5, VCABM as VCABM, AitkenNeville as AitkenNeville,
    ExtrapolationMidpointDeuflhard as ExtrapolationMidpointDeuflhard, ExtrapolationMidpointHairerWanner as
    ExtrapolationMidpointHairerWanner, Feagin10 as Feagin10, Feagin12 as Feagin12, Feagin14 as Feagin14, TanYam7 as TanYam7, DP8
    as DP8, PFRK87 as PFRK87, TsitPap8 as TsitPap8, Euler as Euler, Heun as Heun, Ralston as Ralston, Midpoint as Midpoint, RK4 as
    RK4, BS3 as BS3, OwrenZen3 as OwrenZen3, OwrenZen4 as OwrenZen4, OwrenZen5 as OwrenZen5, BS5 as BS5, DP5 as DP5, Anas5 as
    Anas5, RKO65 as RKO65, FRK65 as FRK65, RKM as RKM, MSRK5 as MSRK5, MSRK6 as MSRK6, PSRK4p7q6 as PSRK4p7q6, PSRK3p5q4 as
    PSRK3p5q4, PSRK3p6q5 as PSRK3p6q5, Stepanov5 as Stepanov5, SIR54 as SIR54, Alshina2 as Alshina2, Alshina3 as Alshina3,
    Alshina6 as Alshina6, Ralston4 as Ralston4, ORK256 as ORK256, CarpenterKennedy2N54 as CarpenterKennedy2N54, SHLDDRK64 as
    SHLDDRK64, DGLDDRK73_C as DGLDDRK73_C, DGLDDRK84_C as DGLDDRK84_C, DGLDDRK84_F as DGLDDRK84_F, NDBLSRK124 as NDBLSRK124,
    NDBLSRK134 as NDBLSRK134, NDBLSRK144 as NDBLSRK144, CFRLDDRK64 as CFRLDDRK64, TSLDDRK74 as TSLDDRK74, CKLLSRK43_2 as
    CKLLSRK43_2, CKLLSRK54_3C as CKLLSRK54_3C, CKLLSRK95_4S as CKLLSRK95_4S, CKLLSRK95_4C as CKLLSRK95_4C, CKLLSRK95_4M as
    CKLLSRK95_4M, CKLLSRK54_3C_3R as CKLLSRK54_3C_3R, CKLLSRK54_3M_3R as CKLLSRK54_3M_3R, CKLLSRK54_3N_3R as CKLLSRK54_3N_3R,
    CKLLSRK85_4C_3R as CKLLSRK85_4C_3R, CKLLSRK85_4M_3R as CKLLSRK85_4M_3R, CKLLSRK85_4P_3R as CKLLSRK85_4P_3R, CKLLSRK54_3N_4R as
    CKLLSRK54_3N_4R, CKLLSRK54_3M_4R as CKLLSRK54_3M_4R, CKLLSRK65_4M_4R as CKLLSRK65_4M_4R, CKLLSRK85_4FM_4R as CKLLSRK85_4FM_4R,
    CKLLSRK75_4M_5R as CKLLSRK75_4M_5R, ParsaniKetchesonDeconinck3S32 as ParsaniKetchesonDeconinck3S32,
    ParsaniKetchesonDeconinck3S82 as ParsaniKetchesonDeconinck3S82, ParsaniKetchesonDeconinck3S53 as
    ParsaniKetchesonDeconinck3S53, ParsaniKetchesonDeconinck3S173 as ParsaniKetchesonDeconinck3S173, ParsaniKetchesonDeconinck3S94
    as ParsaniKetchesonDeconinck3S94, ParsaniKetchesonDeconinck3S184 as ParsaniKetchesonDeconinck3S184,
    ParsaniKetchesonDeconinck3S105 as ParsaniKetchesonDeconinck3S105, ParsaniKetchesonDeconinck3S205 as
    ParsaniKetchesonDeconinck3S205, AlJahdaliAdv3S42 as AlJahdaliAdv3S42, AlJahdaliAdv3S82 as AlJahdaliAdv3S82, AlJahdaliAdv3S53
    as AlJahdaliAdv3S53, AlJahdaliAdv3S113 as AlJahdaliAdv3S113, AlJahdaliAdv3S64 as AlJahdaliAdv3S64, AlJahdaliAdv3S154 as
    AlJahdaliAdv3S154, AlJahdaliAdv3S85 as AlJahdaliAdv3S85, AlJahdaliAdv3S165 as AlJahdaliAdv3S165, AlJahdaliVor3S42 as
    AlJahdaliVor3S42, AlJahdaliVor3S82 as AlJahdaliVor3S82, AlJahdaliVor3S53 as AlJahdaliVor3S53, AlJahdaliVor3S113 as
    AlJahdaliVor3S113, AlJahdaliVor3S64 as AlJahdaliVor3S64, AlJahdaliVor3S154 as AlJahdaliVor3S154, AlJahdaliVor3S85 as
    AlJahdaliVor3S85, AlJahdaliVor3S165 as AlJahdaliVor3S165, RDPK3Sp35 as RDPK3Sp35, RDPK3SpFSAL35 as RDPK3SpFSAL35, RDPK3Sp49 as
    RDPK3Sp49, RDPK3SpFSAL49 as RDPK3SpFSAL49, RDPK3Sp510 as RDPK3Sp510, RDPK3SpFSAL510 as RDPK3SpFSAL510, RK46NL as RK46NL,
    SHLDDRK_2N as SHLDDRK_2N, SHLDDRK52 as SHLDDRK52, AN5 as AN5, JVODE as JVODE, JVODE_Adams as JVODE_Adams, JVODE_BDF as
    JVODE_BDF, KuttaPRK2p5 as KuttaPRK2p5, QPRK98 as QPRK98, MER5v2 as MER5v2, MER6v2 as MER6v2, RK6v4 as RK6v4, SSPRK53_2N2 as
    SSPRK53_2N2, SSPRK22 as SSPRK22, SSPRK53 as SSPRK53, SSPRK63 as SSPRK63, SSPRK83 as SSPRK83, SSPRK43 as SSPRK43, SSPRK432 as
    SSPRK432, SSPRKMSVS32 as SSPRKMSVS32, SSPRK54 as SSPRK54, SSPRK53_2N1 as SSPRK53_2N1, SSPRK104 as SSPRK104, SSPRK932 as
    SSPRK932, SSPRKMSVS43 as SSPRKMSVS43, SSPRK73 as SSPRK73, SSPRK53_H as SSPRK53_H, SSPRK33 as SSPRK33, KYKSSPRK42 as
    KYKSSPRK42, KYK2014DGSSPRK_3S2 as KYK2014DGSSPRK_3S2, pRRK22 as pRRK22, pRRK33 as pRRK33, pRRK54 as pRRK54, ExplicitTaylor2 as
    ExplicitTaylor2, ExplicitTaylor as ExplicitTaylor, ExplicitTaylorAdaptiveOrder as ExplicitTaylorAdaptiveOrder, Tsit5 as Tsit5,
    Vern6 as Vern6, Vern7 as Vern7, Vern8 as Vern8, Vern9 as Vern9, RKV76IIa as RKV76IIa, AutoDP5 as AutoDP5, AutoTsit5 as
    AutoTsit5, AutoVern6 as AutoVern6, AutoVern7 as AutoVern7, AutoVern8 as AutoVern8, AutoVern9 as AutoVern9, ROCK2 as ROCK2,
    ROCK4 as ROCK4, RKC as RKC, RKMC2 as RKMC2, ESERK4 as ESERK4, ESERK5 as ESERK5, SERK2 as SERK2, TSRKC2 as TSRKC2, TSRKC3 as
    TSRKC3, RKL1 as RKL1, RKL2 as RKL2, RKG1 as RKG1, RKG2 as RKG2, Rosenbrock23 as Rosenbrock23, Rosenbrock32 as Rosenbrock32,
    RosShamp4 as RosShamp4, Veldd4 as Veldd4, Velds4 as Velds4, GRK4T as GRK4T, GRK4A as GRK4A, Ros4LStab as Ros4LStab, ROS3P as
    ROS3P, Rodas3 as Rodas3, Rodas3d as Rodas3d, Rodas23W as Rodas23W, Rodas3P as Rodas3P, Rodas4 as Rodas4, Rodas42 as Rodas42,
    Rodas4P as Rodas4P, Rodas4P2 as Rodas4P2, Rodas4PW as Rodas4PW, Rodas5 as Rodas5, Rodas5P as Rodas5P, Rodas5Pe as Rodas5Pe,
    Rodas5Pr as Rodas5Pr, Rodas6P as Rodas6P, HybridExplicitImplicitRK as HybridExplicitImplicitRK, RosenbrockW6S4OS as
    RosenbrockW6S4OS, ROS34PW1a as ROS34PW1a, ROS34PW1b as ROS34PW1b, ROS34PW2 as ROS34PW2, ROS34PW3 as ROS34PW3, ROS34PRw as
    ROS34PRw, ROS3PRL as ROS3PRL, ROS3PRL2 as ROS3PRL2, ROK4a as ROK4a, ROS2 as ROS2, ROS2PR as ROS2PR, ROS2S as ROS2S, ROS3 as
    ROS3, ROS3PR as ROS3PR, Scholz4_7 as Scholz4_7, PDIRK44 as PDIRK44, ImplicitEuler as ImplicitEuler, ImplicitMidpoint as
    ImplicitMidpoint, Trapezoid as Trapezoid, TRBDF2 as TRBDF2, SDIRK2 as SDIRK2, SDIRK22 as SDIRK22, Kvaerno3 as Kvaerno3, Cash4
    as Cash4, Hairer4 as Hairer4, Hairer42 as Hairer42, SSPSDIRK2 as SSPSDIRK2, Kvaerno4 as Kvaerno4, Kvaerno5 as Kvaerno5,
    ESDIRK54I8L2SA as ESDIRK54I8L2SA, SFSDIRK4 as SFSDIRK4, SFSDIRK5 as SFSDIRK5, SFSDIRK6 as SFSDIRK6, SFSDIRK7 as SFSDIRK7,
    SFSDIRK8 as SFSDIRK8, ESDIRK325L2SA as ESDIRK325L2SA, ESDIRK436L2SA2 as ESDIRK436L2SA2, ESDIRK437L2SA as ESDIRK437L2SA,
    ESDIRK547L2SA2 as ESDIRK547L2SA2, ESDIRK659L2SA as ESDIRK659L2SA, RadauIIA3 as RadauIIA3, RadauIIA5 as RadauIIA5, RadauIIA9 as
    RadauIIA9, AdaptiveRadau as AdaptiveRadau, GaussLegendre as GaussLegendre, ABDF2 as ABDF2, QNDF1 as QNDF1, QBDF1 as QBDF1,
    QNDF2 as QNDF2, QBDF2 as QBDF2, QNDF as QNDF, QBDF as QBDF, FBDF as FBDF, MEBDF2 as MEBDF2, NordsieckBDF as NordsieckBDF,
    ImplicitEulerExtrapolation as ImplicitEulerExtrapolation, ImplicitDeuflhardExtrapolation as ImplicitDeuflhardExtrapolation,
    ImplicitHairerWannerExtrapolation as ImplicitHairerWannerExtrapolation, ImplicitEulerBarycentricExtrapolation as
    ImplicitEulerBarycentricExtrapolation, KenCarp3 as KenCarp3, KenCarp4 as KenCarp4, KenCarp47 as KenCarp47, KenCarp5 as
    KenCarp5, KenCarp58 as KenCarp58, CFNLIRK3 as CFNLIRK3, ARS343 as ARS343, ARS222 as ARS222, ARS232 as ARS232, ARS443 as
    ARS443, IMEXSSP222 as IMEXSSP222, IMEXSSP2322 as IMEXSSP2322, IMEXSSP3332 as IMEXSSP3332, IMEXSSP3433 as IMEXSSP3433, BHR553
    as BHR553, SBDF as SBDF, SBDF2 as SBDF2, SBDF3 as SBDF3, SBDF4 as SBDF4, IMEXEuler as IMEXEuler, IMEXEulerARK as IMEXEulerARK,
    CNAB2 as CNAB2, CNLF2 as CNLF2, IRKC as IRKC, SymplecticEuler as SymplecticEuler, VelocityVerlet as VelocityVerlet,
    VerletLeapfrog as VerletLeapfrog, LeapfrogDriftKickDrift as LeapfrogDriftKickDrift, PseudoVerletLeapfrog as
    PseudoVerletLeapfrog, McAte2 as McAte2, Ruth3 as Ruth3, McAte3 as McAte3, CandyRoz4 as CandyRoz4, McAte4 as McAte4, McAte42 as
    McAte42, McAte5 as McAte5, CalvoSanz4 as CalvoSanz4, Yoshida6 as Yoshida6, KahanLi6 as KahanLi6, McAte8 as McAte8, KahanLi8 as
    KahanLi8, SofSpa10 as SofSpa10, Nystrom4 as Nystrom4, FineRKN4 as FineRKN4, FineRKN5 as FineRKN5, Nystrom4VelocityIndependent
    as Nystrom4VelocityIndependent, Nystrom5VelocityIndependent as Nystrom5VelocityIndependent, IRKN3 as IRKN3, IRKN4 as IRKN4,
    DPRKN4 as DPRKN4, DPRKN5 as DPRKN5, DPRKN6 as DPRKN6, DPRKN6FM as DPRKN6FM, DPRKN8 as DPRKN8, DPRKN12 as DPRKN12, ERKN4 as
    ERKN4, ERKN5 as ERKN5, ERKN7 as ERKN7, RKN4 as RKN4, NewmarkBeta as NewmarkBeta, GeneralizedAlpha as GeneralizedAlpha,
    LawsonEuler as LawsonEuler, NorsettEuler as NorsettEuler, ETD1 as ETD1, ETDRK2 as ETDRK2, ETDRK3 as ETDRK3, ETDRK4 as ETDRK4,
    HochOst4 as HochOst4, Exp4 as Exp4, EPIRK4s3A as EPIRK4s3A, EPIRK4s3B as EPIRK4s3B, EPIRK5s3 as EPIRK5s3, EXPRB53s3 as
    EXPRB53s3, EPIRK5P1 as EPIRK5P1, EPIRK5P2 as EPIRK5P2, ETD2 as ETD2, Exprb32 as Exprb32, Exprb43 as Exprb43, MagnusMidpoint as
    MagnusMidpoint, LinearExponential as LinearExponential, MagnusLeapfrog as MagnusLeapfrog, LieEuler as LieEuler, CayleyEuler as
    CayleyEuler, MagnusGauss4 as MagnusGauss4, MagnusNC6 as MagnusNC6, MagnusGL6 as MagnusGL6, MagnusGL8 as MagnusGL8, MagnusNC8
    as MagnusNC8, MagnusGL4 as MagnusGL4, MagnusAdapt4 as MagnusAdapt4, RKMK2 as RKMK2, RKMK4 as RKMK4, LieRK4 as LieRK4, CG2 as
    CG2, CG3 as CG3, CG4a as CG4a, DABDF2 as DABDF2, DImplicitEuler as DImplicitEuler, DFBDF as DFBDF, DNordsieckBDF as
    DNordsieckBDF,
)
from .methods.adjoints import (
    ForwardSensitivity as ForwardSensitivity,
    ForwardDiffSensitivity as ForwardDiffSensitivity,
    BacksolveAdjoint as BacksolveAdjoint,
    DiscreteAdjoint as DiscreteAdjoint,
    InterpolatingAdjoint as InterpolatingAdjoint,
    QuadratureAdjoint as QuadratureAdjoint,
    GaussAdjoint as GaussAdjoint,
    GaussKronrodAdjoint as GaussKronrodAdjoint,
    ReverseDiffAdjoint as ReverseDiffAdjoint,
    TrackerAdjoint as TrackerAdjoint,
    ZygoteAdjoint as ZygoteAdjoint,
    EnzymeAdjoint as EnzymeAdjoint,
    MooncakeAdjoint as MooncakeAdjoint,
    default_sensealg as default_sensealg,
)
from .arrays.parameters import ParameterLayout as ParameterLayout
from .capture.symbolic import SymbolicModel as SymbolicModel
from .comparison.adjoints import compare_adjoints as compare_adjoints
from .comparison.report.reports import AdjointReport as AdjointReport, SolverReport as SolverReport
from .comparison.work_precision import work_precision as work_precision
from .methods.initialization import (
    BrownFullBasicInit as BrownFullBasicInit,
    ShampineCollocationInit as ShampineCollocationInit,
    CheckInit as CheckInit,
    NoInit as NoInit,
)
from .solving.callbacks import ContinuousCallback as ContinuousCallback, FunctionCallingCallback as FunctionCallingCallback
from .compat.torchdiffeq import (
    odeint as odeint,
    odeint_adjoint as odeint_adjoint,
    odeint_dense as odeint_dense,
    odeint_event as odeint_event,
)
from .compat.scipy import solve_ivp as solve_ivp
from .capture.compiled_model import clear_models as clear_models
from .engines import empty_cache as empty_cache, get_engine as get_engine, set_engine as set_engine
from .errors import (
    PysciodeError as PysciodeError,
    CaptureError as CaptureError,
    IndexOutOfRange as IndexOutOfRange,
    SolveFailed as SolveFailed,
    GradientFailed as GradientFailed,
    EngineUnavailable as EngineUnavailable,
    OutOfDeviceMemory as OutOfDeviceMemory,
    JuliaError as JuliaError,
    CallbackWarning as CallbackWarning,
    FallbackWarning as FallbackWarning,
    AccuracyWarning as AccuracyWarning,
)

__version__: str
