"""A continuous flow as one of torch's distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.distributions import Distribution, constraints

from .flow_batch import FlowBatch

if TYPE_CHECKING:
    from .continuous_flow import ContinuousFlow


class FlowDistribution(Distribution):
    """The distribution that a flow carries its base to, for a batch of contexts.

    Made by :meth:`pysciode.nn.ContinuousFlow.distribution`; usable wherever ``torch.distributions`` take a distribution: as
    the base of a ``TransformedDistribution``, a component of a mixture, with ``expand``. It refers to the flow, whose
    weights may go on changing.

    Parameters
    ----------
    flow
        The flow.
    context
        Shape ``(…, k)`` as for the flow; its batch is the ``batch_shape``. None for a flow without contexts.
    batch_shape
        The batch shape after `expand`.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self,
        flow: ContinuousFlow,
        context: torch.Tensor | None = None,
        batch_shape: torch.Size | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.flow = flow
        self.context = context
        if batch_shape is None:
            batch_shape = torch.Size() if context is None else FlowBatch.batch_of(context, flow.shape)
        super().__init__(batch_shape, torch.Size(flow.shape), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.flow.base.has_rsample

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: FlowDistribution | None = None) -> FlowDistribution:
        batch_shape = torch.Size(batch_shape)
        context = self.context
        if context is not None:
            context = context.expand(*batch_shape, *context.shape[len(self.batch_shape) :])
        return FlowDistribution(self.flow, context, batch_shape, self._validate_args)

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        return self.flow.sample(self._size(sample_shape), self.context)

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        return self.flow.rsample(self._size(sample_shape), self.context)

    def _size(self, sample_shape: Any) -> torch.Size:
        """The shape to ask the flow for, which adds the batch of a context itself."""
        sample_shape = torch.Size(sample_shape)
        return sample_shape if self.context is not None else sample_shape + self.batch_shape

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        if self._validate_args:
            self._validate_sample(value)
        found = self.flow.log_prob(value, self.context)
        # Without a context, the flow knows nothing of a batch that `expand` made.
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))
