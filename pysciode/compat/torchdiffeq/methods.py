"""torchdiffeq's methods and their options, and the SciML algorithms that run for them.

==================  ===========  =============================================================================================
name                SciML's      the same scheme?
==================  ===========  =============================================================================================
``dopri5``          `Tsit5`      no: the same orders 5(4) with a smaller error; `DP5` is Dormand's and Prince's pair, and takes
                                 some seconds more when it is first used
``dopri8``          `DP8`        no: Hairer's pair of orders 8(5,3)
``bosh3``           `BS3`        yes
``adaptive_heun``   `Heun`       nearly: torchdiffeq's starts a step from the slope at the predictor of the one before
``fehlberg2``       `Heun`       no: the same orders 2(1)
``euler``           `Euler`      yes
``midpoint``        `Midpoint`   yes
``heun2``           `Heun`       yes
``heun3``           `BS3`        no: the same order and number of stages
``rk4``             `RK4`        no: torchdiffeq's is the 3/8 rule, this the classical one
``explicit_adams``  `VCAB5`      no: order 5 instead of up to 12
``implicit_adams``  `VCABM5`     no: order 5, one correction
``tsit5``           `Tsit5`      yes
``implicit_euler``  `ImplicitEuler`  yes
``implicit_midpoint``  `ImplicitMidpoint`  yes
``trapezoid``       `Trapezoid`  yes
``trbdf2``          `TRBDF2`     yes
``sdirk2``          `SDIRK22`    no: the same order and number of stages
``radauIIA3``       `RadauIIA3`  yes
``radauIIA5``       `RadauIIA5`  yes
``gl2``             `ImplicitMidpoint`  yes: Gauss and Legendre's of order 2
``gl4``, ``gl6``    `RadauIIA5`  no: SciML has no Gauss-Legendre methods on a fixed grid; the nearest one, of order 5
``scipy_solver``                 RK45 `DP5`, RK23 `BS3`, DOP853 `DP8`, Radau `RadauIIA5`, BDF `FBDF`, LSODA
                                 `AutoTsit5(Rosenbrock23())`
==================  ===========  =============================================================================================

Any other algorithm of :mod:`pysciode.methods.algorithms`, by name or as an object, is a method too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from ...errors import FallbackWarning, depth_of_user
from ...methods.algorithms import Algorithm, AutoTsit5, Rosenbrock23, check_algorithm, list_algorithms
from .errors import InputError
from .inputs import numbers

Kind = Literal["adaptive", "fixed", "scipy"]

ADAPTIVE = {"dopri8": "DP8", "dopri5": "Tsit5", "bosh3": "BS3", "fehlberg2": "Heun", "adaptive_heun": "Heun"}
FIXED = {
    "euler": "Euler", "midpoint": "Midpoint", "heun2": "Heun", "heun3": "BS3", "rk4": "RK4",
    "explicit_adams": "VCAB5", "implicit_adams": "VCABM5", "fixed_adams": "VCABM5",
}  # fmt: skip
# Of torchdiffeq's development version.
NEWER: dict[str, tuple[Kind, str]] = {
    "tsit5": ("adaptive", "Tsit5"),
    "implicit_euler": ("fixed", "ImplicitEuler"), "implicit_midpoint": ("fixed", "ImplicitMidpoint"),
    "trapezoid": ("fixed", "Trapezoid"), "trbdf2": ("fixed", "TRBDF2"), "sdirk2": ("fixed", "SDIRK22"),
    "radauIIA3": ("fixed", "RadauIIA3"), "radauIIA5": ("fixed", "RadauIIA5"),
    "gl2": ("fixed", "ImplicitMidpoint"), "gl4": ("fixed", "RadauIIA5"), "gl6": ("fixed", "RadauIIA5"),
}  # fmt: skip
SCIPY = {"RK45": "DP5", "RK23": "BS3", "DOP853": "DP8", "Radau": "RadauIIA5", "BDF": "FBDF", "LSODA": "AutoTsit5"}

METHODS = (*ADAPTIVE, *FIXED, "scipy_solver")  # of its release
"""torchdiffeq's names."""

MAX_STEPS = 1_000_000
"""Steps at most, where ``max_num_steps`` doesn't say. torchdiffeq would go on for hours."""

