"""The Julia engine: SciML in this process, over flat arrays and C function pointers.

Models and plans (a model with an algorithm and options) are made through juliacall and kept; a solve or a pullback is one call of
a C function, with the GIL released.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import numpy as np

from ...errors import AccuracyWarning, EngineUnavailable, GradientFailed, JuliaError
from ...methods.adjoints import SensitivityAlgorithm
from ..base import Engine, FlatArray, Gradients, Pullback, RawSolution, SolveRequest, UnstableSteps
from .callback import norm_function, step_function
from .calls_from_julia import callable_from_julia, catch_what_ctypes_drops, check_signals, exception_waits, raise_what_waits
from .commands import toml
from .device_errors import device_unavailable, out_of_device_memory
from .devices import Devices, contiguous, empty, wait_for_torch
from .installation import julia_environment_is_resolved, require_packages
from .plans import Plan, RegisteredModels, cuts_badly, make_plan
from .runtime import julia_runs, keep_threads_safe, start_julia

_OK, _FAILED, _INTERRUPTED, _GRADIENT_FAILED, _CALLBACK_FAILED, _OUT_OF_MEMORY, _NO_DEVICE = range(7)
_STATISTICS = ("nf", "njacs", "nw", "nsolve", "nnonliniter", "naccept", "nreject", "nvjp", "allocated")
# How far off an adjoint may be by one of the solver's steps, as a part of itself.
_UNSTABLE = 0.3
_REVERSE = {"nf_reverse": "nf", "njacs_reverse": "njacs", "nvjp": "nvjp", "allocated_reverse": "allocated"}
"""Statistics that come from a pullback's report, once there is one, and their fields there."""


class _Report(ctypes.Structure):
    """Mirror of `Report` in julia/src/border/border.jl."""

    _fields_ = [(name, ctypes.c_int64) for name in ("answer", "count", "error", *_STATISTICS)] + [
        ("t_reached", ctypes.c_double),
        ("retcode", ctypes.c_char * 32),
    ]


