"""Models and plans (a model with an algorithm and options), which Julia gets once."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...capture.reach import contents
from ...graphs.captured_model import ArrayModel, CallbackModel, CapturedModel, JuliaModel, ScalarModel, outputs
from ...lowering import LoweredModel, lower
from ...lowering.julia_functions import defined_functions
from ...lowering.numbers_apart import with_numbers_apart
from ...methods.adjoints import SensitivityAlgorithm
from ...methods.algorithms import STIFF, Algorithm, Tsit5, is_coarse, is_matrix_free
from ...methods.initialization import dense
from ...problems.declarations import FIRST_ORDER
from ..base import EventRequest, SolveOptions, SolveRequest
from .callback import PythonFunctions
from .devices import device_arguments

if TYPE_CHECKING:
    from ...problems.base import Problem

Command = Callable[..., int]
"""``JuliaEngine.command``."""

_ALL_SCALAR = frozenset({"f!", "jac!", "tgrad!", "vjp!", "vjp_p!", "vjp_both!", "jvp!", "paramjac!", "f_oop"})
# Beyond this, derivatives of a scalar model are printed only when they are wanted.
_SMALL = 400
_SHARED_BYTES = 1_000_000
"""Of constants, at most, where models with the same source share what is compiled."""
_OUTLINES = 256
"""Of sources, at most, that are known again when they come with other numbers."""
_PLANS = 100
"""Of one model, at most: a tolerance may be another at each solve."""


@dataclass(frozen=True, eq=False)
class Registered:
    """One generation of a model on the Julia side: a handle, and the functions it has."""

    handle: int
    functions: frozenset[str]


@dataclass(frozen=True, eq=False)
class Plan:
    """Handle of a plan, and what it needs alive."""

    id: int
    models: tuple[Registered, ...]
    events: tuple[weakref.ref, ...] = ()  # the models of its events, which are often written anew for every solve

    def is_current(self) -> bool:
        """Whether the models of its events are still those that it was made for."""
        return all(x() is not None for x in self.events)


class RegisteredModels:
    """Captured models that Julia knows; forgotten there when they are forgotten here.

    Models with the same source share one generation, and the latest few are kept after their models are gone: networks of one
    architecture, made again and again, are compiled once. So are models that differ in numbers or constant arrays only, from the
    second one on. (Julia never frees compiled code.)
    """

    def __init__(self, command: Command, release: Callable[[str, int], None]) -> None:
        self._command = command
        self._release = release
        self.lock = threading.RLock()
        self._known: dict[tuple[int, str, str | None], list[Registered]] = {}
        self._by_content: weakref.WeakValueDictionary[Hashable, Registered] = weakref.WeakValueDictionary()
        self._recent: deque[Registered] = deque(maxlen=32)
        self._outlines: OrderedDict[int, int | None] = OrderedDict()

    def get(self, model: CapturedModel, want: frozenset[str], request: SolveRequest) -> Registered:
        """The model with at least the functions `want`, lowered and compiled now if it lacks some."""
        key = (id(model), request.dtype.name, request.problem.device)
        with self.lock:
            generations = self._known.get(key)
            if generations is None:
                generations = self._known[key] = []
                # Without the lock, for which garbage collection may not wait: no other thread can still use that model.
                weakref.finalize(model, self._known.pop, key).atexit = False
            for registered in reversed(generations):
                if want <= registered.functions:
                    return registered
            registered = self._register(model, want, request)
            generations.append(registered)
            return registered

    def _register(self, model: CapturedModel, want: frozenset[str], request: SolveRequest) -> Registered:
        n, n_params, dtype = request.problem.n, request.problem.layout.size, request.dtype
        device = request.problem.device
        if isinstance(model, CallbackModel):
            functions = PythonFunctions(model, tuple(request.problem.u0.shape), n_params, dtype)
            arguments: dict[str, Any] = {"dtype": dtype.name, "n": n, "np": n_params, **functions.addresses}
            # On the model itself, of which they hold parts: from here they would keep it alive.
            model.__dict__.setdefault("called_by_julia", []).append(functions)
            return self._send("register_callback", arguments, want)
        if isinstance(model, ScalarModel) and n * max(n, n_params) <= _SMALL:
            want = want | _ALL_SCALAR
        lowered = lower(model, dtype, n=n, n_params=n_params, want=want, device=device is not None)
        generated = not isinstance(model, JuliaModel)
        if generated and device is None:
            lowered = self._with_numbers_apart(lowered, want)
        constants = {name: np.ascontiguousarray(value).reshape(-1) for name, value in lowered.constants.items()}
        size = sum(x.nbytes for x in constants.values())
        content = outline = None
        if generated and size <= _SHARED_BYTES:
            values = tuple((name, x.dtype.char, x.tobytes()) for name, x in constants.items())
            content = (dtype.char, device, n, n_params, lowered.source, values, want)
            found = self._by_content.get(content)
            if found is not None:
                return found
        arguments = {
            "dtype": dtype.name,
            "n": n,
            "np": n_params,
            "outputs": outputs(model, n),
            "constants": [[name, x.dtype.name, x.__array_interface__["data"][0], x.size] for name, x in constants.items()],
        }
        if device is not None:
            arguments |= device_arguments(device)
        if lowered.sparsity is not None and "jac_sparse!" in lowered.functions:
            arguments["colptr"], arguments["rowval"] = lowered.sparsity
        if lowered.apart:
            sizes = tuple((name, x.dtype.char, x.size) for name, x in constants.items())
            outline = (dtype.char, n, n_params, lowered.source, sizes, want)
            like = self._by_content.get(outline)
            arguments["like"] = 0 if like is None else like.handle
        registered = self._send("register", arguments, want, lowered.source)
        keys = [key for key in (content, outline) if key is not None]
        self._by_content.update(dict.fromkeys(keys, registered))
        if keys:
            self._recent.append(registered)
        return registered

    def _with_numbers_apart(self, lowered: LoweredModel, want: frozenset[str]) -> LoweredModel:
        """The model so that it shares what is compiled with others, if one was seen that differs in its constants only; else as it is."""
        apart = with_numbers_apart(lowered)
        if not apart.constants:
            return lowered
        key = hash((apart.source, apart.dtype, want))
        constants = hash(tuple((name, contents(x)) for name, x in apart.constants.items()))
        seen = self._outlines.setdefault(key, constants)
        if seen is not None and seen != constants:
            seen = self._outlines[key] = None
        self._outlines.move_to_end(key)
        if len(self._outlines) > _OUTLINES:
            self._outlines.popitem(last=False)
        return apart if seen is None else lowered

    def _send(self, name: str, arguments: dict[str, Any], functions: frozenset[str], source: str = "") -> Registered:
        registered = Registered(self._command(name, arguments, source), functions)
        self.release_with(registered, "release_model", registered.handle)
        return registered

    def release_with(self, thing: Registered | Plan, command: str, handle: int) -> None:
        """Have Julia forget `handle` when `thing` is forgotten here."""
        weakref.finalize(thing, self._release, command, handle).atexit = False


class _Latest(NamedTuple):
    """The plan that was used last, and what it was made for, which does not change itself (a mass matrix might)."""

    options: SolveOptions
    algorithm: Algorithm | None
    sensealg: SensitivityAlgorithm | None
    wants: frozenset[str]
    dtype: np.dtype
    device: str | None
    jac_sparsity: Any
    plan: Plan


def make_plan(command: Command, models: RegisteredModels, request: SolveRequest) -> Plan:
    """The plan for a request; made once for each model, algorithm, set of options and sensitivity method."""
    problem, options = request.problem, request.options
    plans = problem.compiled
    latest = plans.get(_Latest)
    if (
        latest is not None
        and latest.options is options
        and latest.algorithm is request.algorithm
        and latest.sensealg is request.sensealg
        and latest.wants == request.wants
        and latest.dtype is request.dtype
        and latest.device == problem.device
        and latest.jac_sparsity is problem.jac_sparsity
        and problem.mass_matrix is None
    ):
        return latest.plan
    atol, tstops, save_idxs = options.atol, options.tstops, options.save_idxs
    key = (
        request.algorithm,
        request.sensealg,
        request.wants,
        request.dtype.char,
        problem.device,
        options.rtol,
        atol if type(atol) is float else np.asarray(atol).tobytes(),
        options.dt,
        options.dtmin,
        options.dtmax,
        options.maxiters,
        options.adaptive,
        options.dense,
        None if tstops is None else tstops.tobytes(),
        None if save_idxs is None else save_idxs.tobytes(),
        repr(options.extra) if options.extra else None,
        None if problem.mass_matrix is None else dense(problem.mass_matrix).tobytes(),
        options.initializealg,
        problem.jac_sparsity is not None,
        tuple((*(id(x.model) for x in e.problems), e.direction, e.stop_after) for e in options.events),
    )
    kept = plans.setdefault(Plan, {})
    plan = kept.get(key)
    if plan is None or not plan.is_current():
        with models.lock:
            plan = kept.get(key)
            if plan is None or not plan.is_current():
                plan = _new_plan(command, models, request)
                for old in [k for k, x in kept.items() if not x.is_current()] + list(kept)[: max(0, len(kept) + 1 - _PLANS)]:
                    kept.pop(old, None)
                kept[key] = plan
    if problem.mass_matrix is None:
        plans[_Latest] = _Latest(
            options, request.algorithm, request.sensealg, request.wants, request.dtype, problem.device, problem.jac_sparsity, plan
        )
    return plan


def _new_plan(command: Command, models: RegisteredModels, request: SolveRequest) -> Plan:
    options, problem = request.options, request.problem
    algorithm = _interpolating(request.algorithm if request.algorithm is not None else _default(request), request.sensealg)
    own = problem.form.takes(algorithm)
    form, want = _form(problem, algorithm, request.sensealg)
    if options.initializealg is not None and request.sensealg is not None and not isinstance(problem.model, (CallbackModel, JuliaModel)):
        want |= {"vjp!", "vjp_p!"}  # consistent initial values are differentiated by them
    main, parts = problem.model, {}
    if own and problem.form.parts:
        main, *others = (problem.parts[name] for name in problem.form.parts)
        parts = {name: models.get(x, frozenset({"f!"}), request) for name, x in zip(problem.form.parts[1:], others, strict=True)}
    registered = models.get(main, want, request)
    if isinstance(problem.model, CallbackModel):
        algorithm = _without_duals(algorithm)
    handle = command(
        "plan",
        {
            "model": registered.handle,
            "form": problem.form.name if own else FIRST_ORDER.name,
            "parts": {name: x.handle for name, x in parts.items()},
            "odekind": form,
            "algorithm": algorithm.julia,
            "packages": _packages(algorithm),
            **_reverse(request),
            "reltol": float(options.rtol),
            "abstol": options.atol,
            "dt": options.dt,
            "dtmin": options.dtmin,
            "dtmax": options.dtmax,
            "maxiters": options.maxiters,
            "adaptive": options.adaptive,
            "dense": options.dense,
            "tstops": options.tstops,
            "coarse": is_coarse(algorithm),
            "save_idxs": None if options.save_idxs is None else options.save_idxs + 1,
            "extra": options.extra,
            "sensealg": None if request.sensealg is None else _sensealg_arguments(request.sensealg, request.wants),
            "events": [_event_arguments(models, e) | {"restart": cuts_badly(request)} for e in options.events],
            "mass_matrix": None if problem.mass_matrix is None else dense(problem.mass_matrix),
            "initialize": None if options.initializealg is None else options.initializealg.julia(float(np.min(options.atol)) or 1e-10),
        },
    )
    plan = Plan(handle, (registered, *parts.values()), tuple(weakref.ref(x.model) for e in options.events for x in e.problems))
    models.release_with(plan, "release_plan", handle)
    return plan


def _event_arguments(models: RegisteredModels, event: EventRequest) -> dict[str, Any]:
    handles = [models.get(x.model, frozenset({"f!"}), _of(x)).handle for x in event.problems]
    return {
        "condition": handles[0],
        "affect": handles[1] if len(handles) > 1 else None,
        "direction": event.direction,
        "stop_after": event.stop_after,
    }


def _of(problem: Problem) -> SolveRequest:
    return SolveRequest(problem, problem.flat_values(), problem.tspan, None, SolveOptions())


def _sensealg_arguments(sensealg: SensitivityAlgorithm, wants: frozenset[str]) -> dict[str, Any]:
    options = dict(sensealg.options)
    autojacvec = options.pop("autojacvec", None)
    tolerances = {name.removeprefix("reverse_"): value for name, value in sensealg.reverse_tolerances.items()}
    wanted = {name: name in wants for name in ("u0", "p")}
    packages = sorted(sensealg.packages)
    return {"name": sensealg.name, "packages": packages, **wanted, "autojacvec": autojacvec, **tolerances, "options": options}


# Up to so many states, a reverse solve by Rodas5P takes dense matrices that cost little.
_RODAS_LIMIT = 200


def _reverse(request: SolveRequest) -> dict[str, Any]:
    """The algorithm of the reverse solve, where it is not that of the forward one.

    Adjoints read the reverse solution between its steps, where that of most implicit methods is coarse behind the jumps at the saved
    times: GaussAdjoint with FBDF was off 600-fold, and with the default algorithm, where that turned to FBDF, by 1e-3 at ``rtol=1e-8``.
    (That of algebraic equations jumps with them, and QNDF, RadauIIA5, TRBDF2 and KenCarp4 stop there.) Methods of low storage have no
    derivatives at their steps to interpolate by.
    """
    if request.sensealg is None or not request.sensealg.continuous:
        return {}
    algorithm = request.algorithm or _default(request)
    if request.options.initializealg is not None:
        other = _stiff(request)
    elif _may_be_stiff(algorithm) and not algorithm.name.startswith("Rodas") and request.problem.n <= _RODAS_LIMIT:
        other = Algorithm("Rodas5P")
    elif algorithm.package == "OrdinaryDiffEqLowStorageRK":
        other = Tsit5()
    else:
        return {}
    return {"reverse": other.julia, "reverse_packages": _packages(other)}


def _may_be_stiff(algorithm: Algorithm) -> bool:
    return algorithm.family in STIFF or algorithm.family == "auto" or algorithm == _DEFAULT


def _stiff(request: SolveRequest) -> Algorithm:
    return Algorithm("Rodas5P" if request.problem.n <= 50 else "FBDF")


_DEFAULT = Algorithm("DefaultODEAlgorithm")


def _default(request: SolveRequest) -> Algorithm:
    """SciML's default algorithm, or one like it where its dense output fails; an explicit method on a device."""
    if request.problem.device is not None:
        return Tsit5()
    if request.problem.mass_matrix is not None and request.sensealg is not None:
        return _stiff(request)
    if request.sensealg is None or not request.sensealg.continuous or request.options.rtol >= 1e-6:
        return _DEFAULT
    # Below this tolerance it steps by Vern7, whose steps it can't interpolate in place, as adjoints do (OrdinaryDiffEqCore 4).
    return Algorithm("AutoVern7", _stiff(request))


