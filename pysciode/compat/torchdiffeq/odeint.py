"""torchdiffeq's functions, solved by SciML: a change of the import line is enough.

Signatures and semantics are those of torchdiffeq 0.2.5 (R. T. Q. Chen, https://github.com/rtqichen/torchdiffeq). What runs for
each method stands in :mod:`pysciode.compat.torchdiffeq.methods`. Where they differ:

- An error is measured by its root mean square over the whole state, of a tuple too; of tolerances as tensors the smallest
  entry of `rtol` counts for all.
- In float32, times are float32.
- `odeint` takes gradients as :func:`pysciode.default_sensealg` says: of the solver's own steps where it can go back through them, as
  torchdiffeq does, by a continuous adjoint elsewhere. The gradient of a continuous adjoint over fixed steps differs from that of the
  discrete solution by the error of the step. Gradients to times are always those of the equation, not of the grid.
- `odeint_adjoint` solves the adjoint by `GaussAdjoint`, which does not solve the states backwards: more accurate than
  torchdiffeq's on dissipative equations. Parameters are no part of the error control, so that ``"seminorm"`` is what always
  happens; ``adjoint_method`` and ``adjoint_options`` have no effect.
- A function that can't be captured is called from the solver, with one :class:`~pysciode.errors.CallbackWarning`; what only
  torchdiffeq can do (a norm of one's own, ``perturb``, hooks at steps, functions on a GPU that can't be captured) it does itself, with one
  :class:`~pysciode.errors.FallbackWarning`.

On the embedded engine torchdiffeq itself solves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from ...arrays.torch_compile import opaque
from ...engines import get_engine
from ...errors import FallbackWarning
from ...methods.adjoints import GaussAdjoint
from .errors import InputError
from .functions import Adapter, warn_handed_over, warn_once
from .inputs import check_state, check_times, not_here, tolerance
from .methods import method_of
from .solves import Adjoint, Job
from .states import Form, widened

__all__ = ["odeint", "odeint_adjoint", "odeint_event"]

State = torch.Tensor | tuple[torch.Tensor, ...]


def odeint(
    func: Callable[..., Any],
    y0: State,
    t: torch.Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: Any = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., torch.Tensor] | None = None,
) -> Any:
    """Solve ``dy/dt = func(t, y)``, ``y(t[0]) = y0``.

    Parameters
    ----------
    func
        ``func(t, y) -> dy/dt``, by position: a function, an ``nn.Module`` or anything else that can be called. `t` is a tensor
        without dimensions of the state's real dtype; `y`, and what is returned, has the form of `y0`.
    y0
        A tensor of any shape, real or complex, or a tuple of tensors.
    t
        Times, shape ``(k,)``, strictly increasing or decreasing, the first of which belongs to `y0`; may require grad.
    rtol, atol
        Relative and absolute tolerance: numbers, tensors that fit `y0`, or for a tuple one for each of its tensors.
    method
        One of torchdiffeq's names, by default ``"dopri5"``; or any of SciML's algorithms: ``"Rodas5P"``, ``ps.Rodas5P()``.
    options
        torchdiffeq's options of the method.
    event_fn
        ``event_fn(t, y)``: the solve ends where one of the values returned changes its sign; `t` holds two times then, and
        the second says only in which direction to go.

    Returns
    -------
    tensor or tuple of tensors
        Shape ``(k, *shape of y0)``, the first entry `y0`. With `event_fn` the pair of the event's time and the states at the
        start and at the event.

    Raises
    ------
    TypeError, ValueError, AssertionError
        If an argument is invalid, as torchdiffeq; most errors are both of the latter.
    SolveFailed
        If the solver gave up; also an AssertionError.
    """
    return _odeint(func, y0, t, rtol, atol, method, options, event_fn, None)


def odeint_adjoint(
    func: Callable[..., Any],
    y0: State,
    t: torch.Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: Any = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., torch.Tensor] | None = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: Any = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Iterable[torch.Tensor] | None = None,
) -> Any:
    """`odeint` with gradients by an adjoint equation, which takes less memory than backpropagation.

    Parameters
    ----------
    adjoint_rtol, adjoint_atol
        Tolerances of the adjoint solve; by default those of the forward one.
    adjoint_method, adjoint_options
        Without effect: the adjoint is solved by the same algorithm.
    adjoint_params
        The tensors that get gradients, zeros where they are not used; by default all parameters of `func`, which must be an
        ``nn.Module`` then.

    Raises
    ------
    ValueError
        If `func` is no module and `adjoint_params` is missing; if there are `options` and an `adjoint_method` without
        `adjoint_options`; for other reasons see :func:`odeint`.
    """
    settings = _Adjoint(adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options, adjoint_params)
    return _odeint(func, y0, t, rtol, atol, method, options, event_fn, settings)


class _Adjoint:
    """The arguments of `odeint_adjoint` that `odeint` lacks."""

    def __init__(self, rtol: Any, atol: Any, method: Any, options: Any, params: Any) -> None:
        self.rtol, self.atol, self.method, self.options = rtol, atol, method, options
        # A generator can be read once only.
        self.params = None if params is None else tuple(params)

    def check(self, func: Any, method: Any, options: Any) -> None:
        if self.params is None and not isinstance(func, torch.nn.Module):
            raise ValueError(
                "func must be an instance of nn.Module to specify the adjoint parameters; alternatively give them as "
                "adjoint_params, or adjoint_params=() if there are none"
            )
        if self.method is not None and self.method != method and options is not None and self.options is None:
            raise ValueError(
                "adjoint_method is not method, so adjoint_options can't be inferred from options: give adjoint_options as well"
            )

    @property
    def not_here(self) -> str | None:
        """What only torchdiffeq itself can do of what is asked for."""
        return "a norm of one's own (adjoint_options['norm'])" if callable((self.options or {}).get("norm")) else None

    def keywords(self) -> dict[str, Any]:
        """As torchdiffeq takes them."""
        return {
            "adjoint_rtol": self.rtol,
            "adjoint_atol": self.atol,
            "adjoint_method": self.method,
            "adjoint_options": self.options,
            "adjoint_params": self.params,
        }

    def on_julia(self, func: Any, method: Any) -> Adjoint:
        params = tuple(func.parameters()) if self.params is None else self.params
        if self.method is not None and self.method != method:
            said = "adjoint_method has no effect: the adjoint is solved as the states are"
            warn_once(func, "adjoint_method", FallbackWarning, said)
        reltol, abstol = (None if x is None else float(torch.as_tensor(x).min()) for x in (self.rtol, self.atol))
        sensealg = GaussAdjoint(reverse_reltol=reltol, reverse_abstol=abstol)
        return Adjoint(sensealg, tuple(x for x in params if x.requires_grad))


@opaque
def _odeint(func: Any, y0: Any, t: Any, rtol: Any, atol: Any, method: Any, options: Any, event_fn: Any, adjoint: _Adjoint | None) -> Any:
    settings = {"rtol": rtol, "atol": atol, "method": method, "options": options}
    if get_engine().name == "embedded":
        return _there(func, y0, t, settings, event_fn, adjoint)
    if adjoint is not None:
        adjoint.check(func, method, options)
    prepared = _prepared(func, y0, t, settings, event_fn, adjoint)
    if isinstance(prepared, str):
        warn_handed_over(func, prepared)
        return _there(func, y0, t, settings, event_fn, adjoint)
    job, u0 = prepared
    form, t = job.adapter.form, widened(t)
    if event_fn is not None:
        from .events import solve_to_event

        event_t, states = solve_to_event(job, u0, t, event_fn)
        return event_t, form.user(states)
    return form.user(job.states(u0, t))


def _prepared(
    func: Any, y0: Any, t: Any, settings: dict[str, Any], event_fn: Any = None, adjoint: _Adjoint | None = None
) -> tuple[Job, torch.Tensor] | str:
    """What is to be solved and the real initial state; or why Julia can't solve it."""
    check_state(y0)
    check_times(t)
    if event_fn is not None and len(t) != 2:
        raise ValueError(f"len(t) must be 2 with an event_fn, not {len(t)}")
    reason = not_here(func, y0, t)
    if reason is not None:
        return reason
    method = method_of(settings["method"], settings["options"], func, y0, t, event=event_fn is not None)
    reason = method.not_here or (adjoint.not_here if adjoint is not None else None)
    if reason is not None:
        return reason
    form, u0 = Form.of(y0)
    adapter = Adapter.of(func, form)
    rtol, atol = (tolerance(settings[name], name, form) for name in ("rtol", "atol"))
    if u0.numel():
        adapter.look(t[0].item(), u0)
        if adapter.not_here is not None:
            return adapter.not_here
        if u0.device.type != "cpu" and (adapter.in_python or method.norm is not None):
            return f"a function that stays in Python, of tensors on {u0.device}"
        rtol = rtol if isinstance(rtol, float) else float(rtol.min())
    found = None if adjoint is None else adjoint.on_julia(func, settings["method"])
    return Job(adapter, method, rtol, atol, found, get_engine()), u0