_KNOWN: dict[Kind, frozenset[str]] = {
    "adaptive": frozenset("first_step min_step max_step max_num_steps step_t jump_t norm safety ifactor dfactor dtype".split()),
    "fixed": frozenset("step_size grid_constructor interp perturb norm".split()),
    "scipy": frozenset("solver min_step max_step norm grid_points eps".split()),
}
_ADAMS = frozenset(("max_order", "max_iters", "implicit"))
_WITHOUT_EFFECT = frozenset(("safety", "ifactor", "dfactor", *_ADAMS))


@dataclass(frozen=True)
class Method:
    """A method and its options, as :func:`pysciode.solve` takes them.

    Attributes
    ----------
    keywords
        Of :func:`pysciode.solve`.
    steps
        Of a fixed grid: times of all steps, float64, from the first time to the last.
    linear
        Whether states between the steps of a fixed grid lie on straight lines.
    jumps
        Where the right-hand side jumps: inside the time span, in its direction.
    norm
        The user's, of an error in the form of the state.
    not_here
        The option that only torchdiffeq itself supports; None without one.
    """

    kind: Kind
    algorithm: Algorithm | None
    keywords: dict[str, Any] = field(default_factory=dict)
    steps: np.ndarray | None = None
    linear: bool = False
    jumps: tuple[float, ...] = ()
    norm: Callable[[Any], Any] | None = None
    not_here: str | None = None


def is_torchdiffeqs(method: Any) -> bool:
    """Whether torchdiffeq has a method of this name."""
    return method is None or (isinstance(method, str) and method in METHODS)


def algorithm_of(method: Any, options: Mapping[str, Any]) -> tuple[Kind, Algorithm | None]:
    """The kind of a method, and SciML's algorithm.

    Raises
    ------
    ValueError
        For an unknown method.
    """
    if method is None:
        method = "dopri5"
    if isinstance(method, str):
        if method in ADAPTIVE:
            return "adaptive", check_algorithm(ADAPTIVE[method])
        if method in FIXED:
            return "fixed", check_algorithm(FIXED[method])
        if method in NEWER:
            return NEWER[method][0], check_algorithm(NEWER[method][1])
        if method == "scipy_solver":
            solver = options.get("solver", "LSODA")
            if solver not in SCIPY:
                raise InputError(f"options['solver'] must be one of {', '.join(SCIPY)}, not {solver!r}")
            switching = SCIPY[solver] == "AutoTsit5"
            return "scipy", AutoTsit5(Rosenbrock23()) if switching else check_algorithm(SCIPY[solver])
        if method != "auto" and method not in list_algorithms():
            raise ValueError(
                f"Invalid method {method!r}. Must be one of {', '.join((*METHODS, *NEWER))}, or the name of an algorithm of SciML "
                "(pysciode.list_algorithms())"
            )
    algorithm = check_algorithm(method)
    return "fixed" if algorithm is not None and algorithm.fixed_step else "adaptive", algorithm


def method_of(method: Any, options: Mapping[str, Any] | None, func: Any, y0: Any, t: torch.Tensor, *, event: bool) -> Method:
    """A method with its options, for a solve from ``t[0]`` to ``t[-1]``.

    Parameters
    ----------
    func, y0
        Arguments of a grid constructor.
    event
        Whether the solve ends at an event, not at ``t[-1]``.

    Raises
    ------
    ValueError, TypeError, AssertionError
        If a method or an option is invalid.
    """
    options = dict(options or {})
    kind, algorithm = algorithm_of(method, options)
    known = _KNOWN[kind] | _ADAMS if isinstance(method, str) and "adams" in method else _KNOWN[kind]
    unknown = {key: value for key, value in options.items() if key not in known}
    name = method if isinstance(method, str) else getattr(algorithm, "name", "dopri5")
    if unknown:
        warnings.warn(f"{name}: Unexpected arguments {unknown}", stacklevel=depth_of_user())
    useless = sorted(_WITHOUT_EFFECT & set(options) & known)
    if useless:
        said = f"{name}: {', '.join(useless)} has no effect on SciML's {algorithm}"
        warnings.warn(said, FallbackWarning, stacklevel=depth_of_user())
    if kind == "fixed":
        return _fixed(algorithm, options, func, y0, t, event)
    return _adaptive(kind, algorithm, options, t, event)