class _Hooks(ctypes.Structure):
    """Mirror of `Hooks` in julia/src/border/polling.jl."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("progress", "step", "norm")]


_POINTER, _INT, _DOUBLE, _STATUS = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "solve": (_STATUS, _INT, _POINTER, _POINTER, _DOUBLE, _DOUBLE, _INT, _POINTER, _POINTER, _POINTER, _POINTER),
    "fetch": (_STATUS, _INT, _POINTER, _POINTER),
    "pullback": (_STATUS, _INT, _POINTER, _POINTER, _POINTER, _POINTER),
    "interpolate": (_STATUS, _INT, _POINTER, _INT, _INT, _POINTER, _POINTER),
    "event_count": (_INT, _INT),
    "fetch_events": (_STATUS, _INT, _POINTER, _POINTER, _POINTER, _POINTER),
    "release": (_STATUS, _INT),
    "command": (_INT, ctypes.c_char_p, ctypes.c_char_p, _POINTER),
    "error": (_INT, _INT, _POINTER, _INT),
    "rhs": (_STATUS, _INT, _POINTER, _POINTER, _DOUBLE, _POINTER, _POINTER),
}
_PROGRESS = ctypes.CFUNCTYPE(None, ctypes.c_double)


_BORDER_VERSION = 2
"""Of julia/src/border/border.jl."""


def _check_layout(addresses: dict[str, str]) -> None:
    """Refuse a Julia package whose functions and structs are not those that this module knows: a call would corrupt memory.

    Raises
    ------
    EngineUnavailable
        Naming what differs.
    """
    expected = {"version": _BORDER_VERSION, "report": ctypes.sizeof(_Report), "hooks": ctypes.sizeof(_Hooks)}
    found = {name: int(addresses.get(name, -1)) for name in expected}
    missing = [name for name in _SIGNATURES if name not in addresses]
    if found != expected or missing:
        raise EngineUnavailable(
            "the Julia engine",
            f"the Julia package PySciODE is of another version than this Python package ({found} instead of {expected}"
            + (f"; it lacks {', '.join(missing)}" if missing else "") + ")",
        )  # fmt: skip


def _check_fetched(status: int) -> None:
    """Refuse arrays that Julia did not fill.

    Raises
    ------
    JuliaError
        If the status is a failure.
    """
    if status != _OK:
        raise JuliaError("Julia could not hand over what it saved")


class JuliaEngine(Engine):
    """SciML's solvers and adjoints; starts Julia when it is first used."""

    name = "julia"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, Callable[..., int]] = {}
        self._models = RegisteredModels(self.command, self._release)
        self._connected = False
        self.devices = Devices(self.command)
        self._process: int | None = None  # that started it

    @staticmethod
    def is_installed() -> bool:
        """Whether the engine can start without installing anything."""
        return julia_environment_is_resolved()

    def empty_device_caches(self) -> None:
        """Have Julia give the memory of devices that it keeps for later solves back; see :func:`pysciode.empty_cache`."""
        if julia_runs():
            self.devices.empty_caches()

    def start(self) -> None:
        """Start Julia, unless it runs."""
        if self._process == os.getpid():
            keep_threads_safe()
            return
        start_julia()  # also where a forked child is told that it can't
        with self._lock:
            if not self._connected:
                self._connect()
                self._connected = True
        self._process = os.getpid()

    def _connect(self) -> None:
        juliacall = sys.modules["juliacall"]  # where start_julia put it
        addresses = dict(line.split("=") for line in juliacall.Main.seval("PySciODE.addresses()").splitlines())
        _check_layout(addresses)
        for name, signature in _SIGNATURES.items():
            # CFUNCTYPE functions release the GIL while they run.
            self._calls[name] = ctypes.CFUNCTYPE(*signature)(int(addresses[name]))
        api = ctypes.pythonapi
        functions = {
            "ensure": api.PyGILState_Ensure,
            "release": api.PyGILState_Release,
            "signals": check_signals,
            "clear": api.PyErr_Clear,
        }
        self.command("connect", {k: ctypes.cast(v, ctypes.c_void_p).value for k, v in functions.items()})
        atexit.register(_at_exit)  # runs before juliacall's own, which was registered earlier and ends Julia
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_at_exit)

    def require(self, sensealg: SensitivityAlgorithm) -> None:
        require_packages(sensealg.name, sensealg.packages)

    def command(self, name: str, arguments: dict[str, Any], payload: str = "") -> int:
        """Run a command in Julia, once for a model, a plan or a fit; return the handle of its result.

        Raises
        ------
        JuliaError
            With Julia's message.
        GradientFailed
            With the name of the command.
        KeyboardInterrupt
            If Ctrl-C was pressed and Julia noticed.
        """
        report = _Report()
        spec = toml({"command": name, **arguments})
        catch_what_ctypes_drops()
        handle = self._calls["command"](spec.encode(), payload.encode(), ctypes.addressof(report))
        if handle < 0:
            device = f"{arguments['device']}:{arguments['index']}" if "device" in arguments else None
            self._raise(-handle, report, name, "", device)
        raise_what_waits()
        return handle

    def _release(self, command: str, handle: int) -> None:
        """Have Julia forget a model or a plan; comes from garbage collection, at any time, and raises nothing."""
        if _julia_runs:
            spec = toml({"command": command, "handle": handle})
            self._calls["command"](spec.encode(), b"", ctypes.addressof(_Report()))

    def release_model(self, handle: int) -> None:
        """Have Julia forget a model; a solve that is under way keeps what it needs."""
        self._release("release_model", handle)

    def _take_error(self, id: int) -> tuple[str, str]:
        size = self._calls["error"](id, None, 0)
        text = ctypes.create_string_buffer(size + 1)
        self._calls["error"](id, ctypes.addressof(text), size)
        message, _, stack = text.value.decode(errors="replace").partition("\nPYSCIODE-STACK\n")
        return message, stack

    def solve(self, request: SolveRequest) -> RawSolution:
        if request.options.events and cuts_badly(request):
            return self._solve_around_events(request)
        return self._run(request)[0]

    def _solve_around_events(self, request: SolveRequest) -> RawSolution:
        """First the events, then the values, by a solve without them up to where they ended the first one."""
        options, start = request.options, request.tspan[0]
        values = options.saveat is not None or options.dense
        if values and any(e.affect is not None for e in options.events):
            raise ValueError(
                "callback: with multistep methods and RadauIIA5, a solve whose state changes at events has values at its own steps "
                "only (saveat=None, dense=False): take an explicit Runge-Kutta or a Rosenbrock method"
            )
        found = self._run(replace(request, options=replace(options, saveat=None, dense=False)))[0]
        if not values:
            return found
        saveat = options.saveat
        if saveat is not None:
            saveat = saveat[np.abs(saveat - start) <= abs(found.t_reached - start)]
            if not len(saveat):
                return replace(found, t=found.t[:0], u=found.u[:0])
        if found.t_reached == start:
            return found
        rest = replace(options, saveat=saveat, events=(), steps=())
        raw = self._run(request.again(tspan=(start, found.t_reached), options=rest))[0]
        return replace(raw, retcode=found.retcode if raw.retcode == "Success" else raw.retcode, events=found.events)

    def solve_with_pullback(self, request: SolveRequest) -> tuple[RawSolution, Pullback]:
        solution, answer, counts = self._run(request)
        return solution, partial(self._pull_back, request, answer, counts)

    def rhs(self, request: SolveRequest, u: FlatArray, t: float) -> FlatArray:
        plan = self.plan(request)
        report = _Report()
        u = contiguous(request, u)
        du = empty(request, (request.problem.n,))
        wait_for_torch(request.problem.device)
        status = self._calls["rhs"](plan.id, _input(u), _input(request.p), t, _output(du), ctypes.addressof(report))
        self._check(status, report, request)
        return du

    def plan(self, request: SolveRequest) -> Plan:
        """What Julia keeps of a request: all but `u0`, `p`, the time span and the saved times; starts Julia."""
        self.start()
        device = request.problem.device
        if device is not None:
            self.devices.prepare(request, device)
        return make_plan(self.command, self._models, request)

    def _run(self, request: SolveRequest) -> tuple[RawSolution, _Answer, _Counts]:
        plan = self.plan(request)
        options = request.options
        report = _Report()
        width = request.problem.n if options.save_idxs is None else len(options.save_idxs)
        saveat = options.saveat
        if saveat is None:
            count, u = -1, None
        else:
            count = len(saveat)
            u = empty(request, (count, width))
        hooks, keep = _hooks(request)
        p = request.p
        if options.events:
            p = np.concatenate([p, *(x.flat_p() for e in options.events for x in e.problems)])
        answer = _Answer(report, self._calls["release"])  # made first, so that Ctrl-C right after the call loses nothing
        catch_what_ctypes_drops()
        status = self._calls["solve"](
            plan.id,
            _input(request.u0),
            _input(p),
            *request.tspan,
            count,
            None if saveat is None else _input(saveat),
            None if u is None else _output(u),
            None if hooks is None else ctypes.addressof(hooks),
            ctypes.addressof(report),
        )
        self._check(status, report, request)
        if saveat is not None and report.count == count:
            t = saveat
        else:
            t = np.empty(report.count, dtype=np.float64)
            u = empty(request, (report.count, width))
            _check_fetched(self._calls["fetch"](answer.id, _output(t), _output(u)))
        interpolant = None
        if options.dense and answer.id:
            keeps_it = request.sensealg is None or request.sensealg.continuous
            interpolant = partial(self._interpolate, request, answer, width) if keeps_it else self._solved_again(request)
        events = self._events(request, answer) if options.events else ()
        counts = _Counts(report)
        raw = RawSolution(t, u, report.retcode.decode(), counts, report.t_reached, interpolant, events=events)
        return raw, answer, counts

    def _events(self, request: SolveRequest, answer: _Answer) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        count = self._calls["event_count"](answer.id)
        _check_fetched(_OK if count >= 0 else count)
        index = np.empty(count, dtype=np.int64)
        t = np.empty(count, dtype=np.float64)
        u = np.empty((count, request.u0.size), dtype=request.u0.dtype)
        unsettled = np.zeros(len(request.options.events), dtype=bool)
        fetched = self._calls["fetch_events"](answer.id, _output(index), _output(t), _output(u), _output(unsettled))
        _check_fetched(fetched)
        for i in np.flatnonzero(unsettled):
            warnings.warn(
                f"the condition of event {i} changes too often within a step of the solver to be followed, so events may be missing: "
                "give solve a dtmax",
                AccuracyWarning,
                stacklevel=2,
            )
        return tuple((t[index == i], u[index == i]) for i in range(len(request.options.events)))

    def _pull_back(self, request: SolveRequest, answer: _Answer, counts: _Counts, du: FlatArray) -> Gradients:
        report = _Report()
        du = contiguous(request, du)
        du0 = empty(request, (request.problem.n,))
        dp = empty(request, (request.problem.layout.size,))
        wait_for_torch(request.problem.device)
        catch_what_ctypes_drops()
        status = self._calls["pullback"](answer.id, _input(du), _output(du0), _output(dp), ctypes.addressof(report))
        self._check(status, report, request)
        counts.pullback = report
        if report.t_reached > _UNSTABLE:
            raise UnstableSteps({"u0": du0, "p": dp})
        return {"u0": du0, "p": dp}

    def _interpolate(self, request: SolveRequest, answer: _Answer, width: int, times: np.ndarray, derivative: int) -> FlatArray:
        report = _Report()
        times = np.ascontiguousarray(times, dtype=np.float64)
        out = empty(request, (len(times), width))
        wait_for_torch(request.problem.device)
        status = self._calls["interpolate"](answer.id, _input(times), len(times), derivative, _output(out), ctypes.addressof(report))
        self._check(status, report, request)
        return out

    def _solved_again(self, request: SolveRequest) -> Callable[[np.ndarray, int], FlatArray]:
        """Dense output of a solve that carries derivatives, which keeps none: that of one without, made when it is wanted."""
        # The arrays may be memory of tensors that an optimiser changes.
        plain = request.again(values={name: x.copy() for name, x in request.values.items()}, sensealg=None, wants=frozenset())
        found: list[Callable[[np.ndarray, int], FlatArray]] = []

        def interpolant(times: np.ndarray, derivative: int) -> FlatArray:
            if not found:
                kept = self.solve(plain).interpolant
                if kept is None:
                    raise JuliaError("a solve without derivatives kept no dense output")
                found.append(kept)
            return found[0](times, derivative)

        return interpolant

    def _check(self, status: int, report: _Report, request: SolveRequest) -> None:
        if exception_waits():  # even where the solve came to an end all the same
            status = status or _CALLBACK_FAILED
        if status != _OK:
            sensealg = request.sensealg
            # What fails with another package's VJPs is that package's matter.
            advice = sensealg.advice if sensealg is not None and sensealg.generated else ""
            self._raise(status, report, "" if sensealg is None else sensealg.name, advice, request.problem.device)

    def _raise(self, status: int, report: _Report, name: str, advice: str, device: str | None = None) -> NoReturn:
        message, stack = self._take_error(report.error) if report.error else ("", "")
        raise_what_waits()
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        if status == _CALLBACK_FAILED:
            raise RuntimeError("a Python model failed, and its exception was lost")
        if status == _GRADIENT_FAILED:
            raise GradientFailed(name, message, advice) from JuliaError(message + stack)
        if status == _OUT_OF_MEMORY and device is not None:
            error = out_of_device_memory(device, message)  # reports the holders of memory before it is freed
            self.devices.reclaim(device)
            raise error from JuliaError(stack)
        if status == _NO_DEVICE and device is not None:
            raise device_unavailable(device, message)
        raise JuliaError(message) from JuliaError(stack)


