"""Locate traced operations in the user's code, and refuse those that lose gradients."""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback
from types import FrameType
from typing import Any

import torch
import torch.fx
import torch.fx.traceback
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import CaptureError

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_TORCH = os.path.dirname(os.path.abspath(torch.__file__))

IN_PLACE = "the model changes its arguments or its constants in place; work on a copy, such as u.clone()"

# Stands in a node's stack trace, the one note that every version of torch passes on.
_WITHOUT_GRADIENT = "model without gradient"


def _getters(*properties: str) -> set[Any]:
    """What a mode sees where these properties of a tensor are read."""
    return {getattr(torch.Tensor, name).__get__ for name in properties}


_DETACHING = frozenset({torch.Tensor.detach, torch.detach, *_getters("data")})

_HOOKING = frozenset({torch.Tensor.register_hook, torch.Tensor.register_post_accumulate_grad_hook})

_HARMLESS = ("_NoopSaveInputs",)
"""Functions of torch's whose output is of no use: checkpoints without re-entry keep their inputs by this one."""


def name_of(f: Any) -> str:
    return getattr(f, "__qualname__", None) or type(f).__name__


def stops_gradient(node: torch.fx.Node) -> bool:
    """Whether the user's code made `node` where gradients stop: ``.detach()``, ``.data``, under ``torch.no_grad()``."""
    return _WITHOUT_GRADIENT in (node.meta.get("stack_trace") or "")


