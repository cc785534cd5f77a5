"""The states of torchdiffeq's users, tuples and complex tensors among them, as the one real tensor that solvers take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

HALF = (torch.bfloat16, torch.float16)


def widened(x: torch.Tensor) -> torch.Tensor:
    """A tensor of half precision as one of float32; any other as it is."""
    return x.float() if x.dtype in HALF else x


@dataclass(frozen=True, slots=True)
class Form:
    """How the user's state lies in a real tensor: its own shape for one tensor; a vector for a tuple; complex numbers get a last
    axis of real and imaginary part; half precision becomes float32.

    Attributes
    ----------
    shapes
        Shapes of the tensors of a tuple, in order; None for a tensor.
    shape
        Shape of the user's tensor, or of the tuple's vector.
    dtype
        Its dtype.
    """

    shapes: tuple[torch.Size, ...] | None
    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def of(cls, y0: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[Form, torch.Tensor]:
        """The form of a state, and the state in it."""
        if isinstance(y0, torch.Tensor):
            form = cls(None, y0.shape, y0.dtype)
        else:
            shapes = tuple(y.shape for y in y0)
            y0 = torch.cat([y.reshape(-1) for y in y0]) if y0 else torch.zeros(0)
            form = cls(shapes, y0.shape, y0.dtype)
        if form.is_half:
            return form, y0.float()
        return form, torch.view_as_real(y0) if form.is_complex else y0

    @property
    def is_complex(self) -> bool:
        return self.dtype.is_complex

    @property
    def is_half(self) -> bool:
        return self.dtype in HALF

    @property
    def is_plain(self) -> bool:
        """Whether the user's state is the real tensor itself."""
        return self.shapes is None and not self.is_complex and not self.is_half

    def joined(self, u: torch.Tensor) -> torch.Tensor:
        """The user's tensor, or the tuple's vector, of real ones with any axes in front."""
        if self.is_half:
            return u.to(self.dtype)
        return torch.view_as_complex(u.contiguous()) if self.is_complex else u

    def user(self, u: torch.Tensor) -> Any:
        """The user's state of real tensors with any axes in front."""
        return self.parts(self.joined(u))

    def parts(self, y: torch.Tensor) -> Any:
        """The user's state of the user's tensor or the tuple's vector, with any axes in front."""
        return y if self.shapes is None else split(y, self.shapes)

    def real(self, y: Any) -> torch.Tensor:
        """The real tensor of a derivative in the user's form.

        Raises
        ------
        TypeError, ValueError
            If it is nothing of the kind.
        """
        if self.shapes is not None:
            if not isinstance(y, (tuple, list)) or len(y) != len(self.shapes):
                raise TypeError(f"func must return a tuple of {len(self.shapes)} tensors, as the state is one")
            y = torch.cat([_fitting(part, shape).reshape(-1) for part, shape in zip(y, self.shapes, strict=True)])
        y = _fitting(y, self.shape)
        if y.dtype.is_complex and not self.is_complex:
            raise TypeError(
                f"func returned {y.dtype}, but the state is {self.dtype}: start from a complex y0, such as y0 + 0j, or return y.real"
            )
        if y.dtype != self.dtype:
            y = y.to(self.dtype)
        if self.is_half:
            return y.float()
        return torch.view_as_real(y) if self.is_complex else y

    def tolerance(self, tolerance: torch.Tensor) -> torch.Tensor:
        """Tolerances for the entries of the real tensor, from those of the user's."""
        whole = tolerance.expand(self.shape)
        return torch.stack([whole, whole], -1) if self.is_complex else whole


def split(y: torch.Tensor, shapes: tuple[torch.Size, ...]) -> tuple[torch.Tensor, ...]:
    """The tensors of a tuple; axes in front of the last one are kept in front of their shapes."""
    parts = y.split([shape.numel() for shape in shapes], -1)
    return tuple(part.reshape((*y.shape[:-1], *shape)) for part, shape in zip(parts, shapes, strict=True))


def _fitting(dy: Any, shape: torch.Size) -> torch.Tensor:
    if not isinstance(dy, torch.Tensor):
        raise TypeError(f"func returned a {type(dy).__name__}; the derivative must be a tensor of shape {tuple(shape)}")
    if dy.shape == shape:
        return dy
    try:
        return dy.expand(shape)
    except RuntimeError:
        raise ValueError(f"func returned shape {tuple(dy.shape)}, but the state has shape {tuple(shape)}") from None