_LAZY = frozenset(["BS5", "Vern6", "Vern7", "Vern8", "Vern9", "RKV76IIa", "AutoVern6", "AutoVern7", "AutoVern8", "AutoVern9"])
"""Methods that take the stages of their dense output only when it is asked for."""


def _interpolating(algorithm: Algorithm, sensealg: SensitivityAlgorithm | None) -> Algorithm:
    """`algorithm` with dense output that adjoints can read.

    Where it is made of stages that are taken late, they are wrong (OrdinaryDiffEqVerner 2.0): the gradient of ``u' = p u`` by Vern9 at
    ``rtol=1e-9`` was off by 2e-3.
    """
    reads_it = sensealg is not None and sensealg.reads_dense_output
    if not reads_it or algorithm.name not in _LAZY or "lazy" in algorithm.options:
        return algorithm
    return Algorithm(algorithm.name, *algorithm.arguments, **algorithm.options, lazy=False)


def cuts_badly(request: SolveRequest) -> bool:
    """Whether the dense output of a step that an event cuts short is wrong: it is known for the whole step only."""
    algorithm = request.algorithm
    if algorithm is None:
        return request.problem.n > 50  # the default may turn to FBDF then
    return bool(({*_packages(algorithm)} & _MULTISTEP) or "OrdinaryDiffEqFIRK" in _packages(algorithm))


