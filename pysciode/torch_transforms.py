"""What torch.func's transformations (grad, vmap, jacrev, …) ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.utils._pytree as pytree

T = TypeVar("T")


def transforming() -> bool:
    """Whether a torch.func transformation is running."""
    return torch._C._are_functorch_transforms_active()


def is_wrapped(x: torch.Tensor) -> bool:
    """Whether `x` stands for another tensor inside a transformation, so that its values can't be looked at."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def captured_outside(capture: Callable[[Any, Any], T], f: Any, u0: Any, p: Any) -> T:
    """``capture(u0, p)``, outside of any transformation: a model is the same inside and out.

    Tensors of a transformation, those that `f` reaches too (``torch.func.functional_call`` puts them into modules), are stood in for by
    ones of the same shape.

    Raises
    ------
    TypeError
        If `f` reaches such a tensor where none can stand in for it, as in a tuple.
    """
    from .capture.apart import apart
    from .capture.parts import ADAPTER
    from .capture.reach import reached_by
    from .capture.torch_parameters import discover_parameters

    if not transforming():
        return apart(lambda: capture(u0, p))

    def plain(x: Any) -> Any:
        if isinstance(x, torch.Tensor) and is_wrapped(x):
            return torch.ones(tuple(x.shape), dtype=x.dtype, requires_grad=x.requires_grad)
        return x

    def work() -> T:
        adapter = vars(f).get(ADAPTER) if hasattr(f, "__dict__") else None
        with _stood_in_for(places), nullcontext() if adapter is None else adapter.looking_again():
            for name, x in discover_parameters(f).items():
                if is_wrapped(x):
                    raise TypeError(f"the model uses {name}, which is being transformed by torch.func: pass it in p")
            return capture(plain_u0, plain_p)

    places = reached_by(f).transformed  # which a thread apart, outside of the transformation, does not tell from others
    plain_u0, plain_p = plain(u0), pytree.tree_map(plain, p)
    return apart(work)


@contextmanager
def _stood_in_for(places: list[Any]) -> Iterator[None]:
    from .capture.state_changes import number_at, put_number

    replaced = [(place, number_at(place)) for place in places]
    stand_ins = {id(x): torch.nn.Parameter(torch.ones(tuple(x.shape), dtype=x.dtype)) for _, x in replaced}
    for place, x in replaced:
        put_number(place, stand_ins[id(x)])
    try:
        yield
    finally:
        for place, x in replaced:
            put_number(place, x)


def refuse_tracing(x: torch.Tensor) -> None:
    """Torch's exporters and tracers hand in tensors without values, or record what is done; a solve can't be recorded.

    Raises
    ------
    TypeError
        Naming what can be done instead.
    """
    symbolic = type(x).__name__ in ("FakeTensor", "FunctionalTensor")
    if symbolic or torch.jit.is_tracing():
        raise TypeError(
            "a solve can't be traced (torch.export, torch.jit.trace, make_fx): it runs outside of torch. torch.compile works, "
            "without fullgraph=True; to export a model, replace the solve by fixed steps"
        )