class _Counts(Mapping[str, int]):
    """The statistics in a solve's report; read on request, since a fit never reads them."""

    __slots__ = ("solve", "pullback")

    def __init__(self, solve: _Report) -> None:
        self.solve = solve
        self.pullback: _Report | None = None

    def __getitem__(self, name: str) -> int:
        if self.pullback is not None and name in _REVERSE:
            return getattr(self.pullback, _REVERSE[name])
        if name in _STATISTICS:
            return getattr(self.solve, name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*_STATISTICS, *(() if self.pullback is None else _REVERSE))))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __reduce__(self) -> tuple:
        return (dict, (dict(self),))

    def __repr__(self) -> str:
        return repr(dict(self))


def _hooks(request: SolveRequest) -> tuple[_Hooks | None, list[Any]]:
    """The functions that Julia calls during a solve, and the objects that must live as long."""
    options = request.options
    functions = {}
    if options.progress is not None:
        functions["progress"] = callable_from_julia(_PROGRESS, options.progress)
    if options.steps:
        functions["step"] = step_function(options.steps, request.u0.size, request.u0.dtype)
    if options.norm is not None:
        functions["norm"] = norm_function(options.norm, request.u0.size, request.u0.dtype)
    if not functions:
        return None, []
    addresses = {name: ctypes.cast(x, ctypes.c_void_p).value for name, x in functions.items()}
    return _Hooks(**addresses), list(functions.values())


