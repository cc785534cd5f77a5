"""Models that stay in Python: the solver calls them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graphs.captured_model import CallbackModel
from .scalar_trace import argument_roles, call_model

if TYPE_CHECKING:
    import torch

    from ..arrays.parameters import ParameterLayout


def capture_callback(f: Callable[..., Any], layout: ParameterLayout, dtype: np.dtype | type) -> CallbackModel:
    """`f` called on NumPy arrays; it has no derivative of its own but the Jacobian ``f.jac(u, p, t)``, if there is that attribute.

    `f` gets a copy of the state, so it may keep or change it, and parameters that can't be written to.
    """
    dtype = np.dtype(dtype)
    roles = argument_roles(f)

    def call(u: np.ndarray, p: np.ndarray, t: float) -> np.ndarray:
        u = np.array(u, dtype)
        flat = np.asarray(p, dtype).view()
        flat.flags.writeable = False
        parameters = layout.unflatten(flat)
        result = call_model(f, roles, u if u.ndim else u[()], parameters, t, np.zeros(u.shape, dtype))
        return _checked(result, u.shape, dtype)

    given = getattr(f, "jac", None)
    if not callable(given):
        return CallbackModel(call, None)

    def jac(u: np.ndarray, p: np.ndarray, t: float) -> np.ndarray:
        n = u.size
        matrix: Any = given(np.array(u, dtype), layout.unflatten(np.array(p, dtype)), t)
        matrix = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype)
        if matrix.shape != (n, n):
            raise ValueError(f"the Jacobian has shape {matrix.shape}, but a state of {n} entries needs ({n}, {n})")
        return matrix

    return CallbackModel(call, None, jac)


def _checked(result: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if result is None:
        raise ValueError("the model returned None: it must return du")
    array = np.asarray(result)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"the model returned values of type {array.dtype}; they must be real numbers")
    if array.shape != shape:
        raise ValueError(f"the model returned du of shape {array.shape}, but the state has shape {shape}")
    return array.astype(dtype, copy=False)


# Two solves in two threads must not put their parameters into one module at the same time.
_substituting = threading.RLock()


def capture_torch_callback(f: Callable[..., Any], layout: ParameterLayout, u0: torch.Tensor) -> CallbackModel:
    """A torch model called on tensors, with the VJP that ``torch.autograd`` gives.

    The parameters of the modules that `f` reaches follow the leaves of `p` in the flat parameter vector; for the time of a
    call they take their values from it.
    """
    import torch

    from .torch.array_capture import discover_parameters, infer_signature

    roles = infer_signature(f)
    modules = [x for x in discover_parameters(f).values() if x.requires_grad]
    sizes = [x.numel() for x in modules]

    def run(u: torch.Tensor, p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        given = {"u": u, "p": layout.unflatten(p), "t": t}
        if "du" in roles:
            given["du"] = torch.zeros_like(u)
        out = f(*(given[role] for role in roles))
        if out is None:
            out = given.get("du")
        if isinstance(out, (list, tuple)):
            out = torch.stack([torch.as_tensor(x, dtype=u.dtype) for x in out])
        if not isinstance(out, torch.Tensor):
            raise TypeError(f"the model returned a {type(out).__name__}, not a tensor")
        if out.shape != u.shape:
            raise ValueError(f"the model returned du of shape {tuple(out.shape)}, but the state has shape {tuple(u.shape)}")
        if out.dtype != u.dtype:
            raise TypeError(f"the model returned du of {out.dtype}, but the state is {u.dtype}")
        return out

    def split(p: np.ndarray) -> tuple[torch.Tensor, list[torch.Tensor]]:
        flat = _tensor(p, u0.dtype)
        own = flat.numel() - sum(sizes)
        return flat[:own], list(flat[own:].split(sizes)) if sizes else []

    def time(t: float) -> torch.Tensor:
        return torch.tensor(t, dtype=u0.dtype)

    def call(u: np.ndarray, p: np.ndarray, t: float) -> np.ndarray:
        own, values = split(p)
        with torch.no_grad(), _Substituted(modules, values):
            return run(_tensor(u, u0.dtype).clone(), own, time(t)).numpy(force=True)

    def vjp(lam: np.ndarray, u: np.ndarray, p: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        own, values = split(p)
        with torch.enable_grad(), _Substituted(modules, values):
            u_leaf = _tensor(u, u0.dtype).clone().requires_grad_()
            p_leaf = own.clone().requires_grad_()
            out = run(u_leaf, p_leaf, time(t))
            inputs = [u_leaf, p_leaf, *modules]
            if out.requires_grad:
                bars = torch.autograd.grad(out, inputs, _tensor(lam, u0.dtype).clone(), allow_unused=True)
            else:
                bars = [None] * len(inputs)
            bars = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, bars, strict=True)]
            dp = torch.cat([g.reshape(-1) for g in bars[1:]])
        return bars[0].numpy(force=True), dp.numpy(force=True)

    return CallbackModel(call, vjp)


def _tensor(x: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """`x` as a tensor over the same memory, where it has the right type already."""
    import torch

    x = np.asarray(x)
    if not x.flags.writeable:
        x = x.copy()  # torch has no read-only tensors
    return torch.from_numpy(x).to(dtype)


class _Substituted:
    """Parameters with other values, for a while; nothing is copied."""

    def __init__(self, parameters: list[torch.Tensor], values: list[torch.Tensor]) -> None:
        self.parameters = parameters
        self.values = values

    def __enter__(self) -> None:
        _substituting.acquire()
        self.kept = [x.data for x in self.parameters]
        for x, value in zip(self.parameters, self.values, strict=True):
            x.data = value.view(x.shape)

    def __exit__(self, *error: object) -> None:
        for x, value in zip(self.parameters, self.kept, strict=True):
            x.data = value
        _substituting.release()