def _adaptive(kind: Kind, algorithm: Algorithm | None, options: dict[str, Any], t: torch.Tensor, event: bool) -> Method:
    keywords: dict[str, Any] = {"maxiters": MAX_STEPS}
    for name, keyword in (("first_step", "dt"), ("min_step", "dtmin"), ("max_step", "dtmax")):
        value = options.get(name)
        if value is not None and math.isfinite(value := float(value)) and value != 0:
            keywords[keyword] = value
    if "dtmin" in keywords:
        keywords["force_dtmin"] = True  # torchdiffeq accepts such a step whatever its error
    if options.get("max_num_steps") is not None:
        # torchdiffeq counts anew from one time to the next.
        keywords["maxiters"] = max(1, min(int(options["max_num_steps"]) * max(len(t) - 1, 1), 2**62))
    start, end = t[0].item(), t[-1].item()
    if event:
        end = math.copysign(math.inf, end - start)
    steps, jumps = (_inside(options.get(name), name, start, end) for name in ("step_t", "jump_t"))
    if len({*steps, *jumps}) < len(steps) + len(jumps):
        raise InputError("`step_t` and `jump_t` must not have any repeated elements between them.")
    if event:
        steps, jumps = (*steps, *jumps), ()
    if steps:
        keywords["tstops"] = np.array(steps)
    return Method(kind, algorithm, keywords, jumps=jumps, norm=options.get("norm") if kind == "adaptive" else None)


def _inside(times: Any, name: str, start: float, end: float) -> tuple[float, ...]:
    """Those of `times` that lie between `start` and `end`, in that direction."""
    if times is None:
        return ()
    try:
        values = np.atleast_1d(np.asarray(times.detach() if torch.is_tensor(times) else times, np.float64))
    except (TypeError, ValueError):
        raise InputError(f"options[{name!r}] must be a tensor of times, not {times!r}") from None
    inside = values[(values > min(start, end)) & (values < max(start, end))]
    return tuple(sorted(inside.tolist(), reverse=end < start))


def _fixed(algorithm: Algorithm | None, options: dict[str, Any], func: Any, y0: Any, t: torch.Tensor, event: bool) -> Method:
    step, constructor = options.get("step_size"), options.get("grid_constructor")
    if step is not None and constructor is not None:
        raise ValueError("step_size and grid_constructor are mutually exclusive arguments.")
    interp = options.get("interp", "linear")
    if interp not in ("linear", "cubic"):
        raise ValueError(f"Unknown interpolation method {interp}")
    if options.get("perturb"):
        return Method("fixed", algorithm, not_here="options['perturb']")
    keywords: dict[str, Any] = {"adaptive": False, "maxiters": 2**62}
    if event:
        if step is None:
            raise InputError("events with a method of fixed steps need options['step_size']")
        return Method("fixed", algorithm, keywords | {"dt": abs(float(step))})
    steps = _grid(step, constructor, func, y0, t)
    if len(steps) > 1:
        keywords["dt"] = float(np.abs(np.diff(steps)).max())
        even = np.linspace(steps[0], steps[-1], len(steps))
        rounding = 8 * torch.finfo(t.dtype).eps * np.abs(steps).max()
        if np.abs(steps - even).max() > rounding:
            keywords["tstops"] = steps
        else:
            keywords["dt"] = abs(steps[-1] - steps[0]) / (len(steps) - 1)
    return Method("fixed", algorithm, keywords, steps=steps, linear=interp == "linear")


def _grid(step: Any, constructor: Callable[..., Any] | None, func: Any, y0: Any, t: torch.Tensor) -> np.ndarray:
    given = numbers(t).astype(np.float64)
    if constructor is not None:
        grid = constructor(func, y0, t.detach())
        grid = np.asarray(grid.detach() if torch.is_tensor(grid) else grid, np.float64)
        if grid.ndim != 1 or len(grid) == 0 or grid[0] != given[0] or grid[-1] != given[-1]:
            raise InputError("the grid of options['grid_constructor'] must start at t[0] and end at t[-1]")
        if not (np.diff(grid) * (given[-1] - given[0]) > 0).all():
            raise InputError("the grid of options['grid_constructor'] must run strictly from t[0] to t[-1]")
        return grid
    if step is None:
        return given
    step = float(step)
    if not (step > 0 and math.isfinite(step)):
        raise InputError(f"options['step_size'] must be positive and finite, not {step:g}")
    count = math.ceil(abs(given[-1] - given[0]) / step * (1 - 1e-12))
    grid = given[0] + math.copysign(step, given[-1] - given[0]) * np.arange(count + 1)
    grid[-1] = given[-1]
    return grid