_julia_runs = True


def _at_exit() -> None:
    global _julia_runs
    _julia_runs = False


class _Answer:
    """A solution that Julia keeps for a pullback or for dense output, if it does; forgotten there when it is here."""

    __slots__ = ("_report", "_release")

    def __init__(self, report: _Report, release: Callable[[int], int]) -> None:
        self._report = report
        self._release = release

    @property
    def id(self) -> int:
        """Its handle; 0 where Julia keeps nothing."""
        return self._report.answer

    def __del__(self) -> None:
        # False or, when the interpreter takes modules apart, None: Julia may be gone already.
        if _julia_runs and self._report.answer:
            self._release(self._report.answer)


_COPIED = 4096  # bytes


def _input(array: Any) -> bytes | int:
    """An array for a C function to read, as ctypes takes it; to copy a small one is quicker than to get its address."""
    if not isinstance(array, np.ndarray):
        return array.data_ptr()
    return array.tobytes() if array.nbytes <= _COPIED else array.__array_interface__["data"][0]


def _output(array: Any) -> int | None:
    """Address of a new array, for a C function to write to."""
    if not isinstance(array, np.ndarray):
        return array.data_ptr()
    return ctypes.addressof(ctypes.c_char.from_buffer(array)) if array.size else None  # pyright: ignore[reportArgumentType]