def _packages(algorithm: Algorithm) -> list[str]:
    """The Julia packages of an algorithm and of those among its arguments."""
    found = [algorithm.package or "OrdinaryDiffEqDefault"]
    for x in (*algorithm.arguments, *algorithm.options.values()):
        if isinstance(x, Algorithm):
            found += _packages(x)
    return found


def _implicit(algorithm: Algorithm) -> bool:
    return algorithm.family in (*STIFF, "auto", "imex", "exponential", "dae", None)


def _without_duals(algorithm: Algorithm) -> Algorithm:
    """The same with differences instead of dual numbers, which don't go through Python; of one that switches, those that it switches between."""
    if any(isinstance(x, Algorithm) for x in algorithm.arguments):
        arguments = [_without_duals(x) if isinstance(x, Algorithm) else x for x in algorithm.arguments]
        return Algorithm(algorithm.name, *arguments, package=algorithm.package, **algorithm.options)
    known = algorithm.family is not None or algorithm.name == _DEFAULT.name
    if not known or not _implicit(algorithm) or "autodiff" in algorithm.options:
        return algorithm
    return Algorithm(algorithm.name, *algorithm.arguments, autodiff=False, package=algorithm.package, **algorithm.options)


_MULTISTEP = frozenset("OrdinaryDiffEq" + name for name in ("AdamsBashforthMoulton", "BDF", "IMEXMultistep", "Nordsieck"))
"""Packages of methods with a history of steps."""

