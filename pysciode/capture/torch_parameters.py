"""The trainable tensors and the modules that a function reaches without being given them."""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from ..errors import CaptureError
from ..model_cache import adapter_of


def discover_parameters(f: Any) -> dict[str, torch.Tensor]:
    """The trainable tensors that `f` reaches without being given them, by name, each once.

    Looks into modules, closures, the globals that the code names, bound objects, default arguments, ``functools.partial`` and
    containers of these.  Tied parameters appear under their first name.
    """
    adapter = adapter_of(f)
    if adapter is not None:
        return dict(adapter.tensors())
    found: dict[str, torch.Tensor] = {}
    known: set[int] = set()
    for name, tensor in _reach(f, "", set(), 0):
        if id(tensor) in known:
            continue
        known.add(id(tensor))
        while name in found:
            name += "_"
        found[name] = tensor
    return found


def _reach(x: Any, prefix: str, seen: set[int], depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    def join(name: object) -> str:
        return f"{prefix}.{name}" if prefix else str(name)

    if isinstance(x, torch.Tensor):
        if _is_trainable(x):
            yield prefix or "parameter", x
        return
    if isinstance(x, (str, bytes, int, float, complex, ModuleType, type, type(None))) or id(x) in seen or depth > 8:
        return
    seen.add(id(x))
    if isinstance(x, torch.nn.Module):
        for name, parameter in x.named_parameters():
            if _is_trainable(parameter):
                yield join(name), parameter
        for module_name, module in x.named_modules():
            for name, value in vars(module).items():
                if not name.startswith("_") and not _is_recomputed(module, name):
                    inner = f"{module_name}.{name}" if module_name else name
                    yield from _reach(value, join(inner), seen, depth + 1)
    elif isinstance(x, functools.partial):
        yield from _reach(x.func, prefix, seen, depth + 1)
        for i, value in enumerate(x.args):
            yield from _reach(value, join(i), seen, depth + 1)
        for name, value in x.keywords.items():
            yield from _reach(value, join(name), seen, depth + 1)
    elif isinstance(x, MethodType):
        yield from _reach(x.__self__, prefix, seen, depth + 1)
        yield from _reach(x.__func__, prefix, seen, depth + 1)
    elif isinstance(x, FunctionType):
        for name, cell in zip(x.__code__.co_freevars, x.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # a cell that is not filled yet
                continue
            yield from _reach(value, join(name), seen, depth + 1)
        for name in _global_names(x.__code__):
            if name in x.__globals__:
                yield from _reach(x.__globals__[name], join(name), seen, depth + 1)
        for i, value in enumerate(x.__defaults__ or ()):
            yield from _reach(value, join(f"default{i}"), seen, depth + 1)
        for name, value in (x.__kwdefaults__ or {}).items():
            yield from _reach(value, join(name), seen, depth + 1)
        wrapped = getattr(x, "__wrapped__", None)
        if wrapped is not None:
            yield from _reach(wrapped, prefix, seen, depth + 1)
    elif isinstance(x, dict):
        for name, value in x.items():
            yield from _reach(value, join(name), seen, depth + 1)
    elif isinstance(x, (list, tuple, set, frozenset)):
        for i, value in enumerate(x):
            yield from _reach(value, join(i), seen, depth + 1)
    elif _module_root(x) not in _FOREIGN:
        if callable(x) and isinstance(getattr(type(x), "__call__", None), FunctionType):
            yield from _reach(type(x).__call__, prefix, seen, depth + 1)
        for name, value in getattr(x, "__dict__", {}).items():
            yield from _reach(value, join(name), seen, depth + 1)


def _is_trainable(x: torch.Tensor) -> bool:
    # Inside vmap no tensor is said to require a gradient.
    return x.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(x)


def _is_recomputed(module: torch.nn.Module, name: str) -> bool:
    """Whether a hook makes the attribute anew before each call, as pruning and the older weight and spectral norms do."""
    return f"{name}_orig" in module._parameters or f"{name}_v" in module._parameters


_FOREIGN = frozenset({"torch", "numpy", "scipy", "builtins", "sympy", "jax", "collections", "functools", "typing"})


def _module_root(x: Any) -> str:
    return (type(x).__module__ or "").partition(".")[0]


@functools.lru_cache(maxsize=1000)
def _global_names(code: CodeType) -> tuple[str, ...]:
    """The globals that `code` reads, each once, in order; co_names would hold the names of attributes, too."""
    names = [x.argval for x in dis.get_instructions(code) if x.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names += _global_names(constant)
    return tuple(dict.fromkeys(names))


def reached_modules(f: Any) -> Iterator[torch.nn.Module]:
    """Modules that `f` itself is, is bound to, closes over or names."""
    stack, seen = [f], set()
    while stack:
        x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, torch.nn.Module):
            yield from x.modules()
        elif isinstance(x, functools.partial):
            stack += [x.func, *x.args, *x.keywords.values()]
        elif isinstance(x, MethodType):
            stack += [x.__self__, x.__func__]
        elif isinstance(x, FunctionType):
            for cell in x.__closure__ or ():
                try:
                    stack.append(cell.cell_contents)
                except ValueError:
                    continue
            stack += [x.__globals__[name] for name in _global_names(x.__code__) if name in x.__globals__]
        elif isinstance(x, dict):
            stack += x.values()
        elif isinstance(x, (list, tuple)):
            stack += x


@contextmanager
def no_traces_in_modules(f: Any) -> Iterator[None]:
    """What a trace writes into attributes of modules (the weight that pruning computes, a hidden state kept for later) is a
    tensor without values: put back what was there."""
    before = [(module, dict(vars(module))) for module in reached_modules(f)]
    try:
        yield
    finally:
        for module, attributes in before:
            for name, value in list(vars(module).items()):
                if isinstance(value, FakeTensor):
                    del vars(module)[name]
                    if name in attributes:
                        vars(module)[name] = attributes[name]


def refuse_training_mode(f: Any) -> None:
    for module in reached_modules(f):
        if not module.training:
            continue
        kind = type(module).__name__
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0:
            raise CaptureError(
                f"{kind} in training mode draws random numbers: a right-hand side must be deterministic. "
                "Call .eval() on the model, or leave the dropout out",
                operation=kind,
            )
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            raise CaptureError(
                f"{kind} in training mode changes its running statistics at every evaluation, which an adaptive solver "
                "repeats as it likes. Call .eval() on the model, or use LayerNorm or GroupNorm",
                operation=kind,
            )
