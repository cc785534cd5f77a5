"""Graphs with complex tensors -> graphs of their real and imaginary parts, such as solvers and generated code need.

Arithmetic is torch's own (``ComplexTensor``); Fourier transforms become products with their matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
import torch.fx
import torch.fx.traceback
import torch.utils._pytree as pytree

from ...errors import CaptureError
from ...graphs.node_source import user_line
from .trace import make_graph

_SUPPORTED = find_spec("torch._subclasses.complex_tensor") is not None  # since torch 2.10
if TYPE_CHECKING or _SUPPORTED:
    from torch._subclasses.complex_tensor import ComplexTensor

aten = torch.ops.aten
_TRANSFORMS = (aten._fft_r2c.default, aten._fft_c2r.default, aten._fft_c2c.default)
LONGEST = 4096
"""A transform of n points takes n² products: of more points than this it is refused."""


def is_complex(node: torch.fx.Node) -> bool:
    return any(isinstance(x, torch.Tensor) and x.is_complex() for x in pytree.tree_leaves(node.meta.get("val")))


def in_real_parts(graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    """`graph` without complex tensors; as it is where it has none, or torch can't take them apart.

    Raises
    ------
    CaptureError
        For Fourier transforms of more than `LONGEST` points.
    """
    if not _SUPPORTED or not any(map(is_complex, graph.graph.nodes)):
        return graph
    # Made here, outside of the trace, which takes them for constants then.
    matrices, constants = {}, {}
    for node in graph.graph.nodes:
        if node.target in _TRANSFORMS:
            matrices.update(_matrices(node))
        elif node.op == "get_attr" and (x := getattr(graph, str(node.target))).is_complex():
            constants[node.target] = tuple(part.detach().clone() for part in (x.real, x.imag))

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.fx.traceback.preserve_node_meta():
            return _InRealParts(graph, matrices, constants).run(*inputs)

    return make_graph(run, inputs)


class _InRealParts(torch.fx.Interpreter):
    def __init__(self, graph: torch.fx.GraphModule, matrices: dict[tuple, torch.Tensor], constants: dict[Any, Any]) -> None:
        super().__init__(graph)
        self._matrices, self._constants = matrices, constants

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        parts = self._constants.get(target)
        return super().get_attr(target, args, kwargs) if parts is None else ComplexTensor(*parts)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in _TRANSFORMS:
            return self._transform(target, *args, **kwargs)
        made = _MADE.get(target)
        if made is not None:
            return made(*args)
        dtype = kwargs.get("dtype")
        if dtype is not None and dtype.is_complex and not isinstance(args[0], ComplexTensor):
            return _promoted(target(*args, **kwargs | {"dtype": dtype.to_real()}))
        if any(isinstance(x, (ComplexTensor, complex)) for x in args):
            if target is aten.pow.Tensor_Scalar and isinstance(args[1], int) and 1 <= args[1] <= 64:
                return math.prod([args[0]] * (args[1] - 1), start=args[0])
            # What is real is no complex number with a zero part, whose products would be made and added.
            if target in _PRODUCTS:
                x, y = args if _is_real(args[1]) or target not in _PRODUCTS[:2] else args[::-1]
                if _is_real(y) and isinstance(x, ComplexTensor):
                    return ComplexTensor(target(x.re, y), target(x.im, y))
                if _is_real(y) and isinstance(x, complex) and target in _PRODUCTS[:2]:
                    return ComplexTensor(y * x.real, y * x.imag)
            like = next(x for x in args if isinstance(x, torch.Tensor))
            args = tuple(_promoted(x, like) for x in args)
        try:
            return super().call_function(target, args, kwargs)
        except TypeError as error:
            if "returned NotImplemented" not in str(error):
                raise
            raise CaptureError(f"{target} of a complex tensor", operation=str(target)) from None

    def _transform(self, target: Any, x: Any, axes: Sequence[int], normalization: int, option: Any) -> Any:
        axes = [a % x.ndim for a in axes]
        lengths = {a: x.shape[a] for a in axes}
        if target is aten._fft_c2r.default:
            lengths[axes[-1]] = option
        scale = (1.0, math.prod(lengths.values()) ** -0.5, 1 / math.prod(lengths.values()))[normalization]
        if target is aten._fft_r2c.default:
            *axes, last = axes
            cos, sin = (self._matrices[part, lengths[last]].to(x.dtype) for part in ("cos", "sin"))
            count = lengths[last] // 2 + 1 if option else lengths[last]
            x = ComplexTensor(_along(x, cos[:, :count], last), _along(x, 0.0 - sin[:, :count], last))
        forward = target is aten._fft_r2c.default or (target is aten._fft_c2c.default and option)
        for a in axes[:-1] if target is aten._fft_c2r.default else axes:
            cos, sin = (self._matrices[part, lengths[a]].to(x.re.dtype) for part in ("cos", "sin"))
            sin = -sin if forward else sin
            x = ComplexTensor(_along(x.re, cos, a) - _along(x.im, sin, a), _along(x.im, cos, a) + _along(x.re, sin, a))
        if target is aten._fft_c2r.default:
            # The other half of the coefficients are conjugates of these.
            cos, sin = (self._matrices[part, option].to(x.re.dtype) for part in ("twice cos", "twice sin"))
            x = _along(x.re, cos, axes[-1]) - _along(x.im, sin, axes[-1])
            return x if scale == 1.0 else x * scale
        return x if scale == 1.0 else ComplexTensor(x.re * scale, x.im * scale)


_PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)
# What ComplexTensor does not know. A fresh copy is of a constant, which nothing changes.
_MADE = {
    aten.lift_fresh_copy.default: lambda x: x,
    aten.complex.default: lambda re, im: ComplexTensor(re, im),
    aten.polar.default: lambda size, angle: ComplexTensor(size * torch.cos(angle), size * torch.sin(angle)),
    aten.view_as_complex.default: lambda x: ComplexTensor(x.select(-1, 0), x.select(-1, 1)),
    aten.mv.default: lambda matrix, x: torch.mm(matrix, x.unsqueeze(1)).squeeze(1),
    aten.roll.default: lambda x, *how: ComplexTensor(x.re.roll(*how), x.im.roll(*how)) if isinstance(x, ComplexTensor) else x.roll(*how),
}


def _is_real(x: Any) -> bool:
    return isinstance(x, (int, float)) or (isinstance(x, torch.Tensor) and not x.is_complex())


def _promoted(x: Any, like: torch.Tensor | None = None) -> Any:
    """A complex tensor of a real one, or of a complex number that meets the tensor `like`; anything else as it is."""
    if isinstance(x, complex) and like is not None:
        real = like.re if isinstance(like, ComplexTensor) else like
        return ComplexTensor(torch.full_like(real, x.real), torch.full_like(real, x.imag))
    if not isinstance(x, torch.Tensor) or isinstance(x, ComplexTensor) or not x.is_floating_point():
        return x
    return ComplexTensor(x, torch.zeros_like(x))


def _along(x: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """The product of the vectors along `axis` with `matrix`."""
    x = x.movedim(axis, -1)
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[1]).movedim(-1, axis)


def _matrices(node: torch.fx.Node) -> dict[tuple, torch.Tensor]:
    """Real and imaginary parts of the transforms' matrices, by the number of points."""
    args: tuple[Any, ...] = node.args
    x, axes = args[0].meta["val"], args[1]
    lengths = {x.shape[a] for a in axes}
    halved = args[3] if node.target is aten._fft_c2r.default else None
    out = {}
    for n in lengths | ({halved} if halved else set()):
        if n > LONGEST:
            raise CaptureError(
                f"a Fourier transform of {n} points, which becomes a product with a matrix; {LONGEST} are the most",
                operation=str(node.target),
                where=user_line(node),
            )
        index = torch.arange(n)
        product = index[:, None] * index[None, :] % n
        angle = (2 * math.pi / n) * product.double()
        # The sine of pi is not zero in floating point, but a coefficient that is real must be.
        out["cos", n], out["sin", n] = torch.cos(angle), torch.where(2 * product == n, 0.0, torch.sin(angle))
    if halved:
        count = halved // 2 + 1
        weight = torch.full((count, 1), 2.0, dtype=torch.float64)
        weight[0] = 1.0
        if halved % 2 == 0:
            weight[-1] = 1.0
        for part in ("cos", "sin"):
            out[f"twice {part}", halved] = weight * out[part, halved][:count]
    return out
