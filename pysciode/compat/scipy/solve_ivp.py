"""``solve_ivp`` with SciPy's signature, solved by SciML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import integrate

from ...engines import get_engine
from ...errors import EngineUnavailable
from ...solving.solve import solve
from .arguments import arguments_of, check_first_step, check_jacobian, limits_of, span_of, state_of
from .events import Events, events_of
from .methods import Method
from .model import Call, Calls, Form, model_of
from .result import result_of

NO_LIMIT = 2**62
"""SciPy counts no steps."""


def solve_ivp(
    fun: Callable[..., Any],
    t_span: Any,
    y0: Any,
    method: Any = "RK45",
    t_eval: Any = None,
    dense_output: bool = False,
    events: Any = None,
    vectorized: bool = False,
    args: Any = None,
    **options: Any,
) -> Any:
    """Solve ``dy/dt = fun(t, y)`` as ``scipy.integrate.solve_ivp`` does: same arguments, same result.

    Parameters
    ----------
    fun
        ``fun(t, y, *args)``, whatever its arguments are called, giving an array of y's shape. It is captured and compiled when
        it is first seen. Numbers that it reaches (`args`, closure, globals, attributes) are parameters, read anew at each call.
    t_span
        Start and end; the end may lie before the start.
    y0
        Initial state, shape ``(n,)``, real or complex; solved in float64 or complex128.
    method
        ``"RK45"``, ``"RK23"``, ``"DOP853"``, ``"Radau"``, ``"BDF"``, ``"LSODA"`` or SciPy's classes of these names, each solved
        by its relative among SciML's (:mod:`pysciode.compat.scipy.methods`); beyond SciPy, any algorithm of SciML's by its name
        or as an object (``"Rodas5P"``, ``ps.Vern9()``). A class of your own derived from ``OdeSolver`` is run by SciPy.
    t_eval
        Times to save at, sorted and within `t_span`; None saves every step.
    dense_output
        Whether the result has ``sol``, a function of time.
    events
        A function ``event(t, y, *args) -> float``, or a list of them, whose zeros are found; attributes ``terminal`` (a bool or a
        number of occurrences) and ``direction``.
    vectorized
        Whether `fun` takes states as columns of an array of shape ``(n, k)``.
    args
        A tuple of further arguments for `fun`, `events` and `jac`.
    options
        ``rtol`` (1e-3; of an array, the smallest entry), ``atol`` (1e-6), ``first_step``, ``max_step``, and where the method has
        them ``min_step``, ``jac``, ``jac_sparsity``, ``lband``, ``uband``. The Jacobian comes from the captured `fun`, so `jac`
        is only checked, and the last three say only that it is sparse. With an algorithm of SciML's, also keywords of
        :func:`pysciode.solve`.

    Returns
    -------
    scipy.integrate OdeResult
        With ``t``, ``y`` of shape ``(n, n_points)``, ``sol``, ``t_events``, ``y_events``, ``nfev``, ``njev``, ``nlu``,
        ``status``, ``message``, ``success``. A solver that gives up has status -1 and the solution so far; nothing is raised.

    Raises
    ------
    TypeError, ValueError
        Where SciPy raises them.

    Warns
    -----
    CallbackWarning
        Once for each `fun` that can't be captured (an ``if`` on the state, another library): the solver then calls Python.

    Notes
    -----
    On the embedded engine SciPy itself is called, as it is where there is nothing to integrate (no states, or no time). What
    a captured `fun` does beside computing (printing, counting its calls) happens while it is captured only.
    """
    asked = Method(method)
    engine = get_engine().name
    if engine == "embedded" and asked.scipy_name is None and asked.foreign is None:
        raise EngineUnavailable(f"method={method!r}")
    span = span_of(t_span, t_eval)
    extra = arguments_of(args)
    start = state_of(y0, asked)
    if asked.foreign is not None or engine == "embedded" or start.size == 0 or span.start == span.end:
        # Where there is nothing to integrate, any method will do.
        known = method if asked.scipy_name is not None or asked.foreign is not None else "RK45"
        if start.dtype.kind != "c" and callable(fun):
            fun = _real(fun)
        return integrate.solve_ivp(fun, t_span, y0, known, t_eval, dense_output, events, vectorized, args, **options)
    limits = limits_of(options, asked, start.size)
    banded = any(options.get(name) is not None for name in ("lband", "uband"))
    sparse = banded or options.get("jac_sparsity") is not None
    form = Form(start.size, start.dtype.kind == "c", bool(vectorized))
    jac = options.get("jac") if asked.knows("jac") and not banded else None
    model, p = model_of(fun, extra, start, span.start, form, has_jac=jac is not None)
    check_first_step(limits.dt, span)
    if asked.scipy_name != "LSODA":
        check_jacobian(jac, span.start, start, extra)
    found = Events(events_of(events), extra, start, span, lambda: form.call(fun, span.start, start.copy(), extra))
    if np.isinf(span.end) and not found.may_end:
        raise ValueError("`t_span` never ends: it needs a terminal event")
    solution = None
    if not found.end_at_start:
        dense = bool(dense_output) or found.need_dense
        keywords = {
            "saveat": None if dense else span.t_eval,
            "dense": dense,
            "rtol": limits.rtol,
            "atol": _of_parts(limits.atol) if form.is_complex else limits.atol,
            "dt": limits.dt,
            "dtmin": limits.dtmin,
            "dtmax": limits.dtmax,
            "maxiters": NO_LIMIT,
            "throw": False,
            **limits.rest,
        }
        calls = {**found.calls, model: Call(fun, extra, jac)} if model.in_python else found.calls
        with Calls(calls, span.start, span.end):
            problem = model.pose(start.view(float), (span.start, span.end), p, sparse)
            solution = solve(problem, asked.algorithm, callback=found.callbacks or None, **keywords)
            found.note(solution)
    return result_of(solution, start, span, bool(dense_output), found, events is not None)


def _real(fun: Any) -> Any:
    """`fun`, refused where it is complex."""

    def real(*args: Any) -> Any:
        result = fun(*args)
        if np.iscomplexobj(result):
            raise TypeError(
                "`fun` returned complex numbers, but `y0` is real: start from a complex one, such as y0 + 0j, or return the real part"
            )
        return result

    return real


def _of_parts(atol: Any) -> Any:
    """A tolerance for each complex entry, for its real and imaginary part."""
    return np.repeat(atol, 2) if isinstance(atol, np.ndarray) else atol
