"""Where in the user's code a traced operation comes from, and what is said about it."""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback
from typing import Any

import torch
import torch.fx
import torch.fx.traceback
from torch.overrides import TorchFunctionMode

from ..errors import CaptureError

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_TORCH = os.path.dirname(os.path.abspath(torch.__file__))

IN_PLACE = "the model changes its arguments or its constants in place; work on a copy, such as u.clone()"

# Stands in a node's stack trace, the one note that every version of torch passes on.
_WITHOUT_GRADIENT = "model without gradient"

_DETACHING = frozenset({torch.Tensor.detach, torch.detach, torch.Tensor.data.__get__})


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
        if frame is not None:
            file, number = frame.f_code.co_filename, frame.f_lineno
            line = linecache.getline(file, number).strip()
            stopped = func in _DETACHING or not torch.is_grad_enabled()
            name = _WITHOUT_GRADIENT if stopped else "model"
            torch.fx.traceback.current_meta["stack_trace"] = f'File "{file}", line {number}, in {name}\n    {line}'
        if func is torch.Tensor.__getitem__:
            args = _without_scalar_indices(*args)
        return func(*args, **(kwargs or {}))


def _without_scalar_indices(x: torch.Tensor, index: Any) -> tuple[torch.Tensor, Any]:
    """`x[index]` where a tensor of one integer is no index itself: Python would ask for its value."""
    items = list(index) if isinstance(index, tuple) else [index]
    for axis, item in enumerate(items):
        if item is None or item is Ellipsis or isinstance(item, (list, bool)):
            break
        if isinstance(item, torch.Tensor):
            if item.ndim or item.dtype in (torch.bool, torch.uint8) or item.is_floating_point():
                break
            x = torch.index_select(x, axis, item.reshape(1))
            items[axis] = 0
    return x, tuple(items) if isinstance(index, tuple) else items[0]


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
            "the model decides by a tensor's value (if, while, bool() or a loop over values). Use torch.where", where=where,
            operation="control flow",
        )
    if ".numpy()" in text or "numpy" in text.lower():
        return CaptureError("the model converts a tensor to NumPy; use torch's functions throughout", where=where, operation="numpy")
    if "leaf Variable" in text:
        return CaptureError(IN_PLACE, where=where, operation="in-place operation")
    if isinstance(error, TypeError) and "returned" in text:
        return error
    return CaptureError(f"{kind} while tracing {name_of(f)}: {text}", where=where, operation=kind)
