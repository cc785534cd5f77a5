"""Gradient matching: slopes from smoothed data, and a loss on them that needs no solve.

Parameters that make the right-hand side match the slopes of smoothed data are found in seconds, whatever the horizon, and are
biased by the smoothing: a start for a fit through the solver, rarely its end. Neural ODEs were trained so by Roesch, Rackauckas,
Stumpf, "Collocation based training of neural ordinary differential equations" (Statistical Applications in Genetics and
Molecular Biology 20, 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from ..engines import get_engine
from ..engines.torch_rhs import torch_rhs
from ..errors import EngineUnavailable
from ..graphs.captured_model import ArrayModel, CallbackModel, JuliaModel, ScalarModel
from ..problems.base import Problem, check_problem, remake
from .diffeqflux import KERNELS, Kernel, check_smoothing, collocate_data
from .multiple_shooting import check_observed, check_times

_COMPACT = KERNELS[:7]  # those that vanish beyond the bandwidth


class Collocation(NamedTuple):
    """Smoothed data.

    Attributes
    ----------
    du, u
        Estimated derivatives and states at the times of the data, of the data's shape.
    """

    du: Any
    u: Any


def collocate(
    t: Any, u: Any, *, kernel: Kernel = "TriangularKernel", bandwidth: float | None = None, engine: str | None = None
) -> Collocation:
    """Smooth data and estimate their derivatives, by DiffEqFlux's ``collocate_data``.

    At each time a straight line is fitted to the neighbouring data for the state, and a parabola for the derivative, with
    weights that fall off with the distance: Liang, Wu, "Parameter estimation for differential equation models using a framework
    of measurement error in regression models" (J. Am. Stat. Assoc. 103, 2008), section 2.

    Parameters
    ----------
    t
        Times, shape ``(k,)``, strictly increasing.
    u
        Data, shape ``(k, ...)``, without missing values. Each entry is smoothed by itself.
    kernel
        A name of :data:`~pysciode.fitting.diffeqflux.Kernel`.
    bandwidth
        Reach of the kernel as a part of the whole time span; larger is smoother. By default
        ``k**(-1/5) * k**(-3/35) * log(k)**(-1/16)``, of Liang and Wu. On oscillations of which the span holds many this is too
        much: take about a quarter of a period.
    engine
        ``"auto"`` and ``"julia"`` are the same; None is what :func:`pysciode.set_engine` set.

    Returns
    -------
    Collocation
        The pair ``(du, u)``: tensors of the dtype of `u` where that is a tensor, without gradient, otherwise float64 arrays.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it. A bandwidth that leaves fewer than three neighbours to a point is one.
    EngineUnavailable
        Where Julia or its package DiffEqFlux is not installed: ``python -m pysciode install diffeqflux``.

    Notes
    -----
    At both ends of the data the estimates have neighbours on one side only, and derivatives are poor there: leave the first and
    last ones out of a loss.
    """
    times = check_times(t)
    if times[0] > times[-1]:
        raise ValueError("t must strictly increase")
    if len(times) < 3:
        raise ValueError("t has two times; parabolas need three")
    data = np.array(u.numpy(force=True) if isinstance(u, torch.Tensor) else u, np.float64)
    if data.ndim < 1 or len(data) != len(times):
        raise ValueError(f"u has shape {data.shape}, but there are {len(times)} times: its first axis must be time")
    if not np.isfinite(data).all():
        raise ValueError("u must be finite: leave out the times at which something is missing")
    check_smoothing(kernel, bandwidth)
    k = len(times)
    reach = float(k ** (-2 / 7) * np.log(k) ** (-1 / 16) if bandwidth is None else bandwidth)
    if kernel in _COMPACT:
        distances = np.abs(times[:, None] - times) / (times[-1] - times[0])
        if ((distances < reach).sum(1) < 3).any():
            raise ValueError(f"bandwidth = {reach:.3g} leaves fewer than three data to some times: choose a larger one")
    if get_engine(engine).name != "julia":
        raise EngineUnavailable("collocate")
    found = [x.reshape(data.shape) for x in collocate_data(data.reshape(k, -1), times, kernel, reach)]
    if isinstance(u, torch.Tensor):
        dtype = u.dtype if u.is_floating_point() else torch.float64
        found = [torch.as_tensor(x).to(dtype) for x in found]
    return Collocation(*found)


def collocation_loss(
    problem: Problem,
    t: Any,
    u: Any,
    du: Any,
    *,
    p: Any = None,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """How far the model's right-hand side at given states is from given derivatives; nothing is solved.

    Parameters
    ----------
    problem
        The model and its parameters.
    t
        Times, shape ``(k,)``.
    u, du
        States and derivatives at these times, shape ``(k, *shape of u0)``, such as `collocate` finds them.
    p
        Parameters that replace the problem's.
    loss
        ``loss(model's derivatives, du)``; by default the mean square of the difference.

    Returns
    -------
    torch.Tensor
        Without dimensions; with gradients to what the parameters of `problem` depend on, modules included.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or torch can't evaluate the model.

    Examples
    --------
    >>> du, u = collocate(t, observed)
    >>> loss = lambda model, batch: collocation_loss(problem, *batch)
    >>> train(net, loss, (t, u, du), torch.optim.Adam(net.parameters(), lr=0.01), steps=500)
    """
    check_problem(problem)
    times = check_times(t)
    states, slopes = (check_observed(x, times, problem, name) for x, name in ((u, "u"), (du, "du")))
    for name, x in (("u", states), ("du", slopes)):
        if np.isnan(x).any():
            raise ValueError(f"{name} must be finite")
    if p is not None:
        problem = remake(problem, p=p)
    states, slopes = torch.from_numpy(states), torch.from_numpy(slopes)
    found = right_hand_sides(problem, torch.as_tensor(times, dtype=states.dtype), states)
    return torch.nn.functional.mse_loss(found, slopes) if loss is None else loss(found, slopes)


def right_hand_sides(problem: Problem, t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """``f(u, p, t)`` of the captured model at many states at once, in torch.

    Parameters
    ----------
    t, u
        Shapes ``(k,)`` and ``(k, *shape of u0)``, of the problem's dtype.

    Returns
    -------
    torch.Tensor
        Shape of `u`, with gradients to `u`, to the tensors in ``problem.p`` and to parameters of modules.

    Raises
    ------
    ValueError
        For a model in Julia source, which torch can't evaluate, or one that stays in Python.
    """
    leaves = [torch.as_tensor(x, dtype=u.dtype).reshape(-1) for x in problem.leaves]
    p = torch.cat(leaves) if leaves else u.new_zeros(0)
    flat = u.reshape(len(u), -1)
    match problem.model:
        case ScalarModel():
            found = torch_rhs(problem)(flat, p, t)
        case ArrayModel():
            found = torch.vmap(torch_rhs(problem), in_dims=(0, None, 0))(flat, p, t)
        case JuliaModel():
            raise ValueError("problem is in Julia source, which can't be evaluated in torch")
        case CallbackModel():
            raise ValueError("problem stays in Python (capture='callback'): evaluate its function itself")
    return found.reshape(u.shape)