def job_of(func: Any, y0: Any, t: Any, settings: dict[str, Any]) -> tuple[Job, torch.Tensor] | None:
    """What is to be solved and the real initial state; None for what Julia can't solve."""
    prepared = _prepared(func, y0, t, settings)
    return None if isinstance(prepared, str) else prepared


def _there(func: Any, y0: Any, t: Any, settings: dict[str, Any], event_fn: Any, adjoint: _Adjoint | None) -> Any:
    """torchdiffeq's own answer."""
    from .original import ODEINT, ODEINT_ADJOINT, method_there

    settings = settings | {"method": method_there(settings["method"], settings["options"]), "event_fn": event_fn}
    if adjoint is None:
        return ODEINT(func, y0, t, **settings)
    return ODEINT_ADJOINT(func, y0, t, **settings, **adjoint.keywords())


@opaque
def odeint_event(
    func: Callable[..., Any],
    y0: State,
    t0: torch.Tensor,
    *,
    event_fn: Callable[..., torch.Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """Solve from `t0` until ``event_fn(t, y)`` changes its sign; the event's time and state are differentiable.

    Parameters
    ----------
    t0
        A tensor of one number; may require grad.
    event_fn
        Returns a tensor; the event is where the first of its entries changes its sign.
    reverse_time
        Solve towards earlier times.
    odeint_interface
        `odeint`, `odeint_adjoint`, or a function of the same signature.
    kwargs
        Passed to it.

    Returns
    -------
    tensor, tensor or tuple of tensors
        The time, without dimensions, and the states at the start and at the event, shape ``(2, *shape of y0)``.

    Notes
    -----
    With ``c(t, y)`` the function that vanishes at the event, ``dt/dy = -c_y / (c_t + c_y f)``: the implicit function theorem
    (Chen, Amos, Nickel, "Learning Neural Event Functions for Ordinary Differential Equations", ICLR 2021, arXiv:2011.03902).
    Parameters that `event_fn` uses get gradients too, which torchdiffeq leaves out.
    """
    from .events import event_with_gradient

    if get_engine().name == "embedded":
        from .original import ODEINT_EVENT

        keywords = {"reverse_time": reverse_time, "odeint_interface": odeint_interface, **kwargs}
        return ODEINT_EVENT(func, y0, t0, event_fn=event_fn, **keywords)
    if not torch.is_tensor(t0) or t0.numel() != 1:
        raise InputError(f"t0 must be a tensor of one number, not {t0!r}")
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    event_t, solution = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    return event_with_gradient(func, event_fn, start, y0, event_t, solution)