class SourceLines(TorchFunctionMode):
    """Notes the user's line in the metadata of the nodes that it makes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        frame = sys._getframe(1)
        while frame is not None and _ours(frame.f_code.co_filename):
            frame = frame.f_back
        if func in (torch.Tensor.detach_, torch.detach_):
            raise CaptureError("a capture does not see x.detach_(); write x = x.detach()", operation="detach_", where=_line(frame))
        if func in _HOOKING:
            raise lost_gradient("a hook on the gradient of a tensor", where=_line(frame))
        if frame is not None:
            file, number = frame.f_code.co_filename, frame.f_lineno
            line = linecache.getline(file, number).strip()
            stopped = func in _DETACHING or not torch.is_grad_enabled()
            name = _WITHOUT_GRADIENT if stopped else "model"
            torch.fx.traceback.current_meta["stack_trace"] = f'File "{file}", line {number}, in {name}\n    {line}'
        if func is torch.Tensor.__getitem__:
            args = _without_scalar_indices(*args)
        if func in _MAKING_SPARSE:
            return args[0]  # generated code has dense matrices only
        if func in _SPARSE_PRODUCTS or any(map(_is_sparse, args)) and func not in _ABOUT_SPARSE:
            func, args = _SPARSE_PRODUCTS.get(func, func), tuple(map(_dense, args))
        return func(*args, **(kwargs or {}))


_MAKING_SPARSE = frozenset({torch.Tensor.to_sparse, torch.Tensor.to_sparse_coo, torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse_csc})
_SPARSE_PRODUCTS = {torch.sparse.mm: torch.mm, torch.sparse.addmm: torch.addmm, torch.smm: torch.mm, torch.spmm: torch.mm}
_ABOUT_SPARSE = frozenset({
    *_getters("is_sparse", "is_sparse_csr", "layout", "shape", "dtype", "device", "requires_grad"), torch.Tensor.size,
    torch.Tensor.dim, torch.Tensor.coalesce, torch.Tensor.is_coalesced, torch.Tensor.indices, torch.Tensor.values,
    torch.Tensor.crow_indices, torch.Tensor.col_indices, torch.Tensor.detach, torch.Tensor._nnz,
})  # fmt: skip
# A dense matrix of more elements than this (0.8 GB) is refused.
_MOST_DENSE = 10**8


def _is_sparse(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.layout is not torch.strided


def _dense(x: Any) -> Any:
    """A sparse constant as the dense one that generated code multiplies by; anything else as it is."""
    if not _is_sparse(x):
        return x
    if x.requires_grad:
        raise CaptureError("a sparse tensor that requires a gradient is not supported; use a dense one", operation="sparse")
    if x.numel() > _MOST_DENSE:
        raise CaptureError(
            f"a sparse matrix of shape {tuple(x.shape)} becomes a dense one, which is too large; write the product as shifts "
            "of the state (torch.roll, slices) or index_add",
            operation="sparse",
        )
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        return x.to_dense()


def refuse_functions(out: torch.Tensor) -> None:
    """Refuse a result that a ``torch.autograd.Function`` takes part in: a trace holds its ``forward``, and not its ``backward``.

    Raises
    ------
    CaptureError
        Naming the function.
    """
    waiting, seen = [out.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            name = type(node).__name__.removesuffix("Backward")
            if name == "CheckpointFunction":
                raise lost_gradient("torch.utils.checkpoint with use_reentrant=True", "Pass use_reentrant=False")
            if name == "BackwardHookFunction":
                raise lost_gradient("a backward hook of a module", "Remove it")
            if name not in _HARMLESS:
                raise lost_gradient(f"the torch.autograd.Function {name.removeprefix('GeneratedBackwardFor_')}")
        waiting += [following for following, _ in node.next_functions]


def lost_gradient(what: str, instead: str = "Write it with torch's operations", where: str | None = None) -> CaptureError:
    """What to raise where the model makes a gradient that a trace does not hold."""
    return CaptureError(
        f"the model uses {what}: a capture would lose the gradient that it makes. {instead}, or leave the model in Python with "
        "capture='callback'",
        operation=what,
        where=where,
    )


def _line(frame: FrameType | None) -> str | None:
    if frame is None:
        return None
    file, number = frame.f_code.co_filename, frame.f_lineno
    return f"{os.path.basename(file)}:{number}: {linecache.getline(file, number).strip()}"


def _without_scalar_indices(x: torch.Tensor, index: Any) -> tuple[torch.Tensor, Any]:
    """`x[index]` where a tensor of one integer is no index itself: Python would ask for its value."""
    items = list(index) if isinstance(index, tuple) else [index]
    for axis, item in enumerate(items):
        if item is None or item is Ellipsis or isinstance(item, (list, bool)):
            break
        if isinstance(item, torch.Tensor):
            if item.ndim or item.dtype in (torch.bool, torch.uint8) or item.is_floating_point():
                break
            item = torch.where(item < 0, item + x.shape[axis], item)
            x = torch.index_select(x, axis, item.reshape(1))
            items[axis] = 0
    return x, tuple(items) if isinstance(index, tuple) else items[0]


class ScalarIndices(TorchFunctionMode):
    """Takes ``x[i]`` with a tensor `i` of one integer as a capture does, without asking for its value."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__:
            args = _without_scalar_indices(*args)
        return func(*args, **(kwargs or {}))


def _ours(filename: str) -> bool:
    return filename.startswith((_HERE, _TORCH)) or filename.startswith("<") and not filename.startswith("<ipython")


def user_line(node: torch.fx.Node) -> str | None:
    """``"file.py:12: the line"`` of the user's code that made `node`."""
    found = None
    for file, number, code in re.findall(r'File "(.+?)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or ""):
        if not _ours(file):
            found = f"{os.path.basename(file)}:{number}: {code.strip()}"
    return found


def explain(error: Exception, f: Any) -> Exception:
    frames = [x for x in traceback.extract_tb(error.__traceback__) if not _ours(x.filename)]
    where = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}: {frames[-1].line}" if frames else None
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = type(error).__name__
    if "GuardOnDataDependent" in kind or "data-dependent" in text:
        return CaptureError(
            "the model decides by a tensor's value (if, while, bool() or a loop over values). Use torch.where",
            where=where,
            operation="control flow",
        )
    if ".numpy()" in text or "numpy" in text.lower():
        return CaptureError("the model converts a tensor to NumPy; use torch's functions throughout", where=where, operation="numpy")
    if "leaf Variable" in text:
        return CaptureError(IN_PLACE, where=where, operation="in-place operation")
    if isinstance(error, TypeError) and "returned" in text:
        return error
    return CaptureError(f"{kind} while tracing {name_of(f)}: {text}", where=where, operation=kind)