# A dense Jacobian of more states than this is not made.
_DENSE_LIMIT = 2000
# Up to so many states, differences of the reverse problem (linear, so they are exact) cost less than what a prototype does.
_SMALL_REVERSE = 30


def _form(problem: Any, algorithm: Algorithm, sensealg: SensitivityAlgorithm | None) -> tuple[str, frozenset[str]]:
    """Which derivatives SciML gets (a `kind` of `odefunction` in julia/src/models/models.jl), and the functions for that."""
    model = problem.model
    adjoint = sensealg is not None and sensealg.continuous
    if isinstance(model, CallbackModel):
        if adjoint and model.vjp is not None:
            return "vjp", frozenset({"f!"})
        return ("jac" if model.jac is not None and _implicit(algorithm) else "plain"), frozenset({"f!"})
    want = {"f!"}
    form = "full"
    if _implicit(algorithm):
        if is_matrix_free(algorithm):
            form = "matrixfree"
            want |= {"jvp!", "tgrad!"}
        elif problem.jac_sparsity is not None:
            if not isinstance(model, (ArrayModel, ScalarModel)):
                raise ValueError("jac_sparsity needs a model whose formulas are known: written for NumPy, torch or SymPy")
            form = "sparse"
            want |= {"jac!", "jac_sparse!", "tgrad!"}
        elif problem.n <= _DENSE_LIMIT:
            # A prototype lets the reverse solve use the Jacobian too, at the price of a problem rebuilt for every solve.
            form = "implicit" if adjoint and problem.n > _SMALL_REVERSE else "full"
            want |= {"jac!", "tgrad!"}
        else:
            form = "matrixfree"
            want |= {"jvp!", "tgrad!"}
    if sensealg is not None:
        want |= sensealg.functions
    if isinstance(model, JuliaModel) and not want <= defined_functions(model.source):
        return "plain", frozenset({"f!"})  # SciML differentiates it
    return form, frozenset(want)
