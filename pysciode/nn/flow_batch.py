"""Samples and contexts of any batch shape, as one flat batch and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FlowBatch:
    """The samples and contexts of one solve of a flow.

    Attributes
    ----------
    x
        Samples, shape ``(batch, *event)``.
    context
        For each sample, shape ``(batch, k, *event[1:])``; None without one.
    shape
        The batch as it was given.
    """

    x: torch.Tensor
    context: torch.Tensor | None
    shape: torch.Size

    @classmethod
    def of(cls, x: torch.Tensor, context: torch.Tensor | None, event: tuple[int, ...], name: str) -> FlowBatch:
        """Broadcast the batches of `x` and `context` against each other and flatten them.

        Raises
        ------
        TypeError, ValueError
            Where `x`, called `name`, or `context` is no floating tensor, has a wrong shape, is empty or not finite.
        """
        _check_values(x, name)
        if x.ndim < len(event) or tuple(x.shape[x.ndim - len(event) :]) != event:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must end in {event}, the shape of one sample")
        shape = x.shape[: x.ndim - len(event)]
        if context is None:
            return cls(x.reshape(-1, *event), None, shape)
        of_context = cls.batch_of(context, event)
        _check_values(context, "context")
        if context.dtype != x.dtype:
            raise TypeError(f"context is {context.dtype}, but {name} is {x.dtype}: convert one of them")
        try:
            shape = torch.broadcast_shapes(shape, of_context)
        except RuntimeError:
            raise ValueError(
                f"the batch {tuple(of_context)} of context and the batch {tuple(shape)} of {name} can't be broadcast"
            ) from None
        inner = context.shape[len(of_context) :]
        return cls(x.expand(*shape, *event).reshape(-1, *event), context.expand(*shape, *inner).reshape(-1, *inner), shape)

    @staticmethod
    def batch_of(context: torch.Tensor, event: tuple[int, ...]) -> torch.Size:
        """The batch of a context, which has as many axes as a sample behind it.

        Raises
        ------
        ValueError
            If it has fewer, or others than the first differ from the sample's.
        """
        if context.ndim < len(event) or tuple(context.shape[context.ndim - len(event) + 1 :]) != event[1:]:
            raise ValueError(f"context has shape {tuple(context.shape)}; it must end in {('k', *event[1:])}")
        return context.shape[: context.ndim - len(event)]

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        return {} if self.context is None else {"context": self.context}

    def unflatten(self, x: torch.Tensor) -> torch.Tensor:
        """`x` of shape ``(…, batch, *event)`` with the batch as it was given."""
        axis = x.ndim - self.x.ndim
        return x.reshape(*x.shape[:axis], *self.shape, *x.shape[axis + 1 :])


def _check_values(x: torch.Tensor, name: str) -> None:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(x).__name__}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} is {x.dtype}; float32 and float64 are supported")
    if not x.numel():
        raise ValueError(f"{name} is empty, shape {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError(f"{name} has entries that are not finite")
